//! What the primary finds out about itself when the secondary and it disagree about room: whether it would refuse
//! too, and what its true state is.

use super::read::Sought;
use super::room::is_room;
use super::store::Store;
use crate::operation::{
    Attributes, Errno, FallocateMode, InodeId, Operation, Timestamp, WRITE_BYTES_MAX, XattrMode,
};
use crate::session::repair::undo_name_operation;
use rustix::fs::Stat;
use rustix::io::Errno as System;

/// Most bytes that a repair reads and ships. Beyond it the secondary is left behind: the application would wait
/// longer than for a decision.
const REPAIR_BYTES_MAX: u64 = 64 << 20;

impl Store {
    /// Whether this node would refuse `operation` as the secondary did, with `refused`. Changes no content: for
    /// room, blocks may be reserved where the operation would need them.
    pub fn refusal_like(&self, operation: &Operation, refused: Errno) -> Option<Errno> {
        if is_room(refused) {
            return self.lacks_room(operation);
        }
        self.would_refuse(operation)
            .or_else(|| self.beyond_limits(operation))
    }

    /// The operations that make the other copy what this one is, in everything that `operation` may have changed
    /// there; none when no bounded list of operations does.
    ///
    /// # Errors
    /// When this node's state cannot be read.
    pub fn true_state(&self, operation: &Operation) -> Result<Option<Vec<Operation>>, Errno> {
        match operation {
            Operation::Create(create) => self.undone(operation, create.parent),
            Operation::Link { parent, .. } => self.undone(operation, *parent),
            Operation::Unlink(unlink) => self.undone(operation, unlink.parent),
            Operation::Rename(rename) => {
                let undone = self.undone(operation, rename.target_parent)?;
                Ok(undone.map(|mut operations| {
                    // The two directories' times may differ; the rename carries one.
                    operations.extend(self.time_of(rename.source_parent).ok());
                    operations
                }))
            }
            Operation::Write {
                inode, offset, data, ..
            } => self.range(*inode, *offset, data.len() as u64).map(Some),
            Operation::Fallocate {
                inode,
                offset,
                length,
                ..
            } if *length <= REPAIR_BYTES_MAX => self.range(*inode, *offset, *length).map(Some),
            Operation::CopyRange {
                target,
                target_offset,
                length,
                ..
            } => self.range(*target, *target_offset, *length).map(Some),
            Operation::SetAttributes { inode, attributes } => {
                let status = self.status(*inode)?;
                let size = status.st_size as u64;
                match attributes.size {
                    // Shrinking has taken content away there that is still here.
                    Some(cut) if cut < size && size - cut > REPAIR_BYTES_MAX => Ok(None),
                    Some(cut) if cut < size => self.range(*inode, cut, size - cut).map(Some),
                    _ => Ok(Some(vec![attributes_of(*inode, &status)])),
                }
            }
            Operation::SetXattr { inode, name, .. } | Operation::RemoveXattr { inode, name } => {
                let restored = match self.xattr(*inode, name) {
                    Ok(value) => Operation::SetXattr {
                        inode: *inode,
                        name: name.clone(),
                        value: value.into(),
                        mode: XattrMode::Set,
                        set_mode: None,
                    },
                    Err(errno) if errno == Errno::from(System::NODATA) => Operation::RemoveXattr {
                        inode: *inode,
                        name: name.clone(),
                    },
                    Err(errno) => return Err(errno),
                };
                let status = self.status(*inode)?;
                Ok(Some(vec![restored, attributes_of(*inode, &status)]))
            }
            Operation::Fallocate { .. }
            | Operation::Bind { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => Ok(None),
        }
    }

    fn undone(&self, operation: &Operation, directory: InodeId) -> Result<Option<Vec<Operation>>, Errno> {
        let time = mtime(&self.status(directory)?);
        Ok(undo_name_operation(operation, time).map(|undo| vec![undo]))
    }

    fn time_of(&self, inode: InodeId) -> Result<Operation, Errno> {
        let status = self.status(inode)?;
        let attributes = Attributes {
            mtime: Some(mtime(&status)),
            ..Attributes::default()
        };
        Ok(Operation::SetAttributes { inode, attributes })
    }

    /// Content, holes, size and attributes of `length` bytes from `offset`.
    fn range(&self, inode: InodeId, offset: u64, length: u64) -> Result<Vec<Operation>, Errno> {
        let status = self.status(inode)?;
        let size = status.st_size as u64;
        let end = size.min(offset.saturating_add(length));
        let resize = Attributes {
            size: Some(size),
            ..Attributes::default()
        };
        let mut operations = vec![Operation::SetAttributes {
            inode,
            attributes: resize,
        }];
        let mut at = offset;
        while at < end {
            let data = match self.seek(inode, at, Sought::Data) {
                Ok(data) => data.min(end),
                Err(errno) if errno == Errno::from(System::NXIO) => end,
                Err(errno) => return Err(errno),
            };
            if data > at {
                operations.push(Operation::Fallocate {
                    inode,
                    mode: FallocateMode::PunchHole,
                    offset: at,
                    length: data - at,
                    time: None,
                    set_mode: None,
                });
            }
            let hole = if data < end {
                self.seek(inode, data, Sought::Hole)?.min(end)
            } else {
                end
            };
            at = data;
            while at < hole {
                let piece = (hole - at).min(WRITE_BYTES_MAX as u64) as usize;
                let bytes = self.read(inode, at, piece)?;
                if bytes.is_empty() {
                    return Err(Errno::from(System::IO));
                }
                let next = at + bytes.len() as u64;
                operations.push(Operation::Write {
                    inode,
                    offset: at,
                    data: bytes,
                    time: None,
                    mode: None,
                });
                at = next;
            }
        }
        operations.push(attributes_of(inode, &status));
        Ok(operations)
    }
}

/// Mode, owner and times; the size too for a file, whatever it is there.
fn attributes_of(inode: InodeId, status: &Stat) -> Operation {
    let is_file = rustix::fs::FileType::from_raw_mode(status.st_mode) == rustix::fs::FileType::RegularFile;
    Operation::SetAttributes {
        inode,
        attributes: Attributes {
            mode: Some(status.st_mode & 0o7777),
            uid: Some(status.st_uid),
            gid: Some(status.st_gid),
            size: is_file.then_some(status.st_size as u64),
            atime: None,
            mtime: Some(mtime(status)),
            drop_capability: false,
        },
    }
}

fn mtime(status: &Stat) -> Timestamp {
    Timestamp {
        seconds: status.st_mtime,
        nanoseconds: u32::try_from(status.st_mtime_nsec).unwrap_or(0),
    }
}
