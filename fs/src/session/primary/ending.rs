//! The clean end of a primary: everything settled, one checkpoint on both nodes, the note that the secondary is the one to
//! begin next, `End`, `Ended`.

use super::copying::Joining;
use super::{Action, Primary, State};
use crate::operation::Operation;
use crate::session::pending::{Slot, Submitted};
use crate::wire::message::ToSecondary;
use std::time::Duration;

/// How far the clean end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Not asked for.
    No,
    /// Waits until everything is settled.
    Draining,
    /// The checkpoint is under way.
    Checkpoint(Slot),
    /// The checkpoint is done.
    OnDisk,
    /// That the secondary is the one to begin next is being written down.
    Noting,
    /// It is; the secondary is to be told.
    Noted,
    /// The secondary was told.
    Handshake,
}

impl Ending {
    pub(super) fn ask(&mut self) {
        if *self == Ending::No {
            *self = Ending::Draining;
        }
    }

    /// An operation ended. A failed checkpoint (alone, where it is no reason to stop answering) is reported by
    /// itself; there is nothing better to wait for.
    pub(super) fn finished(&mut self, slot: Slot) {
        if *self == Ending::Checkpoint(slot) {
            *self = Ending::OnDisk;
        }
    }

    /// The session changed under it: whatever was done must be done again.
    pub(super) fn restart(&mut self) {
        match self {
            Ending::No | Ending::Draining | Ending::Checkpoint(_) => {}
            Ending::OnDisk | Ending::Noting | Ending::Noted | Ending::Handshake => *self = Ending::Draining,
        }
    }
}

impl Primary {
    /// Takes the next step of a clean end, if nothing is under way. True when it took one.
    pub(super) fn go_on_ending(&mut self, now: Duration, actions: &mut Vec<Action>) -> bool {
        // A secondary that has not noted yet that its copy is complete cannot end cleanly.
        if self.ending == Ending::No || self.queue_depth() > 0 || self.joining != Joining::No {
            return false;
        }
        match (self.ending, &self.state) {
            (Ending::Draining, State::NoSession) => {
                self.state = State::Ended;
                actions.push(self.ended(false));
                true
            }
            (Ending::Draining, State::InSync { .. } | State::Alone { .. }) => {
                let checkpoint = Submitted {
                    ticket: None,
                    operation: Operation::Checkpoint,
                    again: false,
                };
                self.number(checkpoint, now, actions);
                self.ending = Ending::Checkpoint(self.last_slot);
                true
            }
            (Ending::OnDisk, State::InSync { .. }) => {
                self.ending = Ending::Noting;
                let checkpoints = self.take_uncounted();
                actions.push(Action::NoteHandedOver { checkpoints });
                false
            }
            (Ending::Noted, State::InSync { .. }) => {
                self.ending = Ending::Handshake;
                actions.push(Action::Send(ToSecondary::End));
                false
            }
            (Ending::OnDisk, State::Alone { .. }) => {
                self.state = State::Ended;
                actions.push(self.ended(false));
                true
            }
            (
                Ending::No
                | Ending::Draining
                | Ending::Checkpoint(_)
                | Ending::OnDisk
                | Ending::Noting
                | Ending::Noted
                | Ending::Handshake,
                _,
            ) => false,
        }
    }

    /// The note of the end is on disk, or cannot be written.
    pub(super) fn end_noted(&mut self) {
        if self.ending == Ending::Noting {
            self.ending = Ending::Noted;
        }
    }

    /// The secondary may have noted that it is the one to begin next.
    pub(super) fn has_told_of_its_end(&self) -> bool {
        self.ending == Ending::Handshake
    }

    /// It was not heard whether the secondary has ended. Both copies have everything on disk, and this node has noted its
    /// end; to go on alone now would make it one of two that may begin.
    pub(super) fn end_untold(&mut self, actions: &mut Vec<Action>) {
        self.state = State::Ended;
        actions.push(self.ended(false));
    }

    /// The secondary's copy is complete, on disk and recorded clean.
    pub(super) fn peer_ended(&mut self, actions: &mut Vec<Action>) {
        if self.ending == Ending::Handshake && self.is_in_sync() {
            self.state = State::Ended;
            actions.push(self.ended(true));
        }
    }
}
