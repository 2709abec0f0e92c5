//! Random runs of a pair, each from a seed that is printed when it fails.

use super::pair::{Faults, Pair, Seen};
use crate::config::OnPeerLoss;
use crate::random::Seed;
use crate::session::primary::{self, Phase};
use crate::session::secondary::{self, Over};

const RUNS: u64 = 150;
const STEPS: usize = 1200;

/// Runs one seed up to the moment when everything that can end has ended.
fn run(seed: u64, faults: Faults, on_peer_loss: OnPeerLoss) -> Pair {
    let mut pair = Pair::new(seed, on_peer_loss);
    for _ in 0..STEPS {
        pair.step(&faults);
    }
    pair.here.full = false;
    pair.quiesce();
    pair
}

fn add(total: &mut Seen, one: &Seen) {
    total.lost.extend(&one.lost);
    total.resumed += one.resumed;
    total.resent += one.resent;
    total.repairs += one.repairs;
    total.raced += one.raced;
    total.disk_failing += one.disk_failing;
    total.rebound += one.rebound;
    total.local += one.local;
    for (errno, count) in &one.errors {
        *total.errors.entry(*errno).or_default() += count;
    }
}

#[test]
fn without_faults_everything_is_answered_and_both_copies_are_equal() {
    let mut total = Seen::default();
    for seed in 0..RUNS {
        let _seed = Seed(seed);
        let mut pair = run(seed, Faults::default(), OnPeerLoss::Ask);
        assert_eq!(pair.seen.lost, Vec::<&str>::new());
        assert!(pair.asked.is_empty());
        pair.check_equal();
        pair.primary(primary::Event::End);
        pair.quiesce();
        assert_eq!(pair.seen.ended, Some(true), "{:?}", pair.primary.phase());
        assert_eq!(pair.seen.over, Some(Over::Clean));
        add(&mut total, &pair.seen);
    }
    assert!(total.raced > 0, "no look-up was overtaken: {total:?}");
    assert!(total.local > 0, "no unlinked file was used: {total:?}");
    assert!(
        total.errors.contains_key(&17) && total.errors.contains_key(&39),
        "{total:?}"
    );
}

#[test]
fn connections_that_break_within_the_stall_cost_nothing_but_time() {
    let mut total = Seen::default();
    for seed in 0..RUNS {
        let _seed = Seed(seed);
        let faults = Faults {
            cut: 3,
            ..Faults::default()
        };
        let pair = run(seed, faults, OnPeerLoss::Ask);
        assert_eq!(pair.seen.lost, Vec::<&str>::new());
        assert!(pair.asked.is_empty());
        pair.check_equal();
        add(&mut total, &pair.seen);
    }
    assert!(total.resumed > 100 && total.resent > 100, "{total:?}");
}

#[test]
fn a_secondary_that_freezes_is_waited_for_or_left_behind_and_nothing_is_lost() {
    let mut total = Seen::default();
    for seed in 0..RUNS {
        let _seed = Seed(seed);
        let faults = Faults {
            cut: 1,
            freeze: 3,
            ..Faults::default()
        };
        let asked = run(seed, faults, OnPeerLoss::Ask);
        assert!(asked.asked.is_empty(), "{:?}", asked.primary.phase());
        asked.check_equal();
        add(&mut total, &asked.seen);
        let alone = run(seed, faults, OnPeerLoss::Alone);
        assert!(alone.asked.is_empty(), "{:?}", alone.primary.phase());
        add(&mut total, &alone.seen);
    }
    assert!(total.lost.contains(&"stalled"), "{total:?}");
}

#[test]
fn a_full_primary_answers_no_room_and_the_secondary_is_led_back() {
    let mut total = Seen::default();
    for seed in 0..RUNS {
        let _seed = Seed(seed);
        let faults = Faults {
            primary_full: 10,
            cut: 1,
            ..Faults::default()
        };
        let pair = run(seed, faults, OnPeerLoss::Alone);
        assert!(pair.asked.is_empty(), "{:?}", pair.primary.phase());
        if pair.seen.lost.is_empty() {
            pair.check_equal();
        } else {
            // A rename that replaced something cannot be taken back.
            assert_eq!(pair.seen.lost, ["unrepaired"]);
        }
        add(&mut total, &pair.seen);
    }
    assert!(total.repairs > 100 && total.errors.contains_key(&28), "{total:?}");
    let lost = total.lost.len();
    assert!(lost < RUNS as usize, "every run lost its secondary");
}

#[test]
fn a_full_secondary_is_left_behind_and_the_application_sees_no_error() {
    let mut total = Seen::default();
    for seed in 0..RUNS {
        let _seed = Seed(seed);
        let faults = Faults {
            secondary_full: 5,
            cut: 1,
            ..Faults::default()
        };
        let pair = run(seed, faults, OnPeerLoss::Alone);
        assert!(pair.asked.is_empty(), "{:?}", pair.primary.phase());
        assert!(!pair.seen.errors.contains_key(&28), "{:?}", pair.seen);
        assert!(
            pair.seen.lost.iter().all(|why| *why == "no-space"),
            "{:?}",
            pair.seen
        );
        add(&mut total, &pair.seen);
    }
    assert!(!total.lost.is_empty());
}

#[test]
fn with_both_disks_full_the_application_gets_the_error_and_the_copies_stay_equal() {
    let mut errors = 0;
    for seed in 0..RUNS {
        let _seed = Seed(seed);
        let mut pair = Pair::new(seed, OnPeerLoss::Ask);
        for step in 0..STEPS {
            let full = step % 400 > 300;
            if full != pair.here.full {
                pair.quiesce();
                (pair.here.full, pair.there.full) = (full, full);
            }
            pair.step(&Faults::default());
        }
        pair.quiesce();
        assert_eq!(pair.seen.lost, Vec::<&str>::new());
        pair.check_equal();
        errors += pair.seen.errors.get(&28).copied().unwrap_or(0);
    }
    assert!(errors > 100, "{errors}");
}

#[test]
fn a_broken_secondary_is_left_behind() {
    let mut total = Seen::default();
    for seed in 0..RUNS {
        let _seed = Seed(seed);
        let faults = Faults {
            secondary_broken: 2,
            secondary_differs: 1,
            cut: 1,
            ..Faults::default()
        };
        let pair = run(seed, faults, OnPeerLoss::Alone);
        assert!(pair.asked.is_empty(), "{:?}", pair.primary.phase());
        assert!(pair.seen.lost.len() <= 1, "{:?}", pair.seen);
        add(&mut total, &pair.seen);
    }
    assert!(
        total.lost.contains(&"failed") && total.lost.contains(&"differs"),
        "{total:?}"
    );
}

#[test]
fn a_primary_whose_disk_breaks_answers_nothing_more_and_the_secondary_has_all_that_was_answered() {
    let mut failed = 0;
    for seed in 0..RUNS {
        let _seed = Seed(seed);
        let faults = Faults {
            primary_broken: 2,
            cut: 1,
            ..Faults::default()
        };
        let mut pair = run(seed, faults, OnPeerLoss::Ask);
        if matches!(pair.primary.phase(), Phase::Failed { .. }) {
            failed += 1;
            let answered = pair.replies.len();
            let _ = pair.request();
            assert_eq!(pair.replies.len(), answered);
        }
        pair.check_there();
    }
    assert!(failed > RUNS / 3, "{failed}");
}

#[test]
fn a_secondary_promoted_at_any_moment_has_every_acknowledged_operation() {
    let mut promoted = 0;
    for seed in 0..RUNS * 2 {
        let _seed = Seed(seed);
        let faults = Faults {
            cut: 2,
            primary_full: 2,
            ..Faults::default()
        };
        let mut pair = Pair::new(seed, OnPeerLoss::Ask);
        for _ in 0..(seed as usize * 7) % STEPS {
            pair.step(&faults);
        }
        pair.secondary(secondary::Event::Leave {
            reason: "promoted".into(),
        });
        for _ in 0..200 {
            pair.step(&faults);
        }
        pair.check_there();
        pair.end_there();
        pair.check_there();
        promoted += u64::from(matches!(pair.seen.over, Some(Over::Left { .. })));
    }
    assert_eq!(promoted, RUNS * 2);
}

#[test]
fn an_inode_that_the_secondary_does_not_know_is_bound_again_once() {
    let mut total = Seen::default();
    for seed in 0..RUNS {
        let _seed = Seed(seed);
        let faults = Faults {
            unbound: 20,
            cut: 1,
            ..Faults::default()
        };
        let pair = run(seed, faults, OnPeerLoss::Ask);
        assert_eq!(pair.seen.lost, Vec::<&str>::new());
        assert!(pair.asked.is_empty());
        pair.check_equal();
        add(&mut total, &pair.seen);
    }
    assert!(total.rebound > 50, "{total:?}");
}
