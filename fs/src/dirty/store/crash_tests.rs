//! The file after its process was killed, and after its bytes were damaged.

use super::tests::{EXTENT, generation, node, region};
use super::*;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

/// Makes a test's process the child of that test, and says where the state directory is.
const CHILD: &str = "SKFS_STORE_CHILD";

/// The same numbers from the same seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The records of step `step`: `size` nodes of its own, and some regions of them.
pub fn group(step: u64, size: u64) -> Vec<SavedRecord> {
    let mut records = Vec::new();
    for inode in (0..size).map(|at| 10 + step * size + at) {
        records.push(node(inode));
        records.extend((0..step % 7).map(|index| region(inode, index * 2)));
    }
    records
}

pub fn records(step: u64) -> Vec<SavedRecord> {
    group(step, 1)
}

/// How many steps of groups of `size` are in `saved`, which must be the first ones, each whole.
pub fn steps_of(saved: &Saved, size: u64) -> u64 {
    let steps = saved.nodes.len() as u64 / size;
    let units = Units {
        stored: EXTENT,
        used: EXTENT,
    };
    let mut expected = Saved::new(saved.generation);
    for record in (0..steps).flat_map(|step| group(step, size)) {
        expected.fold(record, units).unwrap();
    }
    assert!(*saved == expected, "not a beginning of what was added");
    steps
}

pub fn steps(saved: &Saved) -> u64 {
    steps_of(saved, 1)
}

/// What the process does that is killed.
fn add_for_ever(directory: &Path) {
    let mut store = MapStore::open(directory, EXTENT).unwrap();
    if store.generation().is_none() {
        store.replace(&Saved::new(generation(1))).unwrap();
    }
    let mut out = std::io::stderr();
    for step in steps(&store.load().unwrap().unwrap()).. {
        store.add(generation(1), &records(step)).unwrap();
        writeln!(out, "durable {step}").unwrap();
    }
}

#[test]
fn a_killed_process_leaves_all_that_was_durable() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return add_for_ever(Path::new(&directory));
    }
    let seed = 20;
    println!("seed {seed}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg(
                concat!(module_path!(), "::a_killed_process_leaves_all_that_was_durable")
                    .split_once("::")
                    .unwrap()
                    .1,
            )
            .env(CHILD, directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut durable = None;
        for _ in 0..=random.below(60) {
            let line = lines
                .next()
                .expect("the child goes on until it is killed")
                .unwrap();
            durable = Some(
                line.strip_prefix("durable ")
                    .expect(&line)
                    .parse::<u64>()
                    .unwrap(),
            );
        }
        // Into the next commits, by a part of what one takes.
        for _ in 0..random.below(400_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            // What it was writing when it ended may be cut short.
            let line = line.unwrap();
            durable = line
                .strip_prefix("durable ")
                .and_then(|step| step.parse().ok())
                .max(durable);
        }
        let store = MapStore::open(directory.path(), EXTENT).unwrap();
        let found = steps(&store.load().unwrap().unwrap());
        assert!(
            Some(found) > durable,
            "{found} steps, and {durable:?} was durable"
        );
    }
}

/// Damage is found, or it hit what nothing is read from: never another map, and never a panic.
#[test]
fn damage_is_an_error_and_never_another_map() {
    let seed = 4;
    println!("seed {seed}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(file::FILE);
    let mut store = MapStore::open(directory.path(), EXTENT).unwrap();
    store.replace(&Saved::new(generation(1))).unwrap();
    for step in 0..60 {
        store.add(generation(1), &records(step)).unwrap();
    }
    let whole = store.load().unwrap();
    drop(store);
    let good = std::fs::read(&path).unwrap();
    let pages: Vec<u64> = (0..good.len() as u64 / 4096)
        .filter(|page| {
            good[*page as usize * 4096..][..4096]
                .iter()
                .any(|byte| *byte != 0)
        })
        .collect();
    let mut outcomes = BTreeMap::<&str, u32>::new();
    for round in 0..600 {
        std::fs::write(&path, &good).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        for _ in 0..=random.below(3) {
            let offset = match round % 3 {
                0 => random.below(320),
                _ => pages[random.below(pages.len() as u64) as usize] * 4096 + random.below(4096),
            };
            let byte = [good[offset as usize] ^ (1 << random.below(8))];
            match round % 10 {
                0 => file.set_len(random.below(good.len() as u64)).unwrap(),
                1 => file.write_all_at(&[0; 512], offset / 512 * 512).unwrap(),
                _ => file.write_all_at(&byte, offset).unwrap(),
            }
        }
        drop(file);
        let read = MapStore::open(directory.path(), EXTENT).and_then(|store| store.load());
        let outcome = match read {
            Ok(saved) if saved == whole => "as before",
            Ok(_) => "another map",
            Err(StoreError::Unreadable { .. }) => "unreadable",
            Err(error) => panic!("round {round}: {error:?}"),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("{outcomes:?}");
    assert_eq!(outcomes.get("another map"), None, "{outcomes:?}");
    assert!(outcomes["unreadable"] > 100, "{outcomes:?}");
}
