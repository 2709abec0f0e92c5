//! When a secondary counts as stalled: slow is not hung.
//!
//! It is silent when neither a new answer nor a healthy `Pong` has come for `peer_stall` while something waits. It
//! is stuck when one operation has been in its kernel for longer than that kind of operation may: `peer_stall`
//! for names and data, `local_stall` for a sync, no limit for a checkpoint.

use crate::operation::Number;
use crate::wire::message::Running;
use std::time::Duration;

const PING_BUSY_MAX: Duration = Duration::from_secs(1);
/// Several times within the idle time of the link, half of `peer_stall`: the link then needs no keep-alive of its
/// own, and an idle pair hardly wakes up.
const PING_IDLE_MAX: Duration = Duration::from_millis(2500);

/// How long an operation may be in the secondary's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Names and data.
    Peer,
    /// Syncs.
    Local,
    /// Checkpoints.
    Endless,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Liveness {
    peer_stall: Duration,
    local_stall: Duration,
    nonce: u64,
    last_ping: Duration,
    /// The last ping's number, and the last number sent before it.
    pinged: Option<(u64, Number)>,
    /// When the oldest unanswered ping was sent.
    ping_since: Option<Duration>,
    /// When the secondary last showed that it works.
    heard: Duration,
    /// The operation in its kernel whose time is up first, and when.
    suspect: Option<(Number, Duration)>,
}

impl Liveness {
    pub(super) fn new(peer_stall: Duration, local_stall: Duration) -> Self {
        Liveness {
            peer_stall,
            local_stall,
            nonce: 0,
            last_ping: Duration::ZERO,
            pinged: None,
            ping_since: None,
            heard: Duration::ZERO,
            suspect: None,
        }
    }

    /// A connection begins or goes on.
    pub(super) fn connected(&mut self, now: Duration) {
        self.last_ping = now;
        self.pinged = None;
        self.ping_since = None;
        self.heard = now;
        self.suspect = None;
    }

    /// A new answer came.
    pub(super) fn answered(&mut self, now: Duration) {
        self.heard = now;
    }

    /// When the next ping is due; `oldest` is when the oldest unanswered operation was sent.
    pub(super) fn ping_due(&self, oldest: Option<Duration>) -> Duration {
        match oldest {
            Some(oldest) => self.last_ping.max(oldest) + (self.peer_stall / 10).min(PING_BUSY_MAX),
            None => self.last_ping + (self.peer_stall / 4).min(PING_IDLE_MAX),
        }
    }

    /// The number of a ping that goes out now, after everything up to `last`.
    pub(super) fn ping(&mut self, now: Duration, last: Number) -> u64 {
        self.nonce += 1;
        self.last_ping = now;
        self.pinged = Some((self.nonce, last));
        self.ping_since.get_or_insert(now);
        self.nonce
    }

    /// A `Pong`: `unanswered` are the numbers without an answer, in order, each with the patience it deserves.
    pub(super) fn pong(
        &mut self,
        nonce: u64,
        running: &[Running],
        is_complete: bool,
        unanswered: impl Iterator<Item = (Number, Patience)>,
        now: Duration,
    ) {
        let Some((_, sent)) = self.pinged.filter(|(pinged, _)| *pinged == nonce) else {
            return;
        };
        self.pinged = None;
        self.ping_since = None;
        self.suspect = None;
        let mut lost = false;
        let mut rest = running.iter().peekable();
        for (number, patience) in unanswered {
            while rest.next_if(|entry| entry.number < number).is_some() {}
            let entry = rest.next_if(|entry| entry.number == number);
            if entry.is_none() && rest.peek().is_none() && !is_complete {
                break;
            }
            match entry {
                Some(entry) if entry.in_kernel => {
                    let limit = match patience {
                        Patience::Peer => self.peer_stall,
                        Patience::Local => self.local_stall,
                        Patience::Endless => continue,
                    };
                    let since = now.saturating_sub(Duration::from_millis(u64::from(entry.for_ms)));
                    if self.suspect.is_none_or(|(_, until)| since + limit < until) {
                        self.suspect = Some((number, since + limit));
                    }
                }
                Some(_) => {}
                // It was sent before the ping, and the secondary neither has it nor has answered it.
                None if number <= sent => lost = true,
                None => break,
            }
        }
        let idle = running.iter().all(|entry| !entry.in_kernel) && !running.is_empty();
        if !lost && !idle {
            self.heard = now;
        }
    }

    /// Since when something waits for the secondary and nothing was heard of it; none while nothing waits.
    pub(super) fn silent_since(&self, oldest: Option<Duration>) -> Option<Duration> {
        let waiting = [oldest, self.ping_since].into_iter().flatten().min();
        waiting.map(|waiting| waiting.max(self.heard))
    }

    /// When the secondary counts as stalled if nothing happens; `suspect_waits` says whether a number is unanswered.
    pub(super) fn stalled_at(
        &self,
        oldest: Option<Duration>,
        suspect_waits: impl Fn(Number) -> bool,
    ) -> Option<Duration> {
        let silent = self.silent_since(oldest).map(|since| since + self.peer_stall);
        let stuck = self
            .suspect
            .filter(|(number, _)| suspect_waits(*number))
            .map(|(_, until)| until);
        [silent, stuck].into_iter().flatten().min()
    }
}
