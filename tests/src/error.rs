//! What goes wrong in a lab, told so that a person knows what was attempted and what to do.

use skfs::control::client::ClientError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a lab could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused a call.
    #[error("cannot {attempt}: {source}")]
    System {
        /// What was attempted, on what.
        attempt: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The lab itself refuses: an unknown host, a lab that is not up, a step out of order.
    #[error("{0}")]
    Refused(String),
    /// A program that the lab runs ended with a failure.
    #[error("{program} failed: {output}")]
    Program {
        /// With its arguments.
        program: String,
        /// What it said.
        output: String,
    },
    /// An `skfs` could not be asked, or refused.
    #[error("skfs of {dir} on host {host}: {source}")]
    Skfs {
        /// The host.
        host: String,
        /// The mirror's directory.
        dir: PathBuf,
        /// Its answer, or why there was none.
        source: Box<ClientError>,
    },
    /// What was waited for did not come about.
    #[error("not within {waited:?}: {what}; last seen: {last}")]
    Deadline {
        /// The condition.
        what: String,
        /// How long it was waited for.
        waited: Duration,
        /// The last state seen.
        last: String,
    },
}

/// What everything in this library returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds what was attempted to an error of the system.
pub trait Attempt<T> {
    /// `attempt` completes the sentence "cannot ...".
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T>;

    /// As [`Attempt::attempt`], for what is done on a file.
    fn on(self, verb: &str, path: &Path) -> Result<T>
    where
        Self: Sized,
    {
        self.attempt(|| format!("{verb} {}", path.display()))
    }
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::System {
            attempt: attempt(),
            source: source.into(),
        })
    }
}

/// Shorthand for [`Error::Refused`].
pub fn refused<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Refused(why.into()))
}
