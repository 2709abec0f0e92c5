//! The primary's view of its secondary: connections, answers, pongs.

use super::local::describe;
use super::{Action, Ending, Primary, State};
use crate::operation::{Applied, Number, Operation, Outcome};
use crate::session::liveness::Patience;
use crate::session::loss::LossKind;
use crate::session::pending::{Half, Pending, Slot, Stage, is_broken_disk, is_no_room};
use crate::session::repair::{Kind, Step};
use crate::session::stream::{Answered, Sent};
use crate::wire::message::{Answer, Rejection, Running, SessionId, ToPrimary, ToSecondary, Welcome};
use std::time::Duration;

/// As many as fit into [`ToPrimary::Pong::running`]; fewer are all there are.
const RUNNING_MAX: usize = 64;

impl Primary {
    pub(super) fn connected(
        &mut self,
        session: SessionId,
        welcome: Welcome,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        if matches!(self.state, State::NoSession) {
            self.state = State::InSync { session };
            self.begin_map();
            self.liveness.connected(now);
            actions.push(Action::InSync);
            self.take_waiting(now, actions);
            return;
        }
        if self.resumable().is_none_or(|(resumable, _)| resumable != session) {
            let reason = "this primary has no such session to go on with".to_owned();
            actions.push(Action::Close { reason });
            return;
        }
        self.state = State::InSync { session };
        self.liveness.connected(now);
        if welcome.prefix > self.stream.last() {
            let detail = format!("it says that it has done {}, never sent", welcome.prefix);
            self.lose(LossKind::Failed, detail, actions);
            return;
        }
        self.prefix = self.prefix.max(welcome.prefix);
        for answer in welcome.answers {
            self.answered(answer, now, actions);
        }
        let resent = self.send_again(&welcome.received, now, actions);
        if self.ending == Ending::Handshake {
            actions.push(Action::Send(ToSecondary::End));
        }
        self.tell_complete(actions);
        actions.push(Action::Resumed { resent });
        self.take_waiting(now, actions);
    }

    /// Sends what is unanswered and not at the secondary, in order. Gives how many that were.
    fn send_again(&mut self, received: &[Number], now: Duration, actions: &mut Vec<Action>) -> u64 {
        let confirmed = self.stream.confirmed();
        let mut again = Vec::new();
        for (number, sent, _) in self.stream.unanswered() {
            if received.contains(&number) {
                continue;
            }
            let operation = match sent {
                Sent::Application(slot) => match self.pending.get(slot) {
                    Some(pending) => pending.theirs().clone(),
                    None => continue,
                },
                Sent::Bind(operation)
                | Sent::Repair(_, operation)
                | Sent::Entering(_, operation)
                | Sent::Mend(_, operation) => (**operation).clone(),
            };
            again.push(number);
            actions.push(Action::Send(ToSecondary::Operation {
                number,
                confirmed,
                introduced: self.stream.introduced(number),
                operation,
            }));
        }
        for number in &again {
            self.stream.sent_again(*number, now);
        }
        again.len() as u64
    }

    pub(super) fn link_lost(&mut self, now: Duration, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::InSync { session } => {
                let session = *session;
                // A link is found dead only after a silence, in which writers waited already: that counts too.
                let silent = self.liveness.silent_since(self.stream.oldest());
                let since = silent.unwrap_or(now).min(now);
                self.state = State::Disconnected { session, since };
                actions.push(Action::ConnectionLost);
            }
            State::Copying { .. } => {
                let detail = "the connection to the secondary is gone".to_owned();
                self.copy_failed(LossKind::Unreachable, detail, actions);
            }
            State::Deciding { linked, .. } | State::Parting { linked, .. } => *linked = false,
            State::NoSession
            | State::Disconnected { .. }
            | State::Alone { .. }
            | State::Failed { .. }
            | State::Ended => {}
        }
    }

    pub(super) fn rejected(&mut self, rejection: &Rejection, actions: &mut Vec<Action>) {
        let is_final = match rejection {
            Rejection::UnknownSession | Rejection::NotSecondary { .. } => true,
            Rejection::StillRunning
            | Rejection::OtherModule { .. }
            | Rejection::OtherNode { .. }
            | Rejection::OtherConfiguration(_)
            | Rejection::Unfit(_)
            | Rejection::WouldOverwrite(_)
            | Rejection::FullCopyNeeded(_)
            | Rejection::SplitBrain(_)
            | Rejection::Archiving => false,
        };
        if is_final && self.resumable().is_some() {
            self.lose(LossKind::Left, rejection.to_string(), actions);
        }
    }

    pub(super) fn received(&mut self, message: ToPrimary, now: Duration, actions: &mut Vec<Action>) {
        let hears = match &self.state {
            State::InSync { .. } | State::Copying { .. } => true,
            State::Deciding { loss, linked, .. } => *linked && loss.kind.may_resume(),
            State::Parting { .. } | State::Alone { .. } => {
                if message == ToPrimary::Parted {
                    actions.push(Action::PeerNoted);
                }
                false
            }
            State::NoSession | State::Disconnected { .. } | State::Failed { .. } | State::Ended => false,
        };
        if !hears {
            return;
        }
        match message {
            ToPrimary::Answers { prefix, answers } => {
                self.prefix = self.prefix.max(prefix.min(self.stream.last()));
                let before = self.stream.confirmed();
                let some = !answers.is_empty();
                for answer in answers {
                    self.answered(answer, now, actions);
                }
                if some || self.stream.confirmed() > before {
                    self.heard_again(now, actions);
                }
            }
            ToPrimary::Pong {
                nonce,
                prefix,
                running,
                rooms: _,
            } => {
                self.prefix = self.prefix.max(prefix.min(self.stream.last()));
                self.pong(nonce, &running, now);
                if self.stalled_at().is_none_or(|at| now < at) {
                    self.heard_again(now, actions);
                }
            }
            ToPrimary::Ended => self.peer_ended(actions),
            ToPrimary::Completed => self.completed(actions),
            ToPrimary::Leaving { reason } => self.lose(LossKind::Left, reason, actions),
            // The first frame of a connection is handed in as `Connected` or `Rejected`, and nobody parted.
            ToPrimary::Welcome(_) | ToPrimary::Reject(_) | ToPrimary::Parted => {
                let detail = "it sent a message out of turn".to_owned();
                self.lose(LossKind::Failed, detail, actions);
            }
        }
    }

    /// A secondary that stalled and whose connection stayed answers again: nothing happened but a delay.
    fn heard_again(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let State::Deciding { session, loss, .. } = &self.state else {
            return;
        };
        if loss.kind == LossKind::Stalled {
            self.state = State::InSync { session: *session };
            self.liveness.connected(now);
            self.tell_complete(actions);
            actions.push(Action::Resumed { resent: 0 });
            self.take_waiting(now, actions);
        }
    }

    fn pong(&mut self, nonce: u64, running: &[Running], now: Duration) {
        let pending = &self.pending;
        let patience = |sent: &Sent| match sent {
            Sent::Bind(_) | Sent::Repair(..) | Sent::Entering(..) | Sent::Mend(..) => Patience::Peer,
            Sent::Application(slot) => match pending.get(slot).map(|one| &one.submitted.operation) {
                Some(Operation::Sync { .. }) => Patience::Local,
                Some(Operation::Checkpoint) => Patience::Endless,
                Some(_) | None => Patience::Peer,
            },
        };
        let unanswered = self.stream.unanswered();
        let unanswered = unanswered.map(|(number, sent, _)| (number, patience(sent)));
        let is_complete = running.len() < RUNNING_MAX;
        self.liveness.pong(nonce, running, is_complete, unanswered, now);
    }

    fn answered(&mut self, answer: Answer, now: Duration, actions: &mut Vec<Action>) {
        let Answer {
            number,
            outcome,
            took_us,
        } = answer;
        let (sent, at) = match self.stream.answer(number) {
            Answered::New(sent, at) => (sent, at),
            Answered::Again => return,
            Answered::Unknown => {
                let detail = format!("it answered {number}, which was never sent");
                self.lose(LossKind::Failed, detail, actions);
                return;
            }
        };
        self.liveness.answered(now);
        actions.push(Action::Measured {
            round_trip: now.saturating_sub(at),
            peer: Duration::from_micros(u64::from(took_us)),
        });
        match sent {
            Sent::Bind(bind) => self.bind_answered(&bind, &outcome, actions),
            Sent::Repair(slot, operation) => self.repair_answered(slot, &operation, &outcome, actions),
            Sent::Entering(slot, operation) => self.entering_answered(slot, &operation, &outcome, actions),
            Sent::Mend(claim, operation) => self.mend_answered(claim, &operation, &outcome, actions),
            Sent::Application(slot) => self.operation_answered(slot, number, outcome, actions),
        }
    }

    fn bind_answered(&mut self, bind: &Operation, outcome: &Outcome, actions: &mut Vec<Action>) {
        match outcome {
            Outcome::Applied(applied) => self.learn_peer_handle(bind, applied),
            Outcome::NotBound(_) => {
                // Its name was taken back since. What is about the inode comes back unbound as well, and is bound
                // by the name it has then.
                if let Operation::Bind { inode, .. } = bind {
                    self.names.unbind(*inode);
                }
            }
            Outcome::Refused(errno) | Outcome::Failed(errno) => {
                let detail = format!("it could not find an inode by its name: {errno}");
                self.lose(LossKind::Failed, detail, actions);
            }
        }
        self.names.release(&bind.touched());
    }

    /// What the secondary's answer says of the inode that the operation made known to it.
    pub(super) fn learn_peer_handle(&mut self, operation: &Operation, applied: &Applied) {
        let inode = match operation {
            Operation::Bind { inode, .. } => *inode,
            Operation::Create(create) => create.inode,
            Operation::Link { .. }
            | Operation::Unlink(_)
            | Operation::Rename(_)
            | Operation::Write { .. }
            | Operation::SetAttributes { .. }
            | Operation::Fallocate { .. }
            | Operation::CopyRange { .. }
            | Operation::SetXattr { .. }
            | Operation::RemoveXattr { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => return,
        };
        if let Some(handle) = &applied.handle {
            self.names.learn_peer_handle(inode, handle.clone());
        }
    }

    fn repair_answered(
        &mut self,
        slot: Slot,
        operation: &Operation,
        outcome: &Outcome,
        actions: &mut Vec<Action>,
    ) {
        self.names.release(&operation.touched());
        if !matches!(outcome, Outcome::Applied(applied) if applied.length == operation.length()) {
            let detail = format!(
                "{}, which repairs, ended there as {outcome:?}",
                describe(operation)
            );
            self.lose(LossKind::Unrepaired, detail, actions);
            return;
        }
        let found = self.settling.iter_mut().find(|settling| settling.slot == slot);
        if let Some(Kind::Repair {
            step: Step::Shipped(left),
            ..
        }) = found.map(|settling| &mut settling.kind)
        {
            *left = left.saturating_sub(1);
            self.repaired(slot, actions);
        }
    }

    fn operation_answered(
        &mut self,
        slot: Slot,
        number: Number,
        outcome: Outcome,
        actions: &mut Vec<Action>,
    ) {
        // The target of a copy has exactly what it was told of.
        let copying = self.is_copying();
        let Some(Pending { stage, submitted, .. }) = self.pending.get_mut(&slot) else {
            return;
        };
        // Only errors need the words.
        let operation = &submitted.operation;
        let what = || describe(operation);
        let again = submitted.again;
        let length = submitted.operation.length();
        if let Stage::Both { here, .. } = *stage {
            let there = match outcome {
                Outcome::Applied(_) => Half::Done,
                Outcome::NotBound(_) if !again => Half::NotBound,
                Outcome::NotBound(inode) => {
                    let detail = format!("it does not find {inode} for {} ({number})", what());
                    self.lose(LossKind::Differs, detail, actions);
                    return;
                }
                Outcome::Refused(errno) | Outcome::Failed(errno) => {
                    let detail = format!("{} ({number}) failed there: {errno}", what());
                    self.lose(LossKind::Failed, detail, actions);
                    return;
                }
            };
            *stage = Stage::Both { here, there };
            self.synced(slot, actions);
            return;
        }
        let (kind, detail) = match outcome {
            Outcome::Applied(applied) if applied.length == length => {
                *stage = Stage::Accepted;
                if applied.handle.is_some() {
                    let operation = submitted.operation.clone();
                    self.learn_peer_handle(&operation, &applied);
                }
                self.open(slot);
                return;
            }
            Outcome::Refused(errno) if !is_broken_disk(errno) => {
                *stage = Stage::Refused(errno);
                self.open(slot);
                return;
            }
            Outcome::NotBound(_) if !again && !copying => {
                *stage = Stage::NotBound;
                self.open(slot);
                return;
            }
            Outcome::NotBound(inode) => (
                LossKind::Differs,
                format!("it does not find {inode} for {} ({number})", what()),
            ),
            Outcome::Applied(applied) => (
                LossKind::Failed,
                format!(
                    "it applied {} of {length} bytes of {} ({number})",
                    applied.length,
                    what()
                ),
            ),
            Outcome::Failed(errno) if is_no_room(errno) => (
                LossKind::NoSpace,
                format!("{} ({number}) failed there midway: {errno}", what()),
            ),
            Outcome::Refused(errno) | Outcome::Failed(errno) => (
                LossKind::Failed,
                format!("{} ({number}) failed there: {errno}", what()),
            ),
        };
        // It stays unanswered here: going alone applies it.
        self.lose(kind, detail, actions);
    }

    fn open(&mut self, slot: Slot) {
        if self.lanes.open(slot) {
            self.ready.push_back(slot);
        }
    }
}
