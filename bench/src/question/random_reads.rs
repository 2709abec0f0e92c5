//! `rand_read_4k_cached`, `rand_read_4k_cold`: what reading costs when the kernel has the pages, and when it has not.

use super::{Place, random_writes};
use crate::fio::{End, Job};
use crate::results::Reading;
use anyhow::Result;

/// Reads of what was read before.
///
/// # Errors
/// When the file cannot be filled or `fio` fails.
pub fn cached(place: &Place) -> Result<Vec<Reading>> {
    let file = random_writes::filled(place)?;
    let _: () = place.ground.work(&["read", &file.to_string_lossy()])?;
    let job = Job {
        file: &file,
        pattern: "randread",
        block: "4k",
        bytes: place.amount.random_bytes,
        end: End::After(place.amount.reads),
        options: &["--invalidate=0"],
    };
    Ok(job.run(place.ground)?.operations())
}

/// Reads from the disk: no block is read twice.
///
/// # Errors
/// As [`cached`], and when the kernel does not drop its pages.
pub fn cold(place: &Place) -> Result<Vec<Reading>> {
    let file = random_writes::filled(place)?;
    place.ground.drop_pages(place.system.directory())?;
    let job = Job {
        file: &file,
        pattern: "randread",
        block: "4k",
        bytes: place.amount.random_bytes,
        end: End::Once(place.amount.reads),
        options: &[],
    };
    Ok(job.run(place.ground)?.operations())
}
