//! What `skfs` reports without being asked.

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
    /// A peer or client was turned away.
    PeerRefused {
        /// Which rule.
        reason: String,
    },
    /// Something a person should look at, without effect on the data.
    Warning,
}
