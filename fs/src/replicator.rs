//! The driver of the primary: one lock around [`Primary`], workers that apply, a task that keeps the connection.
//!
//! Lock order: `Replicator::inner` only, and nothing blocks while it is held: frames are queued there, in the
//! order of their numbers; what may wait for a disk or runs foreign code (replies) is done after it is released.
//! Any thread may call [`Replicator::submit`]; a reply comes on whichever thread finished the operation.

use crate::admission;
use crate::backing::Store;
use crate::clock;
use crate::config::{Config, OnPeerLoss};
use crate::control::command::{Refusal, RefusalKind};
use crate::control::event::{Reporter, What};
use crate::control::status::Latencies;
use crate::dirty::maps::Maps;
use crate::hash::HashMap;
use crate::latency::Ring;
use crate::link::{self, Endpoint, LinkError, Outbox};
use crate::operation::{Applied, Errno, FileHandle, InodeId, Name, Number, Operation};
use crate::receiver::Premises;
use crate::record::{End, Keeper, Role, random_bytes};
use crate::session::claims::ClaimId;
use crate::session::loss::Loss;
use crate::session::names::{LookupTicket, Raced, Seen};
use crate::session::primary::{Action, Event, Phase, Primary, Settings, Slot, Ticket, is_broken_disk};
use crate::wire::frame::Message;
use crate::wire::message::{
    Generation, Hello, Rejection, Room, SessionId, Start, ToPrimary, ToSecondary, Welcome,
};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tracing::{debug, info, warn};

mod connection;
mod copy;
mod marks;
mod notes;
mod report;
mod verify;
mod work;

use marks::Marks;
use work::{Deferred, Runs};

/// What a replicator is made of.
pub struct Setup {
    /// The module's.
    pub config: Config,
    /// Backing files.
    pub store: Arc<Store>,
    /// The record.
    pub keeper: Arc<Keeper>,
    /// Where events go.
    pub reporter: Reporter,
    /// Whose blocking pool applies.
    pub runtime: Handle,
    /// Where the dirty map is kept.
    pub maps: Arc<Maps>,
}

type ReplyTo = Box<dyn FnOnce(Result<Applied, Errno>) + Send>;

/// The primary's side of a module; see the module's page.
pub struct Replicator {
    config: Config,
    store: Arc<Store>,
    keeper: Arc<Keeper>,
    reporter: Reporter,
    runtime: Handle,
    /// By which the secondary is reached, once it has been called.
    endpoint: OnceLock<Endpoint>,
    inner: Mutex<Inner>,
    phase: watch::Sender<Phase>,
    /// The timer has a new, earlier deadline.
    rearm: Notify,
    /// Set once, by `abandon` or when the last operation was answered: the tasks end.
    over: watch::Sender<bool>,
    /// The secondary has noted durably that its copy is outdated.
    peer_noted: AtomicBool,
    copies: copy::Copies,
    verifications: verify::Verifications,
    maps: Arc<Maps>,
    marks: Arc<Marks>,
    /// One more than the count of checkpoints that a map read from disk remembers of the secondary; 0: that of this
    /// node's record.
    peer_counted: AtomicU64,
    /// The generation of the time alone that a copy has ended: its map is of no use once the pair is in sync.
    joined_from: Mutex<Option<Generation>>,
    /// Only one `connect` at a time.
    connecting: tokio::sync::Mutex<()>,
    local: Ring,
    wire: Ring,
    peer: Ring,
}

struct Inner {
    primary: Primary,
    replies: HashMap<Ticket, ReplyTo>,
    next_ticket: u64,
    /// Where frames of the present connection go.
    out: Option<Outbox<ToSecondary>>,
    /// Which connection that is; frames of earlier ones are not handed in any more.
    connection: u64,
    /// Forgotten by the kernel and still needed by an operation or an entry below: looked up again, such an inode
    /// must get the same number, or two numbers would order the operations of one inode apart.
    lingering: HashMap<(usize, FileHandle), InodeId>,
    /// CLOCK_BOOTTIME for which the timer is set.
    armed: Option<Duration>,
    actions: Vec<Action>,
    /// What the secondary said last of its free space, by directory.
    peer_rooms: Vec<Room>,
    /// Threads of the copy or verification that wait for a claim; dropped when it is over.
    claims: HashMap<ClaimId, oneshot::Sender<Vec<InodeId>>>,
    /// Threads of the verification that wait for a repair; dropped when it is over.
    mends: HashMap<ClaimId, oneshot::Sender<Result<(), String>>>,
    /// Why the last copy failed.
    copy_failure: Option<String>,
}

/// What the status shows of a primary.
#[derive(Debug, Clone)]
pub struct View {
    /// Where it stands.
    pub phase: Phase,
    /// A connection is up.
    pub connected: bool,
    /// Last number given.
    pub last_number: Option<Number>,
    /// Known to be applied on the secondary up to here.
    pub acknowledged: Option<Number>,
    /// Submitted and not replied to.
    pub queue_depth: usize,
}

impl Replicator {
    /// A primary without a session. It goes on alone at once if the record says that it has before.
    pub fn new(setup: Setup) -> Arc<Self> {
        let settings = Settings {
            peer_stall: setup.config.peer_stall,
            local_stall: setup.config.local_stall,
            on_peer_loss: setup.config.on_peer_loss,
            checkpoint_interval: setup.config.checkpoint,
            extent_bytes: setup.config.extent_bytes,
            directories: setup.store.directories(),
        };
        let primary = Primary::excluding(settings, setup.store.excluded().clone());
        let phase = watch::Sender::new(primary.phase());
        let inner = Inner {
            primary,
            replies: HashMap::default(),
            next_ticket: 1,
            out: None,
            connection: 0,
            lingering: HashMap::default(),
            armed: None,
            actions: Vec::new(),
            peer_rooms: Vec::new(),
            claims: HashMap::default(),
            mends: HashMap::default(),
            copy_failure: None,
        };
        let alone = setup.keeper.current().peer_lacks_data;
        let replicator = Arc::new(Replicator {
            config: setup.config,
            store: setup.store,
            keeper: setup.keeper,
            reporter: setup.reporter,
            runtime: setup.runtime,
            endpoint: OnceLock::new(),
            inner: Mutex::new(inner),
            phase,
            rearm: Notify::new(),
            over: watch::Sender::new(false),
            peer_noted: AtomicBool::new(false),
            copies: copy::Copies::default(),
            verifications: verify::Verifications::default(),
            maps: setup.maps,
            marks: Arc::default(),
            peer_counted: AtomicU64::new(0),
            joined_from: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
            local: Ring::default(),
            wire: Ring::default(),
            peer: Ring::default(),
        });
        replicator.runtime.spawn(timer(Arc::downgrade(&replicator)));
        replicator.restore_map();
        marks::start(&replicator);
        if alone {
            replicator.event(Event::GoAlone, Runs::Task);
        }
        replicator
    }

    /// Backing files.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Carries a change out on both nodes. `reply` is called once, on any thread, possibly before this returns;
    /// never, when this node's disk fails: then nothing more is answered.
    pub fn submit(
        self: &Arc<Self>,
        operation: Operation,
        reply: impl FnOnce(Result<Applied, Errno>) + Send + 'static,
    ) {
        let reply: ReplyTo = if self.copies.pace.is_wanted() && !matches!(operation, Operation::Sync { .. }) {
            let (replicator, began) = (Arc::downgrade(self), Instant::now());
            Box::new(move |result| {
                reply(result);
                if let Some(replicator) = replicator.upgrade() {
                    replicator.copies.pace.operation(began, Instant::now());
                }
            })
        } else {
            Box::new(reply)
        };
        // What it sends leaves this node before this thread goes on.
        let deferred = self.drive(|| {
            let mut inner = self.lock();
            let ticket = Ticket(inner.next_ticket);
            inner.next_ticket += 1;
            inner.replies.insert(ticket, reply);
            self.step(&mut inner, Event::Submit { ticket, operation })
        });
        self.carry_out(deferred, Runs::Mount);
    }

    /// A read of this node's disk for an application failed with `errno`. `reply` is called as that of
    /// [`Replicator::submit`]; never, when the error is that of a broken disk and the secondary can take over.
    pub fn read_failed(self: &Arc<Self>, errno: Errno, reply: impl FnOnce(Errno) + Send + 'static) {
        if !is_broken_disk(errno) {
            return reply(errno);
        }
        let deferred = {
            let mut inner = self.lock();
            let ticket = Ticket(inner.next_ticket);
            inner.next_ticket += 1;
            let reply = move |result: Result<Applied, Errno>| reply(result.err().unwrap_or(errno));
            inner.replies.insert(ticket, Box::new(reply));
            self.step(&mut inner, Event::ReadFailed { ticket, errno })
        };
        self.carry_out(deferred, Runs::Mount);
    }

    /// To be called before a name is read from the backing directory.
    pub fn begin_lookup(&self, directory: InodeId) -> LookupTicket {
        self.lock().primary.begin_lookup(directory)
    }

    /// Records that `inode` has `name` in the ticket's directory.
    ///
    /// # Errors
    /// [`Raced`] when a name operation of the directory overlapped: what was read may be old.
    pub fn looked_up(
        &self,
        ticket: LookupTicket,
        inode: InodeId,
        name: &Name,
        seen: Seen,
    ) -> Result<(), Raced> {
        self.lock().primary.looked_up(ticket, inode, name, seen)
    }

    /// Whether a name of this directory is excluded, which has an inode or gets one.
    pub fn is_excluded(&self, directory: InodeId, name: &Name, is_directory: bool) -> bool {
        self.lock().primary.is_excluded(directory, name, is_directory)
    }

    /// Whether an inode that the kernel knows is excluded.
    pub fn is_excluded_inode(&self, inode: InodeId) -> bool {
        self.lock().primary.is_excluded_inode(inode)
    }

    /// The kernel forgot these inodes. The store forgets them once no operation needs them any more.
    pub fn forget(self: &Arc<Self>, inodes: &[InodeId]) {
        let deferred = {
            let mut inner = self.lock();
            for inode in inodes {
                if let Some(place) = self.store.place(*inode) {
                    inner.lingering.insert(place, *inode);
                }
            }
            let mut actions = std::mem::take(&mut inner.actions);
            inner.primary.forget(inodes, &mut actions);
            self.run(&mut inner, actions)
        };
        self.carry_out(deferred, Runs::Mount);
    }

    /// The number of the inode behind `handle` in directory `root`: that which it still has, if the kernel forgot it
    /// and operations or a copy did not, else a new one. The kernel is about to know it.
    pub fn number_of(&self, root: usize, handle: &FileHandle) -> InodeId {
        let mut inner = self.lock();
        let lingering = inner.lingering.remove(&(root, handle.clone()));
        if let Some(inode) = lingering
            && inner.primary.revive(inode)
        {
            return inode;
        }
        // The copy may know it: both must give it one number, so it is given and learnt under the lock.
        if inner.primary.is_covering() {
            let (inode, _) = self.store.adopt(root, handle);
            // What is not known yet is looked up in a moment.
            inner.primary.revive(inode);
            return inode;
        }
        let inode = self.store.next_inode();
        self.store.learn(inode, root, handle.clone());
        inode
    }

    /// By which the secondary finds an inode again on its own disk, whatever its names are. None for a root, for an
    /// inode that was not shipped yet, and for one without a name.
    pub fn peer_handle(&self, inode: InodeId) -> Option<FileHandle> {
        self.lock().primary.peer_handle(inode).cloned()
    }

    /// What the secondary had free at its last pong; none while the pair is not in sync. `root` is a root's inode.
    pub fn room_at_peer(&self, root: InodeId) -> Option<Room> {
        let inner = self.lock();
        if !matches!(inner.primary.phase(), Phase::InSync { .. }) {
            return None;
        }
        let index = usize::try_from(root.0.checked_sub(1)?).ok()?;
        inner.peer_rooms.get(index).copied()
    }

    /// What the status shows.
    pub fn view(&self) -> View {
        let inner = self.lock();
        View {
            phase: inner.primary.phase(),
            connected: inner.out.is_some(),
            last_number: Some(inner.primary.last_number()).filter(|number| *number > Number(0)),
            acknowledged: Some(inner.primary.acknowledged()).filter(|number| *number > Number(0)),
            queue_depth: inner.primary.queue_depth(),
        }
    }

    /// Every change of phase.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Latencies of the most recent operations.
    pub fn latencies(&self) -> Latencies {
        Latencies {
            local: self.local.summary(),
            wire: self.wire.summary(),
            peer: self.peer.summary(),
        }
    }

    /// Why the directories cannot be unmounted cleanly now, if so: something waits for a decision, or it is open
    /// whether the secondary has all.
    pub fn waiting(&self) -> Option<String> {
        let view = self.view();
        let why = match view.phase {
            Phase::NoSession if view.queue_depth > 0 => "no secondary has been connected".to_owned(),
            Phase::Disconnected => "the connection to the secondary is broken".to_owned(),
            Phase::Deciding(loss) | Phase::Parting(loss) => format!("the secondary is lost ({loss})"),
            Phase::Failed { reason } => format!("this node's disk fails ({reason})"),
            Phase::NoSession
            | Phase::InSync { .. }
            | Phase::Joining
            | Phase::Alone(_)
            | Phase::Copying(_)
            | Phase::Ended => return None,
        };
        Some(format!("{why}, {} operations wait", view.queue_depth))
    }

    /// Goes on without the secondary: the record first, durably, then the waiting operations.
    pub async fn go_alone(self: &Arc<Self>) -> Result<(), Refusal> {
        let mut phases = self.phases();
        self.copies.give_up();
        self.event(Event::GoAlone, Runs::Task);
        let decided = |phase: &Phase| !matches!(phase, Phase::Parting(_));
        let phase = match phases.wait_for(decided).await {
            Ok(phase) => phase.clone(),
            Err(_) => Phase::Ended,
        };
        match phase {
            Phase::Alone(_) => Ok(()),
            Phase::InSync { .. } => Err(Refusal {
                kind: RefusalKind::WrongRole,
                message:
                    "the pair is in sync, so there is nothing to decide; stop the secondary first if it is \
                          to be left behind"
                        .into(),
            }),
            other => Err(Refusal {
                kind: RefusalKind::System,
                message: format!("cannot go on alone: {}", describe(&other)),
            }),
        }
    }

    /// Ends cleanly after the last operation: a checkpoint on both nodes, and both records say so. To be called
    /// once nothing can be submitted any more.
    pub async fn end(self: &Arc<Self>) -> Result<(), Refusal> {
        let mut phases = self.phases();
        self.copies.give_up();
        self.event(Event::End, Runs::Task);
        let ended = |phase: &Phase| matches!(phase, Phase::Ended | Phase::Failed { .. } | Phase::Deciding(_));
        let mut over = self.over.subscribe();
        // The secondary may be lost while it is told; then its copy is not known to be clean, and ours is.
        tokio::select! {
            _ = phases.wait_for(ended) => {}
            // Abandoned: somebody does not want to wait for a secondary that does not answer.
            _ = over.wait_for(|over| *over) => {}
        }
        match self.view().phase {
            Phase::Ended => {
                // The note is written after the phase changed; `over` says that it is on disk.
                if self.over.subscribe().wait_for(|over| *over).await.is_err() {
                    debug!("the replicator went away while it ended");
                }
                Ok(())
            }
            other => {
                self.abandon();
                Err(Refusal {
                    kind: RefusalKind::PeerUnreachable,
                    message: format!(
                        "the directories are unmounted, but the session did not end cleanly: {}",
                        describe(&other)
                    ),
                })
            }
        }
    }

    /// Leaves everything as it is: the mount was aborted. What was not answered is lost, which is reported. A clean end
    /// that is under way gives up.
    pub fn abandon(&self) {
        if *self.over.borrow() {
            return;
        }
        let (lost, out) = {
            let mut inner = self.lock();
            (inner.primary.queue_depth(), inner.out.take())
        };
        {
            let mut inner = self.lock();
            inner.claims.clear();
            inner.mends.clear();
        }
        if let Some(out) = out {
            out.close("the primary was stopped without a clean end");
        }
        if lost > 0 {
            self.reporter.report(
                What::Warning,
                format!("{lost} operations were never answered and may be lost"),
            );
        }
        self.set_over();
    }

    /// Nothing more is submitted or written.
    fn set_over(&self) {
        self.marks.end();
        self.over.send_replace(true);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // `Primary` has no panics that input can reach; a poisoned lock would only hide the first report.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` under the lock, and has this thread send what comes of it.
    fn drive<R>(&self, work: impl FnOnce() -> R) -> R {
        match self.endpoint.get() {
            Some(endpoint) => endpoint.executor().drive(work),
            None => work(),
        }
    }

    /// Hands an event in, and does what it asks for.
    fn event(self: &Arc<Self>, event: Event, runs: Runs) {
        let deferred = self.drive(|| {
            let mut inner = self.lock();
            self.step(&mut inner, event)
        });
        self.carry_out(deferred, runs);
    }

    fn step(&self, inner: &mut Inner, event: Event) -> VecDeque<Deferred> {
        let mut actions = std::mem::take(&mut inner.actions);
        inner.primary.apply(event, clock::now(), &mut actions);
        self.run(inner, actions)
    }

    /// Does what belongs under the lock, and gives the rest.
    fn run(&self, inner: &mut Inner, mut actions: Vec<Action>) -> VecDeque<Deferred> {
        let mut deferred = VecDeque::new();
        for action in actions.drain(..) {
            match action {
                Action::Send(message) => self.send(inner, message),
                Action::Apply { slot, operation } => deferred.push_back(Deferred::Apply { slot, operation }),
                Action::Reply { ticket, result } => {
                    if let Some(to) = inner.replies.remove(&ticket) {
                        deferred.push_back(Deferred::Reply { to, result });
                    }
                }
                // Whoever submitted it gets the errno and drops what its kernel has cached of it (`fuse/`).
                Action::Invalidate { .. } => {}
                Action::CheckRefusal {
                    slot,
                    operation,
                    refused,
                } => {
                    deferred.push_back(Deferred::Check {
                        slot,
                        operation,
                        refused,
                    });
                }
                Action::ReadBack { slot, operation } => {
                    deferred.push_back(Deferred::ReadBack { slot, operation });
                }
                Action::ReadIn { slot, rename, from } => {
                    deferred.push_back(Deferred::ReadIn { slot, rename, from });
                }
                Action::Survey { walks } => deferred.push_back(Deferred::Survey { walks }),
                Action::Forgotten(inodes) => {
                    if !inner.lingering.is_empty() {
                        for place in inodes.iter().filter_map(|inode| self.store.place(*inode)) {
                            inner.lingering.remove(&place);
                        }
                    }
                    self.store.forget(&inodes);
                }
                Action::Granted { claim, gone } => {
                    if let Some(waits) = inner.claims.remove(&claim) {
                        // Nobody waits any more when the thread has ended; the claim goes with the copy.
                        let _ = waits.send(gone);
                    }
                }
                Action::VerifyOver { reason } => {
                    inner.claims.clear();
                    inner.mends.clear();
                    self.verifications.stopped(reason);
                }
                Action::Mended { claim, result } => {
                    if let Some(waits) = inner.mends.remove(&claim) {
                        // Nobody waits any more when the thread has ended.
                        let _ = waits.send(result);
                    }
                }
                // The source asks what is left when `CopyDone` did not end the copy.
                Action::CopyGoesOn => {}
                Action::NoteJoined => {
                    inner.claims.clear();
                    deferred.push_back(Deferred::NoteJoined);
                }
                Action::CopyFailed(loss) => {
                    inner.claims.clear();
                    inner.copy_failure = Some(loss.to_string());
                    self.tell(Action::CopyFailed(loss));
                }
                Action::NoteVerify { reason } => deferred.push_back(Deferred::NoteVerify { reason }),
                Action::NoteAlone(loss) => {
                    let saved = self.saved(&inner.primary);
                    deferred.push_back(Deferred::NoteAlone(loss, saved));
                }
                Action::NoteHandedOver { checkpoints } => {
                    deferred.push_back(Deferred::NoteHandedOver { checkpoints });
                }
                Action::Ended {
                    with_peer,
                    checkpoints,
                } => {
                    let saved = self.saved(&inner.primary);
                    deferred.push_back(Deferred::NoteEnded {
                        with_peer,
                        checkpoints,
                        saved,
                    });
                }
                Action::Mark { seq, records } => {
                    let saved = records
                        .into_iter()
                        .filter_map(|record| self.saved_record(&inner.primary, record));
                    self.marks.add(seq, self.keeper.generation(), saved);
                }
                Action::NoteCheckpoint { more } => deferred.push_back(Deferred::NoteCheckpoint { more }),
                Action::Close { reason } => {
                    if let Some(out) = inner.out.take() {
                        warn!(%reason, "closing the connection to the secondary");
                        out.close(reason);
                    }
                }
                Action::Measured { round_trip, peer } => {
                    self.wire.record(round_trip.saturating_sub(peer));
                    self.peer.record(peer);
                }
                Action::InSync => {
                    deferred.push_back(Deferred::ClearMap);
                    self.tell(Action::InSync);
                }
                other @ (Action::ConnectionLost
                | Action::TrackingLost { .. }
                | Action::Resumed { .. }
                | Action::PeerLost(_)
                | Action::WentAlone(_)
                | Action::PeerNoted
                | Action::Repairing
                | Action::Repaired
                | Action::DiskFailing { .. }) => self.tell(other),
            }
        }
        inner.actions = actions;
        let due = inner.primary.deadline();
        if due.is_some_and(|due| inner.armed.is_none_or(|armed| due < armed)) {
            inner.armed = due;
            self.rearm.notify_one();
        }
        self.phase.send_if_modified(|phase| {
            let next = inner.primary.phase();
            let changed = *phase != next;
            *phase = next;
            changed
        });
        deferred
    }

    fn send(&self, inner: &Inner, mut message: ToSecondary) {
        let Some(out) = &inner.out else { return };
        if let ToSecondary::Operation {
            operation: Operation::Bind { inode, handle, .. },
            ..
        } = &mut message
            && let Some(known) = self.store.handle(*inode)
        {
            *handle = known;
        }
        if out.send(message).is_err() {
            debug!("a frame for a connection that is gone is dropped; it is sent again on the next");
        }
    }
}

fn describe(phase: &Phase) -> String {
    match phase {
        Phase::NoSession => "no secondary has been connected".into(),
        Phase::InSync { .. } => "the pair is in sync".into(),
        Phase::Disconnected => "the connection to the secondary is broken".into(),
        Phase::Deciding(loss) => format!("the secondary is lost ({loss})"),
        Phase::Parting(loss) => format!("the record is being written ({loss})"),
        Phase::Alone(loss) => format!("it is alone ({loss})"),
        Phase::Copying(_) => "the secondary is being brought to this node's state".into(),
        Phase::Joining => "the secondary notes that its copy is complete".into(),
        Phase::Failed { reason } => format!("this node's disk fails ({reason})"),
        Phase::Ended => "it has ended".into(),
    }
}

/// Hands `Tick` in when it is due, as long as the replicator lives.
async fn timer(replicator: std::sync::Weak<Replicator>) {
    loop {
        let Some(strong) = replicator.upgrade() else {
            return;
        };
        let mut over = strong.over.subscribe();
        if *over.borrow_and_update() {
            return;
        }
        let armed = strong.lock().armed;
        let now = clock::now();
        match armed {
            Some(due) if due <= now => {
                strong.lock().armed = None;
                strong.event(Event::Tick, Runs::Task);
                continue;
            }
            _ => {}
        }
        // Without a deadline there is nothing to wait for but a new one; the pause only bounds how long a
        // replicator that nobody uses any more stays.
        let pause = armed.map_or(Duration::from_secs(60), |due| due - now);
        tokio::select! {
            () = strong.rearm.notified() => {}
            () = tokio::time::sleep(pause) => {}
            _ = over.changed() => return,
        }
    }
}
