//! [`Store`]: the replicated directories of a module on this node.
//!
//! Used by many threads at once. Its locks guard tables in memory only; no system call runs under one. It does
//! not order operations: that is the lanes' work.

use super::background::{Background, Task};
use super::checkpoint::Durable;
use super::error::BackingError;
use super::excluded::Leftovers;
use super::inodes::{Inodes, Slot};
use super::open::{Access, Descriptors, Opened};
use super::walk::is_reserved;
use super::written::Writer;
use crate::exclude::{self, PerDirectory};
use crate::operation::{Errno, FileHandle, InodeId, Name};
use crate::wire::message::Abilities;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::process::{Resource, getrlimit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Cached descriptors at most; fewer where the process may open few.
const CACHED_MAX: usize = 1024;
/// Descriptors of written inodes at which a checkpoint of our own is started; at twice as many a writer waits.
const WRITTEN_MAX: usize = 4096;

/// The replicated directories on this node, and what is known of their inodes.
pub struct Store {
    roots: Arc<Vec<Root>>,
    pub(super) inodes: Inodes,
    next: AtomicU64,
    pub(super) descriptors: Descriptors,
    pub(super) durable: Arc<Durable>,
    /// What each directory's file system can do, once it was tried: that does not change.
    pub(super) abilities: Mutex<Vec<Option<Abilities>>>,
    written_max: usize,
    kept_max: usize,
    background: Background,
    pub(super) excluded: PerDirectory,
    pub(super) leftovers: Leftovers,
}

/// One replicated directory.
pub(super) struct Root {
    /// The directory itself, `O_PATH`, opened before anything was mounted over it.
    path: Opened,
    /// The same, readable: file handles are opened by it, and it sees every write-back error of its file system.
    pub(super) mount: OwnedFd,
    pub(super) device: u64,
}

/// What a look-up found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Index of the replicated directory.
    pub root: usize,
    /// The inode, whatever its names will be.
    pub handle: FileHandle,
    /// Its status.
    pub status: Stat,
}

/// Why an inode could not be opened.
pub(super) enum Unopened {
    /// Never learnt, or forgotten.
    NotBound(InodeId),
    Refused(Errno),
}

impl From<rustix::io::Errno> for Unopened {
    fn from(errno: rustix::io::Errno) -> Self {
        Unopened::Refused(errno.into())
    }
}

impl From<Unopened> for Errno {
    fn from(unopened: Unopened) -> Errno {
        match unopened {
            Unopened::NotBound(_) => rustix::io::Errno::STALE.into(),
            Unopened::Refused(errno) => errno,
        }
    }
}

impl Store {
    /// One `O_PATH|O_DIRECTORY` descriptor per replicated directory, opened before anything is mounted over it.
    ///
    /// # Errors
    /// [`BackingError`] when one is no directory or its file system has no usable file handles.
    pub fn new(roots: Vec<OwnedFd>) -> Result<Store, BackingError> {
        if roots.is_empty() || roots.len() > usize::from(u16::MAX) {
            return Err(BackingError::Count(roots.len()));
        }
        let descriptors_max = getrlimit(Resource::Nofile)
            .current
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(usize::MAX);
        let cached_max = CACHED_MAX.min(descriptors_max / 8);
        let written_max = WRITTEN_MAX.min(descriptors_max / 8);
        // Held inodes and open files; with the above and open directories something always remains.
        let kept_max = descriptors_max / 4;

        let inodes = Inodes::new();
        let descriptors = Descriptors::new(cached_max);
        let next = AtomicU64::new(roots.len() as u64 + 1);
        let mut opened = Vec::with_capacity(roots.len());
        for (index, descriptor) in roots.into_iter().enumerate() {
            let (root, handle) = Root::open(descriptor)?;
            inodes.insert(InodeId::root(index), Slot::new(index as u16, &handle));
            descriptors.hold(InodeId::root(index), root.path.clone());
            opened.push(root);
        }
        let count = opened.len();
        let roots = Arc::new(opened);
        let durable = Arc::new(Durable::new(roots.clone()));
        let background = Background::start(durable.clone(), roots.clone()).map_err(BackingError::Thread)?;
        Ok(Store {
            roots,
            inodes,
            next,
            descriptors,
            durable,
            abilities: Mutex::default(),
            written_max,
            kept_max,
            background,
            excluded: exclude::nothing(count),
            leftovers: Leftovers::Stay,
        })
    }

    /// How many directories there are.
    pub fn directories(&self) -> usize {
        self.roots.len()
    }

    /// A fresh number (primary only); above every number ever learnt here.
    pub fn next_inode(&self) -> InodeId {
        InodeId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// From now on `inode` is what `handle` finds in directory `root`. Repeating it changes nothing.
    pub fn learn(&self, inode: InodeId, root: usize, handle: FileHandle) {
        // The root's own entry stays; an index beyond the directories would never open.
        if self.is_root(inode) || root >= self.roots.len() {
            return;
        }
        self.raise_next(inode);
        let slot = Slot::new(root as u16, &handle);
        if let Some(known) = self.inodes.find(inode)
            && known != slot
        {
            self.close(self.descriptors.remove(inode));
            // What was written to the former one still waits for a sync, and is found no longer.
            self.durable.written.disown(|other| other != inode);
        }
        self.inodes.insert(inode, slot);
    }

    /// `inode` is in use: no fresh number is as low.
    pub(super) fn raise_next(&self, inode: InodeId) {
        self.next.fetch_max(inode.0.saturating_add(1), Ordering::Relaxed);
    }

    /// True when `inode` is known.
    pub fn knows(&self, inode: InodeId) -> bool {
        self.inodes.find(inode).is_some()
    }

    /// The handle that `inode` was learnt with.
    pub fn handle(&self, inode: InodeId) -> Option<FileHandle> {
        self.inodes.find(inode).map(|slot| slot.handle())
    }

    /// The directory that `inode` was learnt in, and the handle: together they mean one inode of this node.
    pub fn place(&self, inode: InodeId) -> Option<(usize, FileHandle)> {
        self.inodes.find(inode).map(|slot| (slot.root(), slot.handle()))
    }

    /// Drops handles and descriptors. Roots stay.
    pub fn forget(&self, inodes: &[InodeId]) {
        for inode in inodes.iter().copied().filter(|inode| !self.is_root(*inode)) {
            self.inodes.remove(inode);
            self.close(self.descriptors.remove(inode));
            // A write that no sync covered yet keeps its descriptor until a checkpoint does, so that its error
            // is seen even if nobody uses the inode any more.
        }
    }

    /// How many descriptors the users of this store may keep, besides those it holds for them: a quarter of
    /// what the process may open, shared by the directories. At the bound they do without.
    pub fn kept_max(&self) -> usize {
        self.kept_max / self.roots.len()
    }

    /// Keeps a descriptor until `forget`: an inode without names stays usable.
    ///
    /// # Errors
    /// `ENFILE` when a quarter of the process's descriptors is held: applying an operation must never lack one.
    pub fn hold(&self, inode: InodeId) -> Result<(), Errno> {
        if self.descriptors.is_held(inode) {
            return Ok(());
        }
        if self.descriptors.held() >= self.kept_max {
            return Err(rustix::io::Errno::NFILE.into());
        }
        let opened = self.open(inode, Access::Path)?;
        self.descriptors.hold(inode, opened);
        Ok(())
    }

    /// Finds `name` in the directory `parent` and learns nothing.
    ///
    /// # Errors
    /// `ENOENT`, also for the reserved directory; `EXDEV` for what another file system is mounted on;
    /// `ENOTDIR`; `ESTALE` when `parent` is unknown or gone.
    pub fn look_up(&self, parent: InodeId, name: &Name) -> Result<Found, Errno> {
        Ok(self.find(parent, name)?.1)
    }

    /// The inode's status.
    pub fn status(&self, inode: InodeId) -> Result<Stat, Errno> {
        let opened = self.open(inode, Access::Path)?;
        opened.status().map_err(Errno::from)
    }

    /// Where the inode is now, as this process sees it, for a person; none when it is gone.
    pub fn path(&self, inode: InodeId) -> Option<std::path::PathBuf> {
        let opened = self.open(inode, Access::Path).ok()?;
        std::fs::read_link(opened.proc_path()).ok()
    }

    /// A descriptor that can do at least `access`. Shared: its file position belongs to nobody.
    ///
    /// # Errors
    /// What the kernel says (an immutable file: `EPERM` for writing); `EISDIR`, `ELOOP` or `EINVAL` for a node
    /// that is no file to read or write; `ESTALE` when the inode is unknown or gone.
    pub fn file(&self, inode: InodeId, access: Access) -> Result<Arc<OwnedFd>, Errno> {
        Ok(self.open(inode, access)?.descriptor)
    }

    #[cfg(test)]
    pub(super) fn limit_kept(&mut self, most: usize) {
        self.kept_max = most;
    }

    #[cfg(test)]
    pub(super) fn limit_written(&mut self, most: usize) {
        self.written_max = most;
    }

    /// As [`Store::look_up`], with the descriptor.
    pub(super) fn find(&self, parent: InodeId, name: &Name) -> Result<(Opened, Found), Unopened> {
        let directory = self.open(parent, Access::Path)?;
        if is_reserved(self.is_root(parent), name.as_bytes()) {
            return Err(rustix::io::Errno::NOENT.into());
        }
        let root = self.root_of(parent)?;
        let opened = self.with_room(|| open_name(directory.fd(), name.as_bytes()))?;
        let status = opened.status()?;
        // A Btrfs subvolume is no mount and still another device, with inode numbers of its own.
        if status.st_dev != self.roots[root].device {
            return Err(rustix::io::Errno::XDEV.into());
        }
        let handle = opened.handle()?;
        Ok((opened, Found { root, handle, status }))
    }

    pub(super) fn open(&self, inode: InodeId, access: Access) -> Result<Opened, Unopened> {
        if let Some(opened) = self.descriptors.find(inode, access) {
            return Ok(opened);
        }
        if let Some(descriptor) = self.durable.written.find(inode) {
            return Ok(Opened {
                descriptor,
                access: Access::Write,
            });
        }
        let opened = match self.descriptors.any(inode) {
            Some(lesser) => self.with_room(|| lesser.reopen(access))?,
            None => {
                let slot = self.inodes.find(inode).ok_or(Unopened::NotBound(inode))?;
                let mount = &self.root(slot.root()).mount;
                let path = self.with_room(|| {
                    super::handle::open(mount.as_fd(), slot.kind(), slot.bytes(), OFlags::PATH)
                })?;
                let path = Opened::new(path, Access::Path);
                self.with_room(|| path.reopen(access))?
            }
        };
        self.cache(inode, opened.clone());
        Ok(opened)
    }

    /// Begins a change of the file's data: its descriptor stays until a sync covers it.
    pub(super) fn writer(&self, inode: InodeId) -> Result<Writer<'_>, Unopened> {
        let opened = self.open(inode, Access::Write)?;
        let writer = self.durable.written.begin(inode, opened.descriptor);
        let count = self.durable.written.count();
        if count > 2 * self.written_max {
            self.durable.relieve(2 * self.written_max);
        } else if count > self.written_max {
            self.background.send(Task::Relieve {
                most: self.written_max,
            });
        }
        Ok(writer)
    }

    pub(super) fn cache(&self, inode: InodeId, opened: Opened) {
        drop(self.descriptors.insert(inode, opened));
    }

    /// Closes descriptors, in the background when one may be the last of a big deleted file.
    pub(super) fn close(&self, opened: impl IntoIterator<Item = Option<Opened>>) {
        for opened in opened.into_iter().flatten() {
            self.background.close(opened.descriptor);
        }
    }

    pub(super) fn in_background(&self, task: Task) {
        self.background.send(task);
    }

    /// Nothing of a deleted inode needs to stay open, except what somebody holds.
    pub(super) fn release_deleted(&self, inode: InodeId) {
        self.close([self.descriptors.evict(inode)]);
        if let Some(descriptor) = self.durable.written.remove(inode) {
            self.background.close(descriptor);
        }
    }

    /// As [`Store::root`], for an index from outside.
    pub(super) fn root_checked(&self, index: usize) -> Result<&Root, BackingError> {
        self.roots.get(index).ok_or(BackingError::NoSuchDirectory {
            index,
            count: self.roots.len(),
        })
    }

    pub(super) fn is_root(&self, inode: InodeId) -> bool {
        (1..=self.roots.len() as u64).contains(&inode.0)
    }

    /// The index of the directory that a known inode belongs to.
    pub(super) fn root_of(&self, inode: InodeId) -> Result<usize, Unopened> {
        let slot = self.inodes.find(inode).ok_or(Unopened::NotBound(inode))?;
        Ok(slot.root())
    }

    /// All of them.
    pub(super) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// `learn` takes no index beyond the directories.
    pub(super) fn root(&self, index: usize) -> &Root {
        &self.roots[index]
    }

    /// Runs `open`; when the process is out of descriptors, drops half of the cache and tries once more.
    fn with_room<T>(&self, open: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        match open() {
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                drop(self.descriptors.halve());
                open()
            }
            result => result,
        }
    }
}

impl Root {
    pub(super) fn open(descriptor: OwnedFd) -> Result<(Root, FileHandle), BackingError> {
        let directory = name_of(&descriptor);
        let fail = |attempt: &'static str| {
            let directory = directory.clone();
            move |errno: rustix::io::Errno| BackingError::Directory {
                attempt,
                directory,
                source: errno,
            }
        };
        let path = Opened::new(descriptor, Access::Path);
        let status = path.status().map_err(fail("look at"))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
            return Err(BackingError::NotDirectory { directory });
        }
        let mount = super::open::open_directory(&path.descriptor).map_err(fail("open"))?;
        let no_handles = |errno: rustix::io::Errno| BackingError::NoHandles {
            directory: directory.clone(),
            source: errno,
        };
        let handle = path.handle().map_err(no_handles)?;
        let again = super::handle::open(mount.as_fd(), handle.kind, &handle.bytes, OFlags::PATH)
            .map_err(no_handles)?;
        // Proves at once that special files and symbolic links can be reached the way node.rs does.
        let proved = rustix::fs::stat(Opened::new(again, Access::Path).proc_path());
        match proved {
            Ok(found) if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino) => {}
            Ok(_) => return Err(no_handles(rustix::io::Errno::STALE)),
            Err(errno) => return Err(BackingError::NoProc { source: errno }),
        }
        let root = Root {
            path,
            mount,
            device: status.st_dev,
        };
        Ok((root, handle))
    }

    /// The directory's path for messages.
    pub(super) fn name(&self) -> String {
        name_of(&self.path.descriptor)
    }

    pub(super) fn node(&self) -> &Opened {
        &self.path
    }
}

/// One component, following nothing, leaving neither the directory nor its mount.
pub(super) fn open_name(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<Opened> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let descriptor = rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve)?;
    Ok(Opened::new(descriptor, Access::Path))
}

fn name_of(descriptor: &OwnedFd) -> String {
    let link = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    match rustix::fs::readlink(link, Vec::new()) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(_) => format!("descriptor {}", descriptor.as_raw_fd()),
    }
}
