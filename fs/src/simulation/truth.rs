//! What must be there: every change that was answered, and none of those that were not or each of them whole.

use super::disk::{Disk, Ino, TOP, Tree};
use super::primary::Asked;
use super::store::{self, Known};
use crate::hash::HashMap;
use crate::operation::{Applied, Errno, InodeId, Operation, Outcome};
use std::collections::BTreeMap;

/// See the module. Inodes here are called otherwise than on any disk.
pub(super) struct Truth {
    disk: Disk,
    /// What the inodes of the present primary's disk are here.
    inos: HashMap<Ino, Ino>,
    /// Requests that were under way when their primary died, with what their inodes are here.
    maybe: Vec<(Operation, Known)>,
    /// Whose copy has everything that was answered, apart from what a power loss took.
    pub(super) holds: [bool; 2],
    /// Whose copy has everything and does not count yet: its record says that it is mixed.
    pub(super) has_all: [bool; 2],
    /// Whose machine has lost power since then.
    pub(super) lost_power: [bool; 2],
}

impl Truth {
    pub(super) fn new() -> Self {
        Truth {
            disk: Disk::new(),
            inos: HashMap::from_iter([(TOP, TOP)]),
            maybe: Vec::new(),
            holds: [true; 2],
            has_all: [false; 2],
            lost_power: [false; 2],
        }
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.disk.now
    }

    fn known(&self, asked: &Asked) -> Known {
        let mut known = Known::new();
        for (inode, ino) in &asked.inos {
            if let Some(here) = self.inos.get(ino) {
                known.learn(*inode, *here);
            }
        }
        known
    }

    /// A request was answered well. `made` is what it made on the primary's disk.
    pub(super) fn answered(&mut self, asked: &Asked, made: Option<(InodeId, Ino)>) {
        let mut known = self.known(asked);
        let outcome = store::apply(&mut self.disk, &mut known, &asked.operation);
        assert!(
            matches!(outcome, Outcome::Applied(Applied { .. })),
            "answered well, and impossible: {:?} {outcome:?}",
            asked.operation
        );
        self.disk.sync_all();
        if let Some((inode, ino)) = made {
            self.inos.insert(ino, known.ino(inode).expect("it was made"));
        }
    }

    /// The primary has died while these were under way.
    pub(super) fn cut_off(&mut self, asked: Vec<Asked>) {
        for one in asked {
            let known = self.known(&one);
            self.maybe.push((one.operation, known));
        }
        self.disk.close_all();
    }

    /// A node takes over with `tree`. What does not fit, if so.
    pub(super) fn take_over(&mut self, tree: &Tree) -> Result<(), String> {
        let count = self.maybe.len().min(12);
        for some in 0..1_u32 << count {
            // Those first that leave nothing out.
            let chosen = !some;
            let mut disk = self.disk.clone();
            for (at, (operation, known)) in self.maybe.iter().enumerate() {
                if chosen & 1 << at != 0 {
                    store::apply(&mut disk, &mut known.clone(), operation);
                }
            }
            disk.sync_all();
            disk.close_all();
            let mut pairs = BTreeMap::new();
            if tree.equals(&disk.now, &mut pairs) {
                self.disk = disk;
                self.maybe.clear();
                self.inos = pairs.into_iter().collect();
                return Ok(());
            }
        }
        let maybe: Vec<&Operation> = self.maybe.iter().map(|(operation, _)| operation).collect();
        let difference = self.disk.now.difference(tree);
        Err(format!("{difference}\nperhaps: {maybe:?}"))
    }

    /// A power loss has taken what nobody else has: what is left is the truth.
    pub(super) fn adopt(&mut self, tree: &Tree) {
        self.disk = Disk::of(tree.clone());
        self.disk.close_all();
        self.inos = tree.nodes.keys().map(|ino| (*ino, *ino)).collect();
        self.maybe.clear();
    }
}

/// Whether a result changes what must be there.
pub(super) fn counts(operation: &Operation, result: &Result<Applied, Errno>) -> bool {
    result.is_ok() && !operation.is_sync()
}
