//! A secondary that does not answer: how long applications wait, and for what. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::mirror::MirrorOptions;
use lab::pair::Pair;
use lab::status::Wanted;
use lab::wait;
use skfs::config::OnPeerLoss;
use skfs::control::command::{Command, RefusalKind};
use skfs::control::event::What;
use skfs::control::status::{Standing, State};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What applications saw while the secondary was frozen.
#[derive(Debug, Default)]
struct Seen {
    /// Writes that took longer than a second or a fifth of `peer_stall`, whichever is less.
    gaps: Vec<Duration>,
    read_p99: Duration,
    read_max: Duration,
}

/// A writer that writes every millisecond and a reader, for a while with a frozen secondary.
fn freeze_under_load(pair: &Pair, peer_stall: Duration, frozen_for: Duration) -> Seen {
    let written = File::create(pair.path("a", "written").unwrap()).unwrap();
    let read_path = pair.path("a", "read").unwrap();
    fs::write(&read_path, vec![7; 8 << 20]).unwrap();
    let gap_min = (peer_stall / 5).min(Duration::from_secs(1));
    let over = AtomicBool::new(false);
    let writes = AtomicU64::new(0);
    let frozen = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut gaps = Vec::new();
            let mut last = Instant::now();
            let start = Instant::now();
            let mut due = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let number = writes.load(Ordering::Relaxed);
                written
                    .write_all_at(&number.to_le_bytes(), (number % 65_536) * 8)
                    .unwrap();
                writes.store(number + 1, Ordering::Relaxed);
                let gap = last.elapsed();
                last = Instant::now();
                if gap > gap_min {
                    gaps.push(gap);
                }
                // One write a millisecond; after a gap it goes on at that rate and does not catch up.
                due = start.elapsed().max(due + Duration::from_millis(1));
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
            gaps
        });
        let reader = scope.spawn(|| {
            let mut meanwhile = Vec::new();
            let mut number = 0u64;
            let mut block = [0; 4096];
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                let file = File::open(&read_path).unwrap();
                number += 1;
                // Every other read has to ask skfs: what the kernel has cached is dropped.
                if number.is_multiple_of(2) {
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                }
                file.read_exact_at(&mut block, (number * 37 % 2048) * 4096)
                    .unwrap();
                assert_eq!(block, [7; 4096]);
                if frozen.load(Ordering::Relaxed) {
                    meanwhile.push(start.elapsed());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            meanwhile
        });
        let _guard = pair.end_on_panic("a");
        let count = || writes.load(Ordering::Relaxed);
        wait::until_true(pair.lab.limit(), "the writer is at work", || count() > 500).unwrap();
        pair.lab.host("b").freeze().unwrap();
        frozen.store(true, Ordering::Relaxed);
        let until = Instant::now() + frozen_for;
        let limit = frozen_for + Duration::from_secs(1);
        wait::until_true(limit, "the time of the freeze is over", || Instant::now() > until).unwrap();
        frozen.store(false, Ordering::Relaxed);
        pair.lab.host("b").thaw().unwrap();
        // It has to go on while the secondary comes back, too.
        let before = count();
        wait::until_true(pair.lab.limit(), "the writer is at work again", || {
            count() > before + 500
        })
        .unwrap();
        over.store(true, Ordering::Relaxed);
        let gaps = writer.join().unwrap();
        let meanwhile = reader.join().unwrap();
        println!("{} writes, {} reads in the freeze", count(), meanwhile.len());
        Seen {
            gaps,
            read_max: meanwhile.iter().copied().max().unwrap_or_default(),
            read_p99: p99(meanwhile),
        }
    })
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

/// How fast reads must be while the secondary is frozen.
enum Reads {
    /// None waits for the secondary, which would be for a good part of `peer_stall`. Other work on the machine may
    /// delay any of them, so their times say nothing else.
    DoNotWait,
    /// As fast as at any time; on a machine that does nothing else.
    Fast,
}

fn check_freeze(peer_stall: Duration, frozen_for: Duration, reads: Reads) {
    let options = MirrorOptions {
        peer_stall: Some(peer_stall),
        ..MirrorOptions::default()
    };
    let pair = Pair::up(&options).unwrap();
    let seen = freeze_under_load(&pair, peer_stall, frozen_for);
    println!("peer_stall {peer_stall:?}, frozen for {frozen_for:?}: {seen:?}");
    assert_eq!(seen.gaps.len(), 1, "{seen:?}");
    assert!(seen.gaps[0] <= peer_stall + Duration::from_secs(1), "{seen:?}");
    match reads {
        Reads::DoNotWait => assert!(seen.read_max < peer_stall / 4, "{seen:?}"),
        Reads::Fast => assert!(seen.read_p99 < Duration::from_millis(5), "{seen:?}"),
    }
    pair.lab
        .wait_state("a", None, Wanted::State(State::Alone))
        .unwrap();
    assert_eq!(pair.went_alone("a").unwrap().len(), 1);
}

#[test]
fn a_frozen_secondary_delays_a_writer_once_and_no_longer_than_peer_stall_and_no_reader() {
    check_freeze(Duration::from_secs(2), Duration::from_secs(5), Reads::DoNotWait);
}

#[test]
#[ignore = "takes 40 seconds; the short one differs in its times only"]
fn a_secondary_frozen_for_thirty_seconds_delays_a_writer_once_for_ten() {
    check_freeze(Duration::from_secs(10), Duration::from_secs(30), Reads::Fast);
}

fn asking() -> MirrorOptions {
    MirrorOptions {
        on_peer_loss: OnPeerLoss::Ask,
        peer_stall: Some(Duration::from_secs(1)),
        ..MirrorOptions::default()
    }
}

/// Freezes the secondary and returns when the primary has lost it.
fn lose_the_secondary(pair: &Pair) {
    pair.lab.host("b").freeze().unwrap();
    wait_for_event(pair, "the secondary counts as lost", |what| {
        matches!(what, What::PeerLost { .. })
    });
}

fn wait_for_event(pair: &Pair, what: &str, holds: impl Fn(&What) -> bool) {
    let has = || pair.events("a").unwrap().iter().any(&holds);
    wait::until_true(pair.lab.limit(), what, has).unwrap();
}

#[test]
fn asked_what_to_do_writes_wait_and_reads_go_on_until_go_alone_releases_them() {
    let pair = Pair::up(&asking()).unwrap();
    let (read, written) = (
        pair.path("a", "read").unwrap(),
        pair.path("a", "written").unwrap(),
    );
    fs::write(&read, b"before").unwrap();
    std::thread::scope(|scope| {
        let _guard = pair.end_on_panic("a");
        // It waits from within the freeze on, whichever side of the loss its write falls on.
        pair.lab.host("b").freeze().unwrap();
        let writer = scope.spawn(|| fs::write(&written, b"after"));
        lose_the_secondary(&pair);
        let name = scope.spawn(|| fs::create_dir(pair.path("a", "directory").unwrap()));
        let until = Instant::now() + Duration::from_secs(2);
        wait::until_true(pair.lab.limit(), "two more seconds are over", || {
            assert_eq!(fs::read(&read).unwrap(), b"before");
            assert!(!writer.is_finished() && !name.is_finished());
            Instant::now() > until
        })
        .unwrap();
        assert_eq!(pair.went_alone("a").unwrap(), [] as [&str; 0]);
        pair.command("a", Command::GoAlone).unwrap();
        writer.join().unwrap().unwrap();
        name.join().unwrap().unwrap();
    });
    assert_eq!(fs::read(&written).unwrap(), b"after");
    assert_eq!(pair.went_alone("a").unwrap().len(), 1);
    assert_eq!(pair.status("a").unwrap().state, Some(State::Alone));
}

#[test]
fn a_secondary_that_is_heard_again_before_the_decision_resumes_the_session() {
    let pair = Pair::up(&asking()).unwrap();
    for round in 0..3 {
        let path = pair.path("a", format!("written-{round}")).unwrap();
        std::thread::scope(|scope| {
            let _guard = pair.end_on_panic("a");
            pair.lab.host("b").freeze().unwrap();
            let writer = scope.spawn(|| fs::write(&path, b"once"));
            let lost = |what: &&What| matches!(what, What::PeerLost { .. });
            wait::until_true(pair.lab.limit(), "the secondary counts as lost", || {
                pair.events("a").unwrap().iter().filter(lost).count() == round + 1
            })
            .unwrap();
            assert!(!writer.is_finished());
            pair.lab.host("b").thaw().unwrap();
            writer.join().unwrap().unwrap();
        });
        pair.lab.wait_state("a", None, Wanted::InSync).unwrap();
    }
    assert_eq!(pair.went_alone("a").unwrap(), [] as [&str; 0]);
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
}

#[test]
fn a_secondary_that_was_cut_off_learns_that_it_was_left_behind_and_cannot_lead() {
    let options = MirrorOptions {
        peer_stall: Some(Duration::from_secs(1)),
        ..MirrorOptions::default()
    };
    let pair = Pair::up(&options).unwrap();
    pair.shell("a", "echo before > file").unwrap();
    pair.lab.cut("a", "b").unwrap();
    pair.shell("a", "echo after > file").unwrap();
    wait::until_true(pair.lab.limit(), "a is alone", || {
        pair.status("a").unwrap().state == Some(State::Alone)
    })
    .unwrap();
    pair.lab.heal().unwrap();
    let noted = || pair.status("b").unwrap().standing == Some(Standing::Outdated);
    wait::until_true(pair.lab.limit(), "b has noted that it is outdated", noted).unwrap();
    let refusal = pair
        .refusal(
            "b",
            Command::BecomePrimary {
                ignore_holders: false,
                force: false,
            },
        )
        .unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal:?}");
}
