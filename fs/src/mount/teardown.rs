//! Takes a mount of ours down: gently, naming who is in the way, or at once.

use super::error::MountError;
use super::fusectl::Connection;
use super::holders;
use super::mountinfo::{self, Device, FILE_SYSTEM_TYPE};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::path::Path;
use tracing::warn;

/// Writes back what the kernel still caches, unmounts `dir` and ends the connection.
///
/// The connection is aborted as well, because a copy of the mount in another mount namespace would keep it
/// alive; nothing is lost by that, since everything was written back before.
/// # Errors
/// [`MountError::Busy`] with the holders; the mount then goes on as before.
pub fn unmount(dir: &Path, connection: &Connection) -> Result<(), MountError> {
    let number = connection.number();
    if !is_mounted(dir, number)? {
        return connection.abort();
    }
    write_back(dir);
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW) {
        Ok(()) => connection.abort(),
        Err(Errno::BUSY) => Err(MountError::Busy {
            dir: dir.to_owned(),
            holders: holders::of_mount(number),
        }),
        Err(errno) => Err(MountError::Call {
            what: "unmount",
            dir: dir.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Takes the mount away whoever uses it, and fails every request that waits. What the kernel had not written
/// back is lost.
///
/// The connection is aborted first: detaching alone can wait for a request that nobody will answer.
pub fn abort(dir: &Path, connection: &Connection) -> Result<(), MountError> {
    let aborted = connection.abort();
    let detached = detach(dir, connection.number());
    aborted.and(detached)
}

fn detach(dir: &Path, number: Device) -> Result<(), MountError> {
    if !is_mounted(dir, number)? {
        return Ok(());
    }
    rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(|source| {
        MountError::Call {
            what: "detach the mount from",
            dir: dir.to_owned(),
            source: source.into(),
        }
    })
}

/// FUSE writes all dirty pages back for `syncfs`, although it does not tell the server that it was one.
///
/// An error is reported and does not keep the mount: the pages it concerns are lost already, whether the mount
/// stays or not, as on a disk that is full or broken.
fn write_back(dir: &Path) {
    let synced = rustix::fs::open(
        dir,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(|root| rustix::fs::syncfs(&root));
    match synced {
        // Aborted or dead already: there is nobody to write back to.
        Ok(()) | Err(Errno::NOTCONN | Errno::CONNABORTED) => {}
        Err(errno) => warn!(
            dir = %dir.display(),
            %errno,
            "some cached writes could not be written back and are lost; what was not fsynced may be missing"
        ),
    }
}

/// False when somebody unmounted it already; another mount on top is in the way and counts as mounted.
fn is_mounted(dir: &Path, number: Device) -> Result<bool, MountError> {
    Ok(mountinfo::mounts()?
        .iter()
        .any(|mount| mount.point == dir && mount.kind == FILE_SYSTEM_TYPE && mount.device == number))
}
