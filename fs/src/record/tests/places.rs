//! The copies of the record on real directories: crashes between two of them, and volumes that are not the
//! ones meant.

use super::*;
use crate::backing::Volume;
use rustix::fs::{Mode, OFlags, XattrFlags};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const XATTR: &str = "trusted.sidekick.record";

struct Places {
    state: TempDir,
    volumes: Vec<TempDir>,
}

/// What lies everywhere at one moment.
struct Picture {
    file: Option<Vec<u8>>,
    volumes: Vec<Option<Vec<u8>>>,
}

impl Places {
    fn new(volumes: usize) -> Self {
        let dir = || tempfile::tempdir().unwrap();
        Places {
            state: dir(),
            volumes: (0..volumes).map(|_| dir()).collect(),
        }
    }

    fn open_as(&self, module: &str) -> Result<Keeper, RecordError> {
        let volume = |dir: &TempDir| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Volume::open(rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap()).unwrap()
        };
        let volumes = self.volumes.iter().map(volume).collect();
        Keeper::open(self.state.path(), module, Durability::Disk, volumes)
    }

    fn open(&self) -> Keeper {
        self.open_as("db").unwrap()
    }

    fn file(&self) -> PathBuf {
        self.state.path().join(FILE)
    }

    fn take(&self) -> Picture {
        let value = |dir: &TempDir| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::getxattr(dir.path(), XATTR, &mut value[..]).ok()?;
            value.truncate(length);
            Some(value)
        };
        Picture {
            file: std::fs::read(self.file()).ok(),
            volumes: self.volumes.iter().map(value).collect(),
        }
    }

    fn put_file(&self, picture: &Picture) {
        match &picture.file {
            Some(text) => std::fs::write(self.file(), text).unwrap(),
            None => std::fs::remove_file(self.file()).unwrap(),
        }
    }

    fn put_volume(&self, index: usize, picture: &Picture) {
        match &picture.volumes[index] {
            Some(value) => set(self.volumes[index].path(), value),
            None => rustix::fs::removexattr(self.volumes[index].path(), XATTR).unwrap(),
        }
    }

    /// Two writes: the second leaves its generation.
    fn with_history(volumes: usize) -> (Self, Picture, Picture) {
        let places = Places::new(volumes);
        let keeper = places.open();
        keeper
            .update(|record| record.open_session(Generation([1; 16]), Role::Primary, HERE))
            .unwrap();
        let before = places.take();
        keeper
            .update(|record| {
                record.part(Generation([2; 16]), "alone".into(), HERE);
                record.tracked = true;
            })
            .unwrap();
        let after = places.take();
        (places, before, after)
    }
}

fn set(dir: &Path, value: &[u8]) {
    rustix::fs::setxattr(dir, XATTR, value, XattrFlags::empty()).unwrap();
}

fn assert_all_equal(places: &Places, record: &Record) {
    let picture = places.take();
    assert_eq!(Record::parse(&picture.file.unwrap()).unwrap(), *record);
    for value in picture.volumes {
        let copy = Record::from_volume(&value.unwrap()).unwrap();
        assert_eq!(copy.revision(), record.revision());
        assert_eq!(copy.standing, record.standing);
    }
}

#[test]
fn a_record_is_written_everywhere_and_only_when_it_changes() {
    let places = Places::new(2);
    let keeper = places.open();
    assert_eq!(keeper.current(), Record::new("db"));
    assert!(places.take().file.is_none(), "nothing is known yet");
    let first = keeper
        .update(|record| record.open_session(Generation([1; 16]), Role::Primary, HERE))
        .unwrap();
    assert_eq!(first.revision(), 1);
    let before = first.clone();
    let same = keeper.update(|record| record.open = true).unwrap();
    assert_eq!(same, first);
    let second = keeper.update(|record| record.end(End::Last)).unwrap();
    assert_eq!(second.revision(), 2);
    // An earlier one that is put back is a new write.
    let third = keeper.update(|record| *record = before).unwrap();
    assert_eq!(third, Record { revision: 3, ..first });
    assert_all_equal(&places, &third);
    drop(keeper);
    assert_eq!(places.open().current(), third);
    assert_eq!(places.take().volumes.len(), 2);
}

#[test]
fn s_a_crash_between_two_copies_leaves_one_of_the_two_records() {
    for written in 0..=2 {
        let (places, before, after) = Places::with_history(2);
        places.put_file(&before);
        for index in written..2 {
            places.put_volume(index, &before);
        }
        let record = places.open().current();
        let expected = if written == 0 { &before } else { &after };
        let expected = Record::parse(expected.file.as_ref().unwrap()).unwrap();
        assert_eq!(
            record.generation, expected.generation,
            "{written} volumes written"
        );
        assert_eq!(
            (record.standing, record.tracked),
            (Standing::UpToDate, expected.tracked)
        );
        assert_all_equal(&places, &record);
        assert_eq!(places.open().current(), record, "once is enough");
    }
}

#[test]
fn l_a_volume_that_was_restored_or_exchanged_is_to_be_verified() {
    let exchanged = Places::with_history(1).0;
    exchanged
        .open()
        .update(|record| record.generation = Some(Generation([9; 16])))
        .unwrap();
    let other = exchanged.take();
    for (what, volume) in [
        ("restored from a backup", Some(Places::with_history(1).1)),
        ("has no record", None),
        ("exchanged", Some(other)),
    ] {
        let (places, ..) = Places::with_history(1);
        match &volume {
            Some(picture) => places.put_volume(0, picture),
            None => rustix::fs::removexattr(places.volumes[0].path(), XATTR).unwrap(),
        }
        let record = places.open().current();
        assert_eq!(record.standing, Standing::Verify, "{what}");
        assert!(!record.tracked && record.bars_primary().is_some());
        let note = record.note.clone().unwrap();
        assert!(note.contains(what), "{what}: {note}");
        assert!(record.peer_lacks_data, "what it wrote alone is not forgotten");
        assert_all_equal(&places, &record);
        assert_eq!(places.open().current(), record);
    }
}

#[test]
fn a_state_directory_that_was_restored_is_noticed_as_well() {
    let (places, before, _) = Places::with_history(1);
    places.open().update(|record| record.end_alone()).unwrap();
    places.open().update(|record| record.open = true).unwrap();
    places.put_file(&before);
    let record = places.open().current();
    assert_eq!(record.generation, Some(Generation([2; 16])), "the newest counts");
    assert_eq!(record.standing, Standing::Verify);
    assert!(record.note.unwrap().contains("the state directory is older"));
}

#[test]
fn one_volume_of_two_that_was_restored_spoils_both() {
    let (places, before, _) = Places::with_history(2);
    places.put_volume(1, &before);
    let record = places.open().current();
    assert_eq!(record.standing, Standing::Verify);
    let name = places.volumes[1].path().display().to_string();
    assert!(record.note.unwrap().contains(&name));
}

#[test]
fn a_lost_or_damaged_file_is_made_again_from_the_volume_but_not_its_map() {
    for text in [None, Some("{"), Some("")] {
        let (places, ..) = Places::with_history(1);
        match text {
            Some(text) => std::fs::write(places.file(), text).unwrap(),
            None => std::fs::remove_file(places.file()).unwrap(),
        }
        let record = places.open().current();
        assert_eq!(record.generation, Some(Generation([2; 16])));
        assert_eq!((record.standing, record.tracked), (Standing::UpToDate, false));
        assert!(record.peer_lacks_data);
        assert_all_equal(&places, &record);
    }
}

#[test]
fn what_is_damaged_everywhere_of_a_later_version_or_of_another_module_is_an_error() {
    let (places, ..) = Places::with_history(1);
    let volume = places.volumes[0].path();
    assert!(matches!(
        places.open_as("other"),
        Err(RecordError::OtherModule { .. })
    ));
    std::fs::remove_file(places.file()).unwrap();
    let error = places.open_as("other").unwrap_err().to_string();
    assert!(error.contains(&volume.display().to_string()), "{error}");
    let mut value = places.take().volumes.remove(0).unwrap();
    set(volume, &value[1..]);
    assert!(matches!(
        places.open_as("db"),
        Err(RecordError::Newer { .. } | RecordError::Unreadable { .. })
    ));
    set(volume, b"");
    assert!(matches!(
        places.open_as("db"),
        Err(RecordError::Unreadable { .. })
    ));
    value[0] = 3;
    set(volume, &value);
    assert!(matches!(
        places.open_as("db"),
        Err(RecordError::Newer { format: 4, .. })
    ));
    assert_eq!(
        places.take().volumes[0].as_ref(),
        Some(&value),
        "it is left as it is"
    );
}

#[test]
fn the_first_format_gets_its_copies_on_the_volumes() {
    let places = Places::new(2);
    std::fs::write(places.file(), FORMAT_ONE).unwrap();
    let record = places.open().current();
    assert_eq!(record.standing, Standing::Inconsistent);
    assert_eq!(record.revision(), 1);
    assert_all_equal(&places, &record);
}
