//! What can go wrong with mounts, in words a person can act on.

use super::holders::{self, Holder};
use std::io;
use std::path::PathBuf;

/// Why a mount could not be made, covered, found or taken down.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount table or another file of the kernel cannot be read.
    #[error("cannot read {path}: {source}")]
    Table {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The replicated directory cannot be opened.
    #[error("cannot open the directory {dir}: {source}; it must exist and be a directory")]
    Open {
        /// Which directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory's own file system, or a mount over the directory, is read-only.
    #[error("{dir} is read-only: uncover it, or remount its file system read-write")]
    ReadOnly {
        /// Which directory.
        dir: PathBuf,
    },
    /// `/dev/fuse` is missing or closed to us.
    #[error("cannot open /dev/fuse: {source}; is the fuse module loaded?")]
    Device {
        /// Why.
        source: io::Error,
    },
    /// A mount system call failed.
    #[error("cannot {what} {dir}: {source}")]
    Call {
        /// What was attempted, as "mount over".
        what: &'static str,
        /// On which directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel and this program did not agree on the FUSE protocol.
    #[error("the kernel's FUSE session for {dir} did not begin: {source}")]
    Handshake {
        /// Which directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A mount that was just made is not in the mount table.
    #[error("the mount over {dir} has vanished from the mount table")]
    Vanished {
        /// Which directory.
        dir: PathBuf,
    },
    /// Another process serves a mount over the directory.
    #[error("{source_name} is mounted over {dir} and some process serves it: stop that skfs first")]
    StillServed {
        /// Which directory.
        dir: PathBuf,
        /// The mount's source, as `sidekick:db`.
        source_name: String,
    },
    /// Another process serves the directory, in whatever role, or has locked it.
    #[error(
        "{dir} is locked by another process, as skfs does with what it serves; a directory belongs to one module only"
    )]
    Claimed {
        /// Which directory.
        dir: PathBuf,
    },
    /// Processes keep the mount or the directory busy.
    #[error("{dir} is in use by {}", holders::list(.holders))]
    Busy {
        /// Which directory.
        dir: PathBuf,
        /// Who; empty when the kernel says busy and nobody was found.
        holders: Vec<Holder>,
    },
    /// The kernel's control file system for FUSE cannot be used.
    #[error("cannot abort FUSE connection {connection}: {source}")]
    Abort {
        /// The minor number of the mount's device.
        connection: u32,
        /// Why.
        source: io::Error,
    },
}
