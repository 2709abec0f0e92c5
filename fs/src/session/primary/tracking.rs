//! What the secondary may lack: marks of what goes on in sync, dropped by checkpoints; marks that are on disk before
//! the change is, while this node is alone; and what a copy begins with.
//!
//! In sync every shipped operation is entered in the map's current epoch. Every `checkpoint_interval`, if anything was
//! shipped, a checkpoint is numbered, which ends that epoch; once both nodes have it on disk and this one has noted
//! so, the epoch goes and the secondary is told ([`ToSecondary::Covered`]). At a parting all that is left is what the
//! secondary may lack.
//!
//! Alone, and while copying, an operation waits in the lanes until the records that it needs are durable. Records go
//! to the driver in order ([`Action::Mark`]); it writes as many at a time as have come ([`Event::Marked`]). What is
//! shipped while copying waits for them before it gets its number: should this process end, its successor's copy knows
//! of what reached the secondary by the map on disk alone.

use super::{Action, Primary, State};
use crate::dirty::{DirtyMap, EpochId, MarkSeq, Place, Plan, Record};
use crate::hash::{HashMap, HashSet};
use crate::operation::{FileHandle, InodeId, Name, Number, Operation};
use crate::session::pending::{Pending, Slot, Submitted};
use crate::wire::message::ToSecondary;
use std::collections::BTreeMap;
use std::time::Duration;

/// The dirty map and what the session keeps beside it.
#[derive(Debug)]
pub(super) struct Tracking {
    pub(super) map: DirtyMap,
    /// The map was cut loose: nothing is tracked and the next copy is whole. Why.
    pub(super) lost: Option<String>,
    /// Operations that wait for records to be durable.
    marking: BTreeMap<MarkSeq, Vec<Slot>>,
    /// How the secondary finds inodes that the map speaks of, as it told while in sync.
    pub(super) peers: HashMap<InodeId, FileHandle>,
    /// What the secondary has under these numbers was made, or taken for them, by a tracked copy that is not complete: all
    /// of it may differ, whatever the map says. Their handles must not lead to them in a later copy.
    pub(super) placed: HashSet<InodeId>,
    /// Names were moved on the secondary since the parting: places do not identify any more.
    pub(super) names_moved: bool,
    checkpoint: Checkpoint,
    /// Checkpoints that both nodes have, and the record does not count yet, nor is about to.
    uncounted: u64,
    /// Those that the driver is about to write into it.
    counting: u64,
    /// Inodes that keep their entry for the present epoch.
    kept: Vec<InodeId>,
    /// And for those that end with a checkpoint that is under way.
    kept_sealed: Vec<InodeId>,
}

/// The periodic checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checkpoint {
    /// Nothing was changed since the last one.
    Idle,
    /// Something was.
    Due(Duration),
    /// It is under way.
    Running {
        slot: Slot,
        number: Number,
        epoch: EpochId,
    },
    /// Both nodes have everything on disk; that is being written down here.
    Noting { number: Number, epoch: EpochId },
    /// It could not be. It is tried again before there is another checkpoint, so that the secondary, which has counted
    /// this one, is never far ahead of the record here (`UNCOUNTED_MAX` in `record.rs`).
    Unnoted {
        number: Number,
        epoch: EpochId,
        due: Duration,
    },
}

impl Tracking {
    pub(super) fn new(map: DirtyMap) -> Self {
        Tracking {
            map,
            lost: None,
            marking: BTreeMap::new(),
            peers: HashMap::default(),
            placed: HashSet::default(),
            names_moved: false,
            checkpoint: Checkpoint::Idle,
            uncounted: 0,
            counting: 0,
            kept: Vec::new(),
            kept_sealed: Vec::new(),
        }
    }
}

impl Primary {
    /// An operation is about to be shipped in sync.
    pub(super) fn note_shipped(&mut self, operation: &Operation, now: Duration) {
        if operation.is_sync() || matches!(operation, Operation::Bind { .. }) {
            return;
        }
        self.tracking.map.apply(operation);
        for inode in operation.touched().iter() {
            if self.names.keep(*inode) {
                self.tracking.kept.push(*inode);
            }
        }
        if self.tracking.checkpoint == Checkpoint::Idle {
            self.tracking.checkpoint = Checkpoint::Due(now + self.settings.checkpoint_interval);
        }
    }

    /// The record says that this node's copy alone is whole: what the secondary may lack is what the map on disk says.
    pub(super) fn counts_on_map(&self) -> bool {
        self.is_alone() || self.is_copying() || self.is_noting_join()
    }

    /// An operation is about to be numbered while this node's copy alone is whole. What it must wait for.
    pub(super) fn track(&mut self, operation: &Operation, actions: &mut Vec<Action>) -> Option<MarkSeq> {
        if operation.is_sync() || self.tracking.lost.is_some() {
            return None;
        }
        let names = &self.names;
        let place_of = |inode: InodeId| {
            names
                .place_there(inode)
                .map(|(parent, name)| Place { parent, name })
        };
        let tracked = self.tracking.map.track(operation, &place_of);
        for inode in operation.touched().iter() {
            // What has no name any more is marked all the same: a power loss may take the removal of its last name back
            // and leave what was written into it since. Nobody asks for its number again.
            if !self.names.is_local(*inode) {
                self.names.keep(*inode);
            }
        }
        if !tracked.records.is_empty() {
            actions.push(Action::Mark {
                seq: tracked.seq,
                records: tracked.records,
            });
        }
        tracked.wait
    }

    /// An operation that was to make a name, and was tracked, is refused.
    pub(super) fn name_refused(&mut self, operation: &Operation, actions: &mut Vec<Action>) {
        let (directory, name) = match operation {
            Operation::Create(create) => (create.parent, &create.name),
            Operation::Link { parent, name, .. } => (*parent, name),
            Operation::Rename(rename) if rename.replaced.is_none() => {
                (rename.target_parent, &rename.target_name)
            }
            _ => return,
        };
        if !self.counts_on_map() || self.tracking.lost.is_some() {
            return;
        }
        let (seq, records) = self.tracking.map.was_not_new(directory, name);
        if !records.is_empty() {
            actions.push(Action::Mark { seq, records });
        }
    }

    pub(super) fn wait_for_mark(&mut self, slot: Slot, seq: MarkSeq) {
        self.tracking.marking.entry(seq).or_default().push(slot);
    }

    /// All records up to `seq` are on disk.
    pub(super) fn marked(&mut self, seq: MarkSeq) {
        self.tracking.map.durable(seq);
        let later = match self.tracking.marking.keys().find(|waits| **waits > seq).copied() {
            Some(first) => self.tracking.marking.split_off(&first),
            None => BTreeMap::new(),
        };
        for slot in std::mem::replace(&mut self.tracking.marking, later)
            .into_values()
            .flatten()
        {
            if self.lanes.open(slot) {
                self.ready.push_back(slot);
            }
        }
    }

    /// Records cannot be written. That the map is not complete is on disk: nothing waits for it any more, and the next
    /// copy compares everything.
    pub(super) fn untracked(&mut self, reason: String, actions: &mut Vec<Action>) {
        if self.tracking.lost.is_some() {
            return;
        }
        // The copy has just ended: what waited is at the secondary, and the map is of no use any more.
        let is_over = self.is_in_sync();
        if !is_over {
            self.tracking.lost = Some(reason.clone());
            self.tracking.map.forget_all();
            actions.push(Action::TrackingLost { reason });
        }
        for slot in std::mem::take(&mut self.tracking.marking).into_values().flatten() {
            if self.lanes.open(slot) {
                self.ready.push_back(slot);
            }
        }
    }

    /// The secondary is lost: whatever it may lack is what the next copy begins with. Also after a copy's end.
    pub(super) fn part_map(&mut self) {
        self.tracking.checkpoint = Checkpoint::Idle;
        let names = &self.names;
        let place_of = |inode: InodeId| {
            names
                .place_there(inode)
                .map(|(parent, name)| Place { parent, name })
        };
        // What is numbered and not answered is applied here in any case.
        let is_change = |pending: &Pending| !pending.submitted.operation.is_sync();
        let changes = self.pending.values().any(is_change) || !self.settling.is_empty();
        self.tracking.map.part(&place_of, changes);
        for inode in std::mem::take(&mut self.tracking.placed) {
            self.names.unbind(inode);
        }
        for inode in self.tracking.map.plan().nodes.keys() {
            if let Some(handle) = self.names.peer_handle(*inode) {
                self.tracking.peers.insert(*inode, handle.clone());
            }
        }
        // They stay until the map is empty again.
        self.tracking.kept.clear();
        self.tracking.kept_sealed.clear();
    }

    /// Both copies are the same from this moment on.
    pub(super) fn begin_map(&mut self) {
        let marked: Vec<InodeId> = self.tracking.map.plan().nodes.keys().copied().collect();
        self.tracking = Tracking::new(DirtyMap::new(self.settings.extent_bytes));
        for inode in marked {
            self.names.let_go(inode);
        }
    }

    /// The secondary has noted that its copy is up-to-date: what it lacked before is there and on disk on both nodes.
    /// What was shipped since goes on being marked until a checkpoint covers it.
    pub(super) fn map_joined(&mut self) {
        let before: Vec<InodeId> = self.tracking.map.plan().nodes.keys().copied().collect();
        self.tracking.map.joined();
        self.tracking.lost = None;
        self.tracking.peers = HashMap::default();
        self.tracking.placed = HashSet::default();
        self.tracking.names_moved = false;
        for inode in before {
            if self.tracking.map.is_marked(inode) {
                self.tracking.kept.push(inode);
            } else {
                self.names.let_go(inode);
            }
        }
    }

    /// Nothing is marked.
    #[cfg(test)]
    pub(crate) fn has_no_marks(&self) -> bool {
        self.tracking.map.is_empty()
    }

    /// A checkpoint is under way.
    #[cfg(test)]
    pub(crate) fn has_sealed_marks(&self) -> bool {
        matches!(self.tracking.checkpoint, Checkpoint::Running { .. })
    }

    /// What a copy begins with, and how the secondary finds the inodes in it; none if everything must be compared.
    pub fn copy_plan(&self) -> Option<(Plan, HashMap<InodeId, FileHandle>, bool)> {
        if self.tracking.lost.is_some() || self.tracking.map.is_everything() {
            return None;
        }
        Some((
            self.tracking.map.plan().clone(),
            self.tracking.peers.clone(),
            self.tracking.names_moved,
        ))
    }

    /// As [`DirtyMap::write_names`], before [`Event::CopyBegun`](super::Event::CopyBegun).
    pub fn write_names(&mut self) -> (MarkSeq, Vec<Record>) {
        self.tracking.map.write_names()
    }

    /// As [`DirtyMap::mark_names`].
    pub fn mark_names(&mut self, directory: InodeId, names: &[Name]) -> (MarkSeq, Vec<Record>) {
        self.tracking.map.mark_names(directory, names)
    }

    /// As [`DirtyMap::is_fresh`].
    pub fn is_fresh(&self, inode: InodeId) -> bool {
        self.tracking.map.is_fresh(inode)
    }

    /// How the secondary finds an inode again on its own disk, as far as it has told.
    pub fn peer_of(&self, inode: InodeId) -> Option<FileHandle> {
        let told = self.tracking.peers.get(&inode);
        let named = || {
            let handle = self.names.peer_handle(inode);
            handle.filter(|_| !self.tracking.placed.contains(&inode))
        };
        told.or_else(named).cloned()
    }

    /// How much the map names: inodes, bytes; none when everything must be compared.
    pub fn tracked(&self) -> Option<(u64, u64)> {
        if self.tracking.lost.is_some() || self.tracking.map.is_everything() {
            return None;
        }
        Some(self.tracking.map.size())
    }

    /// A map that was kept on disk. The inodes in it are known under these numbers from now on.
    pub fn restore_map(&mut self, map: DirtyMap, peers: HashMap<InodeId, FileHandle>, names_moved: bool) {
        for inode in map.plan().nodes.keys() {
            self.names.keep(*inode);
        }
        for inode in map.plan().names.keys().chain(map.plan().additions.iter()) {
            self.names.keep(*inode);
        }
        self.tracking = Tracking::new(map);
        self.tracking.peers = peers;
        self.tracking.names_moved = names_moved;
        if names_moved {
            // They are on disk, one by one, with the map that this process writes before anything else.
            self.tracking.map.write_names();
        }
    }

    /// What differs is not known: the next copy compares everything.
    pub fn lose_map(&mut self, reason: String) {
        self.tracking.lost = Some(reason);
        self.tracking.map.forget_all();
    }

    /// The secondary told its handles of inodes before a copy changes names there.
    pub(super) fn identified(&mut self, found: Vec<(InodeId, FileHandle)>) {
        for (inode, handle) in found {
            self.names.set_bound(inode);
            self.names.learn_peer_handle(inode, handle.clone());
            self.tracking.peers.insert(inode, handle);
        }
    }

    /// The end, with what is left to be counted.
    pub(super) fn ended(&mut self, with_peer: bool) -> Action {
        let checkpoints = self.take_uncounted();
        Action::Ended {
            with_peer,
            checkpoints,
        }
    }

    /// Checkpoints that both nodes have and the record does not count yet: it is about to.
    pub(super) fn take_uncounted(&mut self) -> u64 {
        std::mem::take(&mut self.tracking.uncounted)
    }

    pub(super) fn checkpoint_due(&self) -> Option<Duration> {
        match self.tracking.checkpoint {
            Checkpoint::Due(due) | Checkpoint::Unnoted { due, .. } if self.may_checkpoint() => Some(due),
            Checkpoint::Idle
            | Checkpoint::Due(_)
            | Checkpoint::Unnoted { .. }
            | Checkpoint::Running { .. }
            | Checkpoint::Noting { .. } => None,
        }
    }

    fn may_checkpoint(&self) -> bool {
        matches!(self.state, State::InSync { .. })
            && self.joining == super::Joining::No
            && self.ending == super::Ending::No
    }

    /// Numbers a checkpoint if one is due, or has the last one noted.
    pub(super) fn check_checkpoint(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.checkpoint_due().is_none_or(|due| now < due) {
            return;
        }
        if let Checkpoint::Unnoted { number, epoch, .. } = self.tracking.checkpoint {
            self.note_checkpoint(number, epoch, actions);
            return;
        }
        let epoch = self.tracking.map.seal();
        let mut kept = std::mem::take(&mut self.tracking.kept);
        self.tracking.kept_sealed.append(&mut kept);
        let checkpoint = Submitted {
            ticket: None,
            operation: Operation::Checkpoint,
            again: false,
        };
        self.number(checkpoint, now, actions);
        self.tracking.checkpoint = Checkpoint::Running {
            slot: self.last_slot,
            number: self.stream.last(),
            epoch,
        };
    }

    /// A checkpoint that the secondary took part in ended well.
    pub(super) fn checkpoint_ended(&mut self, slot: Slot, actions: &mut Vec<Action>) {
        self.tracking.uncounted += 1;
        if let Checkpoint::Running {
            slot: running,
            number,
            epoch,
        } = self.tracking.checkpoint
            && running == slot
        {
            self.note_checkpoint(number, epoch, actions);
        }
    }

    fn note_checkpoint(&mut self, number: Number, epoch: EpochId, actions: &mut Vec<Action>) {
        self.tracking.checkpoint = Checkpoint::Noting { number, epoch };
        self.tracking.counting = std::mem::take(&mut self.tracking.uncounted);
        actions.push(Action::NoteCheckpoint {
            more: self.tracking.counting,
        });
    }

    /// That both nodes have everything on disk is written down here.
    pub(super) fn checkpoint_noted(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.tracking.counting = 0;
        let Checkpoint::Noting { number, epoch } = self.tracking.checkpoint else {
            return;
        };
        self.tracking.map.covered(epoch);
        let mut still = Vec::new();
        for inode in std::mem::take(&mut self.tracking.kept_sealed) {
            if self.tracking.map.is_marked(inode) {
                still.push(inode);
            } else {
                self.names.let_go(inode);
            }
        }
        self.tracking.kept.append(&mut still);
        self.tracking.checkpoint = if self.tracking.map.is_empty() {
            Checkpoint::Idle
        } else {
            Checkpoint::Due(now + self.settings.checkpoint_interval)
        };
        if self.is_in_sync() {
            actions.push(Action::Send(ToSecondary::Covered { number }));
        }
    }

    /// That cannot be written down: the marks stay until it can.
    pub(super) fn checkpoint_not_noted(&mut self, now: Duration) {
        self.tracking.uncounted += std::mem::take(&mut self.tracking.counting);
        if let Checkpoint::Noting { number, epoch } = self.tracking.checkpoint {
            let due = now + self.settings.checkpoint_interval;
            self.tracking.checkpoint = Checkpoint::Unnoted { number, epoch, due };
        }
    }
}
