//! The driver of the secondary: one lock around [`Secondary`], a reader of the connection that applies what is
//! short, workers that apply the rest.
//!
//! Lock order: `Shared::inner` only; nothing blocks while it is held (frames are queued). Operations run without
//! it: short ones on the thread that their packets arrive at, which also sends the answer, others in the blocking
//! pool of the runtime.

use crate::admission;
use crate::backing::Store;
use crate::clock;
use crate::config::Config;
use crate::control::event::{Reporter, What};
use crate::dirty::maps::Maps;
use crate::hash::HashMap;
use crate::latency::Ring;
use crate::link::{self, Executor, Outbox};
use crate::operation::{Attributes, FileHandle, InodeId, Number, Operation, Outcome};
use crate::record::split_brain::{Change, Policy, Resolution};
use crate::record::{CopyKind, End, Keeper, Loses, Record, Role, Split};
use crate::session::secondary::{Action, Event, Over, Phase, Secondary};
use crate::wire::frame::Message;
use crate::wire::message::{
    Generation, Hello, Identities, Offer, Rejection, Room, Start, ToPrimary, ToSecondary, Top, Welcome,
};
use anyhow::Context;
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tracing::{debug, info, warn};

mod archive;
mod bulk;
mod meeting;
mod notes;
pub(crate) mod tracked;
mod work;

use meeting::Candidate;
pub use meeting::reject;
use tracked::Tracked;
use work::Work;

/// The secondary's side of a module. Clones share it.
#[derive(Clone)]
pub struct Receiver {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    store: Arc<Store>,
    keeper: Arc<Keeper>,
    /// What was changed here while this node was alone.
    maps: Arc<Maps>,
    extent_bytes: NonZeroU64,
    reporter: Reporter,
    runtime: Handle,
    executor: Executor,
    local: Ring,
    /// Workers that wait for the lock to say `Done`: the last of them flushes the answers of all.
    finishing: AtomicUsize,
    phase: watch::Sender<Phase>,
    /// Durable notes under way. Raised and lowered with `inner` held.
    notes: watch::Sender<usize>,
    /// Whose changes stay after a split brain.
    policy: Policy,
    /// That the last call has shown.
    split: Mutex<Option<Split>>,
    /// The revision of the record whose copy was put aside. Held while that is done. Nothing changes the copy between
    /// that and the next write of the record.
    put_aside: tokio::sync::Mutex<Option<u64>>,
}

struct Inner {
    secondary: Secondary,
    /// Where frames of the present connection go.
    present: Option<Present>,
    /// A connection whose `Hello` waits for a durable note.
    pending: Option<Candidate>,
    next_connection: u64,
    /// Set for good by `leave`: this node's role is another one, and a caller that was sent here before is late.
    closed: bool,
    /// What the record said before the present session, as long as that has received no operation: until then
    /// nothing has changed, here or there, and the copies are what they were.
    before: Option<Record>,
    /// Free space below each directory, for the next pong.
    rooms: Vec<Room>,
    /// The primary's backing handles, by which it finds renamed inodes again after a promotion of this node.
    peer_handles: HashMap<InodeId, FileHandle>,
    /// What the primary may lack if this node is promoted.
    tracked: Tracked,
}

struct Present {
    connection: u64,
    out: Outbox<ToPrimary>,
}

/// What the module knows of this node when a primary calls.
#[derive(Debug, Clone)]
pub struct Premises {
    /// This node's name.
    pub node: String,
    /// This node's directories.
    pub offers: Vec<Offer>,
    /// A directory that holds files and no mark that they belong to this module.
    pub foreign: Option<String>,
    /// This node's users and groups.
    pub identities: Identities,
    /// What this node, a secondary, has changed without its peer.
    pub changed: Change,
}

/// What this node has written down of itself.
#[derive(Debug, Clone)]
pub struct Notes {
    /// Its record.
    pub keeper: Arc<Keeper>,
    /// What it has changed alone.
    pub maps: Arc<Maps>,
}

/// What the status shows of a secondary.
#[derive(Debug, Clone)]
pub struct View {
    /// Where the session stands.
    pub phase: Phase,
    /// Last number received.
    pub last_received: Option<Number>,
    /// Operations received and not ended.
    pub queue_depth: usize,
}

impl Receiver {
    /// A secondary without a session that applies to `store`. `secondary` is new.
    pub fn new(
        secondary: Secondary,
        store: Arc<Store>,
        notes: Notes,
        reporter: Reporter,
        runtime: Handle,
        executor: Executor,
        config: &Config,
    ) -> Self {
        let (extent_bytes, policy) = (config.extent_bytes, config.split_brain);
        let inner = Inner {
            secondary,
            present: None,
            pending: None,
            next_connection: 1,
            closed: false,
            before: None,
            rooms: Vec::new(),
            peer_handles: HashMap::default(),
            tracked: Tracked::new(extent_bytes),
        };
        let shared = Shared {
            inner: Mutex::new(inner),
            store,
            keeper: notes.keeper,
            maps: notes.maps,
            extent_bytes,
            reporter,
            runtime,
            executor,
            local: Ring::default(),
            finishing: AtomicUsize::new(0),
            phase: watch::Sender::new(Phase::Idle),
            notes: watch::Sender::new(0),
            policy,
            split: Mutex::default(),
            put_aside: tokio::sync::Mutex::default(),
        };
        Receiver {
            shared: Arc::new(shared),
        }
    }

    /// An archive is about to be removed: what this node would lose is put aside again before it does.
    pub async fn forget_archive(&self) {
        *self.shared.put_aside.lock().await = None;
    }

    /// The split brain that the last call of the primary has shown.
    pub fn split(&self) -> Option<Split> {
        *self.shared.split.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the status shows.
    pub fn view(&self) -> View {
        let inner = self.shared.lock();
        View {
            phase: inner.secondary.phase(),
            last_received: inner.secondary.last_received(),
            queue_depth: inner.secondary.queue_depth(),
        }
    }

    /// Backing files.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// Latencies of applying here.
    pub fn local_latency(&self) -> &Ring {
        &self.shared.local
    }

    /// Serves a connection whose first frame was `hello`, until it ends.
    pub async fn serve(
        &self,
        sender: link::Sender<ToPrimary>,
        receiver: link::Receiver<ToSecondary>,
        hello: Hello,
        premises: Premises,
    ) {
        let admitted = match self.shared.admit(&hello, &premises) {
            Ok((warnings, Loses::Nothing)) => Ok(warnings),
            Ok((warnings, Loses::Changes)) => self.shared.put_aside().await.map(|()| warnings),
            Err(rejection) => Err(rejection),
        };
        let warnings = match admitted {
            Ok(warnings) => warnings,
            Err(rejection) => {
                let reason = rejection.to_string();
                // It calls again and again.
                if rejection == Rejection::Archiving {
                    debug!(%reason, "the primary has to wait");
                } else {
                    let message = format!("refused the primary {}: {reason}", hello.node);
                    self.shared.reporter.report(What::PeerRefused { reason }, message);
                }
                reject(sender, rejection).await;
                return;
            }
        };
        for warning in warnings {
            self.shared.reporter.report(What::Warning, warning);
        }
        let (started, has_started) = oneshot::channel();
        let connection = self.shared.hello(hello, premises, sender.into_outbox(), started);
        // An error means that the candidate was dropped with its node's role.
        if !has_started.await.unwrap_or(false) {
            return;
        }
        let shared = self.shared.clone();
        let take = move |batch: &mut Vec<ToSecondary>| shared.received(connection, batch);
        let ended = match receiver.each_batch(take).await {
            Ok(true) => "the primary closed it".to_owned(),
            Ok(false) => "another connection took its place".to_owned(),
            Err(error) => error.to_string(),
        };
        debug!(reason = %ended, "the connection from the primary ended");
        self.shared.link_lost(connection, &ended);
    }

    /// Every change of phase.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.shared.phase.subscribe()
    }

    /// Ends the session, if there is one, and waits until none of its operations is in the kernel and none of its
    /// notes on the way to the disk. Nothing is accepted by this receiver afterwards, not even a connection that
    /// was being welcomed. True when a session was going on: then this copy was in sync as far as this node can
    /// know.
    pub async fn leave(&self, reason: &str) -> bool {
        let (mut phase, mut notes) = (self.shared.phase.subscribe(), self.shared.notes.subscribe());
        let before = {
            let mut inner = self.shared.lock();
            let before = inner.secondary.phase();
            inner.closed = true;
            let reason = reason.to_owned();
            // What is queued is dropped; nothing becomes ready.
            let mut work = VecDeque::new();
            self.shared.step(&mut inner, Event::Leave { reason }, &mut work);
            if let Some(candidate) = inner.pending.take() {
                candidate.turn_away_late();
            }
            before
        };
        let settled = |phase: &Phase| matches!(phase, Phase::Idle | Phase::Ended);
        // The sender lives in `self.shared`, so waiting cannot fail.
        if phase.wait_for(settled).await.is_err() || notes.wait_for(|notes| *notes == 0).await.is_err() {
            warn!("the receiver went away while its session ended");
        }
        if before == Phase::Opening {
            self.shared.restore_record();
        }
        matches!(before, Phase::Serving { copying: false, .. })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // `Secondary` has no panics that input can reach; a poisoned lock would only hide the first report.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames of connection `connection`; false when it is not the present one any more. Runs on the thread that the
    /// packets arrive at.
    fn received(self: &Arc<Self>, connection: u64, batch: &mut Vec<ToSecondary>) -> bool {
        // Before the lock: it is a system call.
        let is_ping = |message: &ToSecondary| matches!(message, ToSecondary::Ping { .. });
        let rooms = batch.iter().any(is_ping).then(|| self.rooms());
        let mut work = VecDeque::new();
        let mut is_present = true;
        {
            let mut inner = self.lock();
            inner.rooms = rooms.unwrap_or_default();
            for message in batch.drain(..) {
                is_present = inner
                    .present
                    .as_ref()
                    .is_some_and(|present| present.connection == connection);
                if !is_present {
                    break;
                }
                match &message {
                    ToSecondary::Operation {
                        number, operation, ..
                    } => {
                        inner.before = None;
                        if let Operation::Bind { inode, handle, .. } = operation {
                            inner.peer_handles.insert(*inode, handle.clone());
                        }
                        inner.tracked.take(*number, operation);
                    }
                    ToSecondary::Covered { number } => inner.tracked.covered(*number),
                    ToSecondary::Hello(_)
                    | ToSecondary::Ping { .. }
                    | ToSecondary::Forget(_)
                    | ToSecondary::End
                    | ToSecondary::Complete { .. }
                    | ToSecondary::Part { .. } => {}
                }
                self.step(&mut inner, Event::Received(message), &mut work);
            }
            self.step(&mut inner, Event::Flush, &mut work);
        }
        self.carry_out(work);
        is_present
    }

    /// Empty when one of the file systems does not tell: half a list would be taken for the wrong directories.
    fn rooms(&self) -> Vec<Room> {
        let rooms = (0..self.store.directories()).map(|index| self.store.room(InodeId::root(index)));
        match rooms.collect() {
            Ok(rooms) => rooms,
            Err(errno) => {
                debug!(%errno, "the free space is not known");
                Vec::new()
            }
        }
    }

    fn link_lost(self: &Arc<Self>, connection: u64, reason: &str) {
        let mut inner = self.lock();
        if inner
            .present
            .as_ref()
            .is_some_and(|present| present.connection == connection)
        {
            inner.present = None;
            if matches!(inner.secondary.phase(), Phase::Serving { .. }) {
                self.reporter.report(
                    What::ConnectionLost,
                    format!("the connection to the primary broke: {reason}"),
                );
            }
            // Nothing becomes ready by it.
            self.step(&mut inner, Event::LinkLost, &mut VecDeque::new());
        }
    }

    fn step(self: &Arc<Self>, inner: &mut Inner, event: Event, work: &mut VecDeque<Work>) {
        let mut actions = Vec::new();
        inner.secondary.apply(event, clock::now(), &mut actions);
        for action in actions {
            self.run(inner, action, work);
        }
        self.publish(inner);
    }

    fn publish(&self, inner: &Inner) {
        self.phase.send_if_modified(|phase| {
            let next = inner.secondary.phase();
            std::mem::replace(phase, next) != next
        });
    }

    fn run(self: &Arc<Self>, inner: &mut Inner, action: Action, work: &mut VecDeque<Work>) {
        match action {
            Action::Apply { number, operation } => work.push_back(Work { number, operation }),
            Action::Send(mut message) => {
                if let ToPrimary::Pong { rooms, .. } = &mut message {
                    rooms.clone_from(&inner.rooms);
                }
                send(inner, message);
            }
            Action::Close { reason } => {
                warn!(%reason, "closing the connection to the primary");
                if let Some(present) = inner.present.take() {
                    present.out.close(reason);
                }
            }
            Action::Welcome {
                prefix,
                answers,
                received,
            } => self.welcome(inner, prefix, answers, received),
            Action::Refuse(rejection) => self.refuse(inner, rejection),
            Action::Introduced(handles) => inner.peer_handles.extend(handles),
            Action::Forget(inodes) => {
                for inode in &inodes {
                    inner.peer_handles.remove(inode);
                }
                self.store.forget(&inodes);
            }
            Action::NoteOpen => {
                let pending = inner.pending.as_ref();
                let generation = pending.and_then(|candidate| candidate.generation);
                let tops = pending
                    .map(|candidate| candidate.tops.clone())
                    .unwrap_or_default();
                let checkpoints = pending.map_or(0, |candidate| candidate.checkpoints);
                inner.before.get_or_insert_with(|| self.keeper.current());
                inner.peer_handles.clear();
                inner.tracked.begin(checkpoints);
                self.store.forget_all();
                self.note("note that a session is open", move |shared| {
                    let generation = generation.context("the primary has no generation")?;
                    shared.take_over(&tops)?;
                    shared.mark()?;
                    let here = shared.keeper.here();
                    shared.keeper.update(|record| {
                        record.open_session(generation, Role::Secondary, here);
                        record.checkpoint = checkpoints;
                    })?;
                    Ok(())
                });
            }
            Action::NoteInconsistent => {
                let pending = inner.pending.as_ref();
                let generation = pending.and_then(|candidate| candidate.generation);
                let kind = pending.map_or(CopyKind::Whole, |candidate| candidate.kind);
                let checkpoints = pending.map_or(0, |candidate| candidate.checkpoints);
                inner.before = None;
                inner.peer_handles.clear();
                inner.tracked.begin(checkpoints);
                self.store.forget_all();
                self.note("note that this copy is mixed", move |shared| {
                    let generation = generation.context("the primary has no generation")?;
                    let here = shared.keeper.here();
                    shared
                        .keeper
                        .update(|record| record.begin_copy(generation, kind, here))?;
                    shared.mark()?;
                    shared.store.remove_displaced()?;
                    Ok(())
                });
            }
            Action::NoteComplete { generation } => {
                // Nothing was counted while it copied.
                let checkpoints = inner.tracked.counted;
                self.note("note that the copy is complete", move |shared| {
                    shared.store.remove_displaced()?;
                    let here = shared.keeper.here();
                    shared.keeper.update(|record| {
                        record.join(generation, Role::Secondary, here);
                        record.checkpoint = checkpoints;
                    })?;
                    shared
                        .reporter
                        .report(What::InSync, "the copy is complete; this node's copy is in sync");
                    Ok(())
                });
            }
            Action::NoteClean => self.note("note the clean end of the session", |shared| {
                // The primary has noted its own end before it asked.
                shared.keeper.update(|record| record.end(End::Last))?;
                Ok(())
            }),
            Action::NoteOutdated { generation, reason } => {
                self.note("note that this copy is outdated", move |shared| {
                    shared
                        .keeper
                        .devalue(|record| record.outdate(generation, &reason))?;
                    Ok(())
                });
            }
            Action::SessionOver(over) => self.session_over(inner, &over),
        }
    }

    fn session_over(&self, inner: &mut Inner, over: &Over) {
        info!(?over, "the session is over");
        let sequel = match over {
            Over::Clean => "ended cleanly".to_owned(),
            Over::Parted { reason, .. } => {
                format!("the primary goes on alone: {reason}; this copy is outdated")
            }
            Over::Left { reason } => format!("this node left it: {reason}"),
            Over::Replaced => "the primary began anew".to_owned(),
            Over::Broken { reason } | Over::NoteFailed { reason } => reason.clone(),
        };
        self.reporter
            .report(What::Warning, format!("the session is over: {sequel}"));
        // A session that changed nothing leaves what was known before; the record goes on saying "open", so that a
        // restart of this process errs on the safe side.
        if matches!(over, Over::Clean | Over::Parted { .. }) {
            inner.before = None;
        }
    }
}

fn send(inner: &Inner, message: ToPrimary) {
    if let Some(present) = &inner.present
        && present.out.send(message).is_err()
    {
        debug!("a frame for a connection that is gone is dropped; it is sent again on the next");
    }
}
