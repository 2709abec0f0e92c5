//! A store over directories of its own, and short ways to say operations.

use super::super::{BackingError, Leftovers, Store};
use crate::exclude::Exclusions;
use crate::operation::*;
use bytes::Bytes;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};

pub(crate) struct Scratch {
    pub(crate) store: Store,
    pub(crate) dirs: Vec<tempfile::TempDir>,
}

pub(crate) const ROOT: InodeId = InodeId(1);
pub(crate) const TIME: Timestamp = Timestamp {
    seconds: 1_234_567_890,
    nanoseconds: 123_456_789,
};

pub(crate) fn open_root(dir: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub(crate) fn xattr_name(text: &str) -> XattrName {
    XattrName::new(text.as_bytes()).unwrap()
}

pub(crate) fn errno(errno: rustix::io::Errno) -> Errno {
    errno.into()
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::with_roots(1)
    }

    pub(crate) fn with_roots(count: usize) -> Self {
        let dirs: Vec<_> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        Self::of(dirs)
    }

    /// With patterns of what is excluded.
    pub(crate) fn excluding(patterns: &[&str], leftovers: Leftovers) -> Self {
        let mut scratch = Self::new();
        let patterns: Vec<String> = patterns.iter().map(|one| (*one).to_owned()).collect();
        let excluded = [Exclusions::parse(&patterns).unwrap()].into_iter().collect();
        scratch.store = scratch.store.excluding(excluded, leftovers);
        scratch
    }

    /// Over a directory of the caller's.
    pub(crate) fn over(path: &Path) -> Self {
        let store = Store::new(vec![open_root(path)]).unwrap();
        Scratch { store, dirs: vec![] }
    }

    fn of(dirs: Vec<tempfile::TempDir>) -> Self {
        let store: Result<Store, BackingError> =
            Store::new(dirs.iter().map(|dir| open_root(dir.path())).collect());
        Scratch {
            store: store.unwrap(),
            dirs,
        }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dirs[0].path().join(below)
    }

    pub(crate) fn create_operation(&self, parent: InodeId, text: &str, kind: NodeKind, mode: u32) -> Create {
        Create {
            parent,
            name: name(text),
            inode: self.store.next_inode(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            acls: vec![],
            time: TIME,
        }
    }

    pub(crate) fn create(&self, parent: InodeId, text: &str, kind: NodeKind, mode: u32) -> InodeId {
        let create = self.create_operation(parent, text, kind, mode);
        let inode = create.inode;
        self.applied(&Operation::Create(create));
        inode
    }

    pub(crate) fn file(&self, text: &str, data: &[u8]) -> InodeId {
        let inode = self.create(ROOT, text, NodeKind::File, 0o644);
        if !data.is_empty() {
            self.applied(&write(inode, 0, data));
        }
        inode
    }

    pub(crate) fn directory(&self, parent: InodeId, text: &str) -> InodeId {
        self.create(parent, text, NodeKind::Directory, 0o755)
    }

    pub(crate) fn applied(&self, operation: &Operation) -> Applied {
        match self.store.apply(operation) {
            Outcome::Applied(applied) => applied,
            other => panic!("{operation:?} gave {other:?}"),
        }
    }

    /// Refused with this errno by `apply`, and foreseen by `would_refuse`.
    pub(crate) fn refused(&self, operation: &Operation, expected: rustix::io::Errno) {
        assert_eq!(
            self.store.would_refuse(operation),
            Some(errno(expected)),
            "foreseen for {operation:?}"
        );
        assert_eq!(
            self.store.apply(operation),
            Outcome::Refused(errno(expected)),
            "{operation:?}"
        );
    }
}

pub(crate) fn write(inode: InodeId, offset: u64, data: &[u8]) -> Operation {
    Operation::Write {
        inode,
        offset,
        data: Bytes::copy_from_slice(data),
        time: Some(TIME),
        mode: None,
    }
}

pub(crate) fn unlink(parent: InodeId, text: &str, inode: InodeId, last: bool) -> Operation {
    Operation::Unlink(Unlink {
        parent,
        name: name(text),
        directory: false,
        victim: Victim { inode, last },
        time: TIME,
    })
}

pub(crate) fn rmdir(parent: InodeId, text: &str, inode: InodeId) -> Operation {
    Operation::Unlink(Unlink {
        parent,
        name: name(text),
        directory: true,
        victim: Victim { inode, last: true },
        time: TIME,
    })
}

pub(crate) fn link(inode: InodeId, parent: InodeId, text: &str) -> Operation {
    Operation::Link {
        inode,
        parent,
        name: name(text),
        time: TIME,
    }
}

pub(crate) fn rename(
    from: (InodeId, &str),
    to: (InodeId, &str),
    mode: RenameMode,
    moved: InodeId,
    replaced: Option<Victim>,
) -> Operation {
    Operation::Rename(Rename {
        source_parent: from.0,
        source_name: name(from.1),
        target_parent: to.0,
        target_name: name(to.1),
        mode,
        moved,
        replaced,
        time: TIME,
    })
}

pub(crate) fn attributes(inode: InodeId, attributes: Attributes) -> Operation {
    Operation::SetAttributes { inode, attributes }
}

/// Moves the calling thread into a mount namespace of its own; it ends with the thread and its children.
pub(crate) fn private_mounts() {
    use rustix::mount::{MountPropagationFlags as Flags, mount_change};
    // SAFETY: the thread was started for this test alone, and no other shares its namespace from here on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS).unwrap() };
    mount_change("/", Flags::PRIVATE | Flags::REC).unwrap();
}

pub(crate) fn mount_tmpfs(path: &Path) {
    rustix::mount::mount("none", path, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
}
