//! A disk image served through FUSE that loses unflushed writes when its power is cut, and whose reads can be made to
//! fail.
//!
//! One directory with one file. The loop device above turns the flushes of its file system into `fsync` of that
//! file; a write that no `fsync` followed is only held in memory.

use super::unflushed::{Cut, UnflushedWrites};
use crate::error::{Attempt, Result, refused};
use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

const IMAGE: &str = "image";
const IMAGE_INODE: INodeNo = INodeNo(2);
/// Nothing changes behind the kernel's back.
const VALID_FOR: Duration = Duration::from_secs(3600);

/// A mounted volatile image.
#[derive(Debug)]
pub struct VolatileImage {
    mount_point: PathBuf,
    power: Arc<Mutex<Power>>,
    reads_fail: Arc<AtomicBool>,
    session: BackgroundSession,
}

#[derive(Debug)]
enum Power {
    On(UnflushedWrites),
    /// Every request fails, as those to a disk without power.
    Off,
}

impl VolatileImage {
    /// Serves `image` as a file in `mount_point`, which is made.
    ///
    /// # Errors
    /// When the image cannot be opened or FUSE not mounted.
    pub fn serve(image: &Path, mount_point: &Path) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(image)
            .on("open the disk image", image)?;
        let size = file.metadata().on("read the size of", image)?.len();
        fs::create_dir_all(mount_point).on("make the directory", mount_point)?;
        let power = Arc::new(Mutex::new(Power::On(UnflushedWrites::new(file))));
        let mut config = fuser::Config::default();
        config.mount_options = vec![MountOption::FSName("lab-disk".into()), MountOption::NoAtime];
        let reads_fail = Arc::new(AtomicBool::new(false));
        let server = Server {
            size,
            power: power.clone(),
            reads_fail: reads_fail.clone(),
        };
        let session = fuser::spawn_mount(server, mount_point, &config)
            .attempt(|| format!("mount FUSE on {}", mount_point.display()))?;
        Ok(VolatileImage {
            mount_point: mount_point.to_owned(),
            power,
            reads_fail,
            session,
        })
    }

    /// From now on every read fails, until it is served anew. What the kernel has cached of the image is dropped.
    ///
    /// # Errors
    /// When the kernel keeps what it has cached.
    pub fn fail_reads(&self) -> Result<()> {
        self.reads_fail.store(true, Ordering::Release);
        let file = self.file();
        let image = File::open(&file).on("open", &file)?;
        rustix::fs::fadvise(&image, 0, None, rustix::fs::Advice::DontNeed).on("drop the cache of", &file)
    }

    /// The file that a loop device can be put on.
    pub fn file(&self) -> PathBuf {
        self.mount_point.join(IMAGE)
    }

    /// Cuts the power: a part of the unflushed writes reaches the image, everything later fails.
    ///
    /// # Errors
    /// When it is cut already, or the image cannot be written.
    pub fn cut(&self, seed: u64) -> Result<Cut> {
        match std::mem::replace(&mut *lock(&self.power), Power::Off) {
            Power::On(mut writes) => writes
                .cut(seed)
                .attempt(|| format!("write to the image behind {}", self.mount_point.display())),
            Power::Off => refused("the power is cut already"),
        }
    }

    /// Unmounts and ends the server. What was not flushed and not cut is flushed.
    ///
    /// # Errors
    /// When something still uses the file, or the image cannot be written.
    pub fn end(self) -> Result<()> {
        self.session
            .umount_and_join()
            .on("unmount the volatile image", &self.mount_point)?;
        if let Power::On(writes) = &mut *lock(&self.power) {
            writes.flush().on("write the image behind", &self.mount_point)?;
        }
        fs::remove_dir(&self.mount_point).on("remove the directory", &self.mount_point)
    }
}

/// A poisoned lock protects writes whose bookkeeping is not trusted by anything after a cut.
fn lock(power: &Mutex<Power>) -> MutexGuard<'_, Power> {
    power.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Server {
    size: u64,
    power: Arc<Mutex<Power>>,
    reads_fail: Arc<AtomicBool>,
}

impl Server {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_root = inode == INodeNo::ROOT;
        FileAttr {
            ino: inode,
            size: if is_root { 0 } else { self.size },
            blocks: if is_root { 0 } else { self.size.div_ceil(512) },
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_root {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if is_root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Server {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == IMAGE {
            reply.entry(&VALID_FOR, &self.attributes(IMAGE_INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&VALID_FOR, &self.attributes(inode));
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.reads_fail.load(Ordering::Acquire) {
            return reply.error(Errno::EIO);
        }
        let Power::On(writes) = &*lock(&self.power) else {
            return reply.error(Errno::EIO);
        };
        let length = u64::from(size).min(self.size.saturating_sub(offset));
        let mut buffer = vec![0; length as usize];
        match writes.read(offset, &mut buffer) {
            Ok(()) => reply.data(&buffer),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Power::On(writes) = &mut *lock(&self.power) else {
            return reply.error(Errno::EIO);
        };
        let fits = offset
            .checked_add(data.len() as u64)
            .is_some_and(|end| end <= self.size);
        if !fits {
            return reply.error(Errno::ENOSPC);
        }
        match writes.write(offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let Power::On(writes) = &mut *lock(&self.power) else {
            return reply.error(Errno::EIO);
        };
        match writes.flush() {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok(); // close(2) of a descriptor flushes no disk
    }
}
