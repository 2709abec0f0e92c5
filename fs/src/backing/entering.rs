//! Reading an excluded file that a rename brings in, piece by piece, as operations that give it to the secondary.

use super::excluded::LINKED;
use super::node::mtime;
use super::read::Sought;
use super::store::Store;
use crate::operation::{
    Attributes, Create, Errno, InodeId, NodeKind, Operation, Rename, WRITE_BYTES_MAX, XattrMode,
};
use crate::session::primary::Piece;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno as System;

/// About so much data is in one piece.
const PIECE_BYTES: u64 = 4 << 20;

impl Store {
    /// What gives the secondary the file that `rename` brings in, from this byte on, under the name that it has now. Nothing
    /// else may change the file meanwhile.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read_in(&self, rename: &Rename, from: u64) -> Result<Piece, Errno> {
        let inode = rename.moved;
        let status = self.status(inode)?;
        let mut operations = Vec::new();
        if from == 0 {
            operations.push(self.creation(rename, &status)?);
        }
        let mut next = None;
        if FileType::from_raw_mode(status.st_mode) == FileType::RegularFile {
            next = self.read_data(inode, from, status.st_size.cast_unsigned(), &mut operations)?;
        }
        if next.is_none() {
            self.read_attributes(inode, &mut operations)?;
        }
        let handle = self.handle(inode).ok_or(Errno::from(System::STALE))?;
        Ok(Piece {
            operations,
            next,
            handle,
        })
    }

    fn creation(&self, rename: &Rename, status: &Stat) -> Result<Operation, Errno> {
        let inode = rename.moved;
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => NodeKind::File,
            FileType::Symlink => NodeKind::Symlink(self.link_target(inode)?.into()),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::CharacterDevice => NodeKind::CharacterDevice(status.st_rdev),
            FileType::BlockDevice => NodeKind::BlockDevice(status.st_rdev),
            // A directory stays on its side.
            FileType::Directory => return Err(System::ISDIR.into()),
            FileType::Unknown => return Err(System::UCLEAN.into()),
        };
        Ok(Operation::Create(Create {
            parent: rename.source_parent,
            name: rename.source_name.clone(),
            inode,
            kind,
            mode: status.st_mode & 0o7777,
            uid: status.st_uid,
            gid: status.st_gid,
            acls: Vec::new(),
            time: mtime(&self.status(rename.source_parent)?),
        }))
    }

    /// Data from `at` on, without holes; gives where the next piece begins.
    fn read_data(
        &self,
        inode: InodeId,
        mut at: u64,
        size: u64,
        operations: &mut Vec<Operation>,
    ) -> Result<Option<u64>, Errno> {
        let mut left = PIECE_BYTES;
        while at < size {
            at = match self.seek(inode, at, Sought::Data) {
                Ok(data) => data,
                Err(errno) if errno == Errno::from(System::NXIO) => return Ok(None),
                Err(errno) => return Err(errno),
            };
            let hole = self.seek(inode, at, Sought::Hole)?.min(size);
            while at < hole {
                if left == 0 {
                    return Ok(Some(at));
                }
                let length = (hole - at).min(left).min(WRITE_BYTES_MAX as u64);
                let data = self.read(inode, at, length as usize)?;
                if data.is_empty() {
                    return Err(System::IO.into());
                }
                let read = data.len() as u64;
                operations.push(Operation::Write {
                    inode,
                    offset: at,
                    data,
                    time: None,
                    mode: None,
                });
                at += read;
                left = left.saturating_sub(read);
            }
        }
        Ok(None)
    }

    /// The size first, because it drops attributes; the mode after ACLs, because they change it; the time last.
    fn read_attributes(&self, inode: InodeId, operations: &mut Vec<Operation>) -> Result<(), Errno> {
        let all = self.all_attributes(inode)?;
        let is_symlink = FileType::from_raw_mode(self.status(inode)?.st_mode) == FileType::Symlink;
        if all.size.is_some() {
            let attributes = Attributes {
                size: all.size,
                ..Attributes::default()
            };
            operations.push(Operation::SetAttributes { inode, attributes });
        }
        let xattrs = all.xattrs.into_iter();
        operations.extend(
            xattrs
                .filter(|(name, _)| name.as_bytes() != LINKED)
                .map(|(name, value)| Operation::SetXattr {
                    inode,
                    name,
                    value,
                    mode: XattrMode::Set,
                    set_mode: None,
                }),
        );
        let attributes = Attributes {
            mode: (!is_symlink).then_some(all.mode),
            mtime: Some(all.mtime),
            ..Attributes::default()
        };
        operations.push(Operation::SetAttributes { inode, attributes });
        Ok(())
    }
}
