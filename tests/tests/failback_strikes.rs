//! A host that returns is brought to the present state while the application runs, whatever dies meanwhile. Needs root
//! and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::disk::ext4::DiskOptions;
use lab::failback::Returned;
use lab::mirror::MirrorOptions;
use lab::pair::Pair;
use lab::process::ProcessId;
use lab::random::Random;
use lab::recorded::{self, Plan};
use lab::status::Wanted;
use lab::{Lab, programs, wait};
use skfs::control::command::{Command, CopyCommand};
use skfs::control::status::{Standing, State};
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

/// What is written while the other host is away, and must be brought over.
const FILES: u64 = 8;
const FILE_BYTES: u64 = 1 << 20;
/// Slow enough to be interrupted at any point.
const RATE: u64 = 8 << 20;

fn quick() -> MirrorOptions {
    MirrorOptions {
        peer_stall: Some(Duration::from_secs(2)),
        ..MirrorOptions::default()
    }
}

/// How long a return may take; one that is interrupted goes on until then.
const RETURN_MAX: Duration = Duration::from_secs(8);

fn bring_back(pair: &Pair, host: &str) -> lab::Result<Returned> {
    let returned = pair.lab.return_host(host, None, &mut |_, _| {})?;
    Ok(returned.into_iter().next().unwrap())
}

/// Ends a host, and returns when the other one goes on alone.
fn lose(pair: &Pair, lost: &str, left: &str) {
    pair.lab.host(lost).kill().unwrap();
    pair.lab
        .wait_state(left, None, Wanted::State(State::Alone))
        .unwrap();
}

fn assert_equal(pair: &Pair, primary: &str) {
    pair.shell(primary, "sync -f .").unwrap();
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
    for host in ["a", "b"] {
        let status = pair.status(host).unwrap();
        let shown = (status.in_sync, status.standing);
        assert_eq!(shown, (Some(true), Some(Standing::UpToDate)), "{host}");
    }
}

/// Fresh data that no other copy can have.
fn write_alone(pair: &Pair, primary: &str) {
    let script = format!(
        "mkdir -p data; for n in $(seq {FILES}); do head -c {FILE_BYTES} /dev/urandom > data/$n; done; \
         mv data/1 data/moved; mv data/moved data/1"
    );
    pair.shell(primary, &script).unwrap();
}

fn limit(pair: &Pair, primary: &str, bytes_per_second: Option<u64>) {
    let limit = Command::Copy(CopyCommand::Limit { bytes_per_second });
    pair.command(primary, limit).unwrap();
}

/// Where an application's complaints go, beside its counters.
const ERRORS: &str = "errors";

/// An application whose every acknowledged step is known.
struct Load {
    child: Child,
    plan: Plan,
    directory: String,
    log: PathBuf,
}

impl Load {
    /// Starts it in a directory of its own.
    fn start(pair: &Pair, host: &str, seed: u64, number: u64) -> Load {
        let directory = format!("load-{number}");
        pair.shell(host, &format!("mkdir {directory}")).unwrap();
        let log = pair.lab.directory().join(format!("log-{number}"));
        fs::create_dir(&log).unwrap();
        let plan = Plan {
            seed: seed + number,
            threads: 2,
            // More than it gets to.
            steps: 10_000_000,
        };
        let mut command = pair
            .lab
            .host(host)
            .command(programs::find("differential").unwrap())
            .unwrap();
        command.arg("recorded").arg(pair.dir.join(&directory)).arg(&log);
        for (name, value) in [
            ("--seed", plan.seed),
            ("--threads", plan.threads),
            ("--steps", plan.steps),
        ] {
            command.args([name, &value.to_string()]);
        }
        // Only what it says when it should have gone on is of interest.
        let errors = fs::File::create(log.join(ERRORS)).unwrap();
        let load = Load {
            child: command.stderr(errors).spawn().unwrap(),
            plan,
            directory,
            log,
        };
        let begun = || recorded::acknowledged(&load.log, &load.plan).unwrap() > 20;
        wait::until_true(pair.lab.limit(), "the application is at work", begun).unwrap();
        load
    }

    /// Ends it in the middle of a step. It must have worked until then.
    fn end(mut self) -> Ended {
        let ended = self.child.try_wait().unwrap();
        let errors = fs::read_to_string(self.log.join(ERRORS)).unwrap();
        assert_eq!(ended, None, "the application ended by itself: {errors}");
        let process = ProcessId::of(self.child.id()).unwrap();
        process.signal(rustix::process::Signal::TERM).unwrap();
        self.died()
    }

    /// It died with its host or with the mount.
    fn died(mut self) -> Ended {
        self.child.wait().unwrap();
        Ended {
            plan: self.plan,
            directory: self.directory,
            log: self.log,
        }
    }
}

/// An application that is over, and what it was told was done.
struct Ended {
    plan: Plan,
    directory: String,
    log: PathBuf,
}

impl Ended {
    fn assert_kept(&self, pair: &Pair) {
        for host in ["a", "b"] {
            let directory = pair.backing(host).unwrap().join(&self.directory);
            recorded::check(&directory, &self.log, &self.plan).unwrap();
        }
    }
}

/// Returns once the copy to the secondary has sent so many bytes, or `is_over`. False if it is over.
fn reaches(pair: &Pair, primary: &str, bytes: u64, is_over: impl Fn() -> bool) -> bool {
    let mut over = false;
    let what = format!("the copy has sent {bytes} bytes");
    wait::until_true(pair.lab.limit(), &what, || {
        let copy = pair.status(primary).unwrap().copy;
        // In this order: what is over shows no copy any more.
        over = is_over();
        over || copy.is_some_and(|copy| copy.bytes_sent >= Some(bytes))
    })
    .unwrap();
    !over
}

/// Brings `host` back and does something to it, or to its primary, once so many bytes were sent. True if it was done
/// in the middle, after which the return must have failed.
fn interrupt(pair: &Pair, host: &str, primary: &str, bytes: u64, strike: impl FnOnce()) -> bool {
    std::thread::scope(|scope| {
        let _guard = pair.end_on_panic(primary);
        let returning = scope.spawn(|| {
            let lab = Lab::open(pair.lab.name(), RETURN_MAX).unwrap();
            lab.return_host(host, None, &mut |_, _| {})
        });
        let middle = reaches(pair, primary, bytes, || returning.is_finished());
        if middle {
            strike();
        }
        let returned = returning.join().unwrap();
        match returned {
            Ok(_) => false,
            Err(error) => {
                assert!(middle, "{error}");
                println!("  {}", &error.to_string().chars().take(200).collect::<String>());
                true
            }
        }
    })
}

/// Points of a return, in hundredths of what it has to send.
const POINTS: [u64; 4] = [0, 20, 50, 85];

fn bytes_at(point: u64) -> u64 {
    FILES * FILE_BYTES * point / 100
}

#[test]
fn a_secondary_that_is_killed_during_its_return_is_identical_in_the_end() {
    let pair = Pair::up(&quick()).unwrap();
    let load = Load::start(&pair, "a", 2, 1);
    lose(&pair, "b", "a");
    limit(&pair, "a", Some(RATE));
    let mut interrupted = 0;
    for point in POINTS {
        write_alone(&pair, "a");
        let strike = || pair.lab.host("b").kill_program("skfs").unwrap();
        interrupted += usize::from(interrupt(&pair, "b", "a", bytes_at(point), strike));
    }
    assert!(interrupted >= POINTS.len() - 1, "only {interrupted}");
    limit(&pair, "a", None);
    bring_back(&pair, "b").unwrap();
    let load = load.end();
    assert_equal(&pair, "a");
    load.assert_kept(&pair);
}

#[test]
fn a_primary_that_is_killed_during_a_return_goes_on_with_it() {
    let pair = Pair::up(&quick()).unwrap();
    lose(&pair, "b", "a");
    let mut loads = Vec::new();
    for (number, point) in POINTS.into_iter().enumerate() {
        let load = Load::start(&pair, "a", 3, number as u64);
        write_alone(&pair, "a");
        limit(&pair, "a", Some(RATE));
        let strike = || pair.lab.host("a").kill_program("skfs").unwrap();
        assert!(
            interrupt(&pair, "b", "a", bytes_at(point), strike),
            "at {point} %"
        );
        loads.push(load.died());
        // It wrote alone: its copy is the newest, and nobody has to say so.
        pair.lab.start("a").unwrap();
        pair.lab.promote("a", None, false).unwrap();
    }
    let load = Load::start(&pair, "a", 3, 99);
    bring_back(&pair, "b").unwrap();
    loads.push(load.end());
    assert_equal(&pair, "a");
    for load in &loads {
        load.assert_kept(&pair);
    }
}

const VOLATILE: Option<DiskOptions> = Some(DiskOptions {
    size_bytes: 96 << 20,
    volatile: true,
});

#[test]
fn a_host_whose_power_fails_during_its_return_is_identical_in_the_end() {
    let pair = Pair::up_on([None, VOLATILE], &quick()).unwrap();
    let load = Load::start(&pair, "a", 4, 1);
    lose(&pair, "b", "a");
    limit(&pair, "a", Some(RATE));
    for (seed, point) in [(1, 10), (2, 60)] {
        write_alone(&pair, "a");
        let strike = || {
            let cut = pair.lab.host("b").cut_power(seed).unwrap();
            println!("  {cut:?}");
        };
        assert!(
            interrupt(&pair, "b", "a", bytes_at(point), strike),
            "at {point} %"
        );
    }
    limit(&pair, "a", None);
    bring_back(&pair, "b").unwrap();
    let load = load.end();
    assert_equal(&pair, "a");
    load.assert_kept(&pair);
}

#[test]
fn a_frozen_host_and_one_that_was_cut_off_return_and_a_replaced_primary_is_started_anew() {
    let pair = Pair::up(&quick()).unwrap();
    let alone = |host| {
        pair.lab
            .wait_state(host, None, Wanted::State(State::Alone))
            .unwrap();
    };
    pair.lab.host("b").freeze().unwrap();
    alone("a");
    write_alone(&pair, "a");
    bring_back(&pair, "b").unwrap();
    assert_equal(&pair, "a");
    pair.lab.cut("a", "b").unwrap();
    alone("a");
    write_alone(&pair, "a");
    bring_back(&pair, "b").unwrap();
    assert_equal(&pair, "a");
    pair.lab.host("a").freeze().unwrap();
    pair.lab.promote("b", None, false).unwrap();
    alone("b");
    write_alone(&pair, "b");
    bring_back(&pair, "a").unwrap();
    assert_equal(&pair, "b");
}

/// Interruptions of each kind in the long test.
const ROUNDS: u64 = 50;

/// What is done to a return.
#[derive(Debug, Clone, Copy)]
enum Strike {
    SecondaryProgram,
    SecondaryHost,
    PrimaryProgram,
    PrimaryHost,
}

const STRIKES: [Strike; 4] = [
    Strike::SecondaryProgram,
    Strike::PrimaryProgram,
    Strike::SecondaryHost,
    Strike::PrimaryHost,
];

fn first_seed() -> u64 {
    let seed = std::env::var("SIDEKICK_SEED").ok();
    seed.and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[test]
#[ignore = "takes many minutes: 50 kills at seeded points of a return under load"]
fn fifty_kills_during_returns_cost_nothing() {
    let mut random = Random::new(first_seed());
    let pair = Pair::up(&quick()).unwrap();
    let (mut primary, mut secondary) = ("a", "b");
    lose(&pair, secondary, primary);
    for round in 0..ROUNDS {
        let strike = STRIKES[random.bits() as usize % STRIKES.len()];
        // Beyond the end of the data: also while both write down that it is complete.
        let point = random.bits() % 110;
        println!(
            "seed {}, round {round}: {strike:?} at {point} %, {primary} is primary",
            first_seed()
        );
        let load = Load::start(&pair, primary, first_seed(), round);
        write_alone(&pair, primary);
        limit(&pair, primary, Some(RATE));
        let act = || match strike {
            Strike::SecondaryProgram => pair.lab.host(secondary).kill_program("skfs").unwrap(),
            Strike::SecondaryHost => pair.lab.host(secondary).kill().unwrap(),
            Strike::PrimaryProgram => pair.lab.host(primary).kill_program("skfs").unwrap(),
            Strike::PrimaryHost => pair.lab.host(primary).kill().unwrap(),
        };
        let struck = interrupt(&pair, secondary, primary, bytes_at(point), act);
        let load = match strike {
            Strike::PrimaryProgram | Strike::PrimaryHost if struck => {
                let load = load.died();
                pair.lab.start(primary).unwrap();
                // In the moment of the end it may be the secondary that has to go on.
                if pair.lab.promote(primary, None, false).is_err() {
                    pair.lab.promote(secondary, None, false).unwrap();
                    (primary, secondary) = (secondary, primary);
                }
                load
            }
            _ => load.end(),
        };
        limit(&pair, primary, None);
        bring_back(&pair, secondary).unwrap();
        assert_equal(&pair, primary);
        load.assert_kept(&pair);
        lose(&pair, secondary, primary);
    }
}

#[test]
#[ignore = "takes many minutes: 50 power cuts at seeded points of a return under load"]
fn fifty_power_cuts_during_returns_cost_nothing() {
    let mut random = Random::new(first_seed());
    let pair = Pair::up_on([None, VOLATILE], &quick()).unwrap();
    lose(&pair, "b", "a");
    for round in 0..ROUNDS {
        let point = random.bits() % 110;
        println!("seed {}, round {round}: at {point} %", first_seed());
        let load = Load::start(&pair, "a", first_seed(), round);
        write_alone(&pair, "a");
        limit(&pair, "a", Some(RATE));
        let cut = || {
            pair.lab
                .host("b")
                .cut_power(first_seed() + round)
                .map(drop)
                .unwrap()
        };
        interrupt(&pair, "b", "a", bytes_at(point), cut);
        let load = load.end();
        limit(&pair, "a", None);
        bring_back(&pair, "b").unwrap();
        assert_equal(&pair, "a");
        load.assert_kept(&pair);
        pair.shell("a", &format!("rm -r {}", load.directory)).unwrap();
        lose(&pair, "b", "a");
    }
}
