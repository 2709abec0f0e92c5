//! What the driver of a copy or a verification holds back for a moment: names, whole inodes, ranges of files.
//!
//! It claims what it is about to read on both sides. The claim is granted once no operation under way touches it;
//! later ones are held back until it is released. So what is read belongs to one point of the order, and order needs
//! no numbers. No I/O.

use super::pending::{Slot, entries};
use crate::hash::{HashMap, HashSet};
use crate::operation::{InodeId, Name, Operation};
use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::ops::Range;
use std::time::Duration;

/// Names a claim. The driver chooses it, each once in a copy or a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimId(pub u64);

/// What a claim is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Names in this directory.
    pub names: Option<(InodeId, Vec<Name>)>,
    /// Inodes as a whole.
    pub inodes: Vec<InodeId>,
    /// Ranges of files' data, in bytes.
    pub ranges: Vec<(InodeId, Range<u64>)>,
}

#[derive(Debug)]
struct Claim {
    scope: Scope,
    /// Operations under way that must end first.
    waits: HashSet<Slot>,
    /// Since when it holds operations back for what is read and sent.
    granted: Option<Duration>,
}

/// The claims that are held or wait to be granted. Several may be about the same.
///
/// A claim waits for numbered operations only, and those wait for no claim: so claims may be asked for while others
/// are held.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claims: BTreeMap<ClaimId, Claim>,
    /// How many claims are about each.
    names: HashMap<(InodeId, Name), u32>,
    inodes: HashMap<InodeId, u32>,
    ranges: HashMap<InodeId, Vec<(ClaimId, Range<u64>)>>,
}

impl Claims {
    /// None is held, and none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// All are over.
    pub(super) fn clear(&mut self) {
        *self = Claims::default();
    }

    /// True while a claim holds the operation back.
    pub(super) fn blocks(&self, operation: &Operation) -> bool {
        if self.claims.is_empty() || operation.is_sync() {
            return false;
        }
        let touched = operation.touched();
        if !self.inodes.is_empty() && touched.iter().any(|inode| self.inodes.contains_key(inode)) {
            return true;
        }
        // A file that loses its last name is gone on the other side while its data is on the way.
        let is_name_operation = operation.is_name_operation();
        let in_range = |inode: &InodeId| {
            let ranges = self.ranges.get(inode);
            let mut ranges = ranges.into_iter().flatten();
            ranges.any(|(_, range)| is_name_operation || reaches(operation, *inode, range))
        };
        if !self.ranges.is_empty() && touched.iter().any(in_range) {
            return true;
        }
        is_name_operation
            && !self.names.is_empty()
            && entries(operation)
                .into_iter()
                .any(|entry| self.names.contains_key(&entry))
    }

    /// Claims `scope`; `under_way` are all operations that have a slot. True when it is granted at once.
    pub(super) fn claim<'a>(
        &mut self,
        id: ClaimId,
        scope: Scope,
        under_way: impl Iterator<Item = (Slot, &'a Operation)>,
        now: Duration,
    ) -> bool {
        let colliding = under_way.filter(|(_, operation)| collides(operation, &scope));
        let waits: HashSet<Slot> = colliding.map(|(slot, _)| slot).collect();
        if let Some((directory, names)) = &scope.names {
            for name in names {
                *self.names.entry((*directory, name.clone())).or_default() += 1;
            }
        }
        for inode in &scope.inodes {
            *self.inodes.entry(*inode).or_default() += 1;
        }
        for (inode, range) in &scope.ranges {
            let ranges = self.ranges.entry(*inode).or_default();
            ranges.push((id, range.clone()));
        }
        let granted = waits.is_empty();
        let claim = Claim {
            scope,
            waits,
            granted: granted.then_some(now),
        };
        self.claims.insert(id, claim);
        granted
    }

    /// An operation under way has ended; appends the claims that are granted by it.
    pub(super) fn ended(&mut self, slot: Slot, now: Duration, granted: &mut Vec<ClaimId>) {
        for (id, claim) in &mut self.claims {
            if claim.waits.remove(&slot) && claim.waits.is_empty() {
                claim.granted = Some(now);
                granted.push(*id);
            }
        }
    }

    /// An operation under way goes on under another slot.
    pub(super) fn renumbered(&mut self, before: Slot, after: Slot) {
        for claim in self.claims.values_mut() {
            if claim.waits.remove(&before) {
                claim.waits.insert(after);
            }
        }
    }

    /// Since when the claim that was granted first is held.
    pub(super) fn oldest_granted(&self) -> Option<Duration> {
        self.claims.values().filter_map(|claim| claim.granted).min()
    }

    /// Gives a claim back; what it was about, if there is such a claim.
    pub(super) fn release(&mut self, id: ClaimId) -> Option<Scope> {
        let Claim { scope, .. } = self.claims.remove(&id)?;
        for inode in &scope.inodes {
            count_down(&mut self.inodes, *inode);
        }
        for (inode, _) in &scope.ranges {
            if let Some(ranges) = self.ranges.get_mut(inode) {
                ranges.retain(|(other, _)| *other != id);
                if ranges.is_empty() {
                    self.ranges.remove(inode);
                }
            }
        }
        if let Some((directory, names)) = &scope.names {
            for name in names {
                count_down(&mut self.names, (*directory, name.clone()));
            }
        }
        Some(scope)
    }

    /// The inodes of a claim; those without a name any more are gone for the other side.
    pub(super) fn inodes_of(&self, id: ClaimId) -> impl Iterator<Item = InodeId> {
        let scope = self.claims.get(&id).map(|claim| &claim.scope);
        scope.into_iter().flat_map(|scope| {
            let directory = scope.names.iter().map(|(directory, _)| *directory);
            let files = scope.ranges.iter().map(|(inode, _)| *inode);
            directory.chain(files).chain(scope.inodes.iter().copied())
        })
    }
}

fn count_down<K: Eq + Hash>(counts: &mut HashMap<K, u32>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// True when the operation changes data of `inode` within `range`, or its size.
fn reaches(operation: &Operation, inode: InodeId, range: &Range<u64>) -> bool {
    let overlaps =
        |offset: u64, length: u64| offset < range.end && range.start < offset.saturating_add(length);
    match operation {
        Operation::Write { offset, data, .. } => overlaps(*offset, data.len() as u64),
        Operation::Fallocate { offset, length, .. } => overlaps(*offset, *length),
        Operation::CopyRange {
            target,
            target_offset,
            length,
            ..
        } => *target == inode && overlaps(*target_offset, *length),
        Operation::SetAttributes { attributes, .. } => attributes.size.is_some(),
        Operation::Bind { .. }
        | Operation::Create(_)
        | Operation::Link { .. }
        | Operation::Unlink(_)
        | Operation::Rename(_)
        | Operation::SetXattr { .. }
        | Operation::RemoveXattr { .. }
        | Operation::Sync { .. }
        | Operation::Checkpoint => false,
    }
}

/// True when an operation under way touches what a claim is about.
fn collides(operation: &Operation, scope: &Scope) -> bool {
    if operation.is_sync() {
        return false;
    }
    let touched = operation.touched();
    let by_name = || {
        let Some((directory, names)) = &scope.names else {
            return false;
        };
        let named = |(parent, name): (InodeId, Name)| parent == *directory && names.contains(&name);
        operation.is_name_operation() && entries(operation).into_iter().any(named)
    };
    let by_range = || {
        scope.ranges.iter().any(|(inode, range)| {
            touched.contains(inode) && (reaches(operation, *inode, range) || operation.is_name_operation())
        })
    };
    touched.iter().any(|inode| scope.inodes.contains(inode)) || by_name() || by_range()
}
