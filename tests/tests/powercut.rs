//! Power that fails on disks which forget what was not flushed. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::disk::ext4::DiskOptions;
use lab::mirror::MirrorOptions;
use lab::pair::Pair;
use skfs::config::Durability;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const VOLATILE: Option<DiskOptions> = Some(DiskOptions {
    size_bytes: 64 << 20,
    volatile: true,
});

/// Appends records and remembers how many of them a returned `fsync` covers, until the file system fails it.
fn append(path: &Path, synced: &Mutex<Vec<u64>>, writer: usize, over: &AtomicBool) {
    let mut file = File::create_new(path).unwrap();
    for number in 0u64.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let line = format!("{number:015}\n");
        if file.write_all(line.as_bytes()).is_err() {
            return;
        }
        if number % 3 == 2 {
            if file.sync_data().is_err() {
                return;
            }
            synced.lock().unwrap()[writer] = number + 1;
        }
    }
}

/// Writers work until the power of the hosts in `cut` fails; gives how many records of each were acknowledged.
fn cut_under_load(pair: &Pair, cut: &[&str], seed: u64) -> Vec<u64> {
    const WRITERS: usize = 3;
    let root = pair.path("a", "").unwrap();
    let synced = Mutex::new(vec![0; WRITERS]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (path, synced, over) = (root.join(format!("log-{writer}")), &synced, &over);
            scope.spawn(move || append(&path, synced, writer, over));
        }
        let _guard = pair.end_on_panic("a");
        let least = || *synced.lock().unwrap().iter().min().unwrap();
        let worked = lab::wait::until_true(pair.lab.limit(), "the writers are at work", || {
            least() >= 60 + seed * 3
        });
        for host in cut {
            pair.lab.host(host).cut_power(seed).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        worked.unwrap();
    });
    synced.into_inner().unwrap()
}

/// A host's copy begins with every acknowledged record, in order.
fn assert_kept(pair: &Pair, host: &str, synced: &[u64], seed: u64) {
    for (writer, count) in synced.iter().enumerate() {
        let path = pair.backing(host).unwrap().join(format!("log-{writer}"));
        let text = fs::read(&path).unwrap();
        let lines = text.chunks(16).take(*count as usize);
        let numbers = lines.map(|line| std::str::from_utf8(line).unwrap().trim().parse::<u64>().unwrap());
        assert!(numbers.eq(0..*count), "seed {seed}: {} on {host}", path.display());
    }
}

fn volatile_pair(durability: Durability) -> Pair {
    let options = MirrorOptions {
        durability,
        peer_stall: Some(std::time::Duration::from_secs(1)),
        ..MirrorOptions::default()
    };
    Pair::up_on([VOLATILE, VOLATILE], &options).unwrap()
}

#[test]
fn what_fsync_answered_under_load_is_on_both_disks_after_both_lose_their_power() {
    for seed in 1..4 {
        let pair = volatile_pair(Durability::Disk);
        // Whichever goes first: no order of the two may matter.
        let order = if seed % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
        let synced = cut_under_load(&pair, &order, seed);
        // Records that the primary answered alone, after the secondary's power was gone, are on its disk only.
        assert_kept(&pair, "a", &synced, seed);
        if order[0] == "a" {
            assert_kept(&pair, "b", &synced, seed);
        }
    }
}

#[test]
fn in_memory_durability_what_fsync_answered_is_on_the_primarys_disk_and_with_the_secondary_that_lives() {
    for seed in 1..3 {
        let pair = volatile_pair(Durability::Memory);
        let synced = cut_under_load(&pair, &["a"], seed);
        assert_kept(&pair, "a", &synced, seed);
        assert_kept(&pair, "b", &synced, seed);
        pair.lab.promote("b", None, false).unwrap();
        pair.lab.start("a").unwrap();
        assert_kept(&pair, "a", &synced, seed);
    }
}

#[test]
fn a_node_that_lost_its_power_does_not_become_primary_by_itself() {
    let pair = volatile_pair(Durability::Disk);
    cut_under_load(&pair, &["a", "b"], 1);
    for host in ["a", "b"] {
        pair.lab.start(host).unwrap();
        let command = skfs::control::command::Command::BecomePrimary {
            ignore_holders: false,
            force: false,
        };
        let refusal = pair.refusal(host, command);
        // The primary may have answered alone in the moment between the two cuts; then its copy is the newest.
        match refusal {
            Ok(refusal) => assert!(refusal.message.contains("did not end cleanly"), "{refusal}"),
            Err(error) => assert!(
                host == "a"
                    && pair.status("a").unwrap().skfs.unwrap().role == skfs::control::status::Role::Primary,
                "{error}"
            ),
        }
    }
}
