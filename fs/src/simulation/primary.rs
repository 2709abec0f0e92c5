//! What the driver of a primary does (`replicator.rs`), step by step: each is one on its own, and between any two of
//! them anything may happen.

use super::copying::Attempt;
use super::disk::Ino;
use super::machine::{EXTENT_BYTES, Process};
use super::store::{self, Known, handle};
use super::world::{Call, World};
use crate::config::{EXTENT_BYTES_DEFAULT, OnPeerLoss};
use crate::dirty::store::{Saved, SavedRecord};
use crate::dirty::{DirtyMap, MarkSeq, Record as Mark};
use crate::hash::HashMap;
use crate::operation::{FileHandle, InodeId, Operation};
use crate::record::{End, Record, Role};
use crate::session::claims::ClaimId;
use crate::session::loss::Loss;
use crate::session::primary::{Action, Event, Phase, Primary, Settings, Slot, Ticket};
use crate::wire::message::{Generation, SessionId, ToSecondary, Welcome};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;
use std::time::Duration;

pub(super) const PEER_STALL: Duration = Duration::from_millis(300);
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(20);

pub(super) struct PrimarySide {
    pub(super) record: Record,
    pub(super) primary: Primary,
    pub(super) known: Known,
    /// Forgotten by the kernel and still needed.
    pub(super) lingering: HashMap<Ino, InodeId>,
    /// What the kernel knows.
    pub(super) kernel: HashMap<Ino, InodeId>,
    pub(super) work: Vec<Work>,
    /// A write of the record has reached the volume alone: no other begins.
    pub(super) is_writing: bool,
    marks: VecDeque<(MarkSeq, Option<Generation>, Vec<SavedRecord>)>,
    pub(super) marks_settled: MarkSeq,
    peer_counted: u64,
    joined_from: Option<Generation>,
    pub(super) asked: BTreeMap<Ticket, Asked>,
    pub(super) locked: BTreeSet<InodeId>,
    pub(super) next_ticket: u64,
    pub(super) call: Call,
    pub(super) attempt: Option<Attempt>,
    pub(super) granted: Option<(ClaimId, Vec<InodeId>)>,
    /// The next copy compares everything.
    pub(super) whole: bool,
    /// A person has said that whatever the secondary holds may be lost.
    pub(super) overwrite: bool,
    /// A secondary that was left behind and has not heard of it: the session, and what it confirms.
    pub(super) left_behind: Option<(SessionId, crate::operation::Number)>,
    /// No more requests: it is to end.
    pub(super) ends: bool,
    pub(super) is_over: bool,
}

/// A request of the application.
pub(super) struct Asked {
    pub(super) number: i64,
    pub(super) operation: Operation,
    /// What its inodes are on this disk.
    pub(super) inos: Vec<(InodeId, Ino)>,
}

/// What waits to be done on a thread of its own.
#[derive(Debug)]
pub(super) enum Work {
    Apply(Slot, Operation),
    Check(Slot, Operation),
    NoteAlone(Loss, Option<Saved>),
    NoteCheckpoint(u64),
    NoteJoined,
    NoteHandedOver(u64),
    NoteEnded {
        checkpoints: u64,
        saved: Option<Saved>,
    },
    ClearMap,
    /// The state directory gets what the volume has.
    File(Record, After),
}

/// What follows a write of the record.
#[derive(Debug)]
pub(super) enum After {
    Say(Box<Event>),
    /// The session begins.
    Connected(SessionId, Box<Welcome>),
    Over,
}

impl PrimarySide {
    pub(super) fn peer_checkpoint(&self) -> u64 {
        match self.peer_counted {
            0 => self.record.checkpoint,
            counted => counted - 1,
        }
    }

    fn find(&self, inode: InodeId) -> Option<(usize, FileHandle)> {
        self.known.ino(inode).map(|ino| (0, handle(ino)))
    }

    /// As `Replicator::saved`.
    fn saved(&self) -> Option<Saved> {
        let (plan, peers, names_moved) = self.primary.copy_plan()?;
        let peer = |inode| peers.get(&inode).cloned();
        Some(Saved {
            names_moved,
            peer_checkpoint: self.peer_checkpoint(),
            ..Saved::of(Generation([0; 16]), &plan, &|inode| self.find(inode), &peer)
        })
    }

    pub(super) fn add_marks(&mut self, seq: MarkSeq, marks: Vec<Mark>) {
        let peer = |inode| self.primary.peer_of(inode);
        let saved = marks
            .into_iter()
            .filter_map(|mark| SavedRecord::of(mark, &|inode| self.find(inode), &peer));
        let saved = saved.collect();
        self.marks.push_back((seq, self.record.generation, saved));
    }

    /// As `Replicator::number_of`.
    pub(super) fn number_of(&mut self, ino: Ino) -> InodeId {
        if let Some(inode) = self.kernel.get(&ino) {
            return *inode;
        }
        if let Some(inode) = self.lingering.remove(&ino)
            && self.primary.revive(inode)
        {
            return inode;
        }
        if self.primary.is_covering() {
            let inode = self.known.adopt(ino);
            self.primary.revive(inode);
            return inode;
        }
        let inode = self.known.next();
        self.known.learn(inode, ino);
        inode
    }

    /// As `Replicator::restore_map`.
    fn restore_map(&mut self, map: Option<Saved>) {
        if !self.record.peer_lacks_data {
            if self.record.open || self.record.generation.is_none() {
                self.primary.lose_map("no session has ended cleanly".into());
            }
            return;
        }
        let map = map.filter(|saved| {
            self.record.tracked && Some(saved.generation) == self.record.generation && !saved.everything
        });
        let Some(saved) = map else {
            self.primary.lose_map("there is none".into());
            return;
        };
        self.peer_counted = saved.peer_checkpoint + 1;
        let names_moved = saved.names_moved;
        let (known, lingering) = (&mut self.known, &mut self.lingering);
        let (marks, peers) = saved.adopt(|old, node| {
            if old == InodeId::root(0) {
                return old;
            }
            let new = known.next();
            let ino = store::by_handle(&node.handle).expect("a handle of this disk");
            known.learn(new, ino);
            lingering.insert(ino, new);
            new
        });
        let map = DirtyMap::restore(marks, extent_bytes());
        self.primary.restore_map(map, peers, names_moved);
    }
}

pub(super) fn extent_bytes() -> NonZeroU64 {
    NonZeroU64::new(EXTENT_BYTES).unwrap_or(EXTENT_BYTES_DEFAULT)
}

impl World {
    /// As `Module::mount_all` and `Replicator::new`: the machine's process, which has no role, becomes the primary.
    pub(super) fn become_primary(&mut self, at: usize) {
        let record = self.machines[at].record().expect("a process").clone();
        let settings = Settings {
            peer_stall: PEER_STALL,
            local_stall: Duration::from_secs(3600),
            on_peer_loss: OnPeerLoss::Alone,
            checkpoint_interval: CHECKPOINT_INTERVAL,
            extent_bytes: extent_bytes(),
            directories: 1,
        };
        let mut side = PrimarySide {
            record,
            primary: Primary::new(settings),
            known: Known::new(),
            lingering: HashMap::default(),
            kernel: HashMap::from_iter([(super::disk::TOP, InodeId::root(0))]),
            work: Vec::new(),
            is_writing: false,
            marks: VecDeque::new(),
            marks_settled: MarkSeq(0),
            peer_counted: 0,
            joined_from: None,
            asked: BTreeMap::new(),
            locked: BTreeSet::new(),
            next_ticket: 1,
            call: Call::No,
            attempt: None,
            granted: None,
            whole: false,
            overwrite: false,
            left_behind: None,
            ends: false,
            is_over: false,
        };
        side.restore_map(self.machines[at].durable.map.clone());
        let alone = side.record.peer_lacks_data;
        self.taken_over(at);
        self.machines[at].process = Process::Primary(Box::new(side));
        self.told(at, &format!("becomes primary, alone: {alone}"));
        if alone {
            self.primary_event(at, Event::GoAlone);
        }
    }

    pub(super) fn primary_side(&mut self, at: usize) -> Option<&mut PrimarySide> {
        match &mut self.machines[at].process {
            Process::Primary(side) => Some(side),
            _ => None,
        }
    }

    pub(super) fn primary_event(&mut self, at: usize, event: Event) {
        let now = self.now;
        let mut actions = Vec::new();
        let Some(side) = self.primary_side(at) else { return };
        if side.is_over {
            return;
        }
        side.primary.apply(event, now, &mut actions);
        self.obey_primary(at, actions);
    }

    pub(super) fn obey_primary(&mut self, at: usize, actions: Vec<Action>) {
        for action in actions {
            let Some(side) = self.primary_side(at) else { return };
            match action {
                Action::Send(mut message) => {
                    if let ToSecondary::Operation {
                        operation:
                            Operation::Bind {
                                inode, handle: given, ..
                            },
                        ..
                    } = &mut message
                        && let Some(ino) = side.known.ino(*inode)
                    {
                        *given = handle(ino);
                    }
                    self.wire.send_to_secondary(message);
                }
                Action::Apply { slot, operation } => side.work.push(Work::Apply(slot, operation)),
                Action::CheckRefusal { slot, operation, .. } => side.work.push(Work::Check(slot, operation)),
                Action::ReadBack { operation, .. } => panic!("there is room everywhere: {operation:?}"),
                Action::Mark { seq, records } => side.add_marks(seq, records),
                Action::NoteCheckpoint { more } => side.work.push(Work::NoteCheckpoint(more)),
                Action::TrackingLost { reason } => panic!("tracking is lost: {reason}"),
                Action::NoteAlone(loss) => {
                    let saved = side.saved();
                    side.work.push(Work::NoteAlone(loss, saved));
                }
                Action::NoteJoined => {
                    side.granted = None;
                    side.work.push(Work::NoteJoined);
                    self.brought_over(at);
                }
                Action::CopyFailed(_) => side.granted = None,
                Action::NoteHandedOver { checkpoints } => side.work.push(Work::NoteHandedOver(checkpoints)),
                Action::Ended {
                    with_peer,
                    checkpoints,
                } => {
                    let saved = side.saved();
                    self.told(at, &format!("ends, with its peer: {with_peer}"));
                    let Some(side) = self.primary_side(at) else { return };
                    side.work.push(Work::NoteEnded { checkpoints, saved });
                }
                Action::Forgotten(inodes) => {
                    for inode in &inodes {
                        if let Some(ino) = side.known.ino(*inode) {
                            side.lingering.remove(&ino);
                        }
                        side.kernel.retain(|_, known| known != inode);
                    }
                    side.known.forget(&inodes);
                }
                Action::Granted { claim, gone } => side.granted = Some((claim, gone)),
                Action::Close { .. } => self.wire.close(),
                Action::InSync => {
                    side.work.push(Work::ClearMap);
                    self.seen.in_sync += 1;
                }
                Action::Reply { ticket, result } => self.replied(at, ticket, &result),
                Action::PeerLost(_) => {
                    self.seen.parted += 1;
                }
                Action::DiskFailing { reason } => panic!("no disk fails: {reason}"),
                Action::Survey { .. } | Action::ReadIn { .. } => panic!("nothing is excluded"),
                Action::VerifyOver { .. } | Action::Mended { .. } => panic!("nothing is verified"),
                Action::CopyGoesOn
                | Action::Invalidate { .. }
                | Action::ConnectionLost
                | Action::Resumed { .. }
                | Action::WentAlone(_)
                | Action::PeerNoted
                | Action::NoteVerify { .. }
                | Action::Repairing
                | Action::Repaired
                | Action::Measured { .. } => {}
            }
        }
    }

    /// Does one thing that waits on the primary. False when it cannot be done yet.
    pub(super) fn primary_work(&mut self, at: usize, index: usize) -> bool {
        let here = self.machines[at].here();
        let generation = Generation(self.random.bytes());
        let notes_fail = self.notes_fail;
        let Some(side) = self.primary_side(at) else {
            return false;
        };
        let is_note = !matches!(
            side.work[index],
            Work::Apply(..) | Work::Check(..) | Work::File(..)
        );
        if side.is_writing && is_note {
            return false;
        }
        let work = side.work.remove(index);
        match work {
            Work::Apply(slot, operation) => {
                let machine = &mut self.machines[at];
                let Process::Primary(side) = &mut machine.process else {
                    return false;
                };
                let outcome = store::apply(&mut machine.disk, &mut side.known, &operation);
                self.primary_event(at, Event::LocalDone { slot, outcome });
            }
            Work::Check(slot, operation) => {
                let machine = &self.machines[at];
                let Process::Primary(side) = &machine.process else {
                    return false;
                };
                let refusal = store::would_refuse(&machine.disk, &side.known, &operation);
                self.primary_event(at, Event::Checked { slot, refusal });
            }
            Work::NoteAlone(loss, saved) => {
                let own = side.record.generation.filter(|_| side.record.peer_lacks_data);
                let generation = own.unwrap_or(generation);
                let tracked = saved.is_some();
                if let Some(saved) = saved {
                    self.machines[at].durable.map = Some(Saved { generation, ..saved });
                }
                let change = |record: &mut Record| {
                    record.part(generation, format!("goes on alone: {loss}"), here);
                    record.tracked = tracked;
                };
                self.write_record(at, change, After::Say(Box::new(Event::Noted { generation })));
                self.goes_alone(at);
            }
            Work::NoteCheckpoint(_) if notes_fail => {
                self.primary_event(at, Event::CheckpointNotNoted);
            }
            Work::NoteCheckpoint(more) => {
                let after = After::Say(Box::new(Event::CheckpointNoted));
                self.write_record(at, |record| record.checkpoint += more, after);
            }
            Work::NoteJoined => {
                self.machines[at].disk.sync_all();
                let Some(side) = self.primary_side(at) else {
                    return false;
                };
                side.joined_from = side.record.generation;
                if !side.record.peer_lacks_data {
                    let reason = "not alone any more".to_owned();
                    self.primary_event(at, Event::JoinNoteFailed { reason });
                    return true;
                }
                let change = |record: &mut Record| record.join(generation, Role::Primary, here);
                self.write_record(at, change, After::Say(Box::new(Event::JoinNoted { generation })));
            }
            Work::NoteHandedOver(checkpoints) => {
                let change = |record: &mut Record| {
                    if !record.peer_lacks_data {
                        record.end(End::HandedOver);
                    }
                    record.checkpoint += checkpoints;
                };
                self.write_record(at, change, After::Say(Box::new(Event::EndNoted)));
            }
            Work::NoteEnded { checkpoints, saved } => {
                let record = side.record.clone();
                let alone = record.peer_lacks_data;
                if let (Some(generation), true) = (record.generation, alone && record.tracked) {
                    let saved = saved.expect("a map that is complete");
                    self.machines[at].durable.map = Some(Saved { generation, ..saved });
                }
                if !alone {
                    self.primary_ended(at);
                    return true;
                }
                let change = |record: &mut Record| {
                    record.end_alone();
                    record.checkpoint += checkpoints;
                };
                self.write_record(at, change, After::Over);
            }
            Work::ClearMap => {
                side.peer_counted = 0;
                let former = side.joined_from.take();
                let map = &mut self.machines[at].durable.map;
                if former.is_some() && map.as_ref().map(|map| map.generation) == former {
                    *map = None;
                }
            }
            Work::File(record, after) => {
                side.is_writing = false;
                self.machines[at].end_record(record);
                self.after_record(at, after);
            }
        }
        true
    }

    pub(super) fn write_record(&mut self, at: usize, change: impl FnOnce(&mut Record), after: After) {
        match self.machines[at].begin_record(change) {
            Some(next) => {
                if let Some(side) = self.primary_side(at) {
                    side.is_writing = true;
                    side.work.push(Work::File(next, after));
                }
            }
            None => self.after_record(at, after),
        }
    }

    fn after_record(&mut self, at: usize, after: After) {
        match after {
            After::Say(event) => self.primary_event(at, *event),
            After::Over => self.primary_ended(at),
            After::Connected(session, welcome) => {
                self.begins_equal(at);
                self.primary_event(
                    at,
                    Event::Connected {
                        session,
                        welcome: *welcome,
                    },
                );
                if !self.wire.is_up() {
                    self.primary_link_lost(at);
                }
            }
        }
    }

    fn primary_ended(&mut self, at: usize) {
        self.told(at, "the primary has ended");
        self.stop_copying(at);
        if let Some(record) = self.machines[at].record().cloned() {
            self.application_ended();
            self.machines[at].process = Process::Stopped(record);
            self.wire.close();
            self.machines[at].disk.close_all();
        }
    }

    /// The marks that have come go to disk in one transaction.
    pub(super) fn write_marks(&mut self, at: usize) {
        let Some(side) = self.primary_side(at) else { return };
        let generation = side.record.generation;
        let mut records = Vec::new();
        let mut last = None;
        for (seq, of, some) in std::mem::take(&mut side.marks) {
            // Those of a time alone that is over are of no use any more.
            if of == generation {
                records.extend(some);
            }
            last = Some(seq);
        }
        let Some(seq) = last else { return };
        if !records.is_empty() {
            self.machines[at].add_marks(generation, records);
        }
        self.primary_event(at, Event::Marked { seq });
        if let Some(side) = self.primary_side(at) {
            side.marks_settled = seq;
        }
    }

    pub(super) fn phase(&self, at: usize) -> Option<Phase> {
        match &self.machines[at].process {
            Process::Primary(side) => Some(side.primary.phase()),
            _ => None,
        }
    }
}
