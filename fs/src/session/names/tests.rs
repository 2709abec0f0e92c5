use super::{Names, Raced, Seen};
use crate::operation::{
    Create, FileHandle, InodeId, Name, NodeKind, Operation, Rename, RenameMode, Timestamp, Touched, Unlink,
    Victim,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ROOT: InodeId = InodeId(1);
const TIME: Timestamp = Timestamp {
    seconds: 0,
    nanoseconds: 0,
};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn create(inode: u64, parent: InodeId, text: &str) -> Operation {
    Operation::Create(Create {
        parent,
        name: name(text),
        inode: InodeId(inode),
        kind: NodeKind::File,
        mode: 0o600,
        uid: 0,
        gid: 0,
        acls: vec![],
        time: TIME,
    })
}

fn unlink(inode: u64, parent: InodeId, text: &str, last: bool) -> Operation {
    Operation::Unlink(Unlink {
        parent,
        name: name(text),
        directory: false,
        victim: Victim {
            inode: InodeId(inode),
            last,
        },
        time: TIME,
    })
}

fn rename(inode: u64, from: (InodeId, &str), to: (InodeId, &str)) -> Operation {
    Operation::Rename(Rename {
        source_parent: from.0,
        source_name: name(from.1),
        target_parent: to.0,
        target_name: name(to.1),
        mode: RenameMode::Replace,
        moved: InodeId(inode),
        replaced: None,
        time: TIME,
    })
}

fn sync(inode: u64) -> Operation {
    Operation::Sync {
        inode: InodeId(inode),
        data_only: false,
    }
}

fn look_up(names: &mut Names, parent: InodeId, text: &str, inode: u64) {
    let ticket = names.begin_lookup(parent);
    names
        .looked_up(ticket, InodeId(inode), &name(text), Seen::default())
        .unwrap();
}

fn bound(names: &mut Names, operation: &Operation) -> Vec<(u64, u64, String)> {
    let mut binds = Vec::new();
    names.bind(operation, &mut binds).unwrap();
    let spelt = |bind: &Operation| match bind {
        Operation::Bind {
            inode, parent, name, ..
        } => (inode.0, parent.0, name.to_string()),
        other => panic!("{other:?} is no Bind"),
    };
    binds.iter().map(spelt).collect()
}

#[test]
fn parents_are_bound_before_what_is_in_them_and_each_once() {
    let mut names = Names::new(1);
    look_up(&mut names, ROOT, "a", 2);
    look_up(&mut names, InodeId(2), "b", 3);
    look_up(&mut names, InodeId(3), "c", 4);
    let expected = [(2, 1, "a"), (3, 2, "b"), (4, 3, "c")].map(|(i, p, n)| (i, p, n.to_owned()));
    assert_eq!(bound(&mut names, &sync(4)), expected);
    assert_eq!(bound(&mut names, &sync(4)), []);
    assert_eq!(bound(&mut names, &sync(3)), []);
}

#[test]
fn an_inode_without_a_known_name_cannot_be_bound_and_nothing_is_bound_for_it() {
    let mut names = Names::new(1);
    look_up(&mut names, ROOT, "a", 2);
    look_up(&mut names, ROOT, "b", 3);
    assert!(names.number(&unlink(3, ROOT, "b", false)).is_some());
    let both = Operation::CopyRange {
        source: InodeId(2),
        source_offset: 0,
        target: InodeId(3),
        target_offset: 0,
        length: 1,
        time: None,
        set_mode: None,
    };
    let mut binds = Vec::new();
    let unnamed = names.bind(&both, &mut binds).unwrap_err();
    assert_eq!((unnamed.inode, binds.len()), (InodeId(3), 0));
    assert!(!names.is_bound(InodeId(2)));
    assert!(names.bind(&sync(9), &mut binds).is_err());
}

#[test]
fn taking_a_name_away_binds_what_lives_on_but_not_what_dies() {
    let mut names = Names::new(1);
    look_up(&mut names, ROOT, "a", 2);
    look_up(&mut names, ROOT, "b", 3);
    assert_eq!(bound(&mut names, &unlink(2, ROOT, "a", true)), []);
    assert_eq!(
        bound(&mut names, &unlink(3, ROOT, "b", false)),
        [(3, 1, "b".to_owned())]
    );
}

#[test]
fn a_rename_is_undone_when_it_is_refused() {
    let mut names = Names::new(1);
    look_up(&mut names, ROOT, "d", 2);
    look_up(&mut names, ROOT, "a", 3);
    let change = names.number(&rename(3, (ROOT, "a"), (InodeId(2), "b"))).unwrap();
    names.refused(&change);
    assert_eq!(bound(&mut names, &sync(3)), [(3, 1, "a".to_owned())]);
}

#[test]
fn a_removed_inode_is_dying_until_applied_then_local_or_as_before_when_refused() {
    let mut names = Names::new(1);
    look_up(&mut names, ROOT, "a", 2);
    let change = names.number(&unlink(2, ROOT, "a", true)).unwrap();
    assert!(names.is_dying(InodeId(2)) && !names.is_local(InodeId(2)));
    names.refused(&change);
    assert!(!names.is_dying(InodeId(2)) && !names.is_local(InodeId(2)));
    let change = names.number(&unlink(2, ROOT, "a", true)).unwrap();
    names.applied(&change);
    assert!(!names.is_dying(InodeId(2)) && names.is_local(InodeId(2)));
}

#[test]
fn a_look_up_overlapped_by_a_name_operation_of_its_directory_is_raced() {
    let mut names = Names::new(1);
    look_up(&mut names, ROOT, "d", 2);
    let before = names.begin_lookup(ROOT);
    let elsewhere = names.begin_lookup(InodeId(2));
    let change = names.number(&create(3, ROOT, "x")).unwrap();
    let during = names.begin_lookup(ROOT);
    names.applied(&change);
    let after = names.begin_lookup(ROOT);
    assert_eq!(
        names.looked_up(before, InodeId(4), &name("y"), Seen::default()),
        Err(Raced)
    );
    assert_eq!(
        names.looked_up(during, InodeId(4), &name("y"), Seen::default()),
        Err(Raced)
    );
    assert_eq!(
        names.looked_up(elsewhere, InodeId(5), &name("z"), Seen::default()),
        Ok(())
    );
    assert_eq!(
        names.looked_up(after, InodeId(4), &name("y"), Seen::default()),
        Ok(())
    );
}

#[test]
fn a_look_up_overtaken_by_more_changes_than_are_remembered_is_raced() {
    let mut names = Names::new(1);
    look_up(&mut names, ROOT, "d", 2);
    let ticket = names.begin_lookup(ROOT);
    for inode in 0..=super::REMEMBERED_CHANGES as u64 {
        let change = names
            .number(&create(10 + inode, InodeId(2), &inode.to_string()))
            .unwrap();
        names.applied(&change);
    }
    assert_eq!(
        names.looked_up(ticket, InodeId(3), &name("y"), Seen::default()),
        Err(Raced)
    );
}

#[test]
fn a_forgotten_directory_stays_while_something_in_it_is_known_or_busy() {
    let mut names = Names::new(1);
    look_up(&mut names, ROOT, "d", 2);
    look_up(&mut names, InodeId(2), "f", 3);
    names.forget(&[InodeId(2)]);
    assert!(!names.has_dropped());
    names.hold(&Touched::of([InodeId(3)]));
    names.forget(&[InodeId(3)]);
    assert!(!names.has_dropped());
    names.release(&Touched::of([InodeId(3)]));
    assert_eq!(names.take_dropped(), [InodeId(3), InodeId(2)]);
    names.forget(&[ROOT]);
    assert_eq!(names.len(), 1);
}

#[test]
fn two_names_that_exchange_go_on_with_each_others_place() {
    let mut names = Names::new(1);
    look_up(&mut names, ROOT, "a", 2);
    look_up(&mut names, ROOT, "b", 3);
    let exchange = Operation::Rename(Rename {
        source_parent: ROOT,
        source_name: name("a"),
        target_parent: ROOT,
        target_name: name("b"),
        mode: RenameMode::Exchange,
        moved: InodeId(2),
        replaced: Some(Victim {
            inode: InodeId(3),
            last: false,
        }),
        time: TIME,
    });
    let change = names.number(&exchange).unwrap();
    names.applied(&change);
    assert_eq!(bound(&mut names, &sync(2)), [(2, 1, "b".to_owned())]);
    assert_eq!(bound(&mut names, &sync(3)), [(3, 1, "a".to_owned())]);
}

fn handle(inode: u64) -> FileHandle {
    FileHandle {
        kind: 1,
        bytes: inode.to_le_bytes().as_slice().into(),
    }
}

#[test]
fn the_secondarys_handle_is_kept_while_the_inode_is_bound_and_has_a_name() {
    let mut names = Names::new(1);
    look_up(&mut names, ROOT, "a", 2);
    for inode in [1, 2, 9] {
        names.learn_peer_handle(InodeId(inode), handle(inode));
        assert_eq!(names.peer_handle(InodeId(inode)), None, "{inode} was not shipped");
    }
    let known = |names: &mut Names| {
        bound(names, &sync(2));
        names.learn_peer_handle(InodeId(2), handle(2));
        assert_eq!(names.peer_handle(InodeId(2)), Some(&handle(2)));
    };
    known(&mut names);
    names.unbind(InodeId(2));
    assert_eq!(names.peer_handle(InodeId(2)), None);
    known(&mut names);
    let change = names.number(&unlink(2, ROOT, "a", true)).unwrap();
    assert!(names.peer_handle(InodeId(2)).is_some(), "it may be refused");
    names.refused(&change);
    assert!(names.peer_handle(InodeId(2)).is_some());
    let change = names.number(&unlink(2, ROOT, "a", true)).unwrap();
    names.applied(&change);
    assert_eq!(names.peer_handle(InodeId(2)), None);
    names.learn_peer_handle(InodeId(2), handle(2));
    assert_eq!(names.peer_handle(InodeId(2)), None, "a late answer");
}

#[test]
fn the_secondarys_handle_goes_with_the_inode_that_is_forgotten_or_refused() {
    let mut names = Names::new(1);
    let change = names.number(&create(2, ROOT, "a")).unwrap();
    names.learn_peer_handle(InodeId(2), handle(2));
    names.applied(&change);
    names.hold(&Touched::of([InodeId(2)]));
    names.forget(&[InodeId(2)]);
    assert!(
        names.peer_handle(InodeId(2)).is_some(),
        "an operation is under way"
    );
    names.release(&Touched::of([InodeId(2)]));
    assert_eq!(names.peer_handle(InodeId(2)), None);
    let change = names.number(&create(3, ROOT, "b")).unwrap();
    names.learn_peer_handle(InodeId(3), handle(3));
    names.hold(&Touched::of([InodeId(3)]));
    names.refused(&change);
    assert_eq!(names.peer_handle(InodeId(3)), None);
    assert!(names.peer_handles.is_empty());
}

#[test]
fn an_entry_takes_few_bytes() {
    // A million of them, each with its key in a table at most half empty, and 32 bytes for the name.
    let table = 2 * (1 << 20) * (size_of::<(InodeId, super::Entry)>() + 1);
    assert!(table + 32_000_000 < 120 << 20, "{table}");
}

proptest! {
    /// Creates, renames and removals in random order, each settled or refused at once, against a map of paths: what
    /// the table says an inode is called is what it is called.
    #[test]
    fn names_as_sent_follow_every_operation(
        steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()), 1..60)
    ) {
        let mut names = Names::new(1);
        let mut places: BTreeMap<u64, (u64, String)> = BTreeMap::new();
        let mut directories = BTreeSet::from([1u64]);
        for (step, (kind, one, other, refused)) in (10u64..).zip(steps) {
            let all: Vec<u64> = places.keys().copied().collect();
            let parents: Vec<u64> = directories.iter().copied().collect();
            let parent = *one.get(&parents);
            let text = step.to_string();
            let (operation, after) = match kind {
                0 | 1 => {
                    let operation = create(step, InodeId(parent), &text);
                    (operation, Some((step, Some((parent, text.clone())))))
                }
                _ if all.is_empty() => continue,
                2 => {
                    let moved = *other.get(&all);
                    if moved == parent || directories.contains(&moved) {
                        continue;
                    }
                    let (from, old) = places[&moved].clone();
                    let operation = rename(moved, (InodeId(from), &old), (InodeId(parent), &text));
                    (operation, Some((moved, Some((parent, text.clone())))))
                }
                _ => {
                    let victim = *other.get(&all);
                    if directories.contains(&victim) {
                        continue;
                    }
                    let (from, old) = places[&victim].clone();
                    (unlink(victim, InodeId(from), &old, true), Some((victim, None)))
                }
            };
            let change = names.number(&operation).unwrap();
            if let Operation::Create(create) = &operation {
                names.learn_peer_handle(create.inode, handle(create.inode.0));
            }
            if refused {
                names.refused(&change);
            } else {
                names.applied(&change);
                match after {
                    Some((inode, Some(place))) => {
                        if kind == 0 {
                            directories.insert(inode);
                        }
                        places.insert(inode, place);
                    }
                    Some((inode, None)) => {
                        places.remove(&inode);
                    }
                    None => {}
                }
            }
            for (inode, (parent, text)) in &places {
                prop_assert!(names.is_at(InodeId(*inode), (InodeId(*parent), &name(text))));
            }
            let below = |directory: &u64| places.values().filter(|(parent, _)| parent == directory).count();
            for directory in &directories {
                prop_assert_eq!(names.entries[&InodeId(*directory)].children as usize, below(directory));
            }
            prop_assert!(names.unsettled.is_empty());
            let with_handle: BTreeSet<u64> = names.peer_handles.keys().map(|inode| inode.0).collect();
            prop_assert_eq!(with_handle, places.keys().copied().collect());
        }
    }
}

#[test]
fn what_went_and_is_needed_again_before_anybody_was_told_is_not_forgotten() {
    let mut names = Names::new(1);
    let (directory, file) = (InodeId(10), InodeId(11));
    let ticket = names.begin_lookup(ROOT);
    names
        .looked_up(ticket, directory, &name("d"), Seen::default())
        .unwrap();
    let ticket = names.begin_lookup(directory);
    names
        .looked_up(ticket, file, &name("f"), Seen::default())
        .unwrap();
    names.forget(&[directory]);
    assert!(!names.has_dropped());
    // The file has a name elsewhere as well, so nothing needs the directory any more.
    let ticket = names.begin_lookup(ROOT);
    names
        .looked_up(ticket, file, &name("g"), Seen::default())
        .unwrap();
    assert!(names.has_dropped());
    let ticket = names.begin_lookup(ROOT);
    names
        .looked_up(ticket, directory, &name("d"), Seen::default())
        .unwrap();
    assert_eq!(names.take_dropped(), []);
}
