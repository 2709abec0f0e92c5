//! Names: create, link, unlink, rename, look-up, and what refuses them.

use super::super::{Access, RESERVED};
use super::scratch::*;
use crate::operation::*;
use bytes::Bytes;
use rustix::io::Errno as E;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

fn mtime(path: &std::path::Path) -> (i64, i64) {
    let status = std::fs::symlink_metadata(path).unwrap();
    (status.mtime(), status.mtime_nsec())
}

const TIME_PAIR: (i64, i64) = (TIME.seconds, TIME.nanoseconds as i64);

#[test]
fn every_kind_of_node_gets_its_final_owner_mode_and_time() {
    let scratch = Scratch::new();
    let kinds = [
        ("file", NodeKind::File, 0o6755),
        ("directory", NodeKind::Directory, 0o3770),
        (
            "symlink",
            NodeKind::Symlink(Bytes::from_static(b"no/where")),
            0o777,
        ),
        ("fifo", NodeKind::Fifo, 0o622),
        ("socket", NodeKind::Socket, 0o700),
        ("null", NodeKind::CharacterDevice(0x0103), 0o666),
        ("disk", NodeKind::BlockDevice(0x0700), 0o600),
    ];
    for (text, kind, mode) in kinds {
        let mut create = scratch.create_operation(ROOT, text, kind, mode);
        (create.uid, create.gid) = (1234, 4321);
        let inode = create.inode;
        let applied = scratch.applied(&Operation::Create(create));
        assert_eq!(applied.handle, scratch.store.handle(inode));
        let status = std::fs::symlink_metadata(scratch.path(text)).unwrap();
        assert_eq!((status.uid(), status.gid()), (1234, 4321), "{text}");
        assert_eq!(status.mode() & 0o7777, mode, "{text}");
        assert_eq!(mtime(&scratch.path(text)), TIME_PAIR, "{text}");
        assert_eq!(
            scratch.store.status(inode).unwrap().st_ino,
            status.ino(),
            "{text}"
        );
    }
    assert_eq!(mtime(&scratch.path("")), TIME_PAIR, "the parent's");
    let null = std::fs::metadata(scratch.path("null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), 0x0103);
}

#[test]
fn an_inode_is_found_again_by_its_handle_after_a_rename() {
    let scratch = Scratch::new();
    let inode = scratch.file("old", b"content");
    let directory = scratch.directory(ROOT, "directory");
    let operation = rename(
        (ROOT, "old"),
        (directory, "new"),
        RenameMode::Replace,
        inode,
        None,
    );
    scratch.applied(&operation);
    drop(scratch.store.descriptors.halve());
    drop(scratch.store.descriptors.halve());
    scratch.applied(&Operation::Checkpoint);
    assert_eq!(scratch.store.descriptors.counts(), (0, 1));
    assert_eq!(&scratch.store.read(inode, 0, 100).unwrap()[..], b"content");
    assert_eq!(mtime(&scratch.path("directory")), TIME_PAIR);
}

#[test]
fn held_inodes_leave_descriptors_for_what_must_be_applied() {
    let mut scratch = Scratch::new();
    let files = ["a", "b"].map(|name| scratch.file(name, b""));
    // The root is held, too.
    scratch.store.limit_kept(2);
    scratch.store.hold(files[0]).unwrap();
    assert_eq!(scratch.store.hold(files[1]), Err(E::NFILE.into()));
    scratch.store.hold(files[0]).unwrap();
    scratch.store.forget(&files[..1]);
    scratch.store.hold(files[1]).unwrap();
}

#[test]
fn names_refuse_as_the_kernel_does_and_that_is_foreseen() {
    let scratch = Scratch::new();
    let file = scratch.file("file", b"");
    let other = scratch.file("other", b"");
    let full = scratch.directory(ROOT, "full");
    let inside = scratch.directory(full, "inside");
    let gone = scratch.directory(ROOT, "gone");
    scratch.store.hold(gone).unwrap();
    scratch.applied(&rmdir(ROOT, "gone", gone));
    let some = |inode| Some(Victim { inode, last: true });

    let taken = scratch.create_operation(ROOT, "file", NodeKind::File, 0o644);
    scratch.refused(&Operation::Create(taken), E::EXIST);
    let nowhere = scratch.create_operation(gone, "name", NodeKind::File, 0o644);
    scratch.refused(&Operation::Create(nowhere), E::NOENT);
    let in_file = scratch.create_operation(file, "name", NodeKind::File, 0o644);
    scratch.refused(&Operation::Create(in_file), E::NOTDIR);
    scratch.refused(&link(file, ROOT, "other"), E::EXIST);
    scratch.refused(&link(full, ROOT, "second"), E::PERM);
    scratch.refused(&unlink(ROOT, "absent", file, true), E::NOENT);
    scratch.refused(&unlink(ROOT, "full", full, true), E::ISDIR);
    scratch.refused(&rmdir(ROOT, "file", file), E::NOTDIR);
    scratch.refused(&rmdir(ROOT, "full", full), E::NOTEMPTY);
    let replace = RenameMode::Replace;
    scratch.refused(
        &rename((ROOT, "absent"), (ROOT, "x"), replace, file, None),
        E::NOENT,
    );
    scratch.refused(
        &rename((ROOT, "full"), (ROOT, "file"), replace, full, some(file)),
        E::NOTDIR,
    );
    scratch.refused(
        &rename((ROOT, "file"), (ROOT, "full"), replace, file, some(full)),
        E::ISDIR,
    );
    scratch.refused(
        &rename((full, "inside"), (ROOT, "full"), replace, inside, some(full)),
        E::NOTEMPTY,
    );
    scratch.refused(
        &rename((ROOT, "full"), (inside, "x"), replace, full, None),
        E::INVAL,
    );
    let noreplace = RenameMode::NoReplace;
    scratch.refused(
        &rename((ROOT, "file"), (ROOT, "other"), noreplace, file, some(other)),
        E::EXIST,
    );
    let exchange = RenameMode::Exchange;
    scratch.refused(
        &rename((ROOT, "file"), (ROOT, "absent"), exchange, file, None),
        E::NOENT,
    );
    scratch.refused(
        &rename((full, "inside"), (ROOT, "full"), exchange, inside, some(full)),
        E::INVAL,
    );
}

#[test]
fn an_exchange_swaps_both_and_loses_neither() {
    let scratch = Scratch::new();
    let one = scratch.file("one", b"1");
    let two = scratch.file("two", b"2");
    let replaced = Some(Victim {
        inode: two,
        last: true,
    });
    scratch.applied(&rename(
        (ROOT, "one"),
        (ROOT, "two"),
        RenameMode::Exchange,
        one,
        replaced,
    ));
    assert_eq!(std::fs::read(scratch.path("one")).unwrap(), b"2");
    assert_eq!(std::fs::read(scratch.path("two")).unwrap(), b"1");
    assert_eq!(&scratch.store.read(two, 0, 9).unwrap()[..], b"2");
}

#[test]
fn a_held_inode_without_names_stays_usable_until_it_is_forgotten() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"before");
    scratch.store.hold(inode).unwrap();
    scratch.applied(&unlink(ROOT, "file", inode, true));
    scratch.applied(&write(inode, 6, b" and after"));
    scratch.applied(&Operation::Checkpoint);
    assert_eq!(
        &scratch.store.read(inode, 0, 100).unwrap()[..],
        b"before and after"
    );
    scratch.refused(&link(inode, ROOT, "again"), E::NOENT);
    let handle = scratch.store.handle(inode).unwrap();
    scratch.store.forget(&[inode]);
    let again = scratch.store.next_inode();
    scratch.store.learn(again, 0, handle);
    assert_eq!(scratch.store.status(again).unwrap_err(), errno(E::STALE));
    assert_eq!(scratch.store.status(inode).unwrap_err(), errno(E::STALE));
}

#[test]
fn a_hard_link_is_the_same_inode() {
    let scratch = Scratch::new();
    for (text, kind) in [
        ("file", NodeKind::File),
        ("symlink", NodeKind::Symlink(Bytes::from_static(b"x"))),
        ("fifo", NodeKind::Fifo),
    ] {
        let inode = scratch.create(ROOT, text, kind, 0o644);
        let second = format!("{text}-2");
        scratch.applied(&link(inode, ROOT, &second));
        let found = scratch.store.look_up(ROOT, &name(&second)).unwrap();
        assert_eq!(Some(found.handle), scratch.store.handle(inode));
        assert_eq!(found.status.st_nlink, 2);
    }
}

#[test]
fn a_planted_symlink_leads_nowhere() {
    let scratch = Scratch::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(outside.path(), scratch.path("way-out")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), scratch.path("secret")).unwrap();

    let bind = |text: &str| {
        let inode = scratch.store.next_inode();
        let handle = FileHandle {
            kind: 0,
            bytes: [].into(),
        };
        scratch.applied(&Operation::Bind {
            inode,
            parent: ROOT,
            name: name(text),
            handle,
        });
        inode
    };
    let way_out = bind("way-out");
    let secret = bind("secret");
    assert_eq!(
        scratch.store.look_up(way_out, &name("secret")).unwrap_err(),
        errno(E::NOTDIR)
    );
    let create = scratch.create_operation(way_out, "planted", NodeKind::File, 0o644);
    assert_eq!(
        scratch.store.apply(&Operation::Create(create)),
        Outcome::Refused(errno(E::NOTDIR))
    );
    scratch.refused(&write(secret, 0, b"overwritten"), E::LOOP);
    assert_eq!(scratch.store.read(secret, 0, 10).unwrap_err(), errno(E::LOOP));
    assert_eq!(
        scratch.store.file(secret, Access::Write).unwrap_err(),
        errno(E::LOOP)
    );
    let new = Attributes {
        uid: Some(77),
        mtime: Some(TIME),
        ..Attributes::default()
    };
    scratch.applied(&attributes(secret, new));
    let target = std::fs::metadata(outside.path().join("secret")).unwrap();
    assert_eq!(target.uid(), 0);
    assert_ne!(target.mtime(), TIME.seconds);
    assert_eq!(
        std::fs::symlink_metadata(scratch.path("secret")).unwrap().uid(),
        77
    );
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn names_of_255_arbitrary_bytes_work() {
    let scratch = Scratch::new();
    let bytes: Vec<u8> = (1..=255_u8)
        .map(|byte| if byte == b'/' { b'!' } else { byte })
        .collect();
    let odd = Name::new(&bytes).unwrap();
    let mut create = scratch.create_operation(ROOT, "x", NodeKind::File, 0o644);
    create.name = odd.clone();
    scratch.applied(&Operation::Create(create));
    assert!(scratch.store.look_up(ROOT, &odd).is_ok());
    assert!(
        scratch.dirs[0]
            .path()
            .join(std::ffi::OsStr::from_bytes(&bytes))
            .exists()
    );
}

#[test]
fn two_directories_on_one_file_system_exchange_no_names() {
    let scratch = Scratch::with_roots(2);
    let second = InodeId::root(1);
    let file = scratch.file("file", b"");
    scratch.refused(&link(file, second, "file"), E::XDEV);
    let operation = rename((ROOT, "file"), (second, "file"), RenameMode::Replace, file, None);
    scratch.refused(&operation, E::XDEV);
}

#[test]
fn the_reserved_directory_does_not_exist_for_anybody() {
    let scratch = Scratch::new();
    let before = mtime(&scratch.path(""));
    scratch.store.abilities(0).unwrap();
    assert_eq!(mtime(&scratch.path("")), before, "made without a trace");
    let ours = std::str::from_utf8(RESERVED).unwrap();
    assert!(scratch.path(ours).is_dir());
    assert!(scratch.store.is_empty(0).unwrap());
    assert_eq!(
        scratch.store.look_up(ROOT, &name(ours)).unwrap_err(),
        errno(E::NOENT)
    );
    let create = scratch.create_operation(ROOT, ours, NodeKind::File, 0o644);
    scratch.refused(&Operation::Create(create), E::PERM);
    let directory = scratch.directory(ROOT, "directory");
    assert!(!scratch.store.is_empty(0).unwrap());
    scratch.refused(
        &rename(
            (ROOT, "directory"),
            (ROOT, ours),
            RenameMode::Replace,
            directory,
            None,
        ),
        E::PERM,
    );
    scratch.directory(directory, ours);
}

#[test]
fn a_bind_of_what_is_not_there_is_told_apart() {
    let scratch = Scratch::new();
    let inode = scratch.store.next_inode();
    let handle = FileHandle {
        kind: 0,
        bytes: [].into(),
    };
    let bind = |parent| Operation::Bind {
        inode,
        parent,
        name: name("absent"),
        handle: handle.clone(),
    };
    assert_eq!(scratch.store.apply(&bind(ROOT)), Outcome::NotBound(inode));
    let unknown = InodeId(999);
    assert_eq!(scratch.store.apply(&bind(unknown)), Outcome::NotBound(unknown));
    assert_eq!(
        scratch.store.apply(&write(unknown, 0, b"x")),
        Outcome::NotBound(unknown)
    );
}

#[test]
fn a_bind_on_the_primary_keeps_the_handle_it_knows() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"");
    let handle = scratch.store.handle(inode).unwrap();
    let bind = Operation::Bind {
        inode,
        parent: ROOT,
        name: name("moved-since"),
        handle: handle.clone(),
    };
    assert_eq!(scratch.applied(&bind).handle, Some(handle));
}

#[test]
fn a_create_that_cannot_be_finished_leaves_nothing() {
    let scratch = Scratch::new();
    let before = mtime(&scratch.path(""));
    let mut create = scratch.create_operation(ROOT, "half", NodeKind::Directory, 0o755);
    create.acls = vec![(
        xattr_name("system.posix_acl_access"),
        Bytes::from_static(b"no acl"),
    )];
    let outcome = scratch.store.apply(&Operation::Create(create));
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    assert!(!scratch.path("half").exists());
    assert_eq!(mtime(&scratch.path("")), before);
}
