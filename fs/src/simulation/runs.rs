//! Runs at random.

use super::world::{Faults, Seen, World};
use crate::config::Durability;
use crate::random::Random;
use crate::record::split_brain::Policy;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What may go wrong in the run of a seed.
fn faults_of(random: &mut Random) -> Faults {
    let mut some = |most: usize| if random.percent(50) { random.below(most) } else { 0 };
    Faults {
        disconnect: some(150),
        cut: some(60),
        kill: some(60),
        lose_power: some(40),
        lose_all_power: some(15),
        end: some(30),
        leave: some(15),
        restore: some(8),
    }
}

fn run(seed: u64, forks: bool) -> Seen {
    world_after(seed, forks).seen.clone()
}

fn world_after(seed: u64, forks: bool) -> World {
    let mut random = Random(seed ^ 0x51de);
    let durability = if random.percent(30) {
        Durability::Memory
    } else {
        Durability::Disk
    };
    let mut faults = faults_of(&mut random);
    let mut world = World::new(seed, durability);
    if forks {
        world.forks = true;
        world.policy = [
            Policy::DiscardZeroChanges,
            Policy::DiscardLeastChanges,
            Policy::KeepPrimary,
            Policy::Manual,
        ][random.below(4)];
        // Quiet enough to come to be in sync, and cut off for long enough to part.
        faults = Faults {
            disconnect: 20,
            cut: 80,
            kill: 5,
            lose_power: faults.lose_power / 4,
            lose_all_power: faults.lose_all_power / 4,
            end: faults.end / 2,
            leave: faults.leave / 2,
            restore: 0,
        };
    }
    for _ in 0..1 + random.below(3) {
        for _ in 0..random.below(1500) {
            world.step(&faults);
        }
        world.heal();
    }
    world
}

/// All of them, on as many threads as there are processors.
fn runs(seeds: Range<u64>, forks: bool) -> Seen {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut all = Seen::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return all;
            }
            all.add(&run(seed, forks));
        }
    };
    let all = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Seen::default();
        for worker in workers {
            match worker.join() {
                Ok(seen) => all.add(&seen),
                // It has told its seed.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    println!("{all:?}");
    all
}

/// `SIDEKICK_SEED=7` or `SIDEKICK_SEED=7..9000`, to see some runs again; else those of `usual`.
fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("SIDEKICK_SEED") else {
        return usual;
    };
    let parse = |text: &str| {
        text.parse::<u64>()
            .expect("SIDEKICK_SEED is a number, or two with dots between")
    };
    match text.split_once("..") {
        Some((from, to)) => parse(from)..parse(to),
        None => parse(&text)..parse(&text) + 1,
    }
}

/// That everything a run may go through was gone through.
fn check(seen: &Seen) {
    let counts = [
        seen.answered,
        seen.in_sync,
        seen.parted,
        seen.copies,
        seen.copies_done,
        seen.takeovers,
        seen.forced,
        seen.restored,
        seen.lost_for_good,
        seen.kills,
        seen.power_losses,
        seen.ends,
    ];
    assert!(counts.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn whatever_happens_nothing_that_was_answered_is_lost() {
    let usual = 0..4000;
    let seeds = seeds(usual.clone());
    let seen = runs(seeds.clone(), false);
    if seeds == usual {
        check(&seen);
    }
}

#[test]
fn a_seed_goes_the_same_way_every_time() {
    for (seed, forks) in seeds(0..40).flat_map(|seed| [(seed, false), (seed, true)]) {
        let (mut one, mut other) = (world_after(seed, forks), world_after(seed, forks));
        let parting = one
            .trace()
            .iter()
            .zip(other.trace())
            .position(|(one, other)| one != other);
        if let Some(at) = parting {
            let from = at.saturating_sub(5);
            panic!(
                "seed {seed}, {forks}: {:#?}\n{:#?}",
                &one.trace()[from..=at],
                &other.trace()[from..=at]
            );
        }
        assert_eq!(
            one.random.below(usize::MAX),
            other.random.below(usize::MAX),
            "seed {seed}, {forks}"
        );
    }
}

#[test]
fn whatever_both_did_apart_nothing_is_discarded_without_an_archive() {
    let usual = 0..2000;
    let seeds = seeds(usual.clone());
    let seen = runs(seeds.clone(), true);
    if seeds == usual {
        check_forks(&seen);
    }
}

fn check_forks(seen: &Seen) {
    let counts = [
        seen.answered,
        seen.copies_done,
        seen.forks,
        seen.archives,
        seen.split_brains,
    ];
    assert!(counts.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
#[ignore = "takes hours"]
fn whatever_happens_in_millions_of_runs() {
    check(&runs(seeds(4000..2_004_000), false));
    check_forks(&runs(seeds(2000..502_000), true));
}
