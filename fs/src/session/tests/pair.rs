//! Two ends of a session, their disks, an application and what is between them. A run picks what happens next at
//! random; rules that must hold at every moment are checked on the way.

use super::model::{Model, name, time, xattr_name};
use super::verifying::Verifier;
use crate::config::{Durability, OnPeerLoss};
use crate::dirty::MarkSeq;
use crate::hash::{HashMap, HashSet};
use crate::operation::{
    Applied, Attributes, Create, Errno, InodeId, Name, NodeKind, Operation, Outcome, Rename, RenameMode,
    Unlink, Victim, XattrMode,
};
use crate::random::Random;
use crate::session::primary::{self, Phase, Primary, Settings, Slot, Ticket};
use crate::session::repair::undo_name_operation;
use crate::session::secondary::{self, Over, Secondary};
use crate::wire::message::{Generation, Identities, SessionId, Start, ToPrimary, ToSecondary, Welcome};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub(super) const PEER_STALL: Duration = Duration::from_secs(10);
pub(super) const LOCAL_STALL: Duration = Duration::from_secs(30);

/// What may go wrong in a run, in percent of its steps.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) cut: usize,
    pub(super) freeze: usize,
    pub(super) primary_full: usize,
    pub(super) secondary_full: usize,
    pub(super) primary_broken: usize,
    pub(super) secondary_broken: usize,
    pub(super) secondary_differs: usize,
    pub(super) promote: usize,
    /// The secondary answers "not bound" to what it should know, now and then, once.
    pub(super) unbound: usize,
}

pub(super) struct Pair {
    pub(super) primary: Primary,
    pub(super) secondary: Secondary,
    pub(super) here: Model,
    pub(super) there: Model,
    pub(super) random: Random,
    pub(super) now: Duration,
    to_secondary: VecDeque<ToSecondary>,
    to_primary: VecDeque<ToPrimary>,
    /// A `Hello` was answered and nothing cut since.
    pub(super) linked: bool,
    hello: bool,
    session: SessionId,
    running_here: Vec<Work>,
    running_there: Vec<(crate::operation::Number, Operation)>,
    pub(super) frozen_there: bool,
    /// Applied operations by identity.
    log_here: HashSet<i64>,
    pub(super) log_there: HashSet<i64>,
    slots: HashSet<Slot>,
    numbers: HashSet<u64>,
    pub(super) asked: BTreeMap<Ticket, Operation>,
    locked: BTreeSet<InodeId>,
    /// Operations answered with success, by identity; those on inodes without a name are left out.
    pub(super) acknowledged: HashSet<i64>,
    pub(super) replies: Vec<(Ticket, Result<Applied, Errno>)>,
    next: i64,
    next_inode: u64,
    /// The kernel's inodes by the number of the primary's disk.
    kernel: HashMap<u64, InodeId>,
    /// Those that a verification has given numbers.
    adopted: HashMap<u64, InodeId>,
    lookups: Vec<(crate::session::names::LookupTicket, u64, InodeId, Name)>,
    dirty_unbound: bool,
    pub(super) verifier: Verifier,
    pub(super) seen: Seen,
}

/// What happened in a run, to see that runs are not empty.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) lost: Vec<&'static str>,
    pub(super) resumed: usize,
    pub(super) resent: u64,
    pub(super) repairs: usize,
    pub(super) errors: BTreeMap<i32, usize>,
    pub(super) raced: usize,
    pub(super) disk_failing: usize,
    pub(super) ended: Option<bool>,
    pub(super) over: Option<Over>,
    pub(super) rebound: usize,
    pub(super) local: usize,
}

enum Work {
    Apply(Slot, Operation),
    Check(Slot, Operation),
    Read(Slot, Operation),
    NoteAlone,
    Mark(MarkSeq),
    NoteCheckpoint,
    NoteEnd,
}

impl Pair {
    pub(super) fn new(seed: u64, on_peer_loss: OnPeerLoss) -> Self {
        let here = Model::new();
        let kernel = here.known.iter().map(|(id, inode)| (*inode, *id)).collect();
        Pair {
            primary: Primary::new(Settings {
                peer_stall: PEER_STALL,
                local_stall: LOCAL_STALL,
                on_peer_loss,
                directories: 1,
                checkpoint_interval: Duration::from_millis(500),
                extent_bytes: crate::config::EXTENT_BYTES_DEFAULT,
            }),
            secondary: Secondary::new(vec![Durability::Disk]),
            there: Model {
                whole: true,
                ..here.clone()
            },
            here,
            random: Random(seed),
            now: Duration::from_secs(1000),
            to_secondary: VecDeque::new(),
            to_primary: VecDeque::new(),
            linked: false,
            hello: false,
            session: SessionId([0; 16]),
            running_here: Vec::new(),
            running_there: Vec::new(),
            frozen_there: false,
            log_here: HashSet::default(),
            log_there: HashSet::default(),
            slots: HashSet::default(),
            numbers: HashSet::default(),
            asked: BTreeMap::new(),
            locked: BTreeSet::new(),
            acknowledged: HashSet::default(),
            replies: Vec::new(),
            next: 0,
            next_inode: 1,
            kernel,
            adopted: HashMap::default(),
            lookups: Vec::new(),
            dirty_unbound: false,
            verifier: Verifier::default(),
            seen: Seen::default(),
        }
    }

    pub(super) fn primary(&mut self, event: primary::Event) {
        let mut actions = Vec::new();
        self.primary.apply(event, self.now, &mut actions);
        self.obey_primary(actions);
    }

    fn obey_primary(&mut self, actions: Vec<primary::Action>) {
        use primary::Action;
        for action in actions {
            match action {
                Action::Send(message) => {
                    if self.linked {
                        self.to_secondary.push_back(message);
                    }
                }
                Action::Apply { slot, operation } => {
                    assert!(
                        self.slots.insert(slot),
                        "{slot:?} is handed out twice: {operation:?}"
                    );
                    self.running_here.push(Work::Apply(slot, operation));
                }
                Action::CheckRefusal { slot, operation, .. } => {
                    self.running_here.push(Work::Check(slot, operation));
                }
                Action::ReadBack { slot, operation } => self.running_here.push(Work::Read(slot, operation)),
                Action::Mark { seq, .. } => self.running_here.push(Work::Mark(seq)),
                Action::NoteCheckpoint { .. } => self.running_here.push(Work::NoteCheckpoint),
                Action::TrackingLost { reason } => panic!("tracking is lost: {reason}"),
                Action::NoteAlone(_) => self.running_here.push(Work::NoteAlone),
                Action::Reply { ticket, result } => self.replied(ticket, result),
                Action::PeerLost(loss) => self.seen.lost.push(loss.kind.as_str()),
                Action::Resumed { resent } => {
                    self.seen.resumed += 1;
                    self.seen.resent += resent;
                }
                Action::Repairing => self.seen.repairs += 1,
                Action::DiskFailing { .. } => self.seen.disk_failing += 1,
                Action::NoteHandedOver { .. } => self.running_here.push(Work::NoteEnd),
                Action::Ended { with_peer, .. } => self.seen.ended = Some(with_peer),
                Action::Close { .. } => self.cut(),
                Action::Forgotten(inodes) => {
                    for inode in inodes {
                        assert!(
                            !self.asked.values().any(|operation| operation.touches().contains(&inode)
                                && !matches!(operation, Operation::Create(create) if create.inode == inode)),
                            "{inode} is dropped while in use"
                        );
                        self.kernel.retain(|_, id| *id != inode);
                        self.adopted.retain(|_, id| *id != inode);
                        self.lookups.retain(|(_, _, id, _)| *id != inode);
                    }
                }
                Action::Granted { claim, .. } => self.granted(claim),
                Action::VerifyOver { .. } => self.verify_over(),
                Action::Mended { claim, result } => self.mended(claim, result),
                Action::CopyGoesOn | Action::NoteJoined | Action::CopyFailed(_) => {
                    panic!("nothing is copied here");
                }
                Action::Survey { .. } | Action::ReadIn { .. } => panic!("nothing is excluded here"),
                Action::Invalidate { .. }
                | Action::InSync
                | Action::ConnectionLost
                | Action::WentAlone(_)
                | Action::PeerNoted
                | Action::NoteVerify { .. }
                | Action::Repaired
                | Action::Measured { .. } => {}
            }
        }
    }

    fn replied(&mut self, ticket: Ticket, result: Result<Applied, Errno>) {
        let operation = self
            .asked
            .remove(&ticket)
            .expect("a reply to what was asked once");
        if operation.is_name_operation() {
            for inode in operation.touches() {
                self.locked.remove(&inode);
            }
        }
        match &result {
            Ok(applied) => {
                assert_eq!(applied.length, operation.length(), "{operation:?}");
                let identity = identity(&operation);
                if let Some(identity) = identity {
                    assert!(self.log_here.contains(&identity), "not here: {operation:?}");
                    if self.log_there.contains(&identity) || !self.without_name(&operation) {
                        self.acknowledged.insert(identity);
                    } else {
                        self.seen.local += 1;
                    }
                    if !matches!(self.primary.phase(), Phase::Alone(_) | Phase::Parting(_)) {
                        assert!(
                            self.log_there.contains(&identity) || self.without_name(&operation),
                            "acknowledged and not there: {operation:?}"
                        );
                    }
                }
                if let Operation::Create(create) = &operation {
                    self.kernel.insert(self.here.known[&create.inode], create.inode);
                }
            }
            Err(errno) => *self.seen.errors.entry(errno.0).or_default() += 1,
        }
        self.replies.push((ticket, result));
    }

    fn without_name(&self, operation: &Operation) -> bool {
        let nameless = |inode: &InodeId| self.here.get(*inode).is_some_and(|node| node.links == 0);
        !operation.is_name_operation()
            && operation
                .touches()
                .iter()
                .any(|inode| *inode != InodeId(1) && nameless(inode))
    }

    pub(super) fn secondary(&mut self, event: secondary::Event) {
        use secondary::Action;
        let mut actions = Vec::new();
        self.secondary.apply(event, self.now, &mut actions);
        for action in actions {
            match action {
                Action::Send(message) => {
                    if self.linked {
                        self.to_primary.push_back(message);
                    }
                }
                Action::Apply { number, operation } => {
                    assert!(self.numbers.insert(number.0), "{number} is handed out twice");
                    self.running_there.push((number, operation));
                }
                Action::NoteOpen
                | Action::NoteInconsistent
                | Action::NoteComplete { .. }
                | Action::NoteClean
                | Action::NoteOutdated { .. } => {
                    self.secondary(secondary::Event::Noted);
                }
                Action::Welcome {
                    prefix,
                    answers,
                    received,
                } => {
                    assert!(self.hello);
                    self.hello = false;
                    self.linked = true;
                    self.to_primary.push_back(ToPrimary::Welcome(Welcome {
                        node: "b".into(),
                        prefix,
                        answers,
                        received,
                        directories: vec![],
                        identities: Identities::default(),
                    }));
                }
                Action::Refuse(rejection) => {
                    self.hello = false;
                    self.primary(primary::Event::Rejected(rejection));
                }
                Action::Close { .. } => self.cut(),
                Action::SessionOver(over) => {
                    assert!(self.running_there.is_empty(), "over while something runs");
                    self.seen.over = Some(over);
                }
                Action::Forget(inodes) => {
                    for inode in inodes {
                        let used = self
                            .running_there
                            .iter()
                            .any(|(_, one)| one.touches().contains(&inode));
                        assert!(!used, "{inode} is forgotten while it is used there");
                        self.there.known.remove(&inode);
                    }
                }
                Action::Introduced(_) => {}
            }
        }
    }

    pub(super) fn connect(&mut self) {
        // A node that has left a session takes no other: its driver turns a `Hello` away.
        if self.linked || self.hello || matches!(self.seen.over, Some(Over::Left { .. })) {
            return;
        }
        let start = match (self.primary.phase(), self.primary.resumable()) {
            (Phase::NoSession, _) => {
                self.session.0[0] += 1;
                Start::Fresh {
                    generation: Generation([1; 16]),
                    clean: true,
                }
            }
            (_, Some((_, confirmed))) => Start::Resume { confirmed },
            (_, None) => return,
        };
        self.to_secondary.clear();
        self.to_primary.clear();
        self.hello = true;
        self.secondary(secondary::Event::Hello {
            session: self.session,
            start,
        });
    }

    /// The connection breaks: some of what was on its way still arrives, on either side, and nothing after it.
    pub(super) fn cut(&mut self) {
        if !self.linked {
            return;
        }
        for _ in 0..self.random.below(4) {
            self.deliver_there();
        }
        for _ in 0..self.random.below(4) {
            self.deliver_here();
        }
        self.linked = false;
        self.to_secondary.clear();
        self.to_primary.clear();
        self.primary(primary::Event::LinkLost);
        self.secondary(secondary::Event::LinkLost);
    }

    pub(super) fn deliver_there(&mut self) -> bool {
        if self.frozen_there || !self.linked {
            return false;
        }
        match self.to_secondary.pop_front() {
            Some(message) => {
                self.secondary(secondary::Event::Received(message));
                true
            }
            None => false,
        }
    }

    pub(super) fn deliver_here(&mut self) -> bool {
        match self.to_primary.pop_front() {
            Some(ToPrimary::Welcome(welcome)) => {
                self.primary(primary::Event::Connected {
                    session: self.session,
                    welcome,
                });
                true
            }
            Some(message) => {
                self.primary(primary::Event::Received(message));
                true
            }
            None => false,
        }
    }

    pub(super) fn work_there(&mut self, at: usize, unbound: bool) {
        let (number, operation) = self.running_there.remove(at);
        // As if a Bind had been turned down, for one write in a run.
        let outcome = match &operation {
            Operation::Write { inode, .. } if unbound && !self.dirty_unbound => {
                self.dirty_unbound = true;
                self.seen.rebound += 1;
                Outcome::NotBound(*inode)
            }
            operation => self.there.apply(operation),
        };
        if matches!(outcome, Outcome::Applied(_)) {
            self.note_made(&operation, false);
        }
        if let (Outcome::Applied(_), Some(identity)) = (&outcome, identity(&operation)) {
            assert!(
                self.log_there.insert(identity),
                "applied twice there: {operation:?}"
            );
        }
        self.secondary(secondary::Event::Done { number, outcome });
    }

    pub(super) fn work_here(&mut self, at: usize) {
        match self.running_here.remove(at) {
            Work::Apply(slot, operation) => {
                if let Some(identity) = identity(&operation) {
                    let alone = matches!(self.primary.phase(), Phase::Alone(_));
                    assert!(
                        alone || self.log_there.contains(&identity) || self.without_name(&operation),
                        "handed to this disk before the secondary had it: {operation:?}"
                    );
                }
                let outcome = self.here.apply(&operation);
                if matches!(outcome, Outcome::Applied(_)) {
                    self.note_made(&operation, true);
                }
                if let (Outcome::Applied(_), Some(identity)) = (&outcome, identity(&operation)) {
                    assert!(
                        self.log_here.insert(identity),
                        "applied twice here: {operation:?}"
                    );
                }
                self.primary(primary::Event::LocalDone { slot, outcome });
            }
            Work::Check(slot, operation) => {
                let refusal = self.here.would_refuse(&operation);
                self.primary(primary::Event::Checked { slot, refusal });
            }
            Work::Read(slot, operation) => {
                let operations = self.read_back(&operation);
                self.primary(primary::Event::ReadBack { slot, operations });
            }
            Work::Mark(seq) => self.primary(primary::Event::Marked { seq }),
            Work::NoteCheckpoint => self.primary(primary::Event::CheckpointNoted),
            Work::NoteEnd => self.primary(primary::Event::EndNoted),
            Work::NoteAlone => {
                let generation = Generation([2; 16]);
                self.primary(primary::Event::Noted { generation });
            }
        }
    }

    /// What a driver does for a repair: the primary's true state as operations.
    fn read_back(&self, operation: &Operation) -> Option<Vec<Operation>> {
        let attributes = |inode: InodeId| {
            let node = self.here.get(inode).unwrap();
            Operation::SetAttributes {
                inode,
                attributes: Attributes {
                    mtime: Some(time(node.mtime)),
                    mode: Some(node.mode),
                    size: (!node.directory).then_some(node.data.len() as u64),
                    ..Attributes::default()
                },
            }
        };
        match operation {
            Operation::Write {
                inode, offset, data, ..
            } => {
                let node = self.here.get(*inode)?;
                let from = (*offset as usize).min(node.data.len());
                let to = (from + data.len()).min(node.data.len());
                let mut operations = Vec::new();
                if to > from {
                    operations.push(Operation::Write {
                        inode: *inode,
                        offset: from as u64,
                        data: Bytes::copy_from_slice(&node.data[from..to]),
                        time: None,
                        mode: None,
                    });
                }
                operations.push(attributes(*inode));
                Some(operations)
            }
            Operation::CopyRange {
                target,
                target_offset,
                length,
                ..
            } => {
                let node = self.here.get(*target)?;
                let from = (*target_offset as usize).min(node.data.len());
                let to = (from + *length as usize).min(node.data.len());
                let mut operations = vec![attributes(*target)];
                if to > from {
                    let data = Bytes::copy_from_slice(&node.data[from..to]);
                    let write = Operation::Write {
                        inode: *target,
                        offset: from as u64,
                        data,
                        time: None,
                        mode: None,
                    };
                    operations.insert(0, write);
                }
                Some(operations)
            }
            Operation::SetXattr { inode, name, .. } => {
                let node = self.here.get(*inode)?;
                let restored = match node.xattrs.get(name) {
                    Some(value) => Operation::SetXattr {
                        inode: *inode,
                        name: name.clone(),
                        value: value.clone(),
                        mode: XattrMode::Set,
                        set_mode: None,
                    },
                    None => Operation::RemoveXattr {
                        inode: *inode,
                        name: name.clone(),
                    },
                };
                // Its identity is that of the first; the log must not count it as applied twice.
                Some(vec![restored])
            }
            Operation::Create(_) | Operation::Link { .. } | Operation::Unlink(_) | Operation::Rename(_) => {
                let undo = undo_name_operation(operation, time(0))?;
                let directories = match operation {
                    Operation::Rename(rename) => vec![rename.source_parent, rename.target_parent],
                    Operation::Create(create) => vec![create.parent],
                    Operation::Link { parent, .. } => vec![*parent],
                    Operation::Unlink(unlink) => vec![unlink.parent],
                    _ => vec![],
                };
                let mut operations = vec![undo];
                operations.extend(directories.into_iter().map(attributes));
                Some(operations)
            }
            _ => None,
        }
    }

    pub(super) fn submit(&mut self, operation: Operation) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next as u64);
        if operation.is_name_operation() {
            self.locked.extend(operation.touches());
        }
        self.asked.insert(ticket, operation.clone());
        self.primary(primary::Event::Submit { ticket, operation });
        ticket
    }

    /// As the kernel does: looks a name up, by the number it has for the inode or a new one.
    fn look_up(&mut self, directory: InodeId, name: &Name) -> Option<InodeId> {
        let ticket = self.primary.begin_lookup(directory);
        let found = *self.here.get(directory)?.entries.get(name)?;
        let inode = self.number_of(found);
        if self.random.percent(30) && !self.locked.contains(&directory) {
            // A revalidation: it is not under the directory's lock and may be overtaken.
            self.lookups.push((ticket, found, inode, name.clone()));
            return None;
        }
        self.end_look_up(ticket, found, inode, name)
    }

    /// The verification needs the number of an inode, which is that of the kernel if it knows it.
    pub(super) fn adopt(&mut self, found: u64) -> InodeId {
        let inode = self.number_of(found);
        self.adopted.insert(found, inode);
        self.here.known.insert(inode, found);
        self.primary.pin(inode);
        inode
    }

    fn number_of(&mut self, found: u64) -> InodeId {
        let under_way = self.lookups.iter().find(|(_, one, ..)| *one == found);
        let under_way = under_way.map(|(_, _, inode, _)| *inode);
        let known = self.kernel.get(&found).or(self.adopted.get(&found)).copied();
        if let Some(inode) = known.or(under_way) {
            return inode;
        }
        self.next_inode += 1;
        InodeId(self.next_inode)
    }

    fn end_look_up(
        &mut self,
        ticket: crate::session::names::LookupTicket,
        found: u64,
        inode: InodeId,
        name: &Name,
    ) -> Option<InodeId> {
        if self.kernel.get(&found).is_some_and(|known| *known != inode) {
            return None;
        }
        match self.primary.looked_up(ticket, inode, name, Default::default()) {
            Ok(()) => {
                self.kernel.insert(found, inode);
                self.here.known.insert(inode, found);
                Some(inode)
            }
            Err(_) => {
                self.seen.raced += 1;
                None
            }
        }
    }

    fn some_inode(&mut self, directory: bool) -> Option<InodeId> {
        let mut known: Vec<InodeId> = self.kernel.values().copied().collect();
        known.retain(|inode| {
            self.here
                .get(*inode)
                .is_some_and(|node| node.directory == directory)
        });
        known.sort_unstable();
        self.random.pick(&known).copied()
    }

    fn some_directory(&mut self) -> Option<InodeId> {
        let inode = self.some_inode(true)?;
        let live = inode == InodeId(1) || self.here.get(inode)?.links > 0;
        (live && !self.locked.contains(&inode)).then_some(inode)
    }

    fn some_name(&mut self, directory: InodeId) -> Option<(Name, InodeId)> {
        let names: Vec<Name> = self.here.get(directory)?.entries.keys().cloned().collect();
        let name = self.random.pick(&names)?.clone();
        let inode = self.look_up(directory, &name)?;
        (!self.locked.contains(&inode)).then_some((name, inode))
    }

    /// One random request of the application, if the kernel's locks allow it.
    pub(super) fn request(&mut self) -> Option<()> {
        let at = self.next + 1;
        let operation = match self.random.below(20) {
            0..=6 => Operation::Write {
                inode: self.some_inode(false)?,
                offset: self.random.below(40) as u64,
                data: Bytes::from(format!("<{at}>")),
                time: Some(time(at)),
                mode: None,
            },
            7 => Operation::SetAttributes {
                inode: self.some_inode(false)?,
                attributes: Attributes {
                    size: Some(self.random.below(60) as u64),
                    mtime: Some(time(at)),
                    ..Attributes::default()
                },
            },
            8 => Operation::SetXattr {
                inode: self.some_inode(false)?,
                name: xattr_name("user.x"),
                value: Bytes::from(at.to_string()),
                mode: XattrMode::Set,
                set_mode: None,
            },
            9 => Operation::Sync {
                inode: self.some_inode(false)?,
                data_only: false,
            },
            10 if self.random.percent(20) => Operation::Checkpoint,
            10 => {
                let (source, target) = (self.some_inode(false)?, self.some_inode(false)?);
                let size = self.here.get(source)?.data.len() as u64;
                if source == target || size == 0 {
                    return None;
                }
                // The source may be cut meanwhile: the model fills up with zeros on both sides alike.
                Operation::CopyRange {
                    source,
                    source_offset: 0,
                    target,
                    target_offset: self.random.below(20) as u64,
                    length: size.min(8),
                    time: Some(time(at)),
                    set_mode: None,
                }
            }
            11..=13 => {
                let parent = self.some_directory()?;
                self.next_inode += 1;
                let taken = self.random.percent(10);
                let new = match self
                    .random
                    .pick(&self.here.get(parent)?.entries.keys().collect::<Vec<_>>())
                {
                    Some(existing) if taken => (**existing).clone(),
                    _ => name(&format!("n{at}")),
                };
                let kind = match self.random.percent(25) {
                    true => NodeKind::Directory,
                    false => NodeKind::File,
                };
                Operation::Create(Create {
                    parent,
                    name: new,
                    inode: InodeId(self.next_inode),
                    kind,
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    acls: vec![],
                    time: time(at),
                })
            }
            14 => {
                let inode = self.some_inode(false)?;
                let parent = self.some_directory()?;
                if self.locked.contains(&inode) || self.here.get(inode)?.links == 0 {
                    return None;
                }
                Operation::Link {
                    inode,
                    parent,
                    name: name(&format!("l{at}")),
                    time: time(at),
                }
            }
            15 | 16 => {
                let parent = self.some_directory()?;
                let (victim_name, inode) = self.some_name(parent)?;
                let node = self.here.get(inode)?;
                Operation::Unlink(Unlink {
                    parent,
                    name: victim_name,
                    directory: node.directory,
                    victim: Victim {
                        inode,
                        last: node.links == 1,
                    },
                    time: time(at),
                })
            }
            17 | 18 => self.rename(at)?,
            _ => {
                // Look something up, or let the kernel forget something.
                let parent = self.some_directory()?;
                if self.random.percent(60) {
                    let _ = self.some_name(parent);
                } else {
                    self.forget();
                }
                return None;
            }
        };
        self.submit(operation);
        Some(())
    }

    fn rename(&mut self, at: i64) -> Option<Operation> {
        let source_parent = self.some_directory()?;
        let (source_name, moved) = self.some_name(source_parent)?;
        let target_parent = self.some_directory()?;
        if self.here.get(moved)?.directory && target_parent != source_parent {
            // The kernel refuses circles before they get here.
            return None;
        }
        let (target_name, replaced) = if self.random.percent(50) {
            let (name, inode) = self.some_name(target_parent)?;
            (name, Some(inode))
        } else {
            (name(&format!("r{at}")), None)
        };
        if replaced == Some(moved) {
            return None;
        }
        let exchange = replaced.is_some_and(|_| target_parent == source_parent) && self.random.percent(30);
        let links = |inode: InodeId| self.here.get(inode).map_or(0, |node| node.links);
        Some(Operation::Rename(Rename {
            source_parent,
            source_name,
            target_parent,
            target_name,
            mode: match (exchange, replaced) {
                (true, _) => RenameMode::Exchange,
                (false, Some(_)) => RenameMode::Replace,
                (false, None) => RenameMode::NoReplace,
            },
            moved,
            replaced: replaced.map(|inode| Victim {
                inode,
                last: links(inode) == 1 && !exchange,
            }),
            time: time(at),
        }))
    }

    fn forget(&mut self) {
        let Some(inode) = self.some_inode(false) else {
            return;
        };
        let used = self
            .asked
            .values()
            .any(|operation| operation.touches().contains(&inode));
        if !used {
            // What something else still needs keeps its number, and has it when it is looked up again.
            self.adopted.insert(self.here.known[&inode], inode);
            self.kernel.retain(|_, id| *id != inode);
            let mut actions = Vec::new();
            self.primary.forget(&[inode], &mut actions);
            self.obey_primary(actions);
        }
    }

    pub(super) fn tick(&mut self, by: Duration) {
        let until = self.now + by;
        while let Some(due) = self
            .primary
            .deadline()
            .filter(|due| *due <= until && *due >= self.now)
        {
            self.now = self.now.max(due);
            self.primary(primary::Event::Tick);
            assert_ne!(
                self.primary.deadline(),
                Some(due),
                "a deadline that does not pass"
            );
        }
        self.now = until;
        self.primary(primary::Event::Tick);
    }

    /// One thing happens.
    pub(super) fn step(&mut self, faults: &Faults) {
        match self.random.below(12) {
            // A request that the kernel's locks do not allow now is not made.
            0..=2 if self.asked.len() < 24 => drop(self.request()),
            3 | 4 => {
                self.deliver_there();
            }
            5 | 6 => {
                self.deliver_here();
            }
            7 | 8 if !self.running_there.is_empty() && !self.frozen_there => {
                let at = self.random.below(self.running_there.len());
                let unbound = self.random.percent(faults.unbound);
                self.work_there(at, unbound);
            }
            9 if !self.running_here.is_empty() => {
                let at = self.random.below(self.running_here.len());
                self.work_here(at);
            }
            10 => {
                if !self.frozen_there {
                    self.secondary(secondary::Event::Flush);
                }
                if !self.lookups.is_empty() && self.random.percent(50) {
                    let at = self.random.below(self.lookups.len());
                    let (ticket, found, inode, name) = self.lookups.remove(at);
                    let _ = self.end_look_up(ticket, found, inode, &name);
                }
            }
            11 => {
                let by = Duration::from_micros(self.random.below(5000) as u64);
                self.tick(by);
            }
            _ => {}
        }
        if !self.linked && self.random.percent(10) {
            self.connect();
        }
        if self.random.percent(20) {
            self.verify_step();
        }
        self.inject(faults);
    }

    fn inject(&mut self, faults: &Faults) {
        let mut hit = |percent: usize| percent > 0 && self.random.below(1000) < percent;
        let (cut, freeze) = (hit(faults.cut * 10), hit(faults.freeze));
        let (primary_full, secondary_full) = (hit(faults.primary_full), hit(faults.secondary_full));
        let (primary_broken, secondary_broken) = (hit(faults.primary_broken), hit(faults.secondary_broken));
        let (differs, promote) = (hit(faults.secondary_differs), hit(faults.promote));
        if cut {
            self.cut();
        }
        if freeze {
            self.frozen_there = true;
            let long = self.random.percent(30);
            for _ in 0..if long { 25 } else { 12 } {
                while !self.running_here.is_empty() {
                    self.work_here(0);
                }
                self.tick(Duration::from_millis(500));
            }
            self.frozen_there = false;
        }
        if primary_full {
            self.here.full = !self.here.full;
        }
        if secondary_full {
            self.there.full = !self.there.full;
        }
        self.here.broken |= primary_broken;
        self.there.broken |= secondary_broken;
        if differs {
            self.there.spoil();
        }
        if promote {
            self.secondary(secondary::Event::Leave {
                reason: "promoted".into(),
            });
        }
    }

    /// No more faults and no more requests: everything that can end, ends.
    pub(super) fn quiesce(&mut self) {
        self.frozen_there = false;
        for round in 0..20_000 {
            let mut moved = self.deliver_there() | self.deliver_here();
            if !self.running_there.is_empty() {
                let at = self.random.below(self.running_there.len());
                self.work_there(at, false);
                moved = true;
            }
            if !self.running_here.is_empty() {
                let at = self.random.below(self.running_here.len());
                self.work_here(at);
                moved = true;
            }
            self.secondary(secondary::Event::Flush);
            self.connect();
            if !moved && round % 3 == 0 {
                self.tick(Duration::from_millis(100));
                let settled = self.asked.is_empty() && self.running_here.is_empty();
                if settled && self.running_there.is_empty() && self.to_secondary.is_empty() {
                    return;
                }
                if matches!(self.primary.phase(), Phase::Failed { .. } | Phase::Deciding(_)) && round > 2000 {
                    return;
                }
            }
        }
        panic!(
            "not quiet: {:?} {:?} asked {:?}",
            self.primary.phase(),
            self.secondary.phase(),
            self.asked
        );
    }

    /// What the secondary's kernel still works on ends.
    pub(super) fn end_there(&mut self) {
        while !self.running_there.is_empty() {
            self.work_there(0, false);
        }
    }

    /// What a promoted secondary must have.
    pub(super) fn check_there(&self) {
        for identity in &self.acknowledged {
            assert!(
                self.log_there.contains(identity),
                "operation {identity} was acknowledged and is lost"
            );
        }
    }

    pub(super) fn check_equal(&self) {
        assert_eq!(self.here.listing(), self.there.listing());
        self.check_peer_handles();
    }

    /// What is shipped and has a name is known by the handle that the secondary has for it, and nothing else is.
    fn check_peer_handles(&self) {
        let used: HashSet<InodeId> = self
            .kernel
            .values()
            .chain(self.adopted.values())
            .copied()
            .collect();
        for inode in used.iter().chain(self.there.known.keys()) {
            let has_name = self.here.get(*inode).is_some_and(|node| node.links > 0);
            let is_known = used.contains(inode) && *inode != InodeId(1);
            let expected = self.there.handle(*inode).filter(|_| has_name && is_known);
            assert_eq!(self.primary.peer_handle(*inode), expected.as_ref(), "{inode}");
        }
    }
}

impl Model {
    /// Something takes a file away behind the secondary's back.
    fn spoil(&mut self) {
        let root = self.known[&InodeId(1)];
        let directories: Vec<u64> = self.inodes[&root].entries.values().copied().collect();
        for directory in directories {
            let node = self.inodes.get_mut(&directory).unwrap();
            node.entries.pop_first();
        }
    }
}

/// Tells operations apart, by the time or value they carry; repairs and syncs have none.
fn identity(operation: &Operation) -> Option<i64> {
    let seconds = match operation {
        Operation::Create(create) => create.time.seconds,
        Operation::Link { time, .. } => time.seconds,
        Operation::Unlink(unlink) => unlink.time.seconds,
        Operation::Rename(rename) => rename.time.seconds,
        Operation::Write { time, .. } | Operation::CopyRange { time, .. } => time.as_ref()?.seconds,
        Operation::SetAttributes { attributes, .. } if attributes.mode.is_none() => attributes.mtime?.seconds,
        _ => 0,
    };
    (seconds != 0).then_some(seconds)
}
