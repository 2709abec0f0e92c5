//! The keeper itself: one thread per request, one lock around the lab.

use super::events;
use super::host::Host;
use super::network::{self, Network};
use super::protocol::{Answer, HostPicture, Order, Picture, Request};
use crate::directory;
use crate::error::{Attempt, Result, refused};
use crate::mirror::Mirror;
use crate::namespace;
use crate::process::ProcessId;
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The keeper's socket in the lab's directory.
pub const SOCKET: &str = "keeper.sock";
/// Its own standard error, in the lab's directory.
pub const LOG: &str = "keeper.log";
/// What it says on standard output once the lab is up.
pub const READY: &str = "ready\n";
/// How long the end of a lab may take whose owner is dead.
const ORPHAN_LIMIT: Duration = Duration::from_secs(30);
/// A request is an order with a few paths.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// What a keeper is started with.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// The lab's name.
    pub lab: String,
    /// Its directory, which exists.
    pub directory: PathBuf,
    /// Its hosts, in the order of their addresses.
    pub hosts: Vec<String>,
    /// Largest packet between them.
    pub mtu: u32,
    /// Remove the lab once this process is dead.
    pub owner: Option<ProcessId>,
}

#[derive(Debug)]
struct Lab {
    options: KeeperOptions,
    keeper: ProcessId,
    network: Network,
    hosts: Vec<Host>,
    mirrors: Vec<Mirror>,
}

/// Makes the lab and serves it until it is told to end.
///
/// # Errors
/// When the lab cannot be made. What was made of it ends with this process.
pub fn run(options: KeeperOptions) -> Result<()> {
    // Before any thread: all of them share these.
    namespace::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWNET)
        .attempt(|| "make namespaces for the lab; it needs root".into())?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .attempt(|| "keep mounts of the lab to itself".into())?;
    let mut lab = Lab {
        keeper: ProcessId::of(std::process::id())?,
        network: Network::make(&options.hosts, options.mtu)?,
        hosts: Vec::new(),
        mirrors: Vec::new(),
        options,
    };
    for name in &lab.options.hosts {
        lab.hosts.push(Host::new(name, &lab.options.directory)?);
    }
    for name in lab.options.hosts.clone() {
        lab.boot(&name)?;
    }
    let socket = lab.options.directory.join(SOCKET);
    let listener = listen(&socket)?;
    let mut output = std::io::stdout();
    output
        .write_all(READY.as_bytes())
        .and_then(|()| output.flush())
        .attempt(|| "tell that the lab is ready".into())?;
    let owner = lab.options.owner;
    let lab = Arc::new(Mutex::new(lab));
    if let Some(owner) = owner {
        let lab = lab.clone();
        std::thread::Builder::new()
            .name("owner".into())
            .spawn(move || follow(owner, &lab))
            .attempt(|| "start a thread".into())?;
    }
    serve(listener, lab)
}

/// Ends the lab with its owner: nobody else would remove it.
fn follow(owner: ProcessId, lab: &Mutex<Lab>) {
    if let Err(error) = owner.wait_for_end() {
        eprintln!("the lab will outlive its owner: {error}");
        return;
    }
    let mut lab = lab.lock().unwrap_or_else(PoisonError::into_inner);
    let ended = lab.shut_down(ORPHAN_LIMIT);
    let removed = directory::remove(&lab.options.directory);
    let code = match ended.and(removed) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("the owner is dead, and its lab could not be removed: {error}");
            1
        }
    };
    // The lock is held to the end: whoever asks now finds a keeper that dies.
    std::process::exit(code);
}

fn listen(socket: &Path) -> Result<UnixListener> {
    // Made under a mask that lets nobody else in, not even for a moment.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(socket).on("listen on", socket);
    rustix::process::umask(before);
    listener
}

fn serve(listener: UnixListener, lab: Arc<Mutex<Lab>>) -> Result<()> {
    for connection in listener.incoming() {
        let connection = connection.attempt(|| "accept a request".into())?;
        let lab = lab.clone();
        std::thread::Builder::new()
            .name("request".into())
            .spawn(move || answer(connection, &lab))
            .attempt(|| "start a thread".into())?;
    }
    Ok(())
}

fn answer(mut connection: UnixStream, lab: &Mutex<Lab>) {
    let mut line = Vec::new();
    let read = (&mut connection).take(REQUEST_BYTES_MAX).read_to_end(&mut line);
    let request: std::result::Result<Request, String> = read
        .map_err(|error| error.to_string())
        .and_then(|_| serde_json::from_slice(&line).map_err(|error| error.to_string()));
    let ends = matches!(&request, Ok(request) if matches!(request.order, Order::ShutDown));
    let result = request.and_then(|Request { limit, order }| {
        // After a panic under the lock the lab is looked at as it is: its parts are the kernel's.
        let mut lab = lab.lock().unwrap_or_else(PoisonError::into_inner);
        lab.carry_out(order, limit).map_err(|error| error.to_string())
    });
    let ends = ends && result.is_ok();
    let sent = serde_json::to_vec(&result)
        .map_err(std::io::Error::from)
        .and_then(|text| connection.write_all(&text));
    if let Err(error) = sent {
        eprintln!("an answer found no reader: {error}");
    }
    if ends {
        std::process::exit(0);
    }
}

impl Lab {
    fn carry_out(&mut self, order: Order, limit: Duration) -> Result<Answer> {
        match order {
            Order::Look => return Ok(Answer::Picture(self.picture()?)),
            Order::Boot { host } => self.boot(&host)?,
            Order::Kill { host } => self.kill(&host, limit)?,
            Order::Freeze { host } => self.host(&host)?.freeze(limit)?,
            Order::Thaw { host } => self.host(&host)?.thaw(limit)?,
            Order::Spawn { host, arguments, log } => {
                return Ok(Answer::Started(self.host(&host)?.spawn(&arguments, &log)?));
            }
            Order::AddMirror(mirror) => self.add_mirror(mirror)?,
            Order::SetPrimary { dir, host } => self.set_primary(&dir, host)?,
            Order::RecordEvents { host, dir, socket } => {
                let log = self.host(&host)?.directory().join(events::LOG);
                events::record(dir, &socket, &log)?;
            }
            Order::SetFaults { faults, seed } => self.network.set_faults(faults, seed)?,
            Order::MakeDisk { host, options } => self.host(&host)?.make_disk(options)?,
            Order::CutPower { host, seed } => return self.cut_power(&host, seed, limit),
            Order::FailReads { host } => match &self.host(&host)?.disk {
                Some(disk) => disk.fail_reads()?,
                None => return refused(format!("host {host} has no disk of its own")),
            },
            Order::ShutDown => self.shut_down(limit)?,
        }
        Ok(Answer::Done)
    }

    fn picture(&self) -> Result<Picture> {
        let mut hosts = Vec::with_capacity(self.hosts.len());
        for (place, host) in self.hosts.iter().enumerate() {
            let processes = host.processes()?;
            hosts.push(HostPicture {
                name: host.name.clone(),
                address: network::address(place),
                init: host.init(),
                frozen: host.frozen,
                disk: host.disk.as_ref().map(|disk| disk.options),
                processes: processes
                    .into_iter()
                    .filter_map(|process| Some((process, process.comm()?)))
                    .collect(),
            });
        }
        Ok(Picture {
            lab: self.options.lab.clone(),
            keeper: self.keeper,
            hosts,
            faults: self.network.faults().to_vec(),
            mirrors: self.mirrors.clone(),
        })
    }

    fn boot(&mut self, name: &str) -> Result<()> {
        let namespace = self.network.namespace(name)?;
        let Some(host) = self.hosts.iter_mut().find(|host| host.name == name) else {
            return refused(format!("the lab has no host {name}"));
        };
        host.boot(namespace, &self.mirrors)?;
        self.network.set_link(name, true)
    }

    fn kill(&mut self, name: &str, limit: Duration) -> Result<()> {
        self.host(name)?;
        // First of all, so that no last word leaves the host.
        self.network.set_link(name, false)?;
        self.host(name)?.kill(limit)
    }

    fn cut_power(&mut self, name: &str, seed: u64, limit: Duration) -> Result<Answer> {
        let volatile = self
            .host(name)?
            .disk
            .as_ref()
            .is_some_and(|disk| disk.options.volatile);
        if !volatile {
            return refused(format!(
                "host {name} has no disk that forgets: give it one with `lab disk {name} --volatile`"
            ));
        }
        self.network.set_link(name, false)?;
        let host = self.host(name)?;
        let Some(disk) = host.disk.as_mut() else {
            return refused(format!("host {name} has no disk of its own"));
        };
        let cut = disk.cut(seed)?;
        host.kill(limit)?;
        if let Some(disk) = host.disk.as_mut() {
            disk.recover(limit)?;
        }
        Ok(Answer::PowerCut(cut))
    }

    fn add_mirror(&mut self, mirror: Mirror) -> Result<()> {
        if self.mirrors.iter().any(|other| other.overlaps(&mirror.dir)) {
            return refused(format!(
                "{} lies in or around a directory that is mirrored already",
                mirror.dir.display()
            ));
        }
        for name in &mirror.hosts {
            self.host(name)?.bind(&mirror)?;
        }
        self.mirrors.push(mirror);
        Ok(())
    }

    fn set_primary(&mut self, dir: &Path, host: String) -> Result<()> {
        match self.mirrors.iter_mut().find(|mirror| mirror.dir == dir) {
            Some(mirror) => {
                mirror.primary = host;
                Ok(())
            }
            None => refused(format!("{} is not mirrored", dir.display())),
        }
    }

    fn shut_down(&mut self, limit: Duration) -> Result<()> {
        for host in &mut self.hosts {
            host.kill(limit)?;
        }
        for host in &mut self.hosts {
            if let Some(disk) = &mut host.disk {
                disk.unmount(limit)?;
            }
            host.disk = None;
        }
        Ok(())
    }

    fn host(&mut self, name: &str) -> Result<&mut Host> {
        match self.hosts.iter_mut().find(|host| host.name == name) {
            Some(host) => Ok(host),
            None => refused(format!("the lab has no host {name}")),
        }
    }
}
