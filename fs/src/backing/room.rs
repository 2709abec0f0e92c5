//! Whether this node has room for what the other one had none for.
//!
//! Found out without changing any content: blocks are reserved where the data will go, and what concerns names
//! and attributes is tried on scratch nodes in our own directory.

use super::abilities::reserved_directory;
use super::open::{Access, Opened};
use super::store::{Root, Store, Unopened};
use crate::operation::{Attributes, Errno as OurErrno, FallocateMode, InodeId, Operation};
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::{Errno, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes the names of scratch directories different.
static SCRATCH: AtomicU64 = AtomicU64::new(0);

impl Store {
    /// The errno with which `operation` would fail here for want of room: `ENOSPC`, `EDQUOT` or `E2BIG`.
    ///
    /// `None` when there is room, or when that could not be found out. Blocks that were reserved stay so, in
    /// holes of the file and beyond its end, where no reader sees them: the operation takes them next.
    pub fn lacks_room(&self, operation: &Operation) -> Option<OurErrno> {
        let tried = match operation {
            Operation::Write {
                inode, offset, data, ..
            } => self.reserve(*inode, *offset, data.len() as u64),
            Operation::CopyRange {
                target,
                target_offset,
                length,
                ..
            } => self.reserve(*target, *target_offset, *length),
            Operation::Fallocate {
                inode,
                mode,
                offset,
                length,
                ..
            } if *mode != FallocateMode::PunchHole => self.reserve(*inode, *offset, *length),
            Operation::SetXattr {
                inode, name, value, ..
            } => self.try_xattr(*inode, name.as_bytes(), value),
            Operation::Create(create) => self.try_name(create.parent, true),
            Operation::Link { parent, .. } => self.try_name(*parent, false),
            Operation::Rename(rename) => self.try_name(rename.target_parent, false),
            Operation::SetAttributes {
                inode,
                attributes: Attributes { size: Some(size), .. },
            } => self.reserve(*inode, *size, 1),
            Operation::SetAttributes { .. }
            | Operation::Fallocate { .. }
            | Operation::Bind { .. }
            | Operation::Unlink(_)
            | Operation::RemoveXattr { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => Ok(()),
        };
        match tried {
            Err(Unopened::Refused(errno)) if is_room(errno) => Some(errno),
            Err(Unopened::Refused(_) | Unopened::NotBound(_)) | Ok(()) => None,
        }
    }

    /// What this node's file system cannot do to any file: sizes beyond its limit (`EFBIG`), kinds of allocation or
    /// attributes that it does not know (`EOPNOTSUPP`). Tried on a scratch file.
    pub(super) fn beyond_limits(&self, operation: &Operation) -> Option<OurErrno> {
        let tried = match operation {
            Operation::Write {
                inode, offset, data, ..
            } => self.try_size(*inode, *offset, data.len() as u64),
            Operation::CopyRange {
                target,
                target_offset,
                length,
                ..
            } => self.try_size(*target, *target_offset, *length),
            Operation::SetAttributes { inode, attributes } => match attributes.size {
                Some(size) => self.try_size(*inode, size, 0),
                None => Ok(()),
            },
            Operation::Fallocate {
                inode,
                mode,
                offset,
                length,
                ..
            } => self
                .try_size(*inode, *offset, *length)
                .and_then(|()| self.try_allocation(*inode, *mode)),
            Operation::SetXattr {
                inode, name, value, ..
            } => self.try_xattr(*inode, name.as_bytes(), value),
            Operation::Bind { .. }
            | Operation::Create(_)
            | Operation::Link { .. }
            | Operation::Unlink(_)
            | Operation::Rename(_)
            | Operation::RemoveXattr { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => Ok(()),
        };
        match tried {
            Err(Unopened::Refused(errno)) if !is_room(errno) => Some(errno),
            Err(Unopened::Refused(_) | Unopened::NotBound(_)) | Ok(()) => None,
        }
    }

    fn try_size(&self, inode: InodeId, offset: u64, length: u64) -> std::result::Result<(), Unopened> {
        let root = self.root(self.root_of(inode)?);
        let end = offset.saturating_add(length);
        Ok(with_scratch(root, false, |scratch| {
            rustix::fs::ftruncate(scratch.fd(), end)
        })?)
    }

    fn try_allocation(&self, inode: InodeId, mode: FallocateMode) -> std::result::Result<(), Unopened> {
        let root = self.root(self.root_of(inode)?);
        let flags = super::data::fallocate_flags(mode);
        Ok(with_scratch(root, false, |scratch| {
            rustix::fs::fallocate(scratch.fd(), flags, 0, 1)
        })?)
    }

    fn reserve(&self, inode: InodeId, offset: u64, length: u64) -> std::result::Result<(), Unopened> {
        let file = self.open(inode, Access::Write)?;
        let before = file.status()?;
        let result = rustix::fs::fallocate(file.fd(), FallocateFlags::KEEP_SIZE, offset, length);
        file.set_times(None, Some(super::node::mtime(&before)))?;
        Ok(result?)
    }

    /// Sets the attribute on a scratch node that has all other attributes of the inode: what an inode can hold
    /// together is limited too.
    fn try_xattr(&self, inode: InodeId, name: &[u8], value: &[u8]) -> std::result::Result<(), Unopened> {
        let node = self.open(inode, Access::Path)?;
        let root = self.root(self.root_of(inode)?);
        let directory = FileType::from_raw_mode(node.status()?.st_mode) == FileType::Directory;
        let result = with_scratch(root, directory, |scratch| {
            for other in node.xattr_names()?.split(|byte| *byte == 0) {
                if !other.is_empty() && other != name {
                    scratch.set_xattr(other, &node.xattr(other)?, XattrFlags::empty())?;
                }
            }
            scratch.set_xattr(name, value, XattrFlags::empty())
        });
        Ok(result?)
    }

    /// Makes a directory, which takes an inode and a block. A name alone takes at most a block.
    fn try_name(&self, parent: InodeId, inode: bool) -> std::result::Result<(), Unopened> {
        let root = self.root(self.root_of(parent)?);
        let space = rustix::fs::fstatvfs(root.node().fd())?;
        if !inode && space.f_ffree == 0 {
            return if space.f_bfree == 0 {
                Err(Errno::NOSPC.into())
            } else {
                Ok(())
            };
        }
        Ok(with_scratch(root, true, |_| Ok(()))?)
    }
}

/// No room, as opposed to any other reason. The one list of it.
pub(super) fn is_room(errno: OurErrno) -> bool {
    [Errno::NOSPC, Errno::DQUOT, Errno::TOOBIG]
        .map(OurErrno::from)
        .contains(&errno)
}

/// Gives `attempt` a nameless file or a directory that is removed afterwards.
fn with_scratch(root: &Root, directory: bool, attempt: impl FnOnce(&Opened) -> Result<()>) -> Result<()> {
    let reserved = reserved_directory(root)?;
    if !directory {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(reserved.fd(), ".", flags, Mode::RUSR | Mode::WUSR)?;
        return attempt(&Opened::new(file, Access::Write));
    }
    let process = std::process::id();
    let name = format!("room-{process}-{}", SCRATCH.fetch_add(1, Ordering::Relaxed));
    rustix::fs::mkdirat(reserved.fd(), &name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let result = rustix::fs::openat(reserved.fd(), &name, flags, Mode::empty())
        .and_then(|opened| attempt(&Opened::new(opened, Access::Read)));
    let removed = rustix::fs::unlinkat(reserved.fd(), &name, AtFlags::REMOVEDIR);
    result.and(removed)
}
