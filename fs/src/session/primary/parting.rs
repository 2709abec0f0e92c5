//! Losing the secondary: the decision, the durable note, and what becomes of the operations under way.

use super::copying::Joining;
use super::{Action, Primary, State};
use crate::config::OnPeerLoss;
use crate::session::loss::{Loss, LossKind};
use crate::session::pending::{Half, Slot, Stage};
use crate::session::repair::Kind;
use crate::wire::message::{Generation, ToSecondary};
use std::time::Duration;

impl Primary {
    /// The secondary is lost. What says that the copies differ outweighs what may still heal.
    pub(super) fn lose(&mut self, kind: LossKind, detail: String, actions: &mut Vec<Action>) {
        if self.is_copying() {
            self.copy_failed(kind, detail, actions);
            return;
        }
        let loss = Loss { kind, detail };
        let (session, linked) = match &self.state {
            State::InSync { session } => (*session, true),
            State::Disconnected { session, .. } => (*session, false),
            State::Deciding {
                session,
                loss: known,
                linked,
            } if known.kind.may_resume() && !kind.may_resume() => (*session, *linked),
            State::NoSession
            | State::Deciding { .. }
            | State::Parting { .. }
            | State::Alone { .. }
            | State::Copying { .. }
            | State::Failed { .. }
            | State::Ended => return,
        };
        self.state = State::Deciding {
            session,
            loss: loss.clone(),
            linked,
        };
        actions.push(Action::PeerLost(loss.clone()));
        match self.settings.on_peer_loss {
            OnPeerLoss::Ask => {}
            OnPeerLoss::Alone => self.part(loss, linked, actions),
        }
    }

    pub(super) fn told_to_go_alone(&mut self, actions: &mut Vec<Action>) {
        let told = |detail: &str| Loss {
            kind: LossKind::Told,
            detail: detail.to_owned(),
        };
        match &self.state {
            State::NoSession => self.part(told("told to go on without a secondary"), false, actions),
            State::Disconnected { .. } => {
                self.part(
                    told("told to go on without waiting for the connection"),
                    false,
                    actions,
                );
            }
            State::Deciding { loss, linked, .. } => {
                let (loss, linked) = (loss.clone(), *linked);
                self.part(loss, linked, actions);
            }
            State::Copying { .. } => {
                self.copy_failed(
                    LossKind::Told,
                    "told to go on without the secondary".into(),
                    actions,
                );
            }
            State::InSync { .. }
            | State::Parting { .. }
            | State::Alone { .. }
            | State::Failed { .. }
            | State::Ended => {}
        }
    }

    fn part(&mut self, loss: Loss, linked: bool, actions: &mut Vec<Action>) {
        if self.has_told_of_its_end() {
            self.end_untold(actions);
            return;
        }
        self.state = State::Parting {
            loss: loss.clone(),
            linked,
        };
        match &mut self.joining {
            // The record is being written already: one note after the other.
            Joining::Noting { part } => *part = true,
            Joining::No | Joining::Telling { .. } => {
                self.joining = Joining::No;
                self.part_map();
                actions.push(Action::NoteAlone(loss));
            }
        }
    }

    pub(super) fn note_failed(&mut self, reason: String, actions: &mut Vec<Action>) {
        if matches!(self.state, State::Parting { .. }) {
            self.fail(format!("the note that the peer lacks data: {reason}"), actions);
        }
    }

    /// The note is on disk: what waited for the secondary is applied without it.
    pub(super) fn noted(&mut self, generation: Generation, now: Duration, actions: &mut Vec<Action>) {
        self.go_on_alone(Some(generation), now, actions);
    }

    /// `generation` is new and to be told to the secondary; none after a copy that failed.
    pub(super) fn go_on_alone(
        &mut self,
        generation: Option<Generation>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let State::Parting { loss, linked } = &self.state else {
            return;
        };
        let (loss, linked) = (loss.clone(), *linked);
        self.state = State::Alone { loss: loss.clone() };
        if let Some(generation) = generation {
            if linked {
                actions.push(Action::Send(ToSecondary::Part {
                    generation,
                    reason: loss.to_string(),
                }));
            }
            actions.push(Action::WentAlone(loss));
        }
        for (_, sent, _) in self.stream.unanswered() {
            if let Some(touched) = sent.held() {
                self.names.release(&touched);
            }
        }
        self.stream.clear();
        self.forget_later.clear();
        self.names.forget_kept_out();
        self.ending.restart();
        self.free_pending(actions);
        for settling in std::mem::take(&mut self.settling) {
            self.parked.release(&settling.touched);
            match settling.kind {
                Kind::Rebind => self.number(settling.submitted, now, actions),
                Kind::Entering { .. } => {
                    self.keep_out(&settling.submitted.operation);
                    self.number(settling.submitted, now, actions);
                }
                Kind::Repair { result, change, .. } => {
                    if let Some(change) = change {
                        self.names.refused(&change);
                    }
                    self.answer(&settling.submitted, result, actions);
                }
            }
        }
        self.take_waiting(now, actions);
    }

    /// Nothing waits for the secondary any more.
    fn free_pending(&mut self, actions: &mut Vec<Action>) {
        let mut slots: Vec<Slot> = self.pending.keys().copied().collect();
        slots.sort_unstable();
        for slot in slots {
            let Some(pending) = self.pending.get_mut(&slot) else {
                continue;
            };
            match pending.stage {
                Stage::Unanswered => {
                    pending.stage = Stage::Free;
                    if self.lanes.open(slot) {
                        self.ready.push_back(slot);
                    }
                }
                Stage::Refused(_) | Stage::NotBound => pending.stage = Stage::Free,
                Stage::Disagreed => {
                    pending.stage = Stage::Free;
                    self.ready.push_back(slot);
                }
                Stage::Denied(errno) => self.finish(slot, Err(errno), actions),
                Stage::Both { here, .. } => {
                    pending.stage = Stage::Both {
                        here,
                        there: Half::Done,
                    };
                    self.synced(slot, actions);
                }
                // `Checking` goes on when the check ends.
                Stage::Accepted | Stage::Free | Stage::Applying { .. } | Stage::Checking(_) => {}
            }
        }
    }
}
