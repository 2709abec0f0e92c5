//! What the secondary writes into the record of this node's copy.

use super::*;

impl Shared {
    /// Runs a durable note on a worker; a checkpoint comes first where the note says that all is on disk.
    pub(super) fn note(
        self: &Arc<Self>,
        attempt: &'static str,
        write: impl FnOnce(&Shared) -> anyhow::Result<()> + Send + 'static,
    ) {
        let shared = self.clone();
        self.notes.send_modify(|notes| *notes += 1);
        self.runtime.spawn_blocking(move || {
            let synced = match shared.store.checkpoint() {
                Ok(()) => write(&shared).map_err(|error| format!("{error:#}")),
                Err(errno) => Err(format!("the backing file system cannot be synced: {errno}")),
            };
            let event = match synced {
                Ok(()) => Event::Noted,
                Err(error) => Event::NoteFailed {
                    reason: format!("cannot {attempt}: {error}"),
                },
            };
            let mut work = VecDeque::new();
            shared.executor.drive(|| {
                let mut inner = shared.lock();
                shared.step(&mut inner, event, &mut work);
                shared.notes.send_modify(|notes| *notes -= 1);
            });
            shared.carry_out(work);
        });
    }

    /// Says in the directories themselves that they belong to this module, so that a later copy may overwrite them.
    pub(super) fn mark(&self) -> anyhow::Result<()> {
        let module = self.keeper.current().module;
        (0..self.store.directories()).try_for_each(|index| self.store.set_marker(index, &module))?;
        Ok(())
    }

    /// Gives the directories themselves the attributes that they have on the primary, where those differ.
    pub(super) fn take_over(&self, tops: &[Top]) -> anyhow::Result<()> {
        for (index, top) in tops.iter().enumerate() {
            if self.store.top(index)? == *top {
                continue;
            }
            let operation = Operation::SetAttributes {
                inode: InodeId::root(index),
                attributes: Attributes {
                    mode: Some(top.mode),
                    uid: Some(top.uid),
                    gid: Some(top.gid),
                    mtime: Some(top.mtime),
                    ..Attributes::default()
                },
            };
            match self.store.apply(&operation) {
                Outcome::Applied(_) => {}
                other => anyhow::bail!("directory {index} does not take the primary's attributes: {other:?}"),
            }
        }
        Ok(())
    }

    /// A session that was never welcomed leaves nothing behind: the record says again what it said before. (After a
    /// welcome the primary may go on alone, and this copy is old then.)
    pub(super) fn restore_record(&self) {
        let Some(before) = self.lock().before.take() else {
            return;
        };
        if let Err(error) = self.keeper.update(|record| *record = before) {
            // It goes on saying "open", which errs on the safe side.
            warn!(%error, "the record of a session that changed nothing could not be put back");
        }
    }
}
