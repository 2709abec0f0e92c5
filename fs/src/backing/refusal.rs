//! What an errno means, and which operations the names and attributes as they are would refuse.

use super::data::{SOURCE_TOO_SHORT, ends_before};
use super::marker::is_own;
use super::node::{ACL_ACCESS, ACL_DEFAULT};
use super::open::{Access, Opened};
use super::store::{Store, Unopened};
use super::walk::is_reserved;
use crate::operation::Errno as OurErrno;
use crate::operation::{
    Create, InodeId, Name, NodeKind, Operation, Outcome, Rename, RenameMode, Unlink, XattrMode, XattrName,
};
use rustix::fs::{FileType, RawDir, Stat};
use rustix::io::Errno;

/// An operation that was not applied.
#[derive(Debug)]
pub(super) enum Failure {
    NotBound(InodeId),
    /// Nothing changed.
    Refused(OurErrno),
    /// Unknown what is there now.
    Failed(OurErrno),
}

impl Failure {
    /// The one place that decides between refused and failed.
    ///
    /// Failed is what came after something had `changed` already, and what says that the disk, the file system
    /// or the agreement with the peer is broken: `EIO`, `EROFS`, `EUCLEAN` and `EBADMSG` (corrupt metadata),
    /// `ENODEV`, `ENXIO`, `ENOMEDIUM`, `EREMOTEIO`, `ENOLINK`, `ETIMEDOUT` (the device is gone), `EBADF`
    /// (ours), `ESTALE` (a bound inode that is gone). Everything else refuses and leaves all as it was, no room
    /// (`ENOSPC`, `EDQUOT`) and no descriptor or memory (`EMFILE`, `ENFILE`, `ENOMEM`) included.
    pub(super) fn of(errno: Errno, changed: bool) -> Failure {
        let broken = matches!(
            errno,
            Errno::IO
                | Errno::ROFS
                | Errno::UCLEAN
                | Errno::BADMSG
                | Errno::NODEV
                | Errno::NXIO
                | Errno::NOMEDIUM
                | Errno::REMOTEIO
                | Errno::NOLINK
                | Errno::TIMEDOUT
                | Errno::BADF
                | Errno::STALE
        );
        if changed || broken {
            Failure::Failed(errno.into())
        } else {
            Failure::Refused(errno.into())
        }
    }

    /// For a system call that either does everything or nothing.
    pub(super) fn unchanged(errno: Errno) -> Failure {
        Failure::of(errno, false)
    }

    /// For a system call after something has changed.
    pub(super) fn midway(errno: Errno) -> Failure {
        Failure::of(errno, true)
    }
}

impl From<Unopened> for Failure {
    fn from(unopened: Unopened) -> Failure {
        match unopened {
            Unopened::NotBound(inode) => Failure::NotBound(inode),
            Unopened::Refused(errno) => Failure::unchanged(Errno::from_raw_os_error(errno.0)),
        }
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Outcome {
        match failure {
            Failure::NotBound(inode) => Outcome::NotBound(inode),
            Failure::Refused(errno) => Outcome::Refused(errno),
            Failure::Failed(errno) => Outcome::Failed(errno),
        }
    }
}

/// A refusal, or an error in finding out.
enum Verdict {
    Refuses(Errno),
    /// Nothing can be said: the question itself failed.
    Unknown,
}

impl From<Unopened> for Verdict {
    fn from(_: Unopened) -> Verdict {
        Verdict::Unknown
    }
}

type Checked = Result<(), Verdict>;

impl Store {
    /// Whether the names and attributes as they are now refuse `operation`, and with which errno: `EEXIST`,
    /// `ENOENT`, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`, `ELOOP`, `EMLINK`, `ENODATA`; also `EPERM` for the reserved
    /// name and attributes, `EXDEV` between two directories and from behind the end of a file, `EINVAL` for a directory moved
    /// into itself. Changes nothing.
    ///
    /// `None`: it would not be refused for these reasons, or that could not be found out.
    pub fn would_refuse(&self, operation: &Operation) -> Option<OurErrno> {
        let checked = match operation {
            Operation::Bind { parent, name, .. } => self.present(*parent, name).map(drop),
            Operation::Create(create) => self.check_create(create),
            Operation::Link {
                inode, parent, name, ..
            } => self.check_link(*inode, *parent, name),
            Operation::Unlink(unlink) => self.check_unlink(unlink),
            Operation::Rename(rename) => self.check_rename(rename),
            Operation::Write { inode, .. } | Operation::Fallocate { inode, .. } => self.check_data(*inode),
            Operation::CopyRange {
                source,
                source_offset,
                target,
                length,
                ..
            } => self.check_copy((*source, *source_offset), *target, *length),
            Operation::SetAttributes { inode, attributes } if attributes.size.is_some() => {
                self.check_data(*inode)
            }
            Operation::SetXattr {
                inode, name, mode, ..
            } => self.check_set_xattr(*inode, name, *mode),
            Operation::RemoveXattr { inode, name } => self.check_remove_xattr(*inode, name),
            Operation::SetAttributes { .. } | Operation::Sync { .. } | Operation::Checkpoint => Ok(()),
        };
        match checked {
            Ok(()) | Err(Verdict::Unknown) => None,
            Err(Verdict::Refuses(errno)) => Some(errno.into()),
        }
    }

    fn check_create(&self, create: &Create) -> Checked {
        let parent = self.live_directory(create.parent, &create.name)?;
        self.absent(create.parent, &create.name)?;
        if matches!(create.kind, NodeKind::Directory) {
            self.room_for_link(create.parent, &parent)?;
        }
        Ok(())
    }

    fn check_link(&self, inode: InodeId, parent: InodeId, name: &Name) -> Checked {
        self.live_directory(parent, name)?;
        self.same_root(inode, parent)?;
        self.absent(parent, name)?;
        let status = self.node_status(inode)?;
        refuse_if(status.st_nlink == 0, Errno::NOENT)?;
        refuse_if(is_directory(&status), Errno::PERM)?;
        self.room_for_link(inode, &status)
    }

    fn check_unlink(&self, unlink: &Unlink) -> Checked {
        self.not_reserved(unlink.parent, &unlink.name)?;
        let (opened, status) = self.present(unlink.parent, &unlink.name)?;
        match (unlink.directory, is_directory(&status)) {
            (true, false) => Err(Verdict::Refuses(Errno::NOTDIR)),
            (false, true) => Err(Verdict::Refuses(Errno::ISDIR)),
            (true, true) => refuse_if(!holds_nothing(&opened)?, Errno::NOTEMPTY),
            (false, false) => Ok(()),
        }
    }

    fn check_rename(&self, rename: &Rename) -> Checked {
        self.not_reserved(rename.source_parent, &rename.source_name)?;
        let target_parent = self.live_directory(rename.target_parent, &rename.target_name)?;
        self.same_root(rename.source_parent, rename.target_parent)?;
        let (_, moved) = self.present(rename.source_parent, &rename.source_name)?;
        let target = match self.find(rename.target_parent, &rename.target_name) {
            Ok((opened, found)) => Some((opened, found.status)),
            Err(Unopened::Refused(errno)) if errno == OurErrno::from(Errno::NOENT) => None,
            Err(other) => return Err(other.into()),
        };
        // In the kernel's order, so that the errno is the same when several apply.
        match (rename.mode, &target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Verdict::Refuses(Errno::EXIST)),
            (RenameMode::Exchange, None) => return Err(Verdict::Refuses(Errno::NOENT)),
            _ => {}
        }
        let moves = rename.source_parent != rename.target_parent;
        if is_directory(&moved) && moves {
            self.not_beneath(rename.target_parent, &moved, Errno::INVAL)?;
        }
        let Some((opened, target)) = target else {
            if is_directory(&moved) && moves {
                self.room_for_link(rename.target_parent, &target_parent)?;
            }
            return Ok(());
        };
        if rename.mode == RenameMode::Exchange {
            if is_directory(&target) && moves {
                self.not_beneath(rename.source_parent, &target, Errno::INVAL)?;
            }
            return Ok(());
        }
        if is_directory(&target) && moves {
            self.not_beneath(rename.source_parent, &target, Errno::NOTEMPTY)?;
        }
        if same_node(&moved, &target) {
            return Ok(());
        }
        match (is_directory(&moved), is_directory(&target)) {
            (true, false) => Err(Verdict::Refuses(Errno::NOTDIR)),
            (false, true) => Err(Verdict::Refuses(Errno::ISDIR)),
            (true, true) => refuse_if(!holds_nothing(&opened)?, Errno::NOTEMPTY),
            (false, false) => Ok(()),
        }
    }

    fn check_copy(&self, (source, offset): (InodeId, u64), target: InodeId, length: u64) -> Checked {
        self.check_data(source)?;
        self.check_data(target)?;
        let status = self.node_status(source)?;
        refuse_if(ends_before(&status, offset, length), SOURCE_TOO_SHORT)
    }

    fn check_data(&self, inode: InodeId) -> Checked {
        match FileType::from_raw_mode(self.node_status(inode)?.st_mode) {
            FileType::Directory => Err(Verdict::Refuses(Errno::ISDIR)),
            FileType::Symlink => Err(Verdict::Refuses(Errno::LOOP)),
            FileType::RegularFile => Ok(()),
            _ => Err(Verdict::Unknown),
        }
    }

    fn check_set_xattr(&self, inode: InodeId, name: &XattrName, mode: XattrMode) -> Checked {
        refuse_if(is_own(self.is_root(inode), name.as_bytes()), Errno::PERM)?;
        match (mode, self.has_xattr(inode, name)?) {
            (XattrMode::Create, true) => Err(Verdict::Refuses(Errno::EXIST)),
            (XattrMode::Replace, false) => Err(Verdict::Refuses(Errno::NODATA)),
            (XattrMode::Set | XattrMode::Create | XattrMode::Replace, _) => Ok(()),
        }
    }

    fn check_remove_xattr(&self, inode: InodeId, name: &XattrName) -> Checked {
        refuse_if(is_own(self.is_root(inode), name.as_bytes()), Errno::PERM)?;
        // Removing an ACL that is not there succeeds.
        let is_acl = name.as_bytes() == ACL_ACCESS || name.as_bytes() == ACL_DEFAULT;
        refuse_if(!is_acl && !self.has_xattr(inode, name)?, Errno::NODATA)
    }

    fn has_xattr(&self, inode: InodeId, name: &XattrName) -> Result<bool, Verdict> {
        let opened = self.open(inode, Access::Path)?;
        let kind = FileType::from_raw_mode(opened.status().map_err(|_| Verdict::Unknown)?.st_mode);
        // Elsewhere the whole namespace is refused (EPERM), whether an attribute is there or not.
        let can_have = matches!(kind, FileType::RegularFile | FileType::Directory);
        if name.as_bytes().starts_with(b"user.") && !can_have {
            return Err(Verdict::Unknown);
        }
        opened.has_xattr(name.as_bytes()).map_err(|_| Verdict::Unknown)
    }

    /// The entry that must be there.
    fn present(&self, parent: InodeId, name: &Name) -> Result<(Opened, Stat), Verdict> {
        match self.find(parent, name) {
            Ok((opened, found)) => Ok((opened, found.status)),
            Err(Unopened::Refused(errno)) if errno == OurErrno::from(Errno::NOENT) => {
                Err(Verdict::Refuses(Errno::NOENT))
            }
            Err(Unopened::Refused(errno)) if errno == OurErrno::from(Errno::NOTDIR) => {
                Err(Verdict::Refuses(Errno::NOTDIR))
            }
            Err(other) => Err(other.into()),
        }
    }

    fn absent(&self, parent: InodeId, name: &Name) -> Checked {
        match self.present(parent, name) {
            Ok(_) => Err(Verdict::Refuses(Errno::EXIST)),
            Err(Verdict::Refuses(Errno::NOENT)) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// A directory that can take the name `name`.
    fn live_directory(&self, directory: InodeId, name: &Name) -> Result<Stat, Verdict> {
        self.not_reserved(directory, name)?;
        let status = self.node_status(directory)?;
        refuse_if(!is_directory(&status), Errno::NOTDIR)?;
        refuse_if(status.st_nlink == 0, Errno::NOENT)?;
        Ok(status)
    }

    fn node_status(&self, inode: InodeId) -> Result<Stat, Verdict> {
        self.open(inode, Access::Path)?
            .status()
            .map_err(|_| Verdict::Unknown)
    }

    fn not_reserved(&self, parent: InodeId, name: &Name) -> Checked {
        refuse_if(is_reserved(self.is_root(parent), name.as_bytes()), Errno::PERM)
    }

    fn same_root(&self, one: InodeId, other: InodeId) -> Checked {
        refuse_if(self.root_of(one)? != self.root_of(other)?, Errno::XDEV)
    }

    /// `directory` is neither the directory `top` nor anywhere below it.
    fn not_beneath(&self, directory: InodeId, top: &Stat, errno: Errno) -> Checked {
        let root = self.root(self.root_of(directory)?);
        let end = root.node().status().map_err(|_| Verdict::Unknown)?;
        let mut here = self.open(directory, Access::Path)?;
        loop {
            let status = here.status().map_err(|_| Verdict::Unknown)?;
            refuse_if(same_node(&status, top), errno)?;
            // The file system's own root is its own parent.
            if same_node(&status, &end) {
                return Ok(());
            }
            here = super::open::parent_of(&here).map_err(|_| Verdict::Unknown)?;
            let above = here.status().map_err(|_| Verdict::Unknown)?;
            if same_node(&above, &status) || above.st_dev != status.st_dev {
                return Ok(());
            }
        }
    }

    fn room_for_link(&self, inode: InodeId, status: &Stat) -> Checked {
        let opened = self.open(inode, Access::Path)?;
        let kind = rustix::fs::fstatfs(opened.fd())
            .map_err(|_| Verdict::Unknown)?
            .f_type;
        let most: u64 = match kind as u64 {
            EXT4 => 65_000,
            BTRFS => 65_535,
            _ => u64::from(i32::MAX as u32),
        };
        #[allow(clippy::unnecessary_cast, reason = "narrower on other architectures")]
        let links = status.st_nlink as u64;
        refuse_if(links >= most, Errno::MLINK)
    }
}

/// `EXT4_SUPER_MAGIC` and `BTRFS_SUPER_MAGIC`, linux/magic.h.
const EXT4: u64 = 0xEF53;
const BTRFS: u64 = 0x9123_683E;

fn refuse_if(condition: bool, errno: Errno) -> Checked {
    if condition {
        return Err(Verdict::Refuses(errno));
    }
    Ok(())
}

fn is_directory(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::Directory
}

fn same_node(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn holds_nothing(directory: &Opened) -> Result<bool, Verdict> {
    let list = || {
        let readable = super::open::open_directory(&directory.descriptor)?;
        let mut buffer = Vec::with_capacity(1024);
        let mut entries = RawDir::new(&readable, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    };
    list().map_err(|_: Errno| Verdict::Unknown)
}
