//! Every FUSE call, in the order of the library's trait. Each is short: reads are answered here, changes are
//! planned in `names` and `data`.

use super::attributes::{self, Wanted};
use super::credentials::Caller;
use super::data::{Span, visible_xattrs, xattr_name};
use super::errno;
use super::names::Place;
use super::tree::{Entry, TTL, Tree};
use crate::backing::Sought;
use crate::config::SyncMode;
use crate::operation::{Errno, NodeKind, WRITE_BYTES_MAX};
use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use rustix::fd::AsFd;
use rustix::io::Errno as System;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Without these the semantics would be wrong, so a kernel that lacks one (before 5.11) is refused.
///
/// Not `ATOMIC_O_TRUNC`: with it `open(O_RDONLY | O_TRUNC)` of a running program reaches us, and empties it, before
/// the kernel finds that it must refuse with `ETXTBSY` (`handle_truncate`, fs/namei.c).
const REQUIRED: InitFlags = InitFlags::FUSE_DONT_MASK
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2);

/// These make it fast, or are fixes where the kernel has them. Locks are left to the kernel: neither
/// `POSIX_LOCKS` nor `FLOCK_LOCKS`.
const WANTED: InitFlags = InitFlags::FUSE_PARALLEL_DIROPS
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP)
    .union(InitFlags::FUSE_MAX_PAGES);

/// Requests that the kernel sends on its own behalf (read-ahead, write-back, asynchronous I/O) at a time.
const BACKGROUND_MAX: u16 = 64;

/// The mounted file system as the library calls it.
pub struct Files(pub Arc<Tree>);

thread_local! {
    /// Each session thread reads into a buffer of its own; it grows to the largest read.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Files {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        let missing = |flags: InitFlags| {
            io::Error::new(io::ErrorKind::Unsupported, format!("the kernel lacks {flags:?}"))
        };
        config.add_capabilities(REQUIRED).map_err(missing)?;
        config.add_capabilities(WANTED & offered).map_err(missing)?;
        if self.0.sync == SyncMode::Flush {
            config
                .add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE)
                .map_err(missing)?;
        }
        let refused =
            |value: u32| io::Error::other(format!("the FUSE library takes at most {value} bytes in a write"));
        config.set_max_write(WRITE_BYTES_MAX as u32).map_err(refused)?;
        let refused =
            |value: u16| io::Error::other(format!("the FUSE library wants {value} background requests"));
        config.set_max_background(BACKGROUND_MAX).map_err(refused)?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.look_up(parent, name) {
            Ok(entry) => reply.entry(&TTL, &entry.attributes, entry.generation),
            Err(Errno(number)) if number == System::NOENT.raw_os_error() => {
                reply.entry(&TTL, &attributes::of_nothing(), Generation(0));
            }
            Err(errno) => self.0.fail(errno, |errno| reply.error(errno::reply(errno))),
        }
    }

    fn forget(&self, _request: &Request, node: INodeNo, lookups: u64) {
        self.0.forget(&[(node, lookups)]);
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let attributes = self
            .0
            .inodes
            .inode(node)
            .and_then(|inode| self.0.attributes(inode, node));
        match attributes {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => self.0.fail(errno, |errno| reply.error(errno::reply(errno))),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let wanted = Wanted {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            by_descriptor: handle.is_some(),
        };
        self.0
            .set_attributes(&Caller::of(request), node, wanted, |result| match result {
                Ok(attributes) => reply.attr(&TTL, &attributes),
                Err(errno) => reply.error(errno::reply(errno)),
            });
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        match self
            .0
            .inodes
            .inode(node)
            .and_then(|inode| self.0.store.link_target(inode))
        {
            Ok(target) => reply.data(&target),
            Err(errno) => self.0.fail(errno, |errno| reply.error(errno::reply(errno))),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match attributes::kind(mode) {
            FileType::NamedPipe => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::CharDevice => NodeKind::CharacterDevice(u64::from(rdev)),
            FileType::BlockDevice => NodeKind::BlockDevice(u64::from(rdev)),
            FileType::RegularFile => NodeKind::File,
            FileType::Directory | FileType::Symlink => return reply.error(fuser::Errno::EINVAL),
        };
        self.0.create(
            &Caller::of(request),
            Place { parent, name },
            kind,
            mode,
            umask,
            answer_entry(reply),
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let place = Place { parent, name };
        self.0.create(
            &Caller::of(request),
            place,
            NodeKind::Directory,
            mode,
            umask,
            answer_entry(reply),
        );
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.0.unlink(Place { parent, name }, false, answer_empty(reply));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.0.unlink(Place { parent, name }, true, answer_empty(reply));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = NodeKind::Symlink(Bytes::copy_from_slice(target.as_os_str().as_bytes()));
        self.0.create(
            &Caller::of(request),
            Place { parent, name },
            kind,
            0o777,
            0,
            answer_entry(reply),
        );
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let target = Place {
            parent: new_parent,
            name: new_name,
        };
        self.0
            .rename(Place { parent, name }, target, flags, answer_empty(reply));
    }

    fn link(&self, _request: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.0.link(node, Place { parent, name }, answer_entry(reply));
    }

    fn open(&self, _request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let inode = match self.0.inodes.inode(node) {
            Ok(inode) => inode,
            Err(errno) => return self.0.fail(errno, |errno| reply.error(errno::reply(errno))),
        };
        match self.0.open(inode, flags) {
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
            Err(errno) => self.0.fail(errno, |errno| reply.error(errno::reply(errno))),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(open) = self.0.files.find(handle) else {
            return reply.error(fuser::Errno::EBADF);
        };
        let file = match self.0.readable(open) {
            Ok(file) => file,
            Err(errno) => return self.0.fail(errno, |errno| reply.error(errno::reply(errno))),
        };
        READ_BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match read_fully(&file, &mut buffer[..size], offset) {
                Ok(length) => reply.data(&buffer[..length]),
                Err(errno) => self.0.fail(errno, |errno| reply.error(errno::reply(errno))),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let caller = Caller::of(request);
        self.0
            .write(&caller, node, offset, data, write_flags, flags, |result| {
                answer_written(reply, result)
            });
    }

    /// With the first `ENOSYS` the kernel stops asking. In flush mode it must not: the kernel then also skips
    /// waiting for what it still writes back.
    fn flush(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        match self.0.sync {
            SyncMode::Write => reply.error(fuser::Errno::ENOSYS),
            // The kernel asks once everything it had to write back is answered.
            SyncMode::Flush => reply.ok(),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.0.close(handle);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.0.sync(node, data_only, answer_empty(reply));
    }

    fn opendir(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // A quarter of the bound of files: descriptors must remain for what has been answered to the secondary.
        if self.0.directories.count() >= self.0.store.kept_max() / 4 {
            return reply.error(fuser::Errno::ENFILE);
        }
        match self.0.open_listing(node) {
            Ok(listing) => reply.opened(
                self.0.directories.open(Arc::new(Mutex::new(listing))),
                FopenFlags::empty(),
            ),
            Err(errno) => self.0.fail(errno, |errno| reply.error(errno::reply(errno))),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        match self.0.directories.find(handle) {
            Some(listing) => {
                self.0.list(
                    &listing.lock().unwrap_or_else(PoisonError::into_inner),
                    offset,
                    reply,
                );
            }
            None => reply.error(fuser::Errno::EBADF),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        match self.0.directories.find(handle) {
            Some(listing) => {
                let listing = listing.lock().unwrap_or_else(PoisonError::into_inner);
                self.0.list_with_attributes(&listing, offset, reply);
            }
            None => reply.error(fuser::Errno::EBADF),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        drop(self.0.directories.close(handle));
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.0.sync(node, data_only, answer_empty(reply));
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        match self.0.store.space(self.0.root) {
            Ok(space) => {
                let left = attributes::left_on_both(&space, self.0.replicator.room_at_peer(self.0.root));
                reply.statfs(
                    space.f_blocks,
                    left.free_blocks,
                    left.available_blocks,
                    space.f_files,
                    left.free_inodes,
                    u32::try_from(space.f_bsize).unwrap_or(u32::MAX),
                    u32::try_from(space.f_namemax).unwrap_or(u32::MAX),
                    u32::try_from(space.f_frsize).unwrap_or(u32::MAX),
                );
            }
            Err(errno) => self.0.fail(errno, |errno| reply.error(errno::reply(errno))),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.0.set_xattr(
            &Caller::of(request),
            node,
            name.as_bytes(),
            value,
            flags,
            answer_empty(reply),
        );
    }

    fn getxattr(&self, _request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.0.inodes.inode(node).and_then(|inode| {
            let name = xattr_name(name.as_bytes(), System::NODATA)?;
            self.0.store.xattr(inode, &name)
        });
        self.0
            .answer(value, move |value| answer_xattr(reply, size, value));
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self
            .0
            .inodes
            .inode(node)
            .and_then(|inode| self.0.store.xattr_names(inode));
        let shown = names.map(|names| visible_xattrs(&names, request.uid()));
        self.0
            .answer(shown, move |shown| answer_xattr(reply, size, shown));
    }

    fn removexattr(&self, _request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.0.remove_xattr(node, name.as_bytes(), answer_empty(reply));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let tree = self.0.clone();
        let opened = move |made: Result<Entry, Errno>| {
            let opened = made.and_then(|entry| match tree.open(entry.inode, OpenFlags(flags)) {
                Ok(handle) => Ok((entry, handle)),
                Err(errno) => {
                    // The kernel is not told of the entry, so it will not forget it.
                    tree.forget(&[(entry.attributes.ino, 1)]);
                    Err(errno)
                }
            });
            match opened {
                Ok((entry, handle)) => {
                    let keep = FopenFlags::FOPEN_KEEP_CACHE;
                    reply.created(&TTL, &entry.attributes, entry.generation, handle, keep);
                }
                Err(errno) => tree.fail(errno, |errno| reply.error(errno::reply(errno))),
            }
        };
        let caller = Caller::of(request);
        self.0.create(
            &caller,
            Place { parent, name },
            NodeKind::File,
            mode,
            umask,
            opened,
        );
    }

    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_bytes: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    /// With the first `ENOSYS` the kernel answers by itself that files are always ready.
    fn poll(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let span = Span { node, offset, length };
        self.0
            .fallocate(&Caller::of(request), span, mode, answer_empty(reply));
    }

    fn lseek(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let sought = match whence {
            SEEK_DATA => Sought::Data,
            SEEK_HOLE => Sought::Hole,
            // The kernel works out the others.
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(fuser::Errno::ENXIO);
        };
        let inode = match self.0.inodes.inode(node) {
            Ok(inode) => inode,
            Err(errno) => return self.0.fail(errno, |errno| reply.error(errno::reply(errno))),
        };
        let tree = self.0.clone();
        let answer = move || match tree.store.seek(inode, offset, sought) {
            Ok(position) => reply.offset(position.cast_signed()),
            Err(errno) => tree.fail(errno, |errno| reply.error(errno::reply(errno))),
        };
        // The kernel does not write back first, and data in a mapped page would be taken for a hole.
        if self.0.writers.has(inode) {
            self.0.invalidator.after_write_back(node, answer);
        } else {
            answer();
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        source: INodeNo,
        _source_handle: FileHandle,
        source_offset: u64,
        target: INodeNo,
        _target_handle: FileHandle,
        target_offset: u64,
        length: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if !flags.is_empty() {
            return reply.error(fuser::Errno::EINVAL);
        }
        let span = Span {
            node: source,
            offset: source_offset,
            length,
        };
        let caller = Caller::of(request);
        self.0.copy(&caller, span, target, target_offset, |result| {
            answer_written(reply, result)
        });
    }
}

/// The kernel takes a short answer for the end of the file.
fn read_fully(file: impl AsFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut length = 0;
    while length < buffer.len() {
        match rustix::io::pread(&file, &mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(System::INTR) => {}
            Err(errno) => return Err(errno::system(errno)),
        }
    }
    Ok(length)
}

fn answer_entry(reply: ReplyEntry) -> impl FnOnce(Result<Entry, Errno>) + Send + 'static {
    |result| match result {
        Ok(entry) => reply.entry(&TTL, &entry.attributes, entry.generation),
        Err(errno) => reply.error(errno::reply(errno)),
    }
}

fn answer_empty(reply: ReplyEmpty) -> impl FnOnce(Result<(), Errno>) + Send + 'static {
    |result| match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno::reply(errno)),
    }
}

fn answer_written(reply: ReplyWrite, result: Result<u32, Errno>) {
    match result {
        Ok(length) => reply.written(length),
        Err(errno) => reply.error(errno::reply(errno)),
    }
}

/// Size 0 asks for the size only.
fn answer_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno::reply(errno)),
    }
}
