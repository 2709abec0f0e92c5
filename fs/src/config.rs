//! The file that `skfs` is started with: one mirror module on one node.
//!
//! Written by `skd` (by the lab or by hand until then). Unknown keys are errors, so that a misspelt setting
//! is not a silent default.

use crate::exclude::{Exclusions, PerDirectory};
use crate::record::split_brain::Policy;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Smallest and largest extent of the dirty map, and the usual one.
const EXTENT_BYTES_MIN: u64 = 4 << 10;
const EXTENT_BYTES_MAX: u64 = 8 << 20;
/// The extent of the dirty map unless the configuration says otherwise.
pub const EXTENT_BYTES_DEFAULT: NonZeroU64 = NonZeroU64::new(64 << 10).unwrap();

/// Everything one `skfs` process needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The module's name: shown as `sidekick:<module>` in the mount table.
    pub module: String,
    /// This node's name, as its certificate carries it.
    pub node: String,
    /// Directory of the module's durable state on this node; made when absent, mode 0700.
    pub state: PathBuf,
    /// Path of the control socket; made with mode 0600.
    pub control: PathBuf,
    /// UDP address that replication listens on.
    pub listen: SocketAddr,
    /// What to do when the peer is lost.
    #[serde(default)]
    pub on_peer_loss: OnPeerLoss,
    /// Longest time without progress at the secondary before it counts as failed.
    #[serde(default = "peer_stall", with = "humantime_serde")]
    pub peer_stall: Duration,
    /// Longest time without progress on the primary's own disk, and of an `fsync` on either side.
    #[serde(default = "local_stall", with = "humantime_serde")]
    pub local_stall: Duration,
    /// Time between checkpoints of both copies while something is written. What was changed since the last one is
    /// compared again after a power failure.
    #[serde(default = "checkpoint", with = "humantime_serde")]
    pub checkpoint: Duration,
    /// Whose changes stay when both nodes have taken writes apart from each other. That of the secondary counts, which
    /// would lose its own.
    #[serde(default)]
    pub split_brain: Policy,
    /// Bytes of a file that are marked, and later copied back, as one: a power of two from 4096 to 8388608.
    #[serde(default = "extent_bytes")]
    pub extent_bytes: NonZeroU64,
    /// The other node.
    pub peer: Peer,
    /// Certificates, as `skctl cluster init` writes them.
    pub tls: Tls,
    /// The replicated directories, at least one, none inside another.
    pub replicate: Vec<Replicate>,
}

/// What a primary does by itself when its secondary is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnPeerLoss {
    /// Writes wait for a command (`go-alone`, or a connection that comes back).
    #[default]
    Ask,
    /// Goes on alone once `peer_stall` is over. Only where nothing else may promote the peer.
    Alone,
}

/// The other node of the pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its node name, which its certificate must carry.
    pub node: String,
    /// Its replication addresses, tried in this order.
    pub addresses: Vec<SocketAddr>,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificate of the cluster's own CA.
    pub ca: PathBuf,
    /// This node's certificate.
    pub certificate: PathBuf,
    /// Its private key, mode 0600.
    pub key: PathBuf,
}

/// When an operation is shipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// Each `write()` is answered when both nodes hold it.
    #[default]
    Write,
    /// The kernel's write-back cache is on; `fsync`, `close` and `msync` are answered when both hold it.
    Flush,
}

/// What an acknowledged `fsync` means on the secondary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It is on the secondary's disk.
    #[default]
    Disk,
    /// It is in the secondary's memory.
    Memory,
}

/// One replicated directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replicate {
    /// The directory itself, absolute; it is mounted over.
    pub dir: PathBuf,
    /// When operations are shipped.
    #[serde(default)]
    pub sync: SyncMode,
    /// What `fsync` waits for.
    #[serde(default)]
    pub durability: Durability,
    /// Patterns, as in a gitignore file of this directory, of what exists on the node that makes it only. The same on
    /// both nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

impl Replicate {
    /// The patterns of `exclude`, to be matched.
    ///
    /// # Errors
    /// When one is no pattern.
    pub fn exclusions(&self) -> Result<Exclusions, ConfigError> {
        Exclusions::parse(&self.exclude)
            .map_err(|error| value("replicate.exclude", format!("{}: {error}", self.dir.display())))
    }
}

fn peer_stall() -> Duration {
    Duration::from_secs(10)
}

fn local_stall() -> Duration {
    Duration::from_secs(30)
}

fn checkpoint() -> Duration {
    Duration::from_secs(5)
}

fn extent_bytes() -> NonZeroU64 {
    EXTENT_BYTES_DEFAULT
}

/// Why a configuration cannot be used. Each message names the key and what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a missing key, or a value of the wrong type.
    #[error("{path}: {source}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value that is well-formed and wrong.
    #[error("{key}: {problem}")]
    Value {
        /// The key in the file.
        key: &'static str,
        /// What is wrong and what to write instead.
        problem: String,
    },
}

impl Config {
    /// What an answered sync of any directory can rely on.
    pub fn weakest_durability(&self) -> Durability {
        let is_memory = |replicate: &Replicate| replicate.durability == Durability::Memory;
        if self.replicate.iter().any(is_memory) {
            Durability::Memory
        } else {
            Durability::Disk
        }
    }

    /// What is excluded of each directory.
    ///
    /// # Errors
    /// When a pattern is none; never for a configuration that was checked.
    pub fn exclusions(&self) -> Result<PerDirectory, ConfigError> {
        self.replicate.iter().map(Replicate::exclusions).collect()
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file; `path` is for messages only.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks what the types cannot say: names, absolute paths, no directory inside another, durations.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_label("module", &self.module)?;
        check_label("node", &self.node)?;
        check_label("peer.node", &self.peer.node)?;
        if self.node == self.peer.node {
            return Err(value(
                "peer.node",
                format!("{:?} is this node itself; name the other one", self.node),
            ));
        }
        if self.peer.addresses.is_empty() {
            return Err(value(
                "peer.addresses",
                "needs at least one address, as \"10.77.0.2:4731\"".into(),
            ));
        }
        if self.replicate.is_empty() {
            return Err(value(
                "replicate",
                "needs at least one [[replicate]] with a dir".into(),
            ));
        }
        for (key, stall) in [("peer_stall", self.peer_stall), ("local_stall", self.local_stall)] {
            if stall < Duration::from_millis(100) || stall > Duration::from_secs(3600) {
                return Err(value(key, format!("{stall:?} is not between 100ms and 1h")));
            }
        }
        if self.checkpoint < Duration::from_millis(100) || self.checkpoint > Duration::from_secs(3600) {
            let problem = format!("{:?} is not between 100ms and 1h", self.checkpoint);
            return Err(value("checkpoint", problem));
        }
        let extent = self.extent_bytes.get();
        if !extent.is_power_of_two() || !(EXTENT_BYTES_MIN..=EXTENT_BYTES_MAX).contains(&extent) {
            let problem =
                format!("{extent} is not a power of two from {EXTENT_BYTES_MIN} to {EXTENT_BYTES_MAX}");
            return Err(value("extent_bytes", problem));
        }
        for replicate in &self.replicate {
            check_directory(&replicate.dir)?;
        }
        self.exclusions()?;
        for (index, one) in self.replicate.iter().enumerate() {
            for other in &self.replicate[index + 1..] {
                if one.dir.starts_with(&other.dir) || other.dir.starts_with(&one.dir) {
                    let problem = format!(
                        "{} and {} overlap; a directory belongs to one [[replicate]] only",
                        one.dir.display(),
                        other.dir.display()
                    );
                    return Err(value("replicate.dir", problem));
                }
            }
        }
        Ok(())
    }
}

fn value(key: &'static str, problem: String) -> ConfigError {
    ConfigError::Value { key, problem }
}

/// Names end up in paths, certificates and the mount table: letters, digits, `-`, `_` and `.`, at most 63.
fn check_label(key: &'static str, label: &str) -> Result<(), ConfigError> {
    let fits = !label.is_empty()
        && label.len() <= 63
        && !label.starts_with(['.', '-'])
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fits {
        return Ok(());
    }
    Err(value(
        key,
        format!("{label:?} is not 1 to 63 letters, digits, '-', '_' or '.'"),
    ))
}

fn check_directory(dir: &Path) -> Result<(), ConfigError> {
    let plain = dir
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !dir.is_absolute() || !plain {
        return Err(value(
            "replicate.dir",
            format!("{} is not an absolute path without '..'", dir.display()),
        ));
    }
    if dir == Path::new("/") {
        return Err(value(
            "replicate.dir",
            "the root of the system cannot be replicated".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_exclude(exclude: &str) -> Result<Config, ConfigError> {
        let text = format!(
            r#"
            module = "db"
            node = "a"
            state = "/s"
            control = "/c"
            listen = "127.0.0.1:0"
            [peer]
            node = "b"
            addresses = ["127.0.0.1:1"]
            [tls]
            ca = "/ca"
            certificate = "/crt"
            key = "/key"
            [[replicate]]
            dir = "/srv/db"
            exclude = {exclude}
            "#
        );
        Config::parse(&text, Path::new("db.toml"))
    }

    #[test]
    fn patterns_of_what_is_excluded_are_checked_and_named() {
        let config = with_exclude(r#"["**/pg_stat_tmp/*", "!keep"]"#).unwrap();
        assert_eq!(config.replicate[0].exclude, ["**/pg_stat_tmp/*", "!keep"]);
        assert!(with_exclude("[]").unwrap().exclusions().unwrap()[0].is_empty());
        let error = with_exclude(r#"["ok", "[a"]"#).unwrap_err().to_string();
        assert!(
            error.starts_with("replicate.exclude: /srv/db: the pattern \"[a\""),
            "{error}"
        );
    }
}
