//! Finding again, on the target of a tracked copy, the inodes that the source speaks of.

use super::error::CopyFailure;
use super::open::{Access, Opened, parent_of};
use super::place::is_of_kind;
use super::store::{Store, Unopened};
use super::walk::RESERVED;
use crate::operation::{Errno as OurErrno, FileHandle};
use crate::wire::bulk::{By, Identify};
use rustix::fd::AsFd;
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

/// Directories above each other at most.
const DEPTH_MAX: usize = 1 << 16;

impl Store {
    /// Learns which inode here the source's is, and gives its handle; none when it is not found, is of another kind, has
    /// no name in its replicated directory any more, or is known under another number. Asked again for the same inode it
    /// gives the same answer.
    ///
    /// A handle is one that this node once told of an inode of this very directory. A file that was moved out of it since
    /// is not told from one inside, which takes somebody who opened the directory for maintenance: then the record says
    /// so, and no tracked copy is made.
    ///
    /// # Errors
    /// What the kernel says, other than that it is not there.
    pub fn identify(&self, node: &Identify) -> Result<Option<FileHandle>, CopyFailure> {
        let fail = |errno: OurErrno| CopyFailure::new(format!("find {} again", node.inode), errno);
        let root = node.root as usize;
        if root >= self.directories() || self.is_root(node.inode) {
            return Err(fail(Errno::INVAL.into()));
        }
        let found = match &node.by {
            By::Handle(handle) => self.by_handle(root, handle),
            By::Place { parent, name } => match self.find(*parent, name) {
                Ok((opened, found)) if found.root == root => Ok(Some((opened, found.handle, found.status))),
                Ok(_) => Ok(None),
                Err(Unopened::NotBound(_)) => Err(Errno::STALE.into()),
                Err(Unopened::Refused(errno)) => Err(errno),
            },
        };
        let (opened, handle, status) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(errno) if is_not_there(errno) => return Ok(None),
            Err(errno) => return Err(fail(errno)),
        };
        let is_such = is_of_kind(&node.kind, &opened, &status).map_err(|errno| fail(errno.into()))?;
        if !is_such || !self.claim(node.inode, root, &handle) {
            return Ok(None);
        }
        self.cache(node.inode, opened);
        Ok(Some(handle))
    }

    fn by_handle(
        &self,
        root: usize,
        handle: &FileHandle,
    ) -> Result<Option<(Opened, FileHandle, Stat)>, OurErrno> {
        let mount = &self.root(root).mount;
        let descriptor = super::handle::open(mount.as_fd(), handle.kind, &handle.bytes, OFlags::PATH)?;
        let opened = Opened::new(descriptor, Access::Path);
        let status = opened.status()?;
        if status.st_nlink == 0 || status.st_dev != self.root(root).device {
            return Ok(None);
        }
        let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
        if is_directory && !self.is_inside(root, &opened)? {
            return Ok(None);
        }
        Ok(Some((opened, handle.clone(), status)))
    }

    /// Whether a directory is inside the replicated one, and not put aside.
    fn is_inside(&self, root: usize, directory: &Opened) -> Result<bool, OurErrno> {
        let same = |one: &Stat, other: &Stat| (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino);
        let top = self.root(root).node().status()?;
        let reserved = match super::store::open_name(self.root(root).node().fd(), RESERVED) {
            Ok(opened) => Some(opened.status()?),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno.into()),
        };
        let mut next = directory.clone();
        let mut status = next.status()?;
        for _ in 0..DEPTH_MAX {
            if reserved.as_ref().is_some_and(|reserved| same(reserved, &status)) {
                return Ok(false);
            }
            if same(&top, &status) {
                return Ok(true);
            }
            next = parent_of(&next)?;
            let above = next.status()?;
            // The root of a file system is its own parent.
            if same(&above, &status) {
                return Ok(false);
            }
            status = above;
        }
        Ok(false)
    }
}

fn is_not_there(errno: OurErrno) -> bool {
    [
        Errno::STALE,
        Errno::NOENT,
        Errno::XDEV,
        Errno::NOTDIR,
        Errno::INVAL,
    ]
    .contains(&rustix::io::Errno::from_raw_os_error(errno.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{InodeId, Name, NodeKind};
    use rustix::fs::Mode;
    use std::fs;

    struct Tree {
        dir: tempfile::TempDir,
        store: Store,
    }

    impl Tree {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("d")).unwrap();
            fs::write(dir.path().join("d/f"), "x").unwrap();
            let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
            let store = Store::new(vec![root]).unwrap();
            Tree { dir, store }
        }

        fn handle(&self, path: &str) -> FileHandle {
            let path = self.dir.path().join(path);
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let opened = rustix::fs::open(path, flags, Mode::empty()).unwrap();
            Opened::new(opened, Access::Path).handle().unwrap()
        }

        fn ask(&self, inode: u64, kind: NodeKind, by: By) -> Option<FileHandle> {
            let handle = FileHandle {
                kind: 1,
                bytes: [7].as_slice().into(),
            };
            let node = Identify {
                inode: InodeId(inode),
                root: 0,
                kind,
                handle,
                by,
            };
            self.store.identify(&node).unwrap()
        }
    }

    fn place(parent: u64, name: &str) -> By {
        By::Place {
            parent: InodeId(parent),
            name: Name::new(name.as_bytes()).unwrap(),
        }
    }

    #[test]
    fn an_inode_is_found_by_its_handle_wherever_it_is() {
        let tree = Tree::new();
        let handle = tree.handle("d/f");
        fs::rename(tree.dir.path().join("d/f"), tree.dir.path().join("g")).unwrap();
        let found = tree.ask(9, NodeKind::File, By::Handle(handle.clone()));
        assert_eq!(found, Some(handle.clone()));
        assert_eq!(
            tree.ask(9, NodeKind::File, By::Handle(handle.clone())),
            found,
            "again"
        );
        assert_eq!(
            tree.ask(10, NodeKind::File, By::Handle(handle)),
            None,
            "under another number"
        );
        assert!(tree.store.knows(InodeId(9)) && !tree.store.knows(InodeId(10)));
    }

    #[test]
    fn what_is_gone_or_of_another_kind_is_not_found() {
        let tree = Tree::new();
        let (file, directory) = (tree.handle("d/f"), tree.handle("d"));
        assert_eq!(tree.ask(9, NodeKind::Directory, By::Handle(file.clone())), None);
        assert_eq!(tree.ask(9, NodeKind::File, By::Handle(directory)), None);
        fs::hard_link(tree.dir.path().join("d/f"), tree.dir.path().join("h")).unwrap();
        fs::remove_file(tree.dir.path().join("d/f")).unwrap();
        assert_eq!(
            tree.ask(9, NodeKind::File, By::Handle(file.clone())),
            Some(file.clone())
        );
        tree.store.forget(&[InodeId(9)]);
        fs::remove_file(tree.dir.path().join("h")).unwrap();
        assert_eq!(tree.ask(11, NodeKind::File, By::Handle(file)), None);
    }

    #[test]
    fn an_inode_is_found_by_its_place() {
        let tree = Tree::new();
        assert_eq!(
            tree.ask(9, NodeKind::File, place(8, "f")),
            None,
            "the directory is not known"
        );
        let directory = tree.ask(8, NodeKind::Directory, place(1, "d"));
        assert_eq!(directory, Some(tree.handle("d")));
        assert_eq!(tree.ask(9, NodeKind::Fifo, place(8, "f")), None);
        assert_eq!(
            tree.ask(9, NodeKind::File, place(8, "f")),
            Some(tree.handle("d/f"))
        );
        assert_eq!(tree.ask(10, NodeKind::File, place(8, "nothing")), None);
    }

    #[test]
    fn a_directory_that_was_put_aside_is_not_found() {
        let tree = Tree::new();
        let handle = tree.handle("d");
        let aside = tree.dir.path().join(std::str::from_utf8(RESERVED).unwrap());
        fs::create_dir_all(aside.join("displaced")).unwrap();
        fs::rename(tree.dir.path().join("d"), aside.join("displaced/1")).unwrap();
        assert_eq!(tree.ask(8, NodeKind::Directory, By::Handle(handle.clone())), None);
        fs::rename(aside.join("displaced/1"), tree.dir.path().join("e")).unwrap();
        assert_eq!(
            tree.ask(8, NodeKind::Directory, By::Handle(handle.clone())),
            Some(handle)
        );
    }
}
