//! A node that was gone comes back: only what changed is copied, while the application runs. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod pair;

use lab::failback::Returned;
use lab::mirror::MirrorOptions;
use lab::mirrors::mirror_of;
use lab::process::ProcessId;
use lab::programs;
use lab::status::{MirrorStatus, Wanted};
use pair::{Pair, seeds};
use skfs::config::SyncMode;
use skfs::control::command::{Command, CopyCommand, RefusalKind};
use skfs::control::status::{Copy, Role, Standing};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A lost secondary is noticed soon.
fn fast() -> MirrorOptions {
    MirrorOptions {
        peer_stall: Some(Duration::from_secs(2)),
        ..MirrorOptions::default()
    }
}

fn give_back(pair: &Pair, host: &str) -> Returned {
    let returned = pair.lab.return_host(host, None, &mut |_, _| {}).unwrap();
    returned.into_iter().next().unwrap()
}

fn assert_same(pair: &Pair) {
    for host in ["a", "b"] {
        pair.lab.wait_state(host, None, Wanted::InSync).unwrap();
    }
    assert_eq!(pair.differences(), [] as [&str; 0]);
}

/// The figures of a copy that looked only at what had changed.
fn tracked(returned: Returned) -> Copy {
    let copy = returned.copy.expect("something was copied");
    println!("{:.2} s: {copy:?}", returned.seconds);
    assert_eq!(copy.tracked, Some(true), "{copy:?}");
    copy
}

/// 64 MiB in two files, a directory with 200 small ones, and some links.
const TREE: &str = "mkdir -p d/e x; for n in $(seq 200); do echo $n > d/f$n; done; head -c 32M /dev/urandom > big; \
                    head -c 32M /dev/urandom > x/moved; ln d/f1 d/linked; ln d/f2 d/gone";

#[test]
fn only_what_changed_is_copied_and_what_was_renamed_is_renamed() {
    let pair = Pair::up(&fast());
    pair.run(TREE);
    pair.lose_secondary();
    pair.run(
        "mv x y; rm d/f5 d/gone; mv d/f7 d/e/g7; chmod 600 d/f8; setfattr -n user.a -v b d/f9; ln d/f10 another; \
         echo more >> d/f1; dd if=/dev/urandom of=big bs=4k seek=1000 count=1 conv=notrunc status=none; \
         mv d/f11 t; mv d/f12 d/f11; mv t d/f12; mkdir -p k/l; echo new > k/l/m; ln -s k link",
    );
    let copy = tracked(give_back(&pair, "b"));
    assert_same(&pair);
    // 64 KiB of the large file, and what is small; nothing of what was renamed. What was made just before the secondary
    // was lost, since the last checkpoint, is compared as well.
    assert!(copy.bytes_sent.unwrap() < 100 << 10, "{copy:?}");
}

#[test]
fn a_file_that_was_cut_and_grew_again_has_no_old_data_behind_the_cut() {
    let pair = Pair::up(&fast());
    pair.run("head -c 1M /dev/urandom > f; head -c 1M /dev/urandom > g; cp f h");
    pair.lose_secondary();
    pair.run(
        "truncate -s 1000 f; truncate -s 900K f; : > g; echo x > g; truncate -s 3M h; truncate -s 500K h",
    );
    tracked(give_back(&pair, "b"));
    assert_same(&pair);
}

#[test]
fn the_first_host_returns_after_a_failover_with_the_writes_of_both() {
    let pair = Pair::up(&fast());
    pair.run(TREE);
    for (dead, alive) in [("a", "b"), ("b", "a"), ("a", "b")] {
        let script = format!("echo on {dead} >> log; mv d/e d/f || mv d/f d/e");
        pair.run_in(dead, &pair.dir, &script);
        pair.lab.host(dead).kill().unwrap();
        pair.lab.promote(alive, None, false).unwrap();
        let script = "echo after >> d/f1; rm -f d/f3; mv y x || mv x y; echo 1 > new";
        pair.run_in(alive, &pair.dir, script);
        let copy = tracked(give_back(&pair, dead));
        assert_same(&pair);
        assert!(copy.bytes_sent.unwrap() < 1 << 20, "{copy:?}");
    }
    assert_eq!(pair.run_in("b", &pair.dir, "cat log"), "on a\non b\non a");
}

#[test]
fn a_primary_that_was_killed_while_alone_still_knows_what_it_wrote() {
    let pair = Pair::up(&fast());
    pair.run(TREE);
    pair.lose_secondary();
    pair.run("mv x y; dd if=/dev/urandom of=big bs=1M seek=3 count=1 conv=notrunc status=none; rm d/f9; echo 1 > d/new");
    pair.lab.host("a").kill_program("skfs").unwrap();
    pair.lab.start("a").unwrap();
    pair.lab.promote("a", None, false).unwrap();
    pair.run("mv d/f20 d/e/f20; echo 2 > later; chmod 700 d/f21");
    // Cleanly this time.
    pair.lab.command("a", &pair.dir, Command::Demote).unwrap();
    pair.lab.promote("a", None, false).unwrap();
    pair.run("ln d/f22 d/e/f22; echo 3 >> d/f2");
    let copy = tracked(give_back(&pair, "b"));
    assert_same(&pair);
    assert!(copy.bytes_sent.unwrap() < 3 << 20, "{copy:?}");
}

#[test]
fn after_a_clean_stop_of_both_nothing_is_copied() {
    let pair = Pair::up(&fast());
    pair.run(TREE);
    for host in ["a", "b"] {
        pair.lab.command(host, &pair.dir, Command::Demote).unwrap();
    }
    pair.lab
        .command("b", &pair.dir, Command::BecomeSecondary)
        .unwrap();
    pair.lab.promote("a", None, false).unwrap();
    let connect = Command::Connect { overwrite: false };
    pair.lab.command("a", &pair.dir, connect).unwrap();
    assert_same(&pair);
    let status = pair.lab.status().unwrap();
    let told = mirror_of(&status, "a", &pair.dir).unwrap().skfs.clone().unwrap();
    assert_eq!(told.last_copy, None);
}

#[test]
fn when_both_have_written_nothing_is_overwritten_unasked() {
    let pair = Pair::up(&fast());
    pair.run("echo both > f");
    pair.lab.cut("a", "b").unwrap();
    pair.lab
        .wait_state("a", None, Wanted::State(skfs::control::status::State::Alone))
        .unwrap();
    pair.run("echo a > f");
    pair.lab.promote("b", None, true).unwrap();
    pair.run_in("b", &pair.dir, "echo b > f; echo b > only-b");
    pair.lab.heal().unwrap();
    pair.lab.command("b", &pair.dir, Command::Demote).unwrap();
    let error = pair.lab.return_host("b", None, &mut |_, _| {}).unwrap_err();
    let refusal = error.into_refusal().unwrap();
    assert_eq!(refusal.kind, RefusalKind::WouldOverwrite, "{refusal:?}");
    assert_eq!(
        std::fs::read_to_string(pair.backing("b").join("f")).unwrap(),
        "b\n"
    );
    assert!(pair.backing("b").join("only-b").exists());
}

fn work(pair: &Pair, host: &str, seed: u64, steps: u64) -> Child {
    let (here, plain) = (pair.dir.join("work"), pair.plain.join("work"));
    let make = format!(
        "mkdir -p {0} {1}; chmod 755 {0} {1}",
        here.display(),
        plain.display()
    );
    pair.run_in(host, &pair.dir, &make);
    let program = programs::find("differential").unwrap();
    let mut command = pair.lab.host(host).command(program).unwrap();
    command.arg("disjoint").args([&here, &plain]);
    let (seed, steps) = (seed.to_string(), steps.to_string());
    command.args(["--seed", &seed, "--threads", "4", "--steps", &steps]);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Random operations while the secondary is killed and returns, again and again.
fn works_while_it_returns(sync: SyncMode) {
    for seed in seeds() {
        let pair = Pair::up(&MirrorOptions { sync, ..fast() });
        let child = work(&pair, "a", seed, 3_000);
        let worker = ProcessId::of(child.id()).unwrap();
        let mut returns = 0;
        while worker.lives() {
            pair.lab.host("b").kill().unwrap();
            give_back(&pair, "b");
            returns += 1;
        }
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "seed {seed}: {}: {errors}",
            output.status
        );
        println!("seed {seed}: {returns} returns beside the work");
        assert_same(&pair);
    }
}

#[test]
fn the_copies_agree_after_random_operations_beside_many_returns() {
    works_while_it_returns(SyncMode::Write);
}

#[test]
fn a_target_that_is_killed_in_the_middle_begins_anew() {
    let pair = Pair::up(&fast());
    pair.run(TREE);
    pair.lose_secondary();
    pair.run("mv x y; rm -r d/e; for n in $(seq 20); do head -c 1M /dev/urandom > d/n$n; done; mv d z");
    let limit = skfs::control::command::CopyCommand::Limit {
        bytes_per_second: Some(10 << 20),
    };
    pair.lab.command("a", &pair.dir, Command::Copy(limit)).unwrap();
    for round in 0..3 {
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| pair.lab.start("b"));
            pair.lab
                .wait_for(lab::LIMIT, "the copy is under way", |status| {
                    let copy = mirror_of(status, "a", &pair.dir).and_then(|mirror| mirror.copy.clone());
                    copy.and_then(|copy| copy.bytes_sent) >= Some(2 << 20)
                })
                .unwrap();
            let status = pair.lab.status().unwrap();
            let standing = mirror_of(&status, "b", &pair.dir).unwrap().standing;
            assert_eq!(standing, Some(Standing::Inconsistent), "round {round}");
            pair.lab.host("b").kill().unwrap();
            // Else the copy would be tried again for as long as the host is away.
            pair.lab.command("a", &pair.dir, Command::GoAlone).unwrap();
            let notes = starting.join().unwrap().unwrap();
            assert_eq!(notes.len(), 1, "it was not joined: {notes:?}");
        });
        pair.run(&format!("echo {round} >> log; mv z/f{} moved{round}", 30 + round));
    }
    let unlimited = skfs::control::command::CopyCommand::Limit {
        bytes_per_second: None,
    };
    pair.lab
        .command("a", &pair.dir, Command::Copy(unlimited))
        .unwrap();
    tracked(give_back(&pair, "b"));
    assert_same(&pair);
}

#[test]
fn a_frozen_primary_whose_peer_was_promoted_returns_as_secondary() {
    let pair = Pair::up(&fast());
    pair.run("echo before > f");
    pair.lab.host("a").freeze().unwrap();
    pair.lab.promote("b", None, false).unwrap();
    pair.run_in("b", &pair.dir, "echo after > f");
    let returned = pair.lab.return_host("a", None, &mut |_, _| {}).unwrap();
    println!("{returned:?}");
    assert_same(&pair);
    assert_eq!(
        std::fs::read_to_string(pair.backing("a").join("f")).unwrap(),
        "after\n"
    );
    assert_eq!(status_of(&pair, "a").role, Some(Role::Secondary));
}

fn status_of(pair: &Pair, host: &str) -> MirrorStatus {
    let status = pair.lab.status().unwrap();
    mirror_of(&status, host, &pair.dir).unwrap().clone()
}

#[test]
fn a_return_ends_when_the_host_goes_down_and_can_be_repeated() {
    let pair = Pair::up(&fast());
    pair.lose_secondary();
    pair.run("head -c 32M /dev/urandom > large");
    let limit = |bytes_per_second| Command::Copy(CopyCommand::Limit { bytes_per_second });
    pair.lab.command("a", &pair.dir, limit(Some(4 << 20))).unwrap();
    std::thread::scope(|scope| {
        let returning = scope.spawn(|| pair.lab.return_host("b", None, &mut |_, _| {}));
        pair.lab
            .wait_for(lab::LIMIT, "the copy is under way", |status| {
                let copy = mirror_of(status, "a", &pair.dir).and_then(|mirror| mirror.copy.clone());
                copy.and_then(|copy| copy.bytes_sent) >= Some(1 << 20)
            })
            .unwrap();
        let killed = Instant::now();
        pair.lab.host("b").kill().unwrap();
        let error = returning.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("host b went down"), "{error}");
        assert!(error.contains("`lab return b`"), "{error}");
        // The limit of the command is longer.
        assert!(killed.elapsed() < lab::LIMIT / 2, "{:?}", killed.elapsed());
    });
    pair.lab.command("a", &pair.dir, limit(None)).unwrap();
    give_back(&pair, "b");
    assert_same(&pair);
}

/// What was brought over and is not finished must not pass for what both always had.
#[test]
fn a_source_that_is_killed_in_the_middle_looks_again_at_what_it_had_begun() {
    let pair = Pair::up(&fast());
    pair.run("mkdir old; echo 1 > old/file");
    pair.lose_secondary();
    let limit = |bytes_per_second| Command::Copy(CopyCommand::Limit { bytes_per_second });
    for round in 0..3 {
        // Directories get their attributes last, files their data after all names.
        let make = format!(
            "mkdir -p new{round}/deep old/in{round}; chmod 2751 new{round} new{round}/deep old/in{round}; \
             for n in $(seq 30); do head -c 400K /dev/urandom > new{round}/deep/f$n; echo $n > old/g{round}-$n; \
             echo $n > old/in{round}/$n; done; chmod 640 old/g{round}-*; touch -d 2001-02-03 new{round} old"
        );
        pair.run(&make);
        pair.lab.command("a", &pair.dir, limit(Some(4 << 20))).unwrap();
        std::thread::scope(|scope| {
            let joining = scope.spawn(|| match round {
                0 => pair.lab.start("b").map(|notes| notes.is_empty()),
                _ => pair
                    .lab
                    .command("a", &pair.dir, Command::Connect { overwrite: false })
                    .map(|_| true),
            });
            pair.lab
                .wait_for(lab::LIMIT, "the copy is under way", |status| {
                    let copy = mirror_of(status, "a", &pair.dir).and_then(|mirror| mirror.copy.clone());
                    copy.and_then(|copy| copy.bytes_sent) >= Some((2 + round) << 20)
                })
                .unwrap();
            // Made meanwhile, in a directory that both have.
            pair.run(&format!(
                "mkdir -m 711 old/late{round}; echo late > old/late{round}/f"
            ));
            pair.lab.host("a").kill_program("skfs").unwrap();
            let joined = joining.join().unwrap();
            assert!(!matches!(joined, Ok(true)), "round {round}: it is joined");
        });
        pair.lab.start("a").unwrap();
        pair.lab.promote("a", None, false).unwrap();
    }
    tracked(give_back(&pair, "b"));
    assert_same(&pair);
}
