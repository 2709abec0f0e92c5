//! What differs of an inode.

use super::extents::Extents;
use crate::operation::{InodeId, Name};
use serde::{Deserialize, Serialize};

/// Where an inode is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub parent: InodeId,
    /// The name in it.
    pub name: Name,
}

/// Which of an inode's content may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These extents; of a directory, none.
    Extents(Extents),
    /// All of it.
    Whole,
    /// The peer never had it.
    Fresh,
}
