//! The cluster's own CA and each node's certificate, as files.
//!
//! ```text
//! OUT/ca/      ca.crt  ca.key     stays with whoever runs the cluster: it makes new nodes
//! OUT/<node>/  ca.crt  node.crt  node.key     goes to that node
//! ```
//! Keys have mode 0600, folders 0700. A folder appears whole or not at all: it is written under another name,
//! synced and renamed. Nothing that exists is changed, so that the same call again does nothing.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use skfs::config::Tls;
use skfs::link::tls::{Identity, Refusal, check_node_name};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// How long a CA lives. Its nodes' certificates end with it.
pub const CA_DAYS: u32 = 20 * 365;
/// Name of the cluster when none is given.
pub const CLUSTER_DEFAULT: &str = "sidekick";
/// Folder of the CA; no node can have this name.
const CA_FOLDER: &str = "ca";
/// Begins the common name of every CA; the cluster's name follows.
const CA_NAME_PREFIX: &str = "Sidekick CA of ";
/// Certificates begin this long ago, as clocks of nodes differ.
const BACKDATED: Duration = Duration::days(1);
/// Most nodes of one cluster.
const NODES_MAX: usize = 64;

/// What there should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The cluster's name; `None` takes that of the CA in place, else [`CLUSTER_DEFAULT`].
    pub cluster: Option<String>,
    /// Names of nodes.
    pub nodes: Vec<String>,
    /// How many days a new node's certificate is valid.
    pub days: u32,
}

/// What there is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The cluster's name.
    pub cluster: String,
    /// The CA.
    pub ca: Folder,
    /// The nodes, in the order of the request.
    pub nodes: Vec<NodeFolder>,
}

/// One folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Folder {
    /// Its path.
    pub path: PathBuf,
    /// Whether it is new.
    pub state: State,
}

/// A node's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeFolder {
    /// The node.
    pub node: String,
    /// Its folder.
    #[serde(flatten)]
    pub folder: Folder,
    /// End of its certificate, RFC 3339.
    pub valid_until: String,
}

/// What was done about a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was made.
    Made,
    /// It was there, whole and valid, and was left as it is.
    Kept,
}

/// Why there are no certificates. Folders that a message does not name are as they were.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name of a node or cluster.
    #[error("{0}")]
    Name(String),
    /// A number of days.
    #[error("--days {days}: a certificate is valid for 1 to {max} days (the CA ends then)")]
    Days {
        /// Wanted.
        days: u32,
        /// The most there can be.
        max: i64,
    },
    /// The CA in place is of another cluster.
    #[error(
        "{path} is the CA of cluster {found:?}, not of {wanted:?}: name another --out for another cluster"
    )]
    OtherCluster {
        /// Its folder.
        path: PathBuf,
        /// Its cluster.
        found: String,
        /// The one asked for.
        wanted: String,
    },
    /// What is in place cannot be used.
    #[error("{path}: {problem}; nothing was overwritten. {advice}")]
    InPlace {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        advice: &'static str,
    },
    /// A system call.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The library refuses to make a key or certificate.
    #[error("cannot make the {what}: {source}")]
    Make {
        /// Which.
        what: &'static str,
        /// Why.
        source: rcgen::Error,
    },
}

const RESTORE_CA: &str = "Restore ca.crt and ca.key from a backup, or name another --out for a new cluster.";
const RENEW_NODE: &str = "To have a new one made, move that folder away and run the command again.";

/// Makes what is missing in `out`: the CA and the nodes' folders.
pub fn init(out: &Path, request: &Request) -> Result<Report, PkiError> {
    check_names(request)?;
    make_folder(out)?;
    // Two of these at a time would make two CAs. Released when the descriptor is closed.
    let lock = File::open(out).map_err(failed("open", out))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed("lock", out)(errno.into()))?;

    let ca_path = out.join(CA_FOLDER);
    let (ca, ca_state) = if exists(&ca_path)? {
        (Ca::load(&ca_path, request.cluster.as_deref())?, State::Kept)
    } else {
        for node in &request.nodes {
            refuse_orphan(&out.join(node))?;
        }
        (
            Ca::make(out, request.cluster.as_deref().unwrap_or(CLUSTER_DEFAULT))?,
            State::Made,
        )
    };
    let nodes = request
        .nodes
        .iter()
        .map(|node| {
            let path = out.join(node);
            let state = if exists(&path)? {
                check_node(&path, node, &ca)?;
                State::Kept
            } else {
                make_node(out, node, request.days, &ca)?;
                State::Made
            };
            let valid_until = end_of(&path.join("node.crt"))?;
            Ok(NodeFolder {
                node: node.clone(),
                folder: Folder { path, state },
                valid_until,
            })
        })
        .collect::<Result<Vec<_>, PkiError>>()?;
    Ok(Report {
        cluster: ca.cluster,
        ca: Folder {
            path: ca_path,
            state: ca_state,
        },
        nodes,
    })
}

fn check_names(request: &Request) -> Result<(), PkiError> {
    if request.nodes.is_empty() || request.nodes.len() > NODES_MAX {
        return Err(PkiError::Name(format!(
            "a cluster has 1 to {NODES_MAX} nodes: name each with --node"
        )));
    }
    for (index, node) in request.nodes.iter().enumerate() {
        check_node_name(node).map_err(|error| PkiError::Name(error.to_string()))?;
        if node.eq_ignore_ascii_case(CA_FOLDER) {
            return Err(PkiError::Name(format!(
                "{node:?} cannot be a node's name: it is the CA's folder"
            )));
        }
        // Certificates take no notice of case.
        if let Some(other) = request.nodes[..index]
            .iter()
            .find(|other| other.eq_ignore_ascii_case(node))
        {
            return Err(PkiError::Name(format!(
                "nodes {other:?} and {node:?} have the same name"
            )));
        }
    }
    let cluster = request.cluster.as_deref().unwrap_or(CLUSTER_DEFAULT);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if cluster.is_empty() || cluster.len() > 40 || !cluster.chars().all(plain) {
        let problem = "is not 1 to 40 letters, digits, '-', '_' or '.'";
        return Err(PkiError::Name(format!(
            "the cluster's name {cluster:?} {problem}"
        )));
    }
    Ok(())
}

/// A node's folder without a CA: making a new CA would leave it useless without saying so.
fn refuse_orphan(path: &Path) -> Result<(), PkiError> {
    if !exists(path)? {
        return Ok(());
    }
    Err(PkiError::InPlace {
        path: path.into(),
        problem: "a node's folder is here, its CA is not".into(),
        advice: "Restore the folder 'ca' from a backup, or name another --out for a new cluster.",
    })
}

/// The CA and what signs with it.
struct Ca {
    cluster: String,
    certificate: String,
    not_after: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
    path: PathBuf,
}

impl Ca {
    fn make(out: &Path, cluster: &str) -> Result<Self, PkiError> {
        let make = |source| PkiError::Make { what: "CA", source };
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{CA_NAME_PREFIX}{cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = OffsetDateTime::now_utc() - BACKDATED;
        params.not_after = OffsetDateTime::now_utc() + Duration::days(i64::from(CA_DAYS));
        let key = KeyPair::generate().map_err(make)?;
        let key_pem = key.serialize_pem();
        let ca = CertifiedIssuer::self_signed(params, key).map_err(make)?;
        let certificate = ca.pem();
        appear(
            out,
            CA_FOLDER,
            &[("ca.crt", 0o644, &certificate), ("ca.key", 0o600, &key_pem)],
        )?;
        Self::load(&out.join(CA_FOLDER), Some(cluster))
    }

    fn load(path: &Path, cluster: Option<&str>) -> Result<Self, PkiError> {
        let bad = |file: &str, problem: String| PkiError::InPlace {
            path: path.join(file),
            problem,
            advice: RESTORE_CA,
        };
        let certificate = read(&path.join("ca.crt"), RESTORE_CA)?;
        let key_pem = read(&path.join("ca.key"), RESTORE_CA)?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| bad("ca.key", error.to_string()))?;
        let facts = Facts::of(&certificate).map_err(|problem| bad("ca.crt", problem))?;
        if facts.public_key != key.subject_public_key_info() {
            return Err(bad("ca.key", "is not the key of ca.crt".into()));
        }
        if facts.not_after <= OffsetDateTime::now_utc() {
            return Err(PkiError::InPlace {
                path: path.join("ca.crt"),
                problem: format!("the CA has expired, on {}", facts.not_after.date()),
                advice: "Name another --out: a new CA and new certificates for all nodes are needed.",
            });
        }
        let found = facts
            .common_name
            .strip_prefix(CA_NAME_PREFIX)
            .unwrap_or(&facts.common_name);
        if let Some(wanted) = cluster.filter(|wanted| *wanted != found) {
            let (found, wanted) = (found.to_owned(), wanted.to_owned());
            return Err(PkiError::OtherCluster {
                path: path.into(),
                found,
                wanted,
            });
        }
        let issuer =
            Issuer::from_ca_cert_pem(&certificate, key).map_err(|error| bad("ca.crt", error.to_string()))?;
        Ok(Ca {
            cluster: found.to_owned(),
            certificate,
            not_after: facts.not_after,
            issuer,
            path: path.into(),
        })
    }
}

fn make_node(out: &Path, node: &str, days: u32, ca: &Ca) -> Result<(), PkiError> {
    let make = |source| PkiError::Make {
        what: "certificate of a node",
        source,
    };
    let now = OffsetDateTime::now_utc();
    let not_after = now + Duration::days(i64::from(days));
    if days == 0 || not_after > ca.not_after {
        return Err(PkiError::Days {
            days,
            max: (ca.not_after - now).whole_days(),
        });
    }
    let mut params = CertificateParams::new([node.to_owned()]).map_err(make)?;
    params.distinguished_name.push(DnType::CommonName, node);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - BACKDATED;
    params.not_after = not_after;
    let key = KeyPair::generate().map_err(make)?;
    let certificate = params.signed_by(&key, &ca.issuer).map_err(make)?;
    let files = [
        ("ca.crt", 0o644, ca.certificate.as_str()),
        ("node.crt", 0o644, &certificate.pem()),
        ("node.key", 0o600, &key.serialize_pem()),
    ];
    appear(out, node, &files)
}

/// Checks a node's folder that is in place by the rules of a peer.
fn check_node(path: &Path, node: &str, ca: &Ca) -> Result<(), PkiError> {
    let bad = |problem: String| PkiError::InPlace {
        path: path.into(),
        problem,
        advice: RENEW_NODE,
    };
    let in_folder = read(&path.join("ca.crt"), RENEW_NODE)?;
    let files = Tls {
        // Not the folder's own copy: that one could be of any CA.
        ca: ca.path.join("ca.crt"),
        certificate: path.join("node.crt"),
        key: path.join("node.key"),
    };
    match Identity::examine(&files, node).map_err(|error| bad(error.to_string()))? {
        None if in_folder.trim() == ca.certificate.trim() => Ok(()),
        None => Err(bad("its ca.crt is not this cluster's CA".into())),
        Some(refusal @ Refusal::OtherCa) => Err(bad(format!("{refusal} ({})", ca.path.display()))),
        Some(refusal) => Err(bad(refusal.to_string())),
    }
}

/// What is needed of a certificate.
struct Facts {
    common_name: String,
    public_key: Vec<u8>,
    not_after: OffsetDateTime,
}

impl Facts {
    fn of(pem: &str) -> Result<Self, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| error.to_string())?;
        let certificate = pem.parse_x509().map_err(|error| error.to_string())?;
        let common_name = certificate.subject().iter_common_name().next();
        let common_name = common_name
            .and_then(|name| name.as_str().ok())
            .unwrap_or_default()
            .to_owned();
        Ok(Facts {
            common_name,
            public_key: certificate.public_key().raw.to_vec(),
            not_after: certificate.validity().not_after.to_datetime(),
        })
    }
}

fn end_of(certificate: &Path) -> Result<String, PkiError> {
    let bad = |problem: String| PkiError::InPlace {
        path: certificate.into(),
        problem,
        advice: RENEW_NODE,
    };
    let facts = Facts::of(&read(certificate, RENEW_NODE)?).map_err(bad)?;
    facts
        .not_after
        .format(&Rfc3339)
        .map_err(|error| bad(error.to_string()))
}

/// Makes the folder `name` in `out` with `files` (name, mode, content), durably and all at once.
fn appear(out: &Path, name: &str, files: &[(&str, u32, &str)]) -> Result<(), PkiError> {
    let (path, new) = (out.join(name), out.join(format!(".{name}.new")));
    // Left by a run that was killed; the lock says that it does not run now.
    match fs::remove_dir_all(&new) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &new)(source));
        }
        _ => {}
    }
    DirBuilder::new()
        .mode(0o700)
        .create(&new)
        .map_err(failed("make", &new))?;
    for (file, mode, content) in files {
        let file = new.join(file);
        let mut options = OpenOptions::new();
        let mut opened = options
            .write(true)
            .create_new(true)
            .mode(*mode)
            .open(&file)
            .map_err(failed("make", &file))?;
        opened
            .write_all(content.as_bytes())
            .map_err(failed("write", &file))?;
        opened.sync_all().map_err(failed("sync", &file))?;
    }
    sync_folder(&new)?;
    fs::rename(&new, &path).map_err(failed("rename into place", &path))?;
    sync_folder(out)
}

fn make_folder(out: &Path) -> Result<(), PkiError> {
    if exists(out)? {
        return Ok(());
    }
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(out)
        .map_err(failed("make", out))?;
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => sync_folder(Path::new(".")),
    }
}

fn sync_folder(path: &Path) -> Result<(), PkiError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", path))
}

fn exists(path: &Path) -> Result<bool, PkiError> {
    path.try_exists().map_err(failed("look for", path))
}

fn read(path: &Path, advice: &'static str) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => PkiError::InPlace {
            path: path.into(),
            problem: "is missing".into(),
            advice,
        },
        _ => failed("read", path)(source),
    })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    move |source| PkiError::Io {
        action,
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests;
