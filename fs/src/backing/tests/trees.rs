//! Whole directories: listings, mounts over and inside them, abilities, memory.

use super::super::{BackingError, Store};
use super::scratch::*;
use crate::operation::*;
use rustix::io::Errno as E;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Reads the whole directory in pieces of `piece` entries; calls `between` after each.
fn list(
    scratch: &Scratch,
    inode: InodeId,
    piece: usize,
    mut between: impl FnMut(usize),
) -> BTreeMap<Vec<u8>, usize> {
    let directory = scratch.store.open_directory(inode).unwrap();
    let mut seen = BTreeMap::new();
    let mut offset = 0;
    for round in 0.. {
        let (before, mut taken) = (offset, 0);
        directory
            .read(offset, |entry| {
                if taken == piece {
                    return ControlFlow::Break(());
                }
                taken += 1;
                offset = entry.next;
                *seen.entry(entry.name.to_vec()).or_default() += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        if offset == before {
            break;
        }
        between(round);
    }
    seen
}

#[test]
fn a_big_directory_is_listed_once_each_while_it_changes() {
    let scratch = Scratch::new();
    let directory = scratch.directory(ROOT, "directory");
    let path = scratch.path("directory");
    let count = 20_000;
    for n in 0..count {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path.join(format!("stays-{n}")),
            rustix::fs::FileType::RegularFile,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        if n % 10 == 0 {
            std::fs::write(path.join(format!("goes-{n}")), "").unwrap();
        }
    }
    let seen = list(&scratch, directory, 37, |round| {
        if round % 2 == 0 && round * 10 < count {
            std::fs::remove_file(path.join(format!("goes-{}", round * 10))).unwrap();
            std::fs::write(path.join(format!("comes-{round}")), "").unwrap();
        }
    });
    for n in 0..count {
        assert_eq!(seen.get(format!("stays-{n}").as_bytes()), Some(&1), "stays-{n}");
    }
    assert!(seen.values().all(|times| *times == 1));
    assert_eq!(seen.get(&b"."[..]), Some(&1));
}

#[test]
fn an_offset_is_good_for_another_listing_and_the_start_is_read_anew() {
    let scratch = Scratch::new();
    for n in 0..100 {
        scratch.file(&format!("file-{n}"), b"");
    }
    scratch.store.abilities(0).unwrap();
    let first = scratch.store.open_directory(ROOT).unwrap();
    let names = |directory: &super::super::Directory, offset, most: usize| {
        let mut names = Vec::new();
        let taken = directory.read(offset, |entry| {
            if names.len() == most {
                return ControlFlow::Break(());
            }
            names.push((entry.name.to_vec(), entry.next));
            ControlFlow::Continue(())
        });
        taken.unwrap();
        names
    };
    let all = names(&first, 0, 1000);
    assert_eq!(all.len(), 102, "100 files, two dots, nothing of ours");
    let second = scratch.store.open_directory(ROOT).unwrap();
    assert_eq!(names(&second, all[40].1, 1000), all[41..]);
    assert_eq!(names(&first, all[9].1, 5), all[10..15]);
    scratch.file("late", b"");
    assert_eq!(names(&first, 0, 1000).len(), 103);
}

#[test]
fn a_mount_over_the_directory_hides_nothing_and_one_inside_is_not_crossed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let in_namespace = move || {
        private_mounts();
        let scratch = Scratch::over(&path);
        let inside = scratch.directory(ROOT, "inside");
        let file = scratch.file("file", b"content");
        mount_tmpfs(&path.join("inside"));
        let found = scratch.store.look_up(ROOT, &name("inside"));
        assert_eq!(found.unwrap_err(), errno(E::XDEV));
        std::fs::write(path.join("inside/foreign"), "").unwrap();
        let foreign = scratch.store.look_up(inside, &name("foreign"));
        assert_eq!(
            foreign.unwrap_err(),
            errno(E::NOENT),
            "the covered directory is seen"
        );

        mount_tmpfs(&path);
        drop(scratch.store.descriptors.halve());
        drop(scratch.store.descriptors.halve());
        assert_eq!(&scratch.store.read(file, 0, 9).unwrap()[..], b"content");
        scratch.applied(&write(file, 0, b"CON"));
        assert!(list(&scratch, ROOT, 100, |_| ()).contains_key(&b"file"[..]));
        let new = scratch.file("new", b"");
        let mode = Attributes {
            mode: Some(0o600),
            ..Attributes::default()
        };
        scratch.applied(&attributes(ROOT, mode));
        scratch.applied(&attributes(new, mode));
        assert_eq!(
            std::fs::read_dir(&path).unwrap().count(),
            0,
            "the mount above got nothing"
        );
        scratch.applied(&Operation::Sync {
            inode: ROOT,
            data_only: false,
        });
    };
    std::thread::spawn(in_namespace).join().unwrap();
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"CONtent");
}

#[test]
fn abilities_are_those_of_ext4() {
    let scratch = Scratch::new();
    for _ in 0..2 {
        let abilities = scratch.store.abilities(0).unwrap();
        assert!(abilities.handles && abilities.acl, "{abilities:?}");
        assert_eq!((abilities.name_bytes_max, abilities.time_step_ns), (255, 1));
        assert!(abilities.xattr_bytes_max >= 3000, "{abilities:?}");
    }
    assert!(scratch.store.free_bytes(0).unwrap() > 0);
    assert!(matches!(
        scratch.store.abilities(1),
        Err(BackingError::NoSuchDirectory { index: 1, count: 1 })
    ));
}

#[test]
fn a_file_system_without_handles_is_refused_with_its_name() {
    let error = Store::new(vec![open_root("/proc".as_ref())]).err().unwrap();
    assert!(matches!(error, BackingError::NoHandles { .. }), "{error}");
    assert!(error.to_string().contains("/proc"), "{error}");
    assert!(matches!(Store::new(vec![]), Err(BackingError::Count(0))));
}
