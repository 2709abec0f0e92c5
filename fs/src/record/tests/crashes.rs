//! Scenario r: a crash at each step of the end of a copy, of a swap and of a clean stop, as the two records
//! show it.

use super::*;
use crate::record::decision::{Meeting, Older, Whole, meet};

const SHARED: Generation = Generation([1; 16]);
const ALONE: Generation = Generation([2; 16]);
const JOINED: Generation = Generation([3; 16]);
const LATER: Generation = Generation([4; 16]);

const CRASHED: Older = Older::PrimaryCrashed;

/// Both processes are new ones.
fn after_a_crash(primary: &Record, secondary: &Record) -> Meeting {
    meet(&primary.state(&present()), &secondary.state(&present()))
}

/// The primary's process lives, and with it the session and the map.
fn while_the_primary_lives(primary: &Record, secondary: &Record) -> Meeting {
    let lives = Present {
        remembers: true,
        map_is_complete: true,
        ..present()
    };
    meet(&primary.state(&lives), &secondary.state(&present()))
}

fn older(why: Older) -> Meeting {
    Meeting::PrimaryIsOlder { why }
}

fn whole(why: Whole) -> Meeting {
    Meeting::Whole { why }
}

/// A primary that is alone and a secondary that is being brought to its state.
fn copying(kind: CopyKind) -> (Record, Record) {
    let (mut primary, mut secondary) = (copy(1), copy(1));
    primary.open_session(SHARED, Role::Primary, HERE);
    secondary.open_session(SHARED, Role::Secondary, HERE);
    primary.part(ALONE, "lost".into(), HERE);
    primary.tracked = true;
    secondary.begin_copy(ALONE, kind, HERE);
    (primary, secondary)
}

#[test]
fn before_the_end_of_a_copy_it_begins_again() {
    let (primary, secondary) = copying(CopyKind::Tracked);
    assert_eq!(primary.bars_primary(), None);
    assert!(secondary.bars_primary().is_some());
    assert_eq!(while_the_primary_lives(&primary, &secondary), Meeting::Tracked);
    // The map was read from the disk.
    let loaded = Present {
        map_is_complete: true,
        ..present()
    };
    assert_eq!(
        meet(&primary.state(&loaded), &secondary.state(&present())),
        Meeting::Tracked
    );
    assert_eq!(after_a_crash(&primary, &secondary), whole(Whole::NotTracked));
    let (primary, secondary) = copying(CopyKind::Whole);
    assert_eq!(
        while_the_primary_lives(&primary, &secondary),
        whole(Whole::SecondaryMixed)
    );
}

#[test]
fn once_the_primary_has_noted_the_end_of_a_copy_it_is_still_the_only_source() {
    for kind in [CopyKind::Tracked, CopyKind::Whole] {
        let (mut primary, secondary) = copying(kind);
        primary.join(JOINED, Role::Primary, HERE);
        // It cannot know whether the secondary has noted it as well and gone on.
        assert!(primary.bars_primary().is_some() && secondary.bars_primary().is_some());
        assert_eq!(after_a_crash(&primary, &secondary), whole(Whole::SecondaryMixed));
        assert_eq!(
            after_a_crash(&secondary, &primary),
            older(Older::PrimaryUnfit(Standing::Inconsistent))
        );
        // The secondary crashed only.
        primary.part(LATER, "lost".into(), HERE);
        primary.tracked = true;
        assert_eq!(
            while_the_primary_lives(&primary, &secondary),
            whole(Whole::SecondaryMixed)
        );
    }
}

#[test]
fn once_both_have_noted_the_end_of_a_copy_they_are_as_after_any_session() {
    let (mut primary, mut secondary) = copying(CopyKind::Tracked);
    primary.join(JOINED, Role::Primary, HERE);
    secondary.join(JOINED, Role::Secondary, HERE);
    assert_eq!(after_a_crash(&primary, &secondary), whole(Whole::NotTracked));
    assert_eq!(after_a_crash(&secondary, &primary), older(CRASHED));
    // The primary's host died, the secondary's did not.
    assert_eq!(while_the_primary_lives(&secondary, &primary), Meeting::Tracked);
    // The primary goes on without having heard that the secondary has noted it.
    primary.part(LATER, "lost".into(), HERE);
    primary.tracked = true;
    assert_eq!(while_the_primary_lives(&primary, &secondary), Meeting::Tracked);
}

#[test]
fn in_a_swap_either_may_be_the_source_until_both_have_noted_it() {
    let (mut former, mut next) = (copy(1), copy(1));
    former.open_session(SHARED, Role::Primary, HERE);
    next.open_session(SHARED, Role::Secondary, HERE);
    assert_eq!(after_a_crash(&former, &next), whole(Whole::NotTracked));
    assert_eq!(after_a_crash(&next, &former), older(CRASHED));
    // The one that held the copy notes it first; nothing is under way.
    next.open_session(SHARED, Role::Primary, HERE);
    assert_eq!(after_a_crash(&former, &next), whole(Whole::NotTracked));
    assert_eq!(after_a_crash(&next, &former), whole(Whole::NotTracked));
    former.open_session(SHARED, Role::Secondary, HERE);
    assert_eq!(after_a_crash(&former, &next), older(CRASHED));
    assert_eq!(after_a_crash(&next, &former), whole(Whole::NotTracked));
}

#[test]
fn at_a_clean_stop_who_has_noted_it_is_the_source_until_both_have_and_one_may_begin_alone() {
    let (mut primary, mut secondary) = (copy(1), copy(1));
    primary.open_session(SHARED, Role::Primary, HERE);
    secondary.open_session(SHARED, Role::Secondary, HERE);
    primary.end(End::HandedOver);
    assert!(primary.bars_primary().is_some() && secondary.bars_primary().is_some());
    assert_eq!(after_a_crash(&primary, &secondary), whole(Whole::NotTracked));
    assert_eq!(after_a_crash(&secondary, &primary), older(CRASHED));
    secondary.end(End::Last);
    assert!(secondary.newest && !primary.newest);
    assert!(primary.handed_over() && primary.bars_primary().is_some());
    assert_eq!(secondary.bars_primary(), None);
    for (one, other) in [(&primary, &secondary), (&secondary, &primary)] {
        assert_eq!(after_a_crash(one, other), Meeting::Equal);
    }
}
