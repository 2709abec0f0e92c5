//! What this node loses by a copy is put aside before it is answered.

use super::*;
use crate::backing::{ArchiveError, Changes, Occasion};
use std::sync::PoisonError;
use std::time::SystemTime;

/// How long a caller waits. What takes longer goes on, and a later call finds it done.
const PATIENCE: Duration = Duration::from_secs(1);

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
            info!("what this node would lose is put aside");
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
            Err(_) => Err(Rejection::Archiving),
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
        let map = self.maps.changed_alone(record).unwrap_or_else(|error| {
            warn!(%error, "the archive cannot say what was changed");
            None
        });
        let changes = map.as_ref().map(|map| Changes {
            map,
            extent_bytes: self.extent_bytes,
        });
        let now = humantime_serde::re::humantime::format_rfc3339_millis(SystemTime::now());
        let name = format!("{now}-{}", occasion.generation);
        for archived in self.store.archive(&name, &occasion, changes.as_ref())? {
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

    /// What a call of the primary has shown.
    pub(super) fn show_split(&self, split: Option<Split>) {
        *self.split.lock().unwrap_or_else(PoisonError::into_inner) = split;
        let Some(split) = split else { return };
        let outcome = match split.resolution {
            Resolution::KeepPrimary => "the primary's changes stay",
            Resolution::KeepSecondary => "this node's stay: it is to be the primary",
            Resolution::Manual => "a person says which stay",
        };
        let what = What::SplitBrain {
            primary: split.primary,
            secondary: split.secondary,
            resolution: split.resolution,
        };
        self.reporter.report(what, format!("{split}; {outcome}"));
    }
}
