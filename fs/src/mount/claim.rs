//! The claim on a directory: one process at a time serves it, whatever its role.
//!
//! A cover does not tell who made it, and the directory of a stopped module that is open for maintenance has none.
//! So whoever serves a directory also holds a lock (`flock(2)`) on it, which the kernel releases with the last
//! thread of a process that was killed. Locks on files inside, and those taken through the mount, are others.

use super::error::MountError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Claims `dir` for as long as the descriptor is open. Nothing of ours may be mounted over it: the lock would be
/// that mount's.
///
/// # Errors
/// [`MountError::Claimed`] when another process has it.
pub fn claim(dir: &Path) -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptor = rustix::fs::open(dir, flags, Mode::empty()).map_err(|source| MountError::Open {
        dir: dir.to_owned(),
        source: source.into(),
    })?;
    match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(descriptor),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(MountError::Claimed { dir: dir.to_owned() }),
        Err(source) => Err(MountError::Call {
            what: "lock",
            dir: dir.to_owned(),
            source: source.into(),
        }),
    }
}
