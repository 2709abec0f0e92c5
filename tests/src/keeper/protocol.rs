//! What a lab's keeper is asked, and what it answers.
//!
//! One request and one response per connection, each a line of JSON, on a socket that only root reaches.

use crate::disk::ext4::DiskOptions;
use crate::disk::unflushed::Cut;
use crate::mirror::Mirror;
use crate::process::ProcessId;
use crate::relay::fault::Fault;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// One request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// How long it may take.
    pub limit: Duration,
    /// What to do.
    pub order: Order,
}

/// What the keeper can be told to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Tell how things are. Answered with [`Answer::Picture`].
    Look,
    /// Start a host that is down. One that is up stays as it is.
    Boot {
        /// Which.
        host: String,
    },
    /// End everything on a host at once; its link goes down first.
    Kill {
        /// Which.
        host: String,
    },
    /// Stop all processes of a host where they are.
    Freeze {
        /// Which.
        host: String,
    },
    /// Let them go on.
    Thaw {
        /// Which.
        host: String,
    },
    /// Start a program on a host. Answered with [`Answer::Started`].
    Spawn {
        /// Which.
        host: String,
        /// The program and its arguments.
        arguments: Vec<OsString>,
        /// Takes its standard output and error.
        log: PathBuf,
    },
    /// Note a mirror and bind its directory on each of its hosts.
    AddMirror(Mirror),
    /// Note which host a mirror's primary is meant to be.
    SetPrimary {
        /// The mirror's directory.
        dir: PathBuf,
        /// The host.
        host: String,
    },
    /// Write the events of an `skfs` into its host's event log until it ends.
    RecordEvents {
        /// Which host.
        host: String,
        /// The mirror's directory.
        dir: PathBuf,
        /// The control socket of its `skfs`.
        socket: PathBuf,
    },
    /// Replace all faults of the network.
    SetFaults {
        /// One for each direction with a fault.
        faults: Vec<Fault>,
        /// Decides which frames are lost.
        seed: u64,
    },
    /// Give a host a disk of its own.
    MakeDisk {
        /// Which host.
        host: String,
        /// What kind.
        options: DiskOptions,
    },
    /// Cut a host's power: its volatile disk loses what was not flushed, and the host is down.
    /// Answered with [`Answer::PowerCut`].
    CutPower {
        /// Which host.
        host: String,
        /// Decides what is lost.
        seed: u64,
    },
    /// Let every read of a host's volatile disk fail.
    FailReads {
        /// Which host.
        host: String,
    },
    /// End all hosts, unmount all disks, end.
    ShutDown,
}

/// The answer to an order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done; nothing to tell.
    Done,
    /// How things are.
    Picture(Picture),
    /// A program was started.
    Started(ProcessId),
    /// A power cut happened.
    PowerCut(Cut),
}

/// A lab as its keeper knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Picture {
    /// The lab's name.
    pub lab: String,
    /// The keeper.
    pub keeper: ProcessId,
    /// Its hosts, in the order of their addresses.
    pub hosts: Vec<HostPicture>,
    /// Every direction with a fault.
    pub faults: Vec<Fault>,
    /// Its mirrors, in the order of their making.
    pub mirrors: Vec<Mirror>,
}

/// A host as the keeper knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostPicture {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its first process; none while it is down.
    pub init: Option<ProcessId>,
    /// All its processes are stopped.
    pub frozen: bool,
    /// Its own disk, if it has one.
    pub disk: Option<DiskOptions>,
    /// All other living processes on it, as seen outside of it, with their names.
    pub processes: Vec<(ProcessId, String)>,
}

impl Picture {
    /// A host by its name.
    pub fn host(&self, name: &str) -> Option<&HostPicture> {
        self.hosts.iter().find(|host| host.name == name)
    }
}
