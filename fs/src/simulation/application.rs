//! The application and its kernel: requests at random, as far as the kernel's locks allow them.

use super::disk::{CELL_BYTES, Ino, Node, TOP};
use super::machine::Process;
use super::primary::Asked;
use super::store::{bytes_of, time};
use super::world::World;
use crate::operation::{
    Attributes, Create, InodeId, Name, NodeKind, Operation, Rename, RenameMode, Unlink, Victim, XattrMode,
    XattrName,
};
use crate::session::names::Seen;
use crate::session::primary::{Event, Ticket};
use bytes::Bytes;

/// Requests under way at most.
const ASKED_MAX: usize = 6;
/// Inodes at most, so that names collide and runs stay fast.
const INODES_MAX: usize = 24;
/// Where the second part of some files begins, in cells: in another region of the map on disk.
const FAR: u64 = 5000;

#[derive(Default)]
pub(super) struct Application {
    pub(super) is_quiet: bool,
    /// The number of the last request.
    pub(super) last: i64,
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

impl World {
    /// One request, if the kernel lets it through.
    pub(super) fn request(&mut self, at: usize) {
        let Some(side) = self.primary_side(at) else { return };
        if side.ends || side.asked.len() >= ASKED_MAX || self.application.is_quiet {
            return;
        }
        self.application.last += 1;
        let number = self.application.last;
        if let Some(operation) = self.pick_request(at, number) {
            self.submit(at, operation);
        }
    }

    /// The application asks for this.
    pub(super) fn submit(&mut self, at: usize, operation: Operation) -> Ticket {
        let number = self.application.last;
        let side = self.primary_side(at).expect("a primary");
        let ticket = Ticket(side.next_ticket);
        side.next_ticket += 1;
        let touched = operation.touches();
        if operation.is_name_operation() {
            side.locked.extend(touched.iter().copied());
        }
        let inos = touched
            .iter()
            .filter_map(|inode| Some((*inode, side.known.ino(*inode)?)))
            .collect();
        side.asked.insert(
            ticket,
            Asked {
                number,
                operation: operation.clone(),
                inos,
            },
        );
        self.primary_event(at, Event::Submit { ticket, operation });
        ticket
    }

    fn node(&self, at: usize, ino: Ino) -> Option<&Node> {
        self.machines[at].disk.now.get(ino)
    }

    fn node_of(&self, at: usize, inode: InodeId) -> Option<&Node> {
        match &self.machines[at].process {
            Process::Primary(side) => self.node(at, side.known.ino(inode)?),
            _ => None,
        }
    }

    /// One of those that the kernel knows.
    fn some_inode(&mut self, at: usize, directory: bool) -> Option<InodeId> {
        let Process::Primary(side) = &self.machines[at].process else {
            return None;
        };
        let is_such = |ino: &Ino| {
            self.node(at, *ino)
                .is_some_and(|node| node.is_directory == directory)
        };
        let mut some: Vec<InodeId> = side
            .kernel
            .iter()
            .filter(|(ino, _)| is_such(ino))
            .map(|(_, inode)| *inode)
            .collect();
        some.sort_unstable();
        self.random.pick(&some).copied()
    }

    fn is_locked(&self, at: usize, inode: InodeId) -> bool {
        match &self.machines[at].process {
            Process::Primary(side) => side.locked.contains(&inode),
            _ => true,
        }
    }

    fn some_directory(&mut self, at: usize) -> Option<InodeId> {
        let inode = self.some_inode(at, true)?;
        let lives = self.node_of(at, inode)?.links > 0;
        (lives && !self.is_locked(at, inode)).then_some(inode)
    }

    /// As the kernel looks a name up: by the number that it has for the inode, or a new one.
    pub(super) fn look_up(&mut self, at: usize, directory: InodeId, name: &Name) -> Option<InodeId> {
        let ino = *self.node_of(at, directory)?.names.get(name)?;
        let side = self.primary_side(at)?;
        let ticket = side.primary.begin_lookup(directory);
        let inode = side.number_of(ino);
        side.primary
            .looked_up(ticket, inode, name, Seen::default())
            .ok()?;
        side.kernel.insert(ino, inode);
        Some(inode)
    }

    fn some_name(&mut self, at: usize, directory: InodeId) -> Option<(Name, InodeId)> {
        let names: Vec<Name> = self.node_of(at, directory)?.names.keys().cloned().collect();
        let name = self.random.pick(&names)?.clone();
        let inode = self.look_up(at, directory, &name)?;
        (!self.is_locked(at, inode)).then_some((name, inode))
    }

    fn links(&self, at: usize, inode: InodeId) -> u32 {
        self.node_of(at, inode).map_or(0, |node| node.links)
    }

    /// One of a few names, so that they meet again.
    fn new_name(&mut self) -> Name {
        name(["a", "b", "c", "d", "e", "f"][self.random.below(6)])
    }

    fn pick_request(&mut self, at: usize, number: i64) -> Option<Operation> {
        let when = time(number);
        Some(match self.random.below(22) {
            0..=6 => {
                let inode = self.some_inode(at, false)?;
                let count = 1 + self.random.below(3) as u64;
                let far = if self.random.percent(10) { FAR } else { 0 };
                let cell = far + self.random.below(6) as u64;
                Operation::Write {
                    inode,
                    offset: cell * CELL_BYTES,
                    data: bytes_of((0..count).map(|_| number as u32)),
                    time: Some(when),
                    mode: None,
                }
            }
            7 => Operation::SetAttributes {
                inode: self.some_inode(at, false)?,
                attributes: Attributes {
                    size: Some(self.random.below(8) as u64 * CELL_BYTES),
                    mtime: Some(when),
                    ..Attributes::default()
                },
            },
            8 => {
                let directory = self.random.percent(30);
                Operation::SetAttributes {
                    inode: self.some_inode(at, directory)?,
                    attributes: Attributes {
                        mode: Some(0o600 + number as u32 % 64),
                        ..Attributes::default()
                    },
                }
            }
            9 => Operation::SetXattr {
                inode: self.some_inode(at, false)?,
                name: XattrName::new(b"user.x").unwrap(),
                value: Bytes::from(number.to_string()),
                mode: XattrMode::Set,
                set_mode: None,
            },
            10 => Operation::Sync {
                inode: self.some_inode(at, false)?,
                data_only: false,
            },
            11 => {
                let (source, target) = (self.some_inode(at, false)?, self.some_inode(at, false)?);
                let size = self.node_of(at, source)?.size.min(4);
                if source == target || size == 0 {
                    return None;
                }
                Operation::CopyRange {
                    source,
                    source_offset: 0,
                    target,
                    target_offset: self.random.below(4) as u64 * CELL_BYTES,
                    length: size * CELL_BYTES,
                    time: Some(when),
                    set_mode: None,
                }
            }
            12..=14 => {
                if self.machines[at].disk.now.nodes.len() > INODES_MAX {
                    return None;
                }
                let parent = self.some_directory(at)?;
                let name = self.new_name();
                let kind = match self.random.percent(30) {
                    true => NodeKind::Directory,
                    false => NodeKind::File,
                };
                let inode = self.primary_side(at)?.known.next();
                Operation::Create(Create {
                    parent,
                    name,
                    inode,
                    kind,
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    acls: vec![],
                    time: when,
                })
            }
            15 => {
                let (inode, parent) = (self.some_inode(at, false)?, self.some_directory(at)?);
                if self.is_locked(at, inode) || self.links(at, inode) == 0 {
                    return None;
                }
                Operation::Link {
                    inode,
                    parent,
                    name: self.new_name(),
                    time: when,
                }
            }
            16 | 17 => {
                let parent = self.some_directory(at)?;
                let (name, inode) = self.some_name(at, parent)?;
                self.unlink(at, parent, name, inode, number)?
            }
            18..=20 => self.pick_rename(at, number)?,
            _ => {
                if self.random.percent(60) {
                    let parent = self.some_directory(at)?;
                    self.some_name(at, parent);
                } else {
                    self.forget(at);
                }
                return None;
            }
        })
    }

    pub(super) fn unlink(
        &mut self,
        at: usize,
        parent: InodeId,
        name: Name,
        inode: InodeId,
        number: i64,
    ) -> Option<Operation> {
        let node = self.node_of(at, inode)?;
        let (directory, last) = (node.is_directory, node.links == 1);
        Some(Operation::Unlink(Unlink {
            parent,
            name,
            directory,
            victim: Victim { inode, last },
            time: time(number),
        }))
    }

    fn pick_rename(&mut self, at: usize, number: i64) -> Option<Operation> {
        let source_parent = self.some_directory(at)?;
        let (source_name, moved) = self.some_name(at, source_parent)?;
        let target_parent = self.some_directory(at)?;
        let target_name = self.new_name();
        let exchange = self.random.percent(15);
        self.rename(
            at,
            (source_parent, source_name, moved),
            (target_parent, target_name),
            exchange,
            number,
        )
    }

    /// As the kernel asks for it; none where it refuses by itself.
    pub(super) fn rename(
        &mut self,
        at: usize,
        (source_parent, source_name, moved): (InodeId, Name, InodeId),
        (target_parent, target_name): (InodeId, Name),
        exchange: bool,
        number: i64,
    ) -> Option<Operation> {
        let is_there = self.node_of(at, target_parent)?.names.contains_key(&target_name);
        let replaced = match is_there {
            true => Some(self.look_up(at, target_parent, &target_name)?),
            false => None,
        };
        if replaced == Some(moved) || replaced.is_some_and(|inode| self.is_locked(at, inode)) {
            return None;
        }
        let Process::Primary(side) = &self.machines[at].process else {
            return None;
        };
        let tree = &self.machines[at].disk.now;
        let ino = |inode: InodeId| side.known.ino(inode);
        let (moved_ino, into) = (ino(moved)?, ino(target_parent)?);
        let circle = tree.is_above(moved_ino, into) && tree.get(moved_ino)?.is_directory;
        let other = match replaced {
            Some(inode) => tree.is_above(ino(inode)?, ino(source_parent)?),
            None => false,
        };
        if circle || other || target_parent == moved {
            return None;
        }
        // The kernel holds one lock for all renames of directories between directories.
        let between = source_parent != target_parent;
        if between
            && side
                .asked
                .values()
                .any(|asked| matches!(asked.operation, Operation::Rename(_)))
        {
            return None;
        }
        let exchange = exchange && replaced.is_some();
        Some(Operation::Rename(Rename {
            source_parent,
            source_name,
            target_parent,
            target_name,
            mode: match (exchange, replaced) {
                (true, _) => RenameMode::Exchange,
                (false, Some(_)) => RenameMode::Replace,
                (false, None) => RenameMode::NoReplace,
            },
            moved,
            replaced: replaced.map(|inode| Victim {
                inode,
                last: self.links(at, inode) == 1 && !exchange,
            }),
            time: time(number),
        }))
    }

    /// The kernel forgets an inode.
    fn forget(&mut self, at: usize) {
        let Some(inode) = self.some_inode(at, false) else {
            return;
        };
        let Some(side) = self.primary_side(at) else { return };
        if side
            .asked
            .values()
            .any(|asked| asked.operation.touches().contains(&inode))
        {
            return;
        }
        let Some(ino) = side.known.ino(inode) else { return };
        side.kernel.remove(&ino);
        side.lingering.insert(ino, inode);
        let mut actions = Vec::new();
        side.primary.forget(&[inode], &mut actions);
        self.obey_primary(at, actions);
        // An open file is not forgotten: this one has gone for good.
        let machine = &mut self.machines[at];
        if machine.disk.now.get(ino).is_some_and(|node| node.links == 0) && ino != TOP {
            machine.disk.now.nodes.remove(&ino);
        }
    }
}
