//! What can go wrong with the durable map.

use super::FORMAT;
use super::records::BadValue;
use crate::wire::message::Generation;
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Why the durable map cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {attempt} {path}: {source}")]
    System {
        /// Which step.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is not what was written.
    #[error(
        "{path} cannot be read ({problem}): what the peer lacks is unknown, so the copies will be compared completely"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Written by a newer version.
    #[error(
        "{path} has format {found}, newer than this version's {FORMAT}: what the peer lacks is unknown, so the copies will be compared completely"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Records of one line of writes for a map of another, or for none.
    #[error("{path} holds {}, not that of generation {given}", map_of(.held))]
    OtherGeneration {
        /// The file.
        path: PathBuf,
        /// Whose map it holds.
        held: Option<Generation>,
        /// Whose records they are.
        given: Generation,
    },
    /// A record that could not be read again. Nothing was written.
    #[error("{path} takes no such record: {problem}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: BadValue,
    },
    /// An earlier call failed: what the file says is known only when it has been opened again.
    #[error("{path} could not be written before; nothing more is written to it")]
    Failed {
        /// The file.
        path: PathBuf,
    },
}

fn map_of(generation: &Option<Generation>) -> String {
    match generation {
        Some(generation) => format!("the map of generation {generation}"),
        None => "no map".into(),
    }
}

/// Why a step failed, before it is known on which file.
#[derive(Debug)]
pub(super) enum Fault {
    Redb(Box<redb::Error>),
    Bad(BadValue),
    Newer(u32),
    Panic(String),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Fault::Redb(Box::new(error.into()))
    }
}

impl From<BadValue> for Fault {
    fn from(problem: BadValue) -> Self {
        Fault::Bad(problem)
    }
}

impl Fault {
    pub(super) fn of(self, attempt: &'static str, path: &Path) -> StoreError {
        let path = path.to_owned();
        let problem = match self {
            Fault::Newer(found) => return StoreError::Newer { path, found },
            Fault::Bad(problem) => problem.to_string(),
            Fault::Panic(problem) => problem,
            Fault::Redb(error) => match *error {
                redb::Error::DatabaseAlreadyOpen => return StoreError::InUse { path },
                // The latter two are what reading a file gives that is not one of redb's or is cut short.
                redb::Error::Io(source)
                    if !matches!(
                        source.kind(),
                        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                    ) =>
                {
                    return StoreError::System {
                        attempt,
                        path,
                        source,
                    };
                }
                error => error.to_string(),
            },
        };
        StoreError::Unreadable { path, problem }
    }
}

/// Runs `step`; a panic in it is an error. redb takes some damaged pages for its own mistakes and panics, and a damaged
/// file must not end this process. Whatever panicked is not used again: a [`super::MapStore`] that was being written
/// is closed, one that was being opened is not made.
pub(super) fn shielded<R>(step: impl FnOnce() -> Result<R, Fault>) -> Result<R, Fault> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| Err(Fault::Panic(words(&*panic))))
}

fn words(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<String>() {
        return text.clone();
    }
    panic
        .downcast_ref::<&str>()
        .map_or("it is damaged", |text| *text)
        .to_owned()
}
