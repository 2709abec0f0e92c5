//! Random operations on a mirror: the same as on a plain directory, the same on both copies, and what was
//! acknowledged is kept by whichever host survives. Needs root and FUSE.
//!
//! `SIDEKICK_SEED` names the seed; with `SIDEKICK_LONG` there are many.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod pair;

use lab::differential::Tally;
use lab::mirror::MirrorOptions;
use lab::process::ProcessId;
use lab::recorded::{self, Plan};
use lab::status::Wanted;
use lab::wait;
use lab::{LIMIT, programs};
use pair::{Pair, seeds};
use rustix::io::Errno;
use skfs::config::SyncMode;
use skfs::control::status::State;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Of the subtrees, or of the names shared.
const THREADS: u64 = 4;
/// All threads together take 50,000.
const STEPS: u64 = 12_500;
/// When a host is lost on the way: enough that there is a middle.
const STEPS_WITH_LOSS: u64 = 4_000;

fn options(sync: SyncMode) -> MirrorOptions {
    MirrorOptions {
        sync,
        ..MirrorOptions::default()
    }
}

/// The work of `differential` on the primary.
fn tester(pair: &Pair, work: &str, directories: &[&Path], seed: u64, steps: u64) -> Command {
    let program = programs::find("differential").unwrap();
    let mut command = pair.lab.host("a").command(program).unwrap();
    command
        .arg(work)
        .args(directories)
        .args(["--seed", &seed.to_string()]);
    command.args(["--threads", &THREADS.to_string(), "--steps", &steps.to_string()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    println!("{work}: seed {seed}, {THREADS} threads of {steps} steps");
    command
}

fn tally_of(child: Child) -> Tally {
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn disjoint(pair: &Pair, seed: u64, steps: u64) -> Command {
    tester(pair, "disjoint", &[&pair.dir, &pair.plain], seed, steps)
}

fn assert_calls_fail_often_enough(tally: &Tally) {
    for errno in [Errno::NOENT, Errno::EXIST, Errno::NOTEMPTY, Errno::ACCESS] {
        let share = tally.share(errno);
        assert!(
            share >= 0.01,
            "{errno} in {share} of {} calls: {:?}",
            tally.calls,
            tally.errors
        );
    }
}

fn same_as_a_plain_directory(sync: SyncMode) {
    for seed in seeds() {
        let pair = Pair::up(&options(sync));
        let tally = tally_of(disjoint(&pair, seed, STEPS).spawn().unwrap());
        println!("{tally:?}");
        assert_calls_fail_often_enough(&tally);
        pair.assert_in_sync();
        for host in ["a", "b"] {
            assert_eq!(pair.differences_to_plain(host), [] as [&str; 0], "on {host}");
        }
    }
}

#[test]
fn every_call_gives_what_it_gives_on_a_plain_directory() {
    same_as_a_plain_directory(SyncMode::Write);
}

#[test]
fn every_call_gives_the_same_with_the_kernels_write_back_cache() {
    same_as_a_plain_directory(SyncMode::Flush);
}

fn copies_agree_on_shared_names(sync: SyncMode) {
    for seed in seeds() {
        let pair = Pair::up(&options(sync));
        let tally = tally_of(
            tester(&pair, "shared", &[&pair.dir], seed, STEPS)
                .spawn()
                .unwrap(),
        );
        println!("{tally:?}");
        pair.assert_in_sync();
    }
}

#[test]
fn the_copies_agree_after_threads_shared_names() {
    copies_agree_on_shared_names(SyncMode::Write);
}

#[test]
fn the_copies_agree_after_threads_shared_names_with_the_write_back_cache() {
    copies_agree_on_shared_names(SyncMode::Flush);
}

#[test]
fn a_killed_secondary_changes_no_outcome_of_any_call() {
    for seed in seeds() {
        let pair = Pair::up(&options(SyncMode::Write));
        let child = disjoint(&pair, seed, STEPS_WITH_LOSS).spawn().unwrap();
        let tester = ProcessId::of(child.id()).unwrap();
        wait_for_sequence(&pair, tester, THREADS * STEPS_WITH_LOSS / 10);
        pair.lose_secondary();
        tally_of(child);
        pair.run("sync");
        assert_eq!(pair.differences_to_plain("a"), [] as [&str; 0]);
    }
}

/// Waits until the primary has numbered so many operations, or the tester has ended too early.
fn wait_for_sequence(pair: &Pair, tester: ProcessId, operations: u64) {
    pair.lab
        .wait_for(LIMIT, "the work is under way", |status| {
            let mirror = lab::mirrors::mirror_of(status, "a", &pair.dir);
            let last = mirror.and_then(|mirror| mirror.last_sequence);
            !tester.lives() || last >= Some(operations)
        })
        .unwrap();
}

/// Who dies in the middle of the recorded work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Secondary,
    Primary,
    /// The primary's `skfs`; its host and the application live.
    PrimaryProgram,
}

/// Kills `victim` when about a part of the work is done that the seed decides, and checks the survivor.
fn acknowledged_is_kept(sync: SyncMode, victim: Victim) {
    for seed in seeds() {
        let pair = Pair::up(&options(sync));
        let log = pair.outside("log");
        fs::create_dir(&log).unwrap();
        let plan = Plan {
            seed,
            threads: THREADS,
            steps: STEPS_WITH_LOSS,
        };
        let work = tester(&pair, "recorded", &[&pair.dir, &log], seed, plan.steps)
            .spawn()
            .unwrap();
        let application = ProcessId::of(work.id()).unwrap();
        let moment = plan.threads * plan.steps / 20 * (1 + seed % 10);
        wait::until_true(LIMIT, "the work is under way", || {
            !application.lives() || recorded::acknowledged(&log, &plan).unwrap() >= moment
        })
        .unwrap();
        assert!(application.lives(), "{:?}", work.wait_with_output());
        let survivor = match victim {
            Victim::Secondary => {
                pair.lose_secondary();
                let output = work.wait_with_output().unwrap();
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{}: {errors}", output.status);
                pair.run("sync");
                "a"
            }
            Victim::Primary | Victim::PrimaryProgram => {
                if victim == Victim::Primary {
                    pair.lab.host("a").kill().unwrap();
                } else {
                    pair.lab.host("a").kill_program("skfs").unwrap();
                }
                // It dies with its host, or its calls fail.
                assert!(!work.wait_with_output().unwrap().status.success());
                pair.lab.promote("b", None, false).unwrap();
                pair.lab
                    .wait_state("b", None, Wanted::State(State::Alone))
                    .unwrap();
                "b"
            }
        };
        let progress = recorded::check(&pair.backing(survivor), &log, &plan);
        println!("{victim:?} died at {moment} steps: {progress:?}");
        let steps: u64 = progress.unwrap().iter().map(|one| one.acknowledged).sum();
        assert!(steps >= moment);
        assert!((steps == plan.threads * plan.steps) == (victim == Victim::Secondary));
    }
}

#[test]
fn a_killed_secondary_costs_no_acknowledged_operation() {
    acknowledged_is_kept(SyncMode::Write, Victim::Secondary);
}

#[test]
fn a_killed_secondary_costs_nothing_with_the_write_back_cache() {
    acknowledged_is_kept(SyncMode::Flush, Victim::Secondary);
}

#[test]
fn a_killed_primarys_acknowledged_operations_are_on_the_survivor() {
    acknowledged_is_kept(SyncMode::Write, Victim::Primary);
}

#[test]
fn a_killed_primarys_flushed_data_are_on_the_survivor_with_the_write_back_cache() {
    acknowledged_is_kept(SyncMode::Flush, Victim::Primary);
}

#[test]
fn acknowledged_operations_are_on_the_survivor_when_only_skfs_was_killed() {
    acknowledged_is_kept(SyncMode::Write, Victim::PrimaryProgram);
}
