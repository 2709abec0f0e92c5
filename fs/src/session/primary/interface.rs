//! What goes into a primary and what comes out.

use crate::config::OnPeerLoss;
use crate::dirty::{MarkSeq, Record};
use crate::exclude::Walk;
use crate::operation::{Applied, Errno, FileHandle, InodeId, Name, Operation, Outcome, Rename};
use crate::session::claims::{ClaimId, Scope};
use crate::session::coverage::Brought;
use crate::session::loss::Loss;
use crate::session::pending::{Slot, Ticket};
#[cfg(doc)]
use crate::session::primary::Primary;
use crate::wire::message::{Generation, Rejection, SessionId, ToPrimary, ToSecondary, Welcome};
use std::num::NonZeroU64;
use std::time::Duration;

/// What a primary is told by its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// As in `config::Config`.
    pub peer_stall: Duration,
    /// As in `config::Config`.
    pub local_stall: Duration,
    /// As in `config::Config`.
    pub on_peer_loss: OnPeerLoss,
    /// As in `config::Config`.
    pub checkpoint_interval: Duration,
    /// As in `config::Config`.
    pub extent_bytes: NonZeroU64,
    /// How many directories are replicated: their roots are known from the start.
    pub directories: usize,
}

/// What happens to a primary.
#[derive(Debug, Clone)]
pub enum Event {
    /// An application changes something. Answered by one [`Action::Reply`], or never, in [`Phase::Failed`].
    ///
    /// Without a session or a decision they wait here, as many as the kernel sends: one for each blocked thread
    /// and `max_background` for its own.
    Submit {
        /// For the reply.
        ticket: Ticket,
        /// What to do.
        operation: Operation,
    },
    /// A read of this node's disk for an application failed with an error of a broken disk
    /// ([`crate::session::primary::is_broken_disk`]). Answered by one [`Action::Reply`] with that error, or never, in
    /// [`Phase::Failed`].
    ReadFailed {
        /// For the reply.
        ticket: Ticket,
        /// The error.
        errno: Errno,
    },
    /// A connection is up and the secondary welcomed this session on it: the first one or, after
    /// [`Primary::resumable`], a further one. Frames of earlier connections must not be given in any more.
    Connected {
        /// The session in the `Hello`.
        session: SessionId,
        /// The answer.
        welcome: Welcome,
    },
    /// A connection is up on which the secondary, alone being whole is this node's copy, waits to be brought to the
    /// same state. Frames of earlier connections must not be given in any more.
    CopyBegun {
        /// The session in the `Hello`.
        session: SessionId,
        /// Only what the dirty map names is brought over: everything else is equal.
        tracked: bool,
    },
    /// The secondary told these handles of inodes, which it knows by their numbers from now on.
    Identified(Vec<(InodeId, FileHandle)>),
    /// All records up to this one, of those that [`Action::Mark`] gave, are on disk.
    Marked {
        /// The last of them.
        seq: MarkSeq,
    },
    /// Records cannot be written; that the dirty map is not complete is written down instead.
    Untracked {
        /// Why.
        reason: String,
    },
    /// Neither records nor that the map is not complete can be written: what was changed unnoted would be missed by the
    /// next copy, so nothing is answered any more.
    MarkFailed {
        /// Why.
        reason: String,
    },
    /// What [`Action::NoteCheckpoint`] asked for is on disk.
    CheckpointNoted,
    /// It cannot be written.
    CheckpointNotNoted,
    /// While copying: the names of this directory, which the target was told of, are about to be read on both sides.
    ListingBegun {
        /// Which.
        directory: InodeId,
    },
    /// All names that were read on either side were claimed and released.
    ListingEnded {
        /// Of this directory.
        directory: InodeId,
    },
    /// In sync: both copies are about to be compared. Until [`Event::VerifyEnded`] or [`Action::VerifyOver`] inodes can
    /// be pinned and claimed.
    VerifyBegun,
    /// The verification has ended; whatever it claimed is released.
    VerifyEnded,
    /// The secondary's copy differs from what this node has of what is claimed. These operations make it the same: the
    /// secondary applies them, this node does not. Answered by [`Action::Mended`], while the verification goes on.
    Mend {
        /// The claim that holds everything else back meanwhile; one repair at a time for each.
        claim: ClaimId,
        /// In this order. The inodes in them are claimed, or new.
        operations: Vec<Operation>,
    },
    /// While copying or verifying: hold back operations that touch this, and say [`Action::Granted`] once none is under way.
    Claim {
        /// Names it.
        claim: ClaimId,
        /// What.
        scope: Scope,
    },
    /// What was claimed is brought over or compared, or was left as it is.
    Release {
        /// Which.
        claim: ClaimId,
        /// What the target has now.
        brought: Brought,
    },
    /// The driver of the copy has nothing left to bring over. Answered by [`Action::NoteJoined`] or
    /// [`Action::CopyGoesOn`].
    CopyDone,
    /// The driver of the copy cannot go on.
    CopyBroken(Loss),
    /// The note that [`Action::NoteJoined`] asked for is on disk.
    JoinNoted {
        /// The generation in it.
        generation: Generation,
    },
    /// It cannot be written.
    JoinNoteFailed {
        /// Why.
        reason: String,
    },
    /// The secondary turned a `Hello` away that wanted to go on with the session.
    Rejected(Rejection),
    /// A frame of the present connection, other than the first.
    Received(ToPrimary),
    /// The present connection is gone.
    LinkLost,
    /// What [`Action::Apply`] handed out has ended.
    LocalDone {
        /// Its slot.
        slot: Slot,
        /// What came of it.
        outcome: Outcome,
    },
    /// The answer to [`Action::CheckRefusal`].
    Checked {
        /// Its slot.
        slot: Slot,
        /// What this node would refuse it with.
        refusal: Option<Errno>,
    },
    /// The answer to [`Action::ReadBack`].
    ReadBack {
        /// Its slot.
        slot: Slot,
        /// What leads the secondary to this node's state; none when nothing can.
        operations: Option<Vec<Operation>>,
    },
    /// The answer to [`Action::ReadIn`].
    ReadIn {
        /// Its slot.
        slot: Slot,
        /// A part of the file; or why it cannot be read.
        piece: Result<Piece, Errno>,
    },
    /// The answer to [`Action::Survey`].
    Surveyed {
        /// Every name below the directories is excluded afterwards if it is now, and only then.
        stays: bool,
    },
    /// [`Primary::deadline`] is reached.
    Tick,
    /// Go on without the secondary: a person's or the brain's decision. Without effect while in sync.
    GoAlone,
    /// The note that [`Action::NoteAlone`] asked for is on disk.
    Noted {
        /// The generation in it.
        generation: Generation,
    },
    /// It cannot be written.
    NoteFailed {
        /// Why.
        reason: String,
    },
    /// Nothing more will be submitted: end cleanly once everything is settled.
    End,
    /// What [`Action::NoteHandedOver`] asked for has ended.
    EndNoted,
}

/// What the driver of a primary must do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send this on the present connection; drop it when there is none. A `Bind`'s handle is empty
    /// ([`crate::session::names::unfilled_handle`]): the driver puts in the store's.
    Send(ToSecondary),
    /// Write these records of the dirty map down durably, after all earlier ones, then say [`Event::Marked`] or
    /// [`Event::Untracked`]. As many as have come may go in one transaction.
    Mark {
        /// To be given back; each is one more than the last.
        seq: MarkSeq,
        /// What to write.
        records: Vec<Record>,
    },
    /// What differs is not known any more; the next copy compares everything.
    TrackingLost {
        /// Why.
        reason: String,
    },
    /// Both nodes have checkpoints on disk. Count them in the record, then say [`Event::CheckpointNoted`] or
    /// [`Event::CheckpointNotNoted`].
    NoteCheckpoint {
        /// How many; more than one when others, of clean ends that did not come about, were not counted yet.
        more: u64,
    },
    /// Run this on a worker, then say [`Event::LocalDone`].
    Apply {
        /// To be given back.
        slot: Slot,
        /// What to run.
        operation: Operation,
    },
    /// Answer an application.
    Reply {
        /// As submitted.
        ticket: Ticket,
        /// The answer.
        result: Result<Applied, Errno>,
    },
    /// After the reply: what the kernel may have cached wrongly of an operation that failed. To be dropped by a
    /// thread that answers no request.
    Invalidate {
        /// Attributes and data.
        inodes: Vec<InodeId>,
        /// Names.
        entries: Vec<(InodeId, Name)>,
    },
    /// The secondary refused this: find out without changing anything whether this node would, then say
    /// [`Event::Checked`]. For `ENOSPC`, `EDQUOT` and `E2BIG` that means whether it has the room.
    CheckRefusal {
        /// To be given back.
        slot: Slot,
        /// What was refused.
        operation: Operation,
        /// With what.
        refused: Errno,
    },
    /// The secondary applied this and this node had no room (or copied, with success, from where it had none): read the true state here of what it changes, then say
    /// [`Event::ReadBack`] with the operations that make the secondary the same. Nothing else touches its inodes
    /// meanwhile. Name operations: [`crate::session::repair::undo_name_operation`].
    ReadBack {
        /// To be given back.
        slot: Slot,
        /// What has half happened.
        operation: Operation,
    },
    /// This brings an excluded file in: read it from that byte on, some MiB of it, then say [`Event::ReadIn`]. Nothing
    /// touches it meanwhile.
    ReadIn {
        /// To be given back.
        slot: Slot,
        /// What is about to be done. The secondary gets the file under the name that it has now.
        rename: Rename,
        /// 0 at first, later what the last piece gave as [`Piece::next`].
        from: u64,
    },
    /// Look these directories through on this node's disk, which no name operation changes meanwhile, then say
    /// [`Event::Surveyed`]. What takes too long to look through counts as not staying.
    Survey {
        /// Which; at most two.
        walks: Vec<Walk>,
    },
    /// These inodes are not needed any more. Until it is told, an inode keeps its number although the kernel has
    /// forgotten it: looked up again it must get the same.
    Forgotten(Vec<InodeId>),
    /// The first connection is made, or a copy is complete on both nodes: the pair is in sync.
    InSync,
    /// The connection is gone; the session may go on over another.
    ConnectionLost,
    /// The session goes on.
    Resumed {
        /// Operations sent again.
        resent: u64,
    },
    /// Close the present connection.
    Close {
        /// For the log.
        reason: String,
    },
    /// The secondary is lost; writes wait for a decision, unless [`Action::NoteAlone`] follows.
    PeerLost(Loss),
    /// Write down durably the dirty map ([`Primary::copy_plan`]), then a new generation and that the peer lacks data,
    /// then say [`Event::Noted`].
    NoteAlone(Loss),
    /// Writes are answered without the secondary from here on.
    WentAlone(Loss),
    /// The secondary has noted durably that its copy is outdated.
    PeerNoted,
    /// Not in sync until [`Action::Repaired`].
    Repairing,
    /// In sync again.
    Repaired,
    /// This node's disk fails. While in sync nothing is answered any more after it.
    DiskFailing {
        /// The operation and its error.
        reason: String,
    },
    /// A sync failed while alone: write down durably that what was written since the last checkpoint cannot be
    /// trusted. Nothing waits for it.
    NoteVerify {
        /// The operation and its error.
        reason: String,
    },
    /// Times of one operation, for the latency figures.
    Measured {
        /// From sending to the answer.
        round_trip: Duration,
        /// Of that, the secondary's own.
        peer: Duration,
    },
    /// A claim is granted.
    Granted {
        /// Which.
        claim: ClaimId,
        /// These inodes of it have no name any more: there is nothing to bring over.
        gone: Vec<InodeId>,
    },
    /// The verification cannot go on, or begin; nothing is held back for it any more.
    VerifyOver {
        /// Why.
        reason: String,
    },
    /// The secondary has answered everything of an [`Event::Mend`].
    Mended {
        /// As given.
        claim: ClaimId,
        /// Why the secondary still differs, if it does.
        result: Result<(), String>,
    },
    /// Something is left to bring over: [`Primary::copy_rest`] tells.
    CopyGoesOn,
    /// Everything is brought over. Write down durably a new generation and that the peer may be in sync, then say
    /// [`Event::JoinNoted`].
    NoteJoined,
    /// The copy is over before its end; this node goes on alone as before.
    CopyFailed(Loss),
    /// Everything is on disk on both nodes, for the clean end. Write down durably that the session has ended and that the
    /// next beginning is the secondary's, then say [`Event::EndNoted`], also when it cannot be written: then this node
    /// counts as one that crashed.
    NoteHandedOver {
        /// Checkpoints that both nodes have and the record does not count yet.
        checkpoints: u64,
    },
    /// The clean end asked for by [`Event::End`].
    Ended {
        /// The secondary's copy ended cleanly too, and both are equal.
        with_peer: bool,
        /// Checkpoints that both nodes have and the record does not count yet.
        checkpoints: u64,
    },
}

/// A part of a file that the secondary is to get.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// What gives it to the secondary: in the first piece the inode is created, in the last it gets its attributes.
    pub operations: Vec<Operation>,
    /// Where the next piece begins; none if this is the last.
    pub next: Option<u64>,
    /// How this node finds the file on its own disk.
    pub handle: FileHandle,
}

/// Where a primary stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// No connection was made yet; writes wait.
    NoSession,
    /// Every operation is answered only when both nodes hold it.
    InSync {
        /// Except that a repair is under way.
        repairing: bool,
    },
    /// The connection is gone, for less than `peer_stall`; writes wait.
    Disconnected,
    /// The secondary is lost; writes wait for a decision.
    Deciding(Loss),
    /// That the peer lacks data is being written down; writes wait.
    Parting(Loss),
    /// Without a secondary.
    Alone(Loss),
    /// Without one that counts, and bringing one to the same state. Why it is alone.
    Copying(Loss),
    /// Every operation is answered only when both nodes hold it; the secondary has not noted yet that its copy is
    /// complete.
    Joining,
    /// The disk fails; nothing is answered.
    Failed {
        /// The operation and its error.
        reason: String,
    },
    /// Cleanly ended.
    Ended,
}
