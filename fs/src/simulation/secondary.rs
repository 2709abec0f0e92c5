//! What the driver of a secondary does (`receiver.rs`), step by step.

use super::machine::Process;
use super::store::{self, Known, handle};
use super::world::World;
use crate::dirty::store::Saved;
use crate::hash::HashMap;
use crate::operation::{Attributes, FileHandle, InodeId, Number, Operation, Outcome, Timestamp};
use crate::receiver::tracked::Tracked;
use crate::record::decision::CopyState;
use crate::record::{CopyKind, End, Loses, Record, Role};
use crate::session::secondary::{Action, Event, Over, Phase, Secondary};
use crate::wire::message::{
    Generation, Identities, Rejection, SessionId, Start, ToPrimary, ToSecondary, Welcome,
};
use std::collections::VecDeque;

pub(super) struct SecondarySide {
    pub(super) record: Record,
    pub(super) secondary: Secondary,
    pub(super) known: Known,
    peer_handles: HashMap<InodeId, FileHandle>,
    pub(super) tracked: Tracked,
    before: Option<Record>,
    pub(super) running: Vec<(Number, Operation)>,
    pub(super) notes: VecDeque<Note>,
    /// A `Hello` that is not answered yet.
    pending: Option<Candidate>,
    /// The connection whose frames count.
    pub(super) present: Option<u64>,
    /// It was told to become primary; whether a session was going on.
    pub(super) leaves: Option<Leaves>,
    pub(super) over: Option<Over>,
}

/// Why it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    /// To become primary: it was in sync.
    InSync,
    /// To stop.
    ToStop,
}

#[derive(Clone, Debug)]
struct Candidate {
    connection: u64,
    generation: Option<Generation>,
    kind: CopyKind,
    checkpoints: u64,
    top: (u32, Timestamp),
}

/// A note, in its steps.
#[derive(Debug)]
pub(super) enum Note {
    Open(Option<Generation>, u64, (u32, Timestamp)),
    Inconsistent(Option<Generation>, CopyKind),
    Complete(Generation, u64),
    Clean,
    Outdated(Generation, String),
    /// It has parted from its primary: with the map, then the record.
    Alone,
    /// A checkpoint is counted before it is answered.
    Checkpoint(Number, Outcome),
    File(Record, Then),
}

/// What follows a write of the record.
#[derive(Clone, Debug)]
pub(super) enum Then {
    Noted,
    Done(Number, Outcome),
    Inconsistent,
    Promoted,
}

impl World {
    pub(super) fn become_secondary(&mut self, at: usize) {
        let record = self.machines[at].record().expect("a process").clone();
        let durability = self.machines[at].durability;
        let side = SecondarySide {
            record,
            secondary: Secondary::new(vec![durability]),
            known: Known::new(),
            peer_handles: HashMap::default(),
            tracked: Tracked::new(super::primary::extent_bytes()),
            before: None,
            running: Vec::new(),
            notes: VecDeque::new(),
            pending: None,
            present: None,
            leaves: None,
            over: None,
        };
        self.told(at, "becomes secondary");
        self.machines[at].process = Process::Secondary(Box::new(side));
    }

    pub(super) fn secondary_side(&mut self, at: usize) -> Option<&mut SecondarySide> {
        match &mut self.machines[at].process {
            Process::Secondary(side) => Some(side),
            _ => None,
        }
    }

    /// A primary calls.
    pub(super) fn hello(
        &mut self,
        at: usize,
        session: SessionId,
        start: Start,
        copy: &CopyState,
        top: (u32, Timestamp),
    ) {
        let is_fresh = !matches!(start, Start::Resume { .. });
        let Process::Secondary(side) = &self.machines[at].process else {
            let state = "no secondary".to_owned();
            self.wire.answer(ToPrimary::Reject(Rejection::NotSecondary {
                node: "it".into(),
                state,
            }));
            return;
        };
        if side.leaves.is_some() {
            let state = "changing its role".to_owned();
            self.wire.answer(ToPrimary::Reject(Rejection::NotSecondary {
                node: "it".into(),
                state,
            }));
            return;
        }
        if is_fresh {
            let record = side.before.clone().unwrap_or_else(|| side.record.clone());
            let present = self.machines[at].present(false, false, record.counted_by_peer());
            let admitted = match record.admits(&present, None, &start, copy, self.policy) {
                Ok(Loses::Changes) if !self.archive(at) => Err(Rejection::Unfit("there is no room".into())),
                admitted => admitted,
            };
            if let Err(rejection) = admitted {
                self.told(at, &format!("refuses {start:?}: {rejection}; {record:?}"));
                self.wire.answer(ToPrimary::Reject(rejection));
                return;
            }
        }
        let (generation, kind) = match &start {
            Start::Fresh { generation, .. } => (Some(*generation), CopyKind::Whole),
            Start::Copy {
                generation, tracked, ..
            } => (
                Some(*generation),
                if *tracked {
                    CopyKind::Tracked
                } else {
                    CopyKind::Whole
                },
            ),
            Start::Resume { .. } => (None, CopyKind::Whole),
        };
        let connection = self.wire.id();
        let candidate = Candidate {
            connection,
            generation,
            kind,
            checkpoints: copy.checkpoint,
            top,
        };
        self.secondary_hears(at, Event::Hello { session, start }, Some(candidate));
    }

    pub(super) fn secondary_event(&mut self, at: usize, event: Event) {
        self.secondary_hears(at, event, None);
    }

    fn secondary_hears(&mut self, at: usize, event: Event, mut caller: Option<Candidate>) {
        let now = self.now;
        let mut actions = Vec::new();
        let Some(side) = self.secondary_side(at) else {
            return;
        };
        side.secondary.apply(event, now, &mut actions);
        let id = self.wire.id();
        for action in actions {
            let Some(side) = self.secondary_side(at) else {
                return;
            };
            match action {
                Action::Send(message) => {
                    if side.present == Some(id) {
                        self.wire.send_to_primary(message);
                    }
                }
                Action::Apply { number, operation } => side.running.push((number, operation)),
                Action::NoteOpen => {
                    let Candidate {
                        generation,
                        checkpoints,
                        top,
                        ..
                    } = caller.clone().expect("a caller");
                    side.pending = caller.take();
                    side.before.get_or_insert_with(|| side.record.clone());
                    side.begin(checkpoints);
                    side.notes.push_back(Note::Open(generation, checkpoints, top));
                }
                Action::NoteInconsistent => {
                    let Candidate {
                        generation,
                        checkpoints,
                        kind,
                        ..
                    } = caller.clone().expect("a caller");
                    side.pending = caller.take();
                    side.before = None;
                    side.begin(checkpoints);
                    side.notes.push_back(Note::Inconsistent(generation, kind));
                }
                Action::NoteComplete { generation } => {
                    side.notes
                        .push_back(Note::Complete(generation, side.tracked.counted));
                }
                Action::NoteClean => side.notes.push_back(Note::Clean),
                Action::NoteOutdated { generation, reason } => {
                    side.notes.push_back(Note::Outdated(generation, reason));
                }
                Action::Welcome {
                    prefix,
                    answers,
                    received,
                } => {
                    // One that waited may be gone by now.
                    let Some(candidate) = caller.take().or_else(|| side.pending.take()) else {
                        continue;
                    };
                    side.present = Some(candidate.connection);
                    if candidate.connection == id {
                        self.wire.answer(ToPrimary::Welcome(Welcome {
                            node: "it".into(),
                            prefix,
                            answers,
                            received,
                            directories: vec![],
                            identities: Identities::default(),
                        }));
                    }
                }
                Action::Refuse(rejection) => {
                    let Some(candidate) = caller.take().or_else(|| side.pending.take()) else {
                        continue;
                    };
                    if candidate.connection == id {
                        self.wire.answer(ToPrimary::Reject(rejection));
                    }
                }
                Action::Introduced(handles) => side.peer_handles.extend(handles),
                Action::Forget(inodes) => {
                    for inode in &inodes {
                        side.peer_handles.remove(inode);
                    }
                    side.known.forget(&inodes);
                }
                Action::Close { .. } => {
                    if side.present.take() == Some(id) {
                        self.wire.close();
                    }
                }
                Action::SessionOver(over) => {
                    if matches!(over, Over::Clean | Over::Parted { .. }) {
                        side.before = None;
                    }
                    side.over = Some(over);
                }
            }
        }
    }

    /// A frame of the present connection.
    pub(super) fn secondary_received(&mut self, at: usize, message: ToSecondary) {
        let Some(side) = self.secondary_side(at) else {
            return;
        };
        match &message {
            ToSecondary::Operation {
                number, operation, ..
            } => {
                side.before = None;
                if let Operation::Bind { inode, handle, .. } = operation {
                    side.peer_handles.insert(*inode, handle.clone());
                }
                side.tracked.take(*number, operation);
            }
            ToSecondary::Covered { number } => side.tracked.covered(*number),
            _ => {}
        }
        self.secondary_event(at, Event::Received(message));
    }

    /// One operation that is in the kernel ends.
    pub(super) fn secondary_apply(&mut self, at: usize, index: usize) {
        let machine = &mut self.machines[at];
        let Process::Secondary(side) = &mut machine.process else {
            return;
        };
        let (number, operation) = side.running.remove(index);
        let outcome = store::apply(&mut machine.disk, &mut side.known, &operation);
        if let Outcome::Failed(_) = outcome {
            panic!("no disk fails: {operation:?}");
        }
        if let Operation::Checkpoint = operation {
            side.notes.push_back(Note::Checkpoint(number, outcome));
            return;
        }
        self.secondary_event(at, Event::Done { number, outcome });
    }

    /// The next step of the oldest note.
    pub(super) fn secondary_note(&mut self, at: usize) {
        let here = self.machines[at].here();
        let alone = Generation(self.random.bytes());
        let Some(side) = self.secondary_side(at) else {
            return;
        };
        let Some(note) = side.notes.pop_front() else {
            return;
        };
        // A note that says that all is on disk.
        if !matches!(note, Note::File(..) | Note::Alone | Note::Checkpoint(..)) {
            self.machines[at].disk.sync_all();
        }
        match note {
            Note::Open(generation, checkpoints, (mode, mtime)) => {
                let attributes = Attributes {
                    mode: Some(mode),
                    mtime: Some(mtime),
                    ..Attributes::default()
                };
                let operation = Operation::SetAttributes {
                    inode: InodeId::root(0),
                    attributes,
                };
                let disk = &mut self.machines[at].disk;
                assert!(matches!(
                    store::apply(disk, &mut Known::new(), &operation),
                    Outcome::Applied(_)
                ));
                let generation = generation.expect("a primary with a generation");
                let change = |record: &mut Record| {
                    record.open_session(generation, Role::Secondary, here);
                    record.checkpoint = checkpoints;
                };
                self.secondary_write(at, change, Then::Noted);
            }
            Note::Inconsistent(generation, kind) => {
                let generation = generation.expect("a primary with a generation");
                self.secondary_write(
                    at,
                    |record| record.begin_copy(generation, kind, here),
                    Then::Inconsistent,
                );
                self.overwritten(at);
            }
            Note::Complete(generation, checkpoints) => {
                store::remove_displaced(&mut self.machines[at].disk);
                let change = |record: &mut Record| {
                    record.join(generation, Role::Secondary, here);
                    record.checkpoint = checkpoints;
                };
                self.secondary_write(at, change, Then::Noted);
                self.counts_again(at);
            }
            Note::Clean => self.secondary_write(at, |record| record.end(End::Last), Then::Noted),
            Note::Outdated(generation, reason) => {
                self.secondary_write(at, |record| record.outdate(generation, &reason), Then::Noted);
            }
            Note::Alone => {
                let side = self.secondary_side(at).expect("it is one");
                let saved = side.saved(alone);
                self.machines[at].durable.map = Some(saved);
                let change = |record: &mut Record| {
                    record.part(alone, "promoted".into(), here);
                    record.tracked = true;
                };
                self.secondary_write(at, change, Then::Promoted);
                self.goes_alone(at);
            }
            Note::Checkpoint(number, outcome) => {
                self.secondary_write(at, |record| record.checkpoint += 1, Then::Done(number, outcome));
            }
            Note::File(record, then) => {
                self.machines[at].end_record(record);
                self.secondary_noted(at, then);
            }
        }
    }

    fn secondary_write(&mut self, at: usize, change: impl FnOnce(&mut Record), then: Then) {
        match self.machines[at].begin_record(change) {
            Some(next) => {
                if let Some(side) = self.secondary_side(at) {
                    side.notes.push_front(Note::File(next, then));
                }
            }
            None => self.secondary_noted(at, then),
        }
    }

    fn secondary_noted(&mut self, at: usize, then: Then) {
        match then {
            Then::Noted => self.secondary_event(at, Event::Noted),
            Then::Done(number, outcome) => self.secondary_event(at, Event::Done { number, outcome }),
            Then::Inconsistent => {
                store::remove_displaced(&mut self.machines[at].disk);
                self.secondary_event(at, Event::Noted);
            }
            Then::Promoted => {
                let record = self.machines[at].record().cloned().expect("a process");
                self.machines[at].disk.close_all();
                self.machines[at].process = Process::Stopped(record);
                self.become_primary(at);
            }
        }
    }

    /// As `Receiver::leave`, up to where it waits.
    pub(super) fn secondary_leaves(&mut self, at: usize, why: Leaves) {
        let Some(side) = self.secondary_side(at) else {
            return;
        };
        if side.leaves.is_some() {
            return;
        }
        let before = side.secondary.phase();
        side.leaves = Some(why);
        self.told(at, &format!("leaves: {why:?} {before:?}"));
        self.secondary_event(
            at,
            Event::Leave {
                reason: "told".into(),
            },
        );
        let id = self.wire.id();
        let side = self.secondary_side(at).expect("it is one");
        if side
            .pending
            .take()
            .is_some_and(|candidate| candidate.connection == id)
        {
            let state = "changing its role".to_owned();
            self.wire.answer(ToPrimary::Reject(Rejection::NotSecondary {
                node: "it".into(),
                state,
            }));
        }
        let side = self.secondary_side(at).expect("it is one");
        if before != Phase::Opening {
            side.before = None;
        }
    }

    /// The rest of it, once nothing is under way.
    pub(super) fn secondary_left(&mut self, at: usize) {
        let Some(side) = self.secondary_side(at) else {
            return;
        };
        let settled = matches!(side.secondary.phase(), Phase::Idle | Phase::Ended) && side.notes.is_empty();
        let Some(why) = side.leaves.filter(|_| settled && side.running.is_empty()) else {
            return;
        };
        // A session that was never welcomed leaves nothing behind.
        if let Some(former) = side.before.take()
            && let Some(next) = self.machines[at].begin_record(|record| *record = former)
        {
            self.machines[at].end_record(next);
        }
        let side = self.secondary_side(at).expect("it is one");
        match why {
            Leaves::InSync => side.notes.push_back(Note::Alone),
            Leaves::ToStop => {
                let record = side.record.clone();
                self.machines[at].process = Process::Stopped(record);
                self.machines[at].disk.close_all();
            }
        }
    }
}

impl SecondarySide {
    fn begin(&mut self, checkpoints: u64) {
        self.peer_handles.clear();
        self.tracked.begin(checkpoints);
        self.known = Known::new();
    }

    /// As `Receiver::saved`.
    fn saved(&mut self, generation: Generation) -> Saved {
        self.tracked.map.part(&|_| None, false);
        let find = |inode| self.known.ino(inode).map(|ino| (0, handle(ino)));
        let peer = |inode| self.peer_handles.get(&inode).cloned();
        Saved {
            peer_checkpoint: self.tracked.counted,
            ..Saved::of(generation, self.tracked.map.plan(), &find, &peer)
        }
    }

    pub(super) fn is_in_sync(&self) -> bool {
        matches!(self.secondary.phase(), Phase::Serving { copying: false, .. })
    }
}
