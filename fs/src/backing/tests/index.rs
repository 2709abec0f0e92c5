//! Which number an inode has.

use super::scratch::*;
use crate::operation::*;
use std::collections::BTreeSet;

fn handle(number: u64) -> FileHandle {
    FileHandle {
        kind: 1,
        bytes: number.to_le_bytes().as_slice().into(),
    }
}

#[test]
fn the_index_follows_what_is_learnt_and_forgotten() {
    let scratch = Scratch::with_roots(2);
    let store = &scratch.store;
    store.learn(InodeId(10), 0, handle(1));
    // Asked without having been begun, it is built.
    assert_eq!(store.find_inode(0, &handle(1)), Some(InodeId(10)));
    store.learn(InodeId(11), 1, handle(1));
    assert_eq!(
        store.find_inode(1, &handle(1)),
        Some(InodeId(11)),
        "another directory"
    );
    assert_eq!(store.find_inode(2, &handle(1)), None);
    let root = store.handle(InodeId(2)).unwrap();
    assert_eq!(store.find_inode(1, &root), Some(InodeId(2)));

    store.learn(InodeId(10), 0, handle(2));
    assert_eq!(store.find_inode(0, &handle(1)), None, "it is another now");
    assert_eq!(store.find_inode(0, &handle(2)), Some(InodeId(10)));
    store.learn(InodeId(12), 0, handle(2));
    store.forget(&[InodeId(10)]);
    assert_eq!(
        store.find_inode(0, &handle(2)),
        Some(InodeId(12)),
        "the last that was learnt"
    );
    store.forget(&[InodeId(12)]);
    assert_eq!(store.find_inode(0, &handle(2)), None);

    store.end_index();
    store.forget(&[InodeId(11)]);
    store.begin_index();
    store.begin_index();
    assert_eq!(store.find_inode(1, &handle(1)), None);
}

#[test]
fn several_who_adopt_the_same_inodes_agree_and_can_use_them_at_once() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    let files: Vec<_> = (0..500).map(|n| scratch.file(&format!("f{n}"), b"x")).collect();
    let handles: Vec<_> = files.iter().map(|file| store.handle(*file).unwrap()).collect();
    store.forget_all();
    let adopt_all = || {
        let adopted = handles.iter().map(|handle| {
            let (inode, new) = store.adopt(0, handle);
            assert_eq!(store.status(inode).unwrap().st_size, 1);
            (inode, new)
        });
        adopted.collect::<Vec<_>>()
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(adopt_all)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let numbers = |result: &[(InodeId, bool)]| result.iter().map(|(inode, _)| *inode).collect::<Vec<_>>();
    for result in &results {
        assert_eq!(numbers(result), numbers(&results[0]));
    }
    assert_eq!(
        numbers(&results[0]).into_iter().collect::<BTreeSet<_>>().len(),
        500
    );
    let new = results.iter().flatten().filter(|(_, new)| *new).count();
    assert_eq!(new, 500, "new to one of them each");
    assert_eq!(store.adopt(0, &store.handle(ROOT).unwrap()), (ROOT, false));
    let (stray, new) = store.adopt(7, &handles[0]);
    assert!(new && !store.knows(stray), "there is no such directory");
}

#[test]
fn a_new_session_starts_with_the_roots_alone_and_may_use_the_numbers_again() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    let (one, other) = (scratch.file("one", b"one"), scratch.file("other", b"other"));
    store.hold(one).unwrap();
    let other_handle = store.handle(other).unwrap();
    store.forget_all();
    assert!(!store.knows(one) && !store.knows(other) && store.knows(ROOT));
    // Both were written and not synced: the number must not find the old descriptor.
    store.learn(one, 0, other_handle.clone());
    scratch.applied(&write(one, 0, b"OTHER"));
    assert_eq!(std::fs::read(scratch.path("one")).unwrap(), b"one");
    assert_eq!(std::fs::read(scratch.path("other")).unwrap(), b"OTHER");
    assert_eq!(store.durable.written.count(), 3);
    store.checkpoint().unwrap();
    assert_eq!(store.durable.written.count(), 0);
    assert_eq!(store.find_inode(0, &other_handle), Some(one));
    scratch.file("three", b"three");
}
