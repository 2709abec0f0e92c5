//! The attributes of one open node, whatever its type is, reached without following anything.
//!
//! Most calls that take a descriptor refuse an `O_PATH` one; those go by `/proc/self/fd`, whose link leads to
//! exactly the node that is open.

use super::open::{Access, Opened};
use crate::operation::{FileHandle, Timestamp};
use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::{Errno, Result};

/// `system.posix_acl_access`.
pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// `system.posix_acl_default`.
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// File capabilities.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// Longest symbolic link (`PATH_MAX`, limits.h).
const TARGET_BYTES_MAX: usize = 4096;
/// First guess at the size of an attribute's value; then the longest that Linux has.
const VALUE_BYTES_GUESS: usize = 512;

impl Opened {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    pub(super) fn status(&self) -> Result<Stat> {
        rustix::fs::fstat(self.fd())
    }

    pub(super) fn handle(&self) -> Result<FileHandle> {
        super::handle::of(self.fd())
    }

    /// What a symbolic link holds.
    pub(super) fn link_target(&self) -> Result<Vec<u8>> {
        let mut target = Vec::with_capacity(TARGET_BYTES_MAX);
        rustix::fs::readlinkat_raw(self.fd(), "", spare_capacity(&mut target))?;
        target.shrink_to_fit();
        Ok(target)
    }

    pub(super) fn set_mode(&self, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        match self.access {
            Access::Path => rustix::fs::chmod(self.proc_path(), mode),
            Access::Read | Access::Write => rustix::fs::fchmod(self.fd(), mode),
        }
    }

    pub(super) fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        // To the kernel this number means "leave it", which is not what was asked.
        if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            return Err(Errno::INVAL);
        }
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(
            self.fd(),
            "",
            uid.map(Uid::from_raw),
            gid.map(Gid::from_raw),
            flags,
        )
    }

    pub(super) fn set_times(&self, atime: Option<Timestamp>, mtime: Option<Timestamp>) -> Result<()> {
        let times = Timestamps {
            last_access: timespec(atime)?,
            last_modification: timespec(mtime)?,
        };
        match self.access {
            Access::Path => rustix::fs::utimensat(self.fd(), "", &times, AtFlags::EMPTY_PATH),
            Access::Read | Access::Write => rustix::fs::futimens(self.fd(), &times),
        }
    }

    pub(super) fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        match self.access {
            Access::Path => rustix::fs::setxattr(self.proc_path(), name, value, flags),
            Access::Read | Access::Write => rustix::fs::fsetxattr(self.fd(), name, value, flags),
        }
    }

    pub(super) fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        match self.access {
            Access::Path => rustix::fs::removexattr(self.proc_path(), name),
            Access::Read | Access::Write => rustix::fs::fremovexattr(self.fd(), name),
        }
    }

    /// Removes the attribute; that it is not there, or cannot be, is as good.
    pub(super) fn clear_xattr(&self, name: &[u8]) -> Result<()> {
        // Asked first: removing what is not there still costs a transaction of the file system.
        match self.has_xattr(name) {
            Ok(true) => {}
            Ok(false) | Err(Errno::OPNOTSUPP) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        match self.remove_xattr(name) {
            Err(Errno::NODATA) => Ok(()),
            result => result,
        }
    }

    pub(super) fn has_xattr(&self, name: &[u8]) -> Result<bool> {
        match self.get_xattr(name, &mut Vec::with_capacity(1)) {
            // Too long for one byte: it is there.
            Ok(_) | Err(Errno::RANGE) => Ok(true),
            Err(Errno::NODATA) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        grow(|value| self.get_xattr(name, value))
    }

    /// The names, each with a NUL at its end.
    pub(super) fn xattr_names(&self) -> Result<Vec<u8>> {
        grow(|list| match self.access {
            Access::Path => rustix::fs::listxattr(self.proc_path(), spare_capacity(list)),
            Access::Read | Access::Write => rustix::fs::flistxattr(self.fd(), spare_capacity(list)),
        })
    }

    fn get_xattr(&self, name: &[u8], value: &mut Vec<u8>) -> Result<usize> {
        match self.access {
            Access::Path => rustix::fs::getxattr(self.proc_path(), name, spare_capacity(value)),
            Access::Read | Access::Write => rustix::fs::fgetxattr(self.fd(), name, spare_capacity(value)),
        }
    }
}

/// Fills a vector that starts small and is given the longest size that Linux allows when it does not suffice.
fn grow(mut fill: impl FnMut(&mut Vec<u8>) -> Result<usize>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(VALUE_BYTES_GUESS);
    match fill(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(Errno::RANGE) => {
            bytes = Vec::with_capacity(crate::operation::XATTR_BYTES_MAX);
            fill(&mut bytes)?;
            bytes.shrink_to_fit();
            Ok(bytes)
        }
        Err(errno) => Err(errno),
    }
}

fn timespec(time: Option<Timestamp>) -> Result<Timespec> {
    match time {
        None => Ok(Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        }),
        // Above a second lie the kernel's codes for "now" and "leave it".
        Some(time) if time.nanoseconds >= 1_000_000_000 => Err(Errno::INVAL),
        Some(time) => Ok(Timespec {
            tv_sec: time.seconds,
            tv_nsec: time.nanoseconds.into(),
        }),
    }
}

/// The status' `mtime`.
pub(super) fn mtime(status: &Stat) -> Timestamp {
    Timestamp {
        seconds: status.st_mtime,
        nanoseconds: status.st_mtime_nsec as u32,
    }
}
