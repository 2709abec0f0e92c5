//! What the mount itself costs: an `skfs` that is primary and was told to go on without a peer.

use super::System;
use crate::ground::{Ground, PEER, WORKER};
use anyhow::{Context, Result};
use lab::wait::{self, Look};
use skctl::pki;
use skfs::config::{Config, Durability, OnPeerLoss, Peer, Replicate, SyncMode, Tls};
use skfs::control::client::Client;
use skfs::control::command::Command;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const START_MAX: Duration = Duration::from_secs(20);

/// A mount without a peer.
#[derive(Debug)]
pub struct FusePassthrough {
    directory: PathBuf,
}

impl FusePassthrough {
    /// Starts the `skfs` and makes it primary.
    ///
    /// # Errors
    /// When it does not start or refuses.
    pub fn up(ground: &Ground) -> Result<Self> {
        let directory = ground.directory(WORKER, "fuse-passthrough")?;
        // Beside the directory, not below a mirror's.
        let own = ground.lab.host_directory(WORKER).join("fuse-passthrough");
        let certificates = own.join("certificates");
        std::fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
        pki::init(
            &certificates,
            &pki::Request {
                cluster: None,
                nodes: vec![WORKER.into(), PEER.into()],
                days: 30,
            },
        )?;
        let config = config(
            &directory,
            &own,
            &certificates.join(WORKER),
            ground.address(WORKER)?,
        );
        let file = own.join("skfs.toml");
        let text = toml::to_string(&config).context("cannot write a configuration as TOML")?;
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let skfs = lab::programs::find("skfs")?;
        let line = vec![skfs.into(), "--config".into(), file.into()];
        ground.spawn(WORKER, "fuse-passthrough", line)?;
        let mut client = wait::until(START_MAX, "skfs answers", || {
            Ok(match Client::connect(&config.control) {
                Ok(client) => Look::Holds(client),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })?;
        client.call(Command::BecomePrimary {
            ignore_holders: false,
            force: false,
        })?;
        client.call(Command::GoAlone)?;
        Ok(FusePassthrough { directory })
    }
}

fn config(directory: &Path, own: &Path, certificates: &Path, address: Ipv4Addr) -> Config {
    Config {
        module: "fuse-passthrough".into(),
        node: WORKER.into(),
        state: own.join("state"),
        control: own.join("control.sock"),
        // Nobody calls: whatever port is free.
        listen: SocketAddr::from((address, 0)),
        on_peer_loss: OnPeerLoss::Alone,
        peer_stall: Duration::from_secs(10),
        local_stall: Duration::from_secs(30),
        checkpoint: Duration::from_secs(5),
        extent_bytes: skfs::config::EXTENT_BYTES_DEFAULT,
        split_brain: skfs::record::split_brain::Policy::default(),
        peer: Peer {
            node: PEER.into(),
            addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9))],
        },
        tls: Tls {
            ca: certificates.join("ca.crt"),
            certificate: certificates.join("node.crt"),
            key: certificates.join("node.key"),
        },
        replicate: vec![Replicate {
            dir: directory.to_owned(),
            sync: SyncMode::Write,
            durability: Durability::Disk,
            exclude: Vec::new(),
        }],
    }
}

impl System for FusePassthrough {
    fn directory(&self) -> &Path {
        &self.directory
    }
}
