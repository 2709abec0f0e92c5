//! A primary without a peer: what the mount needs below it when only the mount is looked at.

use anyhow::Context;
use skfs::backing::Store;
use skfs::config::{Config, Durability, OnPeerLoss, Peer, Replicate, SyncMode, Tls};
use skfs::control::event::Reporter;
use skfs::dirty::maps::Maps;
use skfs::record::Keeper;
use skfs::replicator::{Replicator, Setup};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The module's name, as the mount shows it.
pub const MODULE: &str = "local";

/// A replicator for `store` that goes on alone; its record is kept in `state`.
pub async fn alone(
    dir: &Path,
    sync: SyncMode,
    store: Arc<Store>,
    state: &Path,
) -> anyhow::Result<Arc<Replicator>> {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = Config {
        module: MODULE.into(),
        node: "a".into(),
        state: state.to_owned(),
        control: state.join("control"),
        listen: nowhere,
        on_peer_loss: OnPeerLoss::Alone,
        peer_stall: Duration::from_secs(1),
        local_stall: Duration::from_secs(30),
        checkpoint: Duration::from_secs(5),
        extent_bytes: skfs::config::EXTENT_BYTES_DEFAULT,
        split_brain: skfs::record::split_brain::Policy::default(),
        peer: Peer {
            node: "b".into(),
            addresses: vec![nowhere],
        },
        tls: Tls {
            ca: PathBuf::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
        },
        replicate: vec![Replicate {
            dir: dir.to_owned(),
            sync,
            durability: Durability::Disk,
            exclude: Vec::new(),
        }],
    };
    let keeper =
        Keeper::open(state, MODULE, Durability::Disk, Vec::new()).context("cannot open the record")?;
    let (maps, _) = Maps::open(state, config.extent_bytes.get())?;
    let replicator = Replicator::new(Setup {
        maps: Arc::new(maps),
        config,
        store,
        keeper: Arc::new(keeper),
        reporter: Reporter::default(),
        runtime: tokio::runtime::Handle::current(),
    });
    replicator
        .go_alone()
        .await
        .map_err(|refusal| anyhow::anyhow!("cannot go on alone: {}", refusal.message))?;
    Ok(replicator)
}
