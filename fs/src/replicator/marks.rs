//! The dirty map on disk: written by one thread, so that records of operations that come together share a flush.
//!
//! ```text
//!   numbering (under the lock)         marks thread                    lanes
//!   Action::Mark ---> queue  ------->  one transaction for all  -----> Event::Marked opens their gates
//! ```

use super::*;
use crate::dirty::maps::Maps;
use crate::dirty::store::{Saved, SavedRecord};
use crate::dirty::{DirtyMap, MarkSeq, Record};
use crate::record::Record as CopyRecord;
use std::sync::{Condvar, Weak};

/// What the marks thread and those who number share.
#[derive(Default)]
pub(super) struct Marks {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    records: Vec<SavedRecord>,
    /// Of the time alone that the records belong to.
    generation: Option<Generation>,
    last: Option<MarkSeq>,
    /// Up to here everything is on disk, or it is on disk that the map is not complete.
    settled: MarkSeq,
    over: bool,
}

impl Marks {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Values are moved in and out whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock of the session, so that the order is that of the numbers.
    pub(super) fn add(
        &self,
        seq: MarkSeq,
        generation: Option<Generation>,
        records: impl IntoIterator<Item = SavedRecord>,
    ) {
        let mut queue = self.lock();
        if queue.generation != generation {
            // The copy that ended that time has brought over what they speak of.
            queue.records.clear();
            queue.generation = generation;
        }
        queue.records.extend(records);
        queue.last = Some(seq);
        self.changed.notify_all();
    }

    pub(super) fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    fn settle(&self, seq: MarkSeq) {
        self.lock().settled = seq;
        self.changed.notify_all();
    }

    /// Waits until that is settled, or everything is over.
    fn wait(&self, seq: MarkSeq) {
        let mut queue = self.lock();
        while queue.settled < seq && !queue.over {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// All that has come, waiting for some; none when it is over.
    fn take(&self) -> Option<(Option<Generation>, Vec<SavedRecord>, MarkSeq)> {
        let mut queue = self.lock();
        loop {
            if queue.over {
                return None;
            }
            if let Some(last) = queue.last.take() {
                return Some((queue.generation, std::mem::take(&mut queue.records), last));
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts the thread that writes what comes until the replicator is over.
pub(super) fn start(replicator: &Arc<Replicator>) {
    let (weak, marks, maps) = (
        Arc::downgrade(replicator),
        replicator.marks.clone(),
        replicator.maps.clone(),
    );
    let started = std::thread::Builder::new()
        .name("marks".into())
        .spawn(move || write(&weak, &marks, &maps));
    if let Err(error) = started {
        let event = replicator.note_untracked(format!("cannot start a thread: {error}"));
        replicator.event(event, Runs::Task);
    }
}

fn write(replicator: &Weak<Replicator>, marks: &Marks, maps: &Maps) {
    while let Some((of, records, last)) = marks.take() {
        let Some(replicator) = replicator.upgrade() else {
            return;
        };
        let written = match replicator.keeper.generation() {
            // The time alone that they belong to is over, and what they speak of is at the secondary.
            generation if generation != of => Ok(()),
            Some(generation) => maps.add(generation, &records).map_err(|error| error.to_string()),
            None => Err("this node has no generation".to_owned()),
        };
        let event = match written {
            Ok(()) => Event::Marked { seq: last },
            Err(reason) => replicator.note_untracked(reason),
        };
        replicator.event(event, Runs::Worker);
        marks.settle(last);
    }
}

impl Replicator {
    /// Writes marks that no operation of its own needs, and waits for them. False when the map is of no use any more.
    pub(super) fn write_marks(&self, mark: impl FnOnce(&mut Primary) -> (MarkSeq, Vec<Record>)) -> bool {
        let seq = {
            let mut inner = self.lock();
            let (seq, records) = mark(&mut inner.primary);
            if !records.is_empty() {
                let saved = records
                    .into_iter()
                    .filter_map(|record| self.saved_record(&inner.primary, record));
                let saved: Vec<SavedRecord> = saved.collect();
                // Under the lock: behind what introduces their directories.
                self.marks.add(seq, self.keeper.generation(), saved);
                Some(seq)
            } else {
                None
            }
        };
        if let Some(seq) = seq {
            self.marks.wait(seq);
        }
        self.lock().primary.copy_plan().is_some()
    }

    /// That the dirty map is not complete is on disk when this returns [`Event::Untracked`].
    fn note_untracked(&self, reason: String) -> Event {
        let noted = self.keeper.devalue(|record| record.tracked = false);
        match noted {
            Ok(_) => Event::Untracked { reason },
            Err(error) => Event::MarkFailed {
                reason: format!("{reason}; nor that the map is not complete: {error}"),
            },
        }
    }

    /// The record of one mark as it goes to disk; none of an inode that is gone. Under the lock.
    pub(super) fn saved_record(&self, primary: &Primary, record: Record) -> Option<SavedRecord> {
        SavedRecord::of(record, &|inode| self.store.place(inode), &|inode| {
            primary.peer_of(inode)
        })
    }

    /// What the secondary lacks, to be kept under a generation that is not known yet; none when that is not known.
    /// Under the lock.
    pub(super) fn saved(&self, primary: &Primary) -> Option<Saved> {
        let (plan, peers, names_moved) = primary.copy_plan()?;
        let find = |inode| self.store.place(inode);
        let peer = |inode| peers.get(&inode).cloned();
        Some(Saved {
            names_moved,
            peer_checkpoint: self.peer_checkpoint(&self.keeper.current()),
            ..Saved::of(Generation([0; 16]), &plan, &find, &peer)
        })
    }

    /// How many checkpoints the secondary had counted at least when the two parted.
    pub(super) fn peer_checkpoint(&self, record: &CopyRecord) -> u64 {
        match self.peer_counted.load(Ordering::Acquire) {
            0 => record.checkpoint,
            counted => counted - 1,
        }
    }

    /// Keeps the map under `generation`. False when there is none or it cannot be kept: the next copy is whole.
    pub(super) fn save_map(&self, saved: Option<Saved>, generation: Generation) -> bool {
        let Some(saved) = saved else {
            return false;
        };
        match self.maps.replace(&Saved { generation, ..saved }) {
            Ok(()) => true,
            Err(error) => {
                let message = format!("{error}; the next copy to the secondary compares everything");
                self.reporter.report(What::Warning, message);
                false
            }
        }
    }

    pub(super) fn clear_map(&self) {
        self.peer_counted.store(0, Ordering::Release);
        let former = self
            .joined_from
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(former) = former else { return };
        if let Err(error) = self.maps.clear(former) {
            // It is of another generation and so of no effect.
            debug!(%error, "the dirty map of the time alone is not removed");
        }
    }

    /// What the record and the map on disk say of the secondary. Before anything is submitted.
    pub(super) fn restore_map(&self) {
        let record = self.keeper.current();
        let mut inner = self.lock();
        if !record.peer_lacks_data {
            // Nothing was written alone. What a session left unfinished is not known any more.
            if record.open || record.generation.is_none() {
                inner.primary.lose_map("no session has ended cleanly".into());
            }
            return;
        }
        let loaded = match self.maps.load() {
            _ if !record.tracked => Err("it was not complete".to_owned()),
            Ok(Some(saved)) if Some(saved.generation) != record.generation => {
                Err("the one on disk is of another time alone".to_owned())
            }
            Ok(Some(saved)) if saved.everything => Err("it says that everything may differ".to_owned()),
            Ok(Some(saved)) => Ok(saved),
            Ok(None) => Err("there is none on disk".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match loaded {
            Ok(saved) => self.restore(&mut inner, saved),
            Err(why) => {
                info!(%why, "no dirty map: the next copy compares everything");
                inner.primary.lose_map(why);
            }
        }
    }

    fn restore(&self, inner: &mut Inner, saved: Saved) {
        self.peer_counted
            .store(saved.peer_checkpoint + 1, Ordering::Release);
        let names_moved = saved.names_moved;
        let (marks, peers) = saved.adopt(|old, node| {
            if (1..=self.store.directories() as u64).contains(&old.0) {
                return old;
            }
            let new = self.store.next_inode();
            self.store.learn(new, node.root as usize, node.handle.clone());
            inner
                .lingering
                .insert((node.root as usize, node.handle.clone()), new);
            new
        });
        let map = DirtyMap::restore(marks, self.config.extent_bytes);
        info!(nodes = map.plan().nodes.len(), "the dirty map is read");
        inner.primary.restore_map(map, peers, names_moved);
    }
}
