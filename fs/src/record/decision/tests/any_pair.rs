//! What must hold for any pair of states, also for those that no node would tell.

use super::*;
use proptest::prelude::*;

fn line() -> impl Strategy<Value = Option<Generation>> {
    prop_oneof![
        1 => Just(None),
        8 => (0_u8..4).prop_map(|line| Some(Generation([line; 16]))),
    ]
}

fn any_state() -> impl Strategy<Value = CopyState> {
    let standing = prop_oneof![
        4 => Just(Standing::UpToDate),
        1 => Just(Standing::Outdated),
        2 => Just(Standing::Inconsistent),
        1 => Just(Standing::Verify),
    ];
    let role = prop_oneof![Just(Role::None), Just(Role::Primary), Just(Role::Secondary)];
    let copy = prop_oneof![
        Just(None),
        Just(Some(CopyKind::Whole)),
        Just(Some(CopyKind::Tracked))
    ];
    let lines = (
        line(),
        line(),
        proptest::collection::vec((0_u8..4).prop_map(|line| Generation([line; 16])), 0..3),
    );
    let flags = (
        any::<[bool; 5]>(),
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.1),
    );
    let durability = prop_oneof![Just(Durability::Disk), Just(Durability::Memory)];
    let counts = (0_u64..3, 0_u64..3);
    (lines, standing, copy, role, flags, durability, counts).prop_map(
        |(
            (generation, base, history),
            standing,
            copy,
            last_role,
            ([open, wrote_alone, tracked, rebooted, remembers], empty, foreign),
            durability,
            (checkpoint, peer_checkpoint),
        )| CopyState {
            generation,
            base,
            standing,
            copy,
            open,
            wrote_alone,
            tracked,
            checkpoint,
            peer_checkpoint,
            last_role,
            rebooted,
            remembers,
            durability,
            history: History::try_from(history).unwrap(),
            empty,
            foreign,
            changed: Change::UNKNOWN,
        },
    )
}

/// No line of one is known to the other.
fn are_unrelated(one: &CopyState, other: &CopyState) -> bool {
    let known = |copy: &CopyState| -> Vec<Generation> {
        let own = copy.generation.into_iter().chain(copy.base);
        own.chain(copy.history.iter()).collect()
    };
    let others = known(other);
    !known(one).iter().any(|line| others.contains(line))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_pair_is_joined_in_a_way_that_could_lose_or_mix_what_was_written(
        primary in any_state(),
        secondary in any_state(),
    ) {
        let meeting = meet(&primary, &secondary);
        let makes_a_copy = matches!(meeting, Meeting::Equal | Meeting::Tracked | Meeting::Whole { .. });
        if secondary.wrote_alone {
            prop_assert!(!makes_a_copy, "{meeting:?}");
        }
        if primary.standing != Standing::UpToDate {
            prop_assert!(!makes_a_copy && !matches!(meeting, Meeting::SplitBrain { .. }), "{meeting:?}");
        }
        if primary.empty && !secondary.empty {
            prop_assert!(!makes_a_copy, "{meeting:?}");
        }
        if secondary.foreign && !secondary.empty {
            prop_assert!(!makes_a_copy, "{meeting:?}");
        }
        let is_mixed = secondary.standing == Standing::Inconsistent;
        if are_unrelated(&primary, &secondary)
            && !secondary.empty
            && (secondary.wrote_alone || !is_mixed)
        {
            prop_assert!(matches!(meeting, Meeting::Refused { .. }), "{meeting:?}");
        }
        match meeting {
            Meeting::Equal => {
                let same = primary.generation.is_some()
                    && primary.generation == secondary.generation
                    && [&primary, &secondary].iter().all(|copy| {
                        !copy.open && !copy.wrote_alone && copy.standing == Standing::UpToDate
                    })
                    && primary.checkpoint == secondary.checkpoint;
                prop_assert!(same || primary.empty && secondary.empty);
            }
            Meeting::Tracked => {
                prop_assert!(primary.tracked && secondary.checkpoint >= primary.peer_checkpoint);
                prop_assert!(secondary.standing != Standing::Verify);
                let carried = if is_mixed {
                    prop_assert!(secondary.copy == Some(CopyKind::Tracked));
                    prop_assert!(secondary.generation == primary.generation);
                    secondary.base
                } else {
                    secondary.generation
                };
                let at_base = carried.is_some() && carried == primary.base;
                let in_one_session = secondary.generation == primary.generation
                    && (primary.open || secondary.open || secondary.standing == Standing::Outdated)
                    && (primary.remembers || !primary.open)
                    && !primary.wrote_alone;
                prop_assert!(at_base || !is_mixed && in_one_session);
            }
            Meeting::SplitBrain { tracked, .. } => {
                prop_assert!(secondary.wrote_alone);
                prop_assert!(!tracked || primary.tracked && secondary.tracked);
            }
            Meeting::PrimaryIsOlder { .. } => {
                prop_assert!(secondary.standing != Standing::Inconsistent);
                prop_assert!(!are_unrelated(&primary, &secondary));
            }
            Meeting::Whole { .. } | Meeting::Refused { .. } => {}
        }
    }

    #[test]
    fn of_two_crashed_copies_exactly_one_way_round_makes_a_copy_unless_the_roles_were_one(
        primary in any_state(),
        secondary in any_state(),
    ) {
        let in_session = |copy: CopyState, last_role| CopyState {
            generation: Some(A),
            base: None,
            standing: Standing::UpToDate,
            wrote_alone: false,
            open: true,
            last_role,
            checkpoint: 1,
            peer_checkpoint: 1,
            empty: false,
            foreign: false,
            ..copy
        };
        let (last, other) = (in_session(primary, Role::Primary), in_session(secondary, Role::Secondary));
        let copies = |meeting| matches!(meeting, Meeting::Tracked | Meeting::Whole { .. });
        let ways = (meet(&last, &other), meet(&other, &last));
        prop_assert!(copies(ways.0) != copies(ways.1), "{ways:?}");
        let forgot = other.rebooted && other.durability == Durability::Memory && !other.remembers;
        prop_assert!(!forgot || copies(ways.0), "{ways:?}");
    }
}
