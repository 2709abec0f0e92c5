//! Memory and descriptors that many files cost. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::mirror::MirrorOptions;
use lab::pair::Pair;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// What a million files may cost; fewer files are measured, and the cost of each is taken as the same.
const FILES: u64 = 1_000_000;
const MEMORY_BYTES_MAX: u64 = 512 << 20;
const DESCRIPTORS_MAX: usize = 10_000;
/// Files in one directory.
const FILES_EACH: u64 = 500;

fn memory_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes << 10
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn create(root: &Path, files: u64, threads: u64) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for directory in (thread..files.div_ceil(FILES_EACH)).step_by(threads as usize) {
                    let directory = root.join(format!("d{directory}"));
                    fs::create_dir(&directory).unwrap();
                    for file in 0..FILES_EACH {
                        File::create_new(directory.join(format!("file-{file}"))).unwrap();
                    }
                }
            });
        }
    });
}

/// As `ls -lR` does it.
fn scan(root: &Path) -> u64 {
    let mut found = 0;
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            found += scan(&path);
        } else {
            found += 1;
        }
    }
    found
}

fn check(files: u64) {
    // What was made since the last checkpoint costs more, and is bounded by how much can be made between two of them.
    let options = MirrorOptions {
        checkpoint: Some(Duration::from_millis(200)),
        ..MirrorOptions::default()
    };
    let pair = Pair::up(&options).unwrap();
    let root = pair.path("a", "").unwrap();
    let pids = ["a", "b"].map(|host| pair.skfs(host).unwrap().pid);
    let before = pids.map(memory_bytes);
    create(&root, files, 4);
    assert_eq!(scan(&root), files);
    for (host, (pid, before)) in ["a", "b"].into_iter().zip(pids.into_iter().zip(before)) {
        let (memory, descriptors) = (memory_bytes(pid), descriptors(pid));
        let each = memory.saturating_sub(before) / files;
        let million = before + each * FILES;
        println!(
            "{host}: {files} files: {} MiB (before: {} MiB), {each} bytes each, {} MiB for a million, {descriptors} \
             descriptors",
            memory >> 20,
            before >> 20,
            million >> 20
        );
        assert!(million < MEMORY_BYTES_MAX, "{host}: {} MiB", million >> 20);
        assert!(descriptors < DESCRIPTORS_MAX, "{host}: {descriptors}");
    }
    // Nothing is kept of what is gone: the same names again cost nothing more.
    assert!(fs::metadata(root.join("d0")).unwrap().nlink() == 2);
    assert_eq!(pair.status("a").unwrap().in_sync, Some(true));
}

#[test]
fn twenty_thousand_files_take_their_share_of_what_a_million_may() {
    check(20_000);
}

#[test]
#[ignore = "takes minutes; the small one measures the same"]
fn two_hundred_thousand_files_take_their_share_of_what_a_million_may() {
    check(200_000);
}
