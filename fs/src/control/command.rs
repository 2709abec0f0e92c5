//! What may be asked of `skfs`, and how it answers.
//!
//! A frame on the socket is a 32-bit big-endian length, at most [`FRAME_BYTES_MAX`], and that many bytes of
//! JSON. The client sends [`Request`]s; the server sends one [`Message::Response`] for each, in any order, and
//! after [`Command::Subscribe`] also [`Message::Event`]s until the connection ends.

use super::archive::Archive;
use super::event::Event;
use super::status::Status;
use super::verification::Report;
use serde::{Deserialize, Serialize};

/// Longest frame in bytes, either way. A longer one ends the connection.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Chosen by the client, repeated in the response.
    pub id: u64,
    /// What to do.
    pub command: Command,
}

/// What `skfs` is told to do. Repeating a command that is already carried out succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Mount the directories and take their writes. A running in-sync secondary ends its session first, durably,
    /// and goes on alone. Any other node starts with writes waiting for `connect` or `go-alone`.
    BecomePrimary {
        /// Mount although some process holds a file in the directory open; only warns of it.
        #[serde(default)]
        ignore_holders: bool,
        /// Become primary although this node's record says that its copy may be old or mixed.
        #[serde(default)]
        force: bool,
    },
    /// Cover the directories and accept a session from the peer.
    BecomeSecondary,
    /// Primary: open a session with the secondary, and bring its copy to this node's state if they are not known
    /// to be equal. Answered when the pair is in sync, however long that takes, or with the refusal.
    Connect {
        /// Whatever the secondary holds may be overwritten, also what this node does not know.
        #[serde(default)]
        overwrite: bool,
    },
    /// Primary: how the copy goes on that `connect` began.
    Copy(CopyCommand),
    /// Primary: compare both copies completely while the pair is in sync.
    Verify(VerifyCommand),
    /// What was put aside on this node before it was overwritten.
    Archives(ArchivesCommand),
    /// Primary: write down durably that the peer lacks data, then answer the waiting writes without it.
    GoAlone,
    /// Leave the role: unmount or end the session cleanly, cover the directories.
    Demote,
    /// Uncover the directories of a stopped module for maintenance; the copy is marked "verify" durably first.
    Unlock,
    /// Where things stand.
    Status,
    /// Send events from now on.
    Subscribe,
    /// Demote, uncover nothing, end the process.
    Stop {
        /// Do not wait for writes that cannot be answered: abort the mount and say what was lost.
        #[serde(default)]
        abort: bool,
    },
}

/// What a copy is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum CopyCommand {
    /// Bring nothing more over until `resume`. What the secondary has already stays up to date.
    Pause,
    /// Go on.
    Resume,
    /// From now on, for this copy and later ones.
    Limit {
        /// Most bytes of files per second; none: as many as there can be.
        bytes_per_second: Option<u64>,
    },
    /// From now on, as fast as can be, whatever it costs the application.
    Hurry,
    /// From now on, so that operations of the application hardly take longer. This is how copies begin.
    Yield,
}

/// What becomes of archives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ArchivesCommand {
    /// Which there are.
    List,
    /// Remove one; refused when there is none of this name.
    Remove {
        /// As listed.
        name: String,
    },
}

/// What a verification is told. What copies are told of their pace holds for it as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum VerifyCommand {
    /// Begin one. Refused while one goes on.
    Start {
        /// Bring what differs to the primary's state.
        #[serde(default)]
        repair: bool,
    },
    /// Answered, with the report, once none goes on; refused when none ever began.
    Wait,
    /// End the one that goes on; answered once it has.
    Stop,
    /// How far it is, or how the last one ended, and what it found.
    Status,
}

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// The answer to the request of this id.
    Response {
        /// The request's.
        id: u64,
        /// What came of it.
        result: Result<Reply, Refusal>,
    },
    /// Something happened.
    Event(Event),
}

/// A command that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done; nothing to tell.
    Done,
    /// The answer to [`Command::Status`].
    Status(Box<Status>),
    /// The answer to [`VerifyCommand::Wait`] and [`VerifyCommand::Status`].
    Verification(Box<Report>),
    /// The answer to [`ArchivesCommand::List`].
    Archives(Vec<Archive>),
}

/// A command that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// What was attempted, on what, why it cannot be, and what to do next.
    pub message: String,
}

/// Why a command was refused, for a program that acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// Not a frame, not JSON, or an unknown command.
    BadRequest,
    /// Not possible in the present role.
    WrongRole,
    /// Processes hold files in the directory open.
    Holders,
    /// The copy may be old or mixed.
    NotUpToDate,
    /// A copy would overwrite what the secondary holds and nobody said may be lost.
    WouldOverwrite,
    /// The peer could not be reached.
    PeerUnreachable,
    /// The peer was reached and refused, or was refused.
    PeerRefused,
    /// The mount is busy.
    Busy,
    /// An error of this node's system.
    System,
}
