//! Why a replicated directory cannot be used at all, or a copy into it cannot go on. Errors of single operations
//! are errnos.

use crate::operation;
use rustix::io::Errno;

/// A failure about a directory as a whole. `directory` is its path when that could be found out.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The module names no directory, or more than the store can number.
    #[error("{0} directories cannot be replicated by one module: name 1 to 65535")]
    Count(usize),
    /// An index beyond the directories.
    #[error("there is no directory {index}: the module has {count}, counted from 0")]
    NoSuchDirectory {
        /// Which was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The descriptor is not one of a directory.
    #[error("{directory} is not a directory: replicate a directory")]
    NotDirectory {
        /// Which.
        directory: String,
    },
    /// Its file system has no file handles, or the process may not use them.
    #[error(
        "the file system of {directory} gives no usable file handles ({source}): replicate a directory on \
         ext4, XFS or Btrfs, and run as root with CAP_DAC_READ_SEARCH"
    )]
    NoHandles {
        /// Which.
        directory: String,
        /// What the kernel said.
        source: Errno,
    },
    /// `/proc/self/fd` is needed to reach special files without following anything.
    #[error("/proc/self/fd cannot be used ({source}): mount /proc where skfs runs")]
    NoProc {
        /// What the kernel said.
        source: Errno,
    },
    /// A system call about the directory failed.
    #[error("cannot {attempt} {directory}: {source}")]
    Directory {
        /// What was tried, as "open".
        attempt: &'static str,
        /// On which.
        directory: String,
        /// What the kernel said.
        source: Errno,
    },
    /// The thread that closes big files could not be started.
    #[error("cannot start the thread that closes deleted files: {0}")]
    Thread(std::io::Error),
}

/// A step of a copy that failed: what is there now is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {attempt}: {errno}")]
pub struct CopyFailure {
    /// What was tried, and on what, as "list i7".
    pub attempt: String,
    /// What the kernel said.
    pub errno: operation::Errno,
}

impl CopyFailure {
    /// Of `attempt`.
    pub fn new(attempt: impl Into<String>, errno: impl Into<operation::Errno>) -> Self {
        CopyFailure {
            attempt: attempt.into(),
            errno: errno.into(),
        }
    }
}
