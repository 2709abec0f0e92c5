//! The record: what it says after each step, what it admits, and what lies on disk.

use super::file::FILE;
use super::*;

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
fn a_saved_record_is_read_again_and_a_missing_one_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let file = RecordFile::open(dir.path(), "db").unwrap();
    assert_eq!(file.load().unwrap(), Record::new("db"));
    let record = Record {
        open: true,
        note: Some("x".into()),
        ..copy(3)
    };
    file.save(&record).unwrap();
    assert_eq!(
        RecordFile::open(dir.path(), "db").unwrap().load().unwrap(),
        record
    );
    assert!(matches!(
        RecordFile::open(dir.path(), "other").unwrap().load(),
        Err(RecordError::OtherModule { .. })
    ));
    file.remove().unwrap();
    assert_eq!(file.load().unwrap(), Record::new("db"));
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
    assert!(file.load().unwrap_err().to_string().contains("format is 2"));
}

#[test]
fn a_session_begins_only_between_copies_that_are_provably_equal() {
    let refused = |record: &Record, empty, start: &Start, peer_empty| {
        matches!(
            record.admits(empty, None, start, peer_empty),
            Err(Rejection::FullCopyNeeded(_) | Rejection::WouldOverwrite(_))
        )
    };
    assert_eq!(
        Record::new("db").admits(true, None, &fresh(1, true), true),
        Ok(()),
        "both empty"
    );
    assert_eq!(
        copy(1).admits(false, None, &fresh(1, true), false),
        Ok(()),
        "same generation, both clean"
    );
    assert!(
        refused(&copy(1), true, &fresh(1, true), false),
        "the volume is not mounted here"
    );
    assert!(
        refused(&Record::new("db"), true, &fresh(1, true), false),
        "empty secondary, full primary"
    );
    assert!(
        refused(&Record::new("db"), false, &fresh(1, true), true),
        "strange files on the secondary"
    );
    assert!(
        refused(&copy(1), false, &fresh(2, true), false),
        "another generation"
    );
    assert!(
        refused(&copy(1), false, &fresh(1, false), false),
        "primary crashed or went alone"
    );
    assert!(
        refused(
            &Record {
                open: true,
                ..copy(1)
            },
            false,
            &fresh(1, true),
            false
        ),
        "secondary crashed"
    );
    assert!(refused(
        &Record {
            peer_lacks_data: true,
            ..copy(1)
        },
        false,
        &fresh(1, true),
        false
    ));
    for standing in [Standing::Outdated, Standing::Inconsistent, Standing::Verify] {
        assert!(
            refused(&Record { standing, ..copy(1) }, false, &fresh(1, true), false),
            "{standing:?}"
        );
    }
    let resume = Start::Resume {
        confirmed: crate::operation::Number(0),
    };
    assert_eq!(
        copy(1).admits(false, None, &resume, false),
        Err(Rejection::UnknownSession)
    );
}

#[test]
fn a_copy_overwrites_only_what_nobody_can_miss() {
    let generation = |number| Generation([number; 16]);
    let start = |base: Option<u8>, overwrite| Start::Copy {
        generation: generation(9),
        base: base.map(generation),
        overwrite,
    };
    let admitted =
        |record: &Record, empty, foreign, start: &Start| record.admits(empty, foreign, start, false).is_ok();
    let own = Record {
        peer_lacks_data: true,
        ..copy(1)
    };
    let mixed = Record {
        standing: Standing::Inconsistent,
        ..copy(3)
    };
    let crashed = Record {
        open: true,
        ..copy(1)
    };
    assert!(
        admitted(&copy(1), false, None, &start(Some(1), false)),
        "left behind"
    );
    assert!(
        admitted(&copy(9), false, None, &start(None, false)),
        "the same line of writes"
    );
    assert!(
        admitted(&crashed, false, None, &start(Some(1), false)),
        "crashed in sync"
    );
    assert!(
        admitted(&mixed, false, None, &start(None, false)),
        "interrupted, whoever began it"
    );
    assert!(
        admitted(&Record::new("db"), true, None, &start(None, false)),
        "nothing there"
    );
    assert!(
        !admitted(&copy(1), false, None, &start(Some(2), false)),
        "another line of writes"
    );
    assert!(
        !admitted(&copy(1), false, Some("/srv/db"), &start(Some(1), false)),
        "no mark"
    );
    assert!(
        !admitted(&Record::new("db"), false, None, &start(None, false)),
        "a lost record"
    );
    let empty_primary = |overwrite| copy(1).admits(false, None, &start(Some(1), overwrite), true);
    assert!(empty_primary(false).is_err() && empty_primary(true).is_ok());
    assert!(copy(1).admits(false, None, &fresh(1, true), true).is_err());
    for empty in [true, false] {
        assert!(
            !admitted(&own, empty, None, &start(Some(1), false)),
            "writes of its own, {empty}"
        );
        assert!(
            admitted(&own, empty, Some("/srv/db"), &start(None, true)),
            "told to"
        );
    }
}

#[test]
fn a_parting_keeps_the_generation_that_was_shared_last_until_the_reunion() {
    let generation = |number| Generation([number; 16]);
    let mut record = copy(1);
    record.part(generation(2), "alone".into());
    assert_eq!(
        (record.generation, record.base),
        (Some(generation(2)), Some(generation(1)))
    );
    record.part(generation(3), "again".into());
    assert_eq!(
        (record.generation, record.base),
        (Some(generation(2)), Some(generation(1)))
    );
    record.join(generation(4));
    assert_eq!((record.generation, record.base), (Some(generation(4)), None));
    assert!(record.open && !record.peer_lacks_data);
    record.begin_copy(generation(5));
    assert!(record.bars_primary().is_some());
    record.part(generation(6), "forced".into());
    assert_eq!(record.base, None, "a mixed copy descends from nothing");
}

#[test]
fn only_an_up_to_date_clean_copy_or_the_last_alone_may_become_primary() {
    assert_eq!(Record::new("db").bars_primary(), None);
    assert_eq!(copy(1).bars_primary(), None);
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
