//! The file after the power failed: what was not synced is there or not, by sectors, in any combination.

use super::crash_tests::{Random, group, records, steps, steps_of};
use super::tests::{EXTENT, generation};
use super::*;
use redb::backends::InMemoryBackend;
use std::io;
use std::sync::{Mutex, PoisonError};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
    /// The store has said that so many steps are durable.
    Durable(u64),
}

/// Keeps what was done to it in its order.
#[derive(Debug, Clone, Default)]
struct Disk {
    now: Arc<InMemoryBackend>,
    done: Arc<Mutex<Vec<Step>>>,
    /// Calls until all fail; not counted down while it is `None`.
    fails_after: Arc<Mutex<Option<u64>>>,
}

impl Disk {
    fn note(&self, step: Step) {
        self.done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(step);
    }

    fn fallible(&self) -> io::Result<()> {
        match &mut *self.fails_after.lock().unwrap() {
            None => Ok(()),
            Some(0) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.now.len()
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.fallible()?;
        self.now.read(offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fallible()?;
        self.note(Step::Length(len));
        self.now.set_len(len)
    }

    fn sync_data(&self, _: bool) -> io::Result<()> {
        self.fallible()?;
        self.note(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.fallible()?;
        self.note(Step::Write(offset, data.to_vec()));
        self.now.write(offset, data)
    }
}

/// Bytes as a disk has them after a power failure. A file system never shows bytes beyond a length that it has lost.
#[derive(Debug, Clone, Default)]
struct Image(Vec<u8>);

impl Image {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Write(offset, data) => self.write(*offset as usize, data),
            Step::Length(length) => self.0.resize(*length as usize, 0),
            Step::Sync | Step::Durable(_) => {}
        }
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = self.0.len().min(offset + data.len());
        if offset < end {
            self.0[offset..end].copy_from_slice(&data[..end - offset]);
        }
    }

    fn apply_some(&mut self, step: &Step, random: &mut Random) {
        // Some failures lose everything, some nothing, most a part.
        let lost = random.below(5);
        match step {
            Step::Write(offset, data) => {
                for (sector, data) in data.chunks(SECTOR).enumerate() {
                    if random.below(4) >= lost {
                        self.write(*offset as usize + sector * SECTOR, data);
                    }
                }
            }
            step if random.below(4) >= lost => self.apply(step),
            _ => {}
        }
    }

    fn open(self) -> Result<MapStore, StoreError> {
        let backend = InMemoryBackend::new();
        backend.set_len(self.0.len() as u64).unwrap();
        backend.write(0, &self.0).unwrap();
        MapStore::existing(backend, PathBuf::from("dirty.redb"), EXTENT)
    }
}

fn store(disk: &Disk) -> MapStore {
    let mut store =
        MapStore::empty(file::Backend(disk.clone()), PathBuf::from("dirty.redb"), EXTENT).unwrap();
    store.replace(&Saved::new(generation(1))).unwrap();
    store
}

/// Adds `count` groups of `size` nodes; fails the power after each and at one in `rarity` of the other points, and
/// looks. Returns how often the file was made longer meanwhile.
fn fail_while_adding(seed: u64, count: u64, size: u64, rarity: u64) -> usize {
    println!("seed {seed}");
    let mut random = Random(seed);
    let disk = Disk::default();
    let mut store = store(&disk);
    disk.note(Step::Durable(0));
    for step in 0..count {
        store.add(generation(1), &group(step, size)).unwrap();
        disk.note(Step::Durable(step + 1));
    }
    drop(store);
    let done = disk.done.lock().unwrap().clone();
    let begun = done
        .iter()
        .position(|step| matches!(step, Step::Durable(0)))
        .unwrap();
    let count_of = |wanted: fn(&Step) -> bool| done[begun..].iter().filter(|step| wanted(step)).count();
    let lengthened = count_of(|step| matches!(step, Step::Length(_)));
    let syncs = count_of(|step| matches!(step, Step::Sync));
    println!(
        "{count} groups: {syncs} syncs, {lengthened} lengths, {} steps",
        done.len() - begun
    );
    let (mut synced, mut unsynced, mut durable) = (Image::default(), Vec::new(), 0);
    for (at, step) in done.iter().enumerate() {
        match step {
            Step::Sync => unsynced.drain(..).for_each(|step| synced.apply(step)),
            Step::Durable(steps) => durable = *steps,
            step => unsynced.push(step),
        }
        if at < begun || !(matches!(step, Step::Durable(_)) || random.below(rarity) == 0) {
            continue;
        }
        let mut image = synced.clone();
        for step in &unsynced {
            image.apply_some(step, &mut random);
        }
        let saved = image.open().and_then(|store| store.load());
        let found = match saved {
            Ok(saved) => steps_of(&saved.expect("the map was begun durably"), size),
            Err(error) => panic!("after {at} steps, {durable} durable: {error}"),
        };
        assert!(
            (durable..=durable + 1).contains(&found),
            "after {at} steps: {found} of {durable}"
        );
    }
    lengthened
}

#[test]
fn what_was_durable_is_there_after_a_power_failure_at_any_point() {
    fail_while_adding(9, 150, 1, 3);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimisation")]
fn what_was_durable_is_there_when_the_power_fails_while_the_file_grows() {
    let lengthened = fail_while_adding(10, 40, 500, 12);
    assert!(lengthened > 0, "the test adds too little");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimisation")]
fn a_replaced_map_is_the_old_or_the_new_one_after_a_power_failure() {
    let seed = 31;
    println!("seed {seed}");
    let mut random = Random(seed);
    let map = |number: u8, steps: u64| {
        let mut saved = Saved::new(generation(number));
        let units = Units {
            stored: EXTENT,
            used: EXTENT,
        };
        for record in (0..steps).flat_map(records) {
            saved.fold(record, units).unwrap();
        }
        saved
    };
    // None as if cleared.
    let maps = [
        Some(map(1, 40)),
        Some(map(2, 15_000)),
        None,
        Some(map(3, 7)),
        None,
        Some(map(4, 90)),
    ];
    let disk = Disk::default();
    let mut store =
        MapStore::empty(file::Backend(disk.clone()), PathBuf::from("dirty.redb"), EXTENT).unwrap();
    disk.note(Step::Durable(0));
    for (at, map) in (1..).zip(&maps) {
        match map {
            Some(map) => store.replace(map).unwrap(),
            None => store.clear().unwrap(),
        }
        disk.note(Step::Durable(at));
    }
    drop(store);
    let done = disk.done.lock().unwrap().clone();
    let begun = done
        .iter()
        .position(|step| matches!(step, Step::Durable(0)))
        .unwrap();
    let (mut synced, mut unsynced, mut durable) = (Image::default(), Vec::new(), 0);
    for (at, step) in done.iter().enumerate() {
        match step {
            Step::Sync => unsynced.drain(..).for_each(|step| synced.apply(step)),
            Step::Durable(steps) => durable = *steps as usize,
            step => unsynced.push(step),
        }
        if at < begun || !(matches!(step, Step::Sync | Step::Durable(_)) || random.below(10) == 0) {
            continue;
        }
        let mut image = synced.clone();
        for step in &unsynced {
            image.apply_some(step, &mut random);
        }
        let saved = match image.open().and_then(|store| store.load()) {
            Ok(saved) => saved,
            Err(error) => panic!("after {at} steps, {durable} durable: {error}"),
        };
        let before = durable.checked_sub(1).and_then(|last| maps[last].as_ref());
        let after = maps.get(durable).and_then(Option::as_ref);
        assert!(
            saved.as_ref() == before || saved.as_ref() == after,
            "after {at} steps, {durable} durable"
        );
    }
}

/// Whichever call fails: the store says so, takes nothing more, and can be dropped; what was durable stays.
#[test]
fn a_disk_that_fails_ends_the_store_and_keeps_what_was_durable() {
    for fails_after in 0..60 {
        let disk = Disk::default();
        let mut store = store(&disk);
        *disk.fails_after.lock().unwrap() = Some(fails_after);
        let failed = (0..50).find_map(|step| {
            let error = store.add(generation(1), &records(step)).err()?;
            Some((step, error))
        });
        let (durable, error) = failed.expect("the disk failed");
        assert!(matches!(error, StoreError::System { .. }), "{error:?}");
        let again = store.add(generation(1), &records(durable));
        assert!(matches!(again, Err(StoreError::Failed { .. })), "{again:?}");
        assert!(matches!(store.load(), Err(StoreError::Failed { .. })));
        drop(store);
        *disk.fails_after.lock().unwrap() = None;
        let store = MapStore::existing(disk, PathBuf::from("dirty.redb"), EXTENT).unwrap();
        let found = steps(&store.load().unwrap().unwrap());
        assert!((durable..=durable + 1).contains(&found), "{found} of {durable}");
    }
}
