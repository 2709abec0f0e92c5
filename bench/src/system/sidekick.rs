//! Sidekick: a mirror of two hosts, in sync.

use super::System;
use crate::ground::{Ground, PEER, WORKER};
use anyhow::{Context, Result};
use lab::mirror::{Mirror, MirrorOptions};
use lab::process::ProcessId;
use skfs::config::SyncMode;
use skfs::control::client::Client;
use skfs::control::command::{Command, Reply};
use std::path::Path;

/// A mirrored directory.
#[derive(Debug)]
pub struct Sidekick {
    mirror: Mirror,
}

impl Sidekick {
    /// Makes the mirror.
    ///
    /// # Errors
    /// See [`lab::Lab::mirror`].
    pub fn up(ground: &Ground, sync: SyncMode) -> Result<Self> {
        let name = match sync {
            SyncMode::Write => "write",
            SyncMode::Flush => "flush",
        };
        let options = MirrorOptions {
            sync,
            ..MirrorOptions::default()
        };
        let dir = format!("/srv/{}/{name}", ground.lab.name());
        Ok(Sidekick {
            mirror: ground.lab.mirror(dir, &options)?,
        })
    }

    /// The `skfs` of this mirror on a host: there are several, so each is asked which it is.
    fn daemon(&self, ground: &Ground, host: &str) -> Result<ProcessId> {
        let picture = ground.lab.host(host).picture()?;
        let config = self.mirror.config_file(&ground.lab.host_directory(host));
        let of_this_mirror = |process: &ProcessId| {
            // Gone meanwhile: not the one.
            let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            line.split(|byte| *byte == 0)
                .any(|argument| argument == config.as_os_str().as_encoded_bytes())
        };
        picture
            .processes
            .iter()
            .map(|(process, _)| *process)
            .find(|process| process.runs_program("skfs") && of_this_mirror(process))
            .with_context(|| format!("no skfs of {} runs on host {host}", self.mirror.dir.display()))
    }
}

impl System for Sidekick {
    fn directory(&self) -> &Path {
        &self.mirror.dir
    }

    fn daemons(&self, ground: &Ground) -> Result<Option<[ProcessId; 2]>> {
        Ok(Some([self.daemon(ground, WORKER)?, self.daemon(ground, PEER)?]))
    }

    /// A primary that went on alone would be measured without its replication.
    fn check(&self, ground: &Ground) -> Result<()> {
        let socket = self.mirror.control(&ground.lab.host_directory(WORKER));
        let reply = Client::connect(&socket)?.call(Command::Status)?;
        match reply {
            Reply::Status(status) if status.in_sync => Ok(()),
            Reply::Status(status) => anyhow::bail!(
                "the pair is not in sync any more: {}",
                status.reason.unwrap_or_else(|| "no reason is given".into())
            ),
            Reply::Done | Reply::Verification(_) | Reply::Archives(_) => {
                anyhow::bail!("skfs answered a question for its status with something else")
            }
        }
    }
}
