//! The primary as source of a copy: it is alone, ships what the target can follow, and ends up in sync.
//!
//! ```text
//!            CopyBegun               all brought over            JoinNoted               Completed
//!   Alone ---------------> Copying -------------------> Noting ------------> Telling ----------------> InSync
//!     ^                       |        (from here on nothing is answered without the secondary, except by a parting)
//!     +-----------------------+
//!       anything goes wrong: nothing to note, it was alone all the time
//! ```

use super::ending::Ending;
use super::{Action, Primary, State};
use crate::operation::{InodeId, Name};
use crate::session::claims::{ClaimId, Scope};
use crate::session::coverage::{Brought, Coverage, Rest};
use crate::session::loss::{Loss, LossKind};
use crate::wire::message::{Generation, SessionId, ToSecondary};
use std::time::Duration;

/// Most names and most inodes that are told at a time when the driver asks what is left.
const REST_MAX: usize = 1024;

/// How far the end of a copy is, once everything is brought over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joining {
    /// No copy has ended, or the secondary has noted that it is up-to-date.
    No,
    /// "The peer may be in sync" is being written down here.
    Noting {
        /// The secondary was lost meanwhile: part once the note is written, so that the notes keep their order.
        part: bool,
    },
    /// The secondary is to note that it is up-to-date on this generation.
    Telling { generation: Generation },
}

impl Primary {
    /// The connection is made and the secondary has noted "inconsistent": the copy begins. A primary that is not
    /// alone closes it again.
    pub(super) fn copy_begun(
        &mut self,
        session: SessionId,
        tracked: bool,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let loss = match &self.state {
            State::Alone { loss } if self.ending == Ending::No => loss.clone(),
            _ => {
                let reason = "this primary is not alone, or ends: nothing is copied".to_owned();
                actions.push(Action::Close { reason });
                return;
            }
        };
        self.state = State::Copying { session, loss };
        self.tracking.names_moved = true;
        self.stream = Default::default();
        self.prefix = Default::default();
        self.forget_later.clear();
        self.names.unbind_all();
        let roots = (0..self.settings.directories).map(InodeId::root);
        self.coverage = Some(match self.copy_plan() {
            Some((plan, ..)) if tracked => Coverage::tracked(&plan, self.settings.extent_bytes),
            Some(_) | None => Coverage::new(roots),
        });
        self.liveness.connected(now);
    }

    pub(super) fn is_copying(&self) -> bool {
        matches!(self.state, State::Copying { .. })
    }

    /// Everything is brought over, and that the peer may be in sync is being written down.
    pub(super) fn is_noting_join(&self) -> bool {
        matches!(self.joining, Joining::Noting { .. })
    }

    /// True while a copy or a verification gives numbers to inodes that the kernel may not know.
    pub fn is_covering(&self) -> bool {
        self.coverage.is_some() || self.verification.is_some()
    }

    /// The copy or verification needs this inode to keep its number until it is over. False when none is going on.
    pub fn pin(&mut self, inode: InodeId) -> bool {
        let goes_on = self.is_covering();
        if goes_on {
            self.names.pin(inode);
        }
        goes_on
    }

    /// True for an inode that has no name any more.
    pub fn is_gone(&self, inode: InodeId) -> bool {
        self.names.is_gone(inode)
    }

    /// True when the target was told of the inode.
    pub fn is_bound(&self, inode: InodeId) -> bool {
        self.names.is_bound(inode)
    }

    /// As [`Coverage::is_clean`]; false when no copy goes on.
    pub fn is_clean(&self, directory: InodeId, name: &Name) -> bool {
        self.coverage
            .as_ref()
            .is_some_and(|coverage| coverage.is_clean(directory, name))
    }

    /// As [`crate::session::names::Names::place_of`].
    pub fn place_of(&self, inode: InodeId) -> Option<(InodeId, Name)> {
        self.names.place_of(inode)
    }

    /// What is left to bring over; the driver asks when it has nothing more to do.
    pub fn copy_rest(&mut self) -> Rest {
        match &mut self.coverage {
            Some(coverage) => coverage.rest(&self.names, REST_MAX, !self.claims.is_empty()),
            None => Rest::default(),
        }
    }

    pub(super) fn begin_listing(&mut self, directory: InodeId) {
        let under_way = self
            .pending
            .values()
            .map(|pending| &pending.submitted.operation)
            .chain(self.settling.iter().map(|settling| &settling.submitted.operation));
        if let Some(coverage) = &mut self.coverage {
            coverage.begin_listing(directory, under_way);
        }
    }

    pub(super) fn end_listing(&mut self, directory: InodeId) {
        if let Some(coverage) = &mut self.coverage {
            coverage.end_listing(directory);
        }
    }

    pub(super) fn claim(&mut self, id: ClaimId, scope: Scope, now: Duration, actions: &mut Vec<Action>) {
        let under_way = self
            .pending
            .iter()
            .map(|(slot, pending)| (*slot, &pending.submitted.operation))
            .chain(
                self.settling
                    .iter()
                    .map(|settling| (settling.slot, &settling.submitted.operation)),
            );
        let goes_on = self.coverage.is_some() || self.verification.is_some();
        if goes_on && self.claims.claim(id, scope, under_way, now) {
            self.grant(id, actions);
        }
    }

    fn grant(&mut self, id: ClaimId, actions: &mut Vec<Action>) {
        let gone = self.claims.inodes_of(id);
        let gone = gone.filter(|inode| self.names.is_gone(*inode)).collect();
        actions.push(Action::Granted { claim: id, gone });
    }

    /// An operation under way has ended.
    pub(super) fn ended_for_claims(&mut self, slot: super::Slot, now: Duration, actions: &mut Vec<Action>) {
        if self.claims.is_empty() {
            return;
        }
        let mut granted = Vec::new();
        self.claims.ended(slot, now, &mut granted);
        for id in granted {
            self.grant(id, actions);
        }
    }

    /// When the secondary, or this node's disk, has had a claim for too long: operations wait for it.
    pub(super) fn claim_due(&self) -> Option<Duration> {
        let oldest = self.claims.oldest_granted();
        oldest.map(|granted| granted + self.settings.local_stall)
    }

    pub(super) fn release_claim(&mut self, id: ClaimId, brought: Brought) {
        let Some(scope) = self.claims.release(id) else {
            return;
        };
        if let Some(coverage) = &mut self.coverage {
            let is_tracked = coverage.is_tracked();
            coverage.released(scope, &brought);
            for (inode, handle) in brought.bound {
                if is_tracked {
                    self.tracking.placed.insert(inode);
                }
                self.names.set_bound(inode);
                self.names.learn_peer_handle(inode, handle);
            }
        }
    }

    /// The driver has nothing left. If that is so here, too, the pair is in sync from this moment: nothing is
    /// answered any more without the secondary, except by a parting.
    pub(super) fn copy_done(&mut self, actions: &mut Vec<Action>) {
        let State::Copying { session, .. } = self.state else {
            return;
        };
        if !self.copy_rest().is_empty() {
            actions.push(Action::CopyGoesOn);
            return;
        }
        self.state = State::InSync { session };
        self.joining = Joining::Noting { part: false };
        self.end_coverage();
        actions.push(Action::NoteJoined);
    }

    /// The record says that the peer may be in sync: the secondary may say so, too.
    pub(super) fn join_noted(&mut self, generation: Generation, actions: &mut Vec<Action>) {
        let Joining::Noting { part } = self.joining else {
            return;
        };
        self.joining = Joining::Telling { generation };
        if part {
            self.part_after_join(actions);
        } else {
            self.tell_complete(actions);
        }
    }

    /// The record could not be written and says what it said: that this node is alone.
    pub(super) fn join_note_failed(&mut self, reason: String, actions: &mut Vec<Action>) {
        let Joining::Noting { part } = self.joining else {
            return;
        };
        self.joining = Joining::No;
        if part {
            self.part_after_join(actions);
        } else {
            let detail = format!("that the copy is complete could not be noted here: {reason}");
            self.lose(LossKind::Failed, detail, actions);
        }
    }

    fn part_after_join(&mut self, actions: &mut Vec<Action>) {
        self.joining = Joining::No;
        self.part_map();
        if let State::Parting { loss, .. } = &self.state {
            actions.push(Action::NoteAlone(loss.clone()));
        }
    }

    /// Also after a new connection, on which the first may not have arrived.
    pub(super) fn tell_complete(&self, actions: &mut Vec<Action>) {
        if let (Joining::Telling { generation }, State::InSync { .. }) = (self.joining, &self.state) {
            actions.push(Action::Send(ToSecondary::Complete { generation }));
        }
    }

    /// The secondary has noted that its copy is up-to-date.
    pub(super) fn completed(&mut self, actions: &mut Vec<Action>) {
        if matches!(self.joining, Joining::Telling { .. }) {
            self.joining = Joining::No;
            self.map_joined();
            actions.push(Action::InSync);
        }
    }

    /// The copy cannot go on. This node was alone all the time, so nothing is noted and nothing waits.
    pub(super) fn copy_failed(&mut self, kind: LossKind, detail: String, actions: &mut Vec<Action>) {
        let State::Copying { loss, .. } = &self.state else {
            return;
        };
        let loss = loss.clone();
        self.state = State::Parting { loss, linked: false };
        self.end_coverage();
        // What was shipped is marked, durably, as what a node alone does.
        self.tracking.map.forget_epochs();
        self.part_map();
        // `drive` goes on as after a note.
        self.noted_before = true;
        actions.push(Action::CopyFailed(Loss { kind, detail }));
        actions.push(Action::Close {
            reason: "the copy is over".into(),
        });
    }

    fn end_coverage(&mut self) {
        self.coverage = None;
        self.claims.clear();
        self.names.unpin_all();
    }
}
