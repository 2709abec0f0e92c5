//! The primary's own disk: running what the lanes let run, and what its outcomes mean.

use super::copying::Joining;
use super::{Action, Primary, State};
use crate::operation::{Applied, Errno, Operation, Outcome};
use crate::session::loss::LossKind;
use crate::session::pending::{
    Half, Slot, Stage, Ticket, errno_of, is_about_names, is_broken_disk, is_full, is_no_room,
};
use crate::session::repair::{Kind, Settling, Step};
use crate::session::stream::Sent;
use std::time::Duration;

impl Primary {
    /// The lanes let this operation run.
    pub(super) fn run(&mut self, slot: Slot, now: Duration, actions: &mut Vec<Action>) {
        let alone = self.is_alone();
        let Some(pending) = self.pending.get_mut(&slot) else {
            return;
        };
        let operation = &pending.submitted.operation;
        match pending.stage {
            Stage::Accepted | Stage::Free => {
                let accepted = pending.stage == Stage::Accepted;
                pending.stage = Stage::Applying { accepted };
            }
            Stage::Refused(refused) if !alone => {
                pending.stage = Stage::Checking(refused);
                self.kernel.begin(slot, now);
                actions.push(Action::CheckRefusal {
                    slot,
                    operation: operation.clone(),
                    refused,
                });
                return;
            }
            Stage::NotBound if !alone => {
                self.set_aside(slot, Kind::Rebind);
                return;
            }
            Stage::Refused(_) | Stage::NotBound | Stage::Disagreed if alone => {
                pending.stage = Stage::Applying { accepted: false };
            }
            Stage::Both {
                here: Half::Waiting,
                there,
            } => {
                pending.stage = Stage::Both {
                    here: Half::Running,
                    there,
                };
            }
            Stage::Unanswered
            | Stage::Refused(_)
            | Stage::NotBound
            | Stage::Disagreed
            | Stage::Denied(_)
            | Stage::Applying { .. }
            | Stage::Checking(_)
            | Stage::Both { .. } => return,
        }
        if !matches!(operation, Operation::Checkpoint) {
            self.kernel.begin(slot, now);
        }
        actions.push(Action::Apply {
            slot,
            operation: operation.clone(),
        });
    }

    pub(super) fn local_done(
        &mut self,
        slot: Slot,
        outcome: Outcome,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.kernel.end(slot);
        self.told_stalled = false;
        if self.is_over() {
            return;
        }
        let Some(pending) = self.pending.get_mut(&slot) else {
            return;
        };
        match pending.stage {
            Stage::Applying { accepted } => self.applied_here(slot, accepted, outcome, now, actions),
            Stage::Both {
                here: Half::Running,
                there,
            } => {
                pending.stage = Stage::Both {
                    here: Half::Done,
                    there,
                };
                self.synced_here(slot, outcome, actions);
            }
            // Not handed out, or reported twice.
            Stage::Unanswered
            | Stage::Accepted
            | Stage::Free
            | Stage::Refused(_)
            | Stage::NotBound
            | Stage::Checking(_)
            | Stage::Disagreed
            | Stage::Denied(_)
            | Stage::Both { .. } => {}
        }
    }

    fn applied_here(
        &mut self,
        slot: Slot,
        accepted: bool,
        outcome: Outcome,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let broken = errno_of(&outcome).is_some_and(is_broken_disk);
        if broken {
            self.leave_copy_on_a_failing_disk(&outcome, actions);
        }
        // A copy that has just been left is alone, although its last steps are still to come.
        let alone = self.is_alone() || self.noted_before;
        let Some(pending) = self.pending.get(&slot) else {
            return;
        };
        let operation = &pending.submitted.operation;
        let whole = alone || !pending.shipped;
        let errno = match &outcome {
            Outcome::Applied(applied) if whole || applied.length == operation.length() => {
                let applied = applied.clone();
                if pending.shipped && !alone {
                    let operation = operation.clone();
                    self.introduce(&operation, applied.handle.as_ref());
                }
                if accepted && !alone && self.copied_from_a_repair(slot) {
                    self.begin_repair(slot, Ok(applied), now, actions);
                } else {
                    self.finish(slot, Ok(applied), actions);
                }
                return;
            }
            Outcome::Applied(_) => Errno(rustix::io::Errno::IO.raw_os_error()),
            Outcome::Refused(_) | Outcome::Failed(_) | Outcome::NotBound(_) => {
                errno_of(&outcome).unwrap_or(Errno(rustix::io::Errno::IO.raw_os_error()))
            }
        };
        if alone {
            if broken {
                let reason = format!("{}: {errno}", describe(operation));
                actions.push(Action::DiskFailing { reason });
            }
            self.finish(slot, Err(errno), actions);
        } else if accepted && is_full(errno) && pending.instead.is_some() {
            let what = describe(operation);
            if let Some(pending) = self.pending.get_mut(&slot) {
                pending.stage = Stage::Denied(errno);
            }
            let detail = format!("this node has no room for {what}, and the secondary cannot be led back");
            self.lose(LossKind::Unrepaired, detail, actions);
        } else if accepted && is_full(errno) {
            self.begin_repair(slot, Err(errno), now, actions);
        } else if accepted && is_about_names(errno) {
            let what = describe(operation);
            if let Some(pending) = self.pending.get_mut(&slot) {
                pending.stage = Stage::Denied(errno);
            }
            let detail = format!("the secondary applied {what}, this node refuses it: {errno}");
            self.lose(LossKind::Differs, detail, actions);
        } else if accepted && self.is_copying() {
            let what = describe(operation);
            let detail = format!("the secondary applied {what}, this node did not: {errno}");
            self.copy_failed(LossKind::Differs, detail, actions);
            self.finish(slot, Err(errno), actions);
        } else if accepted || broken {
            let reason = format!("{}: {errno} ({outcome:?})", describe(operation));
            self.fail(reason, actions);
        } else {
            self.finish(slot, Err(errno), actions);
        }
    }

    /// True for a copy out of a file that is under repair: the secondary copied what this node had no room for.
    fn copied_from_a_repair(&self, slot: Slot) -> bool {
        let source = match self
            .pending
            .get(&slot)
            .map(|pending| &pending.submitted.operation)
        {
            Some(Operation::CopyRange { source, .. }) => *source,
            Some(_) | None => return false,
        };
        let repairs = self.settling.iter().filter(|settling| settling.is_repair());
        repairs
            .flat_map(|settling| settling.touched.iter())
            .any(|inode| *inode == source)
    }

    fn begin_repair(
        &mut self,
        slot: Slot,
        result: Result<Applied, Errno>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let change = self
            .pending
            .get_mut(&slot)
            .and_then(|pending| pending.change.take());
        let first = !self.is_repairing();
        let kind = Kind::Repair {
            result,
            change,
            since: now,
            step: Step::Settle,
        };
        self.set_aside(slot, kind);
        if first {
            actions.push(Action::Repairing);
        }
    }

    /// This node's is the only whole copy: the errno goes to the application, as alone.
    fn leave_copy_on_a_failing_disk(&mut self, outcome: &Outcome, actions: &mut Vec<Action>) {
        let detail = format!("this node's disk fails ({outcome:?})");
        self.copy_failed(LossKind::Failed, detail, actions);
    }

    fn synced_here(&mut self, slot: Slot, outcome: Outcome, actions: &mut Vec<Action>) {
        if errno_of(&outcome).is_some() {
            self.leave_copy_on_a_failing_disk(&outcome, actions);
        }
        let Some(pending) = self.pending.get(&slot) else {
            return;
        };
        if let Some(errno) = errno_of(&outcome) {
            let reason = format!("{}: {errno}", describe(&pending.submitted.operation));
            if self.is_alone() || self.noted_before {
                actions.push(Action::DiskFailing {
                    reason: reason.clone(),
                });
                actions.push(Action::NoteVerify { reason });
                self.finish(slot, Err(errno), actions);
            } else {
                self.fail(reason, actions);
            }
            return;
        }
        self.synced(slot, actions);
    }

    /// Replies to a sync once both halves are done.
    pub(super) fn synced(&mut self, slot: Slot, actions: &mut Vec<Action>) {
        match self.pending.get(&slot).map(|pending| pending.stage) {
            Some(Stage::Both {
                here: Half::Done,
                there: Half::Done,
            }) => self.finish(slot, Ok(Applied::default()), actions),
            Some(Stage::Both {
                here: Half::Done,
                there: Half::NotBound,
            }) => self.set_aside(slot, Kind::Rebind),
            Some(_) | None => {}
        }
    }

    /// Takes an operation that the lanes let run out of them, and holds its inodes until it is sorted out.
    fn set_aside(&mut self, slot: Slot, kind: Kind) {
        let Some(pending) = self.pending.remove(&slot) else {
            return;
        };
        self.lanes.finish(slot, &mut self.ready);
        if let Some(change) = &pending.change {
            self.names.refused(change);
        }
        self.parked.hold(&pending.touched);
        self.names.release(&pending.touched);
        self.settling.push(Settling {
            slot,
            submitted: pending.submitted,
            touched: pending.touched,
            kind,
        });
    }

    /// The answer to a check of a refusal.
    pub(super) fn checked(&mut self, slot: Slot, refusal: Option<Errno>, actions: &mut Vec<Action>) {
        self.kernel.end(slot);
        let alone = self.is_alone();
        let Some(pending) = self.pending.get_mut(&slot) else {
            return;
        };
        let Stage::Checking(refused) = pending.stage else {
            return;
        };
        if alone {
            pending.stage = Stage::Free;
            self.ready.push_back(slot);
            return;
        }
        let agreed = refusal.filter(|here| *here == refused || (is_no_room(*here) && is_no_room(refused)));
        if let Some(errno) = agreed {
            self.finish(slot, Err(errno), actions);
            return;
        }
        pending.stage = Stage::Disagreed;
        let kind = if is_no_room(refused) {
            LossKind::NoSpace
        } else if is_about_names(refused) {
            LossKind::Differs
        } else {
            LossKind::Failed
        };
        let here = match refusal {
            Some(errno) => format!("would refuse it with {errno}"),
            None => "would not refuse it".to_owned(),
        };
        let what = describe(&pending.submitted.operation);
        let detail = format!("the secondary refused {what} with {refused}, this node {here}");
        self.lose(kind, detail, actions);
    }

    /// Goes on with what was set aside and whose inodes are quiet. True when something was numbered.
    pub(super) fn settle(&mut self, now: Duration, actions: &mut Vec<Action>) -> bool {
        let mut numbered = false;
        let mut index = 0;
        while index < self.settling.len() && self.is_linked() {
            if !self.is_quiet(index) {
                index += 1;
                continue;
            }
            let next = &mut self.settling[index];
            match &mut next.kind {
                Kind::Rebind => {
                    let settling = self.settling.remove(index);
                    self.parked.release(&settling.touched);
                    let mut submitted = settling.submitted;
                    submitted.again = true;
                    let before = self.last_slot;
                    self.number(submitted, now, actions);
                    if self.last_slot == before {
                        // It was answered, or waits for a decision.
                        self.ended_for_claims(settling.slot, now, actions);
                    } else {
                        self.claims.renumbered(settling.slot, self.last_slot);
                    }
                    numbered = true;
                    index = 0;
                }
                Kind::Repair { step, .. } => {
                    if *step == Step::Settle {
                        *step = Step::Reading;
                        actions.push(Action::ReadBack {
                            slot: next.slot,
                            operation: next.submitted.operation.clone(),
                        });
                        let slot = next.slot;
                        self.kernel.begin(slot, now);
                    }
                    index += 1;
                }
                Kind::Entering { .. } => {
                    if self.go_on_entering(index, now, actions) {
                        numbered = true;
                        index = 0;
                    } else {
                        index += 1;
                    }
                }
            }
        }
        numbered
    }

    /// Nothing numbered, and nothing set aside earlier, touches the inodes of this one.
    fn is_quiet(&self, index: usize) -> bool {
        let touched = &self.settling[index].touched;
        let earlier = self.settling[..index].iter();
        !touched.iter().any(|inode| self.names.is_busy(*inode))
            && !earlier
                .flat_map(|settling| settling.touched.iter())
                .any(|inode| touched.contains(inode))
    }

    /// The primary's true state, to be shipped.
    pub(super) fn read_back(
        &mut self,
        slot: Slot,
        operations: Option<Vec<Operation>>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.kernel.end(slot);
        let in_sync = self.is_linked();
        let found = self.settling.iter_mut().find(|settling| settling.slot == slot);
        let Some(settling) = found else {
            return;
        };
        let Kind::Repair { step, change, .. } = &mut settling.kind else {
            return;
        };
        if *step != Step::Reading {
            return;
        }
        if !in_sync {
            // The session may still go on: it is read again then.
            *step = Step::Settle;
            return;
        }
        let Some(operations) = operations else {
            let what = describe(&settling.submitted.operation);
            let detail = format!("this node has no room for {what}, and the secondary cannot be led back");
            self.lose(LossKind::Unrepaired, detail, actions);
            return;
        };
        // What has lost its last name meanwhile is gone there.
        let names = &self.names;
        let is_gone = |operation: &Operation| operation.touched().iter().any(|inode| names.is_local(*inode));
        let operations: Vec<_> = operations
            .into_iter()
            .filter(|operation| !is_gone(operation))
            .collect();
        *step = Step::Shipped(operations.len());
        let change = change.take();
        for operation in operations {
            self.names.hold(&operation.touched());
            self.ship(
                Sent::Repair(slot, Box::new(operation.clone())),
                operation,
                now,
                actions,
            );
        }
        if let Some(change) = change {
            self.names.refused(&change);
        }
        self.repaired(slot, actions);
    }

    /// Answers the application once every repairing operation is answered.
    pub(super) fn repaired(&mut self, slot: Slot, actions: &mut Vec<Action>) {
        let done = |settling: &Settling| {
            let last = matches!(
                settling.kind,
                Kind::Repair {
                    step: Step::Shipped(0),
                    ..
                }
            );
            settling.slot == slot && last
        };
        let Some(index) = self.settling.iter().position(done) else {
            return;
        };
        let settling = self.settling.remove(index);
        self.parked.release(&settling.touched);
        self.ended_for_claims(settling.slot, self.clock, actions);
        if let Kind::Repair { result, .. } = settling.kind {
            self.answer(&settling.submitted, result, actions);
        }
        if !self.is_repairing() {
            actions.push(Action::Repaired);
        }
    }

    /// When the oldest repair has taken too long.
    pub(super) fn repair_due(&self) -> Option<Duration> {
        let since = self.settling.iter().filter_map(|settling| match settling.kind {
            Kind::Repair { since, .. } => Some(since),
            Kind::Rebind | Kind::Entering { .. } => None,
        });
        since.min().map(|since| since + self.settings.peer_stall)
    }

    pub(super) fn disk_due(&self) -> Option<Duration> {
        if self.is_over() || self.told_stalled {
            return None;
        }
        self.kernel
            .oldest()
            .map(|(since, _)| since + self.settings.local_stall)
    }

    /// No progress for `local_stall` is a failing disk.
    pub(super) fn check_disk(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.disk_due().is_none_or(|due| now < due) {
            return;
        }
        let Some((since, slot)) = self.kernel.oldest() else {
            return;
        };
        let what = self.pending.get(&slot).map_or_else(
            || "reading back".to_owned(),
            |pending| describe(&pending.submitted.operation),
        );
        let reason = format!(
            "{what} has been in the kernel for {:?}",
            now.saturating_sub(since)
        );
        self.copy_failed(LossKind::Stalled, reason.clone(), actions);
        if self.is_alone() || self.noted_before {
            self.told_stalled = true;
            actions.push(Action::DiskFailing { reason });
        } else {
            self.fail(reason, actions);
        }
    }

    /// A read of this disk failed for good. While the secondary holds everything it takes over, as after a write that
    /// fails; otherwise there is no better copy to read from, and the application gets the errno.
    pub(super) fn read_failed(&mut self, ticket: Ticket, errno: Errno, actions: &mut Vec<Action>) {
        match self.state {
            // A secondary that has not noted yet that its copy is complete cannot take over.
            State::InSync { .. } | State::Disconnected { .. } if self.joining == Joining::No => {
                self.fail(format!("a read: {errno}"), actions);
            }
            State::Failed { .. } => {}
            State::NoSession
            | State::InSync { .. }
            | State::Disconnected { .. }
            | State::Deciding { .. }
            | State::Parting { .. }
            | State::Alone { .. }
            | State::Copying { .. }
            | State::Ended => self.reply(Some(ticket), Err(errno), actions),
        }
    }

    /// Nothing is answered from this node any more; the secondary has all that was.
    pub(super) fn fail(&mut self, reason: String, actions: &mut Vec<Action>) {
        if self.is_over() {
            return;
        }
        actions.push(Action::DiskFailing {
            reason: reason.clone(),
        });
        self.state = State::Failed { reason };
        self.ready.clear();
    }
}

/// An operation in few words, for events: no data and no names, which belong to the application.
pub(super) fn describe(operation: &Operation) -> String {
    let kind = match operation {
        Operation::Bind { .. } => "binding",
        Operation::Create(_) => "a create",
        Operation::Link { .. } => "a link",
        Operation::Unlink(_) => "an unlink",
        Operation::Rename(_) => "a rename",
        Operation::Write { .. } => "a write",
        Operation::SetAttributes { .. } => "a change of attributes",
        Operation::Fallocate { .. } => "an fallocate",
        Operation::CopyRange { .. } => "a copy_file_range",
        Operation::SetXattr { .. } => "a setxattr",
        Operation::RemoveXattr { .. } => "a removexattr",
        Operation::Sync { .. } => "an fsync",
        Operation::Checkpoint => "a checkpoint",
    };
    match operation.touched().first() {
        Some(inode) => format!("{kind} of {inode}"),
        None => kind.to_owned(),
    }
}
