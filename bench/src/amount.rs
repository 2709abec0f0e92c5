//! How much is done in one run of each test.
//!
//! Slow systems do not make everybody wait: what counts files ends after a time, and the rate is that of the files
//! it got to.

use std::time::Duration;

const MIB: u64 = 1 << 20;

/// The amounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    /// Rounds; the median of each value is reported.
    pub rounds: u32,
    /// Rows that have not begun by then are left out.
    pub time_max: Option<Duration>,
    /// Of the file that is written and read at random places.
    pub random_bytes: u64,
    /// Of the file that is written and read from its start.
    pub sequential_bytes: u64,
    /// How long random writes, and transactions of SQLite, go on.
    pub writes: Duration,
    /// How long random reads go on.
    pub reads: Duration,
    /// Small files made, asked about and removed.
    pub files: u64,
    /// Files in the archive.
    pub archive_files: u64,
    /// After which making, removing or unpacking files ends.
    pub files_time_max: Duration,
    /// How long one run of pgbench goes on.
    pub pgbench: Duration,
    /// pgbench's scale: 100,000 accounts, about 15 MB, each.
    pub pgbench_scale: u32,
    /// How long QUIC sends.
    pub transfer: Duration,
    /// Bytes of a first copy of large files.
    pub copy_bytes: u64,
    /// Files of a first copy of small ones.
    pub copy_files: u64,
}

impl Amount {
    /// For figures that are kept.
    pub fn full() -> Self {
        Amount {
            rounds: 3,
            time_max: None,
            random_bytes: 256 * MIB,
            sequential_bytes: 512 * MIB,
            writes: Duration::from_secs(5),
            reads: Duration::from_secs(3),
            files: 10_000,
            archive_files: 5_000,
            files_time_max: Duration::from_secs(15),
            pgbench: Duration::from_secs(8),
            pgbench_scale: 10,
            transfer: Duration::from_secs(3),
            copy_bytes: 1024 * MIB,
            copy_files: 5_000,
        }
    }

    /// For a look: ends within five minutes.
    pub fn quick() -> Self {
        Amount {
            rounds: 1,
            // A minute remains for the last row and for removing everything.
            time_max: Some(Duration::from_secs(240)),
            random_bytes: 64 * MIB,
            sequential_bytes: 128 * MIB,
            writes: Duration::from_secs(1),
            reads: Duration::from_secs(1),
            files: 1_000,
            archive_files: 500,
            files_time_max: Duration::from_secs(3),
            pgbench: Duration::from_secs(3),
            pgbench_scale: 1,
            transfer: Duration::from_secs(2),
            copy_bytes: 128 * MIB,
            copy_files: 500,
        }
    }
}
