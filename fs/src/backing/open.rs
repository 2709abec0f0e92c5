//! Which descriptors are open: a bounded cache, and those held until their inode is forgotten.
//!
//! At most one cached descriptor per inode, the one that can do most. The process may not raise its limit of
//! descriptors, so an inode never owns one for long; what falls out is opened again by handle.

use super::inodes::{IdMap, lock};
use crate::operation::InodeId;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What a descriptor is good for. A later one can do all that an earlier one can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// `O_PATH`: any node; status, names below it, attributes.
    Path,
    /// `O_RDONLY`: regular files and directories.
    Read,
    /// `O_RDWR`: regular files.
    Write,
}

/// An open descriptor and what it is good for.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) descriptor: Arc<OwnedFd>,
    pub(super) access: Access,
}

impl Opened {
    pub(super) fn new(descriptor: OwnedFd, access: Access) -> Self {
        Opened {
            descriptor: Arc::new(descriptor),
            access,
        }
    }

    /// The name by which the kernel finds exactly this node again, following nothing beyond it.
    pub(super) fn proc_path(&self) -> String {
        format!("/proc/self/fd/{}", self.descriptor.as_raw_fd())
    }

    /// Opens the node again for more. Devices, FIFOs and sockets are never opened: that could block, or act.
    pub(super) fn reopen(&self, access: Access) -> Result<Opened> {
        if access == Access::Path {
            return Ok(self.clone());
        }
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&self.descriptor)?.st_mode);
        let descriptor = match (kind, access) {
            (FileType::Directory, Access::Read) => open_directory(&self.descriptor)?,
            (FileType::Directory, Access::Write) => return Err(Errno::ISDIR),
            (FileType::RegularFile, Access::Read) => self.open_proc(OFlags::RDONLY)?,
            (FileType::RegularFile, Access::Write) => self.open_proc(OFlags::RDWR)?,
            (FileType::Symlink, _) => return Err(Errno::LOOP),
            _ => return Err(Errno::INVAL),
        };
        Ok(Opened::new(descriptor, access))
    }

    fn open_proc(&self, flags: OFlags) -> Result<OwnedFd> {
        let path = self.proc_path();
        without_atime(flags | OFlags::CLOEXEC | OFlags::NOCTTY, |flags| {
            rustix::fs::open(&path, flags, Mode::empty())
        })
    }
}

/// Reads through the descriptor leave the `atime` alone: each node would set its own, by its own clock, for reads
/// that only one of them sees. Only a process that is neither the owner nor root is refused that (open(2)).
pub(super) fn without_atime(flags: OFlags, open: impl Fn(OFlags) -> Result<OwnedFd>) -> Result<OwnedFd> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        result => result,
    }
}

/// A descriptor of its own for reading the directory `path`, which `O_PATH` suffices for. Crosses no mount.
pub(super) fn open_directory(path: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    without_atime(flags, |flags| rustix::fs::openat(path, ".", flags, Mode::empty()))
}

/// The directory that holds the directory `child`.
pub(super) fn parent_of(child: &Opened) -> Result<Opened> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let parent = rustix::fs::openat(&child.descriptor, "..", flags, Mode::empty())?;
    Ok(Opened::new(parent, Access::Path))
}

/// The open descriptors. No system call runs under its lock: what falls out is returned to be closed.
pub(super) struct Descriptors {
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    cached: IdMap<Cached>,
    /// The cached inodes by last use: `cached[i].used` is a key here, and every key is one of those.
    order: BTreeMap<u64, InodeId>,
    clock: u64,
    held: IdMap<Opened>,
}

struct Cached {
    opened: Opened,
    used: u64,
}

impl Descriptors {
    /// Caches at most `capacity` descriptors; at the bound the one unused for longest falls out.
    pub(super) fn new(capacity: usize) -> Self {
        Descriptors {
            capacity: capacity.max(1),
            inner: Mutex::default(),
        }
    }

    /// A descriptor that can do at least `access`.
    pub(super) fn find(&self, inode: InodeId, access: Access) -> Option<Opened> {
        let inner = &mut *lock(&self.inner);
        if let Some(cached) = inner.cached.get_mut(&inode)
            && cached.opened.access >= access
        {
            inner.clock += 1;
            inner.order.remove(&cached.used);
            inner.order.insert(inner.clock, inode);
            cached.used = inner.clock;
            return Some(cached.opened.clone());
        }
        let held = inner.held.get(&inode)?;
        (held.access >= access).then(|| held.clone())
    }

    /// The best descriptor there is, whatever it is good for.
    pub(super) fn any(&self, inode: InodeId) -> Option<Opened> {
        self.find(inode, Access::Path)
    }

    /// Caches `opened` and gives what falls out for it.
    #[must_use]
    pub(super) fn insert(&self, inode: InodeId, opened: Opened) -> Option<Opened> {
        let inner = &mut *lock(&self.inner);
        inner.clock += 1;
        let used = inner.clock;
        if let Some(cached) = inner.cached.get_mut(&inode) {
            if cached.opened.access >= opened.access {
                return Some(opened);
            }
            inner.order.remove(&cached.used);
            inner.order.insert(used, inode);
            cached.used = used;
            return Some(std::mem::replace(&mut cached.opened, opened));
        }
        let out = if inner.cached.len() >= self.capacity {
            inner.drop_oldest()
        } else {
            None
        };
        inner.order.insert(used, inode);
        inner.cached.insert(inode, Cached { opened, used });
        out
    }

    /// Keeps `opened` until the inode is removed.
    pub(super) fn hold(&self, inode: InodeId, opened: Opened) {
        lock(&self.inner).held.insert(inode, opened);
    }

    pub(super) fn is_held(&self, inode: InodeId) -> bool {
        lock(&self.inner).held.contains_key(&inode)
    }

    /// How many inodes are held.
    pub(super) fn held(&self) -> usize {
        lock(&self.inner).held.len()
    }

    /// Drops the cached descriptor, not the held one.
    #[must_use]
    pub(super) fn evict(&self, inode: InodeId) -> Option<Opened> {
        let inner = &mut *lock(&self.inner);
        let cached = inner.cached.remove(&inode)?;
        inner.order.remove(&cached.used);
        Some(cached.opened)
    }

    /// Drops both.
    #[must_use]
    pub(super) fn remove(&self, inode: InodeId) -> [Option<Opened>; 2] {
        let held = lock(&self.inner).held.remove(&inode);
        [self.evict(inode), held]
    }

    /// Drops the older half of the cache: the process is out of descriptors.
    #[must_use]
    pub(super) fn halve(&self) -> Vec<Opened> {
        let inner = &mut *lock(&self.inner);
        let goal = inner.cached.len() / 2;
        let mut out = Vec::new();
        while inner.cached.len() > goal {
            match inner.drop_oldest() {
                Some(opened) => out.push(opened),
                None => break,
            }
        }
        out
    }

    /// How many are cached and how many are held.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        (inner.cached.len(), inner.held.len())
    }
}

impl Inner {
    fn drop_oldest(&mut self) -> Option<Opened> {
        let (_, inode) = self.order.pop_first()?;
        self.cached.remove(&inode).map(|cached| cached.opened)
    }
}
