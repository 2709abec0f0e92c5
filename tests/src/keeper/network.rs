//! The cables: a network namespace per host, a veth pair from each to the keeper's own namespace, and the bridge
//! or the relay that joins their ends there. The machine's own network namespace sees nothing of it.

use crate::error::{Attempt, Result, refused};
use crate::namespace;
use crate::programs;
use crate::relay::driver::Relay;
use crate::relay::fabric::Way;
use crate::relay::fault::Fault;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

const BRIDGE: &str = "switch";
/// A host's end of its cable.
const HOST_INTERFACE: &str = "eth0";
/// A value that the kernel takes for "as many as you like".
const SEGMENTS_UNBOUND: u32 = 65535;

/// One host's cable.
#[derive(Debug)]
struct Cable {
    host: String,
    /// The host's network namespace. It outlives the host's processes.
    namespace: OwnedFd,
    /// The end of the cable in the keeper's namespace.
    port: String,
}

/// The network of a lab.
#[derive(Debug)]
pub struct Network {
    cables: Vec<Cable>,
    relay: Option<Relay>,
    faults: Vec<Fault>,
}

/// The address of the host at this place in the list.
pub fn address(place: usize) -> Ipv4Addr {
    // The list is bounded far below 250: see HOSTS_MAX.
    Ipv4Addr::new(10, 77, 0, (place + 1) as u8)
}

impl Network {
    /// Makes cables and bridge in the caller's network namespace, which must be its own.
    ///
    /// # Errors
    /// When the system refuses a namespace or `ip` fails.
    pub fn make(hosts: &[String], mtu: u32) -> Result<Self> {
        let mut script = vec![
            "link set lo up".to_owned(),
            format!("link add {BRIDGE} mtu {mtu} type bridge stp_state 0 mcast_snooping 0"),
            format!("link set {BRIDGE} addrgenmode none up"),
        ];
        let mut cables = Vec::with_capacity(hosts.len());
        for (place, host) in hosts.iter().enumerate() {
            let namespace = new_network_namespace()?;
            let port = format!("to-{host}");
            let hardware = format!("02:53:4b:00:00:{:02x}", place + 1);
            let target = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
            script.extend([
                format!(
                    "link add {port} mtu {mtu} type veth peer name {HOST_INTERFACE} mtu {mtu} \
                     address {hardware} netns {target}"
                ),
                format!("link set {port} addrgenmode none master {BRIDGE}"),
            ]);
            cables.push(Cable {
                host: host.clone(),
                namespace,
                port,
            });
        }
        ip(&script)?;
        for (place, cable) in cables.iter().enumerate() {
            cable.ip_inside(&[
                "link set lo up".to_owned(),
                format!("addr add {}/24 dev {HOST_INTERFACE}", address(place)),
                format!("link set {HOST_INTERFACE} up"),
            ])?;
        }
        Ok(Network {
            cables,
            relay: None,
            faults: Vec::new(),
        })
    }

    /// A host's network namespace.
    pub fn namespace(&self, host: &str) -> Result<&OwnedFd> {
        Ok(&self.cable(host)?.namespace)
    }

    /// Plugs a host in or out.
    pub fn set_link(&self, host: &str, up: bool) -> Result<()> {
        let port = &self.cable(host)?.port;
        ip(&[format!("link set {port} {}", if up { "up" } else { "down" })])
    }

    /// The faults that hold now.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Replaces all faults; returns once the new ones hold.
    ///
    /// # Errors
    /// When a host is unknown, and when bridge and relay cannot be exchanged: then the faults may hold on some
    /// ways only.
    pub fn set_faults(&mut self, faults: Vec<Fault>, seed: u64) -> Result<()> {
        let mut ways = BTreeMap::new();
        for fault in faults.iter().filter(|fault| !fault.is_none()) {
            let way = Way {
                cut: fault.cut,
                delay: fault.delay,
                loss: fault.loss,
            };
            ways.insert((self.place(&fault.from)?, self.place(&fault.to)?), way);
        }
        if ways.is_empty() {
            self.join_by_bridge()?;
        } else {
            self.join_by_relay(seed)?.set_ways(ways)?;
        }
        self.faults = faults;
        self.faults.retain(|fault| !fault.is_none());
        Ok(())
    }

    fn join_by_bridge(&mut self) -> Result<()> {
        if self.relay.take().is_none() {
            return Ok(());
        }
        ip(&self.for_each_port(|port| format!("link set {port} master {BRIDGE}")))?;
        self.set_segments_max(SEGMENTS_UNBOUND)
    }

    fn join_by_relay(&mut self, seed: u64) -> Result<&mut Relay> {
        if self.relay.is_none() {
            // From here on the hosts cut their segments themselves, so that loss and delay meet the frames a
            // wire would carry, not bursts of 64 KiB.
            self.set_segments_max(1)?;
            let ports: Vec<_> = self.cables.iter().map(|cable| cable.port.clone()).collect();
            ip(&self.for_each_port(|port| format!("link set {port} nomaster promisc on")))?;
            self.relay = Some(Relay::start(&ports, seed)?);
        }
        match &mut self.relay {
            Some(relay) => Ok(relay),
            None => refused("the relay was not started"),
        }
    }

    fn set_segments_max(&self, segments: u32) -> Result<()> {
        for cable in &self.cables {
            cable.ip_inside(&[format!("link set {HOST_INTERFACE} gso_max_segs {segments}")])?;
        }
        Ok(())
    }

    fn for_each_port(&self, line: impl Fn(&str) -> String) -> Vec<String> {
        self.cables.iter().map(|cable| line(&cable.port)).collect()
    }

    fn cable(&self, host: &str) -> Result<&Cable> {
        Ok(&self.cables[self.place(host)?])
    }

    fn place(&self, host: &str) -> Result<usize> {
        match self.cables.iter().position(|cable| cable.host == host) {
            Some(place) => Ok(place),
            None => refused(format!("the lab has no host {host}")),
        }
    }
}

impl Cable {
    fn ip_inside(&self, script: &[String]) -> Result<()> {
        namespace::on_own_thread(|| {
            namespace::enter(&self.namespace, ThreadNameSpaceType::NETWORK)
                .attempt(|| format!("enter the network namespace of host {}", self.host))?;
            ip(script)
        })
    }
}

fn new_network_namespace() -> Result<OwnedFd> {
    namespace::on_own_thread(|| {
        namespace::unshare(UnshareFlags::NEWNET).attempt(|| "make a network namespace".into())?;
        let own = "/proc/thread-self/ns/net";
        let namespace = File::open(own).attempt(|| format!("open {own}"))?;
        Ok(OwnedFd::from(namespace))
    })
}

/// Runs `ip` commands up to the first that fails, in the calling thread's network namespace.
fn ip(script: &[String]) -> Result<()> {
    let input = file_in_memory(&(script.join("\n") + "\n"))?;
    programs::run(Command::new("ip").args(["-batch", "-"]).stdin(Stdio::from(input))).map(drop)
}

/// A script as a file: a pipe could block on a long one.
fn file_in_memory(text: &str) -> Result<File> {
    let descriptor = rustix::fs::memfd_create("ip-script", rustix::fs::MemfdFlags::CLOEXEC)
        .attempt(|| "make a file in memory".into())?;
    let mut file = File::from(descriptor);
    file.write_all(text.as_bytes())
        .and_then(|()| file.rewind())
        .attempt(|| "write a script for ip".into())?;
    Ok(file)
}
