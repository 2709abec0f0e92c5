//! The two clocks: one for decisions, one for time stamps of files.

use crate::operation::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// CLOCK_BOOTTIME: goes on while the machine is suspended, and nobody can set it. All decisions use it.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// CLOCK_REALTIME_COARSE: what the kernel itself stamps files with (`current_time()`, fs/inode.c).
pub fn stamp() -> Timestamp {
    let time = clock_gettime(ClockId::RealtimeCoarse);
    Timestamp {
        seconds: time.tv_sec,
        nanoseconds: u32::try_from(time.tv_nsec).unwrap_or(0),
    }
}
