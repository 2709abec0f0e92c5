//! The messages of a replication connection. `docs/wire.md` shows them as bytes.
//!
//! The primary opens the connection and one bidirectional stream on it. It sends [`ToSecondary`], the secondary
//! [`ToPrimary`]; each direction is in order. The first frame each way is `Hello`, then `Welcome` or `Reject`.

use crate::config::{Durability, SyncMode};
use crate::operation::{FileHandle, InodeId, Number, Operation, Outcome, Timestamp};
use crate::record::decision::CopyState;
use serde::{Deserialize, Serialize};

/// Version of everything in this file. A node refuses a peer of another version, naming both.
///
/// History: 1, the first; 2, checkpoints and tracked copies; 3, verifications; 4, what is excluded; 5, amounts of changes.
pub const VERSION: u16 = 5;

/// A session: one order of operations from one primary process to one secondary process. Random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

/// One line of writes. Random; two copies that carry the same one and ended cleanly are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Generation(pub [u8; 16]);

/// From the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSecondary {
    /// First frame of a connection.
    Hello(Hello),
    /// One operation. Answered in [`ToPrimary::Answers`], for ever the same way.
    Operation {
        /// Its place in the order.
        number: Number,
        /// The primary has the answers of all operations up to this one and never asks for them again.
        confirmed: Number,
        /// The primary's backing handles of inodes that it created meanwhile.
        introduced: Vec<(InodeId, FileHandle)>,
        /// What to do.
        operation: Operation,
    },
    /// Sent while operations are unanswered and, more rarely, while idle. Answered by `Pong`.
    Ping {
        /// Repeated in the answer.
        nonce: u64,
        /// As in `Operation`.
        confirmed: Number,
    },
    /// These inodes are not used any more; their descriptors and handles may be dropped.
    Forget(Vec<InodeId>),
    /// Clean end of the session, after everything is answered: checkpoint, record "clean", answer `Ended`.
    End,
    /// The primary goes on alone under this generation: the secondary notes "outdated" durably, answers `Parted`.
    Part {
        /// The primary's new generation.
        generation: Generation,
        /// Why, for the log.
        reason: String,
    },
    /// The copy that the session began with is complete: the secondary makes it durable, notes that it is
    /// up-to-date on this generation, and answers `Completed`. Repeated on every new connection until then.
    Complete {
        /// New, and the primary's as well.
        generation: Generation,
    },
    /// Both nodes have everything up to this checkpoint on disk, and the primary has noted so: what the secondary marked
    /// before it is equal on both.
    Covered {
        /// The checkpoint's.
        number: Number,
    },
}

/// From the secondary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToPrimary {
    /// The session may begin or go on.
    Welcome(Welcome),
    /// It may not. The connection is closed.
    Reject(Rejection),
    /// What is done. Each answer is sent again on every new connection until it is confirmed.
    Answers {
        /// All operations up to this one are done and answered.
        prefix: Number,
        /// The new answers.
        answers: Vec<Answer>,
    },
    /// The answer to `Ping`.
    Pong {
        /// The ping's.
        nonce: u64,
        /// As in `Answers`.
        prefix: Number,
        /// What is in the secondary's kernel or waits for it now, the oldest first, at most 64 entries.
        running: Vec<Running>,
        /// What is free below each directory, in the order of the configuration; empty when it is not known.
        rooms: Vec<Room>,
    },
    /// The answer to `End`: this copy is complete, on disk and recorded clean.
    Ended,
    /// The answer to `Part`: "outdated" is on disk.
    Parted,
    /// The secondary leaves the session (stopped, or told to become primary) and will answer nothing more.
    Leaving {
        /// Why.
        reason: String,
    },
    /// The answer to `Complete`: this copy is on disk and recorded up-to-date.
    Completed,
}

/// The first frame of a connection, from the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The module.
    pub module: String,
    /// The sender; the certificate must carry the same name.
    pub node: String,
    /// The session; made anew by the primary for each `Start::Fresh`.
    pub session: SessionId,
    /// Begin or go on.
    pub start: Start,
    /// What the primary knows of its copy.
    pub copy: Box<CopyState>,
    /// The primary's directories in the order of its configuration.
    pub directories: Vec<Offer>,
    /// Names of users and groups in use, for the warning about unequal numbers.
    pub identities: Identities,
}

/// Whether a connection begins a session or goes on with one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// A new session. Both copies must be equal: the same generation, both ended cleanly, or both empty.
    Fresh {
        /// The generation of the primary's copy.
        generation: Generation,
        /// The primary's last session ended cleanly.
        clean: bool,
    },
    /// A new session, in which the secondary is brought to the primary's state over bulk connections while
    /// operations go on. Its copy counts as inconsistent from before the `Welcome` until `Complete`.
    Copy {
        /// The generation of the primary's copy.
        generation: Generation,
        /// The generation that the primary last shared with a secondary, if any: a copy that carries another one
        /// is not overwritten unasked.
        base: Option<Generation>,
        /// A person has said that whatever the secondary holds may be overwritten.
        overwrite: bool,
        /// Only what the primary's dirty map names is brought over: everything else of the copies must be equal.
        tracked: bool,
    },
    /// The same two processes, over a new connection.
    Resume {
        /// As in `ToSecondary::Operation`.
        confirmed: Number,
    },
}

/// What a node says about one replicated directory, so that differences show before they hurt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its path, which must be the same on both nodes: the application moves from one to the other.
    pub dir: String,
    /// Its mode.
    pub sync: SyncMode,
    /// Its mode.
    pub durability: Durability,
    /// It holds no entry.
    pub empty: bool,
    /// Bytes in use below it are not known cheaply; this is the file system's free space in bytes.
    pub free_bytes: u64,
    /// What its file system can do.
    pub abilities: Abilities,
    /// The directory's own attributes. The secondary takes over the primary's when a session begins, because no
    /// operation tells of what was set before.
    pub top: Top,
    /// What is excluded of it, as the configuration has it: the same on both nodes, or each would take names of the
    /// other's for its own.
    pub exclude: Vec<String>,
}

/// The attributes of a replicated directory itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    /// Permissions and special bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of its entries.
    pub mtime: Timestamp,
}

/// What a backing file system can do, found by trying it in a scratch file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Longest name in bytes.
    pub name_bytes_max: u32,
    /// Largest value of a `user.` attribute that it took, up to 64 KiB.
    pub xattr_bytes_max: u32,
    /// It stores POSIX ACLs.
    pub acl: bool,
    /// `name_to_handle_at(2)` works on it.
    pub handles: bool,
    /// Smallest step of its time stamps in nanoseconds.
    pub time_step_ns: u32,
    /// False when there was no room to try: then only the length of names is known.
    pub tried: bool,
}

/// Names for numbers on one node, from its user and group databases; at most 4096 of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identities {
    /// User number and name.
    pub users: Vec<(u32, String)>,
    /// Group number and name.
    pub groups: Vec<(u32, String)>,
}

/// The secondary's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The sender's node name; the certificate must carry the same name.
    pub node: String,
    /// All operations up to this one are done.
    pub prefix: Number,
    /// Every answer above the confirmed number.
    pub answers: Vec<Answer>,
    /// Numbers above the prefix that were received and are not done yet; they need not be sent again.
    pub received: Vec<Number>,
    /// The secondary's directories.
    pub directories: Vec<Offer>,
    /// As in `Hello`.
    pub identities: Identities,
}

/// One operation's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Which operation.
    pub number: Number,
    /// What came of it.
    pub outcome: Outcome,
    /// Microseconds from its arrival to its end, for the latency figures.
    pub took_us: u32,
}

/// One operation that the secondary has and has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Which.
    pub number: Number,
    /// True once it is in the kernel, false while it waits for earlier ones.
    pub in_kernel: bool,
    /// Milliseconds since it arrived or entered the kernel.
    pub for_ms: u32,
}

/// What is free on the file system of one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes, those reserved for root included.
    pub free_bytes: u64,
    /// Bytes for everybody.
    pub available_bytes: u64,
    /// Inodes.
    pub free_inodes: u64,
}

/// Why a connection was turned away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// The secondary is not one now.
    #[error("{node} is {state}, not a secondary: tell it to become one")]
    NotSecondary {
        /// The refusing node.
        node: String,
        /// Its state.
        state: String,
    },
    /// Another module's primary.
    #[error("this is module {ours}, the peer asks for {theirs}: check the addresses")]
    OtherModule {
        /// The refusing node's.
        ours: String,
        /// The asking node's.
        theirs: String,
    },
    /// The certificate is of another node.
    #[error("the peer says it is {said}, its certificate says {proved}")]
    OtherNode {
        /// In `Hello`.
        said: String,
        /// In the certificate.
        proved: String,
    },
    /// Other directories or modes.
    #[error("the configurations differ: {0}")]
    OtherConfiguration(String),
    /// Something the primary's file system can do and this one cannot.
    #[error("the secondary's file system is too small or too poor: {0}")]
    Unfit(String),
    /// The copies are not known to be equal.
    #[error("the copies are not known to be equal ({0}): this one must be brought to the primary's state")]
    FullCopyNeeded(String),
    /// A copy would replace what nobody said may be replaced.
    #[error(
        "a copy would overwrite what the secondary holds: {0}. If that may be lost, connect with --overwrite"
    )]
    WouldOverwrite(String),
    /// `Resume` of a session that has ended or never was.
    #[error("that session has ended here; a new one must begin")]
    UnknownSession,
    /// Operations of an earlier session are still in this kernel.
    #[error("operations of the former session are still running; try again")]
    StillRunning,
    /// Both have taken writes apart from each other, and neither side's are discarded by themselves.
    #[error("{0}")]
    SplitBrain(String),
    /// What it would lose is being put aside, which takes its time: call again.
    #[error("the secondary is putting aside what it would lose; try again")]
    Archiving,
}
