//! A full disk on either node. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::disk::ext4::DiskOptions;
use lab::mirror::MirrorOptions;
use lab::pair::Pair;
use lab::status::Wanted;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use skfs::control::event::What;
use skfs::control::status::State;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SMALL: Option<DiskOptions> = Some(DiskOptions {
    size_bytes: 64 << 20,
    volatile: false,
});

/// Fills whatever is left and gives the errno of the write that did not fit.
fn fill(path: &Path) -> io::Error {
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    let block = vec![0x5a; 64 << 10];
    loop {
        if let Err(error) = file.write_all(&block) {
            return error;
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Waits for the end of every repair, then compares the copies.
fn assert_equal_and_in_sync(pair: &Pair) {
    pair.lab.wait_state("a", None, Wanted::InSync).unwrap();
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
    assert_eq!(pair.went_alone("a").unwrap(), [] as [&str; 0]);
}

/// A checkpoint gives back what ext4 holds in reserve for what is not written yet: a full disk has room after it.
fn without_checkpoints() -> MirrorOptions {
    MirrorOptions {
        checkpoint: Some(Duration::from_secs(3600)),
        ..MirrorOptions::default()
    }
}

#[test]
fn a_secondary_whose_disk_fills_under_several_writers_costs_none_of_them_an_error() {
    let pair = Pair::up_on([None, SMALL], &without_checkpoints()).unwrap();
    let directory = pair.path("a", "").unwrap();
    let block: Vec<u8> = (0..32u32 << 10).map(|byte| byte as u8).collect();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (path, block) = (directory.join(format!("writer-{writer}")), &block);
            scope.spawn(move || {
                let mut file = File::create(path).unwrap();
                (0..24 << 5).for_each(|_| file.write_all(block).unwrap());
                file.sync_all().unwrap();
            });
        }
    });
    pair.lab
        .wait_state("a", None, Wanted::State(State::Alone))
        .unwrap();
    assert_eq!(pair.went_alone("a").unwrap(), ["no-space"]);
    for writer in 0..4 {
        let data = fs::read(pair.backing("a").unwrap().join(format!("writer-{writer}"))).unwrap();
        assert_eq!(data.len(), 24 << 20);
        assert!(data.chunks(block.len()).all(|chunk| chunk == block));
    }
    // The event is for a person: it says which node has no room.
    let events = pair.lab.events("a").unwrap();
    let lost = events
        .iter()
        .find(|one| matches!(one.event.what, What::PeerLost { .. }));
    assert!(lost.unwrap().event.message.contains("no-space"), "{lost:?}");
}

#[test]
fn several_writers_meet_a_full_primary_again_and_again_and_both_copies_stay_identical() {
    let pair = Pair::up_on([SMALL, None], &without_checkpoints()).unwrap();
    let directory = pair.path("a", "").unwrap();
    let mut refused = 0;
    for round in 0..5 {
        let paths: Vec<PathBuf> = (0..4)
            .map(|writer| directory.join(format!("writer-{writer}")))
            .collect();
        std::thread::scope(|scope| {
            for path in &paths {
                scope.spawn(move || {
                    let error = fill(path);
                    assert!(
                        is(&error, Errno::NOSPC),
                        "round {round}, {}: {error}",
                        path.display()
                    );
                });
            }
        });
        refused += paths.len();
        assert_equal_and_in_sync(&pair);
        // Room comes back in different ways: a shorter file, a hole, a file less.
        let file = File::options().write(true).open(&paths[round % 4]).unwrap();
        match round % 3 {
            0 => file.set_len(4096 * 3 + 5).unwrap(),
            1 => rustix::fs::fallocate(
                &file,
                rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
                1 << 20,
                5 << 20,
            )
            .unwrap(),
            _ => fs::remove_file(&paths[round % 4]).unwrap(),
        }
        let small = directory.join(format!("after-{round}"));
        fs::write(&small, b"there is room").unwrap();
        File::open(&small).unwrap().sync_all().unwrap();
    }
    assert_equal_and_in_sync(&pair);
    let repaired = pair.events("a").unwrap();
    let repaired = repaired.iter().filter(|what| **what == What::Repaired).count();
    assert!(
        repaired > 0,
        "{refused} writes were refused and nothing was repaired"
    );
}

#[test]
fn names_attributes_and_allocations_on_a_full_primary_are_refused_and_leave_no_trace() {
    let pair = Pair::up_on([SMALL, None], &without_checkpoints()).unwrap();
    let directory = pair.path("a", "").unwrap();
    fs::create_dir(directory.join("names")).unwrap();
    let holder = directory.join("holder");
    File::create(&holder).unwrap();
    let filler = directory.join("filler");
    assert!(is(&fill(&filler), Errno::NOSPC));
    // Long names need blocks of their own soon, and long values at once.
    let long = "n".repeat(200);
    let create = |number: u32| File::create_new(directory.join(format!("names/{long}-{number}"))).map(drop);
    let refused = (0..10_000).find_map(|number| create(number).err());
    assert!(is(&refused.unwrap(), Errno::NOSPC));
    let mkdir = |number: u32| fs::create_dir(directory.join(format!("names/{number}-{long}")));
    let refused = (0..1000).find_map(|number| mkdir(number).err());
    assert!(is(&refused.unwrap(), Errno::NOSPC));
    let symlink = std::os::unix::fs::symlink("t".repeat(3000), directory.join("names/symlink"));
    assert!(is(&symlink.unwrap_err(), Errno::NOSPC));
    let value = vec![b'v'; 3000];
    let set = |name: &str| rustix::fs::setxattr(&holder, name, &value, XattrFlags::empty());
    let refused = (0..100).find_map(|number| set(&format!("user.{number}")).err());
    assert_eq!(refused, Some(Errno::NOSPC));
    let file = File::options().write(true).open(&holder).unwrap();
    let flags = rustix::fs::FallocateFlags::empty();
    assert_eq!(rustix::fs::fallocate(&file, flags, 0, 8 << 20), Err(Errno::NOSPC));
    assert!(is(&file.write_all_at(&value, 1 << 30).unwrap_err(), Errno::NOSPC));
    assert_equal_and_in_sync(&pair);
    // Room again: the very same calls succeed, and the copies are still equal.
    fs::remove_file(&filler).unwrap();
    let limit = Instant::now() + Duration::from_secs(30);
    while let Err(error) = set("user.again") {
        // Big unlinked files are closed in the background: their room comes a moment later.
        assert!(error == Errno::NOSPC && Instant::now() < limit, "{error}");
        std::thread::yield_now();
    }
    mkdir(5000).unwrap();
    create(20_000).unwrap();
    rustix::fs::fallocate(&file, flags, 0, 8 << 20).unwrap();
    assert_equal_and_in_sync(&pair);
}
