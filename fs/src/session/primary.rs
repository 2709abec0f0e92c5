//! The primary's end of a session: numbers what applications change, ships it, applies it here once the secondary
//! has it, replies. Decides when the secondary is lost and what becomes of the operations under way.
//!
//! No I/O. One thread at a time uses it (`replicator.rs` holds the lock): events in, actions out, in order.
//!
//! ```text
//!             Connected             LinkLost                  peer_stall
//!  NoSession ----------> InSync <--------------> Disconnected ----------+
//!      |                  | ^      resume                               v
//!      |                  | +--------- it is heard again ---------- Deciding <-- stalled, failed, differs, ...
//!      | GoAlone          |                                             | GoAlone, or at once with "alone"
//!      +------------------------------------------------------------> Parting
//!                         |                                             | Noted
//!            End, settled v                                             v
//!                       Ended <-------------------------------------- Alone
//! ```
//! From every state a failing disk leads to `Failed`, except from `Alone`, where the errno goes to the application.
//! `Alone` leads to `InSync` by way of a copy: see `copying`.
//! A read that fails says "failing disk" only while the secondary can take over: in `InSync` and `Disconnected`.

mod copying;
mod ending;
mod entering;
mod interface;
mod local;
mod parting;
mod remote;
mod survey;
mod tracking;
mod verifying;

use super::border::{Share, Side, share};
use super::claims::Claims;
use super::coverage::{Coverage, Route};
use super::lanes::Lanes;
use super::liveness::Liveness;
use super::loss::{Loss, LossKind};
use super::names::{LookupTicket, Names, Raced, Seen};
use super::parked::Parked;
use super::pending::{Half, InKernel, Pending, Stage, Submitted, entries};
pub use super::pending::{Slot, Ticket, is_broken_disk};
use super::repair::Settling;
use super::stream::{Sent, Stream};
use super::verification::Verification;
use crate::dirty::DirtyMap;
use crate::exclude::{self, PerDirectory};
use crate::hash::HashMap;
use crate::operation::{Applied, Errno, FileHandle, InodeId, Name, Number, Operation};
use crate::wire::message::{SessionId, ToSecondary};
use copying::Joining;
use ending::Ending;
pub use interface::{Action, Event, Phase, Piece, Settings};
use std::collections::VecDeque;
use std::time::Duration;
use survey::Survey;
use tracking::Tracking;

/// Most inodes in one [`ToSecondary::Forget`].
const FORGET_MAX: usize = 1024;
/// Most inodes kept for a later `Forget` while there is no connection. Beyond it the secondary keeps its entries of
/// the rest until the session ends, which costs memory only.
const FORGET_LATER_MAX: usize = 1 << 20;

#[derive(Debug)]
enum State {
    NoSession,
    InSync {
        session: SessionId,
    },
    Disconnected {
        session: SessionId,
        since: Duration,
    },
    Deciding {
        session: SessionId,
        loss: Loss,
        linked: bool,
    },
    Parting {
        loss: Loss,
        linked: bool,
    },
    Alone {
        loss: Loss,
    },
    /// Alone, and the secondary is being brought to the same state.
    Copying {
        session: SessionId,
        /// Why it is alone.
        loss: Loss,
    },
    Failed {
        reason: String,
    },
    Ended,
}

/// The primary; see the module.
#[derive(Debug)]
pub struct Primary {
    settings: Settings,
    state: State,
    ending: Ending,
    names: Names,
    lanes: Lanes<Slot>,
    pending: HashMap<Slot, Pending>,
    last_slot: Slot,
    stream: Stream,
    liveness: Liveness,
    kernel: InKernel,
    /// Submitted while nothing could be numbered.
    waiting: VecDeque<Submitted>,
    parked: Parked,
    settling: Vec<Settling>,
    survey: Survey,
    /// While copying.
    coverage: Option<Coverage>,
    /// Of the copy, or of the verification.
    claims: Claims,
    /// While one goes on, which is only in sync.
    verification: Option<Verification>,
    tracking: Tracking,
    joining: Joining,
    /// It parts from a copy: what a note would say stands in the record already.
    noted_before: bool,
    /// May run; emptied before `apply` returns.
    ready: VecDeque<Slot>,
    /// Kept to save an allocation per operation.
    binds: Vec<Operation>,
    forget_later: Vec<InodeId>,
    prefix: Number,
    /// The time of the event that is being worked on, without `asleep`.
    clock: Duration,
    /// Time during which this process did not run, as far as it was noticed. It is nobody's fault.
    asleep: Duration,
    /// CLOCK_BOOTTIME.
    due: Option<Duration>,
    /// A stalled local operation was reported (alone; in sync the first one is the last).
    told_stalled: bool,
}

impl Primary {
    /// A primary without a session.
    pub fn new(settings: Settings) -> Self {
        Primary::excluding(settings, exclude::nothing(settings.directories))
    }

    /// As [`Primary::new`], for directories of which this is excluded.
    pub fn excluding(settings: Settings, excluded: PerDirectory) -> Self {
        Primary {
            settings,
            state: State::NoSession,
            ending: Ending::No,
            names: Names::excluding(excluded),
            lanes: Lanes::default(),
            pending: HashMap::default(),
            last_slot: Slot(0),
            stream: Stream::default(),
            liveness: Liveness::new(settings.peer_stall, settings.local_stall),
            kernel: InKernel::default(),
            waiting: VecDeque::new(),
            parked: Parked::default(),
            settling: Vec::new(),
            survey: Survey::No,
            coverage: None,
            claims: Claims::default(),
            verification: None,
            tracking: Tracking::new(DirtyMap::new(settings.extent_bytes)),
            joining: Joining::No,
            noted_before: false,
            ready: VecDeque::new(),
            binds: Vec::new(),
            forget_later: Vec::new(),
            prefix: Number(0),
            clock: Duration::ZERO,
            asleep: Duration::ZERO,
            due: None,
            told_stalled: false,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::NoSession => Phase::NoSession,
            State::InSync { .. } if self.joining != Joining::No => Phase::Joining,
            State::InSync { .. } => Phase::InSync {
                repairing: self.is_repairing(),
            },
            State::Copying { loss, .. } => Phase::Copying(loss.clone()),
            State::Disconnected { .. } => Phase::Disconnected,
            State::Deciding { loss, .. } => Phase::Deciding(loss.clone()),
            State::Parting { loss, .. } => Phase::Parting(loss.clone()),
            State::Alone { loss } => Phase::Alone(loss.clone()),
            State::Failed { reason } => Phase::Failed {
                reason: reason.clone(),
            },
            State::Ended => Phase::Ended,
        }
    }

    /// The session that a new connection may go on with, and what `Start::Resume` says.
    pub fn resumable(&self) -> Option<(SessionId, Number)> {
        match &self.state {
            State::InSync { session } | State::Disconnected { session, .. } => {
                Some((*session, self.stream.confirmed()))
            }
            State::Deciding { session, loss, .. } if loss.kind.may_resume() => {
                Some((*session, self.stream.confirmed()))
            }
            // An interrupted copy begins anew.
            State::Copying { .. }
            | State::NoSession
            | State::Deciding { .. }
            | State::Parting { .. }
            | State::Alone { .. }
            | State::Failed { .. }
            | State::Ended => None,
        }
    }

    /// The last number of the session.
    pub fn last_number(&self) -> Number {
        self.stream.last()
    }

    /// All operations up to this one are applied on the secondary, and that is known here.
    pub fn acknowledged(&self) -> Number {
        self.prefix.max(self.stream.confirmed())
    }

    /// Operations that were submitted and are not replied to.
    pub fn queue_depth(&self) -> usize {
        let numbered = self.pending.len() + self.settling.len();
        numbered + self.waiting.len() + self.parked.len() + usize::from(self.survey.holds_one())
    }

    /// When [`Event::Tick`] is due (CLOCK_BOOTTIME), if nothing else happens before.
    pub fn deadline(&self) -> Option<Duration> {
        self.due
    }

    /// As [`Names::begin_lookup`].
    pub fn begin_lookup(&self, directory: InodeId) -> LookupTicket {
        self.names.begin_lookup(directory)
    }

    /// As [`Names::looked_up`].
    ///
    /// # Errors
    /// [`Raced`].
    pub fn looked_up(
        &mut self,
        ticket: LookupTicket,
        inode: InodeId,
        name: &Name,
        seen: Seen,
    ) -> Result<(), Raced> {
        self.names.looked_up(ticket, inode, name, seen)
    }

    /// Whether an inode that the kernel knows is excluded.
    pub fn is_excluded_inode(&self, inode: InodeId) -> bool {
        self.names.side(inode) == Side::Excluded
    }

    /// Whether a name of this directory is excluded, which has an inode or gets one.
    pub fn is_excluded(&self, directory: InodeId, name: &Name, is_directory: bool) -> bool {
        self.names.side_of_name(directory, name, is_directory) == Side::Excluded
    }

    /// The kernel forgot these inodes; [`Action::Forgotten`] says which of them nothing needs any more.
    pub fn forget(&mut self, inodes: &[InodeId], actions: &mut Vec<Action>) {
        self.names.forget(inodes);
        self.tell_dropped(actions);
    }

    /// As [`Names::peer_handle`].
    pub fn peer_handle(&self, inode: InodeId) -> Option<&FileHandle> {
        self.names.peer_handle(inode)
    }

    /// As [`Names::revive`].
    pub fn revive(&mut self, inode: InodeId) -> bool {
        self.names.revive(inode)
    }

    /// Takes an event at `now` (CLOCK_BOOTTIME) and appends what is to be done.
    pub fn apply(&mut self, event: Event, now: Duration, actions: &mut Vec<Action>) {
        let awake = self.awake(now);
        self.clock = awake;
        match event {
            Event::Submit { ticket, operation } => {
                let submitted = Submitted {
                    ticket: Some(ticket),
                    operation,
                    again: false,
                };
                self.submit(submitted, awake, actions);
            }
            Event::ReadFailed { ticket, errno } => self.read_failed(ticket, errno, actions),
            Event::Connected { session, welcome } => self.connected(session, welcome, awake, actions),
            Event::CopyBegun { session, tracked } => {
                self.copy_begun(session, tracked, awake, actions);
                self.take_waiting(awake, actions);
            }
            Event::Identified(found) => self.identified(found),
            Event::Marked { seq } => self.marked(seq),
            Event::Untracked { reason } => self.untracked(reason, actions),
            Event::MarkFailed { reason } => {
                self.fail(
                    format!("what the secondary lacks cannot be noted: {reason}"),
                    actions,
                );
            }
            Event::CheckpointNoted => self.checkpoint_noted(awake, actions),
            Event::CheckpointNotNoted => self.checkpoint_not_noted(awake),
            Event::ListingBegun { directory } => self.begin_listing(directory),
            Event::ListingEnded { directory } => self.end_listing(directory),
            Event::Claim { claim, scope } => self.claim(claim, scope, awake, actions),
            Event::Release { claim, brought } => self.release_claim(claim, brought),
            Event::VerifyBegun => self.verify_begun(actions),
            Event::VerifyEnded => {
                self.end_verification();
            }
            Event::Mend { claim, operations } => self.mend(claim, operations, awake, actions),
            Event::CopyDone => self.copy_done(actions),
            Event::CopyBroken(Loss { kind, detail }) => self.copy_failed(kind, detail, actions),
            Event::JoinNoted { generation } => self.join_noted(generation, actions),
            Event::JoinNoteFailed { reason } => self.join_note_failed(reason, actions),
            Event::Rejected(rejection) => self.rejected(&rejection, actions),
            Event::Received(message) => self.received(message, awake, actions),
            Event::LinkLost => self.link_lost(awake, actions),
            Event::LocalDone { slot, outcome } => self.local_done(slot, outcome, awake, actions),
            Event::Checked { slot, refusal } => self.checked(slot, refusal, actions),
            Event::ReadBack { slot, operations } => self.read_back(slot, operations, awake, actions),
            Event::ReadIn { slot, piece } => self.read_in(slot, piece, awake, actions),
            Event::Surveyed { stays } => self.surveyed(stays, awake, actions),
            Event::Tick => {}
            Event::GoAlone => self.told_to_go_alone(actions),
            Event::Noted { generation } => self.noted(generation, awake, actions),
            Event::NoteFailed { reason } => self.note_failed(reason, actions),
            Event::End => {
                self.copy_failed(LossKind::Told, "the primary ends".into(), actions);
                self.ending.ask();
            }
            Event::EndNoted => self.end_noted(),
        }
        self.drive(awake, actions);
        self.check_time(awake, actions);
        self.check_verification(actions);
        self.drive(awake, actions);
        self.due = self.next_due().map(|due| due + self.asleep);
    }

    /// `now` without the time in which this process was not scheduled: who did not run judges nobody.
    fn awake(&mut self, now: Duration) -> Duration {
        if let Some(due) = self.due.filter(|due| now > *due + self.settings.peer_stall / 2) {
            self.asleep += now - due;
        }
        now.saturating_sub(self.asleep)
    }

    fn is_alone(&self) -> bool {
        matches!(self.state, State::Alone { .. })
    }

    fn is_in_sync(&self) -> bool {
        matches!(self.state, State::InSync { .. })
    }

    /// The secondary takes part in operations.
    fn is_linked(&self) -> bool {
        self.is_in_sync() || self.is_copying()
    }

    /// Operations are numbered.
    fn is_going_on(&self) -> bool {
        self.is_linked() || self.is_alone()
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Failed { .. } | State::Ended)
    }

    fn is_repairing(&self) -> bool {
        self.settling.iter().any(Settling::is_repair)
    }

    fn submit(&mut self, submitted: Submitted, now: Duration, actions: &mut Vec<Action>) {
        match self.state {
            State::InSync { .. } | State::Copying { .. } | State::Alone { .. } => {
                self.admit(submitted, now, actions);
            }
            State::NoSession
            | State::Disconnected { .. }
            | State::Deciding { .. }
            | State::Parting { .. } => self.waiting.push_back(submitted),
            // Nothing is answered from a failing disk: the application is about to be killed.
            State::Failed { .. } => {}
            State::Ended => {
                let errno = Errno(rustix::io::Errno::IO.raw_os_error());
                self.reply(submitted.ticket, Err(errno), actions);
            }
        }
    }

    /// Numbers an operation unless one of its inodes must be settled first.
    fn admit(&mut self, submitted: Submitted, now: Duration, actions: &mut Vec<Action>) {
        if self.must_wait(&submitted.operation) || self.must_be_marked_first(&submitted.operation, actions) {
            self.parked.push(submitted);
        } else if !self.walks_of(&submitted.operation).is_empty() {
            self.begin_survey(submitted, actions);
        } else {
            self.number(submitted, now, actions);
        }
    }

    /// What came before it must be settled first.
    fn must_wait(&self, operation: &Operation) -> bool {
        let touched = operation.touched();
        self.must_settle(operation) || self.parked.blocks(&touched) || self.survey_blocks(operation)
    }

    /// One of its inodes must be settled first. What is parked may have come later.
    fn must_settle(&self, operation: &Operation) -> bool {
        let touched = operation.touched();
        let dying = touched.iter().any(|inode| self.names.is_dying(*inode));
        dying || self.parked.holds(&touched) || self.claims.blocks(operation)
    }

    /// Until the record says that the peer may be in sync, the map on disk is all that a successor of this process
    /// knows: what it does not name must not reach the secondary either. A successor's copy would not look at it.
    fn must_be_marked_first(&mut self, operation: &Operation, actions: &mut Vec<Action>) -> bool {
        if !self.counts_on_map() || !self.is_linked() {
            return false;
        }
        let share = share(operation, &self.names);
        let theirs = match &share {
            Share::Whole => operation,
            Share::Other(other) => other,
            // While copying it stays here. Else what the secondary is given first goes by the same marks.
            Share::Entering(lacking) => {
                return self.is_in_sync() && self.track_entering(lacking, actions).is_some();
            }
            Share::Nothing | Share::Refused => return false,
        };
        self.route(theirs) == Route::Ship && self.track(theirs, actions).is_some()
    }

    /// Where goes what the secondary is to get.
    fn route(&self, theirs: &Operation) -> Route {
        let local = self.touches_local(theirs);
        match &self.coverage {
            Some(_) if local => Route::Local,
            Some(coverage) => coverage.route(theirs, &self.names),
            None if self.is_in_sync() && !local => Route::Ship,
            None => Route::Local,
        }
    }

    fn touches_local(&self, operation: &Operation) -> bool {
        let touched = operation.touched();
        touched.iter().any(|inode| self.names.is_local(*inode))
    }

    /// One step: number, bind, enter the names as sent, ship; or, what is local, only order.
    fn number(&mut self, submitted: Submitted, now: Duration, actions: &mut Vec<Action>) {
        let touched = submitted.operation.touched();
        let share = share(&submitted.operation, &self.names);
        let is_excluded = share == Share::Nothing;
        let is_refused = share == Share::Refused;
        let (instead, entering) = match share {
            Share::Entering(_) if self.is_in_sync() => return self.begin_entering(submitted),
            Share::Entering(lacking) => (None, Some(lacking)),
            Share::Other(operation) => (Some(operation), None),
            Share::Whole | Share::Nothing | Share::Refused => (None, None),
        };
        let rearranges = !self.walks_of(&submitted.operation).is_empty();
        let theirs = instead.as_deref().unwrap_or(&submitted.operation);
        let stays_here = is_excluded || entering.is_some();
        let local = stays_here || self.touches_local(theirs);
        let route = if stays_here {
            Route::Local
        } else {
            self.route(theirs)
        };
        let shipped = route == Route::Ship;
        let lost_source = match &submitted.operation {
            Operation::CopyRange { target, .. } => {
                // A target that the copy has not reached is no concern of the secondary's yet.
                let shared = self.is_in_sync() || (self.is_copying() && self.names.is_bound(*target));
                local && shared && !self.names.is_local(*target)
            }
            _ => false,
        };
        if lost_source || is_refused || route == Route::ByReadAndWrite {
            // The secondary has no such source any more, or not yet. On EXDEV the kernel, or whoever renames, copies by
            // reading and writing.
            let errno = Errno(rustix::io::Errno::XDEV.raw_os_error());
            self.reply(submitted.ticket, Err(errno), actions);
            return;
        }
        if shipped {
            let mut binds = std::mem::take(&mut self.binds);
            let named = self.names.bind(theirs, &mut binds);
            for bind in binds.drain(..) {
                self.names.hold(&bind.touched());
                self.ship(Sent::Bind(Box::new(bind.clone())), bind, now, actions);
            }
            self.binds = binds;
            if let Err(unnamed) = named {
                self.waiting.push_front(submitted);
                self.lose(LossKind::Unnamed, unnamed.to_string(), actions);
                return;
            }
        }
        self.last_slot = Slot(self.last_slot.0 + 1);
        let slot = self.last_slot;
        let theirs = instead.as_deref().unwrap_or(&submitted.operation);
        let mark = match &entering {
            _ if is_excluded || !self.counts_on_map() => None,
            Some(lacking) => self.track_entering(lacking, actions),
            None => self.track(theirs, actions),
        };
        if let Some(lacking) = &entering {
            self.enter_here(lacking);
        }
        let change = self.names.number(&submitted.operation);
        if !stays_here {
            self.cover(theirs, shipped);
            self.note_moved(theirs);
        }
        self.names.hold(&touched);
        let is_sync = submitted.operation.is_sync();
        let gates = u32::from(shipped && !is_sync) + u32::from(mark.is_some());
        if self.lanes.admit(slot, &submitted.operation, gates) {
            self.ready.push_back(slot);
        }
        if let Some(seq) = mark {
            self.wait_for_mark(slot, seq);
        }
        let stage = match (is_sync, shipped) {
            (true, true) => Stage::Both {
                here: Half::Waiting,
                there: Half::Waiting,
            },
            (true, false) => Stage::Both {
                here: Half::Waiting,
                there: Half::Done,
            },
            (false, true) => Stage::Unanswered,
            (false, false) => Stage::Free,
        };
        if shipped {
            let operation = theirs.clone();
            self.ship(Sent::Application(slot), operation, now, actions);
        }
        let pending = Pending {
            submitted,
            instead,
            touched,
            change,
            shipped,
            stage,
        };
        self.pending.insert(slot, pending);
        if rearranges {
            self.moves(slot);
        }
    }

    /// Enters into the coverage what becomes of an operation that has just got its slot.
    fn cover(&mut self, operation: &Operation, shipped: bool) {
        let Some(coverage) = &mut self.coverage else {
            return;
        };
        if shipped {
            coverage.shipped(operation);
            if let Operation::Create(create) = operation {
                // Forgotten and looked up again under another number, it would neither be shipped nor copied.
                self.names.pin(create.inode);
            }
            return;
        }
        coverage.kept_here(operation);
        if let Operation::Create(create) = operation {
            self.names.unbind(create.inode);
        }
    }

    fn ship(&mut self, sent: Sent, operation: Operation, now: Duration, actions: &mut Vec<Action>) {
        // While copying as well: what this node's own sync at the end of the copy comes too early for stays marked after
        // it, until a checkpoint has it on both disks.
        if self.is_linked() {
            self.note_shipped(&operation, now);
        }
        let (number, introduced) = self.stream.number(sent, now);
        actions.push(Action::Send(ToSecondary::Operation {
            number,
            confirmed: self.stream.confirmed(),
            introduced,
            operation,
        }));
    }

    /// Goes on with everything that the last event made possible.
    fn drive(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.noted_before) {
            self.go_on_alone(None, now, actions);
        }
        while !self.is_over() {
            while let Some(slot) = self.ready.pop_front() {
                self.run(slot, now, actions);
            }
            if self.settle(now, actions) || self.unpark(now, actions) || !self.ready.is_empty() {
                continue;
            }
            if !self.go_on_ending(now, actions) {
                break;
            }
        }
        if !self.is_over() {
            self.go_on_survey(actions);
        }
        self.tell_dropped(actions);
    }

    /// Looks at what is parked again. True when something was numbered.
    fn unpark(&mut self, now: Duration, actions: &mut Vec<Action>) -> bool {
        if self.parked.is_empty() || !self.is_going_on() {
            return false;
        }
        let before = self.parked.len();
        for submitted in self.parked.take() {
            self.submit(submitted, now, actions);
        }
        self.parked.len() < before
    }

    /// Numbers what came while nothing could be numbered.
    fn take_waiting(&mut self, now: Duration, actions: &mut Vec<Action>) {
        while self.is_going_on() {
            let Some(submitted) = self.waiting.pop_front() else {
                break;
            };
            self.admit(submitted, now, actions);
        }
    }

    /// Ends an operation that the lanes let run.
    fn finish(&mut self, slot: Slot, result: Result<Applied, Errno>, actions: &mut Vec<Action>) {
        let Some(pending) = self.pending.remove(&slot) else {
            return;
        };
        self.lanes.finish(slot, &mut self.ready);
        if let Some(change) = &pending.change {
            match &result {
                Ok(_) => self.names.applied(change),
                Err(_) => self.names.refused(change),
            }
        }
        if result.is_err() {
            self.name_refused(&pending.submitted.operation, actions);
        }
        self.names.release(&pending.touched);
        self.ending.finished(slot);
        let is_checkpoint = matches!(pending.submitted.operation, Operation::Checkpoint);
        // Also while the connection is gone: the secondary has answered it, and counts it.
        let has_peer =
            self.is_in_sync() || matches!(self.state, State::Disconnected { .. } | State::Deciding { .. });
        if is_checkpoint && pending.shipped && result.is_ok() && has_peer {
            self.checkpoint_ended(slot, actions);
        }
        self.ended_for_claims(slot, self.clock, actions);
        self.answer(&pending.submitted, result, actions);
    }

    /// Replies, and has the kernel drop what it may have cached of a failure.
    fn answer(&mut self, submitted: &Submitted, result: Result<Applied, Errno>, actions: &mut Vec<Action>) {
        let failed = result.is_err();
        self.reply(submitted.ticket, result, actions);
        if failed && !submitted.operation.is_sync() {
            actions.push(Action::Invalidate {
                inodes: submitted.operation.touches(),
                entries: entries(&submitted.operation),
            });
        }
    }

    fn reply(&self, ticket: Option<Ticket>, result: Result<Applied, Errno>, actions: &mut Vec<Action>) {
        if let Some(ticket) = ticket {
            actions.push(Action::Reply { ticket, result });
        }
    }

    fn introduce(&mut self, operation: &Operation, handle: Option<&FileHandle>) {
        if let (Operation::Create(create), Some(handle)) = (operation, handle) {
            self.stream.introduce(create.inode, handle.clone());
        }
    }

    fn tell_dropped(&mut self, actions: &mut Vec<Action>) {
        if self.names.has_dropped() {
            let dropped = self.names.take_dropped();
            for inode in &dropped {
                self.tracking.map.dropped(*inode);
            }
            match self.state {
                State::InSync { .. }
                | State::Copying { .. }
                | State::Disconnected { .. }
                | State::Deciding { .. } => {
                    let room = FORGET_LATER_MAX.saturating_sub(self.forget_later.len());
                    self.forget_later.extend(dropped.iter().take(room));
                }
                State::NoSession
                | State::Parting { .. }
                | State::Alone { .. }
                | State::Failed { .. }
                | State::Ended => {}
            }
            actions.push(Action::Forgotten(dropped));
        }
        if self.is_linked() {
            self.forget_later.extend(self.names.take_kept_out());
        }
        if self.is_linked() && !self.forget_later.is_empty() {
            for inodes in self.forget_later.chunks(FORGET_MAX) {
                actions.push(Action::Send(ToSecondary::Forget(inodes.to_vec())));
            }
            self.forget_later.clear();
        }
    }

    /// Judges the secondary and this node's disk by the time.
    fn check_time(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.check_disk(now, actions);
        match self.state {
            State::InSync { .. } | State::Copying { .. } => {
                if self.stalled_at().is_some_and(|at| now >= at) {
                    let detail = self.describe_stall(now);
                    self.lose(LossKind::Stalled, detail, actions);
                    return;
                }
                if self.claim_due().is_some_and(|due| now >= due) {
                    let limit = self.settings.local_stall;
                    if self.is_copying() {
                        let detail =
                            format!("what was claimed for the copy is not brought over within {limit:?}");
                        self.copy_failed(LossKind::Stalled, detail, actions);
                        return;
                    }
                    let reason = format!("what it held back is not compared within {limit:?}");
                    self.stop_verification(reason, actions);
                }
                if self.repair_due().is_some_and(|due| now >= due) {
                    let detail = format!("a repair takes longer than {:?}", self.settings.peer_stall);
                    self.lose(LossKind::Unrepaired, detail, actions);
                    return;
                }
                self.check_checkpoint(now, actions);
                if now >= self.liveness.ping_due(self.stream.oldest()) {
                    let nonce = self.liveness.ping(now, self.stream.last());
                    let confirmed = self.stream.confirmed();
                    actions.push(Action::Send(ToSecondary::Ping { nonce, confirmed }));
                }
            }
            State::Disconnected { since, .. } => {
                if now >= since + self.settings.peer_stall {
                    let detail = format!("no connection for {:?}", now - since);
                    self.lose(LossKind::Unreachable, detail, actions);
                }
            }
            State::NoSession
            | State::Deciding { .. }
            | State::Parting { .. }
            | State::Alone { .. }
            | State::Failed { .. }
            | State::Ended => {}
        }
    }

    fn next_due(&self) -> Option<Duration> {
        let disk = self.disk_due();
        let peer = match self.state {
            State::InSync { .. } | State::Copying { .. } => {
                let ping = Some(self.liveness.ping_due(self.stream.oldest()));
                let checkpoint = self.checkpoint_due();
                [
                    ping,
                    self.stalled_at(),
                    self.repair_due(),
                    self.claim_due(),
                    checkpoint,
                ]
                .into_iter()
                .flatten()
                .min()
            }
            State::Disconnected { since, .. } => Some(since + self.settings.peer_stall),
            State::NoSession
            | State::Deciding { .. }
            | State::Parting { .. }
            | State::Alone { .. }
            | State::Failed { .. }
            | State::Ended => None,
        };
        [disk, peer].into_iter().flatten().min()
    }

    fn stalled_at(&self) -> Option<Duration> {
        let waits = |number| self.stream.is_unanswered(number);
        self.liveness.stalled_at(self.stream.oldest(), waits)
    }

    fn describe_stall(&self, now: Duration) -> String {
        match self.stream.unanswered().next() {
            Some((number, _, at)) => {
                format!(
                    "no progress; {number} has been unanswered for {:?}",
                    now.saturating_sub(at)
                )
            }
            None => "no answer to a ping".to_owned(),
        }
    }
}
