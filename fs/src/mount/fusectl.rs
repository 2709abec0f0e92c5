//! The kernel's control files for FUSE connections: ends a connection whose mount may live on elsewhere.

use super::error::MountError;
use super::mountinfo::Device;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::os::fd::OwnedFd;

/// One FUSE connection, held by its control file.
///
/// To be opened while the mount is there: device numbers are used again, and a file opened by number after the
/// unmount could be that of somebody else's new mount. The kernel makes the file of a connection that is gone do
/// nothing (`fuse_ctl_file_conn_get`, fs/fuse/control.c).
#[derive(Debug)]
pub struct Connection {
    number: Device,
    file: Result<OwnedFd, Errno>,
}

impl Connection {
    /// The connection of the mount with this device number.
    ///
    /// The control file system is opened through a mount that is attached nowhere, so it need not be mounted at
    /// `/sys/fs/fuse/connections`, and nothing is left behind. Where it cannot be opened, only [`Self::abort`] fails.
    pub fn of(number: Device) -> Self {
        let open = || -> rustix::io::Result<OwnedFd> {
            let control = open_control()?;
            let path = format!("{}/abort", number.minor);
            rustix::fs::openat(&control, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        };
        Connection { number, file: open() }
    }

    /// The mount's device number.
    pub fn number(&self) -> Device {
        self.number
    }

    /// Ends it: every request that waits or comes gets `ECONNABORTED` or `ENOTCONN`, and the process that serves
    /// it reads `ENODEV`. A connection that is gone already is fine.
    pub fn abort(&self) -> Result<(), MountError> {
        let written = match &self.file {
            Ok(file) => rustix::io::write(file, b"1").map(drop),
            Err(errno) => Err(*errno),
        };
        written.map_err(|errno| MountError::Abort {
            connection: self.number.minor,
            source: errno.into(),
        })
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
