//! What an event asks for beyond the lock: applying, checking, noting, replying; and which thread does it.

use super::*;
use crate::dirty::store::Saved;
use crate::exclude::Walk;
use crate::operation::Rename;

/// What is done after the lock is released, in this order.
pub(super) enum Deferred {
    Apply {
        slot: Slot,
        operation: Operation,
    },
    Check {
        slot: Slot,
        operation: Operation,
        refused: Errno,
    },
    ReadBack {
        slot: Slot,
        operation: Operation,
    },
    ReadIn {
        slot: Slot,
        rename: Rename,
        from: u64,
    },
    Survey {
        walks: Vec<Walk>,
    },
    Reply {
        to: ReplyTo,
        result: Result<Applied, Errno>,
    },
    NoteAlone(Loss, Option<Saved>),
    NoteCheckpoint {
        more: u64,
    },
    /// The pair is in sync: no map is needed.
    ClearMap,
    NoteVerify {
        reason: String,
    },
    NoteHandedOver {
        checkpoints: u64,
    },
    NoteEnded {
        with_peer: bool,
        checkpoints: u64,
        saved: Option<Saved>,
    },
    NoteJoined,
}

/// Who runs deferred work: a session thread of the mount must not wait for a disk's flush, and the tasks of the
/// network must not wait for any disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// A thread of the blocking pool: one piece may run here.
    Worker,
    /// A thread of the mount: what is no sync may run here, as on any file system.
    Mount,
    /// The thread that the answers arrive at: only short operations run here.
    Arrival,
    /// A task of the runtime: nothing that blocks.
    Task,
}

impl Runs {
    fn may_apply(self, operation: &Operation) -> bool {
        match self {
            Runs::Mount => !operation.is_sync() && !matches!(operation, Operation::CopyRange { .. }),
            Runs::Arrival => operation.is_short(),
            Runs::Worker | Runs::Task => false,
        }
    }
}

impl Replicator {
    /// Does deferred work, and what follows from it, until nothing is left.
    pub(super) fn carry_out(self: &Arc<Self>, mut deferred: VecDeque<Deferred>, runs: Runs) {
        let mut may_block = runs == Runs::Worker;
        while let Some(work) = deferred.pop_front() {
            let here = match &work {
                Deferred::Reply { .. } => true,
                Deferred::Apply { operation, .. } => {
                    std::mem::take(&mut may_block) || runs.may_apply(operation)
                }
                Deferred::Check { .. }
                | Deferred::ReadBack { .. }
                | Deferred::ReadIn { .. }
                | Deferred::Survey { .. }
                | Deferred::NoteAlone(..)
                | Deferred::NoteCheckpoint { .. }
                | Deferred::ClearMap
                | Deferred::NoteVerify { .. }
                | Deferred::NoteJoined
                | Deferred::NoteHandedOver { .. }
                | Deferred::NoteEnded { .. } => std::mem::take(&mut may_block),
            };
            if here {
                for sequel in self.work(work) {
                    // An application that waits goes before the next piece.
                    match sequel {
                        reply @ Deferred::Reply { .. } => deferred.push_front(reply),
                        other => deferred.push_back(other),
                    }
                }
                // What it led to may run here as well: this thread has nothing else to do.
                may_block = runs == Runs::Worker;
            } else {
                let replicator = self.clone();
                self.runtime.spawn_blocking(move || {
                    let sequel = replicator.work(work);
                    replicator.carry_out(sequel, Runs::Worker);
                });
            }
        }
    }

    /// One piece of work; gives what follows from it.
    fn work(self: &Arc<Self>, work: Deferred) -> VecDeque<Deferred> {
        let event = match work {
            Deferred::Reply { to, result } => {
                to(result);
                return VecDeque::new();
            }
            Deferred::Apply { slot, operation } => {
                let began = Instant::now();
                let outcome = self.store.apply(&operation);
                self.local.record(began.elapsed());
                Event::LocalDone { slot, outcome }
            }
            Deferred::Check {
                slot,
                operation,
                refused,
            } => Event::Checked {
                slot,
                refusal: self.store.refusal_like(&operation, refused),
            },
            Deferred::ReadBack { slot, operation } => {
                let operations = match self.store.true_state(&operation) {
                    Ok(operations) => operations,
                    Err(errno) => {
                        warn!(%errno, "cannot read this node's true state for a repair; the secondary is left behind");
                        None
                    }
                };
                Event::ReadBack { slot, operations }
            }
            Deferred::ReadIn { slot, rename, from } => Event::ReadIn {
                slot,
                piece: self.store.read_in(&rename, from),
            },
            Deferred::Survey { walks } => Event::Surveyed {
                stays: self.store.stay(&walks),
            },
            Deferred::NoteAlone(loss, saved) => self.note_alone(&loss, saved),
            Deferred::NoteCheckpoint { more } => self.note_checkpoint(more),
            Deferred::ClearMap => {
                self.clear_map();
                return VecDeque::new();
            }
            Deferred::NoteJoined => self.note_joined(),
            Deferred::NoteVerify { reason } => {
                self.note_verify(&reason);
                return VecDeque::new();
            }
            Deferred::NoteHandedOver { checkpoints } => self.note_handed_over(checkpoints),
            Deferred::NoteEnded {
                with_peer,
                checkpoints,
                saved,
            } => {
                self.note_ended(with_peer, checkpoints, saved);
                return VecDeque::new();
            }
        };
        self.drive(|| {
            let mut inner = self.lock();
            self.step(&mut inner, event)
        })
    }
}
