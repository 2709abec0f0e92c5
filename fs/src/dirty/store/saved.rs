//! The durable map as one value: what its records say together. No I/O.

use super::records::{BadValue, RANGES_MAX, REGION_BYTES, SavedRecord};
use crate::dirty::extents::Extents;
use crate::dirty::marks::{Content, Marks, NodeMarks, Place};
use crate::dirty::{Plan, Record};
use crate::hash::{HashMap, HashSet};
use crate::operation::{FileHandle, InodeId, Name};
use crate::record::split_brain::Change;
use crate::wire::message::Generation;
use std::collections::BTreeSet;
use std::num::NonZeroU64;

/// Largest offset in a file (`loff_t`).
const OFFSET_MAX: u64 = i64::MAX as u64;

/// A map as it is on disk. It counts only for a copy that is on its generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The line of writes that it belongs to.
    pub generation: Generation,
    /// Names of the peer may have been moved by a copy: no [`SavedNode::place`] counts any more.
    pub names_moved: bool,
    /// The last checkpoint that the peer is known to have.
    pub peer_checkpoint: u64,
    /// Anything may differ.
    pub everything: bool,
    /// Something was changed without the peer.
    pub changed: bool,
    /// New names may be marked by their directory alone.
    pub coarse: bool,
    /// What may differ of which inode. Boxed, as half of a table's places are empty and a node is large.
    pub nodes: HashMap<InodeId, Box<SavedNode>>,
    /// Names that may lead to something else on the peer, by directory.
    pub names: HashMap<InodeId, BTreeSet<Name>>,
    /// Directories whose listing is to be compared by name.
    pub additions: BTreeSet<InodeId>,
}

/// What may differ of one inode, and what finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedNode {
    /// Its replicated directory, counted from 0.
    pub root: u32,
    /// This node's handle.
    pub handle: FileHandle,
    /// The peer's handle, where it is known.
    pub peer_handle: Option<FileHandle>,
    /// Where the peer had it for certain at the parting.
    pub place: Option<Place>,
    /// Which of its content may differ.
    pub content: Content,
    /// Owner, mode, times or extended attributes may differ.
    pub attributes: bool,
}

/// The unit of the extents on disk and in memory, in bytes: powers of two.
#[derive(Clone, Copy, Debug)]
pub struct Units {
    /// On disk.
    pub stored: u64,
    /// In memory.
    pub used: u64,
}

impl Saved {
    /// A map in which nothing differs.
    pub fn new(generation: Generation) -> Self {
        Saved {
            generation,
            names_moved: false,
            peer_checkpoint: 0,
            everything: false,
            changed: false,
            coarse: false,
            nodes: HashMap::default(),
            names: HashMap::default(),
            additions: BTreeSet::new(),
        }
    }

    /// What `plan` says, to be kept under `generation`. `find` tells where an inode lies and this node's handle of it,
    /// `peer` the peer's handle. What `find` does not know has gone, so that it has no name either, and the name that it
    /// had is marked.
    pub fn of(
        generation: Generation,
        plan: &Plan,
        find: &dyn Fn(InodeId) -> Option<(usize, FileHandle)>,
        peer: &dyn Fn(InodeId) -> Option<FileHandle>,
    ) -> Self {
        let mut nodes = HashMap::with_capacity_and_hasher(plan.nodes.len(), Default::default());
        for (inode, marks) in &plan.nodes {
            let Some((root, handle)) = find(*inode) else {
                continue;
            };
            let node = SavedNode {
                root: root as u32,
                handle,
                peer_handle: peer(*inode),
                place: marks.place.clone(),
                content: marks.content.clone(),
                attributes: marks.attributes,
            };
            nodes.insert(*inode, Box::new(node));
        }
        Saved {
            everything: plan.everything,
            changed: plan.changed,
            coarse: plan.coarse,
            nodes,
            names: plan.names.clone(),
            additions: plan.additions.clone(),
            ..Saved::new(generation)
        }
    }

    /// How much was changed without the peer, as far as it is marked. `size_of` is asked for what is marked as a whole.
    pub fn amount(&self, extent_bytes: NonZeroU64, size_of: impl Fn(&SavedNode) -> u64) -> Change {
        if self.everything {
            return Change::UNKNOWN;
        }
        if !self.changed {
            return Change::NOTHING;
        }
        let bytes = self.nodes.values().map(|node| match &node.content {
            Content::Extents(extents) => extents.bytes(extent_bytes),
            Content::Whole | Content::Fresh => size_of(node),
        });
        Change {
            // What is changed may be gone.
            inodes: Some((self.nodes.len() as u64).max(1)),
            bytes: (!self.coarse).then(|| bytes.fold(0, u64::saturating_add)),
        }
    }

    /// This map as another process goes on with it: its marks, and the peer's handles, under the numbers that `number`
    /// gives. It is asked once for each inode.
    pub fn adopt(
        mut self,
        mut number: impl FnMut(InodeId, &SavedNode) -> InodeId,
    ) -> (Marks, HashMap<InodeId, FileHandle>) {
        let known: HashSet<InodeId> = self.nodes.keys().copied().collect();
        for node in self.nodes.values_mut() {
            node.place = node.place.take().filter(|place| known.contains(&place.parent));
        }
        // What lies in a directory that is gone is gone.
        self.names.retain(|directory, _| known.contains(directory));
        self.additions.retain(|directory| known.contains(directory));
        let (mut numbers, mut peers): (HashMap<_, _>, HashMap<_, _>) = Default::default();
        for (old, node) in &self.nodes {
            let new = number(*old, node);
            numbers.insert(*old, new);
            if let Some(handle) = &node.peer_handle {
                peers.insert(new, handle.clone());
            }
        }
        let renumbered = self.renumber(|old| numbers.get(&old).copied().unwrap_or(old));
        (renumbered.into_marks(), peers)
    }

    /// Enters what `record` says. Regions become the extents in them.
    ///
    /// # Errors
    /// [`BadValue`] when it speaks of an inode that no record introduced, or of extents that no file has.
    pub fn fold(&mut self, record: SavedRecord, units: Units) -> Result<(), BadValue> {
        match record {
            SavedRecord::Node {
                inode,
                root,
                handle,
                peer_handle,
                place,
            } => {
                let found = self.nodes.entry(inode).or_insert_with(|| {
                    Box::new(SavedNode {
                        root,
                        handle,
                        peer_handle: None,
                        place: None,
                        content: Content::Extents(Extents::default()),
                        attributes: false,
                    })
                });
                // A later one may know what the first did not.
                found.place = found.place.take().or(place);
                found.peer_handle = found.peer_handle.take().or(peer_handle);
            }
            SavedRecord::Region { inode, index } => {
                let per_region = REGION_BYTES / units.used;
                self.node(inode)?
                    .mark(index * per_region, (index + 1) * per_region);
            }
            SavedRecord::FromRegion { inode, index } => {
                self.node(inode)?
                    .mark(index * (REGION_BYTES / units.used), u64::MAX);
            }
            SavedRecord::Attributes { inode } => self.node(inode)?.attributes = true,
            SavedRecord::Changed => self.changed = true,
            SavedRecord::Additions { directory } => {
                self.additions.insert(directory);
            }
            SavedRecord::Name { directory, name } => {
                self.names.entry(directory).or_default().insert(name);
            }
            SavedRecord::Extents { inode, ranges } => {
                let node = self.node(inode)?;
                for (start, end) in ranges {
                    let (start, end) = units.convert(inode, start, end)?;
                    node.mark(start, end);
                }
            }
            SavedRecord::Whole { inode } => {
                let node = self.node(inode)?;
                if node.content != Content::Fresh {
                    node.content = Content::Whole;
                }
            }
            SavedRecord::Fresh { inode } => self.node(inode)?.content = Content::Fresh,
            SavedRecord::PeerHandle { inode, handle } => {
                if let Some(node) = self.nodes.get_mut(&inode) {
                    node.peer_handle = Some(handle);
                }
            }
        }
        Ok(())
    }

    /// Gives `each` the records that say the same as this map, one after another.
    ///
    /// # Errors
    /// The first of `each`.
    pub fn records<E>(&self, mut each: impl FnMut(&SavedRecord) -> Result<(), E>) -> Result<(), E> {
        if self.changed {
            each(&SavedRecord::Changed)?;
        }
        for (inode, node) in &self.nodes {
            let inode = *inode;
            each(&SavedRecord::Node {
                inode,
                root: node.root,
                handle: node.handle.clone(),
                peer_handle: node.peer_handle.clone(),
                place: node.place.clone(),
            })?;
            if node.attributes {
                each(&SavedRecord::Attributes { inode })?;
            }
            match &node.content {
                Content::Extents(extents) => {
                    let mut rest = extents.iter().map(|range| (range.start, range.end)).peekable();
                    while rest.peek().is_some() {
                        let ranges = rest.by_ref().take(RANGES_MAX).collect();
                        each(&SavedRecord::Extents { inode, ranges })?;
                    }
                }
                Content::Whole => each(&SavedRecord::Whole { inode })?,
                Content::Fresh => each(&SavedRecord::Fresh { inode })?,
            }
        }
        for directory in &self.additions {
            each(&SavedRecord::Additions {
                directory: *directory,
            })?;
        }
        for (directory, names) in &self.names {
            for name in names {
                each(&SavedRecord::Name {
                    directory: *directory,
                    name: name.clone(),
                })?;
            }
        }
        Ok(())
    }

    /// This map with other names for its inodes: those of the process that has read it. `rename` gives two inodes
    /// two names.
    pub fn renumber(self, mut rename: impl FnMut(InodeId) -> InodeId) -> Saved {
        let mut nodes = HashMap::with_capacity_and_hasher(self.nodes.len(), Default::default());
        for (inode, mut node) in self.nodes {
            if let Some(place) = &mut node.place {
                place.parent = rename(place.parent);
            }
            nodes.insert(rename(inode), node);
        }
        Saved {
            nodes,
            names: self
                .names
                .into_iter()
                .map(|(at, names)| (rename(at), names))
                .collect(),
            additions: self.additions.into_iter().map(rename).collect(),
            ..self
        }
    }

    /// As it is kept in memory.
    pub fn into_marks(self) -> Marks {
        let nodes = self.nodes.into_iter().map(|(inode, node)| {
            let marks = NodeMarks {
                content: node.content,
                attributes: node.attributes,
                place: node.place,
            };
            (inode, marks)
        });
        Marks {
            nodes: nodes.collect(),
            names: self.names,
            additions: self.additions,
            everything: self.everything,
            changed: self.changed,
            coarse: self.coarse,
        }
    }

    fn node(&mut self, inode: InodeId) -> Result<&mut SavedNode, BadValue> {
        match self.nodes.get_mut(&inode) {
            Some(node) => Ok(node),
            None => Err(BadValue::NotIntroduced(inode)),
        }
    }
}

impl SavedRecord {
    /// One mark as it goes to disk, with `find` and `peer` as in [`Saved::of`]; none of an inode that is gone.
    pub fn of(
        record: Record,
        find: &dyn Fn(InodeId) -> Option<(usize, FileHandle)>,
        peer: &dyn Fn(InodeId) -> Option<FileHandle>,
    ) -> Option<Self> {
        Some(match record {
            Record::Node { inode, place } => {
                let (root, handle) = find(inode)?;
                SavedRecord::Node {
                    inode,
                    root: root as u32,
                    handle,
                    peer_handle: peer(inode),
                    place,
                }
            }
            Record::Attributes { inode } => SavedRecord::Attributes { inode },
            Record::Region { inode, index } => SavedRecord::Region { inode, index },
            Record::FromRegion { inode, index } => SavedRecord::FromRegion { inode, index },
            Record::Additions { directory } => SavedRecord::Additions { directory },
            Record::Name { directory, name } => SavedRecord::Name { directory, name },
            Record::Changed => SavedRecord::Changed,
        })
    }
}

impl SavedNode {
    /// Extents `[start, end)` may differ.
    fn mark(&mut self, start: u64, end: u64) {
        match &mut self.content {
            Content::Extents(extents) => {
                extents.insert(start..end);
            }
            Content::Whole | Content::Fresh => {}
        }
    }
}

impl Units {
    /// The extents in memory that hold those from `start` to `end` on disk.
    fn convert(self, inode: InodeId, start: u64, end: u64) -> Result<(u64, u64), BadValue> {
        let bytes = |extent: u64| {
            extent
                .checked_mul(self.stored)
                .filter(|offset| *offset <= OFFSET_MAX + 1)
                .ok_or(BadValue::Range {
                    inode,
                    what: "no file has such an extent",
                })
        };
        let end = match end {
            u64::MAX => u64::MAX,
            end => bytes(end)?.div_ceil(self.used),
        };
        Ok((bytes(start)? / self.used, end))
    }
}
