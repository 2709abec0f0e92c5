//! What a primary makes of operations on both sides of the border, and across it.

use super::model::{EIO, ENOSPC, name, time};
use super::primary_rules::{GENERATION, Here, SESSION, applied, create, sync, welcome, write};
use crate::config::{EXTENT_BYTES_DEFAULT, OnPeerLoss};
use crate::dirty::Content;
use crate::exclude::{Exclusions, PerDirectory, Reach, Walk};
use crate::operation::{
    Create, Errno, FileHandle, InodeId, NodeKind, Operation, Outcome, Rename, RenameMode, Unlink, Victim,
};
use crate::session::names::Seen;
use crate::session::primary::{Action, Event, Piece, Slot};
use crate::wire::message::ToSecondary;

const ROOT: InodeId = InodeId(1);

fn excluded(patterns: &[&str]) -> PerDirectory {
    let patterns: Vec<String> = patterns.iter().map(|one| (*one).to_owned()).collect();
    [Exclusions::parse(&patterns).unwrap()].into_iter().collect()
}

fn in_sync(patterns: &[&str]) -> Here {
    let mut here = Here::excluding(OnPeerLoss::Ask, excluded(patterns));
    here.event(Event::Connected {
        session: SESSION,
        welcome: welcome(),
    });
    here
}

fn alone(patterns: &[&str]) -> Here {
    let mut here = Here::excluding(OnPeerLoss::Ask, excluded(patterns));
    here.event(Event::GoAlone).event(Event::Noted {
        generation: GENERATION,
    });
    here
}

/// Tells of a name that was there before.
fn there(here: &mut Here, inode: u64, parent: InodeId, text: &str, seen: Seen) {
    let ticket = here.primary.begin_lookup(parent);
    here.primary
        .looked_up(ticket, InodeId(inode), &name(text), seen)
        .unwrap();
}

fn file(here: &mut Here, inode: u64, text: &str) {
    there(here, inode, ROOT, text, Seen::default());
}

fn directory(here: &mut Here, inode: u64, text: &str) {
    let seen = Seen {
        is_directory: true,
        is_linked: false,
    };
    there(here, inode, ROOT, text, seen);
}

fn create_as(inode: u64, parent: InodeId, text: &str) -> Operation {
    let Operation::Create(made) = create(inode) else {
        unreachable!("it creates");
    };
    Operation::Create(Create {
        parent,
        name: name(text),
        ..made
    })
}

fn rename(moved: u64, from: &str, to: &str, replaced: Option<u64>) -> Rename {
    Rename {
        source_parent: ROOT,
        source_name: name(from),
        target_parent: ROOT,
        target_name: name(to),
        mode: RenameMode::Replace,
        moved: InodeId(moved),
        replaced: replaced.map(|inode| Victim {
            inode: InodeId(inode),
            last: true,
        }),
        time: time(7),
    }
}

fn link(inode: u64, to: &str) -> Operation {
    Operation::Link {
        inode: InodeId(inode),
        parent: ROOT,
        name: name(to),
        time: time(7),
    }
}

fn copy(source: u64, target: u64) -> Operation {
    Operation::CopyRange {
        source: InodeId(source),
        source_offset: 0,
        target: InodeId(target),
        target_offset: 0,
        length: 4,
        time: None,
        set_mode: None,
    }
}

fn exdev() -> Errno {
    Errno(rustix::io::Errno::XDEV.raw_os_error())
}

#[track_caller]
fn assert_here_only(here: &mut Here, ticket: u64, operation: Operation) {
    here.submit(ticket, operation);
    assert_eq!(here.sent(), []);
    assert_eq!(here.marks, 0, "it is marked");
    let applies = here.applies();
    let [slot] = applies[..] else {
        panic!("{:?}", here.actions);
    };
    let length = 0;
    here.done(slot, applied(length));
    assert!(here.replied(ticket).is_some_and(|result| result.is_ok()));
}

#[track_caller]
fn assert_refused(here: &mut Here, ticket: u64, operation: Operation) {
    here.submit(ticket, operation);
    assert_eq!(here.replied(ticket), Some(Err(exdev())));
    assert_eq!((here.sent(), here.applies()), (vec![], vec![]));
}

#[test]
fn what_is_excluded_is_applied_here_only_in_sync_and_alone() {
    for mut here in [in_sync(&["*.tmp", "cache/"]), alone(&["*.tmp", "cache/"])] {
        assert_here_only(&mut here, 1, create_as(2, ROOT, "a.tmp"));
        assert_here_only(&mut here, 2, sync(2));
        let Operation::Create(mut cache) = create_as(3, ROOT, "cache") else {
            unreachable!("it creates");
        };
        cache.kind = NodeKind::Directory;
        assert_here_only(&mut here, 3, Operation::Create(cache));
        // Everything below it, whatever its name.
        assert_here_only(&mut here, 4, create_as(4, InodeId(3), "x"));
        assert_here_only(&mut here, 5, link(2, "b.tmp"));
        assert_here_only(&mut here, 6, Operation::Rename(rename(2, "a.tmp", "c.tmp", None)));
        file(&mut here, 5, "old.tmp");
        let unlink = Unlink {
            parent: ROOT,
            name: name("old.tmp"),
            directory: false,
            victim: Victim {
                inode: InodeId(5),
                last: true,
            },
            time: time(7),
        };
        assert_here_only(&mut here, 7, Operation::Unlink(unlink));
        let slot = {
            here.submit(8, write(2));
            assert_eq!(here.sent(), []);
            here.applies()[0]
        };
        here.done(slot, applied(4));
        assert!(here.replied(8).is_some_and(|result| result.is_ok()));
    }
}

#[test]
fn a_file_by_the_name_of_a_directory_pattern_is_shipped() {
    let mut here = in_sync(&["cache/"]);
    here.submit(1, create_as(2, ROOT, "cache"));
    assert_eq!(here.sent().len(), 1);
}

#[test]
fn a_file_that_leaves_is_unlinked_there_and_is_this_nodes_alone_from_then_on() {
    let mut here = in_sync(&["*.tmp"]);
    here.made(2, 1);
    here.submit(1, Operation::Rename(rename(2, "f2", "a.tmp", None)));
    let expected = Operation::Unlink(Unlink {
        parent: ROOT,
        name: name("f2"),
        directory: false,
        victim: Victim {
            inode: InodeId(2),
            last: true,
        },
        time: time(7),
    });
    assert_eq!(here.sent(), [(2, expected.clone())]);
    // What is written meanwhile waits: it belongs to one side only once the name does.
    here.submit(2, write(2));
    assert_eq!((here.sent(), here.applies()), (vec![], vec![]));
    // Over a new connection the same is sent.
    here.event(Event::LinkLost).event(Event::Connected {
        session: SESSION,
        welcome: welcome(),
    });
    assert_eq!(here.sent(), [(2, expected)]);
    here.answer(2, applied(0));
    assert_eq!(here.applies(), [2]);
    here.done(2, applied(0));
    assert_eq!((here.sent(), here.applies()), (vec![], vec![3]));
    here.done(3, applied(4));
    assert!(here.replied(2).is_some_and(|result| result.is_ok()));
}

#[test]
fn a_file_that_leaves_while_alone_is_marked_as_removed() {
    let mut here = alone(&["*.tmp"]);
    file(&mut here, 2, "f2");
    here.submit(1, Operation::Rename(rename(2, "f2", "a.tmp", None)));
    let slot = here.applies()[0];
    here.done(slot, applied(0));
    let (plan, ..) = here.primary.copy_plan().unwrap();
    assert!(plan.names[&ROOT].contains(&name("f2")), "{plan:?}");
    assert!(!plan.names[&ROOT].contains(&name("a.tmp")), "{plan:?}");
    assert!(here.primary.is_gone(InodeId(2)));
}

#[test]
fn a_leaving_that_this_node_has_no_room_for_ends_the_session() {
    let mut here = in_sync(&["*.tmp"]);
    here.made(2, 1);
    here.submit(1, Operation::Rename(rename(2, "f2", "a.tmp", None)));
    here.answer(2, applied(0)).done(2, Outcome::Refused(ENOSPC));
    assert_eq!(here.lost(), Some("unrepaired"));
    here.event(Event::GoAlone).event(Event::Noted {
        generation: GENERATION,
    });
    assert_eq!(here.replied(1), Some(Err(ENOSPC)));
    // It is what it was: replicated.
    here.submit(2, write(2));
    let (plan, ..) = here.primary.copy_plan().unwrap();
    assert!(plan.names[&ROOT].contains(&name("f2")), "{plan:?}");
}

#[test]
fn what_has_two_sides_or_comes_from_where_the_secondary_has_nothing_is_refused() {
    let mut here = in_sync(&["*.tmp"]);
    here.made(2, 1);
    file(&mut here, 3, "a.tmp");
    directory(&mut here, 4, "d");
    directory(&mut here, 5, "e.tmp");
    let linked = Seen {
        is_directory: false,
        is_linked: true,
    };
    there(&mut here, 6, ROOT, "linked", linked);
    there(&mut here, 7, InodeId(5), "below", Seen::default());
    let from_below = Rename {
        source_parent: InodeId(5),
        ..rename(7, "below", "f7", None)
    };
    assert_refused(&mut here, 1, Operation::Rename(from_below));
    assert_refused(&mut here, 3, Operation::Rename(rename(4, "d", "d.tmp", None)));
    assert_refused(&mut here, 4, Operation::Rename(rename(5, "e.tmp", "e", None)));
    assert_refused(
        &mut here,
        5,
        Operation::Rename(rename(6, "linked", "l.tmp", None)),
    );
    assert_refused(&mut here, 6, link(2, "b.tmp"));
    assert_refused(&mut here, 7, link(3, "b"));
    assert_refused(&mut here, 8, copy(3, 2));
    let exchange = Rename {
        mode: RenameMode::Exchange,
        ..rename(2, "f2", "a.tmp", Some(3))
    };
    assert_refused(&mut here, 9, Operation::Rename(exchange));
    here.submit(10, copy(2, 3));
    assert_eq!((here.sent().len(), here.applies().len()), (0, 1));
}

#[test]
fn a_replicated_file_takes_the_place_of_an_excluded_one() {
    let mut here = in_sync(&["*.tmp"]);
    here.made(2, 1);
    file(&mut here, 3, "a.tmp");
    here.submit(1, Operation::Rename(rename(2, "f2", "a.tmp", Some(3))));
    assert!(matches!(&here.sent()[..], [(2, Operation::Unlink(unlink))] if unlink.name == name("f2")));
    here.answer(2, applied(0)).done(2, applied(0));
    assert!(here.replied(1).is_some_and(|result| result.is_ok()));
    here.submit(2, sync(3)).submit(3, sync(2));
    assert_eq!(here.sent(), []);
}

/// What the driver is asked to read of a file that comes in: the slot, and from where on.
fn asked(here: &Here) -> Vec<(u64, u64)> {
    let asked = |action: &Action| match action {
        Action::ReadIn { slot, from, .. } => Some((slot.0, *from)),
        _ => None,
    };
    here.actions.iter().filter_map(asked).collect()
}

fn piece(here: &mut Here, slot: u64, operations: Vec<Operation>, next: Option<u64>) {
    let piece = Piece {
        operations,
        next,
        handle: handle(),
    };
    here.event(Event::ReadIn {
        slot: Slot(slot),
        piece: Ok(piece),
    });
}

fn handle() -> FileHandle {
    FileHandle {
        kind: 1,
        bytes: [1, 2, 3].into(),
    }
}

/// `a.tmp`, which is about to be `f3`, was read and sent in one piece.
fn entering(here: &mut Here) {
    file(here, 3, "a.tmp");
    here.submit(1, Operation::Rename(rename(3, "a.tmp", "f3", None)));
    let [(slot, 0)] = asked(here)[..] else {
        panic!("{:?}", here.actions);
    };
    piece(here, slot, vec![create_as(3, ROOT, "a.tmp"), write(3)], None);
}

#[test]
fn a_file_that_comes_in_is_given_to_the_secondary_first() {
    let mut here = in_sync(&["*.tmp"]);
    file(&mut here, 3, "a.tmp");
    here.made(2, 1);
    let renamed = Operation::Rename(rename(3, "a.tmp", "f2", Some(2)));
    // What was written before is applied first.
    here.submit(8, write(3));
    let written = here.applies()[0];
    here.submit(1, renamed.clone());
    assert_eq!((here.sent(), asked(&here)), (vec![], vec![]));
    here.done(written, applied(4));
    let [(slot, 0)] = asked(&here)[..] else {
        panic!("{:?}", here.actions);
    };
    // What comes later waits, and other files do not.
    here.submit(2, write(3));
    assert_eq!((here.sent(), here.applies()), (vec![], vec![]));
    here.submit(3, write(2));
    assert_eq!(here.sent(), [(2, write(2))]);
    here.answer(2, applied(4)).done(written + 2, applied(4));
    piece(
        &mut here,
        slot,
        vec![create_as(3, ROOT, "a.tmp"), write(3)],
        Some(4),
    );
    assert_eq!(here.sent(), [(3, create_as(3, ROOT, "a.tmp")), (4, write(3))]);
    here.answer(3, applied(0));
    assert_eq!(asked(&here), []);
    here.answer(4, applied(4));
    assert_eq!(asked(&here), [(slot, 4)]);
    piece(&mut here, slot, vec![write(3)], None);
    assert_eq!(here.sent(), [(5, write(3))]);
    here.answer(5, applied(4));
    assert_eq!(here.sent(), [(6, write(3)), (7, renamed)]);
    here.answer(6, applied(4)).answer(7, applied(0));
    let applies = here.applies();
    assert_eq!(here.replied(1), None);
    for slot in applies {
        here.done(slot, applied(0));
    }
    // It is a file as any other.
    here.submit(4, write(3));
    assert_eq!(here.sent(), [(8, write(3))]);
}

#[test]
fn a_file_that_comes_in_is_sent_again_over_a_new_connection() {
    let mut here = in_sync(&["*.tmp"]);
    entering(&mut here);
    let sent = here.sent();
    assert_eq!(sent.len(), 2);
    here.event(Event::LinkLost).event(Event::Connected {
        session: SESSION,
        welcome: welcome(),
    });
    assert_eq!(here.sent(), sent);
}

#[test]
fn a_file_that_was_being_read_when_the_connection_broke_is_read_again() {
    let mut here = in_sync(&["*.tmp"]);
    file(&mut here, 3, "a.tmp");
    here.submit(1, Operation::Rename(rename(3, "a.tmp", "f3", None)));
    let (slot, _) = asked(&here)[0];
    here.event(Event::LinkLost);
    piece(&mut here, slot, vec![create_as(3, ROOT, "a.tmp")], None);
    assert_eq!(here.sent(), []);
    here.event(Event::Connected {
        session: SESSION,
        welcome: welcome(),
    });
    assert_eq!(asked(&here), [(slot, 0)]);
}

/// The peer lacks all of inode 3, which has the name `f3` here.
#[track_caller]
fn assert_lacks_all(here: &Here) {
    let (plan, ..) = here.primary.copy_plan().unwrap();
    assert!(plan.names[&ROOT].contains(&name("f3")), "{plan:?}");
    let marks = &plan.nodes[&InodeId(3)];
    let is_whole = match &marks.content {
        Content::Whole => true,
        Content::Extents(extents) => extents
            .byte_ranges(EXTENT_BYTES_DEFAULT, 1 << 40)
            .eq(std::iter::once(0..1 << 40)),
        Content::Fresh => false,
    };
    assert!(is_whole && marks.place.is_none(), "{marks:?}");
}

#[test]
fn a_file_that_comes_in_while_alone_is_marked_whole() {
    let mut here = alone(&["*.tmp"]);
    file(&mut here, 3, "a.tmp");
    here.submit(1, Operation::Rename(rename(3, "a.tmp", "f3", None)));
    assert_eq!((here.sent(), asked(&here)), (vec![], vec![]));
    assert_lacks_all(&here);
    assert_ne!(here.marks, 0);
    let slot = here.applies()[0];
    here.done(slot, applied(0));
    assert!(here.replied(1).is_some_and(|result| result.is_ok()));
}

#[test]
fn a_file_that_is_half_there_when_the_secondary_is_lost_comes_in_here_alone() {
    for answers in 0..3 {
        let mut here = in_sync(&["*.tmp"]);
        entering(&mut here);
        for number in 1..=answers {
            here.answer(number, applied(if number == 2 { 4 } else { 0 }));
        }
        here.event(Event::LinkLost)
            .event(Event::GoAlone)
            .event(Event::Noted {
                generation: GENERATION,
            });
        assert_lacks_all(&here);
        let slot = here.applies()[0];
        here.done(slot, applied(0));
        assert!(here.replied(1).is_some_and(|result| result.is_ok()));
        assert!(!here.primary.is_excluded_inode(InodeId(3)));
    }
}

#[test]
fn a_file_that_both_nodes_refuse_to_let_in_is_excluded_as_before() {
    let mut here = in_sync(&["*.tmp"]);
    entering(&mut here);
    here.answer(1, applied(0)).answer(2, applied(4));
    let [(number, Operation::Rename(_))] = here.sent()[..] else {
        panic!("{:?}", here.actions);
    };
    here.answer(number, Outcome::Refused(ENOSPC));
    let check = here.actions.iter().find_map(|action| match action {
        Action::CheckRefusal { slot, .. } => Some(*slot),
        _ => None,
    });
    here.event(Event::Checked {
        slot: check.unwrap(),
        refusal: Some(ENOSPC),
    });
    assert_eq!(here.replied(1), Some(Err(ENOSPC)));
    // The secondary knows it by its number no longer.
    let forgets =
        |action: &Action| matches!(action, Action::Send(ToSecondary::Forget(some)) if some == &[InodeId(3)]);
    assert!(here.actions.iter().any(forgets), "{:?}", here.actions);
    assert_here_only(&mut here, 2, sync(3));
    here.submit(3, Operation::Rename(rename(3, "a.tmp", "f3", None)));
    assert_eq!(asked(&here).len(), 1, "from the start");
}

#[test]
fn a_file_that_this_node_has_no_room_to_let_in_is_led_back_before_it_is_forgotten() {
    let mut here = in_sync(&["*.tmp"]);
    entering(&mut here);
    here.answer(1, applied(0)).answer(2, applied(4));
    here.answer(3, applied(0));
    let slot = here.applies()[0];
    here.done(slot, Outcome::Refused(ENOSPC));
    let undo = Rename {
        source_name: name("f3"),
        target_name: name("a.tmp"),
        mode: RenameMode::NoReplace,
        ..rename(3, "f3", "a.tmp", None)
    };
    here.event(Event::ReadBack {
        slot: Slot(slot),
        operations: Some(vec![Operation::Rename(undo)]),
    });
    let forgets = |here: &Here| {
        let forgets = |action: &Action| matches!(action, Action::Send(ToSecondary::Forget(_)));
        here.actions.iter().any(forgets)
    };
    assert_eq!(here.sent().len(), 1);
    assert!(!forgets(&here), "it is needed yet");
    here.answer(4, applied(0));
    assert!(forgets(&here));
    assert_eq!(here.replied(1), Some(Err(ENOSPC)));
    assert_here_only(&mut here, 2, sync(3));
}

#[test]
fn a_file_that_cannot_be_read_stays_outside() {
    let mut here = in_sync(&["*.tmp"]);
    file(&mut here, 3, "a.tmp");
    here.submit(1, Operation::Rename(rename(3, "a.tmp", "f3", None)));
    let (slot, _) = asked(&here)[0];
    here.event(Event::ReadIn {
        slot: Slot(slot),
        piece: Err(EIO),
    });
    assert_eq!(here.replied(1), Some(Err(EIO)));
    assert_here_only(&mut here, 2, sync(3));
}

#[test]
fn a_secondary_without_room_for_what_comes_in_is_lost() {
    let mut here = in_sync(&["*.tmp"]);
    entering(&mut here);
    here.answer(1, applied(0)).answer(2, Outcome::Refused(ENOSPC));
    assert_eq!(here.lost(), Some("no-space"));
}

fn surveys(here: &Here) -> Vec<Vec<Walk>> {
    let survey = |action: &Action| match action {
        Action::Survey { walks } => Some(walks.clone()),
        _ => None,
    };
    here.actions.iter().filter_map(survey).collect()
}

#[test]
fn a_directory_is_looked_through_while_no_name_changes() {
    let mut here = in_sync(&["**/tmp/*"]);
    directory(&mut here, 2, "d");
    directory(&mut here, 3, "tmp");
    here.submit(1, create_as(10, InodeId(2), "x"));
    here.submit(2, Operation::Rename(rename(2, "d", "e", None)));
    assert_eq!(
        surveys(&here),
        [] as [Vec<Walk>; 0],
        "a name operation is under way"
    );
    // Another one waits, and data does not.
    here.submit(3, create_as(11, ROOT, "y"));
    assert_eq!(here.sent(), []);
    here.answer(1, applied(0));
    here.answer(2, applied(0)).done(1, applied(0));
    let walk = Walk {
        directory: InodeId(2),
        root: 0,
        from: "d".into(),
        to: "e".into(),
        reach: Reach::Levels(1),
    };
    assert_eq!(surveys(&here), [[walk]]);
    here.event(Event::Surveyed { stays: true });
    let sent = here.sent();
    assert!(matches!(&sent[..], [(_, Operation::Rename(_))]), "{sent:?}");
    let (number, _) = sent[0];
    here.answer(number, applied(0));
    assert_eq!(here.sent(), [], "until it is applied");
    let slot = here.applies()[0];
    here.done(slot, applied(0));
    assert!(here.replied(2).is_some_and(|result| result.is_ok()));
    assert!(matches!(&here.sent()[..], [(_, Operation::Create(_))]));
}

#[test]
fn a_directory_whose_entries_would_change_sides_stays_where_it_is() {
    let mut here = in_sync(&["**/tmp/*"]);
    directory(&mut here, 2, "d");
    here.submit(1, Operation::Rename(rename(2, "d", "tmp", None)));
    assert_eq!(surveys(&here).len(), 1);
    here.submit(2, create_as(11, ROOT, "y"));
    assert_eq!(here.sent(), []);
    here.event(Event::Surveyed { stays: false });
    assert_eq!(here.replied(1), Some(Err(exdev())));
    assert!(
        matches!(&here.sent()[..], [(_, Operation::Create(_))]),
        "what waited goes on"
    );
}

#[test]
fn nothing_is_looked_through_where_only_own_names_count() {
    let mut here = in_sync(&["*.tmp", "cache/"]);
    directory(&mut here, 2, "d");
    here.submit(1, Operation::Rename(rename(2, "d", "e", None)));
    assert_eq!(surveys(&here), [] as [Vec<Walk>; 0]);
    assert!(
        here.sent()
            .iter()
            .any(|(_, sent)| matches!(sent, Operation::Rename(_)))
    );
}
