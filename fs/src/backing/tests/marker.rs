//! The marker of a replicated directory.

use super::super::Volume;
use super::scratch::*;
use crate::operation::*;
use rustix::io::Errno as E;

#[test]
fn a_directory_is_marked_and_only_its_owner_sees_it() {
    let scratch = Scratch::with_roots(2);
    let store = &scratch.store;
    assert_eq!(store.marker(1).unwrap(), None);
    for module in ["shop", "db"] {
        store.set_marker(1, module).unwrap();
        assert_eq!(store.marker(1).unwrap().as_deref(), Some(module));
    }
    assert_eq!(store.marker(0).unwrap(), None);
    assert!(store.marker(2).is_err() && store.set_marker(2, "db").is_err());

    let root = InodeId::root(1);
    let marker = xattr_name("trusted.sidekick.module");
    assert_eq!(store.xattr(root, &marker), Err(E::NODATA.into()));
    assert!(store.xattr_names(root).unwrap().is_empty());
    assert!(store.all_attributes(root).unwrap().xattrs.is_empty());
    scratch.refused(&set(root, "trusted.sidekick.module"), E::PERM);
    let remove = Operation::RemoveXattr {
        inode: root,
        name: marker.clone(),
    };
    scratch.refused(&remove, E::PERM);
    // Elsewhere it is a name like any other.
    let file = scratch.file("file", b"");
    scratch.applied(&set(file, "trusted.sidekick.module"));
    assert_eq!(store.xattr_names(file).unwrap(), b"trusted.sidekick.module\0");
    assert_eq!(store.all_attributes(file).unwrap().xattrs.len(), 1);
}

#[test]
fn giving_a_directory_its_attributes_leaves_its_marker() {
    let scratch = Scratch::new();
    scratch.store.set_marker(0, "shop").unwrap();
    scratch.applied(&set(ROOT, "user.extra"));
    let mut wanted = scratch.store.all_attributes(ROOT).unwrap();
    assert_eq!(wanted.xattrs.len(), 1);
    wanted.xattrs.clear();
    scratch.store.set_all_attributes(ROOT, &wanted).unwrap();
    assert_eq!(scratch.store.marker(0).unwrap().as_deref(), Some("shop"));
    assert_eq!(scratch.store.all_attributes(ROOT).unwrap(), wanted);
}

#[test]
fn the_copy_of_the_record_is_on_the_directory_itself_and_nobody_sees_or_changes_it() {
    let scratch = Scratch::new();
    let volume = Volume::open(open_root(scratch.dirs[0].path())).unwrap();
    assert_eq!(volume.record().unwrap(), None);
    for bytes in [&[7_u8; 512], &[8; 512]] {
        volume.set_record(bytes).unwrap();
        assert_eq!(volume.record().unwrap().as_deref(), Some(&bytes[..]));
    }
    let (store, text) = (&scratch.store, "trusted.sidekick.record");
    let name = xattr_name(text);
    let names = rustix::fs::getxattr(scratch.dirs[0].path(), text, &mut [0; 512]);
    assert_eq!(names, Ok(512));
    assert_eq!(store.xattr(ROOT, &name), Err(E::NODATA.into()));
    assert!(store.xattr_names(ROOT).unwrap().is_empty());
    assert!(store.all_attributes(ROOT).unwrap().xattrs.is_empty());
    scratch.refused(&set(ROOT, text), E::PERM);
    let remove = Operation::RemoveXattr { inode: ROOT, name };
    scratch.refused(&remove, E::PERM);
    // A copy that gives the directory its attributes leaves it.
    let wanted = store.all_attributes(ROOT).unwrap();
    store.set_all_attributes(ROOT, &wanted).unwrap();
    assert_eq!(volume.record().unwrap().as_deref(), Some(&[8; 512][..]));
}

fn set(inode: InodeId, text: &str) -> Operation {
    Operation::SetXattr {
        inode,
        name: xattr_name(text),
        value: bytes::Bytes::from_static(b"x"),
        mode: XattrMode::Set,
        set_mode: None,
    }
}
