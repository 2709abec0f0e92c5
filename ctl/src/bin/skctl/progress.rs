//! `connect`, with a line of progress on a terminal while a copy goes on.

use skctl::progress::line;
use skfs::control::client::Client;
use skfs::control::command::{Command, Reply};
use skfs::control::status::Copy;
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
    if !io::stderr().is_terminal() {
        client.call(Command::Connect { overwrite })?;
        return Ok(());
    }
    let (done, wait) = mpsc::channel::<()>();
    let socket = socket.to_owned();
    let shower = std::thread::spawn(move || {
        let mut shown = false;
        while wait.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if let Some(copy) = look(&socket) {
                // Who does not see it loses nothing.
                let _ = write!(io::stderr(), "\r\x1b[K{}", line(&copy));
                shown = true;
            }
        }
        if shown {
            let _ = writeln!(io::stderr());
        }
    });
    let result = client.call(Command::Connect { overwrite });
    drop(done);
    // It only writes to the terminal: a panic there is nobody's loss.
    let _ = shower.join();
    result?;
    Ok(())
}

fn look(socket: &Path) -> Option<Copy> {
    let mut client = Client::connect(socket).ok()?;
    client.set_timeout(Some(STATUS_LIMIT)).ok()?;
    match client.call(Command::Status).ok()? {
        Reply::Status(status) => status.copy,
        Reply::Done => None,
    }
}
