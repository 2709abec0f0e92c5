//! Orders for a run that is not left to chance: requests by path, and what is waited for.

use super::application::name;
use super::disk::CELL_BYTES;
use super::machine::Process;
use super::primary::Work;
use super::secondary::Note;
use super::store::{bytes_of, time};
use super::world::{Faults, Kind, World};
use crate::config::Durability;
use crate::operation::{Attributes, Create, InodeId, Name, NodeKind, Operation};
use crate::session::primary::{Phase, Ticket};
use std::time::Duration;

/// Everything but new requests.
pub(super) const ALL: [Kind; 8] = [
    Kind::DeliverThere,
    Kind::DeliverHere,
    Kind::Secondary,
    Kind::Primary,
    Kind::Copy,
    Kind::Tick,
    Kind::Call,
    Kind::Brain,
];
/// The primary by itself: nothing reaches the secondary, and nothing comes from it.
pub(super) const HERE: [Kind; 2] = [Kind::Primary, Kind::Tick];

impl World {
    /// A pair in sync. The application asks for nothing by itself.
    pub(super) fn paired(seed: u64) -> Self {
        let mut world = World::new(seed, Durability::Disk);
        world.heal();
        world.application.is_quiet = true;
        world
    }

    pub(super) fn at(&self) -> usize {
        self.primary_at().expect("a primary")
    }

    /// Things of these kinds happen until it is so.
    pub(super) fn until(&mut self, kinds: &[Kind], what: &str, is_so: impl Fn(&mut World) -> bool) {
        for _ in 0..60_000 {
            if is_so(self) {
                return;
            }
            let kind = kinds[self.random.below(kinds.len())];
            self.one(kind);
        }
        panic!("it does not come to be: {what}");
    }

    /// So many things happen.
    pub(super) fn some(&mut self, kinds: &[Kind], count: usize) {
        for _ in 0..count {
            let kind = kinds[self.random.below(kinds.len())];
            self.one(kind);
        }
    }

    fn directory_of<'a>(&mut self, path: &'a str) -> (InodeId, &'a str) {
        match path.rsplit_once('/') {
            None => (InodeId::root(0), path),
            Some((above, last)) => (self.find(above), last),
        }
    }

    /// The inode at a path.
    pub(super) fn find(&mut self, path: &str) -> InodeId {
        let (directory, last) = self.directory_of(path);
        let at = self.at();
        self.look_up(at, directory, &name(last))
            .unwrap_or_else(|| panic!("{path} is there"))
    }

    fn next_number(&mut self) -> i64 {
        self.application.last += 1;
        self.application.last
    }

    pub(super) fn ask_create(&mut self, path: &str, kind: NodeKind) -> Ticket {
        let (parent, last) = self.directory_of(path);
        let (at, number) = (self.at(), self.next_number());
        let inode = self.primary_side(at).expect("a primary").known.next();
        let create = Create {
            parent,
            name: name(last),
            inode,
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            acls: vec![],
            time: time(number),
        };
        self.submit(at, Operation::Create(create))
    }

    /// Writes `count` cells from `cell` on.
    pub(super) fn ask_write(&mut self, path: &str, cell: u64, count: u64) -> Ticket {
        let inode = self.find(path);
        self.ask_write_to(inode, cell, count)
    }

    pub(super) fn ask_write_to(&mut self, inode: InodeId, cell: u64, count: u64) -> Ticket {
        let (at, number) = (self.at(), self.next_number());
        let data = bytes_of((0..count).map(|_| number as u32));
        let write = Operation::Write {
            inode,
            offset: cell * CELL_BYTES,
            data,
            time: Some(time(number)),
            mode: None,
        };
        self.submit(at, write)
    }

    pub(super) fn ask_truncate(&mut self, path: &str, cells: u64) -> Ticket {
        let inode = self.find(path);
        let (at, number) = (self.at(), self.next_number());
        let attributes = Attributes {
            size: Some(cells * CELL_BYTES),
            mtime: Some(time(number)),
            ..Attributes::default()
        };
        self.submit(at, Operation::SetAttributes { inode, attributes })
    }

    pub(super) fn ask_sync(&mut self, path: &str) -> Ticket {
        let inode = self.find(path);
        let at = self.at();
        self.next_number();
        self.submit(
            at,
            Operation::Sync {
                inode,
                data_only: false,
            },
        )
    }

    pub(super) fn ask_link(&mut self, from: &str, to: &str) -> Ticket {
        let (inode, (parent, last)) = (self.find(from), self.directory_of(to));
        let (at, number) = (self.at(), self.next_number());
        self.submit(
            at,
            Operation::Link {
                inode,
                parent,
                name: name(last),
                time: time(number),
            },
        )
    }

    pub(super) fn ask_unlink(&mut self, path: &str) -> Ticket {
        let (inode, (parent, last)) = (self.find(path), self.directory_of(path));
        let (at, number) = (self.at(), self.next_number());
        let unlink = self
            .unlink(at, parent, name(last), inode, number)
            .expect("it is there");
        self.submit(at, unlink)
    }

    pub(super) fn ask_rename(&mut self, from: &str, to: &str) -> Ticket {
        let moved = self.find(from);
        let ((source, old), (target, new)) = (self.directory_of(from), self.directory_of(to));
        let (at, number) = (self.at(), self.next_number());
        let (from, to): ((InodeId, Name, InodeId), _) = ((source, name(old), moved), (target, name(new)));
        let rename = self
            .rename(at, from, to, false, number)
            .expect("the kernel asks for it");
        self.submit(at, rename)
    }

    pub(super) fn is_answered(&self, ticket: Ticket) -> bool {
        match &self.machines[self.at()].process {
            Process::Primary(side) => !side.asked.contains_key(&ticket),
            _ => false,
        }
    }

    /// Waits for the answer.
    pub(super) fn done(&mut self, ticket: Ticket) {
        self.until(&ALL, "an answer", |world| world.is_answered(ticket));
    }

    pub(super) fn make(&mut self, path: &str, kind: NodeKind) {
        let ticket = self.ask_create(path, kind);
        self.done(ticket);
    }

    /// A file with so many cells.
    pub(super) fn file(&mut self, path: &str, cells: u64) {
        self.make(path, NodeKind::File);
        self.write(path, 0, cells);
    }

    /// As [`World::ask_write`], answered; so with those below.
    pub(super) fn write(&mut self, path: &str, cell: u64, count: u64) {
        let ticket = self.ask_write(path, cell, count);
        self.done(ticket);
    }

    pub(super) fn moves(&mut self, from: &str, to: &str) {
        let ticket = self.ask_rename(from, to);
        self.done(ticket);
    }

    pub(super) fn links_to(&mut self, from: &str, to: &str) {
        let ticket = self.ask_link(from, to);
        self.done(ticket);
    }

    pub(super) fn removes(&mut self, path: &str) {
        let ticket = self.ask_unlink(path);
        self.done(ticket);
    }

    pub(super) fn syncs(&mut self, path: &str) {
        let ticket = self.ask_sync(path);
        self.done(ticket);
    }

    /// Nothing gets through from now on, and the primary goes on alone.
    pub(super) fn alone(&mut self) {
        self.cut_for(Duration::from_secs(1_000_000));
        self.until(&ALL, "alone", |world| {
            let at = world.at();
            matches!(world.phase(at), Some(Phase::Alone(_)))
        });
    }

    /// A checkpoint has just been numbered.
    pub(super) fn checkpointing(&mut self, path: &str) {
        for _ in 0..100 {
            self.ask_write(path, 0, 1);
            for _ in 0..400 {
                let at = self.at();
                if self
                    .primary_side(at)
                    .is_some_and(|side| side.primary.has_sealed_marks())
                {
                    return;
                }
                self.some(&ALL, 1);
            }
        }
        panic!("no checkpoint begins");
    }

    /// Until both nodes have everything on disk and it is noted.
    pub(super) fn checkpointed(&mut self) {
        self.until(&ALL, "no marks", |world| {
            let at = world.at();
            world
                .primary_side(at)
                .is_some_and(|side| side.primary.has_no_marks() && side.work.is_empty())
        });
    }

    /// The last of a series of things that may have to be waited for: everything is brought together again.
    pub(super) fn heals(&mut self) {
        self.heal();
        self.application.is_quiet = true;
    }

    /// The copy has begun and the source waits for something.
    pub(super) fn copying(&mut self) {
        self.uncut();
        self.until(&ALL, "a copy", |world| {
            let at = world.at();
            world.primary_side(at).is_some_and(|side| side.attempt.is_some())
        });
    }

    /// A machine has written a record to its volume and not to its state directory.
    pub(super) fn is_between_records(&self, at: usize) -> bool {
        match &self.machines[at].process {
            Process::Primary(side) => side.work.iter().any(|work| matches!(work, Work::File(..))),
            Process::Secondary(side) => side.notes.iter().any(|note| matches!(note, Note::File(..))),
            _ => false,
        }
    }

    /// Chance decides for a while, without faults but those.
    pub(super) fn chance(&mut self, steps: usize, faults: &Faults) {
        self.application.is_quiet = false;
        for _ in 0..steps {
            self.step(faults);
        }
        self.application.is_quiet = true;
    }
}
