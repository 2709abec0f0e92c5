//! A rename that brings an excluded file in: the secondary is given the file first.
//!
//! ```text
//!   Settle ---------> Reading ---------> Shipped(n) ---------> numbered, as any rename
//!     nothing touches    a piece of it      ^  all answered,
//!     the file any more  is read            +- the next piece
//! ```
//! It gets it under the name that the file has, which is excluded there as well: whatever is left of it when this does
//! not come to its end is in nobody's way (`backing/excluded.rs`). Operations on the file wait meanwhile, others go on.
//!
//! Alone, and while copying, the rename is this node's alone, and all of the file is marked.

use super::{Action, Piece, Primary};
use crate::dirty::MarkSeq;
use crate::operation::{Errno, InodeId, Operation, Outcome, Touched};
use crate::session::loss::LossKind;
use crate::session::pending::{Slot, Submitted, is_no_room};
use crate::session::repair::{Kind, Settling, Step};
use crate::session::stream::Sent;
use std::time::Duration;

impl Primary {
    /// Marks what the secondary lacks of a file that comes in. What that must wait for.
    pub(super) fn track_entering(
        &mut self,
        lacking: &[Operation],
        actions: &mut Vec<Action>,
    ) -> Option<MarkSeq> {
        let mut wait = None;
        for operation in lacking {
            wait = wait.max(self.track(operation, actions));
        }
        wait
    }

    /// The file comes in on this node alone.
    pub(super) fn enter_here(&mut self, lacking: &[Operation]) {
        for operation in lacking {
            if let Operation::Link { inode, .. } = operation {
                self.names.enter(*inode);
                if let Some(coverage) = &mut self.coverage {
                    coverage.lacks(*inode);
                }
            }
            self.cover(operation, false);
        }
    }

    /// Holds the file of a rename until the secondary has it.
    pub(super) fn begin_entering(&mut self, submitted: Submitted) {
        let Some(inode) = moved(&submitted.operation) else {
            return;
        };
        let mut touched = Touched::default();
        touched.add(inode);
        self.parked.hold(&touched);
        self.last_slot = Slot(self.last_slot.0 + 1);
        self.settling.push(Settling {
            slot: self.last_slot,
            submitted,
            touched,
            kind: Kind::Entering {
                next: Some(0),
                step: Step::Settle,
            },
        });
    }

    /// Nothing touches the file of the settling rename at `index`. True when it was numbered, or parked.
    pub(super) fn go_on_entering(&mut self, index: usize, now: Duration, actions: &mut Vec<Action>) -> bool {
        let settling = &mut self.settling[index];
        let (slot, operation) = (settling.slot, &settling.submitted.operation);
        let Kind::Entering { next, step } = &mut settling.kind else {
            return false;
        };
        match (*step, *next, operation) {
            (Step::Settle | Step::Shipped(0), Some(from), Operation::Rename(rename)) => {
                *step = Step::Reading;
                let rename = rename.clone();
                actions.push(Action::ReadIn { slot, rename, from });
                self.kernel.begin(slot, now);
                false
            }
            (Step::Shipped(0), None, _) => {
                let settling = self.settling.remove(index);
                self.parked.release(&settling.touched);
                let before = self.last_slot;
                self.submit(settling.submitted, now, actions);
                if self.last_slot == before {
                    self.ended_for_claims(slot, now, actions);
                } else {
                    self.claims.renumbered(slot, self.last_slot);
                }
                true
            }
            (Step::Settle | Step::Reading | Step::Shipped(_), _, _) => false,
        }
    }

    /// A piece of the file was read.
    pub(super) fn read_in(
        &mut self,
        slot: Slot,
        piece: Result<Piece, Errno>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.kernel.end(slot);
        let is_linked = self.is_linked();
        let Some(index) = self.settling.iter().position(|settling| settling.slot == slot) else {
            return;
        };
        let settling = &mut self.settling[index];
        let Kind::Entering { next, step } = &mut settling.kind else {
            return;
        };
        if *step != Step::Reading {
            return;
        }
        if !is_linked {
            // The session may still go on: it is read again then.
            *step = Step::Settle;
            return;
        }
        let Piece {
            operations,
            next: rest,
            handle,
        } = match piece {
            Ok(piece) => piece,
            Err(errno) => {
                let settling = self.settling.remove(index);
                self.parked.release(&settling.touched);
                self.keep_out(&settling.submitted.operation);
                self.ended_for_claims(slot, now, actions);
                self.answer(&settling.submitted, Err(errno), actions);
                return;
            }
        };
        *next = rest;
        *step = Step::Shipped(operations.len());
        for operation in operations {
            if let Operation::Create(create) = &operation {
                self.names.enter(create.inode);
                self.stream.introduce(create.inode, handle.clone());
            }
            let mut binds = Vec::new();
            if let Err(unnamed) = self.names.bind(&operation, &mut binds) {
                self.lose(LossKind::Unnamed, unnamed.to_string(), actions);
                return;
            }
            for bind in binds {
                self.names.hold(&bind.touched());
                self.ship(Sent::Bind(Box::new(bind.clone())), bind, now, actions);
            }
            if let Operation::Create(create) = &operation {
                self.names.set_bound(create.inode);
            }
            self.names.hold(&operation.touched());
            let sent = Sent::Entering(slot, Box::new(operation.clone()));
            self.ship(sent, operation, now, actions);
        }
    }

    pub(super) fn entering_answered(
        &mut self,
        slot: Slot,
        operation: &Operation,
        outcome: &Outcome,
        actions: &mut Vec<Action>,
    ) {
        self.names.release(&operation.touched());
        match outcome {
            Outcome::Applied(applied) if applied.length == operation.length() => {
                self.learn_peer_handle(operation, applied);
            }
            Outcome::Refused(errno) | Outcome::Failed(errno) if is_no_room(*errno) => {
                let detail = format!("it has no room for a file that comes in: {errno}");
                self.lose(LossKind::NoSpace, detail, actions);
                return;
            }
            Outcome::Applied(_) | Outcome::NotBound(_) | Outcome::Refused(_) | Outcome::Failed(_) => {
                let what = super::local::describe(operation);
                let detail = format!("{what}, for a file that comes in, ended there as {outcome:?}");
                self.lose(LossKind::Failed, detail, actions);
                return;
            }
        }
        let found = self.settling.iter_mut().find(|settling| settling.slot == slot);
        if let Some(Kind::Entering {
            step: Step::Shipped(left),
            ..
        }) = found.map(|settling| &mut settling.kind)
        {
            *left = left.saturating_sub(1);
        }
    }

    /// The file of a rename is excluded as before.
    pub(super) fn keep_out(&mut self, operation: &Operation) {
        if let Some(inode) = moved(operation) {
            self.names.keep_out(inode);
        }
    }
}

fn moved(operation: &Operation) -> Option<InodeId> {
    match operation {
        Operation::Rename(rename) => Some(rename.moved),
        _ => None,
    }
}
