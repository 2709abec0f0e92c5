//! `connect`, with a line of progress on a terminal while a copy goes on; and that line for others.

use skctl::progress::line;
use skfs::control::client::{Client, ClientError};
use skfs::control::command::{Command, Reply};
use skfs::control::status::Status;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How often the line is written anew.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a status may take; a line that is late is left out.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// Connects and waits until the pair is in sync.
pub fn connect(mut client: Client, socket: &Path, overwrite: bool) -> anyhow::Result<()> {
    while_shown(
        socket,
        |status| status.copy.as_ref().map(line),
        || client.call(Command::Connect { overwrite }),
    )?;
    Ok(())
}

/// Makes a call that waits, and shows on a terminal what `line` makes of the status meanwhile.
pub fn while_shown(
    socket: &Path,
    line: impl Fn(Status) -> Option<String> + Send + 'static,
    call: impl FnOnce() -> Result<Reply, ClientError>,
) -> Result<Reply, ClientError> {
    if !io::stderr().is_terminal() {
        return call();
    }
    let (done, wait) = mpsc::channel::<()>();
    let socket = socket.to_owned();
    let shower = std::thread::spawn(move || {
        let mut shown = false;
        while wait.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if let Some(text) = look(&socket).and_then(&line) {
                // Who does not see it loses nothing.
                let _ = write!(io::stderr(), "\r\x1b[K{text}");
                shown = true;
            }
        }
        if shown {
            let _ = writeln!(io::stderr());
        }
    });
    let result = call();
    drop(done);
    // It only writes to the terminal: a panic there is nobody's loss.
    let _ = shower.join();
    result
}

fn look(socket: &Path) -> Option<Status> {
    let mut client = Client::connect(socket).ok()?;
    client.set_timeout(Some(STATUS_LIMIT)).ok()?;
    match client.call(Command::Status).ok()? {
        Reply::Status(status) => Some(*status),
        Reply::Done | Reply::Verification(_) | Reply::Archives(_) => None,
    }
}
