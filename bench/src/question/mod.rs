//! The questions: what is done on each system, and what of it is reported.

mod first_copy;
mod pgbench;
mod quic_plain;
mod random_reads;
mod random_writes;
mod sequential;
mod small_files;
mod sqlite;
mod untar;

use crate::amount::Amount;
use crate::ground::Ground;
use crate::results::{Metric, Reading};
use crate::system::{System, SystemName};
use anyhow::Result;
use clap::ValueEnum;

/// A test, by the name under which its values are kept. In the order of a round: later ones use the files that
/// earlier ones leave, and make them where they are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Question {
    /// 4 KiB written at random places of a file, through the page cache.
    #[value(name = "rand_write_4k")]
    RandWrite4k,
    /// The same with an `fsync` after each write.
    #[value(name = "rand_write_4k_fsync")]
    RandWrite4kFsync,
    /// 4 KiB read at random places of a file that was read before.
    #[value(name = "rand_read_4k_cached")]
    RandRead4kCached,
    /// The same after the page cache was dropped, each block once.
    #[value(name = "rand_read_4k_cold")]
    RandRead4kCold,
    /// A new file written from its start, 1 MiB at a time, without an `fsync`.
    #[value(name = "seq_write_1m")]
    SeqWrite1m,
    /// That file read from its start after the page cache was dropped.
    #[value(name = "seq_read_1m")]
    SeqRead1m,
    /// Files of 4 KiB made: create, write, close.
    #[value(name = "create_10k")]
    Create10k,
    /// Their status asked for, for the second time.
    #[value(name = "stat_10k")]
    Stat10k,
    /// They are removed.
    #[value(name = "unlink_10k")]
    Unlink10k,
    /// `tar -x` of small files.
    #[value(name = "untar")]
    Untar,
    /// SQLite in WAL mode, `synchronous = FULL`, one insert a transaction.
    #[value(name = "sqlite_wal")]
    SqliteWal,
    /// PostgreSQL, TPC-B, one client.
    #[value(name = "pgbench_1")]
    Pgbench1,
    /// The same with eight.
    #[value(name = "pgbench_8")]
    Pgbench8,
    /// A few large files brought to a secondary that has nothing.
    #[value(name = "first_copy_large")]
    FirstCopyLarge,
    /// Many small files, likewise.
    #[value(name = "first_copy_small")]
    FirstCopySmall,
    /// QUIC from memory to memory between the two hosts: the most that a first copy could reach.
    #[value(name = "quic_plain")]
    QuicPlain,
    /// Most memory that the primary's daemon had during all of it.
    #[value(name = "memory_primary")]
    MemoryPrimary,
    /// Most memory that the secondary's daemon had.
    #[value(name = "memory_secondary")]
    MemorySecondary,
}

/// Where a question is asked.
pub struct Place<'a> {
    /// The hosts.
    pub ground: &'a Ground,
    /// How much is to be done.
    pub amount: &'a Amount,
    /// Which system it is.
    pub name: SystemName,
    /// The system.
    pub system: &'a dyn System,
}

impl Question {
    /// As it is written down.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// What its answer consists of.
    pub fn metrics(self) -> &'static [Metric] {
        match self {
            Question::RandWrite4k
            | Question::RandWrite4kFsync
            | Question::RandRead4kCached
            | Question::RandRead4kCold => &[Metric::Iops, Metric::P50Us, Metric::P99Us],
            Question::SeqWrite1m | Question::SeqRead1m | Question::FirstCopyLarge | Question::QuicPlain => {
                &[Metric::MbPerS]
            }
            Question::Create10k
            | Question::Stat10k
            | Question::Unlink10k
            | Question::Untar
            | Question::FirstCopySmall => &[Metric::OpsPerS],
            Question::SqliteWal | Question::Pgbench1 | Question::Pgbench8 => &[Metric::Tps],
            Question::MemoryPrimary | Question::MemorySecondary => &[Metric::PeakMib],
        }
    }

    /// Whether it is asked once at the end instead of in each round.
    pub fn is_last(self) -> bool {
        matches!(self, Question::MemoryPrimary | Question::MemorySecondary)
    }

    /// What can be made before the first round, over a network without faults.
    ///
    /// # Errors
    /// Whatever keeps it from being made; asking tries again and is then the one that fails.
    pub fn prepare(self, place: &Place) -> Result<()> {
        match self {
            Question::Pgbench1 | Question::Pgbench8 => pgbench::prepare(place),
            Question::RandWrite4k
            | Question::RandWrite4kFsync
            | Question::RandRead4kCached
            | Question::RandRead4kCold => random_writes::filled(place).map(drop),
            _ => Ok(()),
        }
    }

    /// Asks it once.
    ///
    /// # Errors
    /// Whatever kept it from an answer.
    pub fn ask(self, place: &Place) -> Result<Vec<Reading>> {
        match self {
            Question::RandWrite4k => random_writes::buffered(place),
            Question::RandWrite4kFsync => random_writes::synced(place),
            Question::RandRead4kCached => random_reads::cached(place),
            Question::RandRead4kCold => random_reads::cold(place),
            Question::SeqWrite1m => sequential::write(place),
            Question::SeqRead1m => sequential::read(place),
            Question::Create10k => small_files::create(place),
            Question::Stat10k => small_files::stat(place),
            Question::Unlink10k => small_files::unlink(place),
            Question::Untar => untar::untar(place),
            Question::SqliteWal => sqlite::wal(place),
            Question::Pgbench1 => pgbench::tpc_b(place, 1),
            Question::Pgbench8 => pgbench::tpc_b(place, 8),
            Question::FirstCopyLarge => first_copy::large(place),
            Question::FirstCopySmall => first_copy::small(place),
            Question::QuicPlain => quic_plain::transfer(place),
            Question::MemoryPrimary => crate::memory::peak(place, 0),
            Question::MemorySecondary => crate::memory::peak(place, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_have_the_names_that_others_rely_on() {
        let names: Vec<_> = Question::value_variants().iter().map(|q| q.name()).collect();
        let expected = "rand_write_4k rand_write_4k_fsync rand_read_4k_cached rand_read_4k_cold seq_write_1m \
             seq_read_1m create_10k stat_10k unlink_10k untar sqlite_wal pgbench_1 pgbench_8 first_copy_large \
             first_copy_small quic_plain memory_primary memory_secondary";
        assert_eq!(names.join(" "), expected);
    }
}
