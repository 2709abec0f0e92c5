//! Promise: no acknowledged transaction is lost when the primary's host dies.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use lab::demo::{COMMITS_MIN, Outcome, Stage};
use lab::mirror::MirrorOptions;
use lab::postgres::{Ledger, Postgres};
use lab::random::Random;
use std::path::Path;
use std::time::Duration;

fn quiet(_: &str) {}

#[test]
fn every_committed_row_is_found_after_the_primary_host_is_killed() {
    let stage = Stage::set_up(
        Path::new("/srv/sidekick-failover"),
        &MirrorOptions::default(),
        quiet,
    )
    .unwrap();
    let ledger = stage.load(1).unwrap();
    stage.wait_for_commits(&ledger, COMMITS_MIN).unwrap();
    let outcome = stage.fail_over(Some(ledger)).unwrap();
    assert!(outcome.count.committed as u64 >= COMMITS_MIN, "{outcome:?}");
    assert_eq!(outcome.count.lost(), 0, "{outcome:?}");
    stage.server.check().unwrap();
}

/// What the server does when it is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Load,
    Start,
    Checkpoint,
    Vacuum,
}

const MOMENTS: [Moment; 4] = [Moment::Load, Moment::Start, Moment::Checkpoint, Moment::Vacuum];
const ROUNDS: u64 = 20;

#[test]
#[ignore = "takes many minutes: 20 failovers with seeded moments"]
fn nothing_is_lost_whatever_the_database_does_when_its_host_dies() {
    let seed = std::env::var("SIDEKICK_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    for round in 0..ROUNDS {
        let moment = MOMENTS[round as usize % MOMENTS.len()];
        println!("seed {seed}, round {round}: killed during {moment:?}");
        one_round(seed + round, moment);
    }
}

fn one_round(seed: u64, moment: Moment) {
    let mut random = Random::new(seed);
    let stage = Stage::set_up(
        Path::new("/srv/sidekick-failover"),
        &MirrorOptions::default(),
        quiet,
    )
    .unwrap();
    let ledger = stage.load(1).unwrap();
    stage
        .wait_for_commits(&ledger, 300 + random.bits() % 700)
        .unwrap();
    let pause = Duration::from_millis(random.bits() % 1500);
    let outcome = match moment {
        Moment::Load => kill_after(&stage, Some(ledger), pause),
        Moment::Checkpoint => with_background(&stage, ledger, pause, "CHECKPOINT"),
        Moment::Vacuum => with_background(&stage, ledger, pause, "VACUUM FULL ledger"),
        Moment::Start => {
            stage.close(ledger, "a").unwrap();
            std::thread::scope(|scope| {
                // It is killed while it starts, or just after: its failure is what is wanted.
                scope.spawn(|| stage.server.start(&stage.enter("a")).is_ok());
                kill_after(&stage, None, pause / 4)
            })
        }
    };
    println!("  after {pause:?}: {outcome:?}");
    assert_eq!(outcome.count.lost(), 0, "seed {seed}, {moment:?}: {outcome:?}");
    stage.server.check().unwrap();
}

/// The pause is the seeded moment of the kill, not a wait for a condition.
fn kill_after(stage: &Stage, ledger: Option<Ledger>, pause: Duration) -> Outcome {
    std::thread::sleep(pause);
    stage.fail_over(ledger).unwrap()
}

fn with_background(stage: &Stage, ledger: Ledger, pause: Duration, statement: &str) -> Outcome {
    std::thread::scope(|scope| {
        scope.spawn(|| keep_telling(&stage.server, statement));
        kill_after(stage, Some(ledger), pause)
    })
}

fn keep_telling(server: &Postgres, statement: &str) {
    let Ok(mut client) = server.connect() else { return };
    while client.batch_execute(statement).is_ok() {}
}
