//! Why a primary counts its secondary as lost.

use std::fmt;

/// The reason, for a person and for the program that decides what happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Which rule.
    pub kind: LossKind,
    /// What was seen, on what.
    pub detail: String,
}

/// The rules by which a secondary is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossKind {
    /// The connection is up and nothing moves for `peer_stall` (`local_stall` for a sync).
    Stalled,
    /// There has been no connection for `peer_stall`.
    Unreachable,
    /// It could not apply an operation, or broke the rules of the session.
    Failed,
    /// It has no room where the primary has.
    NoSpace,
    /// It refused what the primary would not, or lacks an entry that the primary has.
    Differs,
    /// It left, ended the session or knows it no more.
    Left,
    /// It accepted what the primary has no room for, and could not be led back in time.
    Unrepaired,
    /// An operation is about an inode whose name nobody has looked up, so it cannot be shipped.
    Unnamed,
    /// A person or the brain told the primary to go on alone.
    Told,
}

impl LossKind {
    /// One word for events, logs and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            LossKind::Stalled => "stalled",
            LossKind::Unreachable => "unreachable",
            LossKind::Failed => "failed",
            LossKind::NoSpace => "no-space",
            LossKind::Differs => "differs",
            LossKind::Left => "left",
            LossKind::Unrepaired => "unrepaired",
            LossKind::Unnamed => "unnamed",
            LossKind::Told => "told",
        }
    }

    /// True when the session may go on if the secondary is heard again: nothing says that the copies differ.
    pub fn may_resume(self) -> bool {
        match self {
            LossKind::Stalled | LossKind::Unreachable => true,
            LossKind::Failed
            | LossKind::NoSpace
            | LossKind::Differs
            | LossKind::Left
            | LossKind::Unrepaired
            | LossKind::Unnamed
            | LossKind::Told => false,
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.detail)
    }
}
