//! What is excluded of a mirror exists on the node that made it only, whatever happens to names around it. Needs root
//! and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod pair;

use lab::mirror::MirrorOptions;
use lab::mirrors::mirror_of;
use lab::random::Random;
use lab::status::Wanted;
use lab::verify::{self, Options};
use lab::{LIMIT, wait};
use pair::{Pair, seeds};
use skfs::config::SyncMode;
use skfs::control::command::{Command, Reply, VerifyCommand};
use skfs::control::event::What;
use skfs::control::status::Standing;
use skfs::control::verification::Report;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn excluding(patterns: &[&str]) -> MirrorOptions {
    MirrorOptions {
        exclude: patterns.iter().map(|one| (*one).to_owned()).collect(),
        ..MirrorOptions::default()
    }
}

/// What the tests exclude: by the end of the name, by the directory above, by being a directory, by the whole path.
const PATTERNS: &[&str] = &["*.tmp", "!keep.tmp", "**/pg_stat_tmp/*", "cache/", "/top/only/*"];

fn on(pair: &Pair, host: &str, below: &str) -> bool {
    pair.backing(host).join(below).symlink_metadata().is_ok()
}

#[track_caller]
fn assert_only_on(pair: &Pair, host: &str, names: &[&str]) {
    let other = if host == "a" { "b" } else { "a" };
    for name in names {
        assert!(on(pair, host, name), "{name} is not on {host}");
        assert!(!on(pair, other, name), "{name} is on {other}");
    }
}

/// The outcome of `rename(2)`, which `mv` would hide.
fn rename(pair: &Pair, from: &str, to: &str) -> std::io::Result<()> {
    let (from, to) = (pair.dir.join(from), pair.dir.join(to));
    pair.within(|| fs::rename(from, to))
}

#[track_caller]
fn assert_exdev(result: std::io::Result<()>) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(18));
}

#[test]
fn what_is_excluded_is_on_the_primary_only() {
    let pair = Pair::up(&excluding(PATTERNS));
    pair.run(
        "mkdir -p data/pg_stat_tmp deep/cache/er top/only
         echo 1 > a.tmp; echo 2 > keep.tmp; echo 3 > data/pg_stat_tmp/x; mkdir data/pg_stat_tmp/d
         echo 4 > data/pg_stat_tmp/d/y; echo 5 > deep/cache/er/z; echo 6 > cache; echo 7 > top/only/v
         ln a.tmp b.tmp; chmod 600 a.tmp; truncate -s 1M a.tmp; sync a.tmp
         cp a.tmp copied; ln -s copied link.tmp; mkfifo deep/fifo.tmp; dd if=a.tmp of=c.tmp status=none",
    );
    assert_only_on(
        &pair,
        "a",
        &[
            "a.tmp",
            "b.tmp",
            "c.tmp",
            "link.tmp",
            "deep/fifo.tmp",
            "data/pg_stat_tmp/x",
            "data/pg_stat_tmp/d",
            "deep/cache",
            "top/only/v",
        ],
    );
    for both in [
        "keep.tmp",
        "data/pg_stat_tmp",
        "deep",
        "cache",
        "top/only",
        "copied",
    ] {
        assert!(on(&pair, "b", both), "{both}");
    }
    pair.assert_in_sync();
    // The kernel has forgotten them, and finds them again.
    pair.run(
        "echo 2 > /proc/sys/vm/drop_caches; echo more >> b.tmp; cmp a.tmp b.tmp; rm a.tmp; echo x >> b.tmp",
    );
    assert_eq!(pair.run("ls deep/cache/er"), "z");
    pair.assert_in_sync();
}

#[test]
fn files_cross_the_border_both_ways() {
    for sync in [SyncMode::Write, SyncMode::Flush] {
        let pair = Pair::up(&MirrorOptions {
            sync,
            ..excluding(PATTERNS)
        });
        pair.run("echo one > a; echo two > b; echo three > c.tmp; ln b linked");
        // Out: gone there at once, and what an open descriptor writes afterwards stays here.
        pair.run("exec 3>>a; mv a a.tmp; echo more >&3; exec 3>&-; sync");
        assert_only_on(&pair, "a", &["a.tmp"]);
        assert!(!on(&pair, "b", "a"));
        assert_eq!(pair.run("cat a.tmp"), "one\nmore");
        // In, with all that a file has, and what an open descriptor writes afterwards.
        pair.run(
            "setfattr -n user.k -v v a.tmp; setfacl -m u:1234:rw a.tmp; chmod 640 a.tmp; chown 12:34 a.tmp",
        );
        pair.run("exec 3>>a.tmp; mv a.tmp back; echo last >&3; exec 3>&-; sync");
        assert!(!on(&pair, "a", "a.tmp") && !on(&pair, "b", "a.tmp"));
        assert_eq!(
            fs::read(pair.backing("b").join("back")).unwrap(),
            b"one\nmore\nlast\n"
        );
        pair.assert_in_sync();
        // Over what is there, on either side.
        pair.run("echo new > r; mv r c.tmp; test $(cat c.tmp) = new");
        rename(&pair, "c.tmp", "back").unwrap();
        assert_eq!(fs::read(pair.backing("b").join("back")).unwrap(), b"new\n");
        // Not from a directory that the secondary does not have; `mv` copies.
        pair.run("mkdir cache; echo cached > cache/f");
        assert_exdev(rename(&pair, "cache/f", "in"));
        pair.run("mv cache/f in; rm -r cache");
        assert_eq!(fs::read(pair.backing("b").join("in")).unwrap(), b"cached\n");
        // A file with two names stays on its side, and no link crosses.
        assert_exdev(rename(&pair, "b", "b.tmp"));
        for (from, to) in [("b", "l.tmp"), ("c.tmp", "l")] {
            pair.run("echo x > c.tmp");
            let (from, to) = (pair.dir.join(from), pair.dir.join(to));
            assert_exdev(pair.within(|| fs::hard_link(from, to)));
        }
        // With several names it comes in as little; with one left it does, without what was noted of the others.
        pair.run("echo x > c.tmp; ln c.tmp d.tmp");
        assert_exdev(rename(&pair, "c.tmp", "c"));
        pair.run("rm d.tmp; echo 2 > /proc/sys/vm/drop_caches; stat c.tmp");
        rename(&pair, "c.tmp", "c").unwrap();
        pair.run("echo x > c.tmp; rm linked; echo 2 > /proc/sys/vm/drop_caches; mv b b.tmp");
        assert_only_on(&pair, "a", &["b.tmp", "c.tmp"]);
        pair.assert_in_sync();
    }
}

#[test]
fn directories_stay_on_their_side_with_all_that_is_in_them() {
    let pair = Pair::up(&excluding(PATTERNS));
    pair.run(
        "mkdir -p d/sub cache/sub e/pg_stat_tmp plain; echo 1 > d/f; echo 2 > cache/f; echo 3 > plain/f",
    );
    assert_exdev(rename(&pair, "d", "d.tmp"));
    assert_exdev(rename(&pair, "cache", "replicated"));
    // What lies in it would change sides, in either direction.
    pair.run("echo 4 > e/pg_stat_tmp/x");
    assert_exdev(rename(&pair, "e/pg_stat_tmp", "e/other"));
    assert_exdev(
        rename(&pair, "plain", "e/pg_stat_tmp2")
            .and_then(|()| rename(&pair, "e/pg_stat_tmp2", "pg_stat_tmp")),
    );
    pair.run("mv e/pg_stat_tmp2 plain");
    // It would not: an empty one, one without such names, one that takes the name that counts along.
    rename(&pair, "e", "f").unwrap();
    assert_only_on(&pair, "a", &["f/pg_stat_tmp/x"]);
    pair.run("rm f/pg_stat_tmp/x");
    rename(&pair, "f/pg_stat_tmp", "f/other").unwrap();
    pair.run("echo 5 > f/other/now-replicated");
    assert!(on(&pair, "b", "f/other/now-replicated"));
    pair.run(
        "mkdir top; echo 6 > top/x; mkdir t2; mv top t2/top; mkdir -p t2/top/only; echo 7 > t2/top/only/x",
    );
    assert!(on(&pair, "b", "t2/top/only/x"));
    assert_exdev(rename(&pair, "t2/top", "top"));
    // `mv` copies, and each name ends on the side that it belongs to.
    pair.run("mv t2/top top; mv d d.tmp; mv cache replicated; mv replicated cache");
    assert_only_on(&pair, "a", &["top/only/x", "d.tmp/f", "cache/sub"]);
    assert!(on(&pair, "b", "top/x") && !on(&pair, "b", "d"));
    pair.assert_in_sync();
}

#[test]
fn whatever_has_a_name_can_come_in() {
    for sync in [SyncMode::Write, SyncMode::Flush] {
        let pair = Pair::up(&MirrorOptions {
            sync,
            ..excluding(PATTERNS)
        });
        pair.run(
            "head -c 30000000 /dev/urandom > large.tmp; truncate -s 2G sparse.tmp
             printf middle | dd of=sparse.tmp bs=1 seek=1000000000 conv=notrunc status=none
             : > empty.tmp; ln -s nowhere link.tmp; mkfifo fifo.tmp; mknod null.tmp c 1 3
             cp large.tmp mapped.tmp; touch -d 2001-02-03 empty.tmp large.tmp; chmod 4755 large.tmp
             /sbin/setcap cap_net_raw+ep mapped.tmp",
        );
        for name in ["large", "sparse", "empty", "link", "fifo", "null", "mapped"] {
            rename(&pair, &format!("{name}.tmp"), name).unwrap();
            assert!(on(&pair, "b", name), "{name}");
            assert!(!on(&pair, "b", &format!("{name}.tmp")), "{name}");
        }
        pair.assert_in_sync();
        assert!(losses(&pair, "a").is_empty());
    }
}

/// Writes a file beside itself and renames it over, as editors and databases do, until it fails. Each version is one
/// number all over.
const REPLACE: &str = "
n=0
while n=$((n+1)); do
    yes $n | head -c 3000000 > file.tmp || exit
    sync file.tmp || exit
    mv file.tmp file || exit
    echo $n
done";

#[test]
fn a_file_that_is_replaced_by_an_excluded_one_is_whole_whenever_the_primary_dies() {
    for seed in seeds() {
        let mut random = Random::new(seed);
        let pair = Pair::up(&excluding(PATTERNS));
        let mut primary = "a";
        for _ in 0..4 {
            let secondary = if primary == "a" { "b" } else { "a" };
            let mut work = pair.lab.host(primary).command("sh").unwrap();
            let script = format!("cd {} || exit; {REPLACE}", pair.dir.display());
            let mut work = work
                .args(["-c", &script])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(work.stdout.take().unwrap()).lines();
            let rounds = 3 + below(&mut random, 5);
            let mut answered = String::new();
            for _ in 0..rounds {
                answered = lines.next().unwrap().unwrap();
            }
            // While a version comes in: this much of it is there, or it is all there and not renamed yet.
            let (there, enough) = (
                pair.backing(secondary).join("file.tmp"),
                random.bits() % 3_000_000,
            );
            wait::until_true(LIMIT, "a version that comes in", || {
                fs::metadata(&there).is_ok_and(|found| found.len() >= enough)
            })
            .unwrap();
            pair.lab.host(primary).kill().unwrap();
            answered = lines.map_while(Result::ok).last().unwrap_or(answered);
            work.wait().unwrap();
            pair.lab.promote(secondary, None, false).unwrap();
            let text = pair.run_in(secondary, &pair.dir, "wc -c < file; uniq file | head -c 100");
            let numbers: Vec<u64> = text.split_whitespace().map(|one| one.parse().unwrap()).collect();
            let answered: u64 = answered.parse().unwrap();
            println!("seed {seed}: answered {answered}, found {numbers:?}");
            // The last line may be cut.
            assert_eq!(numbers[0], 3_000_000);
            assert!(numbers[1] == answered || numbers[1] == answered + 1);
            assert!(numbers.len() <= 3);
            return_as_secondary(&pair, primary);
            primary = secondary;
        }
    }
}

fn fail_over(pair: &Pair, from: &str, to: &str) {
    pair.lab.host(from).kill().unwrap();
    pair.lab.promote(to, None, false).unwrap();
}

#[track_caller]
fn rejoin(pair: &Pair, host: &str) {
    assert_eq!(pair.lab.start(host).unwrap(), [] as [&str; 0]);
    for host in ["a", "b"] {
        pair.lab.wait_state(host, None, Wanted::InSync).unwrap();
    }
    let status = pair.lab.status().unwrap();
    let standing = mirror_of(&status, host, &pair.dir).unwrap().standing;
    assert_eq!(standing, Some(Standing::UpToDate));
}

#[track_caller]
fn return_as_secondary(pair: &Pair, host: &str) {
    rejoin(pair, host);
    assert_equal(pair, if host == "a" { "b" } else { "a" });
}

#[test]
fn each_node_keeps_its_own_across_failover_and_failback() {
    let pair = Pair::up(&excluding(PATTERNS));
    pair.run("mkdir -p d cache gone/pg_stat_tmp moved/pg_stat_tmp; echo a > mine.tmp; echo a > d/mine.tmp; echo a > cache/f
              echo a > gone/pg_stat_tmp/x; echo a > moved/pg_stat_tmp/x; echo both > d/both");
    fail_over(&pair, "a", "b");
    let run = |script: &str| pair.run_in("b", &pair.dir, script);
    assert_eq!(run("cat d/both; ls d"), "both\nboth");
    run("echo b > mine.tmp; echo b > d/yours.tmp; rm -r gone; echo alone > d/alone; mkdir new; echo b > new/n.tmp
         mv moved/pg_stat_tmp moved/other; echo b > moved/other/x; mkdir -p cache/of-b");
    return_as_secondary(&pair, "a");
    let read = |host: &str, below: &str| fs::read_to_string(pair.backing(host).join(below)).unwrap();
    assert_eq!(
        (read("a", "mine.tmp"), read("b", "mine.tmp")),
        ("a\n".into(), "b\n".into())
    );
    assert_only_on(&pair, "a", &["d/mine.tmp", "cache/f"]);
    assert_only_on(&pair, "b", &["d/yours.tmp", "new/n.tmp", "cache/of-b"]);
    assert_eq!(
        (read("a", "d/alone"), read("a", "moved/other/x")),
        ("alone\n".into(), "b\n".into())
    );
    assert!(!on(&pair, "a", "gone"));
    // In sync: a directory that is empty here goes there, whatever is left in it.
    run("rm -r d new; mkdir d");
    assert_eq!(fs::read_dir(pair.backing("a").join("d")).unwrap().count(), 0);
    return_as_secondary(&pair, "a");
    // And back again: a has what it kept.
    fail_over(&pair, "b", "a");
    assert_eq!(pair.run("cat mine.tmp cache/f"), "a\na");
    return_as_secondary(&pair, "b");
    assert_only_on(&pair, "b", &["cache/of-b"]);
}

#[test]
fn a_copy_of_everything_leaves_what_is_excluded_on_either_side() {
    let pair = Pair::up(&excluding(PATTERNS));
    pair.run("mkdir -p d cache; echo a > d/a.tmp; echo a > cache/a; echo both > d/both");
    // Whatever somebody did to the other copy while it was open: it is compared as a whole.
    for command in [Command::Demote, Command::Unlock] {
        pair.lab.command("b", &pair.dir, command).unwrap();
    }
    let backing = pair.backing("b");
    fs::write(backing.join("d/b.tmp"), "b").unwrap();
    fs::write(backing.join("d/a.tmp"), "b").unwrap();
    fs::create_dir_all(backing.join("cache/b")).unwrap();
    fs::write(backing.join("d/extra"), "b").unwrap();
    fs::create_dir_all(backing.join("only-there")).unwrap();
    fs::write(backing.join("only-there/x.tmp"), "b").unwrap();
    pair.lab.host("b").kill().unwrap();
    pair.run("rm -r cache; echo file > cache; echo now > d/now");
    return_as_secondary(&pair, "b");
    let read = |host: &str, below: &str| fs::read_to_string(pair.backing(host).join(below)).unwrap();
    assert_eq!(
        (read("a", "d/a.tmp"), read("b", "d/a.tmp")),
        ("a\n".into(), "b".into())
    );
    assert_only_on(&pair, "b", &["d/b.tmp"]);
    assert_eq!(read("b", "cache"), "file\n");
    assert!(!on(&pair, "b", "d/extra") && !on(&pair, "b", "only-there"));
}

fn verify_online(pair: &Pair, repair: bool) -> Report {
    let order = |order| pair.lab.command("a", &pair.dir, Command::Verify(order)).unwrap();
    order(VerifyCommand::Start { repair });
    let Reply::Verification(report) = order(VerifyCommand::Wait) else {
        panic!("no report");
    };
    assert_eq!(report.verification.error, None);
    *report
}

fn found(report: &Report) -> BTreeSet<String> {
    report.found.iter().map(|one| one.path.clone()).collect()
}

#[test]
fn a_verification_leaves_out_what_is_excluded_and_finds_what_is_not() {
    let pair = Pair::up(&excluding(PATTERNS));
    pair.run(
        "mkdir -p d cache e/pg_stat_tmp/x; echo a > d/a.tmp; echo a > cache/a; echo a > e/pg_stat_tmp/x/f
         echo both > d/both; echo both > d/keep.tmp; echo both > d/cache",
    );
    let backing = pair.backing("b");
    // What it excludes itself, also of another type than what is here.
    for directory in ["d/b.tmp", "cache/of-b", "e/pg_stat_tmp/of-b"] {
        fs::create_dir_all(backing.join(directory)).unwrap();
    }
    assert_eq!(found(&verify_online(&pair, true)), BTreeSet::new());
    assert_only_on(&pair, "b", &["d/b.tmp", "cache/of-b", "e/pg_stat_tmp/of-b"]);
    assert_only_on(&pair, "a", &["d/a.tmp", "cache/a", "e/pg_stat_tmp/x"]);
    // What only looks so: a pattern for directories, and one that is taken back.
    fs::write(backing.join("d/keep.tmp"), "else").unwrap();
    fs::write(backing.join("cache-of-b"), "b").unwrap();
    fs::remove_file(backing.join("d/cache")).unwrap();
    fs::create_dir(backing.join("d/cache")).unwrap();
    let planted: BTreeSet<String> = ["d/keep.tmp", "cache-of-b", "d/cache"]
        .iter()
        .map(|name| pair.dir.join(name).display().to_string())
        .collect();
    assert_eq!(found(&verify_online(&pair, false)), planted);
    assert_eq!(found(&verify_online(&pair, true)), planted);
    assert_eq!(found(&verify_online(&pair, false)), BTreeSet::new());
    assert_only_on(&pair, "b", &["d/b.tmp", "cache/of-b", "e/pg_stat_tmp/of-b"]);
    pair.assert_in_sync();
}

fn change_patterns(pair: &Pair, host: &str) {
    let file = pair.lab.host_directory(host).join("modules");
    let file = fs::read_dir(file).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("*.tmp", "*.log")).unwrap();
}

#[test]
fn other_patterns_on_the_other_node_are_refused_and_new_ones_on_both_compare_everything() {
    let pair = Pair::up(&excluding(&["*.tmp"]));
    pair.run("echo 1 > a.tmp; echo 2 > a.log; echo 3 > b");
    pair.lose_secondary();
    change_patterns(&pair, "b");
    let notes = pair.lab.start("b").unwrap().join("\n");
    let expected = "exclude is [\"*.log\"] on the secondary, [\"*.tmp\"] on the primary";
    assert!(notes.contains(expected), "{notes}");
    pair.lab.host("a").kill().unwrap();
    change_patterns(&pair, "a");
    pair.lab.start("a").unwrap();
    let refused = pair.lab.promote("a", None, false).unwrap_err().to_string();
    assert!(refused.contains("--force"), "{refused}");
    pair.lab.promote("a", None, true).unwrap();
    pair.lab
        .command("a", &pair.dir, Command::Connect { overwrite: false })
        .unwrap();
    assert!(on(&pair, "b", "a.tmp"));
    pair.run("echo 4 >> a.log; echo 5 >> b");
    let (a, b) = (pair.backing("a"), pair.backing("b"));
    let report = verify::compare_without(&["*.log".to_owned()], &a, &b, Options::default()).unwrap();
    assert_eq!(report.differences, []);
    assert_ne!(
        fs::read(a.join("a.log")).unwrap(),
        fs::read(b.join("a.log")).unwrap()
    );
}

/// Names on both sides of the border, and directories on both.
const NAMES: &[&str] = &[
    "a",
    "b",
    "c",
    "a.tmp",
    "b.tmp",
    "keep.tmp",
    "cache",
    "pg_stat_tmp",
    "only",
    "top",
];

fn below(random: &mut Random, end: usize) -> usize {
    (random.bits() % end as u64) as usize
}

/// One random operation as a shell would do it; what fails is as good.
fn step(random: &mut Random) -> String {
    let path = |random: &mut Random| {
        let depth = 1 + below(random, 3);
        let names: Vec<_> = (0..depth).map(|_| NAMES[below(random, NAMES.len())]).collect();
        names.join("/")
    };
    let (one, other) = (path(random), path(random));
    match below(random, 10) {
        0 | 1 => format!("mkdir -p {one}"),
        2 | 3 => format!("echo {} > {one}", below(random, 1000)),
        4 => format!("echo {} >> {one}", below(random, 1000)),
        5 => format!("rm -r {one}"),
        6 => format!("mv -T {one} {other}"),
        7 => format!("mv {one} {other}"),
        8 => format!("ln {one} {other}"),
        _ => format!("rmdir {one}"),
    }
}

#[test]
fn many_random_operations_across_the_border_leave_equal_copies() {
    for seed in seeds() {
        for sync in [SyncMode::Write, SyncMode::Flush] {
            let pair = Pair::up(&MirrorOptions {
                sync,
                ..excluding(PATTERNS)
            });
            let mut random = Random::new(seed);
            let mut primary = "a";
            for round in 0..4 {
                let steps: Vec<String> = (0..400).map(|_| step(&mut random)).collect();
                let script = format!("set +e; {}; true", steps.join(" 2>/dev/null; "));
                let run = |host: &str, script: &str| {
                    pair.run_in(host, &pair.dir, &format!("exec 2>/dev/null; {script}"));
                };
                println!("seed {seed}, {sync:?}, round {round}");
                let before = losses(&pair, primary);
                // Two at a time, in the same directories.
                std::thread::scope(|scope| {
                    let others: Vec<String> = (0..400).map(|_| step(&mut random)).collect();
                    let others = format!("set +e; {}; true", others.join("; "));
                    scope.spawn(move || run(primary, &others));
                    run(primary, &script);
                });
                assert_equal(&pair, primary);
                assert_eq!(
                    losses(&pair, primary),
                    before,
                    "no operation makes the copies differ"
                );
                let secondary = if primary == "a" { "b" } else { "a" };
                if round % 2 == 0 {
                    fail_over(&pair, primary, secondary);
                    let alone: Vec<String> = (0..200).map(|_| step(&mut random)).collect();
                    run(secondary, &format!("set +e; {}; true", alone.join("; ")));
                    // And beside the copy that brings the other one back.
                    let beside: Vec<String> = (0..1000).map(|_| step(&mut random)).collect();
                    std::thread::scope(|scope| {
                        scope.spawn(move || run(secondary, &format!("set +e; {}; true", beside.join("; "))));
                        rejoin(&pair, primary);
                    });
                    assert_equal(&pair, secondary);
                    primary = secondary;
                }
            }
        }
    }
}

#[track_caller]
fn assert_equal(pair: &Pair, primary: &str) {
    pair.run_in(primary, &pair.dir, "sync");
    let report = pair.lab.verify(&pair.dir, Default::default()).unwrap();
    let differences: Vec<String> = report.differences.iter().map(ToString::to_string).collect();
    assert_eq!(differences, [] as [&str; 0]);
}

/// How often a primary lost its secondary, or had to lead it back.
fn losses(pair: &Pair, host: &str) -> Vec<String> {
    let is_loss = |what: &What| matches!(what, What::PeerLost { .. } | What::Repairing);
    let events = pair.lab.events(host).unwrap().into_iter();
    events
        .filter(|one| is_loss(&one.event.what))
        .map(|one| one.event.message)
        .collect()
}
