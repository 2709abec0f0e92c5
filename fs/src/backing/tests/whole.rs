//! All attributes of an inode, read and given.

use super::scratch::*;
use super::tree::xattrs_of;
use crate::operation::*;
use crate::wire::bulk::AllAttributes;
use bytes::Bytes;
use rustix::fs::XattrFlags;
use rustix::io::Errno as E;
use std::fs;
use std::os::unix::fs::MetadataExt;

const ACL_ACCESS: &str = "system.posix_acl_access";
const ACL_DEFAULT: &str = "system.posix_acl_default";
/// `VFS_CAP_REVISION_2`, effective, `cap_net_raw`.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const KINDS: [(&str, NodeKind); 6] = [
    ("file", NodeKind::File),
    ("directory", NodeKind::Directory),
    ("symlink", NodeKind::Symlink(Bytes::from_static(b"nowhere"))),
    ("fifo", NodeKind::Fifo),
    ("socket", NodeKind::Socket),
    ("device", NodeKind::BlockDevice(0x0700)),
];

/// One named user with these rights, and this mask.
fn acl(user: u32, rights: u8, mask: u8) -> Bytes {
    let entry = |tag: u16, perm: u8, id: u32| {
        [tag.to_le_bytes(), u16::from(perm).to_le_bytes()]
            .concat()
            .into_iter()
            .chain(id.to_le_bytes())
    };
    let entries = [
        entry(1, 6, u32::MAX),
        entry(2, rights, user),
        entry(4, 5, u32::MAX),
        entry(16, mask, u32::MAX),
        entry(32, 0, u32::MAX),
    ];
    [2, 0, 0, 0]
        .into_iter()
        .chain(entries.into_iter().flatten())
        .collect()
}

type Xattrs<'a> = &'a [(&'a str, &'a [u8])];

fn attributes(size: Option<u64>, mode: u32, xattrs: Xattrs<'_>) -> AllAttributes {
    AllAttributes {
        size,
        mode,
        uid: 11,
        gid: 12,
        mtime: TIME,
        xattrs: xattrs
            .iter()
            .map(|(text, value)| (xattr_name(text), Bytes::copy_from_slice(value)))
            .collect(),
    }
}

fn sorted(mut attributes: AllAttributes) -> AllAttributes {
    attributes.xattrs.sort();
    attributes
}

#[test]
fn every_kind_of_node_gets_exactly_what_is_given_and_gives_it_back() {
    let scratch = Scratch::new();
    let access = acl(7, 4, 6);
    let default = acl(8, 7, 7);
    for (text, kind) in KINDS {
        let is_file = kind == NodeKind::File;
        let is_symlink = matches!(kind, NodeKind::Symlink(_));
        let mut xattrs: Vec<(&str, &[u8])> = vec![("trusted.a", b"1"), ("security.b", b"")];
        if is_file || kind == NodeKind::Directory {
            xattrs.push(("user.c", &[0, 255, 7]));
            xattrs.push(("trusted.sidekick.x", b"like any other"));
        }
        if is_file {
            xattrs.push(("security.capability", &CAPABILITY));
        }
        if kind == NodeKind::Directory {
            xattrs.push((ACL_DEFAULT, &default));
        }
        if !is_symlink {
            xattrs.push((ACL_ACCESS, &access));
        }
        let mode = if is_symlink { 0o777 } else { 0o6660 };
        let wanted = attributes(is_file.then_some(12_345), mode, &xattrs);

        let inode = scratch.create(ROOT, text, kind, 0o600);
        // What is there before, in the way and not.
        rustix::fs::lsetxattr(scratch.path(text), "trusted.old", b"x", XattrFlags::empty()).unwrap();
        rustix::fs::lsetxattr(scratch.path(text), "trusted.a", b"other", XattrFlags::empty()).unwrap();
        for _ in 0..2 {
            scratch.store.set_all_attributes(inode, &wanted).unwrap();
            let found = scratch.store.all_attributes(inode).unwrap();
            assert_eq!(sorted(found), sorted(wanted.clone()), "{text}");
        }
        let status = fs::symlink_metadata(scratch.path(text)).unwrap();
        assert_eq!((status.uid(), status.gid()), (11, 12), "{text}");
        assert_eq!(
            xattrs_of(&scratch.path(text))
                .iter()
                .filter(|(name, _)| name == "trusted.a")
                .count(),
            1
        );

        // And everything goes again.
        let plain = attributes(is_file.then_some(0), if is_symlink { 0o777 } else { 0o750 }, &[]);
        scratch.store.set_all_attributes(inode, &plain).unwrap();
        assert_eq!(scratch.store.all_attributes(inode).unwrap(), plain, "{text}");
    }
}

#[test]
fn acls_that_differ_in_any_way_become_equal_and_take_the_mode_along() {
    let scratch = Scratch::new();
    let (one, other) = (acl(7, 4, 4), acl(9, 7, 6));
    let all: [(u32, Xattrs<'_>); 4] = [
        (0o640, &[]),
        (0o640, &[(ACL_ACCESS, &one)]),
        (0o660, &[(ACL_ACCESS, &other)]),
        (0o2777, &[]),
    ];
    for (text, kind) in [("file", NodeKind::File), ("fifo", NodeKind::Fifo)] {
        let is_file = kind == NodeKind::File;
        let inode = scratch.create(ROOT, text, kind, 0o600);
        for from in &all {
            for to in &all {
                for (mode, xattrs) in [from, to] {
                    let wanted = attributes(is_file.then_some(0), *mode, xattrs);
                    scratch.store.set_all_attributes(inode, &wanted).unwrap();
                    assert_eq!(
                        scratch.store.all_attributes(inode).unwrap(),
                        wanted,
                        "{from:?} {to:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_does_not_differ_is_not_touched() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"content");
    let wanted = attributes(Some(7), 0o640, &[("user.a", b"1")]);
    scratch.store.set_all_attributes(inode, &wanted).unwrap();
    scratch.store.checkpoint().unwrap();
    let ctime = || {
        let status = fs::metadata(scratch.path("file")).unwrap();
        (status.ctime(), status.ctime_nsec())
    };
    let before = ctime();
    scratch.store.set_all_attributes(inode, &wanted).unwrap();
    assert_eq!(ctime(), before);
    assert_eq!(scratch.store.durable.written.count(), 0);

    let longer = AllAttributes {
        size: Some(1 << 20),
        ..wanted
    };
    scratch.store.set_all_attributes(inode, &longer).unwrap();
    assert_eq!(
        scratch.store.durable.written.count(),
        1,
        "the next sync covers it"
    );
    assert_eq!(&scratch.store.read(inode, 0, 9).unwrap()[..], b"content\0\0");
}

#[test]
fn attributes_that_fill_an_inode_are_replaced_by_others_that_do() {
    let scratch = Scratch::new();
    let (from, to) = (scratch.file("from", b""), scratch.file("to", b""));
    // On ext4 one block and what is left of the inode: in which of the two each lies decides what fits.
    let fill = |inode: InodeId, lengths: &[usize]| {
        let mut xattrs = Vec::new();
        for (n, length) in lengths.iter().cycle().take(60).enumerate() {
            let value = vec![n as u8; *length];
            let set = Operation::SetXattr {
                inode,
                name: xattr_name(&format!("user.{n}")),
                value: value.into(),
                mode: XattrMode::Set,
                set_mode: None,
            };
            if matches!(scratch.store.apply(&set), Outcome::Applied(_)) {
                xattrs.push(n);
            }
        }
        xattrs
    };
    let first = fill(from, &[1000, 60, 20, 4, 1]);
    let second = fill(to, &[3, 700, 45, 19]);
    assert_ne!(first, second);
    for (source, target) in [(from, to), (to, from)] {
        let wanted = scratch.store.all_attributes(source).unwrap();
        scratch.store.set_all_attributes(target, &wanted).unwrap();
        let found = scratch.store.all_attributes(target).unwrap();
        assert_eq!(sorted(found), sorted(wanted));
    }
}

#[test]
fn a_node_of_another_kind_or_a_value_that_cannot_be_is_refused() {
    let scratch = Scratch::new();
    let (file, directory) = (scratch.file("file", b""), scratch.directory(ROOT, "directory"));
    let give = |inode, attributes: &AllAttributes| scratch.store.set_all_attributes(inode, attributes);
    let plain = |size| attributes(size, 0o600, &[]);
    assert_eq!(give(file, &plain(None)), Err(E::INVAL.into()));
    assert_eq!(give(directory, &plain(Some(0))), Err(E::INVAL.into()));
    assert_eq!(give(InodeId(99), &plain(None)), Err(E::STALE.into()));
    assert_eq!(scratch.store.all_attributes(InodeId(99)), Err(E::STALE.into()));
    let no_mask = [(ACL_ACCESS, &acl(7, 4, 4)[..28])];
    give(file, &attributes(Some(0), 0o600, &no_mask)).unwrap_err();
    // The mode says that the group may write, the ACL's mask that it may not: no file is so.
    let two_minds = [(ACL_ACCESS, &acl(7, 4, 4)[..])];
    assert_eq!(
        give(file, &attributes(Some(0), 0o660, &two_minds)),
        Err(E::OPNOTSUPP.into())
    );
}
