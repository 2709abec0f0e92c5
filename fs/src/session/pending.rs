//! One application operation on its way through the primary.

use super::names::Change;
use crate::hash::HashMap;
use crate::operation::{Errno, InodeId, Operation, Outcome, Touched};
use std::collections::BTreeSet;
use std::time::Duration;

/// The place of an operation in the primary's own order, in which it is applied there. Unlike a session's numbers
/// it also counts what is not shipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u64);

/// Names a submitted operation for its reply. The driver chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What an application wants, not numbered.
#[derive(Debug, Clone)]
pub(super) struct Submitted {
    /// None for what the primary itself wants.
    pub(super) ticket: Option<Ticket>,
    pub(super) operation: Operation,
    /// The secondary answered "not bound" once.
    pub(super) again: bool,
}

/// An operation that has a slot.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) submitted: Submitted,
    /// What the secondary gets in its place.
    pub(super) instead: Option<Box<Operation>>,
    pub(super) touched: Touched,
    pub(super) change: Option<Box<Change>>,
    pub(super) shipped: bool,
    pub(super) stage: Stage,
}

impl Pending {
    /// What the secondary is sent.
    pub(super) fn theirs(&self) -> &Operation {
        self.instead.as_deref().unwrap_or(&self.submitted.operation)
    }
}

/// How far an operation is. "Waits" is for the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Sent; its gate in the lanes is closed.
    Unanswered,
    /// Waits; the secondary has it.
    Accepted,
    /// Waits; it is this node's alone.
    Free,
    /// Waits; the secondary refused it.
    Refused(Errno),
    /// Waits; the secondary does not know its inode.
    NotBound,
    /// Runs here. `accepted`: the secondary has it.
    Applying { accepted: bool },
    /// This node is asked whether it would refuse too.
    Checking(Errno),
    /// This node would not refuse: waits for the parting, in its turn.
    Disagreed,
    /// This node refused what the secondary has: waits for the parting, to answer with this.
    Denied(Errno),
    /// A sync or checkpoint, which runs on both nodes at once.
    Both { here: Half, there: Half },
}

/// One node's part of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Waiting,
    Running,
    Done,
    /// There only: the secondary does not know the inode.
    NotBound,
}

/// What the local kernel works on, and since when. Checkpoints are left out: they may take as long as they take.
#[derive(Debug, Default)]
pub(super) struct InKernel {
    since: HashMap<Slot, Duration>,
    by_age: BTreeSet<(Duration, Slot)>,
}

impl InKernel {
    pub(super) fn begin(&mut self, slot: Slot, now: Duration) {
        self.end(slot);
        self.since.insert(slot, now);
        self.by_age.insert((now, slot));
    }

    pub(super) fn end(&mut self, slot: Slot) {
        if let Some(since) = self.since.remove(&slot) {
            self.by_age.remove(&(since, slot));
        }
    }

    pub(super) fn oldest(&self) -> Option<(Duration, Slot)> {
        self.by_age.first().copied()
    }
}

/// True for the errors that say "no room".
pub(super) fn is_no_room(errno: Errno) -> bool {
    use rustix::io::Errno as Os;
    [Os::NOSPC, Os::DQUOT, Os::TOOBIG]
        .iter()
        .any(|room| room.raw_os_error() == errno.0)
}

/// True for the errors that say "there is less room than this operation needs, here and now": those that a
/// repair answers.
pub(super) fn is_full(errno: Errno) -> bool {
    use rustix::io::Errno as Os;
    [Os::NOSPC, Os::DQUOT]
        .iter()
        .any(|room| room.raw_os_error() == errno.0)
}

/// True for the errors of a broken disk: those of the device, of a file system that made itself read-only for it,
/// and of damaged metadata (`EFSCORRUPTED` and `EFSBADCRC` of ext4 and XFS).
pub fn is_broken_disk(errno: Errno) -> bool {
    use rustix::io::Errno as Os;
    [Os::IO, Os::ROFS, Os::UCLEAN, Os::BADMSG]
        .iter()
        .any(|broken| broken.raw_os_error() == errno.0)
}

/// True for the refusals that names or attributes alone decide: both nodes must give the same one.
pub(super) fn is_about_names(errno: Errno) -> bool {
    use rustix::io::Errno as Os;
    let names = [
        Os::EXIST,
        Os::NOENT,
        Os::NOTEMPTY,
        Os::ISDIR,
        Os::NOTDIR,
        Os::LOOP,
        Os::MLINK,
        Os::NODATA,
    ];
    names.iter().any(|name| name.raw_os_error() == errno.0)
}

/// The errno of an outcome that is not "applied". The primary knows each inode that it works on, so `NotBound`
/// from its own store means that the inode's handle is stale: the disk lost it.
pub(super) fn errno_of(outcome: &Outcome) -> Option<Errno> {
    match outcome {
        Outcome::Applied(_) => None,
        Outcome::Refused(errno) | Outcome::Failed(errno) => Some(*errno),
        Outcome::NotBound(_) => Some(Errno(rustix::io::Errno::STALE.raw_os_error())),
    }
}

/// The entries whose names the kernel may have cached wrongly once this failed.
pub(super) fn entries(operation: &Operation) -> Vec<(InodeId, crate::operation::Name)> {
    match operation {
        Operation::Create(create) => vec![(create.parent, create.name.clone())],
        Operation::Link { parent, name, .. } => vec![(*parent, name.clone())],
        Operation::Unlink(unlink) => vec![(unlink.parent, unlink.name.clone())],
        Operation::Rename(rename) => vec![
            (rename.source_parent, rename.source_name.clone()),
            (rename.target_parent, rename.target_name.clone()),
        ],
        Operation::Bind { .. }
        | Operation::Write { .. }
        | Operation::SetAttributes { .. }
        | Operation::Fallocate { .. }
        | Operation::CopyRange { .. }
        | Operation::SetXattr { .. }
        | Operation::RemoveXattr { .. }
        | Operation::Sync { .. }
        | Operation::Checkpoint => Vec::new(),
    }
}
