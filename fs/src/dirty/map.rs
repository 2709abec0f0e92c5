//! [`DirtyMap`]: enters operations, drops what checkpoints cover, and tells what must be on disk before an operation may
//! be applied alone.
//!
//! **In sync.** Marks go into an *epoch*. A checkpoint ends the epoch at its place in the order
//! ([`DirtyMap::seal`]); once both nodes have it on disk, the epoch goes ([`DirtyMap::covered`]). So a mark goes only when
//! both checkpoints cover it, and no mark needs a number. A place is worth nothing meanwhile for an inode that moves: the
//! peer may have moved it or not. At the parting ([`DirtyMap::part`]) all epochs together are what the peer may lack.
//!
//! **Alone.** The peer stands still, so the place that an inode has when it is first touched is the peer's. The map must be
//! on disk before a change is ([`DirtyMap::track`]). Written one by one, records would cost a flush for each change;
//! therefore what is on disk is coarser than what is in memory: 16 MiB of a file at once ([`Record::Region`]), and for
//! new names the directory alone ([`Record::Additions`]): after a crash, names that one side only has are what was added.
//! Only where a name that the peer has gets another meaning, that name itself is written.
//!
//! Once a copy has begun ([`DirtyMap::write_names`]) that is not enough: a name that both sides have may have been brought
//! over by it a moment ago, with nothing in it yet. From then on every name is written.

use super::extents::{Extents, TO_THE_END};
use super::marks::{Content, Marks, NodeMarks, Place, changed_extents};
use super::store::REGION_BYTES;
use crate::hash::HashMap;
use crate::operation::{InodeId, Name, Operation, RenameMode, Victim};
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::ops::Range;

/// An epoch that was ended by a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EpochId(u64);

/// The place of records in the order in which they go to disk. 0 is on disk from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MarkSeq(pub u64);

/// What is brought over by the next copy.
pub type Plan = Marks;

/// One mark as it goes to disk while alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An inode is marked; it comes before the others of this inode, and again when its place becomes known.
    Node {
        /// Which.
        inode: InodeId,
        /// Where the peer has it.
        place: Option<Place>,
    },
    /// Its attributes.
    Attributes {
        /// Which.
        inode: InodeId,
    },
    /// Data in this region of [`REGION_BYTES`].
    Region {
        /// The file.
        inode: InodeId,
        /// Counted from 0.
        index: u64,
    },
    /// Data from this region on.
    FromRegion {
        /// The file.
        inode: InodeId,
        /// Counted from 0.
        index: u64,
    },
    /// Names that one side only has are new.
    Additions {
        /// The directory.
        directory: InodeId,
    },
    /// Something is changed without the peer, for the first time since the two parted.
    Changed,
    /// A name that the peer has.
    Name {
        /// The directory.
        directory: InodeId,
        /// The name.
        name: Name,
    },
}

/// What an operation needs before it may be applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// Of `records`, if there are any.
    pub seq: MarkSeq,
    /// To be written.
    pub records: Vec<Record>,
    /// It must wait until everything up to this one is on disk.
    pub wait: Option<MarkSeq>,
}

/// See the module.
#[derive(Debug)]
pub struct DirtyMap {
    extent_bytes: NonZeroU64,
    /// What the peer lacks.
    unsent: Marks,
    sealed: VecDeque<(EpochId, Marks)>,
    current: Marks,
    last_epoch: EpochId,
    written: Written,
    /// A copy has begun: names that one side only has are not all that is new.
    writes_names: bool,
    last_seq: MarkSeq,
    durable: MarkSeq,
}

/// Which of `unsent` is on disk, or on its way there.
#[derive(Debug, Default)]
struct Written {
    nodes: HashMap<InodeId, NodeWritten>,
    /// By directory. What is not in here was there from the start.
    names: HashMap<InodeId, HashMap<Name, MarkSeq>>,
    additions: HashMap<InodeId, MarkSeq>,
    changed: Option<MarkSeq>,
}

#[derive(Debug, Default)]
struct NodeWritten {
    node: MarkSeq,
    attributes: Option<MarkSeq>,
    regions: HashMap<u64, MarkSeq>,
    from_region: Option<(u64, MarkSeq)>,
    /// On disk from the start, exactly.
    exact: Extents,
}

/// Collects what one operation needs.
struct Need {
    next: MarkSeq,
    durable: MarkSeq,
    records: Vec<Record>,
    wait: MarkSeq,
}

impl Need {
    fn write(&mut self, record: Record) -> MarkSeq {
        self.records.push(record);
        self.wait = self.next;
        self.next
    }

    fn wait_for(&mut self, seq: MarkSeq) {
        self.wait = self.wait.max(seq);
    }

    fn finish(self) -> Tracked {
        Tracked {
            seq: self.next,
            records: self.records,
            wait: Some(self.wait).filter(|wait| *wait > self.durable),
        }
    }
}

impl DirtyMap {
    /// Nothing differs.
    pub fn new(extent_bytes: NonZeroU64) -> Self {
        DirtyMap {
            extent_bytes,
            unsent: Marks::default(),
            sealed: VecDeque::new(),
            current: Marks::default(),
            last_epoch: EpochId(0),
            written: Written::default(),
            writes_names: false,
            last_seq: MarkSeq(0),
            durable: MarkSeq(0),
        }
    }

    /// What a map on disk said differs.
    pub fn restore(marks: Marks, extent_bytes: NonZeroU64) -> Self {
        let mut map = DirtyMap {
            unsent: marks,
            ..DirtyMap::new(extent_bytes)
        };
        map.all_is_written();
        map
    }

    /// What differs for certain or perhaps, as far as it is not marked by a session that goes on.
    pub fn plan(&self) -> &Plan {
        &self.unsent
    }

    /// Everything may differ.
    pub fn is_everything(&self) -> bool {
        self.unsent.everything
    }

    /// No mark at all.
    pub fn is_empty(&self) -> bool {
        self.unsent.is_empty() && self.current.is_empty() && self.sealed.is_empty()
    }

    /// How many inodes are marked, and how many bytes of files at most; what is marked as a whole counts as none.
    pub fn size(&self) -> (u64, u64) {
        let bytes = |marks: &NodeMarks| match &marks.content {
            Content::Extents(extents) => extents.bytes(self.extent_bytes),
            Content::Whole | Content::Fresh => 0,
        };
        let total = self.unsent.nodes.values().map(bytes);
        (self.unsent.nodes.len() as u64, total.fold(0, u64::saturating_add))
    }

    /// True when any mark is about the inode.
    pub fn is_marked(&self, inode: InodeId) -> bool {
        let epochs = self.sealed.iter().map(|(_, marks)| marks);
        epochs
            .chain([&self.current, &self.unsent])
            .any(|marks| marks.nodes.contains_key(&inode) || marks.names.contains_key(&inode))
    }

    /// Nobody knows this number any more: it has no name, nor does anybody have it open. Not before: a removal that is
    /// refused leaves the inode as it was, and what is not fresh any more would be found again on the peer, where a copy
    /// may have made it, and taken for equal.
    pub fn dropped(&mut self, inode: InodeId) {
        if self.is_fresh(inode) {
            self.unsent.forget(inode);
        }
    }

    /// True for an inode that was made while alone.
    pub fn is_fresh(&self, inode: InodeId) -> bool {
        self.unsent
            .nodes
            .get(&inode)
            .is_some_and(|marks| marks.content == Content::Fresh)
    }

    /// An operation is shipped, or received, in sync.
    pub fn apply(&mut self, operation: &Operation) {
        let marks = &mut self.current;
        match operation {
            Operation::Create(create) => {
                marks.mark_name(create.parent, &create.name);
                attributes(marks, create.parent);
                marks.nodes.entry(create.inode).or_default().content = Content::Whole;
            }
            Operation::Link {
                inode, parent, name, ..
            } => {
                marks.mark_name(*parent, name);
                attributes(marks, *parent);
                marks.nodes.entry(*inode).or_default();
            }
            Operation::Unlink(unlink) => {
                marks.mark_name(unlink.parent, &unlink.name);
                attributes(marks, unlink.parent);
                if !unlink.victim.last {
                    marks.nodes.entry(unlink.victim.inode).or_default();
                }
            }
            Operation::Rename(rename) => {
                marks.mark_name(rename.source_parent, &rename.source_name);
                marks.mark_name(rename.target_parent, &rename.target_name);
                attributes(marks, rename.source_parent);
                attributes(marks, rename.target_parent);
                marks.nodes.entry(rename.moved).or_default();
                if let Some(victim) = lives_on(rename.mode, rename.replaced) {
                    marks.nodes.entry(victim).or_default();
                }
            }
            Operation::Write { .. }
            | Operation::SetAttributes { .. }
            | Operation::Fallocate { .. }
            | Operation::CopyRange { .. }
            | Operation::SetXattr { .. }
            | Operation::RemoveXattr { .. }
            | Operation::Bind { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => {
                if let Some((inode, range)) = changed_extents(operation, self.extent_bytes) {
                    let node = marks.nodes.entry(inode).or_default();
                    node.attributes = true;
                    if let Content::Extents(extents) = &mut node.content {
                        extents.insert(range);
                    }
                }
            }
        }
    }

    /// Ends the present epoch: a checkpoint takes its place in the order.
    pub fn seal(&mut self) -> EpochId {
        self.last_epoch.0 += 1;
        let marks = std::mem::take(&mut self.current);
        self.sealed.push_back((self.last_epoch, marks));
        self.last_epoch
    }

    /// What the epochs hold is marked otherwise.
    pub fn forget_epochs(&mut self) {
        self.sealed.clear();
        self.current = Marks::default();
    }

    /// Both nodes have that checkpoint on disk.
    pub fn covered(&mut self, epoch: EpochId) {
        while self.sealed.front().is_some_and(|(sealed, _)| *sealed <= epoch) {
            self.sealed.pop_front();
        }
    }

    /// The peer is lost, or this node takes over: what the epochs hold is what the peer may lack. It must be on disk
    /// before anything is applied alone. `place_of`: where an inode is now. `changes`: something is under way that will be
    /// applied without the peer.
    pub fn part(&mut self, place_of: &dyn Fn(InodeId) -> Option<Place>, changes: bool) {
        self.unsent.changed |= changes;
        if self.sealed.is_empty() && self.current.is_empty() {
            return;
        }
        let current = std::mem::take(&mut self.current);
        let epochs = self.sealed.drain(..).map(|(_, marks)| marks);
        for marks in epochs.chain([current]) {
            self.unsent.unite(marks);
        }
        let without: Vec<InodeId> = self
            .unsent
            .nodes
            .iter()
            .filter(|(_, marks)| marks.place.is_none() && matches!(marks.content, Content::Extents(_)))
            .map(|(inode, _)| *inode)
            .collect();
        for inode in without {
            let place = place_of(inode).filter(|place| self.is_same_there(place));
            // Its number means nothing to another process unless the map says what it is.
            if let Some(place) = &place {
                self.unsent.nodes.entry(place.parent).or_default();
            }
            if let Some(marks) = self.unsent.nodes.get_mut(&inode) {
                marks.place = place;
            }
        }
        self.all_is_written();
    }

    /// The copy is complete and on disk on both nodes. Marks made since in sync stay.
    pub fn joined(&mut self) {
        self.unsent = Marks::default();
        self.written = Written::default();
        self.writes_names = false;
    }

    /// The peer stands still no longer: a copy is about to bring names over. What must be on disk before.
    pub fn write_names(&mut self) -> (MarkSeq, Vec<Record>) {
        self.writes_names = true;
        let names = self.unsent.names.iter();
        let records = names
            .flat_map(|(directory, names)| {
                names.iter().map(|name| Record::Name {
                    directory: *directory,
                    name: name.clone(),
                })
            })
            .collect();
        (self.next_seq(), records)
    }

    /// A copy has found that one side only has these names, and brings them over once this is on disk: if it does not
    /// come to its end, the next one must look at them again.
    pub fn mark_names(&mut self, directory: InodeId, names: &[Name]) -> (MarkSeq, Vec<Record>) {
        if self.unsent.everything || self.is_all_marked(directory) {
            return (self.durable, Vec::new());
        }
        let mut records = Vec::new();
        for name in names {
            if self.unsent.mark_name(directory, name) {
                let name = name.clone();
                records.push(Record::Name { directory, name });
            }
        }
        let seq = self.next_seq();
        let written = self.written.names.entry(directory).or_default();
        for record in &records {
            if let Record::Name { name, .. } = record {
                written.insert(name.clone(), seq);
            }
        }
        (seq, records)
    }

    /// A name was entered as new by an operation that was refused, so the peer may have it. Should it get another meaning
    /// later, that its directory may have new names says too little.
    pub fn was_not_new(&mut self, directory: InodeId, name: &Name) -> (MarkSeq, Vec<Record>) {
        let is_known = self.writes_names || !self.unsent.has_name(directory, name);
        if self.unsent.everything || self.is_all_marked(directory) || is_known {
            return (self.durable, Vec::new());
        }
        let seq = self.next_seq();
        let names = self.written.names.entry(directory).or_default();
        names.insert(name.clone(), seq);
        let name = name.clone();
        (seq, vec![Record::Name { directory, name }])
    }

    fn next_seq(&mut self) -> MarkSeq {
        self.last_seq.0 += 1;
        self.last_seq
    }

    /// What differs is not known any more.
    pub fn forget_all(&mut self) {
        self.unsent = Marks {
            everything: true,
            ..Marks::default()
        };
        self.written = Written::default();
    }

    /// Everything up to `seq` is on disk.
    pub fn durable(&mut self, seq: MarkSeq) {
        self.durable = self.durable.max(seq);
    }

    /// An operation is numbered while this node is alone, or copies. `place_of`: where an inode is before it.
    pub fn track(&mut self, operation: &Operation, place_of: &dyn Fn(InodeId) -> Option<Place>) -> Tracked {
        if self.unsent.everything {
            return Tracked::default();
        }
        let mut need = Need {
            next: MarkSeq(self.last_seq.0 + 1),
            durable: self.durable,
            records: Vec::new(),
            wait: MarkSeq(0),
        };
        if !operation.is_sync() && !matches!(operation, Operation::Bind { .. }) {
            self.unsent.changed = true;
            match self.written.changed {
                Some(seq) => need.wait_for(seq),
                None => self.written.changed = Some(need.write(Record::Changed)),
            }
        }
        match operation {
            Operation::Create(create) => {
                self.add_name(create.parent, &create.name, true, place_of, &mut need);
                if !self.is_all_marked(create.parent) {
                    self.touch_attributes(create.parent, place_of, &mut need);
                }
                self.unsent.nodes.entry(create.inode).or_default().content = Content::Fresh;
            }
            Operation::Link {
                inode, parent, name, ..
            } => {
                self.touch(*inode, place_of(*inode), &mut need);
                self.add_name(*parent, name, true, place_of, &mut need);
                self.touch_attributes(*parent, place_of, &mut need);
            }
            Operation::Unlink(unlink) => {
                let place = Place {
                    parent: unlink.parent,
                    name: unlink.name.clone(),
                };
                self.lose_name(unlink.victim, &place, &mut need);
                self.add_name(unlink.parent, &unlink.name, false, place_of, &mut need);
                self.touch_attributes(unlink.parent, place_of, &mut need);
            }
            Operation::Rename(rename) => {
                let source = Place {
                    parent: rename.source_parent,
                    name: rename.source_name.clone(),
                };
                let target = Place {
                    parent: rename.target_parent,
                    name: rename.target_name.clone(),
                };
                self.touch(rename.moved, Some(source), &mut need);
                if let Some(victim) = rename.replaced.filter(|victim| victim.inode != rename.moved) {
                    match lives_on(rename.mode, Some(victim)) {
                        Some(inode) => self.touch(inode, Some(target), &mut need),
                        None => self.lose_name(victim, &target, &mut need),
                    }
                }
                let (from, to) = (rename.source_parent, rename.target_parent);
                self.add_name(from, &rename.source_name, false, place_of, &mut need);
                let is_new = rename.replaced.is_none();
                self.add_name(to, &rename.target_name, is_new, place_of, &mut need);
                self.touch_attributes(from, place_of, &mut need);
                self.touch_attributes(to, place_of, &mut need);
            }
            Operation::Write { .. }
            | Operation::SetAttributes { .. }
            | Operation::Fallocate { .. }
            | Operation::CopyRange { .. }
            | Operation::SetXattr { .. }
            | Operation::RemoveXattr { .. }
            | Operation::Bind { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => {
                if let Some((inode, range)) = changed_extents(operation, self.extent_bytes) {
                    self.touch_attributes(inode, place_of, &mut need);
                    self.add_extents(inode, range, &mut need);
                }
            }
        }
        if !need.records.is_empty() {
            self.last_seq = need.next;
        }
        need.finish()
    }

    /// The peer has the same inode under this name, as far as the marks say.
    fn is_same_there(&self, place: &Place) -> bool {
        // Also in a directory of which an earlier process has told only that it has new names: those the peer does not
        // have, and whatever took the name of something else is marked by its name.
        !self.is_all_marked(place.parent) && !self.unsent.has_name(place.parent, &place.name)
    }

    /// Nothing of it needs a mark of its own.
    fn is_all_marked(&self, inode: InodeId) -> bool {
        self.unsent
            .nodes
            .get(&inode)
            .is_some_and(|marks| !matches!(marks.content, Content::Extents(_)))
    }

    /// The inode must be found again on the peer, at `place` if the peer has it there.
    fn touch(&mut self, inode: InodeId, place: Option<Place>, need: &mut Need) {
        if self.is_all_marked(inode) {
            return;
        }
        let is_placed = self
            .unsent
            .nodes
            .get(&inode)
            .is_some_and(|marks| marks.place.is_some());
        let place = place.filter(|place| !is_placed && self.is_same_there(place));
        if let Some(place) = &place {
            self.touch(place.parent, None, need);
        }
        let marks = self.unsent.nodes.entry(inode).or_default();
        let is_found = place.is_some();
        if is_found {
            marks.place.clone_from(&place);
        }
        match self.written.nodes.get_mut(&inode) {
            Some(written) if !is_found => need.wait_for(written.node),
            Some(written) => written.node = need.write(Record::Node { inode, place }),
            None => {
                let node = need.write(Record::Node { inode, place });
                let written = NodeWritten {
                    node,
                    ..NodeWritten::default()
                };
                self.written.nodes.insert(inode, written);
            }
        }
    }

    fn touch_attributes(
        &mut self,
        inode: InodeId,
        place_of: &dyn Fn(InodeId) -> Option<Place>,
        need: &mut Need,
    ) {
        if self.is_all_marked(inode) {
            return;
        }
        // Asked for only where it could be of use.
        let place = match self.unsent.nodes.get(&inode) {
            Some(marks) if marks.place.is_some() => None,
            Some(_) | None => place_of(inode),
        };
        self.touch(inode, place, need);
        if let Some(marks) = self.unsent.nodes.get_mut(&inode) {
            marks.attributes = true;
        }
        let Some(written) = self.written.nodes.get_mut(&inode) else {
            return;
        };
        match written.attributes {
            Some(seq) => need.wait_for(seq),
            None => written.attributes = Some(need.write(Record::Attributes { inode })),
        }
    }

    fn add_extents(&mut self, inode: InodeId, range: Range<u64>, need: &mut Need) {
        let Some(marks) = self.unsent.nodes.get_mut(&inode) else {
            return;
        };
        let Content::Extents(extents) = &mut marks.content else {
            return;
        };
        if range.is_empty() {
            return;
        }
        extents.insert(range.clone());
        let Some(written) = self.written.nodes.get_mut(&inode) else {
            return;
        };
        if written.exact.contains(&range) {
            return;
        }
        let extent_bytes = self.extent_bytes.get();
        let first = range.start.saturating_mul(extent_bytes) / REGION_BYTES;
        let from = written.from_region.filter(|(from, _)| *from <= first);
        if let Some((_, seq)) = from {
            need.wait_for(seq);
        } else if range.end == TO_THE_END {
            let seq = need.write(Record::FromRegion { inode, index: first });
            written.from_region = Some((first, seq));
        } else {
            let last = (range.end.saturating_mul(extent_bytes) - 1) / REGION_BYTES;
            for index in first..=last {
                match written.regions.get(&index) {
                    Some(seq) => need.wait_for(*seq),
                    None => {
                        let seq = need.write(Record::Region { inode, index });
                        written.regions.insert(index, seq);
                    }
                }
            }
        }
    }

    /// A name gets another meaning; `is_new` when nothing had it here before.
    fn add_name(
        &mut self,
        directory: InodeId,
        name: &Name,
        is_new: bool,
        place_of: &dyn Fn(InodeId) -> Option<Place>,
        need: &mut Need,
    ) {
        if self.is_all_marked(directory) {
            return;
        }
        // What is written of a directory needs it to be known.
        self.touch(directory, place_of(directory), need);
        if !self.unsent.mark_name(directory, name) {
            let named = self
                .written
                .names
                .get(&directory)
                .and_then(|names| names.get(name));
            if let Some(seq) = named {
                need.wait_for(*seq);
            }
            return;
        }
        let seq = if is_new && !self.writes_names {
            let written = self.written.additions.get(&directory).copied();
            let seq = written.unwrap_or_else(|| need.write(Record::Additions { directory }));
            self.written.additions.insert(directory, seq);
            need.wait_for(seq);
            seq
        } else {
            need.write(Record::Name {
                directory,
                name: name.clone(),
            })
        };
        if seq > self.durable {
            let names = self.written.names.entry(directory).or_default();
            names.insert(name.clone(), seq);
        }
    }

    /// An inode loses a name that the peer may have. With the last one nothing of it is left to be found again.
    fn lose_name(&mut self, victim: Victim, place: &Place, need: &mut Need) {
        if !victim.last {
            self.touch(victim.inode, Some(place.clone()), need);
        }
    }

    /// All marks there are are on disk.
    fn all_is_written(&mut self) {
        self.written = Written {
            changed: self.unsent.changed.then_some(MarkSeq(0)),
            ..Written::default()
        };
        self.durable = self.last_seq;
        for (inode, marks) in &self.unsent.nodes {
            let Content::Extents(extents) = &marks.content else {
                continue;
            };
            let written = NodeWritten {
                attributes: marks.attributes.then_some(MarkSeq(0)),
                exact: extents.clone(),
                ..NodeWritten::default()
            };
            self.written.nodes.insert(*inode, written);
        }
        for directory in &self.unsent.additions {
            self.written.additions.insert(*directory, MarkSeq(0));
        }
    }
}

fn attributes(marks: &mut Marks, inode: InodeId) {
    marks.nodes.entry(inode).or_default().attributes = true;
}

/// What a rename replaces, if it has a name afterwards.
fn lives_on(mode: RenameMode, replaced: Option<Victim>) -> Option<InodeId> {
    let victim = replaced?;
    let lives = !victim.last || mode == RenameMode::Exchange;
    lives.then_some(victim.inode)
}

#[cfg(test)]
mod tests;
