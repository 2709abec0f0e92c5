//! The numbered operations of the primary's session that are not confirmed: what was sent, what is answered, what
//! must be sent again.

use super::claims::ClaimId;
use super::pending::Slot;
use crate::operation::{FileHandle, InodeId, Number, Operation};
use crate::wire::limits::INTRODUCED_MAX;
use std::collections::VecDeque;
use std::time::Duration;

/// What a number stands for.
#[derive(Debug, Clone)]
pub(super) enum Sent {
    /// An application's operation; it is in the table of pending ones while its number is unanswered.
    Application(Slot),
    /// Tells the secondary which inode a number is.
    Bind(Box<Operation>),
    /// Leads the secondary back to the primary's state; part of the repair of this slot.
    Repair(Slot, Box<Operation>),
    /// Gives the secondary a file that the rename of this slot is about to bring in.
    Entering(Slot, Box<Operation>),
    /// Brings the secondary to the primary's state where a verification found that it differs, under this claim.
    Mend(ClaimId, Box<Operation>),
}

#[derive(Debug)]
struct Entry {
    sent: Sent,
    at: Duration,
    answered: bool,
    /// Handles that went along, to go along again.
    introduced: Vec<(InodeId, FileHandle)>,
}

/// See the module. Numbers are contiguous: `entries[0]` is the one after `confirmed`.
#[derive(Debug, Default)]
pub(super) struct Stream {
    entries: VecDeque<Entry>,
    last: Number,
    /// All answers up to this one are here.
    confirmed: Number,
    introduced: Vec<(InodeId, FileHandle)>,
}

/// What an answer is about.
pub(super) enum Answered {
    /// The first answer to this, sent at that time.
    New(Sent, Duration),
    /// It was answered before.
    Again,
    /// No such number was ever sent.
    Unknown,
}

impl Stream {
    /// Numbers `sent`; gives what goes along in its message.
    pub(super) fn number(&mut self, sent: Sent, at: Duration) -> (Number, Vec<(InodeId, FileHandle)>) {
        self.last = self.last.next();
        let rest = self
            .introduced
            .split_off(self.introduced.len().min(INTRODUCED_MAX));
        let introduced = std::mem::replace(&mut self.introduced, rest);
        self.entries.push_back(Entry {
            sent,
            at,
            answered: false,
            introduced: introduced.clone(),
        });
        (self.last, introduced)
    }

    /// A handle that the next operation takes along.
    pub(super) fn introduce(&mut self, inode: InodeId, handle: FileHandle) {
        self.introduced.push((inode, handle));
    }

    pub(super) fn answer(&mut self, number: Number) -> Answered {
        if number > self.last {
            return Answered::Unknown;
        }
        if number <= self.confirmed {
            return Answered::Again;
        }
        let index = (number.0 - self.confirmed.0 - 1) as usize;
        let Some(entry) = self.entries.get_mut(index) else {
            return Answered::Unknown;
        };
        if entry.answered {
            return Answered::Again;
        }
        entry.answered = true;
        let answered = Answered::New(entry.sent.clone(), entry.at);
        while self.entries.front().is_some_and(|entry| entry.answered) {
            self.entries.pop_front();
            self.confirmed = self.confirmed.next();
        }
        answered
    }

    /// What is unanswered, in order.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (Number, &Sent, Duration)> {
        let numbered = self.entries.iter().zip(self.confirmed.0 + 1..);
        numbered
            .filter(|(entry, _)| !entry.answered)
            .map(|(entry, number)| (Number(number), &entry.sent, entry.at))
    }

    /// What goes along with this number again.
    pub(super) fn introduced(&self, number: Number) -> Vec<(InodeId, FileHandle)> {
        let entry = self.index(number).and_then(|index| self.entries.get(index));
        entry.map(|entry| entry.introduced.clone()).unwrap_or_default()
    }

    /// It was sent again now: its time runs anew.
    pub(super) fn sent_again(&mut self, number: Number, at: Duration) {
        if let Some(entry) = self.index(number).and_then(|index| self.entries.get_mut(index)) {
            entry.at = at;
        }
    }

    /// True while this number waits for its answer.
    pub(super) fn is_unanswered(&self, number: Number) -> bool {
        let entry = self.index(number).and_then(|index| self.entries.get(index));
        entry.is_some_and(|entry| !entry.answered)
    }

    /// When the oldest unanswered one was sent.
    pub(super) fn oldest(&self) -> Option<Duration> {
        self.entries.front().map(|entry| entry.at)
    }

    pub(super) fn last(&self) -> Number {
        self.last
    }

    pub(super) fn confirmed(&self) -> Number {
        self.confirmed
    }

    /// The session is over: nothing will be answered.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.introduced.clear();
        self.confirmed = self.last;
    }

    fn index(&self, number: Number) -> Option<usize> {
        let above = number.0.checked_sub(self.confirmed.0 + 1)?;
        usize::try_from(above).ok()
    }
}

impl Sent {
    /// The inodes that were held for this message alone; an application's operation holds its own.
    pub(super) fn held(&self) -> Option<crate::operation::Touched> {
        match self {
            Sent::Application(_) => None,
            Sent::Bind(operation)
            | Sent::Repair(_, operation)
            | Sent::Entering(_, operation)
            | Sent::Mend(_, operation) => Some(operation.touched()),
        }
    }
}
