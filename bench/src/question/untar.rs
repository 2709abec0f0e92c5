//! `untar`: what installing software, or restoring a backup, costs.

use super::Place;
use crate::ground::WORKER;
use crate::results::{Metric, Reading};
use crate::work::Rate;
use anyhow::Result;

/// Unpacks the archive into a new directory.
///
/// # Errors
/// When the archive cannot be made or `tar` fails.
pub fn untar(place: &Place) -> Result<Vec<Reading>> {
    let ground = place.ground;
    let archive = ground.directory(WORKER, "archive")?.join("archive.tar");
    let archive = archive.to_string_lossy();
    if !std::path::Path::new(archive.as_ref()).exists() {
        let count = place.amount.archive_files.to_string();
        let _: () = ground.work(&["make-archive", &archive, "--count", &count])?;
    }
    let target = place.system.directory().join("untar");
    let target = target.to_string_lossy();
    let _: () = ground.work(&["remove", &target])?;
    ground.settle(place.system.directory())?;
    let limit = place.amount.files_time_max.as_millis().to_string();
    let rate: Rate = ground.work(&["untar", &archive, &target, "--limit-ms", &limit])?;
    let _: () = ground.work(&["remove", &target])?;
    Ok(vec![Reading::new(Metric::OpsPerS, rate.per_second())])
}
