//! What is asked of the backing files without changing them.

use super::marker::is_own;
use super::open::Access;
use super::store::Store;
use super::walk::is_reserved;
use crate::operation::{Errno, InodeId, XattrName};
use crate::wire::message::Room;
use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, RawDir, SeekFrom, StatVfs};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

/// What one `getdents64` fills.
const LISTING_BYTES: usize = 32 << 10;

/// What `lseek(2)` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

impl Store {
    /// Up to `length` bytes from `offset`; fewer only at the end of the file.
    pub fn read(&self, inode: InodeId, offset: u64, length: usize) -> Result<Bytes, Errno> {
        let file = self.file(inode, Access::Read)?;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = offset + bytes.len() as u64;
            match rustix::io::pread(&file, spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        bytes.truncate(length);
        Ok(bytes.into())
    }

    /// What a symbolic link holds.
    pub fn link_target(&self, inode: InodeId) -> Result<Vec<u8>, Errno> {
        Ok(self.open(inode, Access::Path)?.link_target()?)
    }

    /// An extended attribute's value; `ENODATA` when there is none, and for our own.
    pub fn xattr(&self, inode: InodeId, name: &XattrName) -> Result<Vec<u8>, Errno> {
        if is_own(self.is_root(inode), name.as_bytes()) {
            return Err(rustix::io::Errno::NODATA.into());
        }
        let node = self.open(inode, Access::Path)?;
        Ok(node.xattr(name.as_bytes())?)
    }

    /// The names of the extended attributes but our own as `listxattr(2)` gives them: each with a NUL at its end.
    pub fn xattr_names(&self, inode: InodeId) -> Result<Vec<u8>, Errno> {
        let mut names = self.open(inode, Access::Path)?.xattr_names()?;
        if self.is_root(inode) {
            let shown = names
                .split_inclusive(|byte| *byte == 0)
                .filter(|name| !is_own(true, name));
            names = shown.flatten().copied().collect();
        }
        Ok(names)
    }

    /// The next data or hole at or after `offset`; `ENXIO` beyond the end.
    pub fn seek(&self, inode: InodeId, offset: u64, sought: Sought) -> Result<u64, Errno> {
        let file = self.file(inode, Access::Read)?;
        // The position of a shared descriptor belongs to nobody: every read and write names its own.
        let position = match sought {
            Sought::Data => SeekFrom::Data(offset),
            Sought::Hole => SeekFrom::Hole(offset),
        };
        Ok(rustix::fs::seek(&file, position)?)
    }

    /// Size and free space of the file system that holds `inode`.
    pub fn space(&self, inode: InodeId) -> Result<StatVfs, Errno> {
        let node = self.open(inode, Access::Path)?;
        Ok(rustix::fs::fstatvfs(node.fd())?)
    }

    /// What is free on the file system that holds `inode`.
    pub fn room(&self, inode: InodeId) -> Result<Room, Errno> {
        let space = self.space(inode)?;
        Ok(Room {
            free_bytes: space.f_bfree.saturating_mul(space.f_frsize),
            available_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            free_inodes: space.f_ffree,
        })
    }

    /// Opens a directory for listing. The listing has a descriptor of its own, closed with it.
    pub fn open_directory(&self, inode: InodeId) -> Result<Directory, Errno> {
        let path = self.open(inode, Access::Path)?;
        let descriptor = super::open::open_directory(&path.descriptor)?;
        Ok(Directory::over(descriptor, self.is_root(inode)))
    }
}

/// One open listing.
#[derive(Debug)]
pub struct Directory {
    descriptor: OwnedFd,
    is_root: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where the caller stands: before the first of `ahead`.
    position: u64,
    /// Entries that the kernel gave and no caller took yet. One `getdents64` gives many more than a FUSE reply
    /// holds, and going back costs the file system more than going on.
    ahead: VecDeque<Ahead>,
}

#[derive(Debug)]
struct Ahead {
    name: Box<[u8]>,
    ino: u64,
    kind: FileType,
    next: u64,
}

/// One entry of a listing; `.` and `..` are among them, the reserved directory is not.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The backing inode's number.
    pub ino: u64,
    /// Its type, as the listing says it.
    pub kind: FileType,
    /// Where the listing goes on after it: an offset for [`Directory::read`].
    pub next: u64,
}

impl Directory {
    /// Over a readable descriptor of its own.
    pub(super) fn over(descriptor: OwnedFd, is_root: bool) -> Self {
        Directory {
            descriptor,
            is_root,
            state: Mutex::new(State {
                position: 0,
                ahead: VecDeque::new(),
            }),
        }
    }

    /// Gives the entries from `offset` on (0, or an [`Entry::next`]) until the end or until `take` breaks; the
    /// entry it breaks at counts as not taken. An offset stays good while the directory changes: entries that
    /// were there all the time come exactly once.
    pub fn read(&self, offset: u64, mut take: impl FnMut(Entry<'_>) -> ControlFlow<()>) -> Result<(), Errno> {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // From the start always means anew, as rewinddir(3) does.
        if state.position != offset || offset == 0 {
            state.ahead.clear();
            rustix::fs::seek(&self.descriptor, SeekFrom::Start(offset))?;
            state.position = offset;
        }
        loop {
            while let Some(entry) = state.ahead.front() {
                let taken = take(Entry {
                    name: &entry.name,
                    ino: entry.ino,
                    kind: entry.kind,
                    next: entry.next,
                });
                if taken.is_break() {
                    return Ok(());
                }
                state.position = entry.next;
                state.ahead.pop_front();
            }
            if !self.read_ahead(state)? {
                return Ok(());
            }
        }
    }

    /// One `getdents64`; false at the end of the directory.
    fn read_ahead(&self, state: &mut State) -> Result<bool, Errno> {
        let mut buffer = Vec::with_capacity(LISTING_BYTES);
        let mut entries = RawDir::new(&self.descriptor, buffer.spare_capacity_mut());
        let mut any = false;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            any = true;
            let name = entry.file_name().to_bytes();
            if !is_reserved(self.is_root, name) {
                state.ahead.push_back(Ahead {
                    name: name.into(),
                    ino: entry.ino(),
                    kind: entry.file_type(),
                    next: entry.next_entry_cookie(),
                });
            }
            if entries.is_buffer_empty() {
                break;
            }
        }
        Ok(any)
    }

    /// The open descriptor, for `fsync` and the like.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }
}
