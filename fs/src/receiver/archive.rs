//! What this node loses by a copy is put aside before it is answered.

use super::*;
use crate::backing::{ArchiveError, Occasion};
use std::time::SystemTime;

/// How long a caller waits. What takes longer goes on, and the next call finds it done.
const PATIENCE: Duration = Duration::from_secs(15);

impl Shared {
    /// Makes an archive of this copy, once for each state of it; complete and on disk when it succeeds.
    ///
    /// # Errors
    /// With what is to be told to the primary: there is none, or not yet.
    pub(super) async fn put_aside(self: &Arc<Self>) -> Result<(), Rejection> {
        let shared = self.clone();
        // Of its own: it goes on when the caller has gone.
        let making = tokio::spawn(async move {
            let mut done = shared.put_aside.lock().await;
            let record = shared.keeper.current();
            if *done == Some(record.revision()) {
                return Ok(());
            }
            let worker = shared.clone();
            let revision = record.revision();
            let made = tokio::task::spawn_blocking(move || worker.archive(&record)).await;
            match made {
                Ok(Ok(())) => {
                    *done = Some(revision);
                    Ok(())
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        });
        let refused = |why: String| {
            Err(Rejection::Unfit(format!(
                "what it would lose cannot be put aside: {why}. Nothing was overwritten"
            )))
        };
        match tokio::time::timeout(PATIENCE, making).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(why))) => refused(why),
            Ok(Err(error)) => refused(error.to_string()),
            Err(_) => refused("that goes on; connect again in a while".into()),
        }
    }

    fn archive(&self, record: &Record) -> Result<(), ArchiveError> {
        let line = |generation: Option<Generation>| match generation {
            Some(generation) => generation.to_string(),
            None => "none".to_owned(),
        };
        let occasion = Occasion {
            module: record.module.clone(),
            generation: line(record.generation),
            base: line(record.base),
        };
        let now = humantime_serde::re::humantime::format_rfc3339_millis(SystemTime::now());
        let name = format!("{now}-{}", occasion.generation);
        for archived in self.store.archive(&name, &occasion)? {
            let message = format!(
                "what this node would lose was put aside in {}: {} entries, {} bytes of data",
                archived.place, archived.entries, archived.bytes
            );
            let what = What::Archived {
                path: archived.place,
                entries: archived.entries,
                bytes: archived.bytes,
            };
            self.reporter.report(what, message);
        }
        Ok(())
    }

    pub(super) fn report_split(&self, split: &Split) {
        let changed = |change: Change| change != Change::NOTHING;
        let (resolution, outcome) = match split.resolution {
            Resolution::KeepPrimary => ("keep-primary", "the primary's changes stay"),
            Resolution::KeepSecondary => ("keep-secondary", "this node's stay: it should be the primary"),
            Resolution::Manual => ("manual", "a person says which stay"),
        };
        let side = |change| match changed(change) {
            true => "has changed something, or may have",
            false => "has changed nothing",
        };
        let message = format!(
            "split brain: apart from each other, the primary {} and this node {}; {outcome}",
            side(split.primary),
            side(split.secondary)
        );
        let what = What::SplitBrain {
            primary_changed: changed(split.primary),
            secondary_changed: changed(split.secondary),
            resolution: resolution.to_owned(),
        };
        self.reporter.report(what, message);
    }
}
