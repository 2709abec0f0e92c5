//! A disk with a cache: what is in it at once, and what of it a power loss leaves.
//!
//! Changes of names, sizes and attributes reach the disk in order, as a journal brings them there; the data of a write
//! reaches it whenever it likes, unless it was synced.

use crate::operation::{Name, RenameMode, XattrName};
use crate::random::Random;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Files are made of cells of so many bytes, each of which holds one [`Tag`] over and over.
pub(super) const CELL_BYTES: u64 = 4096;

/// What a cell holds: the number of the request that wrote it. 0 is a hole.
pub(super) type Tag = u32;

/// An inode of one disk. Never used again there, as handles are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ino(pub(super) u64);

/// The top of the replicated directory, on every disk.
pub(super) const TOP: Ino = Ino(1);
/// Where a copy puts aside what is in the way.
pub(super) const ASIDE: Ino = Ino(2);

/// Everything about an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) is_directory: bool,
    pub(super) links: u32,
    pub(super) names: BTreeMap<Name, Ino>,
    /// What is written; the others are holes.
    pub(super) cells: BTreeMap<u64, Tag>,
    /// In cells.
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) mtime: i64,
    pub(super) xattrs: BTreeMap<XattrName, Bytes>,
}

/// One change of a disk.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Make {
        directory: Ino,
        name: Name,
        ino: Ino,
        is_directory: bool,
        mode: u32,
        time: i64,
    },
    Link {
        ino: Ino,
        directory: Ino,
        name: Name,
        time: i64,
    },
    Unlink {
        directory: Ino,
        name: Name,
        time: i64,
    },
    Rename {
        from: Ino,
        name: Name,
        to: Ino,
        new: Name,
        mode: RenameMode,
        time: i64,
    },
    Write {
        ino: Ino,
        cells: Vec<(u64, Tag)>,
        end: u64,
        time: Option<i64>,
    },
    Attributes {
        ino: Ino,
        size: Option<u64>,
        mode: Option<u32>,
        mtime: Option<i64>,
    },
    SetXattr {
        ino: Ino,
        name: XattrName,
        value: Bytes,
    },
    RemoveXattr {
        ino: Ino,
        name: XattrName,
    },
}

/// A tree of names and what they lead to.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<Ino, Node>,
    last: u64,
}

impl Tree {
    pub(super) fn new() -> Self {
        let directory = |mode| Node {
            is_directory: true,
            links: 1,
            mode,
            ..Node::default()
        };
        Tree {
            nodes: BTreeMap::from([(TOP, directory(0o755)), (ASIDE, directory(0o700))]),
            last: ASIDE.0,
        }
    }

    pub(super) fn next(&mut self) -> Ino {
        self.last += 1;
        Ino(self.last)
    }

    pub(super) fn get(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    pub(super) fn child(&self, directory: Ino, name: &Name) -> Option<Ino> {
        self.nodes.get(&directory)?.names.get(name).copied()
    }

    /// The directory and name of a directory; none of the top, or when it has none.
    pub(super) fn place_of_directory(&self, ino: Ino) -> Option<(Ino, Name)> {
        self.nodes.iter().find_map(|(above, node)| {
            let found = node.names.iter().find(|(_, child)| **child == ino);
            found.map(|(name, _)| (*above, name.clone()))
        })
    }

    /// Whether `ino` is `below` or above it.
    pub(super) fn is_above(&self, ino: Ino, below: Ino) -> bool {
        let mut next = Some(below);
        while let Some(at) = next {
            if at == ino {
                return true;
            }
            next = self.place_of_directory(at).map(|(above, _)| above);
        }
        false
    }

    fn touch(&mut self, ino: Ino, time: i64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.mtime = time;
        }
    }

    fn unlink(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.links -= 1;
        }
    }

    /// Carries a change out that is possible. Of an inode that a power loss took nothing is left to be changed.
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Make {
                directory,
                name,
                ino,
                is_directory,
                mode,
                time,
            } => {
                let node = Node {
                    is_directory: *is_directory,
                    links: 1,
                    mode: *mode,
                    mtime: *time,
                    ..Node::default()
                };
                self.nodes.insert(*ino, node);
                self.last = self.last.max(ino.0);
                self.enter(*directory, name.clone(), *ino);
                self.touch(*directory, *time);
            }
            Change::Link {
                ino,
                directory,
                name,
                time,
            } => {
                if let Some(node) = self.nodes.get_mut(ino) {
                    node.links += 1;
                }
                self.enter(*directory, name.clone(), *ino);
                self.touch(*directory, *time);
            }
            Change::Unlink {
                directory,
                name,
                time,
            } => {
                let gone = self
                    .nodes
                    .get_mut(directory)
                    .and_then(|node| node.names.remove(name));
                if let Some(ino) = gone {
                    self.unlink(ino);
                }
                self.touch(*directory, *time);
            }
            Change::Rename {
                from,
                name,
                to,
                new,
                mode,
                time,
            } => {
                let Some(moved) = self.nodes.get_mut(from).and_then(|node| node.names.remove(name)) else {
                    return;
                };
                let there = self.nodes.get_mut(to).and_then(|node| node.names.remove(new));
                match there {
                    Some(there) if *mode == RenameMode::Exchange => self.enter(*from, name.clone(), there),
                    Some(there) => self.unlink(there),
                    None => {}
                }
                self.enter(*to, new.clone(), moved);
                self.touch(*from, *time);
                self.touch(*to, *time);
            }
            Change::Write {
                ino,
                cells,
                end,
                time,
            } => {
                let Some(node) = self.nodes.get_mut(ino) else {
                    return;
                };
                for (cell, tag) in cells {
                    match tag {
                        0 => node.cells.remove(cell),
                        tag => node.cells.insert(*cell, *tag),
                    };
                }
                node.size = node.size.max(*end);
                node.mtime = time.unwrap_or(node.mtime);
            }
            Change::Attributes {
                ino,
                size,
                mode,
                mtime,
            } => {
                let Some(node) = self.nodes.get_mut(ino) else {
                    return;
                };
                if let Some(size) = size {
                    node.cells.split_off(size);
                    node.size = *size;
                }
                node.mode = mode.unwrap_or(node.mode);
                node.mtime = mtime.unwrap_or(node.mtime);
            }
            Change::SetXattr { ino, name, value } => {
                if let Some(node) = self.nodes.get_mut(ino) {
                    node.xattrs.insert(name.clone(), value.clone());
                }
            }
            Change::RemoveXattr { ino, name } => {
                if let Some(node) = self.nodes.get_mut(ino) {
                    node.xattrs.remove(name);
                }
            }
        }
    }

    fn enter(&mut self, directory: Ino, name: Name, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&directory) {
            node.names.insert(name, ino);
        }
    }

    /// What is below the top, so that two trees can be compared whatever their inodes are called.
    pub(super) fn listing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut seen = BTreeMap::new();
        self.list(TOP, String::new(), &mut seen, &mut lines);
        lines
    }

    /// What only this one has, and what only the other one.
    pub(super) fn difference(&self, other: &Tree) -> String {
        let (here, there) = (self.listing(), other.listing());
        let only = |one: &[String], other: &[String]| {
            let lines: Vec<_> = one.iter().filter(|line| !other.contains(line)).cloned().collect();
            lines.join("\n  ")
        };
        format!(
            "only here:\n  {}\nonly there:\n  {}",
            only(&here, &there),
            only(&there, &here)
        )
    }

    fn list(&self, ino: Ino, path: String, seen: &mut BTreeMap<Ino, String>, lines: &mut Vec<String>) {
        let Some(node) = self.nodes.get(&ino) else {
            lines.push(format!("{path} leads nowhere"));
            return;
        };
        if let Some(first) = seen.get(&ino) {
            lines.push(format!("{path} = {first}"));
            return;
        }
        let mut line = format!("{path} mode={:o} mtime={}", node.mode, node.mtime);
        if !node.is_directory {
            line += &format!(" links={} size={} {:?}", node.links, node.size, node.cells);
        }
        if !node.xattrs.is_empty() {
            line += &format!(" {:?}", node.xattrs);
        }
        lines.push(line);
        for (name, child) in &node.names {
            self.list(*child, format!("{path}/{name}"), seen, lines);
        }
        seen.insert(ino, path);
    }

    /// True when both hold the same; which inodes of the other these are goes into `pairs`.
    pub(super) fn equals(&self, other: &Tree, pairs: &mut BTreeMap<Ino, Ino>) -> bool {
        self.equals_at(TOP, other, TOP, pairs)
    }

    fn equals_at(&self, ino: Ino, other: &Tree, its: Ino, pairs: &mut BTreeMap<Ino, Ino>) -> bool {
        if let Some(known) = pairs.get(&ino) {
            return *known == its;
        }
        let (Some(node), Some(there)) = (self.get(ino), other.get(its)) else {
            return false;
        };
        pairs.insert(ino, its);
        let is_same = node.is_directory == there.is_directory
            && (node.is_directory || node.links == there.links)
            && (node.size, node.mode, node.mtime) == (there.size, there.mode, there.mtime)
            && node.cells == there.cells
            && node.xattrs == there.xattrs
            && node.names.len() == there.names.len();
        is_same
            && node
                .names
                .iter()
                .zip(&there.names)
                .all(|((name, child), (its_name, its_child))| {
                    name == its_name && self.equals_at(*child, other, *its_child, pairs)
                })
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) now: Tree,
    durable: Tree,
    log: Vec<Logged>,
    /// From this place of the journal on nothing reaches the disk before the next power loss.
    frozen: Option<usize>,
    /// Nobody may take these names away.
    kept: Vec<Name>,
}

#[derive(Clone, Debug)]
struct Logged {
    change: Change,
    /// Data that was synced and lies behind changes of names that were not.
    is_synced: bool,
}

impl Disk {
    pub(super) fn new() -> Self {
        Disk::of(Tree::new())
    }

    pub(super) fn change(&mut self, change: Change) {
        self.now.apply(&change);
        self.log.push(Logged {
            change,
            is_synced: false,
        });
    }

    /// A disk that holds `tree`, durably.
    pub(super) fn of(tree: Tree) -> Self {
        Disk {
            now: tree.clone(),
            durable: tree,
            log: Vec::new(),
            frozen: None,
            kept: Vec::new(),
        }
    }

    /// The cache is written back no more, unless it is asked for.
    pub(super) fn freeze(&mut self) {
        self.frozen = Some(self.log.len());
    }

    /// As `chattr +i` on what has this name.
    pub(super) fn keep_names_of(&mut self, name: &Name) {
        self.kept.push(name.clone());
    }

    pub(super) fn keep_no_names(&mut self) {
        self.kept.clear();
    }

    pub(super) fn keeps(&self, name: &Name) -> bool {
        self.kept.contains(name)
    }

    /// As `syncfs(2)`.
    pub(super) fn sync_all(&mut self) {
        self.frozen = self.frozen.map(|_| 0);
        for logged in self.log.drain(..) {
            self.durable.apply(&logged.change);
        }
        self.durable.last = self.now.last;
    }

    /// As `fsync(2)`: its data, and with it the whole journal so far.
    pub(super) fn sync(&mut self, synced: Ino) {
        for logged in &mut self.log {
            logged.is_synced |= match &logged.change {
                Change::Write { ino, .. } => *ino == synced,
                _ => true,
            };
        }
    }

    /// True when a power loss cannot take anything of the file that was written before that time.
    pub(super) fn is_synced(&self, wanted: Ino, before: i64) -> bool {
        self.log.iter().all(|logged| match &logged.change {
            Change::Write { ino, time, .. } => {
                *ino != wanted || logged.is_synced || time.is_some_and(|time| time >= before)
            }
            _ => true,
        })
    }

    /// What is left then, and what it is afterwards.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        let is_data = |change: &Change| matches!(change, Change::Write { .. });
        let synced = self
            .log
            .iter()
            .rposition(|logged| logged.is_synced && !is_data(&logged.change));
        let least = synced.map_or(0, |last| last + 1);
        // The journal ends somewhere behind what was synced.
        let most = self.frozen.take().unwrap_or(self.log.len()).max(least);
        let end = least + random.below(most - least + 1);
        for (at, logged) in std::mem::take(&mut self.log).into_iter().enumerate() {
            let stays = match is_data(&logged.change) {
                true => logged.is_synced || (at < most && random.percent(50)),
                false => at < end,
            };
            if stays {
                self.durable.apply(&logged.change);
            }
        }
        self.durable
            .nodes
            .retain(|ino, node| node.links > 0 || *ino == TOP);
        self.durable.last = self.now.last;
        self.now = self.durable.clone();
    }

    /// New inodes are not called as others were that came later than this state of the disk.
    pub(super) fn number_from(&mut self, last: Ino) {
        self.now.last = self.now.last.max(last.0);
    }

    /// A restart of the programs: what has no name any more was held by them alone.
    pub(super) fn close_all(&mut self) {
        let gone: Vec<Ino> = self
            .now
            .nodes
            .iter()
            .filter(|(_, node)| node.links == 0)
            .map(|(ino, _)| *ino)
            .collect();
        for ino in gone {
            self.now.nodes.remove(&ino);
        }
    }
}
