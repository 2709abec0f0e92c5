//! One machine: its disk, what the state directory holds, and the process that runs on it.

use super::disk::{CELL_BYTES, Disk};
use super::primary::PrimarySide;
use super::secondary::SecondarySide;
use crate::config::Durability;
use crate::dirty::store::{Saved, SavedRecord, Units};
use crate::operation::{FileHandle, InodeId};
use crate::random::Random;
use crate::record::copies::{OnVolume, settle};
use crate::record::split_brain::Change;
use crate::record::{BootId, Here, Present, Record};
use crate::wire::message::Generation;

pub(super) const MODULE: &str = "m";
/// Of the dirty map, in bytes: two cells.
pub(super) const EXTENT_BYTES: u64 = 8192;

/// What is written and synced outside of the replicated directory, and the volume's own copy of the record.
#[derive(Clone, Debug, Default)]
pub(super) struct Durable {
    pub(super) volume: Option<Record>,
    pub(super) file: Option<Record>,
    pub(super) map: Option<Saved>,
}

pub(super) struct Machine {
    pub(super) disk: Disk,
    pub(super) durable: Durable,
    pub(super) boot: BootId,
    pub(super) is_on: bool,
    pub(super) process: Process,
    pub(super) durability: Durability,
}

pub(super) enum Process {
    /// None runs.
    Down,
    /// It has no role.
    Stopped(Record),
    Primary(Box<PrimarySide>),
    Secondary(Box<SecondarySide>),
}

impl Machine {
    pub(super) fn new(random: &mut Random, durability: Durability) -> Self {
        Machine {
            disk: Disk::new(),
            durable: Durable::default(),
            boot: BootId(random.bytes()),
            is_on: true,
            process: Process::Down,
            durability,
        }
    }

    pub(super) fn here(&self) -> Here {
        Here {
            boot_id: Some(self.boot),
            durability: self.durability,
        }
    }

    /// A process starts and reads the record.
    pub(super) fn start(&mut self) {
        let name = "volume".to_owned();
        let volumes = [OnVolume {
            name,
            record: Ok(self.durable.volume.clone()),
        }];
        let settled = settle(MODULE, self.durable.file.clone(), &volumes).expect("a record that can be read");
        let mut record = settled.record;
        if settled.is_new {
            record = record.again(settled.revision + 1);
            self.durable.volume = Some(record.clone());
            self.durable.file = Some(record.clone());
        }
        self.process = Process::Stopped(record);
    }

    /// The process is killed. What it held open goes with it.
    pub(super) fn kill(&mut self) {
        self.process = Process::Down;
        self.disk.close_all();
    }

    pub(super) fn record(&self) -> Option<&Record> {
        match &self.process {
            Process::Down => None,
            Process::Stopped(record) => Some(record),
            Process::Primary(side) => Some(&side.record),
            Process::Secondary(side) => Some(&side.record),
        }
    }

    pub(super) fn set_record(&mut self, next: Record) {
        match &mut self.process {
            Process::Down => {}
            Process::Stopped(record) => *record = next,
            Process::Primary(side) => side.record = next,
            Process::Secondary(side) => side.record = next,
        }
    }

    /// The first half of a write of the record: the volume has it. What the state directory gets then.
    pub(super) fn begin_record(&mut self, change: impl FnOnce(&mut Record)) -> Option<Record> {
        let next = self.record()?.changed(change)?;
        self.durable.volume = Some(next.clone());
        Some(next)
    }

    /// The second half.
    pub(super) fn end_record(&mut self, next: Record) {
        self.durable.file = Some(next.clone());
        self.set_record(next);
    }

    /// As [`crate::dirty::store::MapStore::add`].
    pub(super) fn add_marks(&mut self, generation: Option<Generation>, records: Vec<SavedRecord>) {
        let map = self.durable.map.as_mut().expect("a map to add to");
        assert_eq!(
            Some(map.generation),
            generation,
            "marks for the map of another time alone"
        );
        for record in records {
            let units = Units {
                stored: EXTENT_BYTES,
                used: EXTENT_BYTES,
            };
            map.fold(record, units).expect("records in their order");
        }
    }

    /// As [`crate::dirty::store::MapStore::set_names_moved`]. False when the map is of another time alone.
    pub(super) fn set_names_moved(
        &mut self,
        generation: Option<Generation>,
        handles: &[(InodeId, FileHandle)],
    ) -> bool {
        match &mut self.durable.map {
            Some(map) if Some(map.generation) == generation => {
                map.names_moved = true;
                let handles = handles.iter().map(|(inode, handle)| SavedRecord::PeerHandle {
                    inode: *inode,
                    handle: handle.clone(),
                });
                self.add_marks(generation, handles.collect());
                true
            }
            _ => false,
        }
    }

    /// What is told of a copy at a meeting.
    pub(super) fn present(&self, remembers: bool, map_is_complete: bool, peer_checkpoint: u64) -> Present {
        Present {
            boot_id: Some(self.boot),
            remembers,
            map_is_complete,
            peer_checkpoint,
            // An application that removes everything is asked about by a person, and no volume is unmounted here.
            empty: self.record().is_none_or(|record| record.generation.is_none()),
            foreign: false,
            changed: self.changed(),
        }
    }

    /// As the map on disk says.
    fn changed(&self) -> Change {
        let record = self
            .record()
            .filter(|record| record.peer_lacks_data && record.tracked);
        let map = self.durable.map.as_ref();
        let map = map.filter(|map| record.is_some_and(|record| record.generation == Some(map.generation)));
        map.map_or(Change::UNKNOWN, |map| {
            map.amount(super::primary::extent_bytes(), |_| CELL_BYTES)
        })
    }
}
