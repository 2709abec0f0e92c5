//! Keeps what each `skfs` reports, so that an event can be looked up after it happened.

use crate::error::{Attempt, Result};
use serde::{Deserialize, Serialize};
use skfs::control::client::Client;
use skfs::control::event::Event;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// One line of a host's event log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// The mirror's directory.
    pub dir: PathBuf,
    /// What `skfs` reported.
    #[serde(flatten)]
    pub event: Event,
}

/// Name of a host's event log in its directory: one JSON object a line.
pub const LOG: &str = "events.jsonl";

/// Subscribes to an `skfs` and appends its events to `log` until it ends. Returns once subscribed.
///
/// # Errors
/// When the socket cannot be reached or the log not opened.
pub fn record(dir: PathBuf, socket: &Path, log: &Path) -> Result<()> {
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .on("open the event log", log)?;
    let events = Client::connect(socket)
        .and_then(Client::events)
        .map_err(io::Error::other)
        .on("subscribe to the events of", socket)?;
    let socket = socket.to_owned();
    std::thread::Builder::new()
        .name("events".into())
        .spawn(move || {
            // A connection that breaks is one whose skfs was killed: the log ends there.
            for event in events.map_while(std::result::Result::ok) {
                let recorded = Recorded {
                    dir: dir.clone(),
                    event,
                };
                let written = serde_json::to_string(&recorded)
                    .map_err(io::Error::from)
                    .and_then(|line| file.write_all((line + "\n").as_bytes()));
                if let Err(error) = written {
                    eprintln!("events of {} are lost: {error}", socket.display());
                    return;
                }
            }
        })
        .attempt(|| "start a thread".into())?;
    Ok(())
}

/// Everything in a log, oldest first; no log is an empty one.
///
/// # Errors
/// When it cannot be read or understood.
pub fn recorded(log: &Path) -> Result<Vec<Recorded>> {
    let text = match fs::read_to_string(log) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).on("read the event log", log),
    };
    // A line without its end is being written now.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).map_err(io::Error::from))
        .collect::<io::Result<_>>()
        .on("understand the event log", log)
}
