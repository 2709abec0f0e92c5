//! Removing what was put aside.

use super::super::Store;
use super::scratch::*;
use std::fs;
use std::os::unix::fs::symlink;

fn displaced(scratch: &Scratch) -> std::path::PathBuf {
    let path = scratch.path(".sidekick/displaced");
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn nothing_is_left_of_any_root_and_repeating_changes_nothing() {
    let scratch = Scratch::with_roots(2);
    scratch.store.remove_displaced().unwrap();
    assert!(!scratch.path(".sidekick").exists(), "not made for nothing");
    for dir in &scratch.dirs {
        let displaced = dir.path().join(".sidekick/displaced");
        fs::create_dir_all(displaced.join("0/a/b")).unwrap();
        fs::write(displaced.join("0/a/file"), "").unwrap();
        fs::write(displaced.join("1"), "").unwrap();
    }
    for _ in 0..2 {
        scratch.store.remove_displaced().unwrap();
        for dir in &scratch.dirs {
            let left = fs::read_dir(dir.path().join(".sidekick/displaced"))
                .unwrap()
                .count();
            assert_eq!(left, 0);
        }
    }
}

#[test]
fn links_are_removed_and_not_followed_and_other_names_keep_their_inode() {
    let scratch = Scratch::new();
    let path = displaced(&scratch);
    let file = scratch.file("file", b"content");
    scratch.directory(crate::operation::InodeId(1), "kept");
    fs::write(scratch.path("kept/inside"), "kept").unwrap();
    fs::create_dir(path.join("7")).unwrap();
    symlink(scratch.path("kept"), path.join("7/symlink")).unwrap();
    symlink(scratch.path("kept"), path.join("8")).unwrap();
    fs::hard_link(scratch.path("file"), path.join("7/link")).unwrap();
    scratch.store.remove_displaced().unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    assert_eq!(fs::read(scratch.path("kept/inside")).unwrap(), b"kept");
    assert_eq!(&scratch.store.read(file, 0, 100).unwrap()[..], b"content");
}

#[test]
fn a_tree_deeper_than_any_path_and_wider_than_any_listing_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().to_owned();
    // In memory: a disk may take its time for every block that is freed.
    let in_namespace = move || {
        private_mounts();
        mount_tmpfs(&top);
        let scratch = Scratch::over(&top);
        let path = top.join(".sidekick/displaced");
        fs::create_dir_all(&path).unwrap();
        let (level, mode) = ("d".repeat(100), rustix::fs::Mode::RWXU);
        let mut directory = open_root(&path);
        // Deeper than the process may have descriptors open, were each level to take one.
        for _ in 0..25_000 {
            rustix::fs::mkdirat(&directory, &level, mode).unwrap();
            directory = rustix::fs::openat(&directory, &level, rustix::fs::OFlags::PATH, mode).unwrap();
        }
        for wide in ["x", "y"].map(|wide| path.join(wide)) {
            fs::create_dir(&wide).unwrap();
            for n in 0..3000 {
                fs::write(wide.join(format!("file-{n}")), "").unwrap();
                fs::create_dir_all(wide.join(format!("directory-{n}/below"))).unwrap();
            }
        }
        scratch.store.remove_displaced().unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    };
    std::thread::spawn(in_namespace).join().unwrap();
}

#[test]
fn names_that_a_predecessor_left_are_passed_over() {
    let scratch = Scratch::new();
    let path = displaced(&scratch);
    // Among these is the next number, unless other tests have come further.
    for n in 0..3000 {
        fs::write(path.join(n.to_string()), "").unwrap();
    }
    let root = crate::operation::InodeId(1);
    for n in 0..50 {
        scratch.file(&format!("file-{n}"), b"");
        let entry = crate::wire::bulk::Entry {
            name: name(&format!("file-{n}")),
            node: None,
        };
        scratch.store.place_names(root, &[entry], false, None).unwrap();
    }
    assert_eq!(fs::read_dir(&path).unwrap().count(), 3050);
}

#[test]
fn what_cannot_be_removed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let in_namespace = move || {
        private_mounts();
        let store = Store::new(vec![open_root(&path)]).unwrap();
        let mounted = path.join(".sidekick/displaced/0/mounted");
        fs::create_dir_all(&mounted).unwrap();
        mount_tmpfs(&mounted);
        fs::write(mounted.join("foreign"), "").unwrap();
        let error = store.remove_displaced().unwrap_err().to_string();
        assert!(
            error.contains("put aside") && error.contains(path.to_str().unwrap()),
            "{error}"
        );
        assert!(mounted.join("foreign").exists());
        let other = path.join(".sidekick/displaced/1");
        fs::create_dir(&other).unwrap();
        mount_tmpfs(&other);
        fs::write(other.join("foreign"), "").unwrap();
        store.remove_displaced().unwrap_err();
        assert!(other.join("foreign").exists());
    };
    std::thread::spawn(in_namespace).join().unwrap();
}
