//! The kernel's control files for FUSE connections: ends a connection whose mount may live on elsewhere.

use super::error::MountError;
use super::mountinfo::Device;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::os::fd::OwnedFd;

/// Aborts the connection of the FUSE mount with this device number: every request that waits or comes gets
/// `ECONNABORTED` or `ENOTCONN`, and the process that serves it reads `ENODEV`. A connection that is gone
/// already is fine.
///
/// The control file system is opened through a mount that is attached nowhere, so it need not be mounted at
/// `/sys/fs/fuse/connections`, and nothing is left behind.
pub fn abort(number: Device) -> Result<(), MountError> {
    let write = || -> rustix::io::Result<()> {
        let control = open_control()?;
        let path = format!("{}/abort", number.minor);
        let file = rustix::fs::openat(&control, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, b"1")?;
        Ok(())
    };
    match write() {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(MountError::Abort {
            connection: number.minor,
            source: errno.into(),
        }),
    }
}

fn open_control() -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(c"fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_NOSUID,
    )
}
