//! What differs, without order or time.

use super::extents::{Extents, TO_THE_END};
use crate::hash::HashMap;
use crate::operation::{InodeId, Name, Operation};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::ops::Range;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub parent: InodeId,
    /// The name.
    pub name: Name,
}

/// What of an inode's content may differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// These extents of a file.
    Extents(Extents),
    /// Anything: all of a file is compared; of a directory the whole listing, and everything below.
    Whole,
    /// Everything, since the peer never had it: nothing in it is marked any further.
    Fresh,
}

impl Default for Content {
    fn default() -> Self {
        Content::Extents(Extents::default())
    }
}

/// What may differ of one inode. That there is an entry at all says that it must be found again on the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMarks {
    /// Its data, or what it lists.
    pub content: Content,
    /// Mode, owner, times, extended attributes: all of them.
    pub attributes: bool,
    /// Where the peer has it for certain.
    pub place: Option<Place>,
}

/// A set of marks.
///
/// Data and attributes are marked at the inode, never at a name. A marked name may lead to something else on the peer, or
/// to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// By inode.
    pub nodes: HashMap<InodeId, NodeMarks>,
    /// By directory.
    pub names: HashMap<InodeId, BTreeSet<Name>>,
    /// Directories in which any name that only one side has may be new.
    pub additions: BTreeSet<InodeId>,
    /// Everything may differ.
    pub everything: bool,
    /// Something was changed without the peer: false only where that is certain not to be so.
    pub changed: bool,
    /// What is new in [`Marks::additions`] may be marked by that alone: how much it is is not known.
    pub coarse: bool,
}

impl Marks {
    /// True when nothing differs.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.names.is_empty() && self.additions.is_empty() && !self.everything
    }

    /// True when the name is marked.
    pub fn has_name(&self, directory: InodeId, name: &Name) -> bool {
        self.names
            .get(&directory)
            .is_some_and(|names| names.contains(name))
    }

    /// Marks a name. False when it was.
    pub fn mark_name(&mut self, directory: InodeId, name: &Name) -> bool {
        let names = self.names.entry(directory).or_default();
        // Asked first: most names of a busy directory are marked already, and to insert takes a copy.
        !names.contains(name) && names.insert(name.clone())
    }

    /// Adds all marks of the other set. Where both have a place, this one's stays.
    pub fn unite(&mut self, other: Marks) {
        self.everything |= other.everything;
        self.changed |= other.changed;
        self.coarse |= other.coarse;
        self.additions.extend(other.additions);
        for (directory, names) in other.names {
            self.names.entry(directory).or_default().extend(names);
        }
        for (inode, theirs) in other.nodes {
            let ours = self.nodes.entry(inode).or_default();
            ours.attributes |= theirs.attributes;
            ours.place = ours.place.take().or(theirs.place);
            match (&mut ours.content, theirs.content) {
                (Content::Extents(ours), Content::Extents(theirs)) => ours.unite(&theirs),
                (Content::Fresh, _) | (_, Content::Extents(_)) => {}
                (content, theirs @ (Content::Whole | Content::Fresh)) => *content = theirs,
            }
        }
    }

    /// The inode has no name any more: nothing of it can be brought over.
    pub fn forget(&mut self, inode: InodeId) {
        self.nodes.remove(&inode);
        self.names.remove(&inode);
        self.additions.remove(&inode);
    }
}

/// The extents of data that an operation may change, by file; with none for an inode whose attributes alone it changes.
/// Names and the attributes of the directories that hold them are left out.
pub fn changed_extents(operation: &Operation, extent_bytes: NonZeroU64) -> Option<(InodeId, Range<u64>)> {
    Some(match operation {
        Operation::Write {
            inode, offset, data, ..
        } => (
            *inode,
            Extents::of_bytes(*offset, data.len() as u64, extent_bytes),
        ),
        Operation::Fallocate {
            inode,
            offset,
            length,
            ..
        } => (*inode, Extents::of_bytes(*offset, *length, extent_bytes)),
        Operation::CopyRange {
            target,
            target_offset,
            length,
            ..
        } => (*target, Extents::of_bytes(*target_offset, *length, extent_bytes)),
        // The size before is not told: it may cut, and what grows again behind the cut is a hole.
        Operation::SetAttributes { inode, attributes } => match attributes.size {
            Some(size) => (*inode, size / extent_bytes..TO_THE_END),
            None => (*inode, 0..0),
        },
        Operation::SetXattr { inode, .. } | Operation::RemoveXattr { inode, .. } => (*inode, 0..0),
        Operation::Bind { .. }
        | Operation::Create(_)
        | Operation::Link { .. }
        | Operation::Unlink(_)
        | Operation::Rename(_)
        | Operation::Sync { .. }
        | Operation::Checkpoint => return None,
    })
}
