//! The record: what it says after each step, what it admits, and what lies on disk.

mod crashes;
mod places;

use super::file::FILE;
use super::split_brain::{Change, Policy, Resolution};
use super::*;
use crate::wire::message::{Rejection, Start};

const HERE: Here = Here {
    boot_id: Some(BootId([7; 16])),
    durability: Durability::Disk,
};

fn fresh(generation: u8, clean: bool) -> Start {
    Start::Fresh {
        generation: Generation([generation; 16]),
        clean,
    }
}

fn copy(generation: u8) -> Record {
    Record {
        generation: Some(Generation([generation; 16])),
        ..Record::new("db")
    }
}

#[test]
fn a_saved_record_is_read_again_and_a_missing_one_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = RecordFile::open(dir.path(), "db").unwrap();
    assert_eq!(file.load().unwrap(), None);
    let record = Record {
        open: true,
        note: Some("x".into()),
        ..copy(3)
    };
    file.save(&record).unwrap();
    assert_eq!(
        RecordFile::open(dir.path(), "db").unwrap().load().unwrap(),
        Some(record)
    );
    assert!(matches!(
        RecordFile::open(dir.path(), "other").unwrap().load(),
        Err(RecordError::OtherModule { .. })
    ));
    file.remove().unwrap();
    assert_eq!(file.load().unwrap(), None);
}

#[test]
fn a_damaged_or_newer_record_is_an_error_and_never_a_new_copy() {
    let dir = tempfile::tempdir().unwrap();
    let file = RecordFile::open(dir.path(), "db").unwrap();
    for text in ["", "{", "{\"format\":1}", "nonsense"] {
        std::fs::write(dir.path().join(FILE), text).unwrap();
        assert!(
            matches!(file.load(), Err(RecordError::Unreadable { .. })),
            "{text:?}"
        );
    }
    let newer = Record {
        format: FORMAT + 1,
        ..copy(1)
    };
    std::fs::write(dir.path().join(FILE), serde_json::to_vec(&newer).unwrap()).unwrap();
    assert!(file.load().unwrap_err().to_string().contains("format is 3"));
}

/// What a secondary says to a primary of generation 2, which parted from 1 and wrote alone.
fn answer(secondary: &Record, primary: &CopyState, start: &Start) -> Result<(), Rejection> {
    let admitted = secondary.admits(&present(), None, start, primary, Policy::default());
    admitted.map(drop)
}

fn alone() -> CopyState {
    let mut record = copy(1);
    record.part(Generation([2; 16]), "x".into(), HERE);
    record.tracked = true;
    record.state(&Present {
        map_is_complete: true,
        ..present()
    })
}

fn copies(tracked: bool, overwrite: bool) -> Start {
    Start::Copy {
        generation: Generation([2; 16]),
        base: Some(Generation([1; 16])),
        overwrite,
        tracked,
    }
}

#[test]
fn a_session_begins_only_between_copies_that_are_provably_equal() {
    let clean = copy(1).state(&present());
    assert_eq!(answer(&copy(1), &clean, &fresh(1, true)), Ok(()));
    let outdated = Record {
        standing: Standing::Verify,
        ..copy(1)
    };
    for (secondary, primary) in [(copy(1), alone()), (outdated, clean.clone())] {
        let said = answer(&secondary, &primary, &fresh(1, true));
        assert!(matches!(said, Err(Rejection::FullCopyNeeded(_))), "{said:?}");
    }
    let resume = Start::Resume {
        confirmed: crate::operation::Number(1),
    };
    assert_eq!(answer(&copy(1), &clean, &resume), Err(Rejection::UnknownSession));
}

#[test]
fn a_tracked_copy_is_taken_by_the_copy_that_was_parted_from_and_a_whole_one_by_any_of_its_line() {
    assert_eq!(answer(&copy(1), &alone(), &copies(true, false)), Ok(()));
    assert_eq!(answer(&copy(1), &alone(), &copies(false, false)), Ok(()));
    let verify = Record {
        standing: Standing::Verify,
        ..copy(1)
    };
    let said = answer(&verify, &alone(), &copies(true, false));
    assert!(matches!(said, Err(Rejection::FullCopyNeeded(_))), "{said:?}");
    assert_eq!(answer(&verify, &alone(), &copies(false, false)), Ok(()));
}

#[test]
fn what_somebody_could_miss_is_overwritten_only_when_told() {
    let own = {
        let mut record = copy(1);
        record.part(Generation([3; 16]), "x".into(), HERE);
        record
    };
    for secondary in [own, copy(9), Record::new("db")] {
        for start in [fresh(2, true), copies(true, false), copies(false, false)] {
            let said = answer(&secondary, &alone(), &start);
            assert!(
                matches!(said, Err(Rejection::WouldOverwrite(_) | Rejection::SplitBrain(_))),
                "{start:?}: {said:?}"
            );
        }
        assert_eq!(answer(&secondary, &alone(), &copies(false, true)), Ok(()));
    }
    let foreign = Present {
        foreign: true,
        ..present()
    };
    let said = copy(1).admits(
        &foreign,
        Some("/srv/x"),
        &copies(false, false),
        &alone(),
        Policy::Manual,
    );
    assert!(said.unwrap_err().to_string().contains("/srv/x"));
}

#[test]
fn a_parting_keeps_the_generation_that_was_shared_last_until_the_reunion() {
    let generation = |number| Generation([number; 16]);
    let mut record = copy(1);
    record.part(generation(2), "alone".into(), HERE);
    assert_eq!(
        (record.generation, record.base),
        (Some(generation(2)), Some(generation(1)))
    );
    record.part(generation(3), "again".into(), HERE);
    assert_eq!(
        (record.generation, record.base),
        (Some(generation(2)), Some(generation(1)))
    );
    record.join(generation(4), Role::Primary, HERE);
    assert_eq!((record.generation, record.base), (Some(generation(4)), None));
    assert!(record.open && !record.peer_lacks_data);
    record.begin_copy(generation(5), CopyKind::Whole, HERE);
    assert!(record.bars_primary().is_some());
    record.part(generation(6), "forced".into(), HERE);
    assert_eq!(record.base, None, "a mixed copy descends from nothing");
}

#[test]
fn only_an_up_to_date_clean_copy_or_the_last_alone_may_become_primary() {
    assert_eq!(Record::new("db").bars_primary(), None);
    assert!(copy(1).bars_primary().is_some() && copy(1).handed_over());
    let newest = Record {
        newest: true,
        ..copy(1)
    };
    assert_eq!(newest.bars_primary(), None);
    assert!(
        Record {
            open: true,
            ..copy(1)
        }
        .bars_primary()
        .is_some()
    );
    assert_eq!(
        Record {
            open: true,
            peer_lacks_data: true,
            ..copy(1)
        }
        .bars_primary(),
        None
    );
    for standing in [Standing::Outdated, Standing::Inconsistent, Standing::Verify] {
        assert!(
            Record {
                standing,
                peer_lacks_data: true,
                ..copy(1)
            }
            .bars_primary()
            .is_some()
        );
    }
}

#[test]
fn generations_are_printed_and_read_as_32_digits() {
    let generation = Generation::random().unwrap();
    assert_eq!(generation.to_string().parse::<Generation>().unwrap(), generation);
    for bad in ["", "+0000000000000000000000000000000", "0123"] {
        assert!(bad.parse::<Generation>().is_err(), "{bad}");
    }
}

/// What the first version wrote.
const FORMAT_ONE: &str = r#"{
  "format": 1, "module": "db", "generation": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1], "standing": "inconsistent",
  "open": true, "peer_lacks_data": false, "note": null
}"#;

#[test]
fn a_record_of_the_first_format_is_read_and_what_it_does_not_say_is_taken_for_the_worse() {
    let record = Record::parse(FORMAT_ONE.as_bytes()).unwrap();
    let expected = Record {
        standing: Standing::Inconsistent,
        copy: Some(CopyKind::Whole),
        open: true,
        ..copy(1)
    };
    assert_eq!(record, expected);
    assert!(!record.tracked && !record.newest);
    assert_eq!((record.revision(), record.durability), (0, Durability::Memory));
    assert!(record.state(&present()).rebooted);
    for (from, to) in [("\"open\"", "\"opened\""), ("\"note\"", "\"base\": 1, \"note\"")] {
        let text = FORMAT_ONE.replace(from, to);
        assert!(matches!(
            Record::parse(text.as_bytes()),
            Err(BadRecord::Damaged(_))
        ));
    }
    let newer = FORMAT_ONE.replace("\"format\": 1", "\"format\": 9, \"more\": 1");
    assert_eq!(Record::parse(newer.as_bytes()), Err(BadRecord::Format(9)));
}

#[test]
fn the_bytes_on_a_volume_have_one_length_and_are_proved_by_their_sum() {
    let mut record = Record::new(&"m".repeat(63));
    assert_eq!(Record::from_volume(&record.to_volume().unwrap()).unwrap(), record);
    let short = record.to_volume().unwrap().len();
    for line in 0..40 {
        record.part(Generation([line; 16]), "ä".repeat(500), HERE);
        record.join(Generation([100 + line; 16]), Role::Primary, HERE);
    }
    record.base = record.generation;
    record.copy = Some(CopyKind::Tracked);
    record.revision = u64::MAX;
    record.checkpoint = u64::MAX;
    record.note = Some("ä".repeat(500));
    let bytes = record.to_volume().unwrap();
    assert_eq!(bytes.len(), short);
    let read = Record::from_volume(&bytes).unwrap();
    assert_eq!(read.note, Some("ä".repeat(32)), "cut at the end of a character");
    assert_eq!(
        Record {
            note: record.note.clone(),
            ..read
        },
        record
    );

    let damaged = |bytes: &[u8]| matches!(Record::from_volume(bytes), Err(BadRecord::Damaged(_)));
    assert!(damaged(&[]) && damaged(&bytes[..bytes.len() - 1]) && damaged(&vec![0; bytes.len()]));
    for at in [1, 20, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(damaged(&changed), "{at}");
    }
    let mut newer = bytes;
    newer[0] = 3;
    assert_eq!(Record::from_volume(&newer), Err(BadRecord::Format(3)));
    assert!(Record::new(&"m".repeat(600)).to_volume().is_err());
}

#[test]
fn a_copy_by_map_keeps_what_it_was_shared_at_and_a_whole_one_forgets_it() {
    let generation = |number| Generation([number; 16]);
    let mut record = copy(1);
    record.begin_copy(generation(2), CopyKind::Tracked, HERE);
    assert_eq!(record.base, Some(generation(1)));
    assert!(record.history.contains(generation(1)));
    // Interrupted, and begun again.
    record.begin_copy(generation(2), CopyKind::Tracked, HERE);
    assert_eq!(
        (record.generation, record.base),
        (Some(generation(2)), Some(generation(1)))
    );
    record.begin_copy(generation(2), CopyKind::Whole, HERE);
    assert_eq!((record.base, record.copy), (None, Some(CopyKind::Whole)));
    assert_eq!(record.history, History::default());
    // The loser of a split brain.
    let mut loser = copy(1);
    loser.part(generation(3), "alone".into(), HERE);
    loser.begin_copy(generation(2), CopyKind::Tracked, HERE);
    assert_eq!(
        (loser.generation, loser.base),
        (Some(generation(2)), Some(generation(1)))
    );
    assert!(!loser.peer_lacks_data);
}

#[test]
fn a_map_with_a_gap_stays_one_until_the_next_parting() {
    let generation = |number| Generation([number; 16]);
    let mut record = copy(1);
    record.tracked = true;
    record.part(generation(2), "alone".into(), HERE);
    assert!(!record.tracked, "nobody has said yet that the map is on disk");
    record.tracked = true;
    record.part(generation(3), "again".into(), HERE);
    assert!(record.tracked);
    record.distrust("opened".into());
    assert!(!record.tracked);
    record.tracked = true;
    record.part(generation(3), "forced".into(), HERE);
    assert!(!record.tracked && record.standing == Standing::UpToDate);
}

#[test]
fn who_left_a_session_that_its_peer_went_on_with_does_not_start_alone() {
    let ended = |end| {
        let mut record = copy(1);
        record.open_session(Generation([1; 16]), Role::Secondary, HERE);
        assert!(record.bars_primary().is_some(), "in sync to the last");
        record.end(end);
        record
    };
    let handed_over = ended(End::HandedOver);
    assert!(
        handed_over
            .bars_primary()
            .unwrap()
            .contains("left the next beginning")
    );
    assert!(handed_over.handed_over());
    let mut last = ended(End::Last);
    assert!(last.newest);
    assert_eq!(last.bars_primary(), None);
    let mut left = ended(End::PeerStays);
    assert!(!last.handed_over() && !left.handed_over());
    assert!(left.bars_primary().unwrap().contains("went on"));
    for record in [&mut last, &mut left] {
        let fresh = Record::new("db");
        assert!(fresh.bars_primary().is_none() && !fresh.handed_over());
        record.open_session(Generation([1; 16]), Role::Primary, HERE);
        assert!(!record.newest && !record.peer_stayed);
    }
    left.part(Generation([2; 16]), "forced".into(), HERE);
    assert_eq!(left.bars_primary(), None);
}

#[test]
fn f_a_secondary_that_was_in_sync_before_its_peer_went_on_alone_does_not_start() {
    let mut secondary = copy(1);
    secondary.open_session(Generation([1; 16]), Role::Secondary, HERE);
    let mut primary = copy(1);
    primary.open_session(Generation([1; 16]), Role::Primary, HERE);
    primary.part(Generation([2; 16]), "the secondary is lost".into(), HERE);
    // Never told of it.
    assert!(secondary.bars_primary().unwrap().contains("did not end cleanly"));
    secondary.outdate(Generation([2; 16]), "lost");
    assert!(secondary.bars_primary().unwrap().contains("older"));
    assert_eq!(primary.bars_primary(), None);
}

fn present() -> Present {
    Present {
        boot_id: HERE.boot_id,
        remembers: false,
        map_is_complete: false,
        peer_checkpoint: 0,
        empty: false,
        foreign: false,
        changed: Change::UNKNOWN,
    }
}

/// A copy that was promoted and went on from generation 1 with all that the pair had.
fn promoted() -> Record {
    let mut record = copy(1);
    record.part(Generation([3; 16]), "promoted".into(), HERE);
    record.tracked = true;
    record
}

const SOME: Change = Change {
    inodes: Some(2),
    bytes: Some(4096),
};
const MORE: Change = Change {
    inodes: Some(1),
    bytes: Some(8192),
};

/// What [`promoted`], which has changed so much, says to a primary that has.
fn admitted(start: &Start, secondary: Change, primary: Change, policy: Policy) -> Result<Loses, Rejection> {
    let present = Present {
        changed: secondary,
        ..present()
    };
    let primary = CopyState {
        changed: primary,
        ..alone()
    };
    promoted().admits(&present, None, start, &primary, policy)
}

#[test]
fn a_secondary_that_changed_nothing_alone_is_joined_and_loses_nothing() {
    for policy in [Policy::DiscardZeroChanges, Policy::DiscardLeastChanges] {
        let say = |start: &Start| admitted(start, Change::NOTHING, SOME, policy);
        assert!(matches!(
            say(&copies(true, false)),
            Err(Rejection::FullCopyNeeded(_))
        ));
        assert_eq!(say(&copies(false, false)), Ok(Loses::Nothing));
        assert_eq!(say(&copies(false, true)), Ok(Loses::Nothing));
    }
    let manual = admitted(&copies(false, false), Change::NOTHING, SOME, Policy::Manual);
    assert!(matches!(manual, Err(Rejection::SplitBrain(_))), "{manual:?}");
}

#[test]
fn what_was_changed_counts_only_where_both_maps_are_whole_from_one_base() {
    let gap = CopyState {
        tracked: false,
        ..alone()
    };
    let elsewhere = CopyState {
        base: Some(Generation([7; 16])),
        ..alone()
    };
    let untracked = Record {
        tracked: false,
        ..promoted()
    };
    let quiet = Present {
        changed: Change::NOTHING,
        ..present()
    };
    for (secondary, primary) in [
        (&promoted(), gap),
        (&promoted(), elsewhere),
        (&untracked, alone()),
    ] {
        let split = secondary.split(&quiet, &primary, Policy::default()).unwrap();
        assert_eq!(split.resolution, Resolution::Manual, "{split:?}");
        assert_eq!(split.secondary, Change::UNKNOWN);
    }
}

#[test]
fn what_a_secondary_changed_alone_is_put_aside_by_policy_and_by_order() {
    for changed in [SOME, Change::UNKNOWN] {
        let say = |overwrite, policy| admitted(&copies(false, overwrite), changed, MORE, policy);
        assert_eq!(say(false, Policy::KeepPrimary), Ok(Loses::Changes));
        for policy in [Policy::DiscardZeroChanges, Policy::Manual] {
            let said = say(false, policy);
            assert!(matches!(said, Err(Rejection::SplitBrain(_))), "{said:?}");
            assert_eq!(say(true, policy), Ok(Loses::Changes));
        }
    }
    let least = |secondary, primary| {
        admitted(
            &copies(false, false),
            secondary,
            primary,
            Policy::DiscardLeastChanges,
        )
    };
    assert_eq!(least(SOME, MORE), Ok(Loses::Changes));
    let told = least(MORE, SOME).unwrap_err().to_string();
    assert!(told.contains("Its changes are the ones to keep"), "{told}");
    let told = least(SOME, SOME).unwrap_err().to_string();
    assert!(told.contains("--overwrite"), "{told}");
}

#[test]
fn a_primary_that_changed_nothing_is_told_to_change_roles_with_both_amounts() {
    let said = admitted(&copies(false, false), SOME, Change::NOTHING, Policy::default());
    let said = said.unwrap_err().to_string();
    assert!(
        said.contains(
            "the primary has changed nothing, and the secondary 2 files and directories, 4096 bytes"
        ),
        "{said}"
    );
    assert!(said.contains("become-secondary here"), "{said}");
}
