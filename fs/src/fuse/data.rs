//! Changes of content and attributes. Each becomes one operation with final values.

use super::acl;
use super::attributes::{self, MODE_BITS, SET_GID, Wanted};
use super::credentials::Caller;
use super::errno;
use super::pieces::{PIECE_BYTES, Pieces};
use super::tree::Tree;
use crate::clock;
use crate::config::SyncMode;
use crate::operation::{
    Applied, COPY_BYTES_MAX, Errno, FallocateMode, InodeId, Operation, Timestamp, XattrMode, XattrName,
};
use bytes::Bytes;
use fuser::{FileAttr, INodeNo, OpenFlags, WriteFlags};
use rustix::fs::OFlags;
use rustix::io::Errno as System;
use std::sync::Arc;

/// Marks of ours in extended attributes; the mount neither shows nor takes them.
const RESERVED_XATTRS: &[u8] = b"trusted.sidekick.";
/// Shown to root only, as on other file systems.
const TRUSTED_XATTRS: &[u8] = b"trusted.";

/// A piece of a file that some call is about.
#[derive(Clone, Copy)]
pub struct Span {
    /// The file as the kernel calls it.
    pub node: INodeNo,
    /// From, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

impl Tree {
    /// `chmod`, `chown`, `truncate`, `utimensat` and the kernel's own times.
    pub fn set_attributes(
        self: &Arc<Self>,
        caller: &Caller,
        node: INodeNo,
        wanted: Wanted,
        reply: impl FnOnce(Result<FileAttr, Errno>) + Send + 'static,
    ) {
        let planned = self
            .inodes
            .inode(node)
            .and_then(|inode| Ok((inode, self.store.status(inode)?)));
        match planned {
            Ok((inode, status)) if wanted.is_refused(&status, caller) && !self.writers.has(inode) => {
                reply(Err(errno::system(System::PERM)));
            }
            Ok((inode, status)) => {
                let attributes = wanted.resolve(&status, caller, self.sync);
                self.change(
                    node,
                    Operation::SetAttributes { inode, attributes },
                    move |tree, result| {
                        tree.answer(result.and_then(|_| tree.attributes(inode, node)), reply);
                    },
                );
            }
            Err(errno) => self.fail(errno, |errno| reply(Err(errno))),
        }
    }

    /// One write of the kernel's.
    #[expect(clippy::too_many_arguments, reason = "they are the request's fields")]
    pub fn write(
        self: &Arc<Self>,
        caller: &Caller,
        node: INodeNo,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        reply: impl FnOnce(Result<u32, Errno>) + Send + 'static,
    ) {
        if data.is_empty() {
            return reply(Ok(0));
        }
        let planned = self.inodes.inode(node).and_then(|inode| {
            let mode = if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                attributes::without_set_id(&self.store.status(inode)?, caller)
            } else {
                None
            };
            Ok((inode, mode))
        });
        let (inode, mode) = match planned {
            Ok(planned) => planned,
            Err(errno) => return self.fail(errno, |errno| reply(Err(errno))),
        };
        let write_back = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        // With a write-back cache the kernel keeps the times of what it writes later, and sets them itself.
        let time = (self.sync == SyncMode::Write || !write_back).then(clock::stamp);
        let sync = direct_sync(inode, flags).filter(|_| !write_back);
        let tree = self.clone();
        let reply = move |result: Result<u32, Errno>| match (result, sync) {
            (Ok(written), Some(sync)) => tree
                .replicator
                .submit(sync, move |result| reply(result.map(|_| written))),
            (result, _) => reply(result),
        };
        let pieces = Arc::new(Pieces::new(data.len().div_ceil(PIECE_BYTES), !write_back, reply));
        for (index, piece) in data.chunks(PIECE_BYTES).enumerate() {
            let operation = Operation::Write {
                inode,
                offset: offset + (index * PIECE_BYTES) as u64,
                data: Bytes::copy_from_slice(piece),
                time,
                mode: mode.filter(|_| index == 0),
            };
            let (length, pieces) = (piece.len() as u32, pieces.clone());
            self.change(node, operation, move |_, result| {
                pieces.ended(index, result.map(|_| length));
            });
        }
    }

    /// `fallocate(2)`.
    pub fn fallocate(
        self: &Arc<Self>,
        caller: &Caller,
        span: Span,
        mode: i32,
        reply: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let planned = fallocate_mode(mode).and_then(|mode| {
            if span.length == 0 {
                return Err(errno::system(System::INVAL));
            }
            let inode = self.inodes.inode(span.node)?;
            Ok(Operation::Fallocate {
                inode,
                mode,
                offset: span.offset,
                length: span.length,
                time: self.time_of_change(),
                set_mode: self.mode_after_change(inode, caller)?,
            })
        });
        match planned {
            Ok(operation) => self.change(span.node, operation, |_, result| reply(result.map(drop))),
            Err(errno) => self.fail(errno, |errno| reply(Err(errno))),
        }
    }

    /// `copy_file_range(2)`: at most what one operation may copy, and at most to the source's end.
    pub fn copy(
        self: &Arc<Self>,
        caller: &Caller,
        source: Span,
        target: INodeNo,
        target_offset: u64,
        reply: impl FnOnce(Result<u32, Errno>) + Send + 'static,
    ) {
        let planned = self.inodes.inode(source.node).and_then(|from| {
            let inode = self.inodes.inode(target)?;
            let left = self
                .store
                .status(from)?
                .st_size
                .cast_unsigned()
                .saturating_sub(source.offset);
            Ok(Operation::CopyRange {
                source: from,
                source_offset: source.offset,
                target: inode,
                target_offset,
                length: source.length.min(left).min(COPY_BYTES_MAX),
                time: self.time_of_change(),
                set_mode: self.mode_after_change(inode, caller)?,
            })
        });
        match planned {
            Ok(Operation::CopyRange { length: 0, .. }) => reply(Ok(0)),
            Ok(operation) => self.change(target, operation, |_, result| {
                reply(result.map(|applied| applied.length as u32));
            }),
            Err(errno) => self.fail(errno, |errno| reply(Err(errno))),
        }
    }

    /// `setxattr(2)`, ACLs included.
    pub fn set_xattr(
        self: &Arc<Self>,
        caller: &Caller,
        node: INodeNo,
        name: &[u8],
        value: &[u8],
        flags: i32,
        reply: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let planned = xattr_name(name, System::PERM).and_then(|xattr| {
            let inode = self.inodes.inode(node)?;
            let set_mode = if name == acl::ACCESS {
                self.mode_after_acl(inode, value, caller)?
            } else {
                None
            };
            Ok(Operation::SetXattr {
                inode,
                name: xattr,
                value: Bytes::copy_from_slice(value),
                mode: xattr_mode(flags)?,
                set_mode,
            })
        });
        match planned {
            Ok(operation) => self.change(node, operation, |_, result| reply(result.map(drop))),
            Err(errno) => self.fail(errno, |errno| reply(Err(errno))),
        }
    }

    /// `removexattr(2)`.
    pub fn remove_xattr(
        self: &Arc<Self>,
        node: INodeNo,
        name: &[u8],
        reply: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let planned = xattr_name(name, System::NODATA).and_then(|name| {
            Ok(Operation::RemoveXattr {
                inode: self.inodes.inode(node)?,
                name,
            })
        });
        match planned {
            Ok(operation) => self.change(node, operation, |_, result| reply(result.map(drop))),
            Err(errno) => self.fail(errno, |errno| reply(Err(errno))),
        }
    }

    /// `fsync(2)` and `fdatasync(2)` of files and directories.
    pub fn sync(
        self: &Arc<Self>,
        node: INodeNo,
        data_only: bool,
        reply: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        match self.inodes.inode(node) {
            Ok(inode) => {
                self.replicator
                    .submit(Operation::Sync { inode, data_only }, |result| {
                        reply(result.map(drop))
                    });
            }
            Err(errno) => self.fail(errno, |errno| reply(Err(errno))),
        }
    }

    /// Submits a change of `node`; when it fails, the kernel drops what it had cached of it, after `reply`.
    fn change(
        self: &Arc<Self>,
        node: INodeNo,
        operation: Operation,
        reply: impl FnOnce(&Tree, Result<Applied, Errno>) + Send + 'static,
    ) {
        let tree = self.clone();
        self.replicator.submit(operation, move |result| {
            let failed = result.is_err();
            reply(&tree, result);
            if failed {
                tree.invalidator.inode(node);
            }
        });
    }

    fn time_of_change(&self) -> Option<Timestamp> {
        (self.sync == SyncMode::Write).then(clock::stamp)
    }

    /// The kernel says only for writes whether the caller may keep set-id bits.
    fn mode_after_change(&self, inode: InodeId, caller: &Caller) -> Result<Option<u32>, Errno> {
        if caller.keeps_set_id() {
            return Ok(None);
        }
        Ok(attributes::without_set_id(&self.store.status(inode)?, caller))
    }

    /// Setting an ACL from outside the file's group costs setgid (`posix_acl_update_mode()`, fs/posix_acl.c);
    /// the backing file system would not see it, because this process has every capability.
    fn mode_after_acl(&self, inode: InodeId, value: &[u8], caller: &Caller) -> Result<Option<u32>, Errno> {
        let status = self.store.status(inode)?;
        if status.st_mode & SET_GID == 0 || caller.in_group_or_capable(status.st_gid) {
            return Ok(None);
        }
        let bits = acl::permission_bits(value).ok_or(errno::system(System::INVAL))?;
        Ok(Some((status.st_mode & MODE_BITS & !SET_GID & !0o777) | bits))
    }
}

/// The `Sync` that must follow a write before it is answered. The kernel sends an `FSYNC` of its own after each
/// `O_SYNC` or `O_DSYNC` write, except after asynchronous direct ones (`fuse_aio_complete()`, fs/fuse/file.c),
/// which cannot be told from other direct ones.
fn direct_sync(inode: InodeId, flags: OpenFlags) -> Option<Operation> {
    /// fcntl.h; `O_SYNC` is this bit and another one.
    const O_DSYNC: i32 = 0o10000;
    let flag = |wanted: OFlags| flags.0 & wanted.bits().cast_signed() == wanted.bits().cast_signed();
    let data_only = !flag(OFlags::SYNC);
    (flag(OFlags::DIRECT) && flags.0 & O_DSYNC != 0).then_some(Operation::Sync { inode, data_only })
}

/// The modes that FUSE carries (`fuse_file_fallocate()`, fs/fuse/file.c).
fn fallocate_mode(mode: i32) -> Result<FallocateMode, Errno> {
    const KEEP_SIZE: i32 = 0x01;
    const PUNCH_HOLE: i32 = 0x02;
    const ZERO_RANGE: i32 = 0x10;
    const PUNCH: i32 = PUNCH_HOLE | KEEP_SIZE;
    const ZERO_KEEP: i32 = ZERO_RANGE | KEEP_SIZE;
    match mode {
        0 => Ok(FallocateMode::Allocate),
        KEEP_SIZE => Ok(FallocateMode::AllocateKeepSize),
        PUNCH => Ok(FallocateMode::PunchHole),
        ZERO_RANGE => Ok(FallocateMode::ZeroRange),
        ZERO_KEEP => Ok(FallocateMode::ZeroRangeKeepSize),
        _ => Err(errno::system(System::OPNOTSUPP)),
    }
}

/// The name of an attribute, unless it is reserved.
pub fn xattr_name(name: &[u8], reserved: System) -> Result<XattrName, Errno> {
    if name.starts_with(RESERVED_XATTRS) {
        return Err(errno::system(reserved));
    }
    // Longer or empty ones do not come through the VFS: setxattr(2) gives ERANGE.
    XattrName::new(name).map_err(|_| errno::system(System::RANGE))
}

/// The names of a NUL-separated list that user `uid` may see.
pub fn visible_xattrs(list: &[u8], uid: u32) -> Vec<u8> {
    list.split_inclusive(|byte| *byte == 0)
        .filter(|name| !name.starts_with(RESERVED_XATTRS) && (uid == 0 || !name.starts_with(TRUSTED_XATTRS)))
        .flatten()
        .copied()
        .collect()
}

fn xattr_mode(flags: i32) -> Result<XattrMode, Errno> {
    const XATTR_CREATE: i32 = 1;
    const XATTR_REPLACE: i32 = 2;
    match flags {
        0 => Ok(XattrMode::Set),
        XATTR_CREATE => Ok(XattrMode::Create),
        XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(errno::system(System::INVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusted_attributes_are_for_root_and_ours_are_for_nobody() {
        let list = b"user.a\0trusted.b\0trusted.sidekick.state\0security.c\0";
        assert_eq!(visible_xattrs(list, 0), b"user.a\0trusted.b\0security.c\0");
        assert_eq!(visible_xattrs(list, 1000), b"user.a\0security.c\0");
    }
}
