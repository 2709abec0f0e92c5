//! What `lab status --json` shows. Stable: fields are only added; what is not known is null.

use crate::mirror::Mirror;
use serde::{Deserialize, Serialize};
use skfs::config::{Durability, SyncMode};
use skfs::control::status::{Copy, Role, Standing, State, Status, SubState};
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// A whole lab.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabStatus {
    /// Its name.
    pub lab: String,
    /// Its hosts, in the order of their addresses.
    pub hosts: Vec<HostStatus>,
    /// Every direction between two hosts.
    pub links: Vec<LinkStatus>,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// It is up.
    pub alive: bool,
    /// All its processes are stopped.
    pub frozen: bool,
    /// Program to pid as seen outside of the host; of several instances the later are numbered: `postgres`,
    /// `postgres:2`.
    pub pids: BTreeMap<String, u32>,
    /// Its mirrors.
    pub mirrors: Vec<MirrorStatus>,
    /// Its address.
    pub address: Ipv4Addr,
}

/// One mirror as one host sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// The directory.
    pub dir: PathBuf,
    /// What runs here.
    pub role: Option<Role>,
    /// The automaton's state.
    pub state: Option<State>,
    /// How far it is reached.
    pub sub_state: Option<SubState>,
    /// What is known of this host's copy.
    pub standing: Option<Standing>,
    /// Every operation is answered only when both hold it.
    pub in_sync: Option<bool>,
    /// A connection to the peer is up.
    pub connected: Option<bool>,
    /// Why something is missing, or why nothing is known.
    pub reason: Option<String>,
    /// When operations are shipped.
    pub sync: SyncMode,
    /// What `fsync` waits for.
    pub durability: Durability,
    /// Number of the last operation.
    pub last_sequence: Option<u64>,
    /// All operations up to this one are on both hosts.
    pub acknowledged_sequence: Option<u64>,
    /// Progress of a copy to the other host.
    pub copy: Option<Copy>,
    /// The rest of what `skfs` says.
    pub skfs: Option<Box<Status>>,
}

/// One direction between two hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The host that sends.
    pub from: String,
    /// The host that receives.
    pub to: String,
    /// Nothing arrives.
    pub cut: bool,
    /// Added to the way of every frame.
    pub delay_ms: f64,
    /// Share of lost frames, 0 to 1.
    pub loss: f64,
}

impl LabStatus {
    /// A host by its name.
    pub fn host(&self, name: &str) -> Option<&HostStatus> {
        self.hosts.iter().find(|host| host.name == name)
    }
}

impl HostStatus {
    /// Whether it has mirrors and all of them are in this state.
    pub fn is(&self, wanted: Wanted) -> bool {
        !self.mirrors.is_empty() && self.mirrors.iter().all(|mirror| mirror.is(wanted))
    }
}

impl MirrorStatus {
    /// What is known when nobody can be asked.
    pub fn unknown(mirror: &Mirror) -> Self {
        MirrorStatus {
            dir: mirror.dir.clone(),
            role: None,
            state: None,
            sub_state: None,
            standing: None,
            in_sync: None,
            connected: None,
            reason: None,
            sync: mirror.sync,
            durability: mirror.durability,
            last_sequence: None,
            acknowledged_sequence: None,
            copy: None,
            skfs: None,
        }
    }

    /// Whether it is in this state.
    pub fn is(&self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::InSync => self.in_sync == Some(true),
            Wanted::State(state) => self.state == Some(state),
        }
    }

    /// Takes over what `skfs` says.
    pub fn tell(&mut self, status: Status) {
        self.role = Some(status.role);
        self.state = Some(status.state);
        self.sub_state = Some(status.sub_state);
        self.standing = Some(status.standing);
        self.in_sync = Some(status.in_sync);
        self.connected = Some(status.connected);
        self.reason = status.reason.clone();
        self.last_sequence = status.last_sequence;
        self.acknowledged_sequence = status.acknowledged_sequence;
        self.copy = status.copy.clone();
        self.skfs = Some(Box::new(status));
    }
}

/// What `lab wait` can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A state of the automaton.
    State(State),
    /// Both copies hold everything that was answered.
    InSync,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wanted::State(State::Stop) => "STOP",
            Wanted::State(State::Wait) => "WAIT",
            Wanted::State(State::Alone) => "ALONE",
            Wanted::State(State::Prim) => "PRIM",
            Wanted::State(State::Second) => "SECOND",
            Wanted::InSync => "in-sync",
        })
    }
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "stop" => Ok(Wanted::State(State::Stop)),
            "wait" => Ok(Wanted::State(State::Wait)),
            "alone" => Ok(Wanted::State(State::Alone)),
            "prim" => Ok(Wanted::State(State::Prim)),
            "second" => Ok(Wanted::State(State::Second)),
            "in-sync" => Ok(Wanted::InSync),
            _ => Err(format!(
                "{text:?} is none of STOP, WAIT, ALONE, PRIM, SECOND, in-sync"
            )),
        }
    }
}

/// Names for pids: the first instance of a program has its plain name.
pub fn named_pids(processes: impl IntoIterator<Item = (u32, String)>) -> BTreeMap<String, u32> {
    let mut processes: Vec<_> = processes.into_iter().collect();
    processes.sort();
    let mut pids = BTreeMap::new();
    for (pid, name) in processes {
        let mut key = name.clone();
        let mut number = 2;
        while pids.contains_key(&key) {
            key = format!("{name}:{number}");
            number += 1;
        }
        pids.insert(key, pid);
    }
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_that_others_rely_on_have_their_names() {
        let mirror = MirrorStatus {
            dir: "/srv/db".into(),
            role: Some(Role::Primary),
            state: Some(State::Prim),
            sub_state: Some(SubState::Ready),
            standing: Some(Standing::UpToDate),
            in_sync: Some(true),
            connected: None,
            reason: None,
            sync: SyncMode::Write,
            durability: Durability::Disk,
            last_sequence: Some(7),
            acknowledged_sequence: None,
            copy: None,
            skfs: None,
        };
        let json = serde_json::to_value(&mirror).unwrap();
        let expected = serde_json::json!({
            "dir": "/srv/db", "role": "primary", "state": "PRIM", "sub_state": "Ready",
            "standing": "up-to-date", "in_sync": true, "connected": null, "reason": null,
            "sync": "write", "durability": "disk", "last_sequence": 7,
            "acknowledged_sequence": null, "copy": null, "skfs": null,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_state_is_read_back_as_it_is_shown() {
        for text in ["STOP", "WAIT", "ALONE", "PRIM", "SECOND", "in-sync"] {
            let wanted: Wanted = text.parse().unwrap();
            assert_eq!(wanted.to_string(), text);
            assert_eq!(text.to_ascii_lowercase().parse(), Ok(wanted));
        }
        assert!("ready".parse::<Wanted>().is_err());
    }

    #[test]
    fn the_first_instance_of_a_program_has_its_plain_name() {
        let pids = named_pids([(9, "skfs".into()), (7, "skfs".into()), (8, "psql".into())]);
        let expected = [("psql", 8), ("skfs", 7), ("skfs:2", 9)];
        assert!(pids.iter().map(|(name, pid)| (name.as_str(), *pid)).eq(expected));
    }

    #[test]
    fn a_host_without_mirrors_is_in_no_state() {
        let host = HostStatus {
            name: "c".into(),
            alive: true,
            frozen: false,
            pids: BTreeMap::new(),
            mirrors: Vec::new(),
            address: Ipv4Addr::LOCALHOST,
        };
        assert!(!host.is(Wanted::InSync));
    }
}
