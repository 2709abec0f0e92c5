//! Where a module stands on this node, as `status` shows it. Fields are only added; unknown is null.

use super::verification::Verification;
use crate::config::{Durability, SyncMode};
use crate::record::split_brain::{Change, Resolution};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What runs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Mounted, takes the application's writes.
    Primary,
    /// Covered, holds the copy.
    Secondary,
    /// Neither.
    Stopped,
}

/// The automaton's states as far as `skfs` knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// No role.
    Stop,
    /// A secondary without a session.
    Wait,
    /// A primary that goes on without its secondary.
    Alone,
    /// A primary with a session, or waiting for its first one or for a decision.
    Prim,
    /// A secondary with a session.
    Second,
}

/// How far the state is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubState {
    /// Blocked (red).
    NotReady,
    /// On its way (orange).
    Transient,
    /// Reached (green).
    Ready,
}

/// What is known of this node's copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Complete and current as far as this node can know.
    UpToDate,
    /// Complete, and older than the peer's.
    Outdated,
    /// Mixed.
    Inconsistent,
    /// May have been changed unseen.
    Verify,
}

/// One module on one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The module.
    pub module: String,
    /// This node.
    pub node: String,
    /// `skfs`'s version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Role.
    pub role: Role,
    /// State.
    pub state: State,
    /// Sub-state.
    pub sub_state: SubState,
    /// Standing of this node's copy.
    pub standing: Standing,
    /// Every operation is answered only when both hold it.
    pub in_sync: bool,
    /// A repair is under way (then `in_sync` is false).
    pub repairing: bool,
    /// A connection to the peer is up.
    pub connected: bool,
    /// Why things are as they are, when something is missing; what to do next.
    pub reason: Option<String>,
    /// Generation of this node's copy.
    pub generation: Option<String>,
    /// Number of the last operation that was numbered (primary) or received (secondary).
    pub last_sequence: Option<u64>,
    /// All operations up to this one are applied on the secondary and that is known here.
    pub acknowledged_sequence: Option<u64>,
    /// Operations on their way now.
    pub queue_depth: Option<u64>,
    /// The copy that is going on.
    #[serde(default)]
    pub copy: Option<Copy>,
    /// The last one of this primary that was complete.
    #[serde(default)]
    pub last_copy: Option<Copy>,
    /// The verification that goes on, or the last one of this primary.
    #[serde(default)]
    pub verification: Option<Verification>,
    /// What the other copy lacks, while this node is alone and knows.
    #[serde(default)]
    pub tracking: Option<Tracking>,
    /// Secondary: what the last call of the primary has shown, while no session came of it.
    #[serde(default)]
    pub split_brain: Option<SplitBrain>,
    /// Latencies of operations since the last minute or so.
    pub latency: Option<Latencies>,
    /// The directories.
    pub directories: Vec<Directory>,
}

/// Progress of a copy to the secondary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    /// Files, directories and other nodes found so far; all of them once the names are brought over.
    pub files_total: Option<u64>,
    /// Of those, finished.
    pub files_done: Option<u64>,
    /// Bytes in the files found so far.
    pub bytes_total: Option<u64>,
    /// Bytes of files that went over the network.
    pub bytes_sent: Option<u64>,
    /// Bytes that the target had already, and holes.
    pub bytes_skipped: Option<u64>,
    /// Bytes done per second of late.
    pub rate_bytes_per_second: Option<f64>,
    /// Time left at that rate; none while names are still being found.
    pub eta_seconds: Option<f64>,
    /// What is being copied.
    pub current: Option<PathBuf>,
    /// `names`, `files`, `attributes` or `end`.
    #[serde(default)]
    pub step: Option<String>,
    /// It was told to pause.
    #[serde(default)]
    pub paused: bool,
    /// Most bytes per second that it was told to take.
    #[serde(default)]
    pub limit_bytes_per_second: Option<u64>,
    /// It was told not to yield to the application.
    #[serde(default)]
    pub hurries: bool,
    /// It is slower than it could be, because the application would notice.
    #[serde(default)]
    pub held_back: bool,
    /// Why it began anew, if it did.
    #[serde(default)]
    pub interrupted: Option<String>,
    /// Only what the dirty map names is brought over; else everything is compared.
    #[serde(default)]
    pub tracked: Option<bool>,
}

/// Both nodes have taken writes apart from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitBrain {
    /// What the primary has changed.
    pub primary: Change,
    /// What the secondary has.
    pub secondary: Change,
    /// Whose changes stay.
    pub resolution: Resolution,
}

/// What the dirty map says of the other copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// It does not know: the next copy compares everything.
    pub everything: bool,
    /// Files, directories and other nodes that are marked.
    pub marked_files: u64,
    /// Bytes in marked extents of files; those of new files are not counted.
    pub marked_bytes: u64,
}

/// One replicated directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its path.
    pub dir: PathBuf,
    /// Its mode.
    pub sync: SyncMode,
    /// Its mode.
    pub durability: Durability,
    /// `mounted`, `covered` or `open`.
    pub access: Access,
}

/// How a directory can be reached now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Through FUSE.
    Mounted,
    /// Read-only.
    Covered,
    /// As it is.
    Open,
}

/// Microseconds over the most recent operations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Applying on this node.
    pub local: Latency,
    /// Sending until the answer, less what the peer says it took.
    pub wire: Latency,
    /// Applying at the peer, as it says.
    pub peer: Latency,
}

/// A summary of many latencies in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Longest.
    pub max_us: f64,
}
