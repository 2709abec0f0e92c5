//! Operations that read or change a listing: bind, create, link, unlink, rename.
//!
//! Each ends by setting the directories' `mtime` to the operation's time, so that both nodes agree on it.

use super::node::{ACL_ACCESS, ACL_DEFAULT};
use super::open::{Access, Opened, without_atime};
use super::refusal::Failure;
use super::store::{Store, Unopened};
use super::walk::is_reserved;
use crate::operation::{
    Applied, Create, Errno as OurErrno, FileHandle, InodeId, Name, NodeKind, Rename, RenameMode, Timestamp,
    Unlink, Victim,
};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, XattrFlags};
use rustix::io::Errno;

impl Store {
    /// An inode that is known by the primary's own handle is bound already: this node is the primary.
    pub(super) fn bind(
        &self,
        inode: InodeId,
        parent: InodeId,
        name: &Name,
        handle: &FileHandle,
    ) -> Result<Applied, Failure> {
        if self.handle(inode).as_ref() == Some(handle) {
            return Ok(introduced(handle.clone()));
        }
        match self.find(parent, name) {
            Ok((opened, found)) => {
                self.learn(inode, found.root, found.handle.clone());
                self.cache(inode, opened);
                Ok(introduced(found.handle))
            }
            Err(Unopened::Refused(errno)) if errno == OurErrno::from(Errno::NOENT) => {
                Err(Failure::NotBound(inode))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// The node is made under its final name with no rights for anybody, and then becomes what it should be.
    /// A half-made one is removed again before a refusal is reported.
    pub(super) fn create(&self, create: &Create) -> Result<Applied, Failure> {
        let parent = self.directory_to_change(create.parent, &create.name)?;
        let root = self.root_of(create.parent)?;
        let before = parent.status().map_err(Failure::unchanged)?;
        let made = make(&parent, &create.name, &create.kind).map_err(Failure::unchanged);
        let finished = made.and_then(|()| {
            open_made(&parent, &create.name, &create.kind)
                .and_then(|node| finish(&node, create).map(|handle| (node, handle)))
                .map_err(|errno| undo(&parent, create, &before, errno))
        });
        let (node, handle) = finished?;
        set_mtime(&parent, create.time)?;
        self.learn(create.inode, root, handle.clone());
        self.cache(create.inode, node);
        Ok(introduced(handle))
    }

    pub(super) fn link(
        &self,
        inode: InodeId,
        parent: InodeId,
        name: &Name,
        time: Timestamp,
    ) -> Result<(), Failure> {
        let node = self.open(inode, Access::Path)?;
        let directory = self.directory_to_change(parent, name)?;
        self.one_root(inode, parent)?;
        rustix::fs::linkat(
            node.fd(),
            "",
            directory.fd(),
            name.as_bytes(),
            AtFlags::EMPTY_PATH,
        )
        .map_err(Failure::unchanged)?;
        set_mtime(&directory, time)
    }

    pub(super) fn unlink(&self, unlink: &Unlink) -> Result<(), Failure> {
        let directory = self.directory_to_change(unlink.parent, &unlink.name)?;
        let flags = if unlink.directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        let deathbed = self.keep_open(unlink.victim);
        rustix::fs::unlinkat(directory.fd(), unlink.name.as_bytes(), flags).map_err(Failure::unchanged)?;
        self.bury(unlink.victim, deathbed);
        set_mtime(&directory, unlink.time)
    }

    pub(super) fn rename(&self, rename: &Rename) -> Result<(), Failure> {
        let source = self.directory_to_change(rename.source_parent, &rename.source_name)?;
        let target = self.directory_to_change(rename.target_parent, &rename.target_name)?;
        self.one_root(rename.source_parent, rename.target_parent)?;
        let flags = match rename.mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        // An exchange takes no name away.
        let victim = rename
            .replaced
            .filter(|_| rename.mode == RenameMode::Replace)
            .map(|victim| (victim, self.keep_open(victim)));
        rustix::fs::renameat_with(
            source.fd(),
            rename.source_name.as_bytes(),
            target.fd(),
            rename.target_name.as_bytes(),
            flags,
        )
        .map_err(Failure::unchanged)?;
        if let Some((victim, deathbed)) = victim {
            self.bury(victim, deathbed);
        }
        set_mtime(&source, rename.time)?;
        if rename.source_parent != rename.target_parent {
            set_mtime(&target, rename.time)?;
        }
        Ok(())
    }

    fn directory_to_change(&self, directory: InodeId, name: &Name) -> Result<Opened, Failure> {
        if is_reserved(self.is_root(directory), name.as_bytes()) {
            return Err(Failure::Refused(Errno::PERM.into()));
        }
        Ok(self.open(directory, Access::Path)?)
    }

    /// Two replicated directories may lie on one file system, where the kernel would let a name move over.
    fn one_root(&self, one: InodeId, other: InodeId) -> Result<(), Failure> {
        if self.root_of(one)? == self.root_of(other)? {
            return Ok(());
        }
        Err(Failure::Refused(Errno::XDEV.into()))
    }

    /// A descriptor of an inode that is about to lose its last name: the kernel then frees its blocks when that
    /// is closed, which may take long and need not be waited for.
    fn keep_open(&self, victim: Victim) -> Option<Opened> {
        // Not being able to open it costs only that wait.
        victim
            .last
            .then(|| self.open(victim.inode, Access::Path).ok())
            .flatten()
    }

    fn bury(&self, victim: Victim, deathbed: Option<Opened>) {
        if victim.last {
            self.release_deleted(victim.inode);
            self.close([deathbed]);
        }
    }
}

fn introduced(handle: FileHandle) -> Applied {
    Applied {
        length: 0,
        handle: Some(handle),
    }
}

fn set_mtime(directory: &Opened, time: Timestamp) -> Result<(), Failure> {
    directory.set_times(None, Some(time)).map_err(Failure::midway)
}

/// Makes the name. Mode 0 where the kernel takes one: until the node gets its own nobody is let in.
pub(super) fn make(parent: &Opened, name: &Name, kind: &NodeKind) -> Result<(), Errno> {
    let (directory, name) = (parent.fd(), name.as_bytes());
    let node = |kind, device| rustix::fs::mknodat(directory, name, kind, Mode::empty(), device);
    match kind {
        NodeKind::File => node(FileType::RegularFile, 0),
        NodeKind::Directory => rustix::fs::mkdirat(directory, name, Mode::empty()),
        NodeKind::Symlink(target) => rustix::fs::symlinkat(&target[..], directory, name),
        NodeKind::Fifo => node(FileType::Fifo, 0),
        NodeKind::Socket => node(FileType::Socket, 0),
        NodeKind::CharacterDevice(device) => node(FileType::CharacterDevice, *device),
        NodeKind::BlockDevice(device) => node(FileType::BlockDevice, *device),
    }
}

/// A file is opened for writing at once: that is what comes next.
pub(super) fn open_made(parent: &Opened, name: &Name, kind: &NodeKind) -> Result<Opened, Errno> {
    let (flags, access) = match kind {
        NodeKind::File => (OFlags::RDWR, Access::Write),
        _ => (OFlags::PATH, Access::Path),
    };
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let descriptor = without_atime(flags, |flags| {
        rustix::fs::openat(parent.fd(), name.as_bytes(), flags, Mode::empty())
    })?;
    Ok(Opened::new(descriptor, access))
}

/// Owner first, because it drops set-id bits; ACLs before the mode, because they change it; times last.
fn finish(node: &Opened, create: &Create) -> Result<FileHandle, Errno> {
    let is_symlink = matches!(create.kind, NodeKind::Symlink(_));
    node.set_owner(Some(create.uid), Some(create.gid))?;
    if !is_symlink {
        // The kernel has let the node inherit from its parent's default ACL; what was shipped decides.
        for name in [ACL_ACCESS, ACL_DEFAULT] {
            let may_have = name == ACL_ACCESS || matches!(create.kind, NodeKind::Directory);
            let stays = create.acls.iter().any(|(acl, _)| acl.as_bytes() == name);
            if may_have && !stays {
                node.clear_xattr(name)?;
            }
        }
        for (name, value) in &create.acls {
            node.set_xattr(name.as_bytes(), value, XattrFlags::empty())?;
        }
        node.set_mode(create.mode)?;
    }
    node.set_times(Some(create.time), Some(create.time))?;
    let status = node.status()?;
    let mode_fits = is_symlink || status.st_mode & 0o7777 == create.mode & 0o7777;
    if !mode_fits || (status.st_uid, status.st_gid) != (create.uid, create.gid) {
        // A file system that takes such a call and forgets it cannot hold a copy.
        return Err(Errno::OPNOTSUPP);
    }
    node.handle()
}

/// Takes a half-made node away: refused when that leaves everything as it was.
fn undo(parent: &Opened, create: &Create, before: &Stat, errno: Errno) -> Failure {
    let flags = match create.kind {
        NodeKind::Directory => AtFlags::REMOVEDIR,
        _ => AtFlags::empty(),
    };
    let undone = rustix::fs::unlinkat(parent.fd(), create.name.as_bytes(), flags)
        .and_then(|()| parent.set_times(None, Some(super::node::mtime(before))));
    match undone {
        Ok(()) => Failure::unchanged(errno),
        Err(again) => {
            tracing::error!(name = %create.name, %errno, %again, "a half-made node could not be removed");
            Failure::midway(errno)
        }
    }
}
