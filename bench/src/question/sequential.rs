//! `seq_write_1m`, `seq_read_1m`: how fast a stream goes.
//!
//! The write ends without an `fsync`: both copies lie on the same disk here, so that with one the disk would be
//! measured, and every system that holds two copies would get one half.

use super::Place;
use crate::fio::{End, Job};
use crate::results::Reading;
use anyhow::Result;
use std::path::PathBuf;
use std::time::Duration;

/// A stream that takes longer is cut; its speed is that of the part.
const STREAM_MAX: Duration = Duration::from_secs(20);

fn file(place: &Place) -> PathBuf {
    place.system.directory().join("sequential")
}

/// Writes a new file.
///
/// # Errors
/// When `fio` fails.
pub fn write(place: &Place) -> Result<Vec<Reading>> {
    let file = file(place);
    let _: () = place.ground.work(&["remove", &file.to_string_lossy()])?;
    place.ground.settle(place.system.directory())?;
    let job = Job {
        file: &file,
        pattern: "write",
        block: "1m",
        bytes: place.amount.sequential_bytes,
        end: End::Once(STREAM_MAX),
        options: &["--create_on_open=1"],
    };
    Ok(job.run(place.ground)?.throughput())
}

/// Reads it from the disk, as long as the write before made it.
///
/// # Errors
/// When the file cannot be filled, the kernel does not drop its pages, or `fio` fails.
pub fn read(place: &Place) -> Result<Vec<Reading>> {
    let file = file(place);
    let path = file.to_string_lossy();
    let mut bytes: u64 = place.ground.work(&["size", &path])?;
    if bytes == 0 {
        bytes = place.amount.sequential_bytes;
        let _: () = place.ground.work(&["fill", &path, &bytes.to_string()])?;
    }
    place.ground.drop_pages(place.system.directory())?;
    let job = Job {
        file: &file,
        pattern: "read",
        block: "1m",
        bytes,
        end: End::Once(STREAM_MAX),
        options: &[],
    };
    Ok(job.run(place.ground)?.throughput())
}
