//! `rand_write_4k`, `rand_write_4k_fsync`: what a database's writes cost, one at a time.

use super::Place;
use crate::fio::{End, Job};
use crate::results::Reading;
use anyhow::Result;
use std::path::PathBuf;

/// The file that is written and read at random places, filled once.
///
/// # Errors
/// When it cannot be filled.
pub(super) fn filled(place: &Place) -> Result<PathBuf> {
    let file = place.system.directory().join("random");
    let bytes = place.amount.random_bytes.to_string();
    let _: () = place.ground.work(&["fill", &file.to_string_lossy(), &bytes])?;
    Ok(file)
}

/// Writes through the page cache.
///
/// # Errors
/// When the file cannot be filled or `fio` fails.
pub fn buffered(place: &Place) -> Result<Vec<Reading>> {
    run(place, &["--overwrite=1"])
}

/// Each write followed by an `fsync`.
///
/// # Errors
/// As [`buffered`].
pub fn synced(place: &Place) -> Result<Vec<Reading>> {
    run(place, &["--overwrite=1", "--fsync=1"])
}

fn run(place: &Place, options: &[&str]) -> Result<Vec<Reading>> {
    let file = filled(place)?;
    place.ground.settle(place.system.directory())?;
    let job = Job {
        file: &file,
        pattern: "randwrite",
        block: "4k",
        bytes: place.amount.random_bytes,
        end: End::After(place.amount.writes),
        options,
    };
    Ok(job.run(place.ground)?.operations())
}
