//! The operations of one session on the secondary: each is applied once, whatever is sent again.

use super::interface::Action;
use crate::config::Durability;
use crate::hash::HashMap;
use crate::operation::{InodeId, Number, Operation, Outcome};
use crate::session::lanes::Lanes;
use crate::wire::message::{Answer, Generation, Running, SessionId, ToPrimary};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most operations that were received and have not ended. The primary has at most as many under way as its kernel
/// sends requests, so more of them come from a broken peer: the connection is closed.
pub const QUEUED_OPERATIONS_MAX: usize = 1 << 16;
/// Most payload bytes in those operations; at the bound the connection is closed.
pub const QUEUED_BYTES_MAX: u64 = 1 << 30;
/// Most answers that the primary has not confirmed; at the bound the connection is closed.
pub const ANSWERS_MAX: usize = 1 << 17;
/// Most entries in [`ToPrimary::Pong::running`].
const RUNNING_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) linked: bool,
    /// The last number of this connection; resending begins lower, but goes up as well.
    pub(super) connection_last: Number,
    /// All numbers up to this one were received.
    pub(super) last: Number,
    confirmed: Number,
    /// All numbers up to this one are answered.
    pub(super) prefix: Number,
    pub(super) answers: BTreeMap<Number, Answer>,
    /// Answers that were not sent on this connection yet.
    pub(super) unsent: Vec<Answer>,
    lanes: Lanes<Number>,
    pub(super) unfinished: BTreeMap<Number, Unfinished>,
    queued_bytes: u64,
    ready: Vec<Number>,
    pub(super) roots: Roots,
    /// None when this copy is whole.
    pub(super) copying: Option<Copying>,
    /// So many requests of bulk connections are carried out now.
    pub(super) requests: usize,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copying {
    /// It goes on.
    Going,
    /// Everything was brought over. What was received before that is still being applied, and a note that all is on
    /// disk must come after it: the primary drops its marks of it then.
    Settling { generation: Generation, after: Number },
    /// That it is complete is being written down.
    Completing,
}

#[derive(Debug)]
pub(super) struct Unfinished {
    /// None once it was handed out.
    operation: Option<Operation>,
    bytes: u64,
    arrived: Duration,
    /// When it was handed out.
    started: Option<Duration>,
}

/// Which inodes are in a directory whose syncs are answered from memory.
#[derive(Debug)]
pub(super) enum Roots {
    AllDisk,
    AllMemory,
    Mixed {
        durability: Vec<Durability>,
        root_of: HashMap<InodeId, u32>,
    },
}

/// Why a frame cannot be taken.
pub(super) enum Fault {
    /// A bound is reached: the session stays, its connection does not.
    Full(String),
    /// The primary is not to be trusted with this session any more.
    Broken(String),
}

impl Session {
    pub(super) fn new(id: SessionId, roots: Roots) -> Self {
        Session {
            id,
            linked: true,
            connection_last: Number(0),
            last: Number(0),
            confirmed: Number(0),
            prefix: Number(0),
            answers: BTreeMap::new(),
            unsent: Vec::new(),
            lanes: Lanes::default(),
            unfinished: BTreeMap::new(),
            queued_bytes: 0,
            ready: Vec::new(),
            roots,
            copying: None,
            requests: 0,
        }
    }

    pub(super) fn take(
        &mut self,
        number: Number,
        confirmed: Number,
        operation: Operation,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> Result<(), Fault> {
        self.checked_confirm(confirmed)?;
        if number <= self.connection_last {
            return Err(Fault::Broken(format!("{number} after {}", self.connection_last)));
        }
        self.connection_last = number;
        if number <= self.last {
            // Sent again over a new connection: it runs, or its answer is repeated; it is never applied twice.
            if let Some(answer) = self.answers.get(&number) {
                self.unsent.push(answer.clone());
            } else if number <= self.confirmed {
                return Err(Fault::Broken(format!("{number} after it was confirmed")));
            }
            return Ok(());
        }
        if number != self.last.next() {
            return Err(Fault::Broken(format!("{number} after {}", self.last)));
        }
        let bytes = payload_bytes(&operation);
        if self.unfinished.len() >= QUEUED_OPERATIONS_MAX || self.queued_bytes + bytes > QUEUED_BYTES_MAX {
            return Err(Fault::Full(format!(
                "{} operations with {} bytes are queued, more are not taken",
                self.unfinished.len(),
                self.queued_bytes
            )));
        }
        if self.answers.len() >= ANSWERS_MAX {
            return Err(Fault::Full(format!(
                "{} answers are not confirmed, more are not kept",
                self.answers.len()
            )));
        }
        self.last = number;
        self.queued_bytes += bytes;
        self.roots.learn(&operation);
        let ready = self.lanes.admit(number, &operation, 0);
        self.unfinished.insert(
            number,
            Unfinished {
                operation: Some(operation),
                bytes,
                arrived: now,
                started: None,
            },
        );
        if ready {
            self.ready.push(number);
            self.run_ready(now, actions);
        }
        Ok(())
    }

    fn run_ready(&mut self, now: Duration, actions: &mut Vec<Action>) {
        while let Some(number) = self.ready.pop() {
            let Some(entry) = self.unfinished.get_mut(&number) else {
                continue;
            };
            entry.started = Some(now);
            let Some(operation) = entry.operation.take() else {
                continue;
            };
            match operation {
                Operation::Sync { inode, .. } if self.roots.in_memory(inode) => {
                    self.end(number, Outcome::Applied(Default::default()), now);
                }
                operation => actions.push(Action::Apply { number, operation }),
            }
        }
    }

    pub(super) fn done(
        &mut self,
        number: Number,
        outcome: Outcome,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let handed_out = |entry: &Unfinished| entry.started.is_some();
        if self.unfinished.get(&number).is_some_and(handed_out) {
            self.end(number, outcome, now);
            self.run_ready(now, actions);
            self.check_settled(actions);
        }
    }

    /// Keeps the answer and lets go what waited.
    fn end(&mut self, number: Number, outcome: Outcome, now: Duration) {
        let Some(entry) = self.unfinished.remove(&number) else {
            return;
        };
        self.queued_bytes -= entry.bytes;
        let took = now.saturating_sub(entry.arrived).as_micros();
        let answer = Answer {
            number,
            outcome,
            took_us: u32::try_from(took).unwrap_or(u32::MAX),
        };
        if self.linked {
            self.unsent.push(answer.clone());
        }
        self.answers.insert(number, answer);
        self.lanes.finish(number, &mut self.ready);
        self.prefix = match self.unfinished.first_key_value() {
            Some((oldest, _)) => Number(oldest.0 - 1),
            None => self.last,
        };
    }

    /// That the copy is complete is to be written down now.
    pub(super) fn check_settled(&mut self, actions: &mut Vec<Action>) {
        if let Some(Copying::Settling { generation, after }) = self.copying
            && self.prefix >= after
        {
            self.copying = Some(Copying::Completing);
            actions.push(Action::NoteComplete { generation });
        }
    }

    pub(super) fn flush(&mut self, actions: &mut Vec<Action>) {
        if self.linked && !self.unsent.is_empty() {
            actions.push(Action::Send(ToPrimary::Answers {
                prefix: self.prefix,
                answers: std::mem::take(&mut self.unsent),
            }));
        }
    }

    pub(super) fn checked_confirm(&mut self, confirmed: Number) -> Result<(), Fault> {
        if confirmed > self.prefix {
            return Err(Fault::Broken(format!(
                "{confirmed} is confirmed and only {} is answered",
                self.prefix
            )));
        }
        self.confirm(confirmed);
        Ok(())
    }

    pub(super) fn confirm(&mut self, confirmed: Number) {
        if confirmed > self.confirmed {
            self.confirmed = confirmed;
            while self
                .answers
                .first_key_value()
                .is_some_and(|(number, _)| *number <= confirmed)
            {
                self.answers.pop_first();
            }
        }
    }

    pub(super) fn running(&self, now: Duration) -> Vec<Running> {
        let oldest = self.unfinished.iter().take(RUNNING_MAX);
        let entry = |(number, entry): (&Number, &Unfinished)| Running {
            number: *number,
            in_kernel: entry.started.is_some(),
            for_ms: u32::try_from(
                now.saturating_sub(entry.started.unwrap_or(entry.arrived))
                    .as_millis(),
            )
            .unwrap_or(u32::MAX),
        };
        oldest.map(entry).collect()
    }

    /// What is in the kernel: operations, and requests of bulk connections.
    pub(super) fn running_count(&self) -> usize {
        let started = self.unfinished.values().filter(|entry| entry.started.is_some());
        self.requests + started.count()
    }
}

impl Roots {
    pub(super) fn new(durability: &[Durability]) -> Self {
        let in_memory = |durability: &Durability| *durability == Durability::Memory;
        if !durability.iter().any(in_memory) {
            return Roots::AllDisk;
        }
        if durability.iter().all(in_memory) {
            return Roots::AllMemory;
        }
        let root_of = (0..durability.len()).map(|index| (InodeId::root(index), index as u32));
        Roots::Mixed {
            durability: durability.to_vec(),
            root_of: root_of.collect(),
        }
    }

    fn learn(&mut self, operation: &Operation) {
        let Roots::Mixed { root_of, .. } = self else {
            return;
        };
        let (inode, parent) = match operation {
            Operation::Bind { inode, parent, .. } => (*inode, *parent),
            Operation::Create(create) => (create.inode, create.parent),
            _ => return,
        };
        if let Some(root) = root_of.get(&parent).copied() {
            root_of.insert(inode, root);
        }
    }

    pub(super) fn forget(&mut self, inodes: &[InodeId]) {
        if let Roots::Mixed { root_of, .. } = self {
            for inode in inodes {
                root_of.remove(inode);
            }
        }
    }

    fn in_memory(&self, inode: InodeId) -> bool {
        match self {
            Roots::AllDisk => false,
            Roots::AllMemory => true,
            Roots::Mixed { durability, root_of } => root_of
                .get(&inode)
                .and_then(|root| durability.get(*root as usize))
                .is_some_and(|durability| *durability == Durability::Memory),
        }
    }
}

fn payload_bytes(operation: &Operation) -> u64 {
    match operation {
        Operation::Write { data, .. } => data.len() as u64,
        Operation::SetXattr { value, .. } => value.len() as u64,
        Operation::Create(create) => create.acls.iter().map(|(_, value)| value.len() as u64).sum(),
        Operation::Bind { .. }
        | Operation::Link { .. }
        | Operation::Unlink(_)
        | Operation::Rename(_)
        | Operation::SetAttributes { .. }
        | Operation::Fallocate { .. }
        | Operation::CopyRange { .. }
        | Operation::RemoveXattr { .. }
        | Operation::Sync { .. }
        | Operation::Checkpoint => 0,
    }
}
