//! Whatever the two directories were before, after a copy they are equal.

use super::garden::{Step, grow, steps};
use super::source::Copy;
use crate::backing::Store;
use crate::backing::tests::scratch::Scratch;
use crate::backing::tests::tree::tree_of;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Two directories and a store over each, made when they have grown.
struct Pair {
    dirs: [tempfile::TempDir; 2],
}

impl Pair {
    fn new() -> Self {
        Pair {
            dirs: [(); 2].map(|()| tempfile::tempdir().unwrap()),
        }
    }

    fn source(&self) -> &Path {
        self.dirs[0].path()
    }

    fn target(&self) -> &Path {
        self.dirs[1].path()
    }

    fn stores(&self) -> [Store; 2] {
        [self.source(), self.target()].map(|path| Scratch::over(path).store)
    }

    #[track_caller]
    fn assert_equal(&self) {
        assert_eq!(tree_of(self.source()), tree_of(self.target()));
        let left = fs::read_dir(self.target().join(".sidekick/displaced"));
        assert_eq!(left.map_or(0, Iterator::count), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_trees_are_equal_after_a_copy_and_after_a_further_one(
        one in steps(60), other in steps(60), both in steps(30), later in steps(40), reversed in any::<[bool; 3]>(),
    ) {
        run(&one, &other, &both, &later, reversed);
    }
}

fn run(one: &[Step], other: &[Step], both: &[Step], later: &[Step], reversed: [bool; 3]) {
    let pair = Pair::new();
    for (path, steps) in [(pair.source(), one), (pair.target(), other)] {
        grow(path, both);
        grow(path, steps);
    }
    let [source, target] = pair.stores();
    let mut copy = Copy::new(&source, &target);
    copy.run(reversed[0]);
    pair.assert_equal();
    // What is known by now is moved, not made again.
    grow(pair.source(), later);
    copy.run(reversed[1]);
    pair.assert_equal();
    // A new session knows nothing, and finds everything in its place.
    source.forget_all();
    target.forget_all();
    let mut again = Copy::new(&source, &target);
    again.run(reversed[2]);
    pair.assert_equal();
    assert_eq!(again.sent, 0, "all is there");
}

#[test]
fn a_copy_into_an_empty_directory_sends_the_data_once() {
    let pair = Pair::new();
    fs::create_dir_all(pair.source().join("a/b")).unwrap();
    fs::write(pair.source().join("a/file"), vec![7; 300_000]).unwrap();
    fs::hard_link(pair.source().join("a/file"), pair.source().join("a/b/link")).unwrap();
    let sparse = fs::File::create(pair.source().join("sparse")).unwrap();
    sparse.write_all_at(b"data", 1 << 30).unwrap();
    sparse.set_len((1 << 30) + 5000).unwrap();
    let [source, target] = pair.stores();
    let mut copy = Copy::new(&source, &target);
    copy.run(false);
    pair.assert_equal();
    assert!(copy.sent < 300_000 + 10_000, "{}", copy.sent);
    assert!(fs::metadata(pair.target().join("sparse")).unwrap().blocks() < 100);
}

#[test]
fn only_the_blocks_that_differ_are_sent() {
    let pair = Pair::new();
    let data: Vec<u8> = (0..6_000_000_u32).flat_map(u32::to_le_bytes).collect();
    for path in [pair.source(), pair.target()] {
        fs::write(path.join("file"), &data).unwrap();
    }
    let file = fs::File::options()
        .write(true)
        .open(pair.source().join("file"))
        .unwrap();
    file.write_all_at(b"x", 10_000_001).unwrap();
    let [source, target] = pair.stores();
    let inode = fs::metadata(pair.target().join("file")).unwrap().ino();
    let mut copy = Copy::new(&source, &target);
    copy.run(false);
    pair.assert_equal();
    assert_eq!(copy.sent, 64 << 10);
    assert_eq!(fs::metadata(pair.target().join("file")).unwrap().ino(), inode);
}

#[test]
fn directories_that_hold_each_other_the_other_way_round_take_a_second_round() {
    let pair = Pair::new();
    fs::create_dir_all(pair.source().join("a/b/c")).unwrap();
    let [source, target] = pair.stores();
    let mut copy = Copy::new(&source, &target);
    copy.run(false);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = ["a", "a/b", "a/b/c"].map(|below| inode(&pair.target().join(below)));
    // c/b/a now.
    for (from, to) in [("a/b/c", "c"), ("a/b", "c/b"), ("a", "c/b/a")] {
        fs::rename(pair.source().join(from), pair.source().join(to)).unwrap();
    }
    for reversed in [true, false] {
        copy.run(reversed);
        pair.assert_equal();
    }
    let after = ["c/b/a", "c/b", "c"].map(|below| inode(&pair.target().join(below)));
    assert_eq!(after, before, "they were moved");
}

#[test]
fn several_directories_are_copied_each_into_its_own() {
    let (one, other) = (Scratch::with_roots(2), Scratch::with_roots(2));
    for n in 0..2 {
        fs::write(one.dirs[n].path().join("file"), n.to_string()).unwrap();
        fs::write(other.dirs[1 - n].path().join("file"), n.to_string()).unwrap();
    }
    Copy::new(&one.store, &other.store).run(false);
    for n in 0..2 {
        assert_eq!(tree_of(one.dirs[n].path()), tree_of(other.dirs[n].path()));
    }
}
