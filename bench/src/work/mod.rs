//! What runs on the working host: `bench work ...`, started there by the measuring process, printing JSON.

mod archive;
mod files;
mod small_files;
mod sqlite;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How much was done in which time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// In how many seconds.
    pub seconds: f64,
}

impl Rate {
    /// How many in a second.
    pub fn per_second(self) -> f64 {
        self.count as f64 / self.seconds.max(1e-9)
    }
}

/// The works.
#[derive(Debug, Subcommand)]
pub enum Work {
    /// Write back what the kernel holds of a directory's file system.
    Settle { directory: PathBuf },
    /// Whether there is something of this name.
    Exists { path: PathBuf },
    /// Bytes of a file; 0 when there is none.
    Size { path: PathBuf },
    /// Remove a file, or a directory with everything in it; nothing is fine.
    Remove { path: PathBuf },
    /// Make a directory, with its parents.
    MakeDirectory { path: PathBuf },
    /// Make a file of this size, unless it has it.
    Fill { file: PathBuf, bytes: u64 },
    /// Read a file to its end.
    Read { file: PathBuf },
    /// Make small files.
    CreateFiles {
        directory: PathBuf,
        #[arg(long)]
        count: u64,
        #[arg(long, value_parser = milliseconds)]
        limit_ms: Duration,
    },
    /// Ask for the status of each.
    StatFiles {
        directory: PathBuf,
        #[arg(long, value_parser = milliseconds)]
        limit_ms: Duration,
    },
    /// Remove each.
    UnlinkFiles {
        directory: PathBuf,
        #[arg(long, value_parser = milliseconds)]
        limit_ms: Duration,
    },
    /// Make an archive of small files.
    MakeArchive {
        archive: PathBuf,
        #[arg(long)]
        count: u64,
    },
    /// Unpack it.
    Untar {
        archive: PathBuf,
        directory: PathBuf,
        #[arg(long, value_parser = milliseconds)]
        limit_ms: Duration,
    },
    /// Insert rows into a new database.
    Sqlite {
        directory: PathBuf,
        #[arg(long, value_parser = milliseconds)]
        limit_ms: Duration,
    },
    /// Send bytes to a `quic-sink`.
    QuicSend {
        address: SocketAddr,
        certificate: PathBuf,
        #[arg(long, value_parser = milliseconds)]
        limit_ms: Duration,
    },
}

/// Does it and prints what came of it.
///
/// # Errors
/// What kept it from the end.
pub fn run(work: Work) -> Result<()> {
    match work {
        Work::Settle { directory } => print(&files::settle(&directory)?),
        Work::Exists { path } => print(&path.exists()),
        Work::Size { path } => print(&std::fs::metadata(&path).map_or(0, |found| found.len())),
        Work::Remove { path } => print(&files::remove(&path)?),
        Work::MakeDirectory { path } => {
            print(&std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?)
        }
        Work::Fill { file, bytes } => print(&files::fill(&file, bytes)?),
        Work::Read { file } => print(&files::read(&file)?),
        Work::CreateFiles {
            directory,
            count,
            limit_ms,
        } => print(&small_files::create(&directory, count, limit_ms)?),
        Work::StatFiles { directory, limit_ms } => print(&small_files::stat(&directory, limit_ms)?),
        Work::UnlinkFiles { directory, limit_ms } => print(&small_files::unlink(&directory, limit_ms)?),
        Work::MakeArchive { archive, count } => print(&archive::make(&archive, count)?),
        Work::Untar {
            archive,
            directory,
            limit_ms,
        } => print(&archive::unpack(&archive, &directory, limit_ms)?),
        Work::Sqlite { directory, limit_ms } => print(&sqlite::insert(&directory, limit_ms)?),
        Work::QuicSend {
            address,
            certificate,
            limit_ms,
        } => print(&crate::quic::send(address, &certificate, limit_ms)?),
    }
}

fn print(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

fn milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_millis)
}
