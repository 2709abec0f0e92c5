//! What a primary keeps in mind for a verification, which compares both copies while they change.
//!
//! The driver (`resync/verify.rs`) walks the tree, and what moves meanwhile may move past it: out of a directory that
//! it has yet to look at into one that it has seen. Such inodes are told once more, each once. What was made since it
//! began came to both copies in order and is not looked for.
//!
//! Two copies are compared under claims ([`super::claims`]) whenever they seem to differ, and are mended under them:
//! by operations of the session that the secondary alone applies. So a repair has its place in the order, is sent
//! again over a new connection, and is marked as any other change.

use super::claims::ClaimId;
use crate::hash::{HashMap, HashSet};
use crate::operation::{InodeId, Operation, RenameMode, Victim};
use std::collections::BTreeSet;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Verification {
    /// Made since it began, and not removed. One number for each.
    born: HashSet<InodeId>,
    /// Got a name since, and the driver was not told yet.
    moved: BTreeSet<InodeId>,
    /// It was.
    told: HashSet<InodeId>,
    /// Repairs under way.
    mends: HashMap<ClaimId, Mend>,
}

/// A repair: operations that the secondary has yet to answer.
#[derive(Debug, Default)]
struct Mend {
    left: usize,
    failure: Option<String>,
}

impl Verification {
    /// An operation is numbered. Gives the inodes whose place must be known until the driver has asked.
    pub(super) fn numbered(&mut self, operation: &Operation) -> Vec<InodeId> {
        let mut moved = Vec::new();
        match operation {
            Operation::Create(create) => {
                self.born.insert(create.inode);
            }
            Operation::Link { inode, .. } => moved.push(*inode),
            Operation::Unlink(unlink) => self.lose(unlink.victim),
            Operation::Rename(rename) => {
                moved.push(rename.moved);
                match (rename.mode, rename.replaced) {
                    (RenameMode::Exchange, Some(other)) => moved.push(other.inode),
                    (RenameMode::Replace | RenameMode::NoReplace, Some(victim)) => self.lose(victim),
                    (_, None) => {}
                }
            }
            Operation::Bind { .. }
            | Operation::Write { .. }
            | Operation::SetAttributes { .. }
            | Operation::Fallocate { .. }
            | Operation::CopyRange { .. }
            | Operation::SetXattr { .. }
            | Operation::RemoveXattr { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => {}
        }
        moved.retain(|inode| !self.born.contains(inode) && !self.told.contains(inode));
        self.moved.extend(&moved);
        moved
    }

    fn lose(&mut self, victim: Victim) {
        if victim.last {
            self.born.remove(&victim.inode);
        }
    }

    /// At most `most` inodes that moved and were not told.
    pub(super) fn take_moved(&mut self, most: usize) -> Vec<InodeId> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(inode) = self.moved.pop_first()
        {
            self.told.insert(inode);
            taken.push(inode);
        }
        taken
    }

    /// One more operation of a repair is sent.
    pub(super) fn mending(&mut self, claim: ClaimId) {
        self.mends.entry(claim).or_default().left += 1;
    }

    /// A repair cannot be sent as a whole.
    pub(super) fn spoil_mend(&mut self, claim: ClaimId, failure: String) {
        self.mends
            .entry(claim)
            .or_default()
            .failure
            .get_or_insert(failure);
    }

    /// The secondary answered one.
    pub(super) fn mended(&mut self, claim: ClaimId, failure: Option<String>) {
        if let Some(mend) = self.mends.get_mut(&claim) {
            mend.left = mend.left.saturating_sub(1);
            if mend.failure.is_none() {
                mend.failure = failure;
            }
        }
    }

    /// How a repair ended of which nothing is unanswered; once.
    pub(super) fn take_mended(&mut self, claim: ClaimId) -> Option<Result<(), String>> {
        self.mends.get(&claim).filter(|mend| mend.left == 0)?;
        let mend = self.mends.remove(&claim)?;
        Some(mend.failure.map_or(Ok(()), Err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{Create, Name, NodeKind, Rename, Timestamp, Unlink};

    const TIME: Timestamp = Timestamp {
        seconds: 1,
        nanoseconds: 0,
    };

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn create(inode: u64) -> Operation {
        Operation::Create(Create {
            parent: InodeId(1),
            name: name("new"),
            inode: InodeId(inode),
            kind: NodeKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            acls: vec![],
            time: TIME,
        })
    }

    fn rename(moved: u64, mode: RenameMode, replaced: Option<Victim>) -> Operation {
        Operation::Rename(Rename {
            source_parent: InodeId(1),
            source_name: name("a"),
            target_parent: InodeId(1),
            target_name: name("b"),
            mode,
            moved: InodeId(moved),
            replaced,
            time: TIME,
        })
    }

    fn victim(inode: u64, last: bool) -> Victim {
        Victim {
            inode: InodeId(inode),
            last,
        }
    }

    #[test]
    fn what_moved_is_told_once_and_what_is_new_never() {
        let mut verification = Verification::default();
        verification.numbered(&create(9));
        verification.numbered(&rename(9, RenameMode::Replace, None));
        assert_eq!(verification.take_moved(10), []);
        let moved = verification.numbered(&rename(5, RenameMode::Replace, Some(victim(6, true))));
        assert_eq!(moved, [InodeId(5)]);
        verification.numbered(&rename(7, RenameMode::Exchange, Some(victim(8, false))));
        verification.numbered(&Operation::Link {
            inode: InodeId(4),
            parent: InodeId(1),
            name: name("c"),
            time: TIME,
        });
        assert_eq!(verification.take_moved(3), [4, 5, 7].map(InodeId));
        assert_eq!(verification.numbered(&rename(5, RenameMode::Replace, None)), []);
        assert_eq!(verification.take_moved(3), [InodeId(8)]);
        assert_eq!(verification.take_moved(3), []);
    }

    #[test]
    fn what_was_made_and_removed_is_not_remembered() {
        let mut verification = Verification::default();
        verification.numbered(&create(9));
        verification.numbered(&Operation::Unlink(Unlink {
            parent: InodeId(1),
            name: name("new"),
            directory: false,
            victim: victim(9, true),
            time: TIME,
        }));
        verification.numbered(&create(10));
        verification.numbered(&rename(11, RenameMode::Replace, Some(victim(10, true))));
        assert!(verification.born.is_empty());
    }

    #[test]
    fn a_repair_ends_with_its_last_answer_and_the_first_failure() {
        let (mut verification, claim) = (Verification::default(), ClaimId(1));
        assert_eq!(verification.take_mended(claim), None);
        for _ in 0..3 {
            verification.mending(claim);
        }
        verification.mended(claim, None);
        verification.mended(claim, Some("one".into()));
        assert_eq!(verification.take_mended(claim), None);
        verification.mended(claim, Some("two".into()));
        assert_eq!(verification.take_mended(claim), Some(Err("one".into())));
        assert_eq!(verification.take_mended(claim), None);
    }
}
