//! What a verification is told of the other copy: the nodes behind names, and sums of their data.
//!
//! Nothing in it changes anything. Nodes are found by the handles of the node that is asked, as it told them itself,
//! so that a comparison gives no numbers to what it only looks at.

use super::bulk::{Sum, XATTRS_MAX};
use super::frame::WireError;
use super::limits;
use crate::operation::{FileHandle, NodeKind, Timestamp, XattrName};
use serde::{Deserialize, Serialize};

/// A node of the copy that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Spot {
    /// Index of the replicated directory.
    pub root: u32,
    /// As that copy told it; none for the replicated directory itself.
    pub handle: Option<FileHandle>,
}

/// What is behind a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sight {
    /// Nothing has this name.
    Vacant,
    /// Something else is mounted there, which is no part of the copy.
    Mount,
    /// A node.
    Node(Box<Seen>),
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Finds it again, on the copy that told it.
    pub handle: FileHandle,
    /// Everything about it but its names and its data.
    pub facts: Facts,
}

/// What two copies of a node must have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What it is.
    pub kind: NodeKind,
    /// How many names it has; 0 for a directory, where that is its file system's own affair.
    pub links: u64,
    /// Of a regular file.
    pub size: Option<u64>,
    /// `st_mode & 07777`; 0 for a symbolic link, which has none.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the data.
    pub mtime: Timestamp,
    /// All extended attributes, ACLs included, but Sidekick's own; by name, with the sums of their values.
    pub xattrs: Vec<(XattrName, Sum)>,
}

pub(super) fn check_spot(spot: &Spot) -> Result<(), WireError> {
    spot.handle.as_ref().map_or(Ok(()), limits::check_handle)
}

pub(super) fn check_sight(sight: &Sight) -> Result<(), WireError> {
    match sight {
        Sight::Vacant | Sight::Mount => Ok(()),
        Sight::Node(seen) => {
            let facts = &seen.facts;
            limits::check_handle(&seen.handle)?;
            limits::check_kind(&facts.kind)?;
            limits::check_range("size", facts.size.unwrap_or(0), 0)?;
            limits::check_mode(facts.mode)?;
            limits::check_time(facts.mtime)?;
            limits::at_most("xattrs", facts.xattrs.len(), XATTRS_MAX)
        }
    }
}
