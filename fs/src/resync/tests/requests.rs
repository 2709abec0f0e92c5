//! One request and its answers.

use super::source::Copy;
use crate::backing::tests::scratch::*;
use crate::operation::*;
use crate::wire::bulk::*;
use bytes::Bytes;
use rustix::io::Errno as E;
use std::collections::BTreeSet;

fn ask(scratch: &Scratch, request: ToTarget) -> Vec<ToSource> {
    Copy::new(&scratch.store, &scratch.store).ask(request)
}

#[track_caller]
fn fails(scratch: &Scratch, request: ToTarget, expected: E, says: &str) {
    let answers = ask(scratch, request);
    let [ToSource::Failed { errno, reason }] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(*errno, expected.into(), "{reason}");
    assert!(reason.contains(says), "{reason}");
}

#[test]
fn a_long_listing_comes_in_parts_each_name_once() {
    let scratch = Scratch::new();
    scratch.store.abilities(0).unwrap();
    for count in [0, 1, NAMES_MAX, NAMES_MAX + 1, 3 * NAMES_MAX] {
        while std::fs::read_dir(scratch.path("")).unwrap().count() - 1 < count {
            let taken = std::fs::read_dir(scratch.path("")).unwrap().count() - 1;
            for n in taken..count {
                std::fs::write(scratch.path(&format!("file-{n}")), "").unwrap();
            }
        }
        let answers = ask(
            &scratch,
            ToTarget::List {
                directory: ROOT,
                path: Default::default(),
            },
        );
        assert_eq!(answers.len(), count.div_ceil(NAMES_MAX).max(1));
        let mut all = BTreeSet::new();
        for (index, answer) in answers.iter().enumerate() {
            let ToSource::Listed { names, more } = answer else {
                panic!("{answer:?}");
            };
            assert_eq!(*more, index + 1 < answers.len());
            for name in names {
                assert!(all.insert(name.clone()), "{name} twice");
            }
        }
        assert_eq!(all.len(), count);
        assert!(!all.contains(&name(".sidekick")));
    }
}

#[test]
fn every_failure_says_what_failed_on_what() {
    let scratch = Scratch::new();
    let file = scratch.file("file", b"x");
    let gone = InodeId(77);
    let open = Open {
        module: "shop".into(),
        node: "a".into(),
        session: crate::wire::message::SessionId([7; 16]),
    };
    fails(&scratch, ToTarget::Open(open), E::PROTO, "open");
    fails(
        &scratch,
        ToTarget::List {
            directory: gone,
            path: Default::default(),
        },
        E::STALE,
        "list i77",
    );
    fails(
        &scratch,
        ToTarget::List {
            directory: file,
            path: Default::default(),
        },
        E::NOTDIR,
        "list",
    );
    let entries = vec![Entry {
        name: name(".sidekick"),
        node: None,
    }];
    let place = ToTarget::Place {
        directory: ROOT,
        sole: false,
        path: Default::default(),
        entries,
    };
    fails(&scratch, place, E::PERM, "\".sidekick\" in i1");
    let block = Block {
        inode: gone,
        offset: 5,
        length: 1,
        sum: Sum([0; 16]),
    };
    // It may have been removed since it was asked about: nothing of it is here.
    let compare = ToTarget::Compare { blocks: vec![block] };
    assert_eq!(
        ask(&scratch, compare),
        [ToSource::Compared { equal: vec![false] }]
    );
    let data = ToTarget::Data {
        inode: gone,
        offset: 5,
        data: Bytes::from_static(b"xyz"),
    };
    fails(&scratch, data, E::STALE, "write 3 bytes at 5 to i77");
    let hole = ToTarget::Hole {
        inode: gone,
        offset: 5,
        length: 9,
    };
    fails(&scratch, hole, E::STALE, "hole of 9 bytes at 5 in i77");
    let attributes = Box::new(scratch.store.all_attributes(file).unwrap());
    let inode = gone;
    fails(
        &scratch,
        ToTarget::Attributes { inode, attributes },
        E::STALE,
        "i77 its attributes",
    );
}

#[test]
fn a_request_without_anything_in_it_is_answered() {
    let scratch = Scratch::new();
    let compared = ask(&scratch, ToTarget::Compare { blocks: vec![] });
    assert_eq!(compared, [ToSource::Compared { equal: vec![] }]);
    let placed = ask(
        &scratch,
        ToTarget::Place {
            directory: ROOT,
            sole: false,
            path: Default::default(),
            entries: vec![],
        },
    );
    assert_eq!(placed, [ToSource::Placed { outcomes: vec![] }]);
}
