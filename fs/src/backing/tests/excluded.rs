//! Excluded names on disk: those of a secondary give way, those of a primary do not, and a copy leaves both alone.

use super::super::Leftovers;
use super::scratch::*;
use crate::exclude::{Reach, Walk};
use crate::operation::*;
use crate::wire::bulk::{Entry, Node, Placed, ToSource, ToTarget};
use rustix::io::Errno as E;
use std::fs;
use std::os::unix::fs::MetadataExt;

fn secondary(patterns: &[&str]) -> Scratch {
    Scratch::excluding(patterns, Leftovers::GiveWay)
}

/// Waits for the thread that removes what has given way.
fn is_cleared(scratch: &Scratch) -> bool {
    scratch.store.remove_displaced().unwrap();
    let left = scratch.path(".sidekick/leftovers");
    !left.exists() || fs::read_dir(left).unwrap().next().is_none()
}

#[test]
fn a_directory_goes_with_the_excluded_names_of_a_secondary() {
    let scratch = secondary(&["*.tmp", "cache/"]);
    let directory = scratch.directory(ROOT, "d");
    fs::write(scratch.path("d/a.tmp"), "1").unwrap();
    fs::create_dir_all(scratch.path("d/cache/deep")).unwrap();
    fs::write(scratch.path("d/cache/deep/file"), "2").unwrap();
    scratch.applied(&rmdir(ROOT, "d", directory));
    assert!(!scratch.path("d").exists());
    assert!(is_cleared(&scratch));
    let status = fs::metadata(scratch.path("")).unwrap();
    assert_eq!((status.mtime(), status.mtime_nsec()), (TIME.seconds, 123_456_789));
}

#[test]
fn one_replicated_name_keeps_the_directory_and_all_that_is_in_it() {
    let scratch = secondary(&["*.tmp"]);
    let directory = scratch.directory(ROOT, "d");
    fs::write(scratch.path("d/a.tmp"), "1").unwrap();
    fs::write(scratch.path("d/b"), "2").unwrap();
    let outcome = scratch.store.apply(&rmdir(ROOT, "d", directory));
    assert_eq!(outcome, Outcome::Refused(errno(E::NOTEMPTY)));
    assert!(scratch.path("d/a.tmp").exists() && scratch.path("d/b").exists());
}

#[test]
fn nothing_of_a_primarys_own_gives_way() {
    let scratch = Scratch::excluding(&["*.tmp"], Leftovers::Stay);
    let directory = scratch.directory(ROOT, "d");
    fs::write(scratch.path("d/a.tmp"), "1").unwrap();
    assert!(!scratch.store.is_vacant(directory).unwrap());
    scratch.refused(&rmdir(ROOT, "d", directory), E::NOTEMPTY);
    fs::remove_file(scratch.path("d/a.tmp")).unwrap();
    assert!(scratch.store.is_vacant(directory).unwrap());
}

#[test]
fn a_directory_takes_the_place_of_one_with_excluded_names() {
    let scratch = secondary(&["*.tmp"]);
    let moved = scratch.directory(ROOT, "new");
    let replaced = scratch.directory(ROOT, "old");
    fs::write(scratch.path("old/a.tmp"), "1").unwrap();
    let victim = Victim {
        inode: replaced,
        last: true,
    };
    scratch.applied(&rename(
        (ROOT, "new"),
        (ROOT, "old"),
        RenameMode::Replace,
        moved,
        Some(victim),
    ));
    assert_eq!(fs::read_dir(scratch.path("old")).unwrap().count(), 0);
    assert!(is_cleared(&scratch));
}

#[test]
fn a_replicated_name_takes_the_place_of_an_excluded_one_of_another_kind() {
    let scratch = secondary(&["cache/"]);
    for (text, make) in [("cache", 0), ("deep/cache", 1), ("other/cache", 2)] {
        fs::create_dir_all(scratch.path(text).join("below")).unwrap();
        let parent = text.split('/').next().unwrap();
        let parent = match make {
            0 => ROOT,
            _ => {
                let found = scratch.store.look_up(ROOT, &name(parent)).unwrap();
                let inode = scratch.store.next_inode();
                scratch.store.learn(inode, 0, found.handle);
                inode
            }
        };
        match make {
            0 => drop(scratch.create(parent, "cache", NodeKind::File, 0o600)),
            1 => {
                let inode = scratch.file("f1", b"1");
                scratch.applied(&link(inode, parent, "cache"));
            }
            _ => {
                let inode = scratch.file("f2", b"2");
                let from = (ROOT, "f2");
                scratch.applied(&rename(from, (parent, "cache"), RenameMode::Replace, inode, None));
            }
        }
        assert!(scratch.path(text).is_file(), "{text}");
    }
    assert!(is_cleared(&scratch));
}

#[test]
fn what_a_renamed_directory_would_uncover_goes() {
    let scratch = secondary(&["**/tmp/*"]);
    let moved = scratch.directory(ROOT, "tmp");
    let below = scratch.directory(moved, "tmp");
    // An excluded directory in its present place.
    scratch.store.forget(&[below]);
    fs::write(scratch.path("tmp/x"), "1").unwrap();
    scratch.applied(&rename(
        (ROOT, "tmp"),
        (ROOT, "d"),
        RenameMode::Replace,
        moved,
        None,
    ));
    assert_eq!(fs::read_dir(scratch.path("d")).unwrap().count(), 0);
    assert!(is_cleared(&scratch));
}

fn walk(directory: InodeId, from: &str, to: &str) -> Walk {
    Walk {
        directory,
        root: 0,
        from: from.into(),
        to: to.into(),
        reach: Reach::Levels(1),
    }
}

#[test]
fn a_directory_is_looked_through_before_it_is_renamed() {
    let scratch = Scratch::excluding(&["**/tmp/*"], Leftovers::Stay);
    let directory = scratch.directory(ROOT, "d");
    assert!(scratch.store.stay(&[walk(directory, "d", "tmp")]), "it is empty");
    let file = scratch.create(directory, "x", NodeKind::File, 0o600);
    assert!(!scratch.store.stay(&[walk(directory, "d", "tmp")]));
    assert!(!scratch.store.stay(&[walk(directory, "tmp", "d")]));
    assert!(scratch.store.stay(&[walk(directory, "d", "e")]));
    assert!(scratch.store.stay(&[walk(directory, "tmp", "e/tmp")]));
    scratch.applied(&unlink(directory, "x", file, true));
    // Only its own entries count.
    let below = scratch.directory(directory, "below");
    scratch.create(below, "x", NodeKind::File, 0o600);
    assert!(!scratch.store.stay(&[walk(directory, "d", "tmp")]));
    assert!(scratch.store.stay(&[walk(below, "d/below", "e/below")]));
}

#[test]
fn more_than_may_be_looked_at_counts_as_changing() {
    let scratch = Scratch::excluding(&["**/tmp/*"], Leftovers::Stay);
    let directory = scratch.directory(ROOT, "d");
    for n in 0..10_001 {
        fs::write(scratch.path(&format!("d/{n}")), "").unwrap();
    }
    assert!(!scratch.store.stay(&[walk(directory, "d", "e")]));
    fs::remove_file(scratch.path("d/0")).unwrap();
    assert!(scratch.store.stay(&[walk(directory, "d", "e")]));
}

fn listed(scratch: &Scratch, directory: InodeId) -> Vec<String> {
    let mut names = Vec::new();
    crate::resync::target::execute(
        &scratch.store,
        &ToTarget::List {
            directory,
            path: Default::default(),
        },
        |answer| match answer {
            ToSource::Listed { names: some, .. } => names.extend(some.iter().map(ToString::to_string)),
            other => panic!("{other:?}"),
        },
    );
    names.sort();
    names
}

#[test]
fn a_copy_neither_lists_nor_removes_what_is_excluded_here() {
    let scratch = secondary(&["*.tmp", "cache/"]);
    for text in ["a.tmp", "b"] {
        fs::write(scratch.path(text), "1").unwrap();
    }
    fs::create_dir_all(scratch.path("cache/below")).unwrap();
    fs::create_dir(scratch.path("d.tmp")).unwrap();
    assert_eq!(listed(&scratch, ROOT), ["b"]);
    let vacant = |text: &str| Entry {
        name: name(text),
        node: None,
    };
    let entries = [vacant("a.tmp"), vacant("b"), vacant("cache"), vacant("d.tmp")];
    let excluding = scratch.store.excluding_at(ROOT, b"").unwrap();
    let placed = scratch
        .store
        .place_names(ROOT, &entries, false, excluding.as_ref());
    let placed = placed.unwrap();
    assert_eq!(placed, vec![Placed::Vacant; 4]);
    for text in ["a.tmp", "cache/below", "d.tmp"] {
        assert!(scratch.path(text).exists(), "{text}");
    }
    assert!(!scratch.path("b").exists());
}

#[test]
fn a_file_that_was_about_to_come_in_is_moved_and_not_linked() {
    for order in [["a.tmp", "f"], ["f", "a.tmp"]] {
        let scratch = secondary(&["*.tmp"]);
        fs::write(scratch.path("a.tmp"), "new").unwrap();
        fs::write(scratch.path("f"), "old").unwrap();
        let found = scratch.store.look_up(ROOT, &name("a.tmp")).unwrap();
        let inode = InodeId(70);
        scratch.store.learn(inode, 0, found.handle.clone());
        let entry = |text: &str| Entry {
            name: name(text),
            node: (text == "f").then(|| Node {
                inode,
                known: true,
                kind: NodeKind::File,
                handle: found.handle.clone(),
            }),
        };
        let excluding = scratch.store.excluding_at(ROOT, b"").unwrap();
        let entries = order.map(entry);
        scratch
            .store
            .place_names(ROOT, &entries, true, excluding.as_ref())
            .unwrap();
        scratch.store.remove_displaced().unwrap();
        assert!(!scratch.path("a.tmp").exists());
        assert_eq!(fs::read_to_string(scratch.path("f")).unwrap(), "new");
        assert_eq!(scratch.store.status(inode).unwrap().st_nlink, 1, "{order:?}");
    }
}

#[test]
fn a_copy_goes_by_the_path_that_the_source_has() {
    let scratch = secondary(&["**/tmp/*"]);
    let directory = scratch.directory(ROOT, "tmp");
    fs::write(scratch.path("tmp/x"), "1").unwrap();
    let vacant = Entry {
        name: name("x"),
        node: None,
    };
    for (path, stays) in [("tmp", true), ("d/tmp", true), ("d", false)] {
        let excluding = scratch.store.excluding_at(directory, path.as_bytes()).unwrap();
        let entries = std::slice::from_ref(&vacant);
        scratch
            .store
            .place_names(directory, entries, false, excluding.as_ref())
            .unwrap();
        assert_eq!(scratch.path("tmp/x").exists(), stays, "{path}");
    }
}
