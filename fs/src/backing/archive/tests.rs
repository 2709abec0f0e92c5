//! Archives of real directories. Needs root, as ownership and `trusted.` attributes do.

use super::*;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

struct Tree {
    dir: tempfile::TempDir,
    store: Store,
}

impl Tree {
    fn new() -> Self {
        // Not below /tmp, which may be a tmpfs without user attributes.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        let store = Store::new(vec![root]).unwrap();
        Tree { dir, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn archives(&self) -> PathBuf {
        self.path(".sidekick/archive")
    }

    fn archive(&self) -> Vec<Archived> {
        self.store.archive("now-1", &occasion(), None).unwrap()
    }
}

fn occasion() -> Occasion {
    Occasion {
        module: "db".into(),
        generation: "1".into(),
        base: "0".into(),
    }
}

fn manifest(archive: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(archive.join(MANIFEST)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn an_archive_holds_everything_as_it_was_and_lists_it() {
    let tree = Tree::new();
    fs::create_dir_all(tree.path("d/e")).unwrap();
    fs::write(tree.path("d/f"), "content").unwrap();
    fs::hard_link(tree.path("d/f"), tree.path("d/e/linked")).unwrap();
    symlink("d/f", tree.path("link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, tree.path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    rustix::fs::setxattr(tree.path("d/f"), "user.a", b"b", XattrFlags::empty()).unwrap();
    fs::set_permissions(tree.path("d/f"), fs::Permissions::from_mode(0o4710)).unwrap();
    std::os::unix::fs::chown(tree.path("d/e"), Some(7), Some(8)).unwrap();
    let made = tree.archive();
    assert_eq!((made.len(), made[0].entries), (1, 6));
    let archive = tree.archives().join("now-1");
    let files = archive.join("files");
    assert_eq!(fs::read_to_string(files.join("d/f")).unwrap(), "content");
    let (ours, theirs) = (
        fs::metadata(tree.path("d/f")).unwrap(),
        fs::metadata(files.join("d/f")).unwrap(),
    );
    assert_eq!(ours.mode(), theirs.mode());
    assert_eq!(
        (ours.mtime(), ours.mtime_nsec()),
        (theirs.mtime(), theirs.mtime_nsec())
    );
    assert_eq!(
        theirs.ino(),
        fs::metadata(files.join("d/e/linked")).unwrap().ino()
    );
    assert_eq!(fs::read_link(files.join("link")).unwrap(), Path::new("d/f"));
    assert!(
        fs::symlink_metadata(files.join("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    let owner = fs::metadata(files.join("d/e")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (7, 8));
    let mut value = [0; 8];
    assert_eq!(
        rustix::fs::getxattr(files.join("d/f"), "user.a", &mut value[..]).unwrap(),
        1
    );
    let lines = manifest(&archive);
    assert_eq!(lines[0]["generation"], "1");
    assert_eq!(lines.len(), 7);
    assert!(
        lines
            .iter()
            .any(|line| line["path"] == "d/e/linked" && line["kind"] == "file")
    );
}

#[test]
fn holes_stay_holes_and_what_is_changed_later_is_not_changed_in_the_archive() {
    let tree = Tree::new();
    let file = fs::File::create(tree.path("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"middle", 32 << 20).unwrap();
    tree.archive();
    file.write_all_at(b"CHANGE", 32 << 20).unwrap();
    let copy = fs::File::open(tree.archives().join("now-1/files/sparse")).unwrap();
    let mut middle = [0; 6];
    copy.read_exact_at(&mut middle, 32 << 20).unwrap();
    assert_eq!(&middle, b"middle");
    let status = copy.metadata().unwrap();
    assert_eq!(status.len(), 64 << 20);
    assert!(status.blocks() * 512 < 1 << 20, "{} blocks", status.blocks());
}

#[test]
fn deep_directories_are_put_aside() {
    let tree = Tree::new();
    let mut above = rustix::fs::open(tree.dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
    let name = "n".repeat(200);
    // Its path is longer than the kernel takes.
    for _ in 0..30 {
        rustix::fs::mkdirat(&above, &name, Mode::RWXU).unwrap();
        above = open_directory(above.as_fd(), &name).unwrap();
    }
    new_file(above.as_fd(), c"bottom").unwrap();
    assert_eq!(tree.archive()[0].entries, 31);
}

#[test]
fn what_a_crash_left_is_removed_and_an_empty_directory_needs_no_archive() {
    let tree = Tree::new();
    assert_eq!(tree.archive(), []);
    fs::create_dir_all(tree.archives().join("then-1.partial/files/d")).unwrap();
    fs::write(tree.archives().join("then-1.partial/files/d/f"), "half").unwrap();
    fs::write(tree.path("f"), "whole").unwrap();
    tree.archive();
    let left: Vec<_> = fs::read_dir(tree.archives())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["now-1"]);
    let lines = manifest(&tree.archives().join("now-1"));
    assert_eq!(lines.len(), 2, "earlier archives are not in it: {lines:?}");
}

#[test]
fn archives_are_listed_and_removed() {
    let tree = Tree::new();
    assert_eq!(tree.store.archives().unwrap(), []);
    fs::write(tree.path("f"), vec![1; 10_000]).unwrap();
    tree.archive();
    fs::create_dir_all(tree.archives().join("half.partial")).unwrap();
    let found = tree.store.archives().unwrap();
    let [archive] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(
        (&*archive.name, &*archive.generation, archive.entries),
        ("now-1", "1", 1)
    );
    assert!(archive.bytes >= 10_000);
    for other in ["", "..", "../archive", "half", "now-2"] {
        assert!(!tree.store.remove_archive(other).unwrap(), "{other}");
    }
    assert!(tree.store.remove_archive("now-1").unwrap());
    assert_eq!(tree.store.archives().unwrap(), []);
    assert!(!tree.archives().join("now-1").exists());
}

#[test]
fn of_several_directories_all_are_put_aside_or_none() {
    let tree = Tree::new();
    let other = tempfile::tempdir_in("/var/tmp").unwrap();
    let roots = [tree.dir.path(), other.path()]
        .map(|path| rustix::fs::open(path, OFlags::PATH, Mode::empty()).unwrap());
    let store = Store::new(roots.into()).unwrap();
    for directory in [tree.dir.path(), other.path()] {
        fs::write(directory.join("f"), "content").unwrap();
    }
    // A file where the archives of the second are to be.
    fs::create_dir(other.path().join(".sidekick")).unwrap();
    fs::write(other.path().join(".sidekick/archive"), "").unwrap();
    assert!(store.archive("now-1", &occasion(), None).is_err());
    assert_eq!(tree.store.archives().unwrap(), []);
    fs::remove_file(other.path().join(".sidekick/archive")).unwrap();
    assert_eq!(store.archive("now-2", &occasion(), None).unwrap().len(), 2);
    assert_eq!(store.archives().unwrap().len(), 2);
}

#[test]
fn what_was_changed_apart_is_listed_by_path() {
    use crate::dirty::store::{Saved, SavedNode};
    use crate::dirty::{Content, Extents, Place};
    use crate::operation::InodeId;
    use std::ffi::OsStr;
    use std::num::NonZeroU64;
    use std::os::unix::ffi::OsStrExt;

    let tree = Tree::new();
    let odd = tree.dir.path().join(OsStr::from_bytes(b"odd-\xff"));
    fs::create_dir_all(tree.path("d/e")).unwrap();
    fs::create_dir(tree.path("listed")).unwrap();
    for name in [
        "data",
        "d/moved",
        "kept",
        "same",
        "new",
        "d/out-of-nowhere",
        "removed",
    ] {
        fs::write(tree.path(name), "content").unwrap();
    }
    fs::hard_link(tree.path("kept"), tree.path("d/linked")).unwrap();
    fs::write(&odd, "odd").unwrap();
    let mut map = Saved::new(crate::wire::message::Generation([7; 16]));
    map.changed = true;
    let mut number = 0;
    let mut mark = |path: &Path, content: Content, attributes: bool, place: Option<(InodeId, &str)>| {
        number += 1;
        let descriptor = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
        let name = |name: &str| Name::new(name.as_bytes()).unwrap();
        let node = SavedNode {
            root: 0,
            handle: crate::backing::handle::of(descriptor.as_fd()).unwrap(),
            peer_handle: None,
            place: place.map(|(parent, text)| Place {
                parent,
                name: name(text),
            }),
            content,
            attributes,
        };
        map.nodes.insert(InodeId(number), Box::new(node));
        InodeId(number)
    };
    let none = || Content::Extents(Extents::default());
    let extent = |range: std::ops::Range<u64>| {
        let mut extents = Extents::default();
        extents.insert(range);
        Content::Extents(extents)
    };
    let root = mark(tree.dir.path(), none(), false, None);
    let d = mark(&tree.path("d"), none(), true, Some((root, "d")));
    let listed = mark(&tree.path("listed"), none(), false, Some((root, "listed")));
    let gone = mark(&tree.path("d/e"), none(), false, Some((d, "e")));
    mark(&tree.path("data"), extent(1..9), false, Some((root, "data")));
    mark(&tree.path("d/moved"), none(), false, Some((root, "was")));
    mark(&tree.path("d/out-of-nowhere"), none(), false, Some((gone, "x")));
    mark(&tree.path("kept"), none(), true, Some((root, "kept")));
    mark(&tree.path("new"), Content::Fresh, true, None);
    mark(&odd, Content::Whole, false, None);
    mark(
        &tree.path("removed"),
        Content::Whole,
        true,
        Some((root, "removed")),
    );
    fs::remove_file(tree.path("removed")).unwrap();
    fs::remove_dir(tree.path("d/e")).unwrap();
    map.additions.insert(listed);
    let names = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| Name::new(text.as_bytes()).unwrap())
            .collect()
    };
    map.names.insert(root, names(&["was", "removed"]));
    map.names.insert(d, names(&["moved", "e"]));

    let extent_bytes = NonZeroU64::new(4).unwrap();
    let changes = Changes {
        map: &map,
        extent_bytes,
    };
    tree.store.archive("now-1", &occasion(), Some(&changes)).unwrap();
    let list = fs::read_to_string(tree.archives().join("now-1/changes.jsonl")).unwrap();
    let expected = [
        r#"{"known":true}"#,
        r#"{"path":"d","change":"attributes"}"#,
        r#"{"path":"d/linked","change":"attributes"}"#,
        r#"{"path":"d/moved","change":"moved","from":"was"}"#,
        r#"{"path":"d/out-of-nowhere","change":"moved"}"#,
        r#"{"path":"data","change":"data","ranges":[[4,7]]}"#,
        r#"{"path":"kept","change":"attributes"}"#,
        r#"{"path":"listed","change":"listing"}"#,
        r#"{"path":"new","change":"new"}"#,
        "{\"path\":\"odd-\u{fffd}\",\"path_bytes\":[111,100,100,45,255],\"change\":\"data\",\"ranges\":[[0,3]]}",
        r#"{"path":"removed","change":"gone"}"#,
        r#"{"path":"was","change":"gone"}"#,
        r#"{"path":"d/e","change":"gone"}"#,
        r#"{"path":"d/moved","change":"name"}"#,
    ];
    assert_eq!(list.lines().collect::<Vec<_>>(), expected);

    map.everything = true;
    let changes = Changes {
        map: &map,
        extent_bytes,
    };
    for (name, changes) in [("now-2", Some(&changes)), ("now-3", None)] {
        tree.store.archive(name, &occasion(), changes).unwrap();
        let list = fs::read_to_string(tree.archives().join(name).join("changes.jsonl")).unwrap();
        assert_eq!(list, "{\"known\":false}\n");
    }
}

#[test]
fn data_that_is_shared_needs_no_room_of_its_own() {
    let size = Size {
        entries: 2,
        bytes: 1 << 30,
        ..Size::default()
    };
    assert_eq!(size.needed(true), 2 * ENTRY_BYTES);
    assert_eq!(size.needed(false), (1 << 30) + 2 * ENTRY_BYTES);
}
