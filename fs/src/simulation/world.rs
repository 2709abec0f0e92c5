//! Two machines, what is between them, an application, and everything that may happen to them.

use super::application::Application;
use super::disk::{Disk, Ino, Tree};
use super::machine::{Durable, Machine, Process};
use super::primary::PEER_STALL;
use super::secondary::Leaves;
use super::truth::{Truth, counts};
pub(super) use super::wire::Call;
use super::wire::Wire;
use crate::config::Durability;
use crate::operation::{Applied, Errno, InodeId, Operation};
use crate::random::Random;
use crate::record::Record;
use crate::record::decision::{CopyState, Meeting, meet};
use crate::record::split_brain::Policy;
use crate::resync::lane::CopyError;
use crate::session::primary::{Event, Phase, Ticket};
use crate::session::secondary;
use crate::wire::message::Generation;
use std::collections::BTreeMap;
use std::time::Duration;

/// What may go wrong, in ten thousand steps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// A connection breaks.
    pub(super) disconnect: usize,
    /// Nothing gets through for a while.
    pub(super) cut: usize,
    pub(super) kill: usize,
    pub(super) lose_power: usize,
    /// Both machines at once.
    pub(super) lose_all_power: usize,
    /// The primary ends cleanly; who is primary afterwards is open.
    pub(super) end: usize,
    /// The secondary is stopped.
    pub(super) leave: usize,
    /// A machine is put back to what it was at some earlier moment.
    pub(super) restore: usize,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The application asks for something.
    Request,
    /// A frame arrives at the secondary.
    DeliverThere,
    /// A frame arrives at the primary.
    DeliverHere,
    /// An operation or a note of the secondary ends.
    Secondary,
    /// An operation, a note or a write of marks of the primary ends.
    Primary,
    /// The source of a copy gets its answer.
    Copy,
    /// Time passes.
    Tick,
    /// The primary calls.
    Call,
    /// Somebody is started, or takes over.
    Brain,
}

/// What happened in a run, to see that runs are not empty.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) answered: u64,
    pub(super) in_sync: u64,
    pub(super) parted: u64,
    pub(super) copies: u64,
    pub(super) copies_done: u64,
    pub(super) needed_whole: u64,
    pub(super) takeovers: u64,
    pub(super) forced: u64,
    pub(super) split_brains: u64,
    /// Nodes that took over although their peer had gone on alone, or did so again.
    pub(super) forks: u64,
    pub(super) archives: u64,
    pub(super) restored: u64,
    pub(super) lost_for_good: u64,
    pub(super) kills: u64,
    pub(super) power_losses: u64,
    pub(super) ends: u64,
    pub(super) went_wrong: u64,
}

impl Seen {
    pub(super) fn add(&mut self, other: &Seen) {
        let pairs = [
            (&mut self.answered, other.answered),
            (&mut self.in_sync, other.in_sync),
            (&mut self.parted, other.parted),
            (&mut self.copies, other.copies),
            (&mut self.copies_done, other.copies_done),
            (&mut self.needed_whole, other.needed_whole),
            (&mut self.takeovers, other.takeovers),
            (&mut self.forced, other.forced),
            (&mut self.split_brains, other.split_brains),
            (&mut self.forks, other.forks),
            (&mut self.archives, other.archives),
            (&mut self.restored, other.restored),
            (&mut self.lost_for_good, other.lost_for_good),
            (&mut self.kills, other.kills),
            (&mut self.power_losses, other.power_losses),
            (&mut self.ends, other.ends),
            (&mut self.went_wrong, other.went_wrong),
        ];
        for (sum, more) in pairs {
            *sum += more;
        }
    }
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Duration,
    pub(super) machines: [Machine; 2],
    pub(super) wire: Wire,
    pub(super) truth: Truth,
    pub(super) application: Application,
    pub(super) seen: Seen,
    /// No checkpoint can be noted on the primary.
    pub(super) notes_fail: bool,
    /// Until when nothing gets through.
    cut_until: Duration,
    snapshots: [Option<(Disk, Durable)>; 2],
    /// Put back to an earlier state, and not in sync since.
    is_restored: [bool; 2],
    /// Nobody keeps a node from taking over while its peer goes on alone.
    pub(super) forks: bool,
    /// Of a copy that was changed apart from the truth: what both had before.
    branches: [Option<Tree>; 2],
    /// What was put aside of a copy.
    pub(super) archived: [Option<Tree>; 2],
    /// What the secondary's configuration says.
    pub(super) policy: Policy,
    /// Whom a person wants to be primary after a split brain.
    preferred: Option<usize>,
    seed: u64,
    trace: Vec<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.trace.len().saturating_sub(400);
            eprintln!("seed {}\n{}", self.seed, self.trace[from..].join("\n"));
        }
        for at in 0..2 {
            self.stop_copying(at);
        }
    }
}

impl World {
    pub(super) fn new(seed: u64, durability: Durability) -> Self {
        let mut random = Random(seed);
        let machines = [
            Machine::new(&mut random, durability),
            Machine::new(&mut random, durability),
        ];
        World {
            random,
            now: Duration::from_secs(1000),
            machines,
            wire: Wire::default(),
            truth: Truth::new(),
            application: Application::default(),
            seen: Seen::default(),
            notes_fail: false,
            cut_until: Duration::ZERO,
            snapshots: [None, None],
            is_restored: [false; 2],
            forks: false,
            branches: [None, None],
            archived: [None, None],
            policy: Policy::default(),
            preferred: None,
            seed,
            trace: Vec::new(),
        }
    }

    pub(super) fn told(&mut self, at: usize, what: &str) {
        let name = ["a", "b"][at];
        self.trace.push(format!("{:?} {name} {what}", self.now));
    }

    /// What was done, in order.
    pub(super) fn trace(&self) -> &[String] {
        &self.trace
    }

    pub(super) fn primary_at(&self) -> Option<usize> {
        (0..2).find(|at| matches!(self.machines[*at].process, Process::Primary(_)))
    }

    /// Somebody starts with a copy.
    pub(super) fn taken_over(&mut self, at: usize) {
        assert!(self.primary_at().is_none(), "two primaries");
        self.seen.takeovers += 1;
        self.preferred = None;
        if self.forks && !self.truth.holds[at] {
            self.fork(at);
        }
        assert!(
            self.truth.holds[at],
            "an old copy becomes primary: {:?}",
            self.machines[at].record()
        );
        let tree = &self.machines[at].disk.now;
        if let Err(difference) = self.truth.take_over(tree) {
            let other = self.truth.holds[1 - at] && !self.truth.lost_power[1 - at];
            assert!(
                self.truth.lost_power[at] && !other,
                "answered and lost: {difference}"
            );
            self.truth.adopt(&self.machines[at].disk.now);
            self.truth.holds[1 - at] = false;
            self.seen.lost_for_good += 1;
        }
        self.truth.lost_power[at] = false;
    }

    /// A node takes over without what the other one has answered alone: from now on its own copy is the truth, and the
    /// other one's has changes that may not be lost.
    fn fork(&mut self, at: usize) {
        self.told(at, "takes over apart from the other one");
        self.seen.forks += 1;
        let tree = self.machines[at].disk.now.clone();
        let before = self.branches[at].take().unwrap_or_else(|| tree.clone());
        self.branches[1 - at] = Some(before);
        self.archived = [None, None];
        self.truth.adopt(&tree);
        self.truth.holds = [at == 0, at == 1];
        self.truth.has_all = [false; 2];
        self.truth.lost_power = [false; 2];
    }

    /// What a copy would overwrite is put aside. False when there is no room for it.
    pub(super) fn archive(&mut self, at: usize) -> bool {
        if self.random.percent(20) {
            self.told(at, "has no room for an archive");
            return false;
        }
        self.told(at, "makes an archive");
        self.seen.archives += 1;
        self.archived[at] = Some(self.machines[at].disk.now.clone());
        true
    }

    pub(super) fn replied(&mut self, at: usize, ticket: Ticket, result: &Result<Applied, Errno>) {
        let Some(side) = self.primary_side(at) else { return };
        let Some(asked) = side.asked.remove(&ticket) else {
            panic!("a reply to what was asked once")
        };
        if asked.operation.is_name_operation() {
            for inode in asked.operation.touches() {
                side.locked.remove(&inode);
            }
        }
        let alone = matches!(side.primary.phase(), Phase::Alone(_) | Phase::Copying(_));
        let in_sync = matches!(side.primary.phase(), Phase::InSync { .. });
        let made = match &asked.operation {
            Operation::Create(create) if result.is_ok() => {
                let ino = side.known.ino(create.inode).expect("it was made");
                side.kernel.insert(ino, create.inode);
                Some((create.inode, ino))
            }
            _ => None,
        };
        let (number, operation) = (asked.number, short(&asked.operation));
        let result_shown = result.as_ref().map(|_| ());
        let what = format!("{result_shown:?} for {number}: {operation} {:?}", asked.inos);
        self.told(at, &what);
        if let (Operation::Sync { .. }, Ok(_), Some((inode, ino))) =
            (&asked.operation, result, asked.inos.first())
        {
            self.is_durable(at, (*inode, *ino), asked.number, in_sync);
        }
        if !counts(&asked.operation, result) {
            return;
        }
        self.seen.answered += 1;
        self.truth.answered(&asked, made);
        if alone {
            self.truth.holds[1 - at] = false;
            self.truth.has_all[1 - at] = false;
        }
    }

    /// An answered sync has reached the disks.
    fn is_durable(&mut self, at: usize, (inode, ino): (InodeId, Ino), number: i64, in_sync: bool) {
        assert!(
            self.machines[at].disk.is_synced(ino, number),
            "a sync is answered that did not happen"
        );
        let there = &self.machines[1 - at];
        let has_name = self.machines[at]
            .disk
            .now
            .get(ino)
            .is_some_and(|node| node.links > 0);
        if let Process::Secondary(side) = &there.process
            && in_sync
            && has_name
            && there.durability == Durability::Disk
            && let Some(its) = side.known.ino(inode)
        {
            assert!(
                there.disk.is_synced(its, number),
                "a sync is answered that did not happen on the secondary"
            );
        }
    }

    /// The application and its mount are gone.
    pub(super) fn application_ended(&mut self) {
        let Some(at) = self.primary_at() else { return };
        let Some(side) = self.primary_side(at) else { return };
        let asked = std::mem::take(&mut side.asked).into_values();
        let asked = asked.filter(|asked| !asked.operation.is_sync()).collect();
        self.truth.cut_off(asked);
    }

    /// Everything that was answered is on the secondary, and from now on nothing is answered without it.
    pub(super) fn brought_over(&mut self, at: usize) {
        self.told(at, "everything is brought over");
        self.truth.has_all[1 - at] = true;
    }

    /// From now on the other copy may be older: even if nothing is answered alone, this one is the one to keep, also
    /// after a power loss.
    pub(super) fn goes_alone(&mut self, at: usize) {
        self.truth.holds[1 - at] = false;
    }

    /// A secondary has noted that its copy is complete.
    pub(super) fn counts_again(&mut self, at: usize) {
        self.told(at, "is complete");
        if std::mem::take(&mut self.truth.has_all[at]) {
            self.truth.holds[at] = true;
            self.truth.lost_power[at] = false;
            self.is_restored = [false; 2];
        }
    }

    /// A copy begins on a secondary.
    pub(super) fn overwritten(&mut self, at: usize) {
        let is_now = |tree: &Tree| tree.equals(&self.machines[at].disk.now, &mut BTreeMap::new());
        if let Some(before) = &self.branches[at] {
            assert!(
                is_now(before) || self.archived[at].as_ref().is_some_and(is_now),
                "changes are discarded without an archive"
            );
        }
        self.branches[at] = None;
        assert!(self.truth.holds[1 - at], "an older copy overwrites a newer one");
        let lost = self.truth.lost_power;
        assert!(
            !lost[1 - at] || lost[at] || !self.truth.holds[at],
            "a copy that lost something overwrites one that did not"
        );
        self.truth.holds[at] = false;
    }

    pub(super) fn copy_went_wrong(&mut self, at: usize, error: &CopyError) {
        // It is tried again; should it never succeed the pair does not come to be in sync.
        self.told(at, &format!("a copy goes wrong: {error}"));
        self.seen.went_wrong += 1;
    }

    /// The secondary turns the primary away: a person decides, who knows which copy is the newer one.
    pub(super) fn would_overwrite(&mut self, at: usize, why: &str) {
        self.told(at, &format!("would overwrite: {why}"));
        let other = 1 - at;
        if self.branches[other].is_some() && self.random.percent(40) {
            self.told(other, "is the one to keep, a person says");
            self.preferred = Some(other);
            self.kill(at);
            return;
        }
        let Some(side) = self.primary_side(at) else { return };
        if matches!(side.primary.phase(), Phase::NoSession) {
            // Nothing was answered: the other one is the primary.
            assert!(
                self.truth.holds[other],
                "told to give way to a copy that lacks something: {why}"
            );
            self.kill(at);
            self.machines[at].start();
            return;
        }
        // It has answered, so it is the one to keep.
        self.seen.split_brains += 1;
        let records: Vec<_> = self
            .machines
            .iter()
            .map(|machine| machine.record().cloned())
            .collect();
        self.told(at, &format!("{records:?}"));
        assert!(self.truth.holds[at], "the primary lacks what was answered");
        let lacks = !self.truth.holds[other] || !self.truth.lost_power[at];
        assert!(
            lacks || self.truth.lost_power[other],
            "the other copy has more: {why}"
        );
        if let Some(side) = self.primary_side(at) {
            side.overwrite = true;
        }
    }

    pub(super) fn kill(&mut self, at: usize) {
        self.seen.kills += 1;
        self.told(at, "is killed");
        self.stop_copying(at);
        if let Process::Primary(_) = self.machines[at].process {
            self.application_ended();
        }
        self.machines[at].kill();
        // The kernel tells the other end, or it notices by itself.
        self.disconnect();
    }

    pub(super) fn lose_power(&mut self, at: usize) {
        self.seen.power_losses += 1;
        self.told(at, "loses power");
        self.kill(at);
        let machine = &mut self.machines[at];
        let is_now = |tree: &Tree| tree.equals(&machine.disk.now, &mut BTreeMap::new());
        let has_changes = self.branches[at].as_ref().is_some_and(|before| !is_now(before));
        machine.disk.lose_power(&mut self.random);
        if let Some(before) = &mut self.branches[at]
            && !has_changes
        {
            // What it lacks now is lost to nobody's copy.
            *before = machine.disk.now.clone();
        }
        machine.is_on = false;
        machine.boot = crate::record::BootId(self.random.bytes());
        self.truth.lost_power[at] = true;
        self.truth.has_all[at] = false;
    }

    /// A machine is put back to what it was when a snapshot of it was taken: state directory and volume together.
    pub(super) fn restore(&mut self, at: usize) {
        let Some((disk, durable)) = self.snapshots[at].take() else {
            return;
        };
        // Nobody restores the only copy that counts.
        let other = 1 - at;
        if !self.truth.holds[other] || self.truth.lost_power[other] || !self.machines[other].is_on {
            return;
        }
        // What is put back within a few checkpoints shows only where the other one has gone on alone since.
        let (Some(then), Some(now)) = (&durable.volume, self.machines[other].record()) else {
            return;
        };
        if now.checkpoint < then.checkpoint + 4 && !now.peer_lacks_data {
            return;
        }
        self.lose_power(at);
        self.told(at, "is put back to an earlier state");
        self.seen.restored += 1;
        let last = self.machines[at].disk.now.next();
        self.machines[at].disk = disk;
        self.machines[at].disk.number_from(last);
        self.machines[at].durable = durable;
        self.truth.holds[at] = self
            .truth
            .tree()
            .equals(&self.machines[at].disk.now, &mut BTreeMap::new());
        self.is_restored[at] = true;
    }

    pub(super) fn snapshot(&mut self, at: usize) {
        self.told(at, "a snapshot is taken");
        let mut disk = self.machines[at].disk.clone();
        disk.lose_power(&mut self.random);
        self.snapshots[at] = Some((disk, self.machines[at].durable.clone()));
    }

    fn inject(&mut self, faults: &Faults) {
        let random = &mut self.random;
        let (at, some) = (random.below(2), random.below(2));
        if random.rarely(faults.disconnect) {
            self.told(some, "the connection breaks");
            self.disconnect();
        }
        if self.random.rarely(faults.cut) {
            let long = PEER_STALL.as_millis() as usize * 3;
            let after = Duration::from_millis(self.random.below(long) as u64);
            self.told(some, "is cut off");
            self.cut_for(after);
        }
        if self.random.rarely(faults.kill) && !matches!(self.machines[at].process, Process::Down) {
            self.kill(at);
        }
        if self.random.rarely(faults.lose_power) && self.machines[at].is_on {
            self.lose_power(at);
        }
        if self.random.rarely(faults.lose_all_power) {
            for at in [at, 1 - at] {
                if self.machines[at].is_on {
                    self.lose_power(at);
                }
            }
        }
        if self.random.rarely(faults.end) {
            self.end();
        }
        if self.random.rarely(faults.leave) {
            self.secondary_leaves(some, Leaves::ToStop);
        }
        if self.random.rarely(faults.restore) {
            if self.snapshots[at].is_some() {
                self.restore(at);
            } else {
                self.snapshot(at);
            }
        }
    }

    /// The application is stopped, and the primary is told to end.
    pub(super) fn end(&mut self) {
        let Some(at) = self.primary_at() else { return };
        let Some(side) = self.primary_side(at) else { return };
        // As `Replicator::waiting`.
        let waits = match side.primary.phase() {
            Phase::NoSession => !side.asked.is_empty(),
            Phase::Disconnected | Phase::Deciding(_) | Phase::Parting(_) => true,
            _ => false,
        };
        if side.ends || waits {
            return;
        }
        side.ends = true;
        self.seen.ends += 1;
        self.told(at, "is to end");
        self.primary_event(at, Event::End);
    }

    /// Nothing gets through for so long.
    pub(super) fn cut_for(&mut self, time: Duration) {
        self.cut_until = self.now + time;
        self.wire.is_cut = true;
        self.disconnect();
    }

    pub(super) fn uncut(&mut self) {
        self.cut_until = Duration::ZERO;
        self.wire.is_cut = false;
    }

    /// One thing happens.
    pub(super) fn step(&mut self, faults: &Faults) {
        let kind = match self.random.below(16) {
            0..=2 => Kind::Request,
            3 | 4 => Kind::DeliverThere,
            5 | 6 => Kind::DeliverHere,
            7 | 8 => Kind::Secondary,
            9 | 10 => Kind::Primary,
            11 | 12 => Kind::Copy,
            13 => Kind::Tick,
            14 => Kind::Call,
            _ => Kind::Brain,
        };
        self.one(kind);
        self.inject(faults);
        self.close_if_asked();
    }

    /// One thing of this kind happens, if there is one.
    pub(super) fn one(&mut self, kind: Kind) {
        let primary = self.primary_at();
        match (kind, primary) {
            (Kind::Request, Some(at)) => self.request(at),
            (Kind::DeliverThere, _) => drop(self.deliver_there()),
            (Kind::DeliverHere, _) => drop(self.deliver_here()),
            (Kind::Secondary, Some(at)) => self.secondary_step(1 - at),
            (Kind::Secondary, None) => {
                let at = self.random.below(2);
                self.secondary_step(at);
            }
            (Kind::Primary, Some(at)) => self.primary_step(at),
            (Kind::Copy, Some(at)) => {
                self.go_on_naming(at);
                self.go_on_copying(at);
            }
            (Kind::Tick, _) => {
                let most = if self.random.percent(10) { 40 } else { 4 };
                let by = self.random.below(most * 1000) as u64;
                self.tick(Duration::from_micros(by));
            }
            (Kind::Call, Some(at)) => {
                if self.random.percent(30) {
                    self.call(at);
                }
            }
            (Kind::Brain, _) => self.brain(),
            (Kind::Request | Kind::Primary | Kind::Copy | Kind::Call, None) => {}
        }
        self.close_if_asked();
    }

    fn primary_step(&mut self, at: usize) {
        if self.random.percent(30) {
            self.write_marks(at);
        }
        let count = self.primary_side(at).map_or(0, |side| side.work.len());
        if count > 0 {
            let index = self.random.below(count);
            self.primary_work(at, index);
        }
    }

    fn secondary_step(&mut self, at: usize) {
        let Some(side) = self.secondary_side(at) else {
            return;
        };
        let running = side.running.len();
        if !side.notes.is_empty() && (running == 0 || self.random.percent(40)) {
            self.secondary_note(at);
        } else if running > 0 {
            let index = self.random.below(running);
            self.secondary_apply(at, index);
        }
        self.secondary_event(at, secondary::Event::Flush);
        self.secondary_left(at);
    }

    pub(super) fn tick(&mut self, by: Duration) {
        let until = self.now + by;
        if let Some(at) = self.primary_at() {
            loop {
                let now = self.now;
                let Some(side) = self.primary_side(at) else { break };
                let due = side.primary.deadline().filter(|due| *due <= until && *due >= now);
                let Some(due) = due else { break };
                self.now = now.max(due);
                self.primary_event(at, Event::Tick);
                let Some(side) = self.primary_side(at) else { break };
                assert_ne!(
                    side.primary.deadline(),
                    Some(due),
                    "a deadline that does not pass"
                );
            }
        }
        self.now = self.now.max(until);
        if let Some(at) = self.primary_at() {
            self.primary_event(at, Event::Tick);
        }
        if self.wire.is_cut && self.now >= self.cut_until {
            self.wire.is_cut = false;
        }
    }

    /// Who starts what: what a person does, or the brain.
    fn brain(&mut self) {
        for at in 0..2 {
            if !self.machines[at].is_on && self.random.percent(20) {
                self.machines[at].is_on = true;
            }
            if self.machines[at].is_on
                && matches!(self.machines[at].process, Process::Down)
                && self.random.percent(50)
            {
                self.machines[at].start();
                self.told(at, "starts");
            }
        }
        if let Some(at) = self.primary_at() {
            let other = 1 - at;
            if matches!(self.machines[other].process, Process::Stopped(_)) {
                self.become_secondary(other);
            }
            let is_alone = matches!(self.phase(at), Some(Phase::Alone(_)));
            let is_left = self.secondary_side(other).is_some_and(|side| side.is_in_sync());
            if self.forks && is_alone && is_left && self.random.percent(20) {
                self.kill(at);
            }
            return;
        }
        for at in 0..2 {
            if self.secondary_side(at).is_some_and(|side| side.leaves.is_some()) {
                return;
            }
        }
        for at in 0..2 {
            let other = &self.machines[1 - at].durable.volume;
            // Whoever goes on alone has asked an arbiter, who does not let the other take over then.
            let went_alone = other.as_ref().is_some_and(|record| record.peer_lacks_data);
            let may_take_over = self.forks || !went_alone;
            if self.secondary_side(at).is_some_and(|side| side.is_in_sync()) && may_take_over {
                self.secondary_leaves(at, Leaves::InSync);
                return;
            }
        }
        for at in 0..2 {
            if matches!(self.machines[at].process, Process::Secondary(_)) {
                self.secondary_leaves(at, Leaves::ToStop);
                return;
            }
        }
        self.choose();
    }

    /// Nobody is primary, and no process is in a session.
    fn choose(&mut self) {
        let first = self.random.below(2);
        let order = [first, 1 - first];
        let stopped: Vec<usize> = order
            .into_iter()
            .filter(|at| matches!(self.machines[*at].process, Process::Stopped(_)))
            .collect();
        // Nobody starts a copy that was never in use before the other is looked at.
        let bars = |world: &World, at: usize| {
            let is_barred = |record: &Record| record.generation.is_none() || record.bars_primary().is_some();
            world.machines[at].record().is_none_or(is_barred)
        };
        match &stopped[..] {
            some if self.preferred.is_some_and(|at| some.contains(&at)) => {
                let at = self.preferred.expect("somebody");
                self.become_primary(at);
            }
            [at] => {
                let patient = self.is_restored[*at] || self.random.percent(60);
                if !bars(self, *at) && !patient {
                    self.become_primary(*at);
                }
            }
            // Beside the peer whoever has left it the beginning may begin as well.
            [one, other] if self.may_begin_beside(*one, *other) && self.random.percent(30) => {
                self.become_primary(*one);
            }
            [one, other] => match (bars(self, *one), bars(self, *other)) {
                (false, true) if !self.is_restored[*one] => self.become_primary(*one),
                (true, false) if !self.is_restored[*other] => self.become_primary(*other),
                _ => self.choose_by_records(*one, *other),
            },
            _ => {}
        }
    }

    /// It has left the beginning to its peer, which has not begun without it.
    fn may_begin_beside(&self, at: usize, peer: usize) -> bool {
        let hands_over = self.machines[at].record().is_some_and(Record::handed_over);
        let meeting = || meet(&self.state(at), &self.state(peer));
        hands_over
            && matches!(
                meeting(),
                Meeting::Equal | Meeting::Tracked | Meeting::Whole { .. }
            )
    }

    fn state(&self, at: usize) -> CopyState {
        let record = self.machines[at].record().expect("a process");
        let map = &self.machines[at].durable.map;
        let is_complete = match record.peer_lacks_data {
            true => {
                record.tracked
                    && map
                        .as_ref()
                        .is_some_and(|map| Some(map.generation) == record.generation)
            }
            false => !record.open && record.generation.is_some(),
        };
        let peer_checkpoint = match map {
            Some(map) if record.peer_lacks_data && is_complete => map.peer_checkpoint,
            _ => record.counted_by_peer(),
        };
        record.state(&self.machines[at].present(false, is_complete, peer_checkpoint))
    }

    /// Both may start, or neither: by what the records say to each other.
    fn choose_by_records(&mut self, one: usize, other: usize) {
        let (mine, its) = (self.state(one), self.state(other));
        let chosen = match (meet(&mine, &its), meet(&its, &mine)) {
            (Meeting::Equal | Meeting::Tracked | Meeting::Whole { .. }, _) => one,
            (Meeting::PrimaryIsOlder { .. }, _) => other,
            (Meeting::Refused { .. }, Meeting::Equal | Meeting::Tracked | Meeting::Whole { .. }) => other,
            // Somebody knows which copy is the one to keep.
            (Meeting::SplitBrain { .. }, _) | (_, Meeting::SplitBrain { .. }) => {
                self.seen.split_brains += 1;
                match self.truth.holds[one] {
                    true => one,
                    false => other,
                }
            }
            (first, second) => {
                panic!("nobody may start: {first:?} {second:?}\n{mine:?}\n{its:?}")
            }
        };
        self.told(
            chosen,
            &format!(
                "is chosen: {:?} / {:?}",
                self.machines[0].record(),
                self.machines[1].record()
            ),
        );
        let barred = self.machines[chosen].record().and_then(Record::bars_primary);
        if barred.is_some() {
            self.seen.forced += 1;
            let here = self.machines[chosen].here();
            let generation = Generation(self.random.bytes());
            let change = |record: &mut Record| {
                record.part(generation, "it was forced".into(), here);
                record.tracked = false;
            };
            if let Some(next) = self.machines[chosen].begin_record(change) {
                self.machines[chosen].end_record(next);
            }
        }
        self.become_primary(chosen);
        if barred.is_some() {
            self.goes_alone(chosen);
        }
    }

    /// Nothing goes wrong any more and nothing is asked: the pair must come to be in sync, and both copies the same.
    pub(super) fn heal(&mut self) {
        let calm = Faults::default();
        self.uncut();
        self.application.is_quiet = true;
        for _ in 0..60_000 {
            if let Some(at) = self.primary_at()
                && self.is_settled(at)
            {
                self.check_equal(at);
                self.application.is_quiet = false;
                return;
            }
            self.step(&calm);
        }
        let phases: Vec<_> = (0..2).map(|at| self.phase(at)).collect();
        let works: Vec<_> = self
            .machines
            .iter()
            .map(|machine| match &machine.process {
                Process::Primary(side) => format!("{:?} {:?} {:?}", side.work, side.call, side.record),
                Process::Secondary(side) => format!(
                    "{:?} {:?} {:?} {:?}",
                    side.secondary.phase(),
                    side.notes,
                    side.running,
                    side.record
                ),
                Process::Stopped(record) => format!("stopped {record:?}"),
                Process::Down => "down".to_owned(),
            })
            .collect();
        panic!("not in sync after all: {phases:?} {works:?}");
    }

    fn is_settled(&mut self, at: usize) -> bool {
        let Some(side) = self.primary_side(at) else {
            return false;
        };
        let here = matches!(side.primary.phase(), Phase::InSync { repairing: false })
            && side.asked.is_empty()
            && side.work.is_empty()
            && side.attempt.is_none();
        let Some(there) = self.secondary_side(1 - at) else {
            return false;
        };
        here && there.running.is_empty() && there.notes.is_empty() && there.is_in_sync()
    }

    pub(super) fn check_equal(&mut self, at: usize) {
        let (here, there) = (&self.machines[at].disk.now, &self.machines[1 - at].disk.now);
        assert!(
            here.equals(there, &mut BTreeMap::new()),
            "the copies differ\n{}",
            here.difference(there)
        );
        assert!(
            self.truth.tree().equals(here, &mut BTreeMap::new()),
            "what was answered is not what is there\n{}",
            self.truth.tree().difference(here)
        );
        assert_eq!(self.truth.holds, [true; 2]);
    }

    /// A session between two copies that are said to be equal begins.
    pub(super) fn begins_equal(&mut self, at: usize) {
        assert!(self.truth.holds[1 - at], "said to be equal, and lacks something");
        let (here, there) = (&self.machines[at].disk.now, &self.machines[1 - at].disk.now);
        assert!(
            here.equals(there, &mut BTreeMap::new()),
            "said to be equal\n{}",
            here.difference(there)
        );
        self.truth.lost_power[1 - at] = false;
        self.is_restored = [false; 2];
    }
}

fn short(operation: &Operation) -> String {
    match operation {
        Operation::Write {
            inode, offset, data, ..
        } => {
            format!("Write {inode} {offset} {}", data.len())
        }
        other => format!("{other:?}"),
    }
}
