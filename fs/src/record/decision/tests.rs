//! Every row of the table, and the scenarios that it was made for.

use super::*;
use crate::record::HISTORY_MAX;

mod any_pair;

const A: Generation = Generation([0xa; 16]);
const B: Generation = Generation([0xb; 16]);
const C: Generation = Generation([0xc; 16]);
const OTHER: Generation = Generation([0xf; 16]);

/// A copy that ended cleanly on `A`, and was secondary.
fn clean() -> CopyState {
    CopyState {
        generation: Some(A),
        base: None,
        standing: Standing::UpToDate,
        copy: None,
        open: false,
        wrote_alone: false,
        tracked: false,
        checkpoint: 7,
        peer_checkpoint: 7,
        last_role: Role::Secondary,
        rebooted: false,
        remembers: false,
        durability: Durability::Disk,
        history: History::default(),
        empty: false,
        foreign: false,
        changed: Change::NOTHING,
    }
}

/// A copy that went on alone as `line` from `A`, with a whole map.
fn alone(line: Generation) -> CopyState {
    CopyState {
        generation: Some(line),
        base: Some(A),
        wrote_alone: true,
        tracked: true,
        open: true,
        last_role: Role::Primary,
        history: history(&[A]),
        ..clean()
    }
}

/// A copy that crashed in a session on `A`.
fn crashed(last_role: Role) -> CopyState {
    CopyState {
        open: true,
        last_role,
        ..clean()
    }
}

/// A copy that is brought from `A` to what is alone on `B`.
fn mixed(copy: CopyKind) -> CopyState {
    CopyState {
        generation: Some(B),
        base: (copy == CopyKind::Tracked).then_some(A),
        standing: Standing::Inconsistent,
        copy: Some(copy),
        open: true,
        history: history(&[A]),
        ..clean()
    }
}

fn unused() -> CopyState {
    CopyState {
        generation: None,
        checkpoint: 0,
        peer_checkpoint: 0,
        last_role: Role::None,
        rebooted: true,
        ..clean()
    }
}

fn history(lines: &[Generation]) -> History {
    History::try_from(lines.to_vec()).unwrap()
}

fn whole(why: Whole) -> Meeting {
    Meeting::Whole { why }
}

fn older(why: Older) -> Meeting {
    Meeting::PrimaryIsOlder { why }
}

fn refused(why: Refused) -> Meeting {
    Meeting::Refused { why }
}

fn split(base: Generation, tracked: bool) -> Meeting {
    Meeting::SplitBrain {
        base: Some(base),
        tracked,
    }
}

#[test]
fn rows_1_and_2_what_is_not_up_to_date_is_no_source() {
    for standing in [Standing::Outdated, Standing::Inconsistent, Standing::Verify] {
        let unfit = CopyState { standing, ..clean() };
        assert_eq!(meet(&unfit, &clean()), older(Older::PrimaryUnfit(standing)));
        assert_eq!(meet(&unfit, &alone(B)), older(Older::PrimaryUnfit(standing)));
        let no = refused(Refused::PrimaryUnfit(standing));
        let empty = CopyState {
            empty: true,
            ..clean()
        };
        let foreign = CopyState {
            foreign: true,
            ..clean()
        };
        let old = CopyState {
            checkpoint: 6,
            ..clean()
        };
        for secondary in [&unfit, &unused(), &empty, &foreign, &old] {
            assert_eq!(meet(&unfit, secondary), no, "{secondary:?}");
        }
        // It has writes of its own: the other is not simply newer.
        let unfit_alone = CopyState { standing, ..alone(B) };
        for secondary in [clean(), alone(C)] {
            assert_eq!(meet(&unfit_alone, &secondary), no);
        }
    }
}

#[test]
fn rows_3_and_4_an_empty_primary_empties_nobody() {
    let empty = |copy: CopyState| CopyState { empty: true, ..copy };
    assert_eq!(meet(&empty(unused()), &empty(unused())), Meeting::Equal);
    assert_eq!(meet(&empty(alone(B)), &empty(clean())), Meeting::Equal);
    for secondary in [
        unused(),
        clean(),
        alone(B),
        empty(alone(B)),
        mixed(CopyKind::Whole),
    ] {
        for primary in [unused(), clean(), alone(C)] {
            let meeting = meet(&empty(primary), &secondary);
            assert_eq!(meeting, refused(Refused::PrimaryEmpty), "{secondary:?}");
        }
    }
}

#[test]
fn rows_5_to_7_writes_of_its_own_are_never_overwritten_unasked() {
    let strange = CopyState {
        generation: Some(OTHER),
        base: None,
        history: history(&[]),
        ..alone(OTHER)
    };
    assert_eq!(meet(&clean(), &strange), refused(Refused::Unrelated));
    assert_eq!(meet(&alone(B), &strange), refused(Refused::Unrelated));
    assert_eq!(meet(&unused(), &alone(B)), refused(Refused::Unrelated));
    let nameless = CopyState {
        generation: None,
        ..alone(B)
    };
    assert_eq!(meet(&clean(), &nameless), refused(Refused::Unrelated));

    for primary in [clean(), crashed(Role::Primary)] {
        let meeting = meet(&primary, &alone(B));
        assert_eq!(meeting, older(Older::SecondaryWroteAlone), "{primary:?}");
    }
    // The same, longer ago.
    let later = CopyState {
        base: Some(B),
        history: history(&[A, B]),
        ..alone(C)
    };
    assert_eq!(meet(&clean(), &later), older(Older::SecondaryWroteAlone));

    assert_eq!(meet(&alone(B), &alone(C)), split(A, true));
    let gap = CopyState {
        tracked: false,
        ..alone(C)
    };
    assert_eq!(meet(&alone(B), &gap), split(A, false));
    assert_eq!(meet(&gap, &alone(B)), split(A, false));
    // It was left behind, and forced all the same: no base.
    let forced = CopyState {
        base: None,
        ..alone(C)
    };
    assert_eq!(meet(&alone(B), &forced), split(A, false));
    let restored = CopyState {
        checkpoint: 6,
        ..alone(C)
    };
    assert_eq!(meet(&alone(B), &restored), split(A, false));
    // Emptied, mixed or to be verified since: it has written.
    for secondary in [
        CopyState {
            empty: true,
            ..alone(C)
        },
        CopyState {
            standing: Standing::Verify,
            ..alone(C)
        },
    ] {
        assert!(matches!(meet(&alone(B), &secondary), Meeting::SplitBrain { .. }));
    }
    assert_eq!(meet(&alone(B), &alone(B)), split(B, false), "a clone");
}

#[test]
fn rows_8_and_9_an_empty_secondary_is_filled_and_a_foreign_one_is_left() {
    let empty = |copy: CopyState| CopyState { empty: true, ..copy };
    for secondary in [
        unused(),
        clean(),
        mixed(CopyKind::Tracked),
        crashed(Role::Primary),
    ] {
        for primary in [unused(), clean(), alone(B), crashed(Role::Primary)] {
            let meeting = meet(&primary, &empty(secondary.clone()));
            assert_eq!(meeting, whole(Whole::SecondaryEmpty));
        }
    }
    for secondary in [unused(), clean(), mixed(CopyKind::Tracked)] {
        let foreign = CopyState {
            foreign: true,
            ..secondary
        };
        assert_eq!(meet(&alone(B), &foreign), refused(Refused::Foreign));
    }
}

#[test]
fn row_10_a_primary_that_was_restored_from_a_backup_is_no_source() {
    let restored = CopyState {
        checkpoint: 6,
        ..alone(B)
    };
    assert_eq!(meet(&restored, &clean()), older(Older::PrimaryRestored));
    let restored = CopyState {
        checkpoint: 6,
        ..crashed(Role::Primary)
    };
    assert_eq!(
        meet(&restored, &crashed(Role::Secondary)),
        older(Older::PrimaryRestored)
    );
}

#[test]
fn rows_11_and_12_an_interrupted_copy_begins_again() {
    assert_eq!(meet(&alone(B), &mixed(CopyKind::Tracked)), Meeting::Tracked);
    let mixed_whole = whole(Whole::SecondaryMixed);
    assert_eq!(meet(&alone(B), &mixed(CopyKind::Whole)), mixed_whole);
    // Begun by another line, or from another state.
    assert_eq!(meet(&alone(C), &mixed(CopyKind::Tracked)), mixed_whole);
    let from_elsewhere = CopyState {
        base: Some(OTHER),
        ..mixed(CopyKind::Tracked)
    };
    assert_eq!(meet(&alone(B), &from_elsewhere), mixed_whole);
    assert_eq!(meet(&unused(), &mixed(CopyKind::Tracked)), mixed_whole);
    assert_eq!(meet(&clean(), &mixed(CopyKind::Tracked)), mixed_whole);
    let gap = CopyState {
        tracked: false,
        ..alone(B)
    };
    assert_eq!(meet(&gap, &mixed(CopyKind::Tracked)), whole(Whole::NotTracked));
    let restored = CopyState {
        checkpoint: 6,
        ..mixed(CopyKind::Tracked)
    };
    assert_eq!(meet(&alone(B), &restored), whole(Whole::SecondaryRestored));
}

#[test]
fn rows_13_to_15_what_does_not_descend_from_the_primary_is_refused() {
    assert_eq!(meet(&clean(), &unused()), refused(Refused::NoRecord));
    assert_eq!(meet(&unused(), &unused()), refused(Refused::NoRecord));
    assert_eq!(meet(&unused(), &clean()), refused(Refused::Unrelated));
    let strange = CopyState {
        generation: Some(OTHER),
        ..clean()
    };
    assert_eq!(meet(&clean(), &strange), refused(Refused::Unrelated));
    let branch = CopyState {
        generation: Some(C),
        history: history(&[A]),
        ..clean()
    };
    assert_eq!(meet(&alone(B), &branch), refused(Refused::Unrelated));
    let ahead = CopyState {
        generation: Some(B),
        history: history(&[A]),
        ..clean()
    };
    for primary in [clean(), crashed(Role::Primary)] {
        assert_eq!(meet(&primary, &ahead), older(Older::SecondaryLater));
    }
}

#[test]
fn rows_16_to_18_a_secondary_that_is_unsure_or_too_old_is_compared_whole() {
    let unsure = CopyState {
        standing: Standing::Verify,
        ..clean()
    };
    for primary in [clean(), alone(B), crashed(Role::Primary)] {
        assert_eq!(meet(&primary, &unsure), whole(Whole::SecondaryUnsure));
    }
    let restored = CopyState {
        checkpoint: 6,
        ..clean()
    };
    for primary in [clean(), alone(B), crashed(Role::Primary)] {
        assert_eq!(meet(&primary, &restored), whole(Whole::SecondaryRestored));
    }
    let moved_on = CopyState {
        base: Some(B),
        history: history(&[A, B]),
        ..alone(C)
    };
    assert_eq!(meet(&moved_on, &clean()), whole(Whole::SecondaryRestored));
}

#[test]
fn rows_19_and_20_who_was_left_behind_gets_what_the_map_names() {
    let gap = CopyState {
        tracked: false,
        ..alone(B)
    };
    let outdated = CopyState {
        standing: Standing::Outdated,
        ..crashed(Role::Secondary)
    };
    let rebooted = CopyState {
        rebooted: true,
        durability: Durability::Memory,
        ..crashed(Role::Primary)
    };
    for secondary in [clean(), crashed(Role::Secondary), outdated, rebooted] {
        assert_eq!(meet(&alone(B), &secondary), Meeting::Tracked, "{secondary:?}");
        assert_eq!(meet(&gap, &secondary), whole(Whole::NotTracked));
    }
}

#[test]
fn rows_21_to_24_one_generation_is_equal_only_after_clean_ends_and_at_one_checkpoint() {
    let clone = CopyState {
        generation: Some(B),
        ..clean()
    };
    assert_eq!(meet(&alone(B), &clone), whole(Whole::SecondaryCloned));
    assert_eq!(meet(&clean(), &clean()), Meeting::Equal);
    let rebooted = CopyState {
        rebooted: true,
        durability: Durability::Memory,
        ..clean()
    };
    assert_eq!(meet(&clean(), &rebooted), Meeting::Equal);
    // Neither remembers the other's count.
    let at = |checkpoint| CopyState {
        checkpoint,
        peer_checkpoint: 0,
        ..clean()
    };
    assert_eq!(meet(&at(6), &at(7)), older(Older::PrimaryRestored));
    assert_eq!(meet(&at(7), &at(6)), whole(Whole::SecondaryRestored));
}

#[test]
fn rows_25_to_27_after_a_crash_the_source_is_who_lost_nothing() {
    let remembers = |copy: CopyState| CopyState {
        remembers: true,
        tracked: true,
        ..copy
    };
    let ended = |copy: CopyState| CopyState { open: false, ..copy };
    let rebooted = |copy: CopyState| CopyState {
        rebooted: true,
        ..copy
    };
    let (first, second) = (crashed(Role::Primary), crashed(Role::Secondary));
    let not = older(Older::PrimaryCrashed);
    let untracked = whole(Whole::NotTracked);
    // One remembers.
    assert_eq!(meet(&remembers(first.clone()), &second), Meeting::Tracked);
    assert_eq!(meet(&remembers(second.clone()), &first), Meeting::Tracked);
    assert_eq!(meet(&first, &remembers(second.clone())), not);
    assert_eq!(meet(&ended(first.clone()), &remembers(second.clone())), not);
    // Both do: the last primary.
    assert_eq!(
        meet(&remembers(first.clone()), &remembers(second.clone())),
        Meeting::Tracked
    );
    assert_eq!(meet(&remembers(second.clone()), &remembers(first.clone())), not);
    // One ended cleanly.
    let mapped = CopyState {
        tracked: true,
        ..ended(second.clone())
    };
    assert_eq!(meet(&mapped, &first), Meeting::Tracked);
    assert_eq!(meet(&ended(second.clone()), &first), untracked);
    assert_eq!(meet(&first, &ended(second.clone())), not);
    // One machine went on.
    assert_eq!(meet(&second, &rebooted(first.clone())), untracked);
    assert_eq!(meet(&rebooted(first.clone()), &second), not);
    // Nothing tells them apart but the role.
    assert_eq!(meet(&first, &second), untracked);
    assert_eq!(meet(&second, &first), not);
    assert_eq!(meet(&second, &second), untracked);
    assert_eq!(meet(&first, &first), untracked);
    // A map of a session that is not in memory any more is worth nothing.
    let claims = CopyState {
        tracked: true,
        ..first.clone()
    };
    assert_eq!(meet(&claims, &second), untracked);
    // Told of a parting that never came to be.
    let told = CopyState {
        standing: Standing::Outdated,
        ..ended(second.clone())
    };
    assert_eq!(meet(&clean(), &told), untracked);
}

#[test]
fn e_of_two_on_one_generation_the_one_that_has_not_crashed_is_the_source() {
    let whole_copy = whole(Whole::NotTracked);
    assert_eq!(meet(&clean(), &crashed(Role::Primary)), whole_copy);
    assert_eq!(
        meet(&crashed(Role::Primary), &clean()),
        older(Older::PrimaryCrashed)
    );
}

#[test]
fn l_a_snapshot_of_a_machine_of_an_earlier_clean_end_is_not_taken_for_equal() {
    let snapshot = CopyState {
        checkpoint: 3,
        peer_checkpoint: 3,
        ..clean()
    };
    assert_eq!(meet(&clean(), &snapshot), whole(Whole::SecondaryRestored));
    assert_eq!(meet(&snapshot, &clean()), older(Older::PrimaryRestored));
}

#[test]
fn q_after_both_machines_restarted_the_side_that_ended_cleanly_is_the_source() {
    let ended = CopyState {
        rebooted: true,
        ..clean()
    };
    let not_ended = CopyState {
        rebooted: true,
        ..crashed(Role::Primary)
    };
    assert_eq!(meet(&ended, &not_ended), whole(Whole::NotTracked));
    assert_eq!(meet(&not_ended, &ended), older(Older::PrimaryCrashed));
}

#[test]
fn a_secondary_that_restarted_and_syncs_in_memory_yields_to_the_last_primary() {
    let forgetful = CopyState {
        durability: Durability::Memory,
        rebooted: true,
        ..crashed(Role::Secondary)
    };
    let last = CopyState {
        rebooted: true,
        ..crashed(Role::Primary)
    };
    assert_eq!(meet(&last, &forgetful), whole(Whole::NotTracked));
    assert_eq!(meet(&forgetful, &last), older(Older::PrimaryCrashed));
}

#[test]
fn an_order_to_overwrite_makes_a_whole_copy_of_all_but_what_has_no_source() {
    let ordered = whole(Whole::Ordered);
    for meeting in [
        split(A, true),
        older(Older::SecondaryLater),
        refused(Refused::PrimaryEmpty),
        refused(Refused::Foreign),
    ] {
        assert_eq!(meeting.overwriting(), ordered);
    }
    for meeting in [
        Meeting::Equal,
        Meeting::Tracked,
        whole(Whole::SecondaryEmpty),
        older(Older::PrimaryUnfit(Standing::Verify)),
        refused(Refused::PrimaryUnfit(Standing::Verify)),
    ] {
        assert_eq!(meeting.overwriting(), meeting);
    }
}

#[test]
fn a_state_with_a_longer_history_than_allowed_is_not_decoded() {
    let state = CopyState {
        history: (0..40).fold(History::default(), |mut history, line| {
            history.push(Generation([line; 16]));
            history
        }),
        ..clean()
    };
    assert_eq!(state.history.iter().count(), HISTORY_MAX);
    assert_eq!(state.history.iter().next(), Some(Generation([39; 16])));
    let bytes = postcard::to_stdvec(&state).unwrap();
    assert_eq!(postcard::from_bytes::<CopyState>(&bytes).unwrap(), state);
    let long = postcard::to_stdvec(&vec![A; HISTORY_MAX + 1]).unwrap();
    assert!(postcard::from_bytes::<History>(&long).is_err());
}
