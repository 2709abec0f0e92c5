//! What all calls of one mount share: the tables, the way to the backing directory and to the replicator.

use super::attributes;
use super::errno;
use super::handle::{Handles, Writers};
use super::inode::{Inodes, LookedUp, reply_generation};
use super::invalidate::Invalidator;
use super::listing::Listing;
use crate::backing::{Access, Found, Stat, Store, is_reserved};
use crate::config::SyncMode;
use crate::operation::{Applied, Errno, InodeId, Name};
use crate::replicator::Replicator;
use crate::session::names::Seen;
use fuser::{FileAttr, FileHandle, Generation, INodeNo, OpenAccMode, OpenFlags};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::io::Errno as System;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the kernel may believe a name or an attribute. Nobody else changes the directory, so only our own
/// failures make it wrong, and those are told (`invalidate`).
pub const TTL: Duration = Duration::from_secs(3600);

/// One mounted directory.
pub struct Tree {
    /// The directory's root.
    pub root: InodeId,
    /// When its operations are shipped.
    pub sync: SyncMode,
    /// What the kernel knows.
    pub inodes: Inodes,
    /// Open files.
    pub files: Handles<OpenFile>,
    /// Who may have pages of which inode that are not written back.
    pub writers: Writers,
    /// Open directories.
    pub directories: Handles<Arc<Mutex<Listing>>>,
    /// The backing directory.
    pub store: Arc<Store>,
    /// Where changes go.
    pub replicator: Arc<Replicator>,
    /// Where failures are told.
    pub invalidator: Invalidator,
}

/// An open file.
#[derive(Clone)]
pub struct OpenFile {
    /// Serves reads, also once the file has no name. None when too many files are open: applications may open
    /// more than this process may, and then each read takes a descriptor from the store.
    pub file: Option<Arc<OwnedFd>>,
    /// What is open.
    pub inode: InodeId,
    /// The inode, if it was opened for writing.
    pub writes: Option<InodeId>,
}

/// A name's inode as the kernel wants it.
pub struct Entry {
    /// Attributes, the node number among them.
    pub attributes: FileAttr,
    /// For reused numbers.
    pub generation: Generation,
    /// The inode.
    pub inode: InodeId,
}

/// What a name that is about to change leads to.
pub struct Named {
    /// The inode.
    pub inode: InodeId,
    /// Its status.
    pub status: Stat,
}

impl Named {
    /// True when it has no other name.
    pub fn is_last(&self) -> bool {
        attributes::is_directory(self.status.st_mode) || self.status.st_nlink <= 1
    }
}

/// What the session wants to know of an inode.
pub fn seen(found: &Found) -> Seen {
    let is_directory = attributes::is_directory(found.status.st_mode);
    Seen {
        is_directory,
        is_linked: !is_directory && found.status.st_nlink > 1,
    }
}

impl Tree {
    /// Answers with an errno that a look at the backing directory gave, unless the disk counts as failing by it and
    /// the secondary can take over.
    pub fn fail(&self, errno: Errno, reply: impl FnOnce(Errno) + Send + 'static) {
        self.replicator.read_failed(errno, reply);
    }

    /// Answers with what was read of the backing directory; [`Tree::fail`] with the errno.
    pub fn answer<T>(&self, result: Result<T, Errno>, reply: impl FnOnce(Result<T, Errno>) + Send + 'static) {
        match result {
            Ok(value) => reply(Ok(value)),
            Err(errno) => self.fail(errno, move |errno| reply(Err(errno))),
        }
    }

    /// The name as ours. `reserved` is what the reserved entry of the root answers.
    pub fn name(&self, parent: INodeNo, name: &OsStr, reserved: System) -> Result<(InodeId, Name), Errno> {
        let directory = self.inodes.inode(parent)?;
        if is_reserved(directory == self.root, name.as_bytes()) {
            return Err(errno::system(reserved));
        }
        Ok((directory, Name::new(name.as_bytes()).map_err(errno::name)?))
    }

    /// Looks a name up for the kernel, which will forget what it is told. `ESTALE` makes it try again.
    pub fn look_up(&self, parent: INodeNo, name: &OsStr) -> Result<Entry, Errno> {
        let (directory, name) = self.name(parent, name, System::NOENT)?;
        let ticket = self.replicator.begin_lookup(directory);
        let found = self.store.look_up(directory, &name)?;
        self.refuse_names_on_both_sides(directory, &name, &found)?;
        let known = self.admit(&found);
        if self
            .replicator
            .looked_up(ticket, known.inode, &name, seen(&found))
            .is_err()
        {
            self.forget(&[(INodeNo(known.node), 1)]);
            return Err(errno::system(System::STALE));
        }
        Ok(Entry {
            attributes: attributes::of(&found.status, known.node),
            generation: reply_generation(&found.handle),
            inode: known.inode,
        })
    }

    /// A file with several names, of which this one is excluded: what is done by it would have to be shipped if another
    /// one is not. Unless the mount has linked it, that is not known, and it is not shown by this name, as a mount point
    /// is not.
    pub fn refuse_names_on_both_sides(
        &self,
        directory: InodeId,
        name: &Name,
        found: &Found,
    ) -> Result<(), Errno> {
        if !seen(found).is_linked || !self.store.excludes_near(directory) {
            return Ok(());
        }
        let is_one_sided = !self.replicator.is_excluded(directory, name, false)
            || self.store.is_marked_linked(directory, name)?;
        if is_one_sided {
            return Ok(());
        }
        tracing::debug!(directory = ?self.store.path(directory), %name,
            "a file has several names and this one is excluded: it is not shown by it");
        Err(errno::system(System::XDEV))
    }

    /// What a name leads to that the kernel, which holds the directory's lock, is about to change.
    pub fn named(&self, directory: InodeId, name: &Name) -> Result<Named, Errno> {
        let ticket = self.replicator.begin_lookup(directory);
        let found = self.store.look_up(directory, name)?;
        let inode = match self.inodes.find(found.status.st_ino, &found.handle) {
            Some(inode) => inode,
            None => {
                // The kernel forgot it since it looked it up for this call.
                let inode = self.learn(&found);
                if self
                    .replicator
                    .looked_up(ticket, inode, name, seen(&found))
                    .is_err()
                {
                    self.replicator.forget(&[inode]);
                    return Err(errno::system(System::STALE));
                }
                inode
            }
        };
        Ok(Named {
            inode,
            status: found.status,
        })
    }

    /// The entry of an inode that a `Create` has made.
    pub fn created(&self, inode: InodeId, applied: Applied) -> Result<Entry, Errno> {
        let status = self.store.status(inode)?;
        let handle = applied
            .handle
            .or_else(|| self.store.handle(inode))
            .ok_or(errno::system(System::STALE))?;
        let known = self.inodes.looked_up(status.st_ino, &handle, || inode);
        self.forget_gone(&known);
        Ok(Entry {
            attributes: attributes::of(&status, known.node),
            generation: reply_generation(&handle),
            inode: known.inode,
        })
    }

    /// The entry of an inode that the kernel knows and has got one more name for.
    pub fn linked(&self, inode: InodeId) -> Result<Entry, Errno> {
        let status = self.store.status(inode)?;
        let handle = self.store.handle(inode).ok_or(errno::system(System::STALE))?;
        let known = self.inodes.looked_up(status.st_ino, &handle, || inode);
        Ok(Entry {
            attributes: attributes::of(&status, known.node),
            generation: reply_generation(&handle),
            inode,
        })
    }

    /// Opens a file for the kernel.
    pub fn open(&self, inode: InodeId, flags: OpenFlags) -> Result<FileHandle, Errno> {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let appends = flags.0 & OFlags::APPEND.bits().cast_signed() != 0;
        // Trying at once lets `open(2)` refuse an immutable file. An append-only one is not refused: only the
        // backing file system knows it, and this process does not append.
        let access = if writes && !appends {
            Access::Write
        } else {
            Access::Read
        };
        let file = self.store.file(inode, access)?;
        let file = Some(file).filter(|_| self.files.count() < self.store.kept_max());
        let writes = writes.then_some(inode);
        if let Some(inode) = writes {
            self.writers.add(inode);
        }
        Ok(self.files.open(OpenFile { file, inode, writes }))
    }

    /// What to read an open file from.
    pub fn readable(&self, open: OpenFile) -> Result<Arc<OwnedFd>, Errno> {
        match open.file {
            Some(file) => Ok(file),
            None => self.store.file(open.inode, Access::Read),
        }
    }

    /// Closes it again. Its descriptor is closed here, or by whoever still reads from it.
    pub fn close(&self, handle: FileHandle) {
        if let Some(inode) = self.files.close(handle).and_then(|closed| closed.writes) {
            self.writers.remove(inode);
        }
    }

    /// The attributes of an inode that the kernel calls `node`.
    pub fn attributes(&self, inode: InodeId, node: INodeNo) -> Result<FileAttr, Errno> {
        Ok(attributes::of(&self.store.status(inode)?, node.0))
    }

    /// Counts a look-up of `found`, which gets a number if it has none.
    pub fn admit(&self, found: &Found) -> LookedUp {
        let known = self
            .inodes
            .looked_up(found.status.st_ino, &found.handle, || self.learn(found));
        self.forget_gone(&known);
        known
    }

    /// Takes back look-ups that the kernel has forgotten, or was not told of.
    pub fn forget(&self, nodes: &[(INodeNo, u64)]) {
        for (node, lookups) in nodes {
            // In one step with the table: a look-up between the two would get the same number, and lose it again.
            self.inodes
                .forget(*node, *lookups, |inode| self.replicator.forget(&[inode]));
        }
    }

    fn learn(&self, found: &Found) -> InodeId {
        self.replicator.number_of(found.root, &found.handle)
    }

    fn forget_gone(&self, known: &LookedUp) {
        if let Some(gone) = known.gone {
            self.replicator.forget(&[gone]);
        }
    }
}
