//! Leading the secondary back after the primary had no room for what the secondary has accepted.
//!
//! Names are undone by the opposite operation, worked out here. Everything else is replaced by the primary's true
//! state, which only the driver can read.

use super::names::Change;
use super::pending::{Slot, Submitted};
use crate::operation::{
    Applied, Errno, NodeKind, Operation, Rename, RenameMode, Timestamp, Touched, Unlink, Victim,
};
use std::time::Duration;

/// An operation that is sorted out off the lanes: its inodes are held, and it goes on once nothing numbered touches
/// them any more.
#[derive(Debug)]
pub(super) struct Settling {
    pub(super) slot: Slot,
    pub(super) submitted: Submitted,
    pub(super) touched: Touched,
    pub(super) kind: Kind,
}

impl Settling {
    pub(super) fn is_repair(&self) -> bool {
        matches!(self.kind, Kind::Repair { .. })
    }
}

#[derive(Debug)]
pub(super) enum Kind {
    /// The secondary did not know an inode: bind and send again.
    Rebind,
    /// The primary had no room, or copied from where it had none. `result` is for the application.
    Repair {
        result: Result<Applied, Errno>,
        change: Option<Box<Change>>,
        since: Duration,
        step: Step,
    },
    /// A rename brings an excluded file in, which the secondary is given first. `next`: from which byte on the rest is to
    /// be read; none once all was.
    Entering { next: Option<u64>, step: Step },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Earlier and later numbered operations of its inodes end first.
    Settle,
    /// The driver reads the primary's true state.
    Reading,
    /// That many operations, which tell the secondary, are unanswered.
    Shipped(usize),
}

/// The operation that undoes a name operation, given the true `mtime` of its directory on the primary. None when what is gone cannot come
/// back by one operation, or the operation is not about names.
///
/// A rename carries one time for both directories: send the `mtime` of each after it, as `SetAttributes`.
pub fn undo_name_operation(operation: &Operation, time: Timestamp) -> Option<Operation> {
    match operation {
        Operation::Create(create) => Some(Operation::Unlink(Unlink {
            parent: create.parent,
            name: create.name.clone(),
            directory: matches!(create.kind, NodeKind::Directory),
            victim: Victim {
                inode: create.inode,
                last: true,
            },
            time,
        })),
        Operation::Link {
            inode, parent, name, ..
        } => Some(Operation::Unlink(Unlink {
            parent: *parent,
            name: name.clone(),
            directory: false,
            victim: Victim {
                inode: *inode,
                last: false,
            },
            time,
        })),
        Operation::Unlink(unlink) if !unlink.victim.last => Some(Operation::Link {
            inode: unlink.victim.inode,
            parent: unlink.parent,
            name: unlink.name.clone(),
            time,
        }),
        Operation::Rename(rename) => {
            let (mode, replaced) = match (rename.mode, rename.replaced) {
                (RenameMode::Exchange, other) => (RenameMode::Exchange, other),
                (RenameMode::Replace | RenameMode::NoReplace, None) => (RenameMode::NoReplace, None),
                (RenameMode::Replace | RenameMode::NoReplace, Some(_)) => return None,
            };
            Some(Operation::Rename(Rename {
                source_parent: rename.target_parent,
                source_name: rename.target_name.clone(),
                target_parent: rename.source_parent,
                target_name: rename.source_name.clone(),
                mode,
                moved: rename.moved,
                replaced,
                time,
            }))
        }
        Operation::Unlink(_)
        | Operation::Bind { .. }
        | Operation::Write { .. }
        | Operation::SetAttributes { .. }
        | Operation::Fallocate { .. }
        | Operation::CopyRange { .. }
        | Operation::SetXattr { .. }
        | Operation::RemoveXattr { .. }
        | Operation::Sync { .. }
        | Operation::Checkpoint => None,
    }
}
