//! The floor's file system: every call goes to the backing directory; writes and `fsync` go to the peer first.

use super::nodes::{Nodes, ROOT};
use super::wire::{self, Header, Kind};
use fuser::{
    FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nobody else changes the directory.
const TTL: Duration = Duration::from_secs(3600);
/// As Sidekick's mount asks for.
const WRITE_BYTES_MAX: u32 = wire::DATA_BYTES_MAX as u32;
/// As Sidekick's mount asks for.
const BACKGROUND_MAX: u16 = 64;

thread_local! {
    /// Each session thread has a connection of its own, so that it never waits for another one's answer.
    static CONNECTION: RefCell<Option<TcpStream>> = const { RefCell::new(None) };
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The file system.
pub struct Files {
    nodes: Nodes,
    open: Handles<File>,
    listings: Handles<Vec<Listed>>,
    peer: SocketAddr,
}

struct Listed {
    inode: u64,
    kind: FileType,
    name: OsString,
}

impl Files {
    /// Of a backing directory and a peer.
    pub fn new(backing: OwnedFd, peer: SocketAddr) -> Self {
        Files {
            nodes: Nodes::new(backing),
            open: Handles::default(),
            listings: Handles::default(),
            peer,
        }
    }

    /// Sends a request, does `meanwhile`, and waits for the peer's answer. A broken connection is an error: this
    /// yardstick goes on after none.
    fn at_peer(
        &self,
        header: Header,
        data: &[u8],
        meanwhile: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        CONNECTION.with_borrow_mut(|connection| {
            if connection.is_none() {
                let stream = TcpStream::connect(self.peer)?;
                stream.set_nodelay(true)?;
                *connection = Some(stream);
            }
            let Some(stream) = connection else {
                return Err(io::Error::other("the connection made above is gone"));
            };
            wire::send(stream, header, data)?;
            let here = meanwhile();
            wire::wait(stream)?;
            here
        })
    }

    fn entry(&self, parent: u64, name: &OsStr) -> io::Result<FileAttr> {
        let directory = self.nodes.find(parent)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
        let status = rustix::fs::fstat(&found)?;
        self.nodes.looked_up(status.st_ino, found);
        Ok(attributes(&status, status.st_ino))
    }

    fn attributes(&self, inode: u64) -> io::Result<FileAttr> {
        let found = self.nodes.find(inode)?;
        Ok(attributes(&rustix::fs::fstat(&found)?, inode))
    }

    fn reopen(&self, inode: u64, flags: OFlags) -> io::Result<OwnedFd> {
        let found = self.nodes.find(inode)?;
        Ok(rustix::fs::open(
            proc_path(&found),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    /// Gives a new entry to whoever asked for it.
    fn own(&self, request: &Request, parent: u64, name: &OsStr) -> io::Result<()> {
        if request.uid() == 0 && request.gid() == 0 {
            return Ok(());
        }
        let directory = self.nodes.find(parent)?;
        let (user, group) = (Uid::from_raw(request.uid()), Gid::from_raw(request.gid()));
        rustix::fs::chownat(
            &directory,
            name,
            Some(user),
            Some(group),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    }

    fn make(
        &self,
        request: &Request,
        parent: u64,
        name: &OsStr,
        make: impl FnOnce(&OwnedFd) -> rustix::io::Result<()>,
    ) -> io::Result<FileAttr> {
        make(&*self.nodes.find(parent)?)?;
        self.own(request, parent, name)?;
        self.entry(parent, name)
    }

    fn set(&self, inode: u64, change: &Change) -> io::Result<FileAttr> {
        let found = self.nodes.find(inode)?;
        let path = proc_path(&found);
        if let Some(mode) = change.mode {
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode))?;
        }
        if change.user.is_some() || change.group.is_some() {
            let (user, group) = (change.user.map(Uid::from_raw), change.group.map(Gid::from_raw));
            rustix::fs::chownat(&*found, "", user, group, AtFlags::EMPTY_PATH)?;
        }
        if let Some(size) = change.size {
            rustix::fs::ftruncate(self.reopen(inode, OFlags::WRONLY)?, size)?;
        }
        if change.accessed.is_some() || change.modified.is_some() {
            let times = Timestamps {
                last_access: timespec(change.accessed),
                last_modification: timespec(change.modified),
            };
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty())?;
        }
        Ok(attributes(&rustix::fs::fstat(&found)?, inode))
    }

    fn list(&self, inode: u64) -> io::Result<Vec<Listed>> {
        let directory = self.reopen(inode, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::Dir::new(directory)?
            .map(|entry| {
                let entry = entry?;
                Ok(Listed {
                    inode: entry.ino(),
                    kind: kind(entry.file_type()),
                    name: OsString::from_vec(entry.file_name().to_bytes().to_vec()),
                })
            })
            .collect()
    }
}

struct Change {
    mode: Option<u32>,
    user: Option<u32>,
    group: Option<u32>,
    size: Option<u64>,
    accessed: Option<TimeOrNow>,
    modified: Option<TimeOrNow>,
}

impl Filesystem for Files {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_MAX_PAGES;
        let refused = |what: String| io::Error::new(io::ErrorKind::Unsupported, what);
        config
            .add_capabilities(wanted & config.capabilities())
            .map_err(|flags| refused(format!("the kernel lacks {flags:?}")))?;
        config
            .set_max_write(WRITE_BYTES_MAX)
            .map_err(|most| refused(format!("a write has at most {most} bytes")))?;
        config
            .set_max_background(BACKGROUND_MAX)
            .map_err(|most| refused(format!("at most {most} background requests")))?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(self.entry(parent.0, name), reply);
    }

    fn forget(&self, _request: &Request, inode: INodeNo, lookups: u64) {
        self.nodes.forget(inode.0, lookups);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(self.attributes(inode.0), reply);
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode,
            user,
            group,
            size,
            accessed,
            modified,
        };
        answer_attributes(self.set(inode.0, &change), reply);
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        let target = self
            .nodes
            .find(inode.0)
            .and_then(|found| Ok(rustix::fs::readlinkat(&*found, "", Vec::new())?));
        match target {
            Ok(target) => reply.data(target.to_bytes()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.make(request, parent.0, name, |directory| {
            rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(mode))
        });
        answer_entry(made, reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self
            .nodes
            .find(parent.0)
            .and_then(|found| Ok(rustix::fs::unlinkat(&*found, name, AtFlags::empty())?));
        answer_empty(removed, reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self
            .nodes
            .find(parent.0)
            .and_then(|found| Ok(rustix::fs::unlinkat(&*found, name, AtFlags::REMOVEDIR)?));
        answer_empty(removed, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let made = self.make(request, parent.0, name, |directory| {
            rustix::fs::symlinkat(target, directory, name)
        });
        answer_entry(made, reply);
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
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let renamed = self.nodes.find(parent.0).and_then(|from| {
            let to = self.nodes.find(new_parent.0)?;
            Ok(rustix::fs::renameat_with(&*from, name, &*to, new_name, flags)?)
        });
        answer_empty(renamed, reply);
    }

    fn link(&self, _request: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.nodes.find(inode.0).and_then(|found| {
            let directory = self.nodes.find(parent.0)?;
            rustix::fs::linkat(
                rustix::fs::CWD,
                proc_path(&found),
                &*directory,
                name,
                AtFlags::SYMLINK_FOLLOW,
            )?;
            self.entry(parent.0, name)
        });
        answer_entry(linked, reply);
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.reopen(inode.0, backing_flags(flags.0)) {
            Ok(file) => reply.opened(self.open.add(file.into()), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.nodes.find(parent.0).and_then(|directory| {
            let flags = backing_flags(flags) | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::openat(&*directory, name, flags, Mode::from_raw_mode(mode))?;
            self.own(request, parent.0, name)?;
            Ok((File::from(file), self.entry(parent.0, name)?))
        });
        match made {
            Ok((file, attributes)) => {
                let handle = self.open.add(file);
                reply.created(
                    &TTL,
                    &attributes,
                    Generation(0),
                    handle,
                    FopenFlags::FOPEN_KEEP_CACHE,
                );
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.open.find(handle) else {
            return reply.error(fuser::Errno::EBADF);
        };
        READ_BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match read_fully(&file, &mut buffer[..size], offset) {
                Ok(length) => reply.data(&buffer[..length]),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(file) = self.open.find(handle) else {
            return reply.error(fuser::Errno::EBADF);
        };
        let header = Header {
            kind: Kind::Write,
            inode: inode.0,
            offset,
            length: data.len(),
        };
        let written = self
            .at_peer(header, data, || Ok(()))
            .and_then(|()| file.write_all_at(data, offset));
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error.into()),
        }
    }

    /// With the first `ENOSYS` the kernel stops asking.
    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.open.remove(handle);
        reply.ok();
    }

    /// Both disks at the same time.
    fn fsync(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let Some(file) = self.open.find(handle) else {
            return reply.error(fuser::Errno::EBADF);
        };
        let header = Header {
            kind: Kind::Fsync,
            inode: inode.0,
            offset: 0,
            length: 0,
        };
        let synced = self.at_peer(header, &[], || match data_only {
            true => file.sync_data(),
            false => file.sync_all(),
        });
        answer_empty(synced, reply);
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.list(inode.0) {
            Ok(listing) => reply.opened(self.listings.add(listing), FopenFlags::empty()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(listing) = self.listings.find(handle) else {
            return reply.error(fuser::Errno::EBADF);
        };
        for (place, entry) in listing.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(entry.inode), place as u64 + 1, entry.kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.remove(handle);
        reply.ok();
    }

    /// Names are not replicated: the directory here is all there is.
    fn fsyncdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let synced = self
            .reopen(inode.0, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|directory| Ok(rustix::fs::fsync(directory)?));
        answer_empty(synced, reply);
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let space = self
            .nodes
            .find(ROOT)
            .and_then(|root| Ok(rustix::fs::fstatvfs(&*root)?));
        match space {
            Ok(space) => reply.statfs(
                space.f_blocks,
                space.f_bfree,
                space.f_bavail,
                space.f_files,
                space.f_ffree,
                space.f_bsize as u32,
                space.f_namemax as u32,
                space.f_frsize as u32,
            ),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(file) = self.open.find(handle) else {
            return reply.error(fuser::Errno::EBADF);
        };
        let mode = rustix::fs::FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let done = rustix::fs::fallocate(file.as_fd(), mode, offset, length);
        answer_empty(done.map_err(io::Error::from), reply);
    }
}

/// Open things by number.
struct Handles<T> {
    open: RwLock<HashMap<u64, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Handles {
            open: RwLock::new(HashMap::new()),
            next: AtomicU64::new(1),
        }
    }
}

impl<T> Handles<T> {
    fn add(&self, value: T) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(number, Arc::new(value));
        FileHandle(number)
    }

    fn find(&self, handle: FileHandle) -> Option<Arc<T>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&handle.0).cloned()
    }

    fn remove(&self, handle: FileHandle) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.remove(&handle.0);
    }
}

fn proc_path(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

/// The kernel appends, truncates and synchronises by requests of their own.
fn backing_flags(flags: i32) -> OFlags {
    let flags = OFlags::from_bits_retain(flags.cast_unsigned());
    flags & (OFlags::ACCMODE | OFlags::EXCL)
}

fn read_fully(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn attributes(status: &Stat, number: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: status.st_size.cast_unsigned(),
        blocks: status.st_blocks.cast_unsigned(),
        atime: time(status.st_atime, status.st_atime_nsec),
        mtime: time(status.st_mtime, status.st_mtime_nsec),
        ctime: time(status.st_ctime, status.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind(rustix::fs::FileType::from_raw_mode(status.st_mode)),
        perm: (status.st_mode & 0o7777) as u16,
        nlink: u32::try_from(status.st_nlink).unwrap_or(u32::MAX),
        uid: status.st_uid,
        gid: status.st_gid,
        rdev: status.st_rdev as u32,
        blksize: u32::try_from(status.st_blksize).unwrap_or(0),
        flags: 0,
    }
}

fn kind(raw: rustix::fs::FileType) -> FileType {
    use rustix::fs::FileType as Raw;
    match raw {
        Raw::Directory => FileType::Directory,
        Raw::Symlink => FileType::Symlink,
        Raw::Fifo => FileType::NamedPipe,
        Raw::Socket => FileType::Socket,
        Raw::CharacterDevice => FileType::CharDevice,
        Raw::BlockDevice => FileType::BlockDevice,
        Raw::RegularFile | Raw::Unknown => FileType::RegularFile,
    }
}

/// Files of the benchmark are of today.
fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> SystemTime {
    UNIX_EPOCH
        + Duration::new(
            seconds.max(0).cast_unsigned(),
            nanoseconds.try_into().unwrap_or(0),
        )
}

fn timespec(wanted: Option<TimeOrNow>) -> Timespec {
    let (seconds, nanoseconds) = match wanted {
        None => (0, UTIME_OMIT),
        Some(TimeOrNow::Now) => (0, UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            (since.as_secs().cast_signed(), since.subsec_nanos().into())
        }
    };
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    }
}

fn answer_entry(result: io::Result<FileAttr>, reply: ReplyEntry) {
    match result {
        Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
        Err(error) => reply.error(error.into()),
    }
}

fn answer_attributes(result: io::Result<FileAttr>, reply: ReplyAttr) {
    match result {
        Ok(attributes) => reply.attr(&TTL, &attributes),
        Err(error) => reply.error(error.into()),
    }
}

fn answer_empty(result: io::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}
