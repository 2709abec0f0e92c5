//! The yardstick for a replicated write: see [`crate::floor`].

use super::System;
use crate::ground::{Ground, PEER, WORKER};
use crate::question::Question;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;

const START_MAX: Duration = Duration::from_secs(20);

/// The floor's mount.
#[derive(Debug)]
pub struct TcpFloor {
    directory: PathBuf,
}

impl TcpFloor {
    /// Starts its two programs.
    ///
    /// # Errors
    /// When one does not start.
    pub fn up(ground: &Ground) -> Result<Self> {
        let directory = ground.directory(WORKER, "tcp-floor")?;
        let copy = ground.directory(PEER, "tcp-floor")?;
        let address = ground.address(PEER)?.to_string();
        let copy = copy.to_string_lossy();
        let peer = ground.serve(PEER, "floor-peer", &["floor-peer", "--address", &address, &copy])?;
        let peer = peer.wait_for_line(START_MAX, "listening ")?;
        let mounted = directory.to_string_lossy();
        let mount = ground.serve(WORKER, "floor", &["floor", "--peer", &peer, &mounted])?;
        mount.wait_for_line(START_MAX, "mounted")?;
        Ok(TcpFloor { directory })
    }
}

impl System for TcpFloor {
    fn directory(&self) -> &Path {
        &self.directory
    }

    fn excuse(&self, question: Question) -> Option<&'static str> {
        match question {
            Question::Create10k | Question::Stat10k | Question::Unlink10k | Question::Untar => {
                Some("it replicates writes and fsync, not names")
            }
            _ => None,
        }
    }
}
