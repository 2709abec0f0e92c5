//! Bringing names to what they are on the source of a copy.
//!
//! Names are put in place by moving and linking what is here already; only what is nowhere is made. What is in
//! the way is put aside ([`super::displaced`]), never removed.

use super::displaced::{DISPLACED, Displaced};
use super::entries::{make, open_made};
use super::error::CopyFailure;
use super::excluded::Excluding;
use super::open::{Access, Opened, parent_of};
use super::store::{Found, Store, Unopened, open_name};
use super::walk::is_reserved;
use crate::operation::{Errno as OurErrno, FileHandle, InodeId, NAME_BYTES_MAX, Name, NodeKind};
use crate::wire::bulk::{Entry, Node, Placed};
use rustix::fs::{AtFlags, FileType, RawDir, RenameFlags, Stat};
use rustix::io::{Errno, Result};
use std::cell::OnceCell;

const LISTING_BYTES: usize = 32 << 10;

type Brought<T> = std::result::Result<T, CopyFailure>;

impl Store {
    /// Brings each of these names of `directory` to what it is on the source, in this order; one outcome for
    /// each. The `mtime` of the directories concerned is whatever the kernel makes of it.
    ///
    /// Nothing else may change these names, or the inodes behind them, meanwhile. Other names, also of the same
    /// directory, may change. An inode that is not known yet must not be brought twice at once.
    ///
    /// `excluding`: what stays as it is under a name that the source does not have.
    ///
    /// `sole`: what has a name becomes the inode of an unknown number only if it is a directory or has no other name; its
    /// others might be those of something that is not looked at.
    ///
    /// # Errors
    /// At the first entry that fails: a name that is reserved or a mount point, an inode that is said to be
    /// known and is not, or is gone, or what the kernel says. What became of the entries before is not told.
    pub fn place_names(
        &self,
        directory: InodeId,
        entries: &[Entry],
        sole: bool,
        excluding: Option<&Excluding<'_>>,
    ) -> Brought<Vec<Placed>> {
        let fail = |errno: OurErrno| CopyFailure::new(format!("bring names into {directory}"), errno);
        let opened = self
            .open(directory, Access::Path)
            .map_err(|unopened| fail(unopened.into()))?;
        let root = self
            .root_of(directory)
            .map_err(|unopened| fail(unopened.into()))?;
        let goal = Goal {
            store: self,
            directory,
            opened,
            root,
            displaced: OnceCell::new(),
            sole,
            excluding,
        };
        entries.iter().map(|entry| goal.bring(entry)).collect()
    }
}

impl Store {
    /// Where a directory lies now: its replicated directory, the handle of the directory above, and its name there. None
    /// for a replicated directory itself, and for what is no directory.
    ///
    /// # Errors
    /// `ESTALE` when it is gone.
    pub fn directory_place(&self, directory: InodeId) -> std::result::Result<Option<Above>, OurErrno> {
        if self.is_root(directory) {
            return Ok(None);
        }
        let opened = self.open(directory, Access::Path)?;
        let status = opened.status()?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
            return Ok(None);
        }
        let parent = parent_of(&opened)?;
        let name = name_of_directory(&opened, &status, &parent)?;
        let name = Name::new(&name).map_err(|_| Errno::INVAL)?;
        Ok(Some(Above {
            root: self.root_of(directory)?,
            handle: parent.handle()?,
            name,
        }))
    }
}

/// Where a directory lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Above {
    /// Index of the replicated directory.
    pub root: usize,
    /// The directory above.
    pub handle: FileHandle,
    /// The name there.
    pub name: Name,
}

/// The directory whose names are brought over.
struct Goal<'a> {
    store: &'a Store,
    directory: InodeId,
    opened: Opened,
    root: usize,
    displaced: OnceCell<Displaced>,
    sole: bool,
    excluding: Option<&'a Excluding<'a>>,
}

impl Goal<'_> {
    fn bring(&self, entry: &Entry) -> Brought<Placed> {
        let name = &entry.name;
        if is_reserved(self.store.is_root(self.directory), name.as_bytes()) {
            return Err(self.failed("bring the reserved name", name, Errno::PERM.into()));
        }
        let there = self.look_up(name)?;
        match &entry.node {
            None => {
                if let Some((_, found)) = there
                    && (self.is_known(&found) || !self.is_excluded(name, &found))
                {
                    self.put_aside(name, &found)?;
                }
                Ok(Placed::Vacant)
            }
            Some(node) if node.known || self.store.knows(node.inode) => self.bring_known(name, node, there),
            Some(node) => self.bring_unknown(name, node, there),
        }
    }

    fn bring_known(&self, name: &Name, node: &Node, there: Option<(Opened, Found)>) -> Brought<Placed> {
        let (store, inode) = (self.store, node.inode);
        let fail =
            |attempt: &str, errno: OurErrno| self.failed(&format!("{attempt} {inode} as"), name, errno);
        if store.is_root(inode) {
            return Err(fail("bring the root", Errno::INVAL.into()));
        }
        let slot_root = store.root_of(inode).map_err(|none| fail("find", none.into()))?;
        if slot_root != self.root {
            return Err(fail(
                "bring from another replicated directory",
                Errno::XDEV.into(),
            ));
        }
        let handle = store
            .handle(inode)
            .ok_or_else(|| fail("find", Errno::STALE.into()))?;
        let opened = store
            .open(inode, Access::Path)
            .map_err(|unopened| fail("open", unopened.into()))?;
        let status = opened.status().map_err(|errno| fail("look at", errno.into()))?;
        let placed = Placed::There { handle, new: false };
        if let Some((_, found)) = there {
            if same_node(&found.status, &status) {
                return Ok(placed);
            }
            self.put_aside(name, &found)?;
        }
        if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
            let (from, to) = (opened.fd(), self.opened.fd());
            rustix::fs::linkat(from, "", to, name.as_bytes(), AtFlags::EMPTY_PATH)
                .map_err(|errno| fail("link", errno.into()))?;
            return Ok(placed);
        }
        match self.move_directory(&opened, &status, name) {
            Ok(()) => Ok(placed),
            // The kernel's word for a directory that would be moved below itself.
            Err(Errno::INVAL) => Ok(Placed::Blocked),
            Err(errno @ Errno::XDEV) => Err(fail("move the mount point", errno.into())),
            Err(errno) => Err(fail("move", errno.into())),
        }
    }

    fn bring_unknown(&self, name: &Name, node: &Node, there: Option<(Opened, Found)>) -> Brought<Placed> {
        let (store, inode) = (self.store, node.inode);
        if let Some((opened, found)) = there {
            let is_such = is_of_kind(&node.kind, &opened, &found.status)
                .map_err(|errno| self.failed("read the link", name, errno.into()))?;
            let is_directory = matches!(node.kind, NodeKind::Directory);
            let may_be = !self.sole || is_directory || found.status.st_nlink == 1;
            if is_such && may_be && store.claim(inode, self.root, &found.handle) {
                store.cache(inode, opened);
                let handle = found.handle;
                return Ok(Placed::There { handle, new: false });
            }
            self.put_aside(name, &found)?;
        }
        let (opened, handle) = self
            .make(name, &node.kind)
            .map_err(|errno| self.failed("make", name, errno.into()))?;
        store.learn(inode, self.root, handle.clone());
        store.cache(inode, opened);
        Ok(Placed::There { handle, new: true })
    }

    /// Until it gets its attributes only root may use it: mode 0, and root's.
    fn make(&self, name: &Name, kind: &NodeKind) -> Result<(Opened, FileHandle)> {
        make(&self.opened, name, kind)?;
        let opened = open_made(&self.opened, name, kind)?;
        let handle = opened.handle()?;
        Ok((opened, handle))
    }

    fn look_up(&self, name: &Name) -> Brought<Option<(Opened, Found)>> {
        match self.store.find(self.directory, name) {
            Ok(found) => Ok(Some(found)),
            Err(Unopened::Refused(errno)) if errno == Errno::NOENT.into() => Ok(None),
            Err(Unopened::Refused(errno)) if errno == Errno::XDEV.into() => {
                Err(self.failed("bring over the mount point or subvolume", name, errno))
            }
            Err(other) => Err(self.failed("look up", name, other.into())),
        }
    }

    /// The source knows it by a number, so it is replicated: under an excluded name it was about to be renamed when the
    /// two parted (`session/primary/entering.rs`).
    fn is_known(&self, found: &Found) -> bool {
        self.store.find_inode(self.root, &found.handle).is_some()
    }

    /// It is this node's alone, and none of the source's business.
    fn is_excluded(&self, name: &Name, found: &Found) -> bool {
        let is_directory = FileType::from_raw_mode(found.status.st_mode) == FileType::Directory;
        self.excluding
            .is_some_and(|excluding| excluding.excludes(name.as_bytes(), is_directory))
    }

    /// A node that no number means cannot be wanted under another name, so it goes at once: on a full disk there may
    /// be no room to put it anywhere. What is in a directory would take long.
    fn put_aside(&self, name: &Name, found: &Found) -> Brought<()> {
        let is_directory = FileType::from_raw_mode(found.status.st_mode) == FileType::Directory;
        if !is_directory && !self.is_known(found) {
            return rustix::fs::unlinkat(self.opened.fd(), name.as_bytes(), AtFlags::empty())
                .map_err(|errno| self.failed("remove", name, errno.into()));
        }
        let displaced = match self.displaced.get() {
            Some(displaced) => Ok(displaced),
            None => Displaced::make(self.store.root(self.root), DISPLACED)
                .map(|displaced| self.displaced.get_or_init(|| displaced)),
        };
        displaced
            .and_then(|displaced| displaced.take(&self.opened, name.as_bytes()))
            .map_err(|errno| self.failed("put aside", name, errno.into()))
    }

    /// Moves the directory `moved` here from wherever it is.
    fn move_directory(&self, moved: &Opened, status: &Stat, name: &Name) -> Result<()> {
        let parent = parent_of(moved)?;
        let present = name_of_directory(moved, status, &parent)?;
        let flags = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(
            parent.fd(),
            &present[..],
            self.opened.fd(),
            name.as_bytes(),
            flags,
        )
    }

    fn failed(&self, attempt: &str, name: &Name, errno: OurErrno) -> CopyFailure {
        CopyFailure::new(format!("{attempt} \"{name}\" in {}", self.directory), errno)
    }
}

/// The name that the directory `child` has in `parent`; `ESTALE` when it has none: it was removed.
pub(super) fn name_of_directory(child: &Opened, status: &Stat, parent: &Opened) -> Result<Vec<u8>> {
    // What is mounted on the child hides it: `EXDEV`.
    let leads_to_child = |name: &[u8]| match open_name(parent.fd(), name) {
        Ok(found) => Ok(same_node(&found.status()?, status)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    };
    // The kernel's idea of the path: a hint, as the directory may be covered, or the path too long.
    if let Ok(path) = rustix::fs::readlink(child.proc_path(), Vec::new())
        && let Some(last) = path.to_bytes().rsplit(|byte| *byte == b'/').next()
        && !matches!(last, b"" | b"." | b"..")
        && last.len() <= NAME_BYTES_MAX
        && leads_to_child(last)?
    {
        return Ok(last.to_vec());
    }
    let readable = super::open::open_directory(&parent.descriptor)?;
    let mut buffer = Vec::with_capacity(LISTING_BYTES);
    let mut entries = RawDir::new(&readable, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.ino() == status.st_ino && !matches!(name, b"." | b"..") && leads_to_child(name)? {
            return Ok(name.to_vec());
        }
    }
    Err(Errno::STALE)
}

/// Whether a node is what a new one of `kind` would be, but for its attributes and what it holds.
pub(super) fn is_of_kind(kind: &NodeKind, opened: &Opened, status: &Stat) -> Result<bool> {
    let is = FileType::from_raw_mode(status.st_mode);
    Ok(match kind {
        NodeKind::File => is == FileType::RegularFile,
        NodeKind::Directory => is == FileType::Directory,
        NodeKind::Symlink(target) => is == FileType::Symlink && *opened.link_target()? == target[..],
        NodeKind::Fifo => is == FileType::Fifo,
        NodeKind::Socket => is == FileType::Socket,
        NodeKind::CharacterDevice(device) => is == FileType::CharacterDevice && status.st_rdev == *device,
        NodeKind::BlockDevice(device) => is == FileType::BlockDevice && status.st_rdev == *device,
    })
}

fn same_node(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
