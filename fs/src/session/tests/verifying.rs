//! A verification in the middle of random runs: what is claimed is the same on both sides whenever it is looked at,
//! and what was changed behind the secondary's back is led back.

use super::model::{Model, time};
use super::pair::{Faults, Pair};
use crate::config::OnPeerLoss;
use crate::hash::HashMap;
use crate::operation::{Attributes, InodeId, Name, Operation};
use crate::random::Seed;
use crate::session::claims::{ClaimId, Scope};
use crate::session::coverage::Brought;
use crate::session::names::unfilled_handle;
use crate::session::primary::{self, Phase};
use bytes::Bytes;

/// Claims at a time.
const HELD_MAX: usize = 4;

/// The driver of a verification.
#[derive(Default)]
pub(super) struct Verifier {
    pub(super) wanted: bool,
    /// What differs is mended; else nothing may.
    mends: bool,
    next: u64,
    held: Vec<Held>,
    /// The inodes of either disk that were made by the same operation.
    made_here: HashMap<u64, InodeId>,
    made_there: HashMap<InodeId, u64>,
    looked: usize,
    over: usize,
    mended: usize,
    told: usize,
}

struct Held {
    claim: ClaimId,
    /// The name and what it led to when it was claimed.
    directory: InodeId,
    name: Name,
    inode: InodeId,
    granted: bool,
    mending: bool,
}

impl Pair {
    /// Both disks had these from the start.
    fn twin(&self, here: u64) -> Option<u64> {
        match self.verifier.made_here.get(&here) {
            Some(made) => self.verifier.made_there.get(made).copied(),
            None => Some(here),
        }
    }

    pub(super) fn note_made(&mut self, operation: &Operation, is_here: bool) {
        let Operation::Create(create) = operation else {
            return;
        };
        if is_here {
            let made = self.here.known[&create.inode];
            self.verifier.made_here.insert(made, create.inode);
        } else {
            let made = self.there.known[&create.inode];
            self.verifier.made_there.insert(create.inode, made);
        }
    }

    /// One step of the driver.
    pub(super) fn verify_step(&mut self) {
        if !self.verifier.wanted || !matches!(self.primary.phase(), Phase::InSync { .. }) {
            return;
        }
        if !self.primary.is_verifying() {
            self.primary(primary::Event::VerifyBegun);
            return;
        }
        self.verifier.told += self.primary.take_moved(3).len();
        let full = self.verifier.held.len() >= HELD_MAX;
        if full || (!self.verifier.held.is_empty() && self.random.percent(40)) {
            let at = self.random.below(self.verifier.held.len());
            if self.verifier.held[at].granted && !self.verifier.held[at].mending {
                self.look(at);
                if !self.verifier.held[at].mending {
                    let held = self.verifier.held.swap_remove(at);
                    let brought = Brought::default();
                    self.primary(primary::Event::Release {
                        claim: held.claim,
                        brought,
                    });
                }
            }
        } else {
            self.claim_something();
        }
    }

    fn claim_something(&mut self) -> Option<()> {
        // Found by a walk from the top, as it is on this disk at the moment.
        let mut directory = InodeId(1);
        for _ in 0..5 {
            let node = self.here.get(directory)?;
            let names: Vec<Name> = node.entries.keys().cloned().collect();
            let name = self.random.pick(&names)?.clone();
            let found = node.entries[&name];
            let is_directory = self.here.inodes[&found].directory;
            let inode = self.adopt(found);
            // What is mended is told of by its path, so that must have been claimed.
            let may_descend = !self.verifier.mends || self.primary.place_of(inode).is_some();
            if is_directory && may_descend && self.random.percent(70) {
                directory = inode;
                continue;
            }
            self.verifier.next += 1;
            let claim = ClaimId(self.verifier.next);
            self.verifier.held.push(Held {
                claim,
                directory,
                name: name.clone(),
                inode,
                granted: false,
                mending: false,
            });
            let scope = Scope {
                names: Some((directory, vec![name])),
                inodes: vec![inode],
                ranges: vec![(inode, 0..10)],
            };
            self.primary(primary::Event::Claim { claim, scope });
            return Some(());
        }
        None
    }

    pub(super) fn granted(&mut self, claim: ClaimId) {
        let at = self.verifier.held.iter().position(|held| held.claim == claim);
        let at = at.expect("what was claimed is granted");
        self.verifier.held[at].granted = true;
        if !self.verifier.mends {
            self.look(at);
        }
    }

    pub(super) fn verify_over(&mut self) {
        self.verifier.held.clear();
        self.verifier.over += 1;
    }

    pub(super) fn mended(&mut self, claim: ClaimId, result: Result<(), String>) {
        let at = self.verifier.held.iter().position(|held| held.claim == claim);
        let at = at.expect("what is claimed is mended");
        assert_eq!(result, Ok(()));
        self.verifier.held[at].mending = false;
        self.verifier.mended += 1;
        let held = &self.verifier.held[at];
        let (one, other) = self.behind(held).expect("it is held");
        assert!(self.is_same(one, other), "mended and not the same");
    }

    /// Both sides of what is held; none when the name leads elsewhere by now, or nowhere.
    fn behind(&self, held: &Held) -> Option<(u64, u64)> {
        let here = self.here.get(held.directory)?;
        let found = *here.entries.get(&held.name)?;
        (self.here.known.get(&held.inode) == Some(&found)).then_some(())?;
        let above = self.twin(self.here.known[&held.directory])?;
        let there = self.there.inodes[&above].entries.get(&held.name);
        assert_eq!(
            there.copied(),
            self.twin(found),
            "{} in {} is another there",
            held.name,
            held.directory
        );
        Some((found, *there?))
    }

    fn is_same(&self, one: u64, other: u64) -> bool {
        let what = |model: &Model, inode: u64| {
            let node = &model.inodes[&inode];
            (
                node.links,
                node.data.clone(),
                node.xattrs.clone(),
                node.mode,
                node.mtime,
            )
        };
        what(&self.here, one) == what(&self.there, other)
    }

    /// Whoever looks while it is held sees the same on both sides.
    fn look(&mut self, at: usize) {
        let held = &self.verifier.held[at];
        let Some((one, other)) = self.behind(held) else {
            return;
        };
        let (inode, directory, name) = (held.inode, held.directory, held.name.clone());
        self.verifier.looked += 1;
        self.primary.place(inode, directory, &name);
        if self.is_same(one, other) {
            return;
        }
        assert!(self.verifier.mends, "{inode} differs, and nobody changed it");
        let node = &self.here.inodes[&one];
        let mut operations = vec![Operation::Bind {
            inode,
            parent: directory,
            name: name.clone(),
            handle: unfilled_handle(),
        }];
        if !node.data.is_empty() {
            operations.push(Operation::Write {
                inode,
                offset: 0,
                data: Bytes::from(node.data.clone()),
                time: None,
                mode: None,
            });
        }
        operations.push(Operation::SetAttributes {
            inode,
            attributes: Attributes {
                size: (!node.directory).then_some(node.data.len() as u64),
                mode: Some(node.mode),
                mtime: Some(time(node.mtime)),
                ..Attributes::default()
            },
        });
        let claim = self.verifier.held[at].claim;
        self.verifier.held[at].mending = true;
        self.primary(primary::Event::Mend { claim, operations });
    }

    /// Somebody changes a file of the secondary.
    fn spoil_data(&mut self) {
        // Between a repair and the look that follows it nobody does.
        if self.verifier.held.iter().any(|held| held.mending) {
            return;
        }
        let mut files: Vec<u64> = self
            .there
            .inodes
            .iter()
            .filter(|(_, node)| !node.directory && node.links > 0)
            .map(|(inode, _)| *inode)
            .collect();
        files.sort_unstable();
        if let Some(inode) = self.random.pick(&files).copied()
            && let Some(node) = self.there.inodes.get_mut(&inode)
        {
            match node.data.last_mut() {
                Some(byte) => *byte ^= 1,
                None => node.mode ^= 0o100,
            }
        }
    }

    /// Looks at everything once more while nothing happens.
    fn sweep(&mut self) {
        for _ in 0..2000 {
            self.verify_step();
            self.quiesce();
        }
    }
}

fn run(seed: u64, faults: Faults, spoil: bool) -> Pair {
    let mut pair = Pair::new(seed, OnPeerLoss::Ask);
    pair.verifier.wanted = true;
    pair.verifier.mends = spoil;
    for step in 0..1200 {
        pair.step(&faults);
        if spoil && step % 100 == 50 {
            pair.spoil_data();
        }
    }
    pair.here.full = false;
    pair.quiesce();
    pair
}

/// Ends what is held: nothing may be kept from its end by it.
fn let_go(pair: &mut Pair) {
    pair.verifier.wanted = false;
    pair.primary(primary::Event::VerifyEnded);
    pair.verifier.held.clear();
    pair.quiesce();
}

#[test]
fn what_is_claimed_is_the_same_on_both_sides_and_everything_is_answered() {
    let (mut looked, mut told) = (0, 0);
    for seed in 0..100 {
        let _seed = Seed(seed);
        let mut pair = run(seed, Faults::default(), false);
        let_go(&mut pair);
        assert_eq!(pair.seen.lost, Vec::<&str>::new());
        assert!(pair.asked.is_empty());
        pair.check_equal();
        looked += pair.verifier.looked;
        told += pair.verifier.told;
    }
    assert!(looked > 1000 && told > 20, "{looked} {told}");
}

#[test]
fn broken_connections_refusals_and_full_disks_raise_no_false_alarm() {
    let (mut looked, mut over, mut repairs, mut rebound) = (0, 0, 0, 0);
    for seed in 0..100 {
        let _seed = Seed(seed);
        let faults = Faults {
            cut: 1,
            primary_full: 6,
            unbound: 2,
            ..Faults::default()
        };
        let mut pair = run(seed, faults, false);
        let_go(&mut pair);
        looked += pair.verifier.looked;
        over += pair.verifier.over;
        repairs += pair.seen.repairs;
        rebound += pair.seen.rebound;
        if pair.seen.lost.is_empty() {
            assert!(pair.asked.is_empty());
            pair.check_equal();
        }
    }
    assert!(
        looked > 200 && over > 50 && repairs > 20 && rebound > 5,
        "{looked} {over} {repairs} {rebound}"
    );
}

#[test]
fn what_was_changed_behind_the_secondarys_back_is_the_same_in_the_end() {
    let mut mended = 0;
    for seed in 0..40 {
        let _seed = Seed(seed);
        let faults = Faults {
            cut: 1,
            ..Faults::default()
        };
        let mut pair = run(seed, faults, true);
        pair.sweep();
        let_go(&mut pair);
        assert!(pair.asked.is_empty());
        assert_eq!(pair.here.listing(), pair.there.listing());
        mended += pair.verifier.mended;
    }
    assert!(mended > 40, "{mended}");
}
