//! The systems that are measured side by side, each a directory on the working host.

mod ext4;
mod fuse_passthrough;
pub mod glusterfs;
mod sidekick;
mod tcp_floor;

use crate::ground::Ground;
use crate::question::Question;
use anyhow::Result;
use clap::ValueEnum;
use lab::process::ProcessId;
use std::path::Path;

/// Names of the systems, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum SystemName {
    /// A plain directory.
    Ext4,
    /// Sidekick's mount without a peer.
    FusePassthrough,
    /// The same FUSE layer with the simplest replication there can be.
    TcpFloor,
    /// Sidekick, `sync = "write"`.
    SidekickWrite,
    /// Sidekick, `sync = "flush"`.
    SidekickFlush,
    /// GlusterFS, replica 2.
    Glusterfs,
    /// No file system: QUIC from memory to memory.
    Quinn,
}

impl SystemName {
    /// As it is written down.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Whether a question can be asked of it at all.
    pub fn is_asked(self, question: Question) -> bool {
        match question {
            Question::QuicPlain => self == SystemName::Quinn,
            Question::FirstCopyLarge => self == SystemName::SidekickWrite,
            Question::FirstCopySmall => matches!(self, SystemName::SidekickWrite | SystemName::Glusterfs),
            Question::MemoryPrimary | Question::MemorySecondary => {
                matches!(self, SystemName::SidekickWrite | SystemName::SidekickFlush)
            }
            _ => self != SystemName::Quinn,
        }
    }
}

/// A system that is up. It goes down with the ground it stands on.
pub trait System {
    /// The directory under test, as programs on the working host see it.
    fn directory(&self) -> &Path;

    /// Why an answer of this system to a question would mean nothing.
    fn excuse(&self, question: Question) -> Option<&'static str> {
        let _ = question;
        None
    }

    /// Asked after each run: whether it is still what it was brought up as.
    ///
    /// # Errors
    /// When it is not, with the reason; the run then does not count.
    fn check(&self, ground: &Ground) -> Result<()> {
        let _ = ground;
        Ok(())
    }

    /// The daemons whose memory is reported: of the primary and of the secondary.
    ///
    /// # Errors
    /// When the lab does not answer.
    fn daemons(&self, ground: &Ground) -> Result<Option<[ProcessId; 2]>> {
        let _ = ground;
        Ok(None)
    }
}

/// Brings a system up.
///
/// # Errors
/// When something it needs is missing or does not start, with what to do.
pub fn bring_up(name: SystemName, ground: &Ground) -> Result<Box<dyn System>> {
    use skfs::config::SyncMode;
    Ok(match name {
        SystemName::Ext4 => Box::new(ext4::Ext4::up(ground)?),
        SystemName::FusePassthrough => Box::new(fuse_passthrough::FusePassthrough::up(ground)?),
        SystemName::TcpFloor => Box::new(tcp_floor::TcpFloor::up(ground)?),
        SystemName::SidekickWrite => Box::new(sidekick::Sidekick::up(ground, SyncMode::Write)?),
        SystemName::SidekickFlush => Box::new(sidekick::Sidekick::up(ground, SyncMode::Flush)?),
        SystemName::Glusterfs => Box::new(glusterfs::Glusterfs::up(ground)?),
        SystemName::Quinn => Box::new(ext4::Ext4::up(ground)?),
    })
}
