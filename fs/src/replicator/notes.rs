//! What the primary writes into the record of this node's copy.

use super::*;

impl Replicator {
    /// A new generation, unless this node is on one of its own already.
    pub(super) fn note_alone(&self, loss: &Loss) -> Event {
        let generation = match Generation::random() {
            Ok(generation) => generation,
            Err(error) => {
                return Event::NoteFailed {
                    reason: error.to_string(),
                };
            }
        };
        let here = self.keeper.here();
        let noted = self
            .keeper
            .update(|record| record.part(generation, format!("goes on alone: {loss}"), here));
        match noted {
            Ok(record) => Event::Noted {
                generation: record.generation.unwrap_or(generation),
            },
            Err(error) => Event::NoteFailed {
                reason: error.to_string(),
            },
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

    pub(super) fn note_ended(&self, with_peer: bool) {
        let alone = self.keeper.current().peer_lacks_data;
        if (with_peer || alone)
            && let Err(error) = self.keeper.update(|record| {
                if alone {
                    record.end_alone();
                } else {
                    // The secondary has noted its end before.
                    record.end(End::Last);
                }
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
        self.over.send_replace(true);
    }
}
