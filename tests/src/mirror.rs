//! One directory mirrored between two hosts: what the lab knows of it, and the file its `skfs` is started with.

use crate::error::{Attempt, Result};
use serde::{Deserialize, Serialize};
use skfs::config::{Config, Durability, OnPeerLoss, Peer, Replicate, SyncMode, Tls};
use skfs::record::split_brain::Policy;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The first mirror's replication port; the next ones follow.
pub const PORT_FIRST: u16 = 4731;

/// How a directory is to be mirrored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorOptions {
    /// When an operation is shipped.
    pub sync: SyncMode,
    /// What `fsync` waits for on the secondary.
    pub durability: Durability,
    /// What the primary does when it loses its secondary. The lab has nobody to ask.
    pub on_peer_loss: OnPeerLoss,
    /// Longest time without progress of the peer; `skfs`'s default if none is given.
    pub peer_stall: Option<Duration>,
    /// Longest time without progress of the own disk; `skfs`'s default if none is given.
    pub local_stall: Option<Duration>,
    /// Time between checkpoints; none: that of `skfs`.
    pub checkpoint: Option<Duration>,
    /// Primary and secondary; the first two hosts of the lab if none are given.
    pub hosts: Option<[String; 2]>,
    /// Patterns of what is not mirrored.
    pub exclude: Vec<String>,
    /// Whose changes stay after a split brain.
    pub split_brain: Policy,
}

impl Default for MirrorOptions {
    fn default() -> Self {
        MirrorOptions {
            sync: SyncMode::default(),
            durability: Durability::default(),
            on_peer_loss: OnPeerLoss::Alone,
            peer_stall: None,
            local_stall: None,
            checkpoint: None,
            hosts: None,
            exclude: Vec::new(),
            split_brain: Policy::default(),
        }
    }
}

/// A mirror of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The directory, as the hosts see it.
    pub dir: PathBuf,
    /// The name of its module.
    pub module: String,
    /// Replication port on both hosts.
    pub port: u16,
    /// When an operation is shipped.
    pub sync: SyncMode,
    /// What `fsync` waits for.
    pub durability: Durability,
    /// The two hosts.
    pub hosts: [String; 2],
    /// Which of them is meant to be primary now.
    pub primary: String,
    /// Patterns of what is not mirrored.
    pub exclude: Vec<String>,
}

impl Mirror {
    /// Whether `dir` is this directory, inside it, or around it.
    pub fn overlaps(&self, dir: &Path) -> bool {
        self.dir.starts_with(dir) || dir.starts_with(&self.dir)
    }

    /// The other of its two hosts.
    pub fn peer_of(&self, host: &str) -> &str {
        let [first, second] = &self.hosts;
        if first == host { second } else { first }
    }

    /// Where a host keeps its copy, given the lab's directory of that host.
    pub fn backing(&self, host_directory: &Path) -> PathBuf {
        let below_root = self.dir.strip_prefix("/").unwrap_or(&self.dir);
        host_directory.join("disk").join(below_root)
    }

    /// The control socket of its `skfs` on a host.
    pub fn control(&self, host_directory: &Path) -> PathBuf {
        host_directory.join(format!("{}.sock", self.port))
    }

    /// The file its `skfs` is started with.
    pub fn config_file(&self, host_directory: &Path) -> PathBuf {
        host_directory
            .join("modules")
            .join(format!("{}.toml", self.module))
    }

    /// Where its `skfs` logs to.
    pub fn log_file(&self, host_directory: &Path) -> PathBuf {
        host_directory.join("log").join(format!("{}.log", self.module))
    }
}

/// A module name made of a path: `/srv/db` becomes `srv-db`. `others` are the names in use.
pub fn module_name(dir: &Path, others: &[Mirror]) -> String {
    /// `skfs` takes 63 bytes; the rest is for a number.
    const BYTES_MAX: usize = 58;
    let text: String = dir
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let text = text.trim_matches('-');
    let mut stem = text.get(..BYTES_MAX).unwrap_or(text).trim_matches('-');
    if stem.is_empty() {
        stem = "mirror";
    }
    let is_free = |name: &str| others.iter().all(|other| other.module != name);
    let mut name = stem.to_owned();
    let mut number = 2;
    while !is_free(&name) {
        name = format!("{stem}-{number}");
        number += 1;
    }
    name
}

/// What the configuration of one node depends on beside the mirror itself.
#[derive(Debug, Clone)]
pub struct Node {
    /// The host.
    pub host: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its peer's address.
    pub peer_address: Ipv4Addr,
    /// The lab's directory of it.
    pub directory: PathBuf,
    /// Where `skfs` keeps its record.
    pub state: PathBuf,
    /// Its certificates.
    pub tls: Tls,
}

/// Writes the file that `skfs` is started with on one of the hosts.
///
/// # Errors
/// When it cannot be written.
pub fn write_config(mirror: &Mirror, options: &MirrorOptions, node: Node) -> Result<()> {
    let path = mirror.config_file(&node.directory);
    let config = Config {
        module: mirror.module.clone(),
        state: node.state,
        control: mirror.control(&node.directory),
        listen: SocketAddr::from((node.address, mirror.port)),
        on_peer_loss: options.on_peer_loss,
        peer_stall: options.peer_stall.unwrap_or(Duration::from_secs(10)),
        local_stall: options.local_stall.unwrap_or(Duration::from_secs(30)),
        checkpoint: options.checkpoint.unwrap_or(Duration::from_secs(5)),
        extent_bytes: skfs::config::EXTENT_BYTES_DEFAULT,
        split_brain: options.split_brain,
        peer: Peer {
            node: mirror.peer_of(&node.host).to_owned(),
            addresses: vec![SocketAddr::from((node.peer_address, mirror.port))],
        },
        tls: node.tls,
        node: node.host,
        replicate: vec![Replicate {
            dir: mirror.dir.clone(),
            sync: mirror.sync,
            durability: mirror.durability,
            exclude: mirror.exclude.clone(),
        }],
    };
    let text = toml::to_string(&config)
        .map_err(std::io::Error::other)
        .on("write as TOML", &path)?;
    fs::write(&path, text).on("write", &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(dir: &str) -> Mirror {
        Mirror {
            dir: dir.into(),
            module: module_name(Path::new(dir), &[]),
            port: PORT_FIRST,
            sync: SyncMode::Write,
            durability: Durability::Disk,
            hosts: ["a".into(), "b".into()],
            primary: "a".into(),
            exclude: Vec::new(),
        }
    }

    #[test]
    fn a_module_is_named_after_its_path_and_no_name_is_given_twice() {
        let first = mirror("/srv/db");
        assert_eq!(first.module, "srv-db");
        assert_eq!(module_name(Path::new("/srv.db"), &[first]), "srv-db-2");
        assert_eq!(module_name(Path::new("/..ä"), &[]), "mirror");
        let long = format!("/{}", "x".repeat(300));
        assert_eq!(module_name(Path::new(&long), &[]).len(), 58);
    }

    #[test]
    fn directories_overlap_by_component_and_not_by_letter() {
        let db = mirror("/srv/db");
        assert!(db.overlaps(Path::new("/srv")));
        assert!(db.overlaps(Path::new("/srv/db/sub")));
        assert!(!db.overlaps(Path::new("/srv/db2")));
    }
}
