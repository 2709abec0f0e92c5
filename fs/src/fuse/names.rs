//! Changes of names: create, link, unlink, rename. Each becomes one operation with final values.
//!
//! The kernel holds the lock of every directory involved, so what is read here stays true until the reply.

use super::attributes::{MODE_BITS, SET_GID, is_directory};
use super::credentials::Caller;
use super::errno;
use super::tree::{Entry, Tree};
use crate::clock;
use crate::operation::{
    Applied, Create, Errno, InodeId, NodeKind, Operation, Rename, RenameMode, Unlink, Victim,
};
use fuser::{INodeNo, RenameFlags};
use rustix::io::Errno as System;
use std::ffi::OsStr;
use std::sync::Arc;

/// A name that some call is about.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The directory as the kernel calls it.
    pub parent: INodeNo,
    /// The name in it.
    pub name: &'a OsStr,
}

impl Tree {
    /// Makes a node. `reply` gets its entry.
    pub fn create(
        self: &Arc<Self>,
        caller: &Caller,
        place: Place<'_>,
        kind: NodeKind,
        mode: u32,
        umask: u32,
        reply: impl FnOnce(Result<Entry, Errno>) + Send + 'static,
    ) {
        let create = match self.plan_create(caller, place, kind, mode, umask) {
            Ok(create) => create,
            Err(errno) => return self.fail(errno, |errno| reply(Err(errno))),
        };
        let inode = create.inode;
        let operation = Operation::Create(create);
        self.change_names(operation, &[place], move |tree, result| {
            tree.answer(result.and_then(|applied| tree.created(inode, applied)), reply);
        });
    }

    /// Owner, mode and ACLs as `inode_init_owner()` and `posix_acl_create()` of the kernel make them. Setgid for
    /// somebody outside the group was taken off by the kernel already (`mode_strip_sgid()`).
    fn plan_create(
        &self,
        caller: &Caller,
        place: Place<'_>,
        kind: NodeKind,
        mode: u32,
        umask: u32,
    ) -> Result<Create, Errno> {
        let (parent, name) = self.name(place.parent, place.name, System::PERM)?;
        let directory = self.store.status(parent)?;
        let mut mode = mode & MODE_BITS;
        let mut gid = caller.gid;
        if directory.st_mode & SET_GID != 0 {
            gid = directory.st_gid;
            if kind == NodeKind::Directory {
                mode |= SET_GID;
            }
        }
        let mut acls = Vec::new();
        if !matches!(kind, NodeKind::Symlink(_)) {
            let inherited = self.store.inherit(parent, &kind, mode, umask)?;
            mode = inherited.mode;
            acls = inherited.acls;
        }
        Ok(Create {
            parent,
            name,
            inode: self.store.next_inode(),
            kind,
            mode,
            uid: caller.uid,
            gid,
            acls,
            time: clock::stamp(),
        })
    }

    /// Gives an inode one more name.
    pub fn link(
        self: &Arc<Self>,
        node: INodeNo,
        place: Place<'_>,
        reply: impl FnOnce(Result<Entry, Errno>) + Send + 'static,
    ) {
        let planned = self.inodes.inode(node).and_then(|inode| {
            let (parent, name) = self.name(place.parent, place.name, System::PERM)?;
            if self.store.excludes_near(inode) && self.replicator.is_excluded_inode(inode) {
                // The new name is excluded as well, or the session refuses it.
                self.store.mark_linked(inode)?;
            }
            Ok((inode, parent, name))
        });
        let (inode, parent, name) = match planned {
            Ok(planned) => planned,
            Err(errno) => return self.fail(errno, |errno| reply(Err(errno))),
        };
        let operation = Operation::Link {
            inode,
            parent,
            name,
            time: clock::stamp(),
        };
        self.change_names(operation, &[place], move |tree, result| {
            tree.answer(result.and_then(|_| tree.linked(inode)), reply);
        });
    }

    /// `unlink(2)` and `rmdir(2)`.
    pub fn unlink(
        self: &Arc<Self>,
        place: Place<'_>,
        directory: bool,
        reply: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        match self.plan_unlink(place, directory) {
            Ok(unlink) => self.change_names(Operation::Unlink(unlink), &[place], |_, result| {
                reply(result.map(drop))
            }),
            Err(errno) => self.fail(errno, |errno| reply(Err(errno))),
        }
    }

    fn plan_unlink(&self, place: Place<'_>, directory: bool) -> Result<Unlink, Errno> {
        let (parent, name) = self.name(place.parent, place.name, System::NOENT)?;
        let named = self.named(parent, &name)?;
        match (directory, is_directory(named.status.st_mode)) {
            (true, false) => return Err(errno::system(System::NOTDIR)),
            (false, true) => return Err(errno::system(System::ISDIR)),
            (true, true) => self.refuse_unless_vacant(named.inode)?,
            (false, false) => {}
        }
        let victim = self.victim(named.inode, named.is_last())?;
        Ok(Unlink {
            parent,
            name,
            directory,
            victim,
            time: clock::stamp(),
        })
    }

    /// `renameat2(2)`.
    pub fn rename(
        self: &Arc<Self>,
        source: Place<'_>,
        target: Place<'_>,
        flags: RenameFlags,
        reply: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        match self.plan_rename(source, target, flags) {
            Ok(rename) => {
                self.change_names(Operation::Rename(rename), &[source, target], |_, result| {
                    reply(result.map(drop))
                });
            }
            Err(errno) => self.fail(errno, |errno| reply(Err(errno))),
        }
    }

    fn plan_rename(&self, source: Place<'_>, target: Place<'_>, flags: RenameFlags) -> Result<Rename, Errno> {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            // RENAME_WHITEOUT is for file systems below an overlay.
            return Err(errno::system(System::INVAL));
        };
        let (source_parent, source_name) = self.name(source.parent, source.name, System::NOENT)?;
        let (target_parent, target_name) = self.name(target.parent, target.name, System::PERM)?;
        let moved = self.named(source_parent, &source_name)?;
        let replaced = match self.named(target_parent, &target_name) {
            Ok(_) if mode == RenameMode::NoReplace => return Err(errno::system(System::EXIST)),
            Ok(there) if mode == RenameMode::Exchange => Some(self.victim(there.inode, false)?),
            Ok(there) => {
                if is_directory(moved.status.st_mode) && is_directory(there.status.st_mode) {
                    self.refuse_unless_vacant(there.inode)?;
                }
                Some(self.victim(there.inode, there.is_last())?)
            }
            Err(Errno(number)) if number == System::NOENT.raw_os_error() && mode != RenameMode::Exchange => {
                None
            }
            Err(errno) => return Err(errno),
        };
        if !is_directory(moved.status.st_mode)
            && moved.is_last()
            && self.store.excludes_near(moved.inode)
            && self.replicator.is_excluded_inode(moved.inode)
        {
            // It may be about to be replicated, with all of its attributes.
            self.store.unmark_linked(moved.inode)?;
        }
        Ok(Rename {
            source_parent,
            source_name,
            target_parent,
            target_name,
            mode,
            moved: moved.inode,
            replaced,
            time: clock::stamp(),
        })
    }

    /// The secondary cannot tell whether a directory is empty that may hold excluded names here: there it is.
    fn refuse_unless_vacant(&self, directory: InodeId) -> Result<(), Errno> {
        if self.store.excludes_near(directory) && !self.store.is_vacant(directory)? {
            return Err(errno::system(System::NOTEMPTY));
        }
        Ok(())
    }

    /// An inode that loses its last name stays open, because some process may use it on.
    fn victim(&self, inode: InodeId, last: bool) -> Result<Victim, Errno> {
        if last {
            self.store.hold(inode)?;
        }
        Ok(Victim { inode, last })
    }

    /// Submits a change of the names in `places`; when it fails in a way that leaves them uncertain, the kernel
    /// is told to look again, after `reply`.
    fn change_names(
        self: &Arc<Self>,
        operation: Operation,
        places: &[Place<'_>],
        reply: impl FnOnce(&Tree, Result<Applied, Errno>) + Send + 'static,
    ) {
        let tree = self.clone();
        let places: Vec<_> = places
            .iter()
            .map(|place| (place.parent, place.name.to_owned()))
            .collect();
        self.replicator.submit(operation, move |result| {
            let failed = result.as_ref().err().copied();
            reply(&tree, result);
            if failed.is_some_and(|errno| !errno::leaves_names_alone(errno)) {
                for (parent, name) in places {
                    tree.invalidator.name(parent, &name);
                    tree.invalidator.inode(parent);
                }
            }
        });
    }
}
