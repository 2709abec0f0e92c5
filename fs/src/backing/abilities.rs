//! What a backing file system can do, found by trying it in a scratch file of our own directory.

use super::error::BackingError;
use super::inodes::lock;
use super::node::{ACL_ACCESS, mtime};
use super::open::{Access, Opened};
use super::store::{Root, Store};
use super::walk::RESERVED;
use crate::operation::{Timestamp, XATTR_BYTES_MAX};
use crate::wire::message::{Abilities, Top};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, XattrFlags};
use rustix::io::{Errno, Result};

/// Without room for this an attribute is refused for want of it, which looks the same as too long a one.
const ROOM_TO_TRY: u64 = 128 << 10;
const SCRATCH: &[u8] = b"abilities";
const PROBE: &[u8] = b"user.sidekick.probe";
/// An ACL with one named user, which no mode can say (linux/posix_acl_xattr.h).
const EXTENDED_ACL: [u8; 44] = [
    2, 0, 0, 0, // version
    0x01, 0, 6, 0, 0xFF, 0xFF, 0xFF, 0xFF, // owner
    0x02, 0, 4, 0, 1, 0, 0, 0, // user 1
    0x04, 0, 4, 0, 0xFF, 0xFF, 0xFF, 0xFF, // group
    0x10, 0, 4, 0, 0xFF, 0xFF, 0xFF, 0xFF, // mask
    0x20, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, // others
];

impl Store {
    /// Tries what directory `root`'s file system can do. Leaves the root's `mtime` as it was.
    pub fn abilities(&self, root: usize) -> std::result::Result<Abilities, BackingError> {
        let index = root;
        let root = self.root_checked(root)?;
        // Held meanwhile: there is one scratch file.
        let mut known = lock(&self.abilities);
        known.resize(self.directories(), None);
        if let Some(abilities) = known[index] {
            return Ok(abilities);
        }
        let abilities = try_all(root).map_err(|errno| BackingError::Directory {
            attempt: "try the abilities of",
            directory: root.name(),
            source: errno,
        })?;
        known[index] = Some(abilities).filter(|abilities| abilities.tried);
        Ok(abilities)
    }

    /// The attributes of directory `root` itself.
    pub fn top(&self, root: usize) -> std::result::Result<Top, BackingError> {
        let root = self.root_checked(root)?;
        let status = root.node().status().map_err(|errno| BackingError::Directory {
            attempt: "look at",
            directory: root.name(),
            source: errno,
        })?;
        Ok(Top {
            mode: status.st_mode & 0o7777,
            uid: status.st_uid,
            gid: status.st_gid,
            mtime: mtime(&status),
        })
    }

    /// Bytes that root may still write on directory `root`'s file system, reserved blocks included.
    pub fn free_bytes(&self, root: usize) -> std::result::Result<u64, BackingError> {
        let root = self.root_checked(root)?;
        match rustix::fs::fstatvfs(root.node().fd()) {
            Ok(space) => Ok(space.f_bfree.saturating_mul(space.f_frsize)),
            Err(errno) => Err(BackingError::Directory {
                attempt: "find the free space of",
                directory: root.name(),
                source: errno,
            }),
        }
    }
}

fn try_all(root: &Root) -> Result<Abilities> {
    match try_in_scratch_file(root) {
        // Not even the file, or its room.
        Err(Errno::NOSPC | Errno::DQUOT) => Ok(Abilities {
            name_bytes_max: rustix::fs::fstatvfs(root.node().fd())?.f_namemax as u32,
            xattr_bytes_max: 0,
            acl: false,
            handles: true,
            time_step_ns: 1,
            tried: false,
        }),
        result => result,
    }
}

fn try_in_scratch_file(root: &Root) -> Result<Abilities> {
    let reserved = reserved_directory(root)?;
    // A predecessor that was killed may have left it.
    match rustix::fs::unlinkat(reserved.fd(), SCRATCH, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let scratch = rustix::fs::openat(reserved.fd(), SCRATCH, flags, Mode::RUSR | Mode::WUSR)?;
    let found = try_scratch(&Opened::new(scratch, Access::Write));
    let removed = rustix::fs::unlinkat(reserved.fd(), SCRATCH, AtFlags::empty());
    found.and_then(|abilities| removed.map(|()| abilities))
}

fn try_scratch(scratch: &Opened) -> Result<Abilities> {
    match rustix::fs::fallocate(scratch.fd(), FallocateFlags::empty(), 0, ROOM_TO_TRY) {
        // Where nothing can be reserved nobody knows before; trying tells.
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(errno),
    }
    rustix::fs::ftruncate(scratch.fd(), 0)?;
    Ok(Abilities {
        name_bytes_max: rustix::fs::fstatvfs(scratch.fd())?.f_namemax as u32,
        xattr_bytes_max: xattr_bytes_max(scratch)?,
        acl: takes_acl(scratch)?,
        // Store::new refuses a directory without them.
        handles: true,
        time_step_ns: time_step_ns(scratch)?,
        tried: true,
    })
}

/// Our own directory, made when it is absent, without a trace in the root's `mtime`.
pub(super) fn reserved_directory(root: &Root) -> Result<Opened> {
    let top = root.node();
    let before = top.status()?;
    match rustix::fs::mkdirat(top.fd(), RESERVED, Mode::RWXU) {
        Ok(()) => top.set_times(None, Some(mtime(&before)))?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(top.fd(), RESERVED, flags, Mode::empty())?;
    Ok(Opened::new(directory, Access::Path))
}

/// Searches between what fits and what does not.
fn xattr_bytes_max(scratch: &Opened) -> Result<u32> {
    let value = vec![0_u8; XATTR_BYTES_MAX];
    let fits = |length: usize| match scratch.set_xattr(PROBE, &value[..length], XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::DQUOT | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    };
    let (mut taken, mut refused) = (0, XATTR_BYTES_MAX + 1);
    if fits(XATTR_BYTES_MAX)? {
        taken = XATTR_BYTES_MAX;
    }
    while refused - taken > 1 && taken < XATTR_BYTES_MAX {
        let middle = usize::midpoint(taken, refused);
        if middle <= XATTR_BYTES_MAX && fits(middle)? {
            taken = middle;
        } else {
            refused = middle;
        }
    }
    scratch.clear_xattr(PROBE)?;
    Ok(taken as u32)
}

fn takes_acl(scratch: &Opened) -> Result<bool> {
    match scratch.set_xattr(ACL_ACCESS, &EXTENDED_ACL, XattrFlags::empty()) {
        Ok(()) => scratch.has_xattr(ACL_ACCESS),
        Err(Errno::OPNOTSUPP | Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Time stamps are cut to a multiple of the step: one nanosecond before a second shows how much is cut.
fn time_step_ns(scratch: &Opened) -> Result<u32> {
    let second = 1_000_000_000;
    let last = Timestamp {
        seconds: 1_000_000_001,
        nanoseconds: second - 1,
    };
    scratch.set_times(None, Some(last))?;
    let kept = mtime(&scratch.status()?);
    // FAT keeps even seconds only.
    let whole = if kept.seconds == last.seconds {
        second
    } else {
        2 * second
    };
    Ok(whole - kept.nanoseconds)
}
