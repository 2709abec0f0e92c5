//! A secondary that has nothing, or something else, becomes identical while the application runs. Needs root and
//! FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod pair;

use lab::mirror::MirrorOptions;
use lab::mirrors::mirror_of;
use lab::process::ProcessId;
use lab::status::{MirrorStatus, Wanted};
use lab::{LIMIT, programs, wait};
use pair::{Pair, seeds};
use skfs::config::SyncMode;
use skfs::control::command::{Command, CopyCommand};
use skfs::control::event::What;
use skfs::control::status::{Standing, State};
use std::fs;
use std::process::{Child, Stdio};

/// Every kind of node, attribute and hole that there is.
const EVERYTHING: &str = r#"
mkdir -p tree/deep/er sticky empty
chmod 1777 sticky
chmod 2750 tree/deep
head -c 300000 /dev/urandom > tree/data
head -c 5000000 /dev/urandom > tree/large
truncate -s 40M tree/sparse
printf middle | dd of=tree/sparse bs=1 seek=20000000 conv=notrunc status=none
fallocate -l 3M tree/allocated
: > tree/nothing
ln tree/data tree/deep/er/linked
ln tree/data linked-too
ln -s tree/data symlink
ln -s nowhere/at/all tree/dangling
mkfifo fifo
mknod tree/null c 1 3
mknod tree/loop b 7 9
printf x > "tree/$(printf 'odd \001 \377 name')"
chown 1234:5678 tree/data tree/dangling -h
setfattr -n user.color -v blue tree/data
setfattr -n trusted.ours -v secret tree
setfacl -m u:1234:rwx -m d:g:5678:rx tree/deep
/sbin/setcap cap_net_raw+ep tree/large
touch -d 1969-12-31T23:59:58.123456789Z tree/nothing
touch -hd 2001-01-01 symlink
touch -d 2002-02-02T02:02:02.2 tree/deep/er tree/deep tree
"#;

fn fast() -> MirrorOptions {
    MirrorOptions::default()
}

fn status(pair: &Pair, host: &str) -> MirrorStatus {
    let status = pair.lab.status().unwrap();
    mirror_of(&status, host, &pair.dir).unwrap().clone()
}

/// Starts the secondary's host again; in sync and identical at the end.
fn rejoin(pair: &Pair) {
    let notes = pair.lab.start("b").unwrap();
    assert_eq!(notes, [] as [&str; 0]);
    assert_joined(pair);
}

fn assert_joined(pair: &Pair) {
    for host in ["a", "b"] {
        pair.lab.wait_state(host, None, Wanted::InSync).unwrap();
    }
    assert_eq!(pair.differences(), [] as [&str; 0]);
    assert_eq!(status(pair, "b").standing, Some(Standing::UpToDate));
}

#[test]
fn what_was_written_alone_comes_over_with_every_kind_of_node() {
    let pair = Pair::up(&fast());
    pair.run("mkdir old; echo before > old/file; ln old/file old/second; echo gone > gone");
    pair.lose_secondary();
    pair.run(EVERYTHING);
    pair.run("rm gone; mv old renamed; echo after >> renamed/file; mkdir gone; echo now > gone/dir");
    rejoin(&pair);
    // And from then on everything is shipped again.
    pair.run("echo more >> renamed/file; mv tree moved; ln moved/data third; rm -r gone");
    assert_joined(&pair);
    pair.lab.host("a").kill().unwrap();
    pair.lab.promote("b", None, false).unwrap();
    assert_eq!(
        pair.run_in(
            "b",
            &pair.dir,
            "cat renamed/second; getfattr -n user.color third --only-values"
        ),
        "before\nafter\nmore\nblue"
    );
}

#[test]
fn an_empty_secondary_gets_everything_and_equal_blocks_are_not_sent() {
    let pair = Pair::up(&fast());
    pair.run(EVERYTHING);
    pair.run("head -c 64M /dev/urandom > big");
    pair.lose_secondary();
    let backing = pair.backing("b");
    for entry in fs::read_dir(&backing).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
    rejoin(&pair);
    // One block of a thousand differs.
    pair.lose_secondary();
    pair.run("printf changed | dd of=big bs=1 seek=33000000 conv=notrunc status=none");
    let sent = std::thread::scope(|scope| {
        let start = scope.spawn(|| rejoin(&pair));
        let mut sent = None;
        wait::until_true(LIMIT, "the copy ends", || {
            if let Some(copy) = status(&pair, "a").copy {
                sent = sent.max(copy.bytes_sent);
            }
            start.is_finished()
        })
        .unwrap();
        sent
    });
    println!("sent {sent:?} of 64 MiB");
    assert!(sent.unwrap_or(0) < 2 << 20);
}

#[test]
fn what_only_the_secondary_has_goes_away() {
    let pair = Pair::up(&fast());
    pair.run("mkdir -p a/b; echo 1 > a/b/one; echo 2 > two; echo 3 > three; ln -s two link; mkdir swap");
    // Whatever somebody may have done to a copy that was opened for maintenance.
    for command in [Command::Demote, Command::Unlock] {
        pair.lab.command("b", &pair.dir, command).unwrap();
    }
    pair.lab
        .wait_state("a", None, Wanted::State(State::Alone))
        .unwrap();
    let script = "rm -r a; echo file > a; mkdir two; echo x > two/x; rm link; mkfifo link; rmdir swap; \
                  ln three swap; setfattr -n user.extra -v 1 three; head -c 3000000 /dev/urandom > extra; \
                  mkdir -p many/levels/of/extra; touch many/levels/of/extra/file; truncate -s 9M three";
    let backing = pair.backing("b");
    let script = format!("set -e; cd {}; rm two; {script}", backing.display());
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    rejoin(&pair);
    let hidden = backing.join(".sidekick/displaced");
    assert!(!hidden.exists() || fs::read_dir(hidden).unwrap().next().is_none());
}

/// Random operations, a copy of `RATE` beside them.
fn works_during_a_copy(sync: SyncMode) {
    for seed in seeds() {
        let pair = Pair::up(&MirrorOptions { sync, ..fast() });
        pair.run(EVERYTHING);
        pair.lose_secondary();
        let child = work(&pair, seed, 6_000);
        let worker = ProcessId::of(child.id()).unwrap();
        // Some of it before the copy, most of it beside it: it begins anew each time it ends.
        let mut copies = 0;
        loop {
            rejoin_host(&pair);
            copies += 1;
            if !worker.lives() {
                break;
            }
            pair.lose_secondary();
        }
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", output.status);
        println!("{copies} copies beside the work");
        assert_joined(&pair);
        assert_eq!(pair.differences_to_plain_below("b", "work"), [] as [&str; 0]);
    }
}

fn rejoin_host(pair: &Pair) {
    let notes = pair.lab.start("b").unwrap();
    assert_eq!(notes, [] as [&str; 0]);
}

fn work(pair: &Pair, seed: u64, steps: u64) -> Child {
    let (here, plain) = (pair.dir.join("work"), pair.plain.join("work"));
    for directory in [&here, &plain] {
        pair.run(&format!("mkdir {0}; chmod 755 {0}", directory.display()));
    }
    let program = programs::find("differential").unwrap();
    let mut command = pair.lab.host("a").command(program).unwrap();
    command.arg("disjoint").args([&here, &plain]);
    command.args([
        "--seed",
        &seed.to_string(),
        "--threads",
        "4",
        "--steps",
        &steps.to_string(),
    ]);
    println!("seed {seed}");
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn the_copies_agree_after_random_operations_during_the_copy() {
    works_during_a_copy(SyncMode::Write);
}

#[test]
fn the_copies_agree_after_random_operations_during_the_copy_with_the_write_back_cache() {
    works_during_a_copy(SyncMode::Flush);
}

/// 40 MiB at 8 MiB a second: time enough to be interrupted.
fn prepare_slow_copy(pair: &Pair) {
    pair.lose_secondary();
    pair.run("mkdir load; for n in $(seq 40); do head -c 1M /dev/urandom > load/$n; done");
    let limit = CopyCommand::Limit {
        bytes_per_second: Some(8 << 20),
    };
    pair.lab.command("a", &pair.dir, Command::Copy(limit)).unwrap();
}

/// Waits until the copy has sent so many bytes.
fn wait_for_sent(pair: &Pair, bytes: u64) {
    pair.lab
        .wait_for(LIMIT, "the copy is under way", |status| {
            let copy = mirror_of(status, "a", &pair.dir).and_then(|mirror| mirror.copy.clone());
            copy.and_then(|copy| copy.bytes_sent) >= Some(bytes)
        })
        .unwrap();
}

#[test]
fn a_mixed_secondary_does_not_become_primary_and_a_killed_one_begins_anew() {
    let pair = Pair::up(&fast());
    prepare_slow_copy(&pair);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| pair.lab.start("b"));
        wait_for_sent(&pair, 4 << 20);
        let (a, b) = (status(&pair, "a"), status(&pair, "b"));
        assert_eq!(
            (a.state, b.standing),
            (Some(State::Alone), Some(Standing::Inconsistent))
        );
        assert_eq!((a.in_sync, b.in_sync), (Some(false), Some(false)));
        let refusal = pair.lab.promote("b", None, false).unwrap_err().to_string();
        assert!(refusal.contains("mixed"), "{refusal}");
        for round in 0..3_u64 {
            // Programs of the application go on.
            pair.run(&format!(
                "echo {round} >> log; mv load/{0} load/moved{0}; sync log",
                round + 1
            ));
            pair.lab.host("b").kill().unwrap();
            pair.lab
                .wait_for(LIMIT, "the primary has noticed", |status| {
                    mirror_of(status, "a", &pair.dir).is_some_and(|m| m.connected == Some(false))
                })
                .unwrap();
            // The primary calls by itself as long as the copy is wanted.
            pair.lab.host("b").boot().unwrap();
            let _ = pair.lab.start("b");
        }
        drop(first.join());
    });
    // The last kill may have hit a pair that was in sync already.
    pair.lab
        .wait_for(LIMIT, "the primary knows where it stands", |status| {
            mirror_of(status, "a", &pair.dir)
                .is_some_and(|m| m.in_sync == Some(true) || m.state == Some(State::Alone))
        })
        .unwrap();
    pair.lab
        .command("a", &pair.dir, Command::Connect { overwrite: false })
        .unwrap();
    assert_joined(&pair);
}

#[test]
fn a_killed_primary_goes_on_with_its_copy_when_it_is_back() {
    let pair = Pair::up(&fast());
    prepare_slow_copy(&pair);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| pair.lab.start("b"));
        wait_for_sent(&pair, 8 << 20);
        pair.lab.host("a").kill().unwrap();
        drop(first.join());
    });
    assert!(pair.lab.promote("b", None, false).is_err(), "its copy is mixed");
    pair.lab.start("a").unwrap();
    pair.lab.promote("a", None, false).unwrap();
    pair.lab
        .command("a", &pair.dir, Command::Connect { overwrite: false })
        .unwrap();
    assert_joined(&pair);
}

#[test]
fn a_copy_pauses_and_goes_on() {
    let pair = Pair::up(&fast());
    prepare_slow_copy(&pair);
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| rejoin(&pair));
        wait_for_sent(&pair, 1 << 20);
        let order = |order| pair.lab.command("a", &pair.dir, Command::Copy(order)).unwrap();
        order(CopyCommand::Pause);
        pair.run("echo while paused > load/7; echo new > load/new; rm load/8");
        assert!(status(&pair, "a").copy.unwrap().paused);
        assert!(!copying.is_finished());
        order(CopyCommand::Limit {
            bytes_per_second: None,
        });
        order(CopyCommand::Resume);
        copying.join().unwrap();
    });
    assert_eq!(pair.run("cat load/7 load/new"), "while paused\nnew");
}

#[test]
fn what_the_kernel_forgets_and_looks_up_again_during_a_copy_is_shipped_all_the_same() {
    let pair = Pair::up(&fast());
    prepare_slow_copy(&pair);
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| rejoin(&pair));
        wait_for_sent(&pair, 1 << 20);
        let order = |order| pair.lab.command("a", &pair.dir, Command::Copy(order)).unwrap();
        order(CopyCommand::Pause);
        pair.run("mkdir new; echo one > new/file; echo one > made; mkdir gone; echo x > gone/file");
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        pair.run("echo two >> new/file; echo two >> made; echo two > new/other; rm -r gone; mv load/9 new/");
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        pair.run("echo three >> new/file; ln made new/link; rm -r load/10");
        order(CopyCommand::Limit {
            bytes_per_second: None,
        });
        order(CopyCommand::Resume);
        copying.join().unwrap();
    });
    assert_eq!(
        pair.run("cat new/file new/link new/other"),
        "one\ntwo\nthree\none\ntwo\ntwo"
    );
}

#[test]
fn directories_that_come_and_go_do_not_keep_a_copy_from_its_end() {
    let pair = Pair::up(&fast());
    prepare_slow_copy(&pair);
    let churn =
        "for n in $(seq 800); do mkdir t$n t$n/u; echo $n > t$n/u/f; mv t$n/u/f last; rm -r t$n; done";
    std::thread::scope(|scope| {
        let working = scope.spawn(|| pair.run(churn));
        let copying = scope.spawn(|| rejoin_host(&pair));
        copying.join().unwrap();
        working.join().unwrap();
    });
    assert_joined(&pair);
}

#[test]
fn files_that_nobody_knows_are_overwritten_only_when_told() {
    let pair = Pair::up(&fast());
    pair.run("echo ours > file");
    pair.lose_secondary();
    pair.run("echo more > more");
    // The mark of the module goes, as in a directory that is another one.
    let backing = pair.backing("b");
    let output = std::process::Command::new("setfattr")
        .args(["-x", "trusted.sidekick.module"])
        .arg(&backing)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::write(backing.join("precious"), "of somebody else").unwrap();
    let notes = pair.lab.start("b").unwrap();
    assert!(
        notes.len() == 1 && notes[0].contains("precious") || notes[0].contains("no mark"),
        "{notes:?}"
    );
    assert_eq!(
        fs::read_to_string(backing.join("precious")).unwrap(),
        "of somebody else"
    );
    pair.lab
        .command("a", &pair.dir, Command::Connect { overwrite: true })
        .unwrap();
    assert_joined(&pair);
    assert!(!backing.join("precious").exists());
}

#[test]
fn a_secondary_with_writes_of_its_own_is_not_overwritten_unasked() {
    let pair = Pair::up(&fast());
    pair.run("echo common > file");
    pair.lose_secondary();
    pair.run("echo of-a > file");
    // Both alone: nobody keeps a person from it yet.
    pair.lab.cut("a", "b").unwrap();
    let _ = pair.lab.start("b");
    pair.lab.command("b", &pair.dir, Command::Demote).unwrap();
    pair.lab.promote("b", None, true).unwrap();
    pair.run_in("b", &pair.dir, "echo of-b > file");
    pair.lab.command("b", &pair.dir, Command::Demote).unwrap();
    pair.lab
        .command("b", &pair.dir, Command::BecomeSecondary)
        .unwrap();
    pair.lab.heal().unwrap();
    let refusal = pair
        .lab
        .command("a", &pair.dir, Command::Connect { overwrite: false })
        .unwrap_err()
        .to_string();
    assert!(
        refusal.contains("split brain") && refusal.contains("--overwrite"),
        "{refusal}"
    );
    pair.lab
        .command("a", &pair.dir, Command::Connect { overwrite: true })
        .unwrap();
    assert_joined(&pair);
    assert_eq!(pair.run("cat file"), "of-a");
}

#[test]
fn a_full_secondary_interrupts_the_copy_and_says_so() {
    let pair = Pair::up_prepared(&fast(), |lab| {
        lab.host("b")
            .make_disk(lab::disk::ext4::DiskOptions {
                size_bytes: 64 << 20,
                volatile: false,
            })
            .unwrap();
    });
    pair.lose_secondary();
    pair.run("head -c 90M /dev/urandom > too-much");
    std::thread::scope(|scope| {
        let start = scope.spawn(|| pair.lab.start("b"));
        wait::until_true(LIMIT, "the copy is interrupted for want of room", || {
            let events = pair.lab.events("a").unwrap();
            events.iter().any(
                |one| matches!(&one.event.what, What::CopyInterrupted { reason } if reason == "no-space"),
            )
        })
        .unwrap();
        pair.run("echo goes on > small; rm too-much; sync small");
        drop(start.join());
    });
    pair.lab
        .command("a", &pair.dir, Command::Connect { overwrite: false })
        .unwrap();
    assert_joined(&pair);
}
