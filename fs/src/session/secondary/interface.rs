//! What goes into a secondary and what comes out.

use crate::operation::{FileHandle, InodeId, Number, Operation, Outcome};
use crate::wire::message::{Answer, Generation, Rejection, SessionId, Start, ToPrimary, ToSecondary};

/// Why a session is over on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// The primary ended it cleanly; this copy is complete.
    Clean,
    /// The primary goes on alone.
    Parted {
        /// The primary's new generation.
        generation: Generation,
        /// Why it does.
        reason: String,
    },
    /// This node was told to leave, or to become primary.
    Left {
        /// What it was told.
        reason: String,
    },
    /// Another process of the primary began anew.
    Replaced,
    /// The primary broke the rules of the session.
    Broken {
        /// Which rule, in which message.
        reason: String,
    },
    /// A note could not be written.
    NoteFailed {
        /// Which, and why.
        reason: String,
    },
}

/// What happens to a secondary.
#[derive(Debug, Clone)]
pub enum Event {
    /// A connection's first frame, checked by the driver: versions, names, configuration and, for a fresh start,
    /// that the copies are equal. It is answered by [`Action::Welcome`] or [`Action::Refuse`]; frames of an
    /// earlier connection must not be given any more once it is.
    Hello {
        /// The session it wants.
        session: SessionId,
        /// Begin or go on.
        start: Start,
    },
    /// A frame of the present connection.
    Received(ToSecondary),
    /// The present connection is gone.
    LinkLost,
    /// An operation handed out by [`Action::Apply`] has ended.
    Done {
        /// Which.
        number: Number,
        /// What came of it.
        outcome: Outcome,
    },
    /// The driver has nothing more to hand in for now: what is answered since goes out in one message.
    Flush,
    /// A request that [`super::Secondary::begin_request`] counted in has ended.
    RequestDone,
    /// The last `Note...` action is on disk.
    Noted,
    /// The last `Note...` action failed.
    NoteFailed {
        /// What was attempted and why it failed.
        reason: String,
    },
    /// This node leaves the session, to become primary or to stop.
    Leave {
        /// For the primary's log.
        reason: String,
    },
}

/// What the driver of a secondary must do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write down durably that a session is open, then say [`Event::Noted`].
    NoteOpen,
    /// Write down durably that this copy is mixed from now on, then say [`Event::Noted`]. Nothing is bound in the
    /// new session but the roots.
    NoteInconsistent,
    /// The copy is complete: `syncfs` everything, write down durably that it is up-to-date on this generation, then
    /// say [`Event::Noted`].
    NoteComplete {
        /// The primary's as well.
        generation: Generation,
    },
    /// Answer the `Hello`: these fields, and what the driver knows of its node and directories.
    Welcome {
        /// As in the message.
        prefix: Number,
        /// As in the message.
        answers: Vec<Answer>,
        /// As in the message.
        received: Vec<Number>,
    },
    /// Answer the `Hello` with this and close its connection. The former connection, if any, stays as it is.
    Refuse(Rejection),
    /// Send this on the present connection. The driver puts the free space into a `Pong`.
    Send(ToPrimary),
    /// Remember these handles of the primary's inodes.
    Introduced(Vec<(InodeId, FileHandle)>),
    /// Run this on a worker, then say [`Event::Done`].
    Apply {
        /// Its number, to be given back.
        number: Number,
        /// What to run.
        operation: Operation,
    },
    /// Drop what is kept of these inodes.
    Forget(Vec<InodeId>),
    /// `syncfs` everything, write down durably that this copy ended cleanly, then say [`Event::Noted`].
    NoteClean,
    /// Write down durably that the primary goes on under this generation without this copy, then say
    /// [`Event::Noted`].
    NoteOutdated {
        /// The primary's.
        generation: Generation,
        /// Why, for the log.
        reason: String,
    },
    /// Close the present connection, once what was sent is out.
    Close {
        /// For the log and the peer.
        reason: String,
    },
    /// The session is over and none of its operations is in the kernel any more.
    SessionOver(Over),
}

/// Where a secondary stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waits for a primary.
    Idle,
    /// A session begins.
    Opening,
    /// A session is going on.
    Serving {
        /// A connection is up.
        linked: bool,
        /// This copy is mixed, and being brought to the primary's state.
        copying: bool,
    },
    /// What is in the kernel ends.
    Draining,
    /// The clean end is being written down.
    Closing,
    /// The last session ended cleanly.
    Ended,
}
