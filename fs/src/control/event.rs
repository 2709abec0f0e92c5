//! What `skfs` reports without being asked.

use crate::record::split_brain::{Change, Resolution};
use serde::{Deserialize, Serialize};

/// One event. `at` is CLOCK_BOOTTIME, so that a change of the wall clock changes no order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since boot.
    pub at_ms: u64,
    /// What happened.
    pub what: What,
    /// One sentence for a person: what, on what, why.
    pub message: String,
}

/// The kinds of events. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum What {
    /// The role or its sub-state changed; the status tells the rest.
    StateChanged {
        /// As `status` shows it.
        state: super::status::State,
        /// As `status` shows it.
        sub_state: super::status::SubState,
    },
    /// The pair is in sync.
    InSync,
    /// A copy of the primary's state to the secondary begins.
    CopyBegun,
    /// A copy of this primary is complete; both nodes are in sync.
    CopyComplete {
        /// Only what the dirty map named was looked at.
        tracked: bool,
        /// Bytes of files that went over the network.
        bytes_sent: u64,
        /// Bytes that were there already, and holes.
        bytes_skipped: u64,
    },
    /// It is over before its end, and begins anew by itself unless this node was told otherwise.
    CopyInterrupted {
        /// Why, in one word: `unreachable`, `failed`, `no-space`, ...
        reason: String,
    },
    /// Both copies are being compared completely, while the pair is in sync.
    VerificationBegun {
        /// What differs is brought to the primary's state.
        repair: bool,
    },
    /// That has ended.
    VerificationEnded {
        /// Everything was compared.
        complete: bool,
        /// What differed.
        differences: u64,
        /// Of that, what is the same now.
        repaired: u64,
    },
    /// The connection broke; the session goes on if it comes back in time.
    ConnectionLost,
    /// The session went on over a new connection.
    ConnectionResumed {
        /// How many unanswered operations were sent again.
        resent: u64,
    },
    /// The primary lost its secondary and waits for a decision or, with `on_peer_loss = "alone"`, decides.
    PeerLost {
        /// Why: `stalled`, `failed`, `no-space`, `differs`, `unreachable`.
        reason: String,
    },
    /// The primary goes on without its secondary.
    WentAlone {
        /// As in `PeerLost`.
        reason: String,
    },
    /// A repairing operation leads the secondary back to the primary's state.
    Repairing,
    /// The repair ended.
    Repaired,
    /// This node's disk refused or stalled what it must not.
    DiskFailing {
        /// The operation and its error.
        reason: String,
    },
    /// Both nodes have taken writes apart from each other.
    SplitBrain {
        /// What the primary has changed.
        primary: Change,
        /// What the secondary has.
        secondary: Change,
        /// Whose changes stay.
        resolution: Resolution,
    },
    /// What a copy will overwrite was put aside, and is on disk.
    Archived {
        /// Where, as this node sees it while it is not mounted over.
        path: String,
        /// How many files, directories and other entries.
        entries: u64,
        /// Bytes of data in them.
        bytes: u64,
    },
    /// A peer or client was turned away.
    PeerRefused {
        /// Which rule.
        reason: String,
    },
    /// Something a person should look at, without effect on the data.
    Warning,
}

/// Events kept for a subscriber that reads slowly; older ones are lost to it, and it is told so.
const EVENTS_MAX: usize = 1024;

/// Where events go: to the log, and to whoever has subscribed.
#[derive(Debug, Clone)]
pub struct Reporter {
    subscribers: tokio::sync::broadcast::Sender<Event>,
}

impl Default for Reporter {
    fn default() -> Self {
        Reporter {
            subscribers: tokio::sync::broadcast::Sender::new(EVENTS_MAX),
        }
    }
}

impl Reporter {
    /// All events from now on.
    pub fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Event> {
        self.subscribers.subscribe()
    }

    /// Reports `what`; `message` is one sentence for a person.
    pub fn report(&self, what: What, message: impl Into<String>) {
        let message = message.into();
        match &what {
            What::VerificationEnded {
                complete,
                differences,
                ..
            } if *differences > 0 || !complete => tracing::warn!(?what, "{message}"),
            What::DiskFailing { .. } | What::PeerLost { .. } => tracing::error!(?what, "{message}"),
            What::WentAlone { .. }
            | What::PeerRefused { .. }
            | What::SplitBrain { .. }
            | What::CopyInterrupted { .. }
            | What::Warning
            | What::Repairing
            | What::ConnectionLost => tracing::warn!(?what, "{message}"),
            What::StateChanged { .. }
            | What::InSync
            | What::Archived { .. }
            | What::CopyBegun
            | What::VerificationBegun { .. }
            | What::VerificationEnded { .. }
            | What::CopyComplete { .. }
            | What::ConnectionResumed { .. }
            | What::Repaired => tracing::info!(?what, "{message}"),
        }
        let at_ms = u64::try_from(crate::clock::now().as_millis()).unwrap_or(u64::MAX);
        // Without a subscriber there is nobody to tell, and the log has it.
        let _ = self.subscribers.send(Event { at_ms, what, message });
    }
}
