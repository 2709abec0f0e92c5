//! A verification beside the pair in sync: when it may go on, and its repairs.

use super::copying::Joining;
use super::ending::Ending;
use super::local::describe;
use super::{Action, Primary};
use crate::hash::HashSet;
use crate::operation::{InodeId, Name, Operation, Outcome};
use crate::session::claims::ClaimId;
use crate::session::loss::LossKind;
use crate::session::names::used;
use crate::session::pending::is_broken_disk;
use crate::session::stream::Sent;
use crate::session::verification::Verification;
use std::time::Duration;

impl Primary {
    /// Whether both copies may be compared and claimed.
    fn may_verify(&self) -> bool {
        self.is_in_sync() && self.joining == Joining::No && self.ending == Ending::No
    }

    pub(super) fn verify_begun(&mut self, actions: &mut Vec<Action>) {
        if self.verification.is_some() {
            return;
        }
        if self.may_verify() {
            self.verification = Some(Verification::default());
        } else {
            let reason = "the pair is not in sync".to_owned();
            actions.push(Action::VerifyOver { reason });
        }
    }

    /// Nothing is held back any more. Repairs that are under way stay in their place of the order.
    pub(super) fn end_verification(&mut self) -> bool {
        let went_on = self.verification.take().is_some();
        if went_on {
            self.claims.clear();
            self.names.unpin_all();
        }
        went_on
    }

    /// Ends a verification that cannot go on.
    pub(super) fn stop_verification(&mut self, reason: String, actions: &mut Vec<Action>) {
        if self.end_verification() {
            actions.push(Action::VerifyOver { reason });
        }
    }

    pub(super) fn check_verification(&mut self, actions: &mut Vec<Action>) {
        if self.verification.is_some() && !self.may_verify() {
            let reason = match self.ending {
                Ending::No => "the pair is not in sync any more",
                Ending::Draining
                | Ending::Checkpoint(_)
                | Ending::OnDisk
                | Ending::Noting
                | Ending::Noted
                | Ending::Handshake => "the primary ends",
            };
            self.stop_verification(reason.to_owned(), actions);
        }
    }

    /// True while a verification goes on.
    pub fn is_verifying(&self) -> bool {
        self.verification.is_some()
    }

    /// The verification has found, under a claim, that the pinned inode has this name: so it can be told of.
    pub fn place(&mut self, inode: InodeId, parent: InodeId, name: &Name) {
        self.names.place_pinned(inode, parent, name);
    }

    /// Inodes that got another name since the verification began, each told once; at most `most`.
    pub fn take_moved(&mut self, most: usize) -> Vec<InodeId> {
        match &mut self.verification {
            Some(verification) => verification.take_moved(most),
            None => Vec::new(),
        }
    }

    /// An operation is numbered.
    pub(super) fn note_moved(&mut self, operation: &Operation) {
        if let Some(verification) = &mut self.verification {
            for inode in verification.numbered(operation) {
                self.names.pin(inode);
            }
        }
    }

    /// Ships what the secondary alone is to apply.
    pub(super) fn mend(
        &mut self,
        claim: ClaimId,
        operations: Vec<Operation>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        if self.verification.is_none() {
            return;
        }
        // The secondary is told afresh by names, as the copies were compared: what it knew by these numbers may be
        // something that was moved away there.
        for inode in operations.iter().flat_map(Operation::touches) {
            self.names.unbind_path(inode);
        }
        let mut told: HashSet<_> = HashSet::default();
        for operation in operations {
            let mut binds = Vec::new();
            let known = |inode: &&InodeId| !told.contains(*inode);
            let needed = used(&operation);
            let named = needed.iter().filter(known);
            let named = named
                .copied()
                .try_for_each(|inode| self.names.bind_inode(inode, &mut binds));
            if let Err(unnamed) = named {
                if let Some(verification) = &mut self.verification {
                    verification.spoil_mend(claim, unnamed.to_string());
                }
                break;
            }
            match &operation {
                Operation::Bind { inode, .. } => {
                    told.insert(*inode);
                }
                Operation::Create(create) => {
                    told.insert(create.inode);
                }
                _ => {}
            }
            for operation in binds.into_iter().chain([operation]) {
                if let Some(verification) = &mut self.verification {
                    verification.mending(claim);
                }
                self.names.hold(&operation.touched());
                let sent = Sent::Mend(claim, Box::new(operation.clone()));
                self.ship(sent, operation, now, actions);
            }
        }
        self.tell_mended(claim, actions);
    }

    pub(super) fn mend_answered(
        &mut self,
        claim: ClaimId,
        operation: &Operation,
        outcome: &Outcome,
        actions: &mut Vec<Action>,
    ) {
        let failure = match outcome {
            Outcome::Applied(applied) if applied.length == operation.length() => {
                self.learn_peer_handle(operation, applied);
                None
            }
            Outcome::Applied(applied) => Some(format!(
                "it applied {} of {} bytes of {}",
                applied.length,
                operation.length(),
                describe(operation)
            )),
            Outcome::NotBound(inode) => {
                self.names.unbind(*inode);
                Some(format!("it does not find {inode} for {}", describe(operation)))
            }
            Outcome::Refused(errno) if operation.is_done_already(*errno) => None,
            Outcome::Refused(errno) | Outcome::Failed(errno) => {
                if is_broken_disk(*errno) {
                    let detail = format!("{}, which repairs, failed there: {errno}", describe(operation));
                    self.lose(LossKind::Failed, detail, actions);
                }
                Some(format!("{} failed there: {errno}", describe(operation)))
            }
        };
        self.names.release(&operation.touched());
        if let Some(verification) = &mut self.verification {
            verification.mended(claim, failure);
        }
        self.tell_mended(claim, actions);
    }

    fn tell_mended(&mut self, claim: ClaimId, actions: &mut Vec<Action>) {
        let ended = self.verification.as_mut();
        if let Some(result) = ended.and_then(|verification| verification.take_mended(claim)) {
            actions.push(Action::Mended { claim, result });
        }
    }
}
