//! `connect`, with a line of progress on a terminal while a copy goes on.

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

/// Progress in one line.
pub fn line(copy: &Copy) -> String {
    let count = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
    let done = copy.bytes_sent.unwrap_or(0) + copy.bytes_skipped.unwrap_or(0);
    let mut text = format!(
        "copying {}: {} of {} files, {} of {} ({} sent)",
        copy.step.as_deref().unwrap_or(""),
        count(copy.files_done),
        count(copy.files_total),
        bytes(done),
        copy.bytes_total.map_or_else(|| "?".to_owned(), bytes),
        bytes(copy.bytes_sent.unwrap_or(0)),
    );
    if let Some(rate) = copy.rate_bytes_per_second {
        text += &format!(", {}/s", bytes(rate as u64));
    }
    if let Some(seconds) = copy.eta_seconds {
        text += &format!(", {} left", duration(seconds));
    }
    if copy.paused {
        text += ", paused";
    }
    if let Some(interrupted) = &copy.interrupted {
        text += &format!(", begun anew ({interrupted})");
    }
    text
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_it_is() {
        let copy = Copy {
            files_total: Some(20),
            files_done: Some(5),
            bytes_total: Some(3 << 30),
            bytes_sent: Some(1 << 30),
            bytes_skipped: Some(512 << 20),
            rate_bytes_per_second: Some(200.0 * 1024.0 * 1024.0),
            eta_seconds: Some(75.4),
            current: None,
            step: Some("files".into()),
            paused: false,
            limit_bytes_per_second: None,
            interrupted: None,
        };
        assert_eq!(
            line(&copy),
            "copying files: 5 of 20 files, 1.5 GiB of 3.0 GiB (1.0 GiB sent), 200.0 MiB/s, 1 min 15 s left"
        );
    }
}
