//! The map against a model file system: copying only what the map names makes a stale copy equal.

use super::*;
use crate::dirty::store::{Saved, SavedRecord, Units};
use crate::operation::{
    Attributes, Create, FileHandle, NodeKind, Rename, Timestamp, Unlink, XattrMode, XattrName,
};
use crate::wire::message::Generation;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const EXTENT: NonZeroU64 = NonZeroU64::new(4096).unwrap();
const ROOT: InodeId = InodeId(1);
const TIME: Timestamp = Timestamp {
    seconds: 1,
    nanoseconds: 0,
};

/// One node: blocks of data by index, and a version of its attributes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    directory: bool,
    blocks: BTreeMap<u64, u64>,
    attributes: u64,
}

/// A file system whose inodes have the same numbers on both nodes, as if by handle.
#[derive(Clone, Debug, Default)]
struct Tree {
    nodes: BTreeMap<InodeId, Node>,
    names: BTreeMap<(InodeId, Name), InodeId>,
}

fn name(number: u8) -> Name {
    Name::new(format!("n{number}").as_bytes()).unwrap()
}

impl Tree {
    fn new() -> Self {
        let root = Node {
            directory: true,
            ..Node::default()
        };
        Tree {
            nodes: BTreeMap::from([(ROOT, root)]),
            names: BTreeMap::new(),
        }
    }

    fn links(&self, inode: InodeId) -> usize {
        self.names.values().filter(|other| **other == inode).count()
    }

    fn place_of(&self, inode: InodeId) -> Option<Place> {
        let mut names = self.names.iter();
        let ((parent, name), _) = names.find(|(_, other)| **other == inode)?;
        Some(Place {
            parent: *parent,
            name: name.clone(),
        })
    }

    fn is_below(&self, inode: InodeId, above: InodeId) -> bool {
        let mut next = Some(inode);
        while let Some(one) = next {
            if one == above {
                return true;
            }
            next = self.place_of(one).map(|place| place.parent);
        }
        false
    }

    fn apply(&mut self, operation: &Operation, version: u64) {
        match operation {
            Operation::Create(create) => {
                let directory = create.kind == NodeKind::Directory;
                let node = Node {
                    directory,
                    ..Node::default()
                };
                self.nodes.insert(create.inode, node);
                self.names
                    .insert((create.parent, create.name.clone()), create.inode);
            }
            Operation::Link {
                inode, parent, name, ..
            } => {
                self.names.insert((*parent, name.clone()), *inode);
            }
            Operation::Unlink(unlink) => {
                self.names.remove(&(unlink.parent, unlink.name.clone()));
            }
            Operation::Rename(rename) => {
                let source = (rename.source_parent, rename.source_name.clone());
                let target = (rename.target_parent, rename.target_name.clone());
                self.names.remove(&source);
                let replaced = self.names.insert(target, rename.moved);
                if rename.mode == RenameMode::Exchange
                    && let Some(replaced) = replaced
                {
                    self.names.insert(source, replaced);
                }
            }
            Operation::Write { inode, offset, .. } => {
                let node = self.nodes.get_mut(inode).unwrap();
                node.blocks.insert(*offset / EXTENT, version);
                node.attributes = version;
            }
            Operation::SetAttributes { inode, attributes } => {
                let node = self.nodes.get_mut(inode).unwrap();
                if let Some(size) = attributes.size {
                    node.blocks.retain(|block, _| *block < size / EXTENT);
                }
                node.attributes = version;
            }
            Operation::SetXattr { inode, .. } => self.nodes.get_mut(inode).unwrap().attributes = version,
            other => panic!("{other:?} is not modelled"),
        }
    }

    /// What `plan` names comes from `source`; nothing else does.
    fn copy(&mut self, source: &Tree, plan: &Plan) {
        let mut names: BTreeSet<(InodeId, Name)> = BTreeSet::new();
        let all = |directory: InodeId, one: &Tree, other: &Tree| -> BTreeSet<(InodeId, Name)> {
            let keys = one.names.keys().chain(other.names.keys());
            keys.filter(|(at, _)| *at == directory).cloned().collect()
        };
        for (directory, marked) in &plan.names {
            names.extend(marked.iter().map(|name| (*directory, name.clone())));
        }
        for directory in &plan.additions {
            let one_side = all(*directory, source, self);
            names.extend(
                one_side
                    .into_iter()
                    .filter(|key| source.names.contains_key(key) != self.names.contains_key(key)),
            );
        }
        // What is found under a marked name and is not known there is brought over whole, with all below it.
        let mut whole: Vec<InodeId> = plan
            .nodes
            .iter()
            .filter(|(_, marks)| !matches!(marks.content, Content::Extents(_)))
            .map(|(inode, _)| *inode)
            .collect();
        let known: BTreeSet<InodeId> = self.nodes.keys().copied().collect();
        let led_to = |names: &BTreeSet<(InodeId, Name)>| -> Vec<InodeId> {
            let found = names.iter().filter_map(|key| source.names.get(key));
            found.filter(|inode| !known.contains(inode)).copied().collect()
        };
        whole.extend(led_to(&names));
        let mut done = BTreeSet::new();
        while let Some(inode) = whole.pop() {
            if !done.insert(inode) {
                continue;
            }
            if let Some(node) = source.nodes.get(&inode) {
                self.nodes.insert(inode, node.clone());
            }
            let below = all(inode, source, self);
            whole.extend(led_to(&below));
            names.extend(below);
        }
        for key in names {
            match source.names.get(&key) {
                Some(inode) => self.names.insert(key, *inode),
                None => self.names.remove(&key),
            };
        }
        for (inode, marks) in &plan.nodes {
            let (Some(here), Some(there)) = (source.nodes.get(inode), self.nodes.get_mut(inode)) else {
                continue;
            };
            if let Content::Extents(extents) = &marks.content {
                for range in extents.iter() {
                    there.blocks.retain(|block, _| !range.contains(block));
                    let blocks = here.blocks.range(range.start..range.end);
                    there
                        .blocks
                        .extend(blocks.map(|(block, version)| (*block, *version)));
                }
            }
            if marks.attributes {
                there.attributes = here.attributes;
            }
        }
    }

    /// Everything that has a name, and what it is.
    fn shown(&self) -> BTreeMap<(InodeId, Name), (InodeId, Node)> {
        let mut shown = BTreeMap::new();
        let mut waiting = vec![ROOT];
        let mut seen = BTreeSet::new();
        while let Some(directory) = waiting.pop() {
            if !seen.insert(directory) {
                continue;
            }
            for ((at, name), inode) in &self.names {
                if *at == directory {
                    shown.insert((*at, name.clone()), (*inode, self.nodes[inode].clone()));
                    if self.nodes[inode].directory {
                        waiting.push(*inode);
                    }
                }
            }
        }
        shown
    }
}

/// What an operation is made from, whatever the tree holds.
#[derive(Clone, Copy, Debug)]
struct Wish {
    kind: u8,
    one: u8,
    other: u8,
    name: u8,
    block: u64,
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        0..10_u8,
        any::<u8>(),
        any::<u8>(),
        0..6_u8,
        prop_oneof![0..6_u64, 4090..4102_u64],
    )
        .prop_map(|(kind, one, other, name, block)| Wish {
            kind,
            one,
            other,
            name,
            block,
        })
}

fn pick<T: Clone>(all: &[T], number: u8) -> Option<T> {
    (!all.is_empty()).then(|| all[number as usize % all.len()].clone())
}

fn operation(tree: &Tree, wish: Wish, next: &mut u64) -> Option<Operation> {
    let shown = tree.shown();
    let mut directories = vec![ROOT];
    directories.extend(
        shown
            .values()
            .filter(|(_, node)| node.directory)
            .map(|(inode, _)| *inode),
    );
    let files: Vec<InodeId> = shown
        .values()
        .filter(|(_, node)| !node.directory)
        .map(|(inode, _)| *inode)
        .collect();
    let entries: Vec<(InodeId, Name)> = shown.keys().cloned().collect();
    let directory = pick(&directories, wish.one)?;
    let named = name(wish.name);
    let is_empty = |inode: InodeId| !tree.names.keys().any(|(at, _)| *at == inode);
    let victim = |inode: InodeId| Victim {
        inode,
        last: tree.nodes[&inode].directory || tree.links(inode) == 1,
    };
    let taken = tree.names.get(&(directory, named.clone())).copied();
    match wish.kind {
        0 | 1 if taken.is_none() => {
            *next += 1;
            Some(Operation::Create(Create {
                parent: directory,
                name: named,
                inode: InodeId(*next),
                kind: if wish.kind == 0 {
                    NodeKind::File
                } else {
                    NodeKind::Directory
                },
                mode: 0o644,
                uid: 0,
                gid: 0,
                acls: Vec::new(),
                time: TIME,
            }))
        }
        2 if taken.is_none() => Some(Operation::Link {
            inode: pick(&files, wish.other)?,
            parent: directory,
            name: named,
            time: TIME,
        }),
        3 => {
            let (parent, name) = pick(&entries, wish.other)?;
            let inode = tree.names[&(parent, name.clone())];
            let directory = tree.nodes[&inode].directory;
            (!directory || is_empty(inode)).then(|| {
                Operation::Unlink(Unlink {
                    parent,
                    name,
                    directory,
                    victim: victim(inode),
                    time: TIME,
                })
            })
        }
        4..=6 => {
            let (source_parent, source_name) = pick(&entries, wish.other)?;
            let moved = tree.names[&(source_parent, source_name.clone())];
            if (source_parent, &source_name) == (directory, &named)
                || tree.is_below(directory, moved)
                || taken == Some(moved)
            {
                return None;
            }
            let mut mode = RenameMode::NoReplace;
            if let Some(taken) = taken {
                mode = if wish.kind == 6 {
                    RenameMode::Exchange
                } else {
                    RenameMode::Replace
                };
                let same_kind = tree.nodes[&taken].directory == tree.nodes[&moved].directory;
                let replaceable = same_kind && is_empty(taken);
                let exchangeable = !tree.is_below(source_parent, taken);
                if (mode == RenameMode::Replace && !replaceable)
                    || (mode == RenameMode::Exchange && !exchangeable)
                {
                    return None;
                }
            }
            Some(Operation::Rename(Rename {
                source_parent,
                source_name,
                target_parent: directory,
                target_name: named,
                mode,
                moved,
                replaced: taken.map(victim),
                time: TIME,
            }))
        }
        7 => Some(Operation::Write {
            inode: pick(&files, wish.other)?,
            offset: wish.block * EXTENT.get(),
            data: Bytes::from_static(b"x"),
            time: Some(TIME),
            mode: None,
        }),
        8 => Some(Operation::SetAttributes {
            inode: pick(&files, wish.other)?,
            attributes: Attributes {
                size: Some(wish.block * EXTENT.get()),
                ..Attributes::default()
            },
        }),
        9 => Some(Operation::SetXattr {
            inode: pick(&files, wish.other)?,
            name: XattrName::new(b"user.x").unwrap(),
            value: Bytes::new(),
            mode: XattrMode::Set,
            set_mode: None,
        }),
        _ => None,
    }
}

fn handle() -> FileHandle {
    FileHandle {
        kind: 1,
        bytes: [1].as_slice().into(),
    }
}

fn saved(record: &Record) -> SavedRecord {
    match record.clone() {
        Record::Node { inode, place } => SavedRecord::Node {
            inode,
            root: 0,
            handle: handle(),
            peer_handle: None,
            place,
        },
        Record::Attributes { inode } => SavedRecord::Attributes { inode },
        Record::Region { inode, index } => SavedRecord::Region { inode, index },
        Record::FromRegion { inode, index } => SavedRecord::FromRegion { inode, index },
        Record::Additions { directory } => SavedRecord::Additions { directory },
        Record::Name { directory, name } => SavedRecord::Name { directory, name },
        Record::Changed => SavedRecord::Changed,
    }
}

/// The map on disk at a parting.
fn snapshot(map: &DirtyMap) -> Saved {
    let mut all = Saved::new(Generation([1; 16]));
    for (inode, marks) in &map.plan().nodes {
        let node = crate::dirty::store::SavedNode {
            root: 0,
            handle: handle(),
            peer_handle: None,
            place: marks.place.clone(),
            content: marks.content.clone(),
            attributes: marks.attributes,
        };
        all.nodes.insert(*inode, Box::new(node));
    }
    all.names = map.plan().names.clone();
    all.additions = map.plan().additions.clone();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Connected with checkpoints, then a parting from a peer that has done part of what is not covered, then alone; at
    /// the end the copy is made by the map in memory, and by that on disk after a crash.
    #[test]
    fn what_the_map_names_makes_a_stale_copy_equal(
        connected in prop::collection::vec((wish(), 0..8_u8), 0..40),
        alone in prop::collection::vec((wish(), 0..3_u8), 0..40),
        behind in any::<u8>(),
    ) {
        let (mut here, mut map, mut next) = (Tree::new(), DirtyMap::new(EXTENT), 1);
        // The states since the last covered checkpoint; the peer is in one of them.
        let mut states = vec![here.clone()];
        let mut sealed: Option<(EpochId, usize)> = None;
        for (version, (wish, step)) in connected.into_iter().enumerate() {
            match (step, sealed) {
                (0, None) => sealed = Some((map.seal(), states.len() - 1)),
                (1, Some((epoch, from))) => {
                    map.covered(epoch);
                    states.drain(..from);
                    sealed = None;
                }
                _ => {}
            }
            if let Some(operation) = operation(&here, wish, &mut next) {
                map.apply(&operation);
                here.apply(&operation, version as u64 + 1);
                states.push(here.clone());
            }
        }
        let peer = states[behind as usize % states.len()].clone();
        map.part(&|inode| here.place_of(inode), false);
        let mut disk = snapshot(&map);
        let units = Units { stored: EXTENT.get(), used: EXTENT.get() };
        // Records on the way to the disk, with the operations that wait for them.
        let mut under_way: Vec<(MarkSeq, Vec<Record>)> = Vec::new();
        for (version, (wish, step)) in alone.into_iter().enumerate() {
            let Some(operation) = operation(&here, wish, &mut next) else { continue };
            let before = here.clone();
            let tracked = map.track(&operation, &|inode| before.place_of(inode));
            if !tracked.records.is_empty() {
                under_way.push((tracked.seq, tracked.records));
            }
            // It may be applied without waiting only if nothing is asked for; else all of it goes to disk first.
            if tracked.wait.is_some() || step == 0 {
                for (seq, records) in under_way.drain(..) {
                    for record in &records {
                        disk.fold(saved(record), units).unwrap();
                    }
                    map.durable(seq);
                }
            }
            here.apply(&operation, 1000 + version as u64);
        }
        let mut copy = peer.clone();
        copy.copy(&here, map.plan());
        prop_assert_eq!(copy.shown(), here.shown());
        let mut copy = peer;
        copy.copy(&here, DirtyMap::restore(disk.into_marks(), EXTENT).plan());
        prop_assert_eq!(copy.shown(), here.shown());
    }
}

fn rename(from: u8, to: u8, moved: InodeId) -> Operation {
    Operation::Rename(Rename {
        source_parent: ROOT,
        source_name: name(from),
        target_parent: ROOT,
        target_name: name(to),
        mode: RenameMode::NoReplace,
        moved,
        replaced: None,
        time: TIME,
    })
}

#[test]
fn files_that_change_places_are_found_where_the_peer_has_them() {
    let (a, b) = (InodeId(5), InodeId(6));
    let mut tree = Tree::new();
    for (inode, number) in [(a, 0), (b, 1)] {
        tree.nodes.insert(inode, Node::default());
        tree.names.insert((ROOT, name(number)), inode);
    }
    let mut map = DirtyMap::new(EXTENT);
    for operation in [rename(0, 2, a), rename(1, 0, b), rename(2, 1, a)] {
        map.track(&operation, &|inode| tree.place_of(inode));
        tree.apply(&operation, 1);
    }
    let place = |inode| map.plan().nodes[&inode].place.clone().unwrap().name;
    assert_eq!((place(a), place(b)), (name(0), name(1)));
}

#[test]
fn only_the_first_write_to_a_region_waits_for_the_disk() {
    let file = InodeId(5);
    let write = |offset| Operation::Write {
        inode: file,
        offset,
        data: Bytes::from_static(b"x"),
        time: Some(TIME),
        mode: None,
    };
    let mut map = DirtyMap::new(EXTENT);
    let first = map.track(&write(0), &|_| None);
    assert_eq!(
        first.records.len(),
        4,
        "that something is changed, the inode, its attributes, the region: {first:?}"
    );
    assert_eq!(first.wait, Some(first.seq));
    // Before that is on disk, whatever needs it waits as well, and writes nothing.
    let second = map.track(&write(8192), &|_| None);
    assert_eq!((second.records.len(), second.wait), (0, Some(first.seq)));
    map.durable(first.seq);
    assert_eq!(map.track(&write(REGION_BYTES - 1), &|_| None).wait, None);
    let other = map.track(&write(REGION_BYTES), &|_| None);
    assert_eq!(
        other.records,
        [Record::Region {
            inode: file,
            index: 1
        }]
    );
}

#[test]
fn an_epoch_goes_when_its_checkpoint_is_covered_and_not_before() {
    let file = InodeId(5);
    let touch = Operation::SetAttributes {
        inode: file,
        attributes: Attributes::default(),
    };
    let mut map = DirtyMap::new(EXTENT);
    map.apply(&touch);
    let first = map.seal();
    assert!(map.is_marked(file));
    map.covered(first);
    assert!(map.is_empty());
    map.apply(&touch);
    let second = map.seal();
    map.apply(&touch);
    map.covered(first);
    assert!(map.is_marked(file));
    map.covered(second);
    assert!(map.is_marked(file), "marked again since");
    map.part(&|_| None, false);
    assert_eq!(map.plan().nodes.len(), 1);
}

#[test]
fn once_a_copy_has_begun_every_name_is_written() {
    let mut map = DirtyMap::new(EXTENT);
    let nowhere = |_: InodeId| None;
    let create = |inode, number| {
        Operation::Create(Create {
            inode: InodeId(inode),
            parent: ROOT,
            name: name(number),
            kind: NodeKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            time: TIME,
            acls: Vec::new(),
        })
    };
    let named = |number| Record::Name {
        directory: ROOT,
        name: name(number),
    };
    let before = map.track(&create(2, 1), &nowhere);
    assert!(before.records.contains(&Record::Additions { directory: ROOT }));
    assert!(!before.records.contains(&named(1)));
    let (written, records) = map.write_names();
    assert!(written > before.seq);
    assert_eq!(records, [named(1)]);
    let during = map.track(&create(3, 2), &nowhere);
    assert!(during.records.contains(&named(2)));
    assert_eq!(during.wait, Some(during.seq));
    // What the copy finds to be new: one of them is known.
    let (seq, records) = map.mark_names(ROOT, &[name(2), name(3)]);
    assert_eq!(records, [named(3)]);
    assert!(map.plan().has_name(ROOT, &name(3)));
    // An operation on it waits for that record.
    let removed = map.track(&create(4, 3), &nowhere);
    assert!(removed.wait >= Some(seq));
    map.joined();
    let after = map.track(&create(5, 4), &nowhere);
    assert!(!after.records.contains(&named(4)));
}
