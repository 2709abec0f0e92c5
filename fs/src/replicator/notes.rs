//! What the primary writes into the record of this node's copy.

use super::*;
use crate::dirty::store::Saved;

impl Replicator {
    /// A new generation, unless this node is on one of its own already; before it, what the secondary lacks.
    pub(super) fn note_alone(&self, loss: &Loss, saved: Option<Saved>) -> Event {
        let before = self.keeper.current();
        let own = before.generation.filter(|_| before.peer_lacks_data);
        let generation = match own.map_or_else(Generation::random, Ok) {
            Ok(generation) => generation,
            Err(error) => {
                return Event::NoteFailed {
                    reason: error.to_string(),
                };
            }
        };
        let tracked = self.save_map(saved, generation);
        let here = self.keeper.here();
        let noted = self.keeper.update(|record| {
            record.part(generation, format!("goes on alone: {loss}"), here);
            record.tracked = tracked;
        });
        match noted {
            Ok(record) => Event::Noted {
                generation: record.generation.unwrap_or(generation),
            },
            Err(error) => Event::NoteFailed {
                reason: error.to_string(),
            },
        }
    }

    /// The first change since this node is alone: that there is one is durable before it is.
    pub(super) fn note_changed(&self) -> Result<(), Errno> {
        match self
            .keeper
            .update(|record| record.changed_alone = record.peer_lacks_data)
        {
            Ok(_) => {
                self.unchanged.store(false, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                let message = format!("a change is refused, since it cannot be noted: {error}");
                self.reporter.report(What::Warning, message);
                Err(Errno(libc::EIO))
            }
        }
    }

    pub(super) fn note_verify(&self, reason: &str) {
        let note = format!("what was written last may not be on the disk: {reason}");
        if let Err(error) = self.keeper.devalue(|record| record.distrust(note)) {
            self.reporter.report(
                What::Warning,
                format!("that this copy cannot be trusted could not be noted: {error}"),
            );
        }
    }

    /// Counts a checkpoint that both nodes have.
    pub(super) fn note_checkpoint(&self, more: u64) -> Event {
        match self.keeper.update(|record| record.checkpoint += more) {
            Ok(_) => Event::CheckpointNoted,
            Err(error) => {
                let message = format!("a checkpoint could not be noted: {error}");
                self.reporter.report(What::Warning, message);
                Event::CheckpointNotNoted
            }
        }
    }

    pub(super) fn note_ended(&self, with_peer: bool, checkpoints: u64, saved: Option<Saved>) {
        let record = self.keeper.current();
        let alone = record.peer_lacks_data;
        // The exact map in place of the records, which are coarser.
        let tracked = match record.generation {
            Some(generation) if alone && record.tracked => self.save_map(saved, generation),
            Some(_) | None => record.tracked,
        };
        if (with_peer || alone)
            && let Err(error) = self.keeper.update(|record| {
                if alone {
                    record.end_alone();
                } else {
                    // The secondary has noted its end before.
                    record.end(End::Last);
                }
                record.tracked = tracked;
                record.checkpoint += checkpoints;
            })
        {
            self.reporter.report(
                What::Warning,
                format!("the clean end could not be noted: {error}"),
            );
        }
        info!(with_peer, "ended cleanly");
        if let Some(out) = self.lock().out.take() {
            out.close("the session has ended");
        }
        self.set_over();
    }
}
