//! `create_10k`, `stat_10k`, `unlink_10k`: what names cost.

use super::Place;
use crate::results::{Metric, Reading};
use crate::work::Rate;
use anyhow::Result;

/// Makes the files.
///
/// # Errors
/// When a file cannot be made.
pub fn create(place: &Place) -> Result<Vec<Reading>> {
    let _: () = place.ground.work(&["remove", &directory(place)])?;
    place.ground.settle(place.system.directory())?;
    Ok(vec![make(place)?])
}

/// Asks for the status of each file, once everything about it is known.
///
/// # Errors
/// When a file is missing.
pub fn stat(place: &Place) -> Result<Vec<Reading>> {
    make_missing(place)?;
    let limit = place.amount.reads.as_millis().to_string();
    rate(place, &["stat-files", &directory(place), "--limit-ms", &limit]).map(|one| vec![one])
}

/// Removes the files.
///
/// # Errors
/// When one cannot be removed.
pub fn unlink(place: &Place) -> Result<Vec<Reading>> {
    make_missing(place)?;
    place.ground.settle(place.system.directory())?;
    let limit = place.amount.files_time_max.as_millis().to_string();
    let one = rate(place, &["unlink-files", &directory(place), "--limit-ms", &limit])?;
    let _: () = place.ground.work(&["remove", &directory(place)])?;
    Ok(vec![one])
}

fn directory(place: &Place) -> String {
    place
        .system
        .directory()
        .join("files")
        .to_string_lossy()
        .into_owned()
}

fn make_missing(place: &Place) -> Result<()> {
    let is_there: bool = place.ground.work(&["exists", &directory(place)])?;
    if !is_there {
        make(place)?;
    }
    Ok(())
}

fn make(place: &Place) -> Result<Reading> {
    let (count, limit) = (
        place.amount.files.to_string(),
        place.amount.files_time_max.as_millis().to_string(),
    );
    rate(
        place,
        &[
            "create-files",
            &directory(place),
            "--count",
            &count,
            "--limit-ms",
            &limit,
        ],
    )
}

fn rate(place: &Place, work: &[&str]) -> Result<Reading> {
    let rate: Rate = place.ground.work(work)?;
    Ok(Reading::new(Metric::OpsPerS, rate.per_second()))
}
