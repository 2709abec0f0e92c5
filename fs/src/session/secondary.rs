//! The secondary's end of a session: takes numbered operations, runs each once in its lanes, answers.
//!
//! No I/O. One thread at a time uses it (`receiver.rs` holds the lock): events in, actions out, in order. What an
//! action asks for is reported back as an event: `Apply` by `Done`, the `Note...` ones by `Noted`.
//!
//! ```text
//!            Hello(fresh)          Noted               End                Noted
//!    Idle ----------------> Opening ----> Serving ------------> Closing ---------> Ended
//!     ^                                   |  | Part, Leave, a broken rule            | Hello(fresh)
//!     |    last running one has ended     |  v                                       v
//!     +---------------------------------- Draining                                Opening
//! ```

use super::lanes::Lanes;
use crate::config::Durability;
use crate::operation::{FileHandle, InodeId, Number, Operation, Outcome};
use crate::wire::message::{
    Answer, Generation, Rejection, Running, SessionId, Start, ToPrimary, ToSecondary,
};
use std::collections::{BTreeMap, HashMap};
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

/// The secondary; see the module.
#[derive(Debug)]
pub struct Secondary {
    state: State,
    durability: Vec<Durability>,
}

#[derive(Debug)]
enum State {
    /// No session.
    Idle,
    /// A session is allowed; that this copy is open is being written down.
    Opening { session: SessionId },
    /// A session is going on, with or without a connection.
    Serving(Box<Session>),
    /// The session is over: what is in the kernel ends, nothing is answered.
    Draining {
        running: usize,
        over: Over,
        noting: Noting,
    },
    /// Everything is answered and "clean" is being written down.
    Closing {
        session: SessionId,
        last: Number,
        linked: bool,
    },
    /// The session ended cleanly. A primary that missed the answer may ask again.
    Ended { session: SessionId, last: Number },
}

/// Whether a session that is over waits for its note, and who hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noting {
    /// No note, or it is on disk.
    Nothing,
    /// "Outdated" is being written, and the primary waits for "parted".
    Outdated,
    /// It is being written and the primary's connection is gone.
    OutdatedUnheard,
}

/// Why a session is over on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// The primary ended it cleanly; this copy is complete.
    Clean,
    /// The primary goes on alone.
    Parted {
        /// The primary's new generation.
        generation: Generation,
        /// Why it does.
        reason: String,
    },
    /// This node was told to leave, or to become primary.
    Left {
        /// What it was told.
        reason: String,
    },
    /// Another process of the primary began anew.
    Replaced,
    /// The primary broke the rules of the session.
    Broken {
        /// Which rule, in which message.
        reason: String,
    },
    /// A note could not be written.
    NoteFailed {
        /// Which, and why.
        reason: String,
    },
}

/// What happens to a secondary.
#[derive(Debug, Clone)]
pub enum Event {
    /// A connection's first frame, checked by the driver: versions, names, configuration and, for a fresh start,
    /// that the copies are equal. It is answered by [`Action::Welcome`] or [`Action::Refuse`]; frames of an
    /// earlier connection must not be given any more once it is.
    Hello {
        /// The session it wants.
        session: SessionId,
        /// Begin or go on.
        start: Start,
    },
    /// A frame of the present connection.
    Received(ToSecondary),
    /// The present connection is gone.
    LinkLost,
    /// An operation handed out by [`Action::Apply`] has ended.
    Done {
        /// Which.
        number: Number,
        /// What came of it.
        outcome: Outcome,
    },
    /// The driver has nothing more to hand in for now: what is answered since goes out in one message.
    Flush,
    /// The last `Note...` action is on disk.
    Noted,
    /// The last `Note...` action failed.
    NoteFailed {
        /// What was attempted and why it failed.
        reason: String,
    },
    /// This node leaves the session, to become primary or to stop.
    Leave {
        /// For the primary's log.
        reason: String,
    },
}

/// What the driver of a secondary must do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write down durably that a session is open, then say [`Event::Noted`].
    NoteOpen,
    /// Answer the `Hello`: these fields, and what the driver knows of its node and directories.
    Welcome {
        /// As in the message.
        prefix: Number,
        /// As in the message.
        answers: Vec<Answer>,
        /// As in the message.
        received: Vec<Number>,
    },
    /// Answer the `Hello` with this and close its connection. The former connection, if any, stays as it is.
    Refuse(Rejection),
    /// Send this on the present connection.
    Send(ToPrimary),
    /// Remember these handles of the primary's inodes.
    Introduced(Vec<(InodeId, FileHandle)>),
    /// Run this on a worker, then say [`Event::Done`].
    Apply {
        /// Its number, to be given back.
        number: Number,
        /// What to run.
        operation: Operation,
    },
    /// Drop what is kept of these inodes.
    Forget(Vec<InodeId>),
    /// `syncfs` everything, write down durably that this copy ended cleanly, then say [`Event::Noted`].
    NoteClean,
    /// Write down durably that the primary goes on under this generation without this copy, then say
    /// [`Event::Noted`].
    NoteOutdated {
        /// The primary's.
        generation: Generation,
        /// Why, for the log.
        reason: String,
    },
    /// Close the present connection, once what was sent is out.
    Close {
        /// For the log and the peer.
        reason: String,
    },
    /// The session is over and none of its operations is in the kernel any more.
    SessionOver(Over),
}

/// Where a secondary stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waits for a primary.
    Idle,
    /// A session begins.
    Opening,
    /// A session is going on.
    Serving {
        /// A connection is up.
        linked: bool,
    },
    /// What is in the kernel ends.
    Draining,
    /// The clean end is being written down.
    Closing,
    /// The last session ended cleanly.
    Ended,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    linked: bool,
    /// The last number of this connection; resending begins lower, but goes up as well.
    connection_last: Number,
    /// All numbers up to this one were received.
    last: Number,
    confirmed: Number,
    /// All numbers up to this one are answered.
    prefix: Number,
    answers: BTreeMap<Number, Answer>,
    /// Answers that were not sent on this connection yet.
    unsent: Vec<Answer>,
    lanes: Lanes<Number>,
    unfinished: BTreeMap<Number, Unfinished>,
    queued_bytes: u64,
    ready: Vec<Number>,
    roots: Roots,
}

#[derive(Debug)]
struct Unfinished {
    /// None once it was handed out.
    operation: Option<Operation>,
    bytes: u64,
    arrived: Duration,
    /// When it was handed out.
    started: Option<Duration>,
}

/// Which inodes are in a directory whose syncs are answered from memory.
#[derive(Debug)]
enum Roots {
    AllDisk,
    AllMemory,
    Mixed {
        durability: Vec<Durability>,
        root_of: HashMap<InodeId, u32>,
    },
}

impl Secondary {
    /// A secondary without a session; `durability` has one entry for each directory in the configuration.
    pub fn new(durability: Vec<Durability>) -> Self {
        Secondary {
            state: State::Idle,
            durability,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Idle => Phase::Idle,
            State::Opening { .. } => Phase::Opening,
            State::Serving(session) => Phase::Serving {
                linked: session.linked,
            },
            State::Draining { .. } => Phase::Draining,
            State::Closing { .. } => Phase::Closing,
            State::Ended { .. } => Phase::Ended,
        }
    }

    /// The last number received in the present session.
    pub fn last_received(&self) -> Option<Number> {
        match &self.state {
            State::Serving(session) => Some(session.last),
            State::Closing { last, .. } | State::Ended { last, .. } => Some(*last),
            State::Idle | State::Opening { .. } | State::Draining { .. } => None,
        }
    }

    /// True when this copy is what it was before the present session, if there is one: none of its operations was
    /// received. The driver, which checks that two copies are equal before a fresh start, may then go by what its
    /// record said before, although that says "open" by now: the primary missed the first `Welcome`.
    pub fn is_untouched(&self) -> bool {
        match &self.state {
            State::Idle | State::Opening { .. } | State::Ended { .. } => true,
            State::Serving(session) => session.last == Number(0),
            State::Draining { .. } | State::Closing { .. } => false,
        }
    }

    /// Operations received and not ended.
    pub fn queue_depth(&self) -> usize {
        match &self.state {
            State::Serving(session) => session.unfinished.len(),
            State::Draining { running, .. } => *running,
            State::Idle | State::Opening { .. } | State::Closing { .. } | State::Ended { .. } => 0,
        }
    }

    /// Takes an event at `now` (CLOCK_BOOTTIME) and appends what is to be done.
    pub fn apply(&mut self, event: Event, now: Duration, actions: &mut Vec<Action>) {
        match event {
            Event::Hello { session, start } => self.hello(session, start, actions),
            Event::Received(message) => self.received(message, now, actions),
            Event::LinkLost => self.link_lost(),
            Event::Done { number, outcome } => self.done(number, outcome, now, actions),
            Event::Flush => {
                if let State::Serving(session) = &mut self.state {
                    session.flush(actions);
                }
            }
            Event::Noted => self.noted(actions),
            Event::NoteFailed { reason } => self.note_failed(reason, actions),
            Event::Leave { reason } => self.leave(reason, actions),
        }
    }

    fn hello(&mut self, id: SessionId, start: Start, actions: &mut Vec<Action>) {
        match (&mut self.state, start) {
            (State::Idle | State::Ended { .. }, Start::Fresh { .. }) => {
                self.state = State::Opening { session: id };
                actions.push(Action::NoteOpen);
            }
            (State::Serving(session), Start::Fresh { .. })
                if session.id != id || session.last == Number(0) =>
            {
                self.end_session(Over::Replaced, actions);
                match &mut self.state {
                    State::Draining { .. } => actions.push(Action::Refuse(Rejection::StillRunning)),
                    _ => {
                        self.state = State::Opening { session: id };
                        actions.push(Action::NoteOpen);
                    }
                }
            }
            (State::Serving(session), Start::Resume { confirmed }) if session.id == id => {
                if confirmed > session.prefix {
                    let reason = format!("the primary confirms {confirmed} of {}", session.prefix);
                    self.end_session(Over::Broken { reason }, actions);
                    actions.push(Action::Refuse(Rejection::UnknownSession));
                    return;
                }
                session.confirm(confirmed);
                session.linked = true;
                session.connection_last = Number(0);
                session.unsent.clear();
                actions.push(Action::Welcome {
                    prefix: session.prefix,
                    answers: session.answers.values().cloned().collect(),
                    received: session.unfinished.keys().copied().collect(),
                });
            }
            (State::Ended { session, last }, Start::Resume { .. }) if *session == id => {
                let (session, last) = (*session, *last);
                actions.push(Action::Welcome {
                    prefix: last,
                    answers: Vec::new(),
                    received: Vec::new(),
                });
                self.state = State::Ended { session, last };
            }
            (State::Draining { .. } | State::Opening { .. } | State::Closing { .. }, _) => {
                actions.push(Action::Refuse(Rejection::StillRunning));
            }
            // A session's name is made anew for each fresh start, so this one is going on already.
            (State::Serving(_), Start::Fresh { .. })
            | (State::Idle | State::Serving(_) | State::Ended { .. }, Start::Resume { .. }) => {
                actions.push(Action::Refuse(Rejection::UnknownSession));
            }
        }
    }

    fn received(&mut self, message: ToSecondary, now: Duration, actions: &mut Vec<Action>) {
        let session = match &mut self.state {
            State::Serving(session) => session,
            State::Ended { .. } => {
                // The answer to an earlier `End` was lost with its connection.
                match message {
                    ToSecondary::End => actions.push(Action::Send(ToPrimary::Ended)),
                    ToSecondary::Hello(_)
                    | ToSecondary::Operation { .. }
                    | ToSecondary::Ping { .. }
                    | ToSecondary::Forget(_)
                    | ToSecondary::Part { .. } => {}
                }
                return;
            }
            // What still arrives of an ended session is not applied and not answered.
            State::Idle | State::Opening { .. } | State::Draining { .. } | State::Closing { .. } => return,
        };
        if !session.linked {
            return;
        }
        let step = match message {
            ToSecondary::Hello(_) => Err(Fault::Broken("a second Hello on one connection".into())),
            ToSecondary::Operation {
                number,
                confirmed,
                introduced,
                operation,
            } => {
                if !introduced.is_empty() {
                    actions.push(Action::Introduced(introduced));
                }
                session.take(number, confirmed, operation, now, actions)
            }
            ToSecondary::Ping { nonce, confirmed } => session.checked_confirm(confirmed).map(|()| {
                session.flush(actions);
                actions.push(Action::Send(ToPrimary::Pong {
                    nonce,
                    prefix: session.prefix,
                    running: session.running(now),
                }));
            }),
            ToSecondary::Forget(inodes) => {
                session.roots.forget(&inodes);
                actions.push(Action::Forget(inodes));
                Ok(())
            }
            ToSecondary::End if session.unfinished.is_empty() => {
                session.flush(actions);
                actions.push(Action::NoteClean);
                self.state = State::Closing {
                    session: session.id,
                    last: session.last,
                    linked: true,
                };
                return;
            }
            ToSecondary::End => Err(Fault::Broken(format!(
                "End while {} operations are unanswered",
                session.unfinished.len()
            ))),
            ToSecondary::Part { generation, reason } => {
                actions.push(Action::NoteOutdated {
                    generation,
                    reason: reason.clone(),
                });
                let running = session.running_count();
                self.state = State::Draining {
                    running,
                    over: Over::Parted { generation, reason },
                    noting: Noting::Outdated,
                };
                return;
            }
        };
        match step {
            Ok(()) => {}
            Err(Fault::Full(reason)) => {
                session.linked = false;
                actions.push(Action::Close { reason });
            }
            Err(Fault::Broken(reason)) => {
                let reason = format!("the primary broke the rules of the session: {reason}");
                actions.push(Action::Close {
                    reason: reason.clone(),
                });
                self.end_session(Over::Broken { reason }, actions);
            }
        }
    }

    fn link_lost(&mut self) {
        match &mut self.state {
            State::Serving(session) => {
                session.linked = false;
                session.unsent.clear();
            }
            State::Closing { linked, .. } => *linked = false,
            State::Draining { noting, .. } => {
                if *noting == Noting::Outdated {
                    *noting = Noting::OutdatedUnheard;
                }
            }
            State::Idle | State::Opening { .. } | State::Ended { .. } => {}
        }
    }

    fn done(&mut self, number: Number, outcome: Outcome, now: Duration, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Serving(session) => session.done(number, outcome, now, actions),
            State::Draining { running, .. } => {
                *running = running.saturating_sub(1);
                self.drained(actions);
            }
            State::Idle | State::Opening { .. } | State::Closing { .. } | State::Ended { .. } => {}
        }
    }

    fn noted(&mut self, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Opening { session } => {
                let session = Session::new(*session, Roots::new(&self.durability));
                self.state = State::Serving(Box::new(session));
                actions.push(Action::Welcome {
                    prefix: Number(0),
                    answers: Vec::new(),
                    received: Vec::new(),
                });
            }
            State::Closing {
                session,
                last,
                linked,
            } => {
                if *linked {
                    actions.push(Action::Send(ToPrimary::Ended));
                }
                self.state = State::Ended {
                    session: *session,
                    last: *last,
                };
                actions.push(Action::SessionOver(Over::Clean));
            }
            State::Draining { noting, .. } => {
                if std::mem::replace(noting, Noting::Nothing) == Noting::Outdated {
                    actions.push(Action::Send(ToPrimary::Parted));
                }
                self.drained(actions);
            }
            State::Idle | State::Serving(_) | State::Ended { .. } => {}
        }
    }

    fn note_failed(&mut self, reason: String, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Opening { .. } => {
                self.state = State::Idle;
                actions.push(Action::Refuse(Rejection::Unfit(reason.clone())));
                actions.push(Action::SessionOver(Over::NoteFailed { reason }));
            }
            State::Closing { .. } => {
                self.state = State::Idle;
                actions.push(Action::Close {
                    reason: reason.clone(),
                });
                actions.push(Action::SessionOver(Over::NoteFailed { reason }));
            }
            State::Draining { noting, .. } => {
                *noting = Noting::Nothing;
                self.drained(actions);
            }
            State::Idle | State::Serving(_) | State::Ended { .. } => {}
        }
    }

    fn leave(&mut self, reason: String, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Serving(session) => {
                if session.linked {
                    actions.push(Action::Send(ToPrimary::Leaving {
                        reason: reason.clone(),
                    }));
                    actions.push(Action::Close {
                        reason: reason.clone(),
                    });
                }
                self.end_session(Over::Left { reason }, actions);
            }
            State::Draining { .. } => {}
            State::Idle | State::Ended { .. } => {
                self.state = State::Idle;
                actions.push(Action::SessionOver(Over::Left { reason }));
            }
            State::Opening { .. } | State::Closing { .. } => {
                actions.push(Action::Close {
                    reason: reason.clone(),
                });
                self.state = State::Idle;
                actions.push(Action::SessionOver(Over::Left { reason }));
            }
        }
    }

    /// Drops what is queued and waits for what is in the kernel.
    fn end_session(&mut self, over: Over, actions: &mut Vec<Action>) {
        let State::Serving(session) = &self.state else {
            return;
        };
        self.state = State::Draining {
            running: session.running_count(),
            over,
            noting: Noting::Nothing,
        };
        self.drained(actions);
    }

    fn drained(&mut self, actions: &mut Vec<Action>) {
        if let State::Draining {
            running: 0,
            noting: Noting::Nothing,
            over,
        } = &self.state
        {
            actions.push(Action::SessionOver(over.clone()));
            self.state = State::Idle;
        }
    }
}

/// Why a frame cannot be taken.
enum Fault {
    /// A bound is reached: the session stays, its connection does not.
    Full(String),
    /// The primary is not to be trusted with this session any more.
    Broken(String),
}

impl Session {
    fn new(id: SessionId, roots: Roots) -> Self {
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
        }
    }

    fn take(
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

    fn done(&mut self, number: Number, outcome: Outcome, now: Duration, actions: &mut Vec<Action>) {
        let handed_out = |entry: &Unfinished| entry.started.is_some();
        if self.unfinished.get(&number).is_some_and(handed_out) {
            self.end(number, outcome, now);
            self.run_ready(now, actions);
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

    fn flush(&mut self, actions: &mut Vec<Action>) {
        if self.linked && !self.unsent.is_empty() {
            actions.push(Action::Send(ToPrimary::Answers {
                prefix: self.prefix,
                answers: std::mem::take(&mut self.unsent),
            }));
        }
    }

    fn checked_confirm(&mut self, confirmed: Number) -> Result<(), Fault> {
        if confirmed > self.prefix {
            return Err(Fault::Broken(format!(
                "{confirmed} is confirmed and only {} is answered",
                self.prefix
            )));
        }
        self.confirm(confirmed);
        Ok(())
    }

    fn confirm(&mut self, confirmed: Number) {
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

    fn running(&self, now: Duration) -> Vec<Running> {
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

    fn running_count(&self) -> usize {
        self.unfinished
            .values()
            .filter(|entry| entry.started.is_some())
            .count()
    }
}

impl Roots {
    fn new(durability: &[Durability]) -> Self {
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

    fn forget(&mut self, inodes: &[InodeId]) {
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
