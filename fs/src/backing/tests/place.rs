//! Names brought to what they are on the source of a copy.

use super::super::{Access, CopyFailure, RESERVED};
use super::scratch::*;
use crate::operation::*;
use crate::wire::bulk::{Entry, Node, Placed};
use bytes::Bytes;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno as E;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

/// A number that the source gave out and nothing here has.
const FIRST: InodeId = InodeId(1000);
const SECOND: InodeId = InodeId(1001);
const THIRD: InodeId = InodeId(1002);

fn entry(text: &str, inode: InodeId, known: bool, kind: NodeKind) -> Entry {
    Entry {
        name: name(text),
        node: Some(Node {
            inode,
            known,
            kind,
            handle: FileHandle {
                kind: 9,
                bytes: Bytes::from_static(b"source").to_vec().into(),
            },
        }),
    }
}

fn unknown(text: &str, inode: InodeId, kind: NodeKind) -> Entry {
    entry(text, inode, false, kind)
}

fn known(text: &str, inode: InodeId) -> Entry {
    entry(text, inode, true, NodeKind::File)
}

fn nothing(text: &str) -> Entry {
    Entry {
        name: name(text),
        node: None,
    }
}

impl Scratch {
    fn place(&self, directory: InodeId, entries: &[Entry]) -> Vec<Placed> {
        self.store.place_names(directory, entries, false, None).unwrap()
    }

    fn place_one(&self, directory: InodeId, entry: Entry) -> Placed {
        self.place(directory, &[entry]).pop().unwrap()
    }

    fn fails(&self, directory: InodeId, entry: Entry, errno: E) -> CopyFailure {
        let failure = self
            .store
            .place_names(directory, &[entry], false, None)
            .unwrap_err();
        assert_eq!(failure.errno, errno.into(), "{failure}");
        failure
    }

    /// The inode that a name leads to is the one that the store means by this number.
    fn leads_to(&self, text: &str, inode: InodeId) {
        let found = fs::symlink_metadata(self.path(text)).unwrap();
        assert_eq!(found.ino(), self.store.status(inode).unwrap().st_ino, "{text}");
    }

    fn there(&self, inode: InodeId, new: bool) -> Placed {
        let handle = self.store.handle(inode).unwrap();
        Placed::There { handle, new }
    }

    fn displaced(&self) -> usize {
        fs::read_dir(self.path(".sidekick/displaced")).map_or(0, Iterator::count)
    }

    fn names(&self, below: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path(below)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.as_bytes() != RESERVED).collect()
    }
}

fn is_for_root_only(path: &Path) {
    let status = fs::symlink_metadata(path).unwrap();
    let open = status.mode() & 0o7777 != 0 && !status.is_symlink();
    assert!(!open && status.uid() == 0, "{path:?} {:o}", status.mode());
}

#[test]
fn what_is_nowhere_is_made_and_nobody_gets_in_until_it_has_its_attributes() {
    let scratch = Scratch::new();
    // The kernel lets everything below inherit this.
    let acl = "system.posix_acl_default";
    let value = [
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 1, 0, 0, 0, 4, 0, 7, 0, 255, 255, 255, 255,
        16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 7, 0, 255, 255, 255, 255,
    ];
    rustix::fs::setxattr(scratch.path(""), acl, &value, rustix::fs::XattrFlags::empty()).unwrap();
    let kinds = [
        NodeKind::File,
        NodeKind::Directory,
        NodeKind::Symlink(Bytes::from_static(b"no/where")),
        NodeKind::Fifo,
        NodeKind::Socket,
        NodeKind::CharacterDevice(0x0103),
        NodeKind::BlockDevice(0x0700),
    ];
    for (number, kind) in (2000..).zip(kinds) {
        let (text, inode) = (format!("n{number}"), InodeId(number));
        let placed = scratch.place_one(ROOT, unknown(&text, inode, kind.clone()));
        assert_eq!(placed, scratch.there(inode, true), "{kind:?}");
        scratch.leads_to(&text, inode);
        is_for_root_only(&scratch.path(&text));
        // The same again finds it.
        let placed = scratch.place_one(ROOT, unknown(&text, inode, kind));
        assert_eq!(placed, scratch.there(inode, false));
    }
    assert!(
        fs::symlink_metadata(scratch.path("n2003"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert!(
        scratch.store.next_inode() > InodeId(2006),
        "above every number learnt"
    );
    assert_eq!(scratch.displaced(), 0);
}

#[test]
fn what_has_the_name_and_is_of_the_kind_becomes_the_inode() {
    let scratch = Scratch::new();
    fs::write(scratch.path("file"), "content").unwrap();
    fs::create_dir_all(scratch.path("directory/below")).unwrap();
    symlink("target", scratch.path("symlink")).unwrap();
    let device = |text: &str, number| {
        rustix::fs::mknodat(
            CWD,
            scratch.path(text),
            FileType::CharacterDevice,
            Mode::RUSR,
            number,
        )
        .unwrap();
    };
    device("device", 0x0103);
    let target = NodeKind::Symlink(Bytes::from_static(b"target"));
    let kinds = [
        ("file", NodeKind::File),
        ("directory", NodeKind::Directory),
        ("symlink", target),
        ("device", NodeKind::CharacterDevice(0x0103)),
    ];
    for (number, (text, kind)) in (2000..).zip(kinds) {
        let before = fs::symlink_metadata(scratch.path(text)).unwrap().ino();
        let placed = scratch.place_one(ROOT, unknown(text, InodeId(number), kind));
        assert_eq!(placed, scratch.there(InodeId(number), false));
        scratch.leads_to(text, InodeId(number));
        assert_eq!(fs::symlink_metadata(scratch.path(text)).unwrap().ino(), before);
    }
    assert_eq!(scratch.displaced(), 0);
    assert!(scratch.path("directory/below").exists());
}

#[test]
fn what_is_of_another_kind_makes_way_and_a_directory_is_put_aside_whole() {
    let scratch = Scratch::new();
    let other = [
        NodeKind::File,
        NodeKind::Directory,
        NodeKind::Symlink(Bytes::from_static(b"other")),
        NodeKind::CharacterDevice(0x0105),
        NodeKind::BlockDevice(0x0103),
    ];
    for (number, kind) in (2000..).zip(other) {
        let is_file = kind == NodeKind::File;
        let text = format!("n{number}");
        match &kind {
            NodeKind::File => fs::create_dir_all(scratch.path(&text).join("below")).unwrap(),
            NodeKind::Symlink(_) => symlink("target", scratch.path(&text)).unwrap(),
            NodeKind::Directory => fs::write(scratch.path(&text), "").unwrap(),
            _ => rustix::fs::mknodat(
                CWD,
                scratch.path(&text),
                FileType::CharacterDevice,
                Mode::RUSR,
                0x0103,
            )
            .unwrap(),
        }
        let placed = scratch.place_one(ROOT, unknown(&text, InodeId(number), kind));
        assert_eq!(placed, scratch.there(InodeId(number), true));
        assert!(!is_file || scratch.path(&text).is_file());
    }
    assert_eq!(
        scratch.displaced(),
        1,
        "what no number means and is no directory goes at once"
    );
    scratch.store.remove_displaced().unwrap();
    assert_eq!(scratch.displaced(), 0);
}

#[test]
fn extra_names_are_put_aside_and_can_be_wanted_elsewhere() {
    let scratch = Scratch::new();
    let file = scratch.file("file", b"content");
    let directory = scratch.directory(ROOT, "directory");
    let below = scratch.directory(directory, "below");
    let extra = ["file", "directory", "absent"].map(nothing);
    assert_eq!(scratch.place(ROOT, &extra), [const { Placed::Vacant }; 3]);
    assert_eq!(scratch.names(""), BTreeSet::new());
    assert_eq!(scratch.displaced(), 2);

    scratch.place(ROOT, &[known("moved", directory), known("link", file)]);
    assert_eq!(
        scratch.place_one(below, known("file", file)),
        scratch.there(file, false)
    );
    scratch.leads_to("moved", directory);
    scratch.leads_to("moved/below", below);
    scratch.leads_to("moved/below/file", file);
    scratch.leads_to("link", file);
    // The name that was put aside is one more link, until it is removed.
    assert_eq!(scratch.displaced(), 1);
    scratch.store.remove_displaced().unwrap();
    assert_eq!(fs::read(scratch.path("link")).unwrap(), b"content");
    assert_eq!(fs::metadata(scratch.path("link")).unwrap().nlink(), 2);
}

#[test]
fn hard_links_are_untied_and_tied_as_on_the_source() {
    let scratch = Scratch::new();
    // Here a and b are one file, c another; there b and c are one and a another.
    fs::write(scratch.path("a"), "ab").unwrap();
    fs::hard_link(scratch.path("a"), scratch.path("b")).unwrap();
    fs::write(scratch.path("c"), "c").unwrap();
    let entries = [
        unknown("a", FIRST, NodeKind::File),
        unknown("b", SECOND, NodeKind::File),
        known("c", SECOND),
    ];
    let placed = scratch.place(ROOT, &entries);
    let expected = [(FIRST, false), (SECOND, true), (SECOND, false)];
    assert_eq!(placed, expected.map(|(inode, new)| scratch.there(inode, new)));
    for (text, inode) in [("a", FIRST), ("b", SECOND), ("c", SECOND)] {
        scratch.leads_to(text, inode);
    }
    assert_eq!(fs::read(scratch.path("a")).unwrap(), b"ab");
    scratch.store.remove_displaced().unwrap();
    let links = ["a", "b", "c"].map(|text| fs::metadata(scratch.path(text)).unwrap().nlink());
    assert_eq!(links, [1, 2, 2]);
    // Two names of one inode that was not known before either of them.
    let both = ["d", "e"].map(|text| unknown(text, THIRD, NodeKind::File));
    let placed = scratch.place(ROOT, &both);
    assert_eq!(placed, [true, false].map(|new| scratch.there(THIRD, new)));
    scratch.leads_to("e", THIRD);
}

#[test]
fn symbolic_links_and_special_files_can_have_several_names() {
    let scratch = Scratch::new();
    let kinds = [
        NodeKind::Symlink(Bytes::from_static(b"t")),
        NodeKind::Fifo,
        NodeKind::Socket,
    ];
    for (number, kind) in (2000..).zip(kinds) {
        let inode = InodeId(number);
        let (one, other) = (format!("one{number}"), format!("other{number}"));
        scratch.place(ROOT, &[unknown(&one, inode, kind), known(&other, inode)]);
        scratch.leads_to(&other, inode);
    }
}

#[test]
fn names_change_places() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.file("a", b"a"), scratch.file("b", b"b"));
    let (x, y) = (scratch.directory(ROOT, "x"), scratch.directory(ROOT, "y"));
    scratch.create(x, "in x", NodeKind::File, 0o600);
    let swapped = [known("a", b), known("b", a), known("x", y), known("y", x)];
    let placed = scratch.place(ROOT, &swapped);
    assert_eq!(placed, [b, a, y, x].map(|inode| scratch.there(inode, false)));
    for (text, inode) in [("a", b), ("b", a), ("x", y), ("y", x)] {
        scratch.leads_to(text, inode);
    }
    assert!(scratch.path("y/in x").exists());
    // Files left a link behind, directories cannot.
    assert_eq!(scratch.displaced(), 2);
    assert_eq!(scratch.names(""), ["a", "b", "x", "y"].map(String::from).into());
}

#[test]
fn a_directory_goes_where_another_was_inside_it() {
    let scratch = Scratch::new();
    // Here top/inner, there inner/top; the order in which the names come is not ours.
    let top = scratch.directory(ROOT, "top");
    let inner = scratch.directory(top, "inner");
    scratch.create(inner, "deep", NodeKind::File, 0o600);
    scratch.create(inner, "top", NodeKind::File, 0o600);
    assert_eq!(scratch.place_one(inner, known("top", top)), Placed::Blocked);
    assert_eq!(scratch.displaced(), 1, "what had the name");
    let round = [known("inner", inner), nothing("top")];
    assert_eq!(
        scratch.place(ROOT, &round),
        [scratch.there(inner, false), Placed::Vacant]
    );
    assert_eq!(
        scratch.place_one(inner, known("top", top)),
        scratch.there(top, false)
    );
    scratch.leads_to("inner", inner);
    scratch.leads_to("inner/top", top);
    assert_eq!(scratch.names("inner"), ["deep", "top"].map(String::from).into());
    assert_eq!(scratch.names("inner/top"), BTreeSet::new());
}

#[test]
fn a_directory_is_found_where_no_path_leads() {
    let scratch = Scratch::new();
    // Below a path of more than PATH_MAX bytes, among others.
    let long = "n".repeat(200);
    let mut deepest = ROOT;
    for _ in 0..25 {
        deepest = scratch.directory(deepest, &long);
    }
    for n in 0..40 {
        scratch.directory(deepest, &format!("other{n}"));
    }
    let moved = scratch.directory(deepest, "moved");
    assert_eq!(
        scratch.place_one(ROOT, known("here", moved)),
        scratch.there(moved, false)
    );
    scratch.leads_to("here", moved);
}

#[test]
fn names_may_hold_any_bytes() {
    let scratch = Scratch::new();
    let odd = Name::new(b"\xff\xfe \n\"\\ (deleted)").unwrap();
    let mut made = unknown("x", FIRST, NodeKind::Directory);
    made.name = odd.clone();
    assert_eq!(scratch.place_one(ROOT, made), scratch.there(FIRST, true));
    // Moved from there: the kernel's path is that of an odd name too.
    assert_eq!(
        scratch.place_one(ROOT, known("plain", FIRST)),
        scratch.there(FIRST, false)
    );
    assert_eq!(scratch.store.look_up(ROOT, &odd).unwrap_err(), E::NOENT.into());
}

#[test]
fn what_cannot_be_fails_with_what_and_where() {
    let scratch = Scratch::with_roots(2);
    let file = scratch.file("file", b"");
    let directory = scratch.directory(ROOT, "directory");
    let other_root = InodeId::root(1);

    let failure = scratch.fails(ROOT, unknown(".sidekick", FIRST, NodeKind::File), E::PERM);
    assert_eq!(
        failure.to_string(),
        "cannot bring the reserved name \".sidekick\" in i1: Operation not permitted (os error 1)"
    );
    scratch.fails(ROOT, nothing(".sidekick"), E::PERM);
    scratch.place_one(directory, unknown(".sidekick", FIRST, NodeKind::File));
    scratch.fails(ROOT, known("x", SECOND), E::STALE);
    scratch.fails(SECOND, known("x", file), E::STALE);
    scratch.fails(other_root, known("x", file), E::XDEV);
    scratch.fails(directory, known("x", other_root), E::INVAL);
    scratch.fails(file, nothing("x"), E::NOTDIR);

    drop(scratch.store.descriptors.evict(file));
    fs::remove_file(scratch.path("file")).unwrap();
    scratch.fails(ROOT, known("x", file), E::STALE);
    let open = scratch.store.file(directory, Access::Path).unwrap();
    fs::remove_dir_all(scratch.path("directory")).unwrap();
    scratch.fails(ROOT, known("x", directory), E::STALE);
    drop(open);
}

#[test]
fn a_mount_point_is_neither_put_aside_nor_moved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let in_namespace = move || {
        private_mounts();
        let scratch = Scratch::over(&path);
        let inside = scratch.directory(ROOT, "inside");
        mount_tmpfs(&path.join("inside"));
        let failure = scratch.fails(ROOT, nothing("inside"), E::XDEV);
        assert!(failure.to_string().contains("mount point"), "{failure}");
        let failure = scratch.fails(ROOT, known("moved", inside), E::XDEV);
        assert!(failure.to_string().contains("mount point"), "{failure}");
    };
    std::thread::spawn(in_namespace).join().unwrap();
    assert!(dir.path().join("inside").is_dir());
}

#[test]
fn names_that_others_change_beside_are_left_alone() {
    let scratch = Scratch::new();
    let directory = scratch.directory(ROOT, "directory");
    let count = 300;
    std::thread::scope(|scope| {
        for part in 0..2 {
            let scratch = &scratch;
            scope.spawn(move || {
                for n in 0..count {
                    let inode = InodeId(5000 + part * count + n);
                    let text = format!("placed-{part}-{n}");
                    scratch.place_one(directory, unknown(&text, inode, NodeKind::File));
                    if n % 3 == 0 {
                        scratch.place_one(directory, nothing(&text));
                    }
                }
            });
        }
        for n in 0..count {
            scratch.create(directory, &format!("live-{n}"), NodeKind::File, 0o644);
        }
    });
    assert_eq!(scratch.names("directory").len(), 300 + 400);
    assert_eq!(scratch.displaced(), 200);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    rustix::fs::open(scratch.path(".sidekick/displaced"), flags, Mode::empty()).unwrap();
    let mode = fs::metadata(scratch.path(".sidekick/displaced")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o700);
}
