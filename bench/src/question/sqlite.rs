//! `sqlite_wal`: a small database that promises durability.

use super::Place;
use crate::results::{Metric, Reading};
use crate::work::Rate;
use anyhow::Result;

/// Inserts, each a transaction of its own.
///
/// # Errors
/// When `sqlite3` fails.
pub fn wal(place: &Place) -> Result<Vec<Reading>> {
    let directory = place.system.directory().join("sqlite");
    let directory = directory.to_string_lossy();
    let _: () = place.ground.work(&["remove", &directory])?;
    place.ground.settle(place.system.directory())?;
    let limit = place.amount.writes.as_millis().to_string();
    let rate: Rate = place.ground.work(&["sqlite", &directory, "--limit-ms", &limit])?;
    let _: () = place.ground.work(&["remove", &directory])?;
    Ok(vec![Reading::new(Metric::Tps, rate.per_second())])
}
