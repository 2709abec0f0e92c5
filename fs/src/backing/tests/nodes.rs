//! Attributes of every kind of node: owner, mode, times, extended attributes, ACLs.

use super::super::Inherited;
use super::scratch::*;
use crate::operation::*;
use bytes::Bytes;
use rustix::io::Errno as E;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const KINDS: [(&str, NodeKind); 5] = [
    ("file", NodeKind::File),
    ("directory", NodeKind::Directory),
    ("symlink", NodeKind::Symlink(Bytes::from_static(b"nowhere"))),
    ("fifo", NodeKind::Fifo),
    ("device", NodeKind::CharacterDevice(0x0103)),
];

fn set_xattr(inode: InodeId, key: &str, value: &[u8], mode: XattrMode) -> Operation {
    Operation::SetXattr {
        inode,
        name: xattr_name(key),
        value: Bytes::copy_from_slice(value),
        mode,
        set_mode: None,
    }
}

fn remove_xattr(inode: InodeId, key: &str) -> Operation {
    Operation::RemoveXattr {
        inode,
        name: xattr_name(key),
    }
}

#[test]
fn owner_mode_and_times_of_every_kind_are_set_to_the_nanosecond() {
    let scratch = Scratch::new();
    let atime = Timestamp {
        seconds: -5,
        nanoseconds: 999_999_999,
    };
    for (text, kind) in KINDS {
        let is_symlink = matches!(kind, NodeKind::Symlink(_));
        let inode = scratch.create(ROOT, text, kind, 0o600);
        let new = Attributes {
            mode: (!is_symlink).then_some(0o4711),
            uid: Some(11),
            gid: Some(12),
            atime: Some(atime),
            mtime: Some(TIME),
            ..Attributes::default()
        };
        scratch.applied(&attributes(inode, new));
        let status = std::fs::symlink_metadata(scratch.path(text)).unwrap();
        assert_eq!((status.uid(), status.gid()), (11, 12), "{text}");
        assert!(
            is_symlink || status.mode() & 0o7777 == 0o4711,
            "{text}: {:o}",
            status.mode()
        );
        assert_eq!(
            (status.mtime(), status.mtime_nsec()),
            (TIME.seconds, i64::from(TIME.nanoseconds)),
            "{text}"
        );
        assert_eq!((status.atime(), status.atime_nsec()), (-5, 999_999_999), "{text}");
    }
}

#[test]
fn values_that_mean_something_else_to_the_kernel_are_refused() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"");
    let odd_time = Timestamp {
        seconds: 0,
        nanoseconds: (1 << 30) - 1,
    };
    for new in [
        Attributes {
            uid: Some(u32::MAX),
            ..Attributes::default()
        },
        Attributes {
            mtime: Some(odd_time),
            ..Attributes::default()
        },
    ] {
        assert_eq!(
            scratch.store.apply(&attributes(inode, new)),
            Outcome::Refused(errno(E::INVAL))
        );
    }
}

#[test]
fn a_failure_after_a_change_is_not_called_a_refusal() {
    let scratch = Scratch::new();
    let symlink = scratch.create(ROOT, "symlink", NodeKind::Symlink("x".into()), 0o777);
    let new = Attributes {
        uid: Some(5),
        mode: Some(0o644),
        ..Attributes::default()
    };
    assert_eq!(
        scratch.store.apply(&attributes(symlink, new)),
        Outcome::Failed(errno(E::OPNOTSUPP))
    );
    let new = Attributes {
        mode: Some(0o644),
        ..Attributes::default()
    };
    assert_eq!(
        scratch.store.apply(&attributes(symlink, new)),
        Outcome::Refused(errno(E::OPNOTSUPP))
    );
}

#[test]
fn extended_attributes_work_on_every_kind_of_node() {
    let scratch = Scratch::new();
    for (text, kind) in KINDS {
        let inode = scratch.create(ROOT, text, kind, 0o644);
        let key = "trusted.odd";
        scratch.refused(&set_xattr(inode, key, b"x", XattrMode::Replace), E::NODATA);
        scratch.refused(&remove_xattr(inode, key), E::NODATA);
        scratch.applied(&set_xattr(inode, key, &[0, 255], XattrMode::Create));
        scratch.refused(&set_xattr(inode, key, b"x", XattrMode::Create), E::EXIST);
        assert_eq!(scratch.store.xattr(inode, &xattr_name(key)).unwrap(), [0, 255]);
        assert_eq!(scratch.store.xattr_names(inode).unwrap(), b"trusted.odd\0");
        scratch.applied(&set_xattr(inode, key, &[3; 2000], XattrMode::Replace));
        assert_eq!(scratch.store.xattr(inode, &xattr_name(key)).unwrap(), [3; 2000]);
        scratch.applied(&remove_xattr(inode, key));
        assert_eq!(
            scratch.store.xattr(inode, &xattr_name(key)).unwrap_err(),
            errno(E::NODATA)
        );
    }
}

#[test]
fn an_inode_full_of_attributes_has_no_room_and_another_has() {
    let scratch = Scratch::new();
    for inode in [scratch.file("file", b""), scratch.directory(ROOT, "directory")] {
        let attempt = |n: usize| set_xattr(inode, &format!("user.number-{n}"), &[1; 900], XattrMode::Set);
        let full = (0..100).find(|n| {
            let foreseen = scratch.store.lacks_room(&attempt(*n));
            match scratch.store.apply(&attempt(*n)) {
                Outcome::Applied(_) => assert_eq!(foreseen, None),
                Outcome::Refused(reason) => assert_eq!(foreseen, Some(reason)),
                other => panic!("{other:?}"),
            }
            foreseen.is_some()
        });
        assert!(
            full.is_some(),
            "ext4 without ea_inode holds one block of attributes"
        );
    }
    let ours = std::fs::read_dir(scratch.path(".sidekick")).unwrap();
    assert_eq!(ours.count(), 0, "scratch nodes are gone");
    let other = scratch.file("other", b"");
    let operation = set_xattr(other, "user.x", &[1; 900], XattrMode::Set);
    assert_eq!(scratch.store.lacks_room(&operation), None);
}

#[test]
fn a_dropped_capability_is_gone_and_may_be_absent() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"");
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    scratch.applied(&set_xattr(
        inode,
        "security.capability",
        &capability,
        XattrMode::Set,
    ));
    let drop = attributes(
        inode,
        Attributes {
            drop_capability: true,
            ..Attributes::default()
        },
    );
    scratch.applied(&drop);
    scratch.applied(&drop);
    assert_eq!(scratch.store.xattr_names(inode).unwrap(), b"");
}

#[test]
fn an_immutable_file_reports_why_it_cannot_be_written() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"");
    scratch.applied(&Operation::Checkpoint);
    drop(scratch.store.descriptors.evict(inode));
    let file = std::fs::File::open(scratch.path("file")).unwrap();
    let set = |flags| rustix::fs::ioctl_setflags(&file, flags).unwrap();
    set(rustix::fs::IFlags::IMMUTABLE);
    let outcome = scratch.store.apply(&write(inode, 0, b"x"));
    set(rustix::fs::IFlags::empty());
    assert_eq!(outcome, Outcome::Refused(errno(E::PERM)));
}

/// Entries as tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

#[test]
fn inheritance_is_what_the_kernel_makes_of_it() {
    let scratch = Scratch::new();
    let none = u32::MAX;
    let defaults = [
        acl(&[(1, 7, none), (4, 5, none), (0x20, 1, none)]),
        acl(&[
            (1, 7, none),
            (2, 6, 1000),
            (4, 5, none),
            (0x10, 7, none),
            (0x20, 0, none),
        ]),
        acl(&[
            (1, 6, none),
            (2, 7, 1),
            (4, 7, none),
            (8, 3, 7),
            (0x10, 4, none),
            (0x20, 7, none),
        ]),
    ];
    let key = |text: &str| xattr_name(&format!("system.posix_acl_{text}"));
    for (index, default) in defaults.iter().enumerate() {
        let text = format!("parent-{index}");
        let parent = scratch.directory(ROOT, &text);
        scratch.applied(&set_xattr(
            parent,
            "system.posix_acl_default",
            default,
            XattrMode::Set,
        ));
        for mode in [0o777, 0o644, 0o4750, 0o000, 0o1612, 0o6777] {
            for kind in [NodeKind::File, NodeKind::Directory, NodeKind::Fifo] {
                let Inherited { mode: result, acls } =
                    scratch.store.inherit(parent, &kind, mode, 0o027).unwrap();
                // The kernel's own doing, on a plain path.
                let plain = scratch.path(&text).join("plain");
                let bits = rustix::fs::Mode::from_raw_mode(mode);
                match kind {
                    NodeKind::Directory => rustix::fs::mkdir(&plain, bits).unwrap(),
                    NodeKind::Fifo => mknod(&plain, rustix::fs::FileType::Fifo, bits),
                    _ => mknod(&plain, rustix::fs::FileType::RegularFile, bits),
                }
                let by_kernel = scratch.store.look_up(parent, &name("plain")).unwrap();
                let plain_inode = scratch.store.next_inode();
                scratch.store.learn(plain_inode, 0, by_kernel.handle);

                let mut create = scratch.create_operation(parent, "ours", kind.clone(), result);
                create.acls = acls;
                let ours = create.inode;
                scratch.applied(&Operation::Create(create));
                let mode_of = |inode| scratch.store.status(inode).unwrap().st_mode & 0o777;
                assert_eq!(mode_of(ours), mode_of(plain_inode), "{text} {mode:o} {kind:?}");
                for acl in ["access", "default"] {
                    let value = |inode| scratch.store.xattr(inode, &key(acl));
                    assert_eq!(value(ours), value(plain_inode), "{text} {mode:o} {kind:?} {acl}");
                }
                let directory = matches!(kind, NodeKind::Directory);
                for (text, inode) in [("plain", plain_inode), ("ours", ours)] {
                    scratch.applied(&if directory {
                        rmdir(parent, text, inode)
                    } else {
                        unlink(parent, text, inode, true)
                    });
                }
            }
        }
    }
    let plain = scratch
        .store
        .inherit(ROOT, &NodeKind::File, 0o6666, 0o027)
        .unwrap();
    assert_eq!(
        plain,
        Inherited {
            mode: 0o6640,
            acls: vec![]
        }
    );
}

fn mknod(path: &std::path::Path, kind: rustix::fs::FileType, mode: rustix::fs::Mode) {
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

#[test]
fn a_shipped_create_without_acls_inherits_none() {
    let scratch = Scratch::new();
    let parent = scratch.directory(ROOT, "parent");
    let default = acl(&[
        (1, 7, u32::MAX),
        (2, 6, 1),
        (4, 5, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 0, u32::MAX),
    ]);
    scratch.applied(&set_xattr(
        parent,
        "system.posix_acl_default",
        &default,
        XattrMode::Set,
    ));
    let child = scratch.create(parent, "child", NodeKind::Directory, 0o2775);
    assert_eq!(scratch.store.xattr_names(child).unwrap(), b"");
    let status = std::fs::metadata(scratch.path("parent/child")).unwrap();
    assert_eq!(status.permissions().mode() & 0o7777, 0o2775);
}

#[test]
fn a_long_symbolic_link_comes_back_whole() {
    let scratch = Scratch::new();
    let target = vec![0xFF; 4095];
    let inode = scratch.create(ROOT, "symlink", NodeKind::Symlink(target.clone().into()), 0o777);
    assert_eq!(scratch.store.link_target(inode).unwrap(), target);
}
