//! Both copies are compared, and repaired, while an application changes them. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod pair;

use lab::mirror::MirrorOptions;
use lab::process::ProcessId;
use lab::status::Wanted;
use lab::{LIMIT, programs, wait};
use pair::{Pair, seeds};
use skfs::config::SyncMode;
use skfs::control::command::{Command, CopyCommand, Reply, VerifyCommand};
use skfs::control::event::What;
use skfs::control::status::State;
use skfs::control::verification::{Aspect, Repair, Report};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

/// Something of everything.
const TREE: &str = r#"
mkdir -p tree/deep/er many
for n in $(seq 300); do echo $n > many/f$n; done
head -c 300000 /dev/urandom > tree/data
head -c 20000000 /dev/urandom > tree/large
truncate -s 400M tree/sparse
printf middle | dd of=tree/sparse bs=1 seek=20000000 conv=notrunc status=none
ln tree/data tree/deep/er/linked
ln -s tree/data symlink
mkfifo fifo
mknod tree/null c 1 3
setfattr -n user.color -v blue tree/data
setfacl -m u:1234:rwx -m d:g:5678:rx tree/deep
/sbin/setcap cap_net_raw+ep tree/large
"#;

fn options(sync: SyncMode) -> MirrorOptions {
    MirrorOptions {
        sync,
        ..MirrorOptions::default()
    }
}

fn order(pair: &Pair, order: VerifyCommand) -> Option<Report> {
    match pair.lab.command("a", &pair.dir, Command::Verify(order)).unwrap() {
        Reply::Verification(report) => Some(*report),
        _ => None,
    }
}

fn verify(pair: &Pair, repair: bool) -> Report {
    order(pair, VerifyCommand::Start { repair });
    order(pair, VerifyCommand::Wait).unwrap()
}

#[track_caller]
fn assert_equal(report: &Report) {
    assert_eq!(report.verification.error, None);
    assert_eq!(report.found, [], "{:?}", report.verification);
    assert_eq!(report.verification.differences, 0);
}

/// Threads that create, write, rename, link and remove the same names.
fn shared_work(pair: &Pair, seed: u64, steps: u64) -> Child {
    pair.run("mkdir -p work");
    let program = programs::find("differential").unwrap();
    let mut command = pair.lab.host("a").command(program).unwrap();
    command.arg("shared").arg(pair.dir.join("work"));
    command.args(["--seed", &seed.to_string(), "--threads", "4"]);
    command.args(["--steps", &steps.to_string()]);
    println!("seed {seed}");
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(child: Child) {
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
}

/// Verifies again and again until the work ends.
fn verify_beside_work(sync: SyncMode) {
    for seed in seeds() {
        let pair = Pair::up(&options(sync));
        pair.run(TREE);
        let child = shared_work(&pair, seed, 25_000);
        // Directories that move while they are walked.
        let mut mover = pair.lab.host("a").command("sh").unwrap();
        let script = format!(
            "cd {}; while [ -e work ]; do mv many tree/many; mv tree/deep deep; mv tree/many many; mv deep tree/deep; \
             echo x >> tree/data; dd if=/dev/urandom of=tree/large bs=64k count=3 seek=20 conv=notrunc \
             2>/dev/null; done",
            pair.dir.display()
        );
        let mover = mover.args(["-c", &script]).spawn().unwrap();
        let worker = ProcessId::of(child.id()).unwrap();
        let (mut count, mut held) = (0, 0);
        loop {
            let report = verify(&pair, false);
            assert_equal(&report);
            count += 1;
            held += report.verification.held;
            if !worker.lives() {
                break;
            }
        }
        end(child);
        pair.run("mv work done");
        end(mover);
        println!("{count} verifications beside the work, {held} second looks");
        assert!(count > 2, "the work ended too soon: {count}");
        let report = verify(&pair, false);
        assert_equal(&report);
        assert!(report.verification.files > 300 && report.verification.bytes > 400_000_000);
        pair.assert_in_sync();
    }
}

#[test]
fn no_difference_is_reported_while_an_application_works() {
    verify_beside_work(SyncMode::Write);
}

#[test]
fn no_difference_is_reported_while_an_application_works_with_the_write_back_cache() {
    verify_beside_work(SyncMode::Flush);
}

fn skctl(pair: &Pair, arguments: &[&str]) -> Output {
    let picture = pair.lab.look().unwrap();
    let socket = picture.mirrors[0].control(&pair.lab.host_directory("a"));
    std::process::Command::new(programs::find("skctl").unwrap())
        .args(["fs", "--socket"])
        .arg(socket)
        .args(arguments)
        .output()
        .unwrap()
}

/// Changes one byte without a trace in the attributes.
fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
    file.set_modified(modified).unwrap();
}

/// Whatever a person or a broken disk may do to a copy.
fn spoil(pair: &Pair) -> BTreeSet<(&'static str, Aspect)> {
    let there = |below: &str| pair.backing("b").join(below);
    flip(&there("tree/data"), 200_000);
    flip(&there("tree/large"), 15_000_000);
    flip(&there("tree/sparse"), 399 << 20);
    fs::set_permissions(there("many/f7"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::remove_file(there("many/f8")).unwrap();
    fs::write(there("many/extra"), "extra").unwrap();
    fs::remove_file(there("fifo")).unwrap();
    fs::write(there("fifo"), "no fifo").unwrap();
    fs::create_dir_all(there("more/below")).unwrap();
    fs::write(there("more/below/file"), "x").unwrap();
    fs::remove_dir_all(there("tree/deep")).unwrap();
    let aspects = [
        ("tree/data", Aspect::Links),
        ("tree/large", Aspect::Data),
        ("tree/sparse", Aspect::Data),
        ("tree/deep", Aspect::Missing),
        ("tree", Aspect::Mtime),
        ("many", Aspect::Mtime),
        ("many/f7", Aspect::Mode),
        ("many/f8", Aspect::Missing),
        ("many/extra", Aspect::Extra),
        ("fifo", Aspect::Type),
        ("more", Aspect::Extra),
    ];
    aspects.into_iter().collect()
}

#[test]
fn what_was_changed_behind_the_secondarys_back_is_named_and_repaired_while_an_application_works() {
    for seed in seeds() {
        let pair = Pair::up(&options(SyncMode::Write));
        pair.run(TREE);
        let clean = skctl(&pair, &["verify", "--wait"]);
        let text = String::from_utf8_lossy(&clean.stdout);
        assert!(clean.status.success() && text.contains(", equal"), "{clean:?}");

        let expected = spoil(&pair);
        let child = shared_work(&pair, seed, 12_000);
        let found = skctl(&pair, &["verify", "--wait", "--json"]);
        assert_eq!(found.status.code(), Some(4), "{found:?}");
        let report: Report = serde_json::from_slice(&found.stdout).unwrap();
        let top = format!("{}/", pair.dir.display());
        let named = |report: &Report| -> BTreeSet<(String, Aspect)> {
            let found = report.found.iter();
            found
                .map(|one| (one.path.strip_prefix(&top).unwrap_or(".").to_owned(), one.aspect))
                .collect()
        };
        let names = named(&report);
        for (path, aspect) in &expected {
            assert!(
                names.contains(&((*path).to_owned(), *aspect)),
                "{path} {aspect:?}: {names:#?}"
            );
        }
        // The data of the file with two names is read by one of them, and the mtime of the top has changed.
        let others: Vec<_> = names
            .iter()
            .filter(|(path, aspect)| !expected.contains(&(path.as_str(), *aspect)))
            .collect();
        assert!(others.len() <= 2, "{others:?}");
        assert!(
            names.iter().all(|(path, _)| !path.starts_with("work")),
            "{names:#?}"
        );

        let repaired = verify(&pair, true);
        assert_eq!(repaired.verification.error, None);
        let failed: Vec<_> = repaired
            .found
            .iter()
            .filter(|one| one.repair != Some(Repair::Done))
            .collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert!(repaired.verification.differences >= expected.len() as u64);
        assert_equal(&verify(&pair, false));
        end(child);
        let again = skctl(&pair, &["verify", "--wait"]);
        assert!(again.status.success(), "{again:?}");
        pair.assert_in_sync();
        // What was repaired is shipped like everything else.
        pair.run("echo after > many/f8; mv tree/deep tree/deeper; rm fifo; echo more >> tree/large; sync");
        assert_equal(&verify(&pair, false));
        pair.assert_in_sync();
    }
}

/// A verification that takes half a minute unless it is told otherwise.
fn begin_slowly(pair: &Pair) {
    pair.run(TREE);
    let limit = CopyCommand::Limit {
        bytes_per_second: Some(1 << 20),
    };
    pair.lab.command("a", &pair.dir, Command::Copy(limit)).unwrap();
    order(pair, VerifyCommand::Start { repair: false });
    wait::until_true(LIMIT, "data is being compared", || {
        let report = order(pair, VerifyCommand::Status).unwrap();
        report.verification.running && report.verification.bytes > 1 << 20
    })
    .unwrap();
}

#[test]
fn a_verification_ends_with_the_connection_and_can_be_made_again() {
    let pair = Pair::up(&options(SyncMode::Write));
    begin_slowly(&pair);
    pair.lab.cut("a", "b").unwrap();
    let report = order(&pair, VerifyCommand::Wait).unwrap();
    let error = report.verification.error.unwrap();
    assert!(error.contains("not in sync"), "{error}");
    assert_eq!(report.verification.differences, 0);
    pair.lab
        .wait_state("a", None, Wanted::State(State::Alone))
        .unwrap();
    let alone = skctl(&pair, &["verify", "--wait"]);
    let refusal = String::from_utf8_lossy(&alone.stderr);
    assert_eq!(alone.status.code(), Some(1), "{alone:?}");
    assert!(
        refusal.contains("in sync") && refusal.contains("alone"),
        "{refusal}"
    );
    pair.run("echo goes on > file");
    pair.lab.heal().unwrap();
    let none = CopyCommand::Limit {
        bytes_per_second: None,
    };
    pair.lab.command("a", &pair.dir, Command::Copy(none)).unwrap();
    pair.lab
        .command("a", &pair.dir, Command::Connect { overwrite: false })
        .unwrap();
    assert_equal(&verify(&pair, false));
}

#[test]
fn a_verification_is_paused_and_stopped_and_only_one_goes_on() {
    let pair = Pair::up(&options(SyncMode::Write));
    begin_slowly(&pair);
    let second = pair.lab.command(
        "a",
        &pair.dir,
        Command::Verify(VerifyCommand::Start { repair: false }),
    );
    assert!(second.unwrap_err().to_string().contains("goes on already"));
    pair.lab
        .command("a", &pair.dir, Command::Copy(CopyCommand::Pause))
        .unwrap();
    assert!(order(&pair, VerifyCommand::Status).unwrap().verification.paused);
    let stopped = skctl(&pair, &["verify", "stop"]);
    assert!(stopped.status.success(), "{stopped:?}");
    let report = order(&pair, VerifyCommand::Status).unwrap();
    assert!(!report.verification.running);
    assert!(report.verification.error.unwrap().contains("told to stop"));
    let shown = skctl(&pair, &["status"]);
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("told to stop"),
        "{shown:?}"
    );
    let on_b = pair
        .lab
        .command("b", &pair.dir, Command::Verify(VerifyCommand::Status));
    assert!(on_b.unwrap_err().to_string().contains("not the primary"));
    // It leaves nothing behind.
    pair.lab.command("a", &pair.dir, Command::Demote).unwrap();
}

#[test]
fn a_short_break_of_the_connection_in_a_repair_leaves_a_copy_that_can_be_repaired() {
    let pair = Pair::up(&MirrorOptions {
        peer_stall: Some(Duration::from_secs(10)),
        ..options(SyncMode::Write)
    });
    pair.run(TREE);
    spoil(&pair);
    fs::remove_dir_all(pair.backing("b").join("many")).unwrap();
    let limit = CopyCommand::Limit {
        bytes_per_second: Some(8 << 20),
    };
    pair.lab.command("a", &pair.dir, Command::Copy(limit)).unwrap();
    order(&pair, VerifyCommand::Start { repair: true });
    wait::until_true(LIMIT, "something is repaired", || {
        let report = order(&pair, VerifyCommand::Status).unwrap();
        report.verification.repaired > 5
    })
    .unwrap();
    pair.lab.host("b").freeze().unwrap();
    let report = std::thread::scope(|scope| {
        let waits = scope.spawn(|| order(&pair, VerifyCommand::Wait).unwrap());
        wait::until_true(LIMIT, "the connection breaks", || {
            let events = pair.lab.events("a").unwrap();
            let broke = |what: &What| matches!(what, What::ConnectionLost);
            waits.is_finished() || events.iter().any(|one| broke(&one.event.what))
        })
        .unwrap();
        pair.lab.host("b").thaw().unwrap();
        waits.join().unwrap()
    });
    println!("{:?}", report.verification);
    for host in ["a", "b"] {
        pair.lab.wait_state(host, None, Wanted::InSync).unwrap();
    }
    let none = CopyCommand::Limit {
        bytes_per_second: None,
    };
    pair.lab.command("a", &pair.dir, Command::Copy(none)).unwrap();
    let repaired = verify(&pair, true);
    assert_eq!(
        repaired.verification.differences, repaired.verification.repaired,
        "{repaired:#?}"
    );
    assert_equal(&verify(&pair, false));
    assert_eq!(pair.differences(), [] as [&str; 0]);
}

/// Latencies of random writes of 4 KiB for so long, sorted.
fn write_latencies(path: &Path, long: Duration) -> Vec<Duration> {
    let file = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .unwrap();
    let (began, mut latencies, mut at) = (Instant::now(), Vec::new(), 0_u64);
    while began.elapsed() < long {
        at = (at.wrapping_mul(6_364_136_223_846_793_005)).wrapping_add(1_442_695_040_888_963_407);
        let offset = (at >> 33) % 4096 * 4096;
        let start = Instant::now();
        file.write_all_at(&[at as u8; 4096], offset).unwrap();
        latencies.push(start.elapsed());
    }
    latencies.sort();
    latencies
}

#[test]
#[ignore = "prints figures of this machine and judges nothing"]
fn how_long_it_takes_and_what_an_application_notices() {
    let pair = Pair::up(&options(SyncMode::Write));
    pair.run("for n in 1 2 3 4; do head -c 512M /dev/urandom > big$n; done; mkdir small");
    pair.run("for n in $(seq 4000); do head -c 4k /dev/urandom > small/f$n; done; sync");
    let backing = pair.backing("a");
    for round in 0..3 {
        let verified = verify(&pair, false);
        assert_equal(&verified);
        let seconds = |program: &str| {
            let script = format!(
                "cat {0}/big* {0}/small/* | {program} > /dev/null",
                backing.display()
            );
            let began = Instant::now();
            let status = std::process::Command::new("sh").args(["-c", &script]).status();
            assert!(status.unwrap().success());
            began.elapsed().as_secs_f64()
        };
        let (read, sum) = (seconds("cat"), seconds("sha256sum"));
        println!(
            "round {round}: verify {:.2} s, read {read:.2} s, sha256sum {sum:.2} s",
            verified.verification.seconds
        );
    }
    let path = pair.dir.join("written");
    for round in 0..3 {
        let figures = |latencies: &[Duration]| {
            let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize].as_secs_f64() * 1e6;
            format!(
                "{} writes, p50 {:.0} us, p99 {:.0} us",
                latencies.len(),
                at(0.5),
                at(0.99)
            )
        };
        let alone = pair.within(|| write_latencies(&path, Duration::from_secs(6)));
        order(&pair, VerifyCommand::Start { repair: false });
        let beside = pair.within(|| write_latencies(&path, Duration::from_secs(6)));
        let report = order(&pair, VerifyCommand::Status).unwrap().verification;
        println!(
            "round {round}: alone {}; beside {}; {} MB/s, {} held, running {}",
            figures(&alone),
            figures(&beside),
            report.bytes as f64 / report.seconds / 1e6,
            report.held,
            report.running
        );
        let report = order(&pair, VerifyCommand::Wait).unwrap();
        assert_equal(&report);
        println!("round {round}: it took {:.1} s", report.verification.seconds);
    }
}
