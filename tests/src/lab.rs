//! A lab as its user holds it: makes hosts, breaks them, asks how they are, and removes them.

use crate::directory;
use crate::error::{Attempt, Error, Result, refused};
use crate::host::HostHandle;
use crate::keeper::client;
use crate::keeper::protocol::{Answer, HostPicture, Order, Picture};
use crate::keeper::server;
use crate::process::{self, ProcessId};
use crate::programs;
use crate::relay::fault::Fault;
use crate::wait;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long any step may take, unless told otherwise.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Addresses and interface names are made for fewer than this many hosts.
const HOSTS_MAX: usize = 64;
/// Ethernet's own.
pub const MTU: u32 = 1500;
/// In the lab's directory: which process keeps it.
const KEEPER_FILE: &str = "keeper.json";

/// What a lab is made with.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// Its name.
    pub name: String,
    /// Its hosts, in the order of their addresses.
    pub hosts: Vec<String>,
    /// Largest packet between them.
    pub mtu: u32,
    /// How long any step may take.
    pub limit: Duration,
    /// The lab is removed once this process is dead, however it died.
    pub owner: Option<ProcessId>,
}

/// A lab that is up. See [`Lab::up`] for one that removes itself.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: PathBuf,
    limit: Duration,
    /// The keeper, if this process started it: collected once it is dead.
    keeper: Option<Child>,
    removed_on_drop: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeeperFile {
    keeper: ProcessId,
}

impl Lab {
    /// Makes a lab for a test, under a name of its own. It is removed when this value is dropped, also after a
    /// panic, and by its keeper when this process is killed.
    ///
    /// # Errors
    /// See [`Lab::make`].
    pub fn up(hosts: &[&str]) -> Result<Lab> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut lab = Lab::make(&LabOptions {
            name: format!("test-{}-{number}", std::process::id()),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            mtu: MTU,
            limit: LIMIT,
            owner: Some(ProcessId::of(std::process::id())?),
        })?;
        lab.removed_on_drop = true;
        Ok(lab)
    }

    /// Makes a lab that stays until [`Lab::down`]. One of this name with these hosts that is up already will do.
    ///
    /// # Errors
    /// When a name cannot be used, another lab has it, or the system refuses something; then nothing is left.
    pub fn make(options: &LabOptions) -> Result<Lab> {
        check(options)?;
        let directory = directory::of_lab(&options.name)?;
        if !directory::make(&options.name)? {
            return Lab::same(options);
        }
        let mut lab = Lab {
            name: options.name.clone(),
            directory,
            limit: options.limit,
            keeper: None,
            removed_on_drop: false,
        };
        if let Err(error) = lab.start_keeper(options) {
            // The first failure is the one to tell; a second one is told beside it.
            return match lab.remove() {
                Ok(()) => Err(error),
                Err(second) => refused(format!(
                    "{error}; and what was made could not be removed: {second}"
                )),
            };
        }
        Ok(lab)
    }

    /// The lab of this name, which is up.
    ///
    /// # Errors
    /// When there is none, or what keeps it has died.
    pub fn open(name: &str, limit: Duration) -> Result<Lab> {
        let directory = directory::of_lab(name)?;
        if !directory.exists() {
            return refused(format!(
                "there is no lab {name}: make it with `lab --lab {name} up`"
            ));
        }
        let lab = Lab {
            name: name.to_owned(),
            directory,
            limit,
            keeper: None,
            removed_on_drop: false,
        };
        match lab.keeper_id()? {
            Some(keeper) if keeper.lives() => Ok(lab),
            _ => refused(format!(
                "lab {name} is not running any more: remove what is left with `lab --lab {name} down`"
            )),
        }
    }

    fn same(options: &LabOptions) -> Result<Lab> {
        let lab = Lab::open(&options.name, options.limit)?;
        let hosts: Vec<_> = lab.look()?.hosts.into_iter().map(|host| host.name).collect();
        if hosts == options.hosts {
            return Ok(lab);
        }
        refused(format!(
            "lab {} is up with other hosts ({}): take it down first, or give the new one another name",
            options.name,
            hosts.join(",")
        ))
    }

    fn start_keeper(&mut self, options: &LabOptions) -> Result<()> {
        let log_path = self.directory.join(server::LOG);
        let log = File::create(&log_path).on("make the log", &log_path)?;
        let mut command = Command::new(programs::find("lab")?);
        command
            .args(["keeper", "--lab", &self.name, "--directory"])
            .arg(&self.directory)
            .args([
                "--hosts",
                &options.hosts.join(","),
                "--mtu",
                &options.mtu.to_string(),
            ]);
        if let Some(owner) = options.owner {
            command.args(["--owner", &owner.to_string()]);
        }
        let mut child = command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .attempt(|| "start the keeper of the lab".into())?;
        let output = child.stdout.take();
        let keeper = ProcessId::of(child.id());
        self.keeper = Some(child);
        self.store_keeper(keeper?)?;
        let mut said = String::new();
        if let Some(mut output) = output {
            let mut bytes = vec![0; server::READY.len()];
            // What is too short ended early, and its log tells why.
            if output.read_exact(&mut bytes).is_ok() {
                said = String::from_utf8_lossy(&bytes).into_owned();
            }
        }
        if said == server::READY {
            return Ok(());
        }
        Err(Error::Program {
            program: format!("the keeper of lab {}", self.name),
            output: fs::read_to_string(&log_path)
                .on("read the log", &log_path)?
                .trim()
                .to_owned(),
        })
    }

    fn store_keeper(&self, keeper: ProcessId) -> Result<()> {
        let path = self.directory.join(KEEPER_FILE);
        serde_json::to_vec(&KeeperFile { keeper })
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&path, text))
            .on("write", &path)
    }

    fn keeper_id(&self) -> Result<Option<ProcessId>> {
        let path = self.directory.join(KEEPER_FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(|KeeperFile { keeper }| Some(keeper))
                .map_err(io::Error::from)
                .on("understand", &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).on("read", &path),
        }
    }

    /// Removes a lab, whatever is left of it. None of this name is fine.
    ///
    /// # Errors
    /// When something cannot be ended or removed.
    pub fn down(name: &str, limit: Duration) -> Result<()> {
        let directory = directory::of_lab(name)?;
        if !directory.exists() {
            return Ok(());
        }
        let mut lab = Lab {
            name: name.to_owned(),
            directory,
            limit,
            keeper: None,
            removed_on_drop: false,
        };
        lab.remove()
    }

    fn remove(&mut self) -> Result<()> {
        self.removed_on_drop = false;
        let ended = match self.keeper_id()? {
            Some(keeper) if keeper.lives() => self.end_keeper(keeper),
            _ => Ok(()),
        };
        if let Some(mut keeper) = self.keeper.take() {
            keeper.wait().attempt(|| "wait for the keeper".into())?;
        }
        // Hosts end with their keeper by themselves; this is for one that is stuck.
        for process in first_processes(&self.directory)? {
            process.kill(self.limit)?;
        }
        directory::remove(&self.directory)?;
        ended
    }

    /// Told to end it unmounts its disks; killed, it leaves that to the kernel.
    fn end_keeper(&self, keeper: ProcessId) -> Result<()> {
        let told = self.ask(Order::ShutDown);
        if told.is_err() {
            keeper.signal(Signal::KILL)?;
        }
        wait::until_true(
            self.limit,
            &format!("the keeper of lab {} is dead", self.name),
            || !keeper.lives(),
        )?;
        // A keeper that never came up does not listen: nothing to complain about.
        match told {
            Err(error @ Error::Refused(_)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is kept.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How long any step may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Where it keeps what belongs to one host.
    pub fn host_directory(&self, host: &str) -> PathBuf {
        self.directory.join(host)
    }

    /// Sends an order to the keeper.
    ///
    /// # Errors
    /// See [`client::ask`].
    pub fn ask(&self, order: Order) -> Result<Answer> {
        client::ask(&self.directory.join(server::SOCKET), self.limit, order)
    }

    /// How the lab is, as its keeper knows it.
    pub fn look(&self) -> Result<Picture> {
        match self.ask(Order::Look)? {
            Answer::Picture(picture) => Ok(picture),
            other => refused(format!("the keeper answered a look with {other:?}")),
        }
    }

    /// One of its hosts; whether it exists shows when it is used.
    pub fn host<'a>(&'a self, name: &'a str) -> HostHandle<'a> {
        HostHandle { lab: self, name }
    }

    /// Lets nothing pass between two hosts, in both directions.
    pub fn cut(&self, a: &str, b: &str) -> Result<()> {
        self.change_ways(&[(a, b), (b, a)], |fault| fault.cut = true)
    }

    /// Lets nothing pass from one host to another; the way back stays as it is.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        self.change_ways(&[(from, to)], |fault| fault.cut = true)
    }

    /// Delays and loses frames between two hosts, in each direction. An earlier delay and loss of the pair is
    /// replaced, a cut stays.
    pub fn slow(&self, a: &str, b: &str, delay: Duration, loss: f64) -> Result<()> {
        self.change_ways(&[(a, b), (b, a)], |fault| {
            (fault.delay, fault.loss) = (delay, loss)
        })
    }

    /// As [`Lab::slow`], in one direction.
    pub fn slow_one_way(&self, from: &str, to: &str, delay: Duration, loss: f64) -> Result<()> {
        self.change_ways(&[(from, to)], |fault| (fault.delay, fault.loss) = (delay, loss))
    }

    /// Ends all faults of the network.
    pub fn heal(&self) -> Result<()> {
        self.set_faults(Vec::new(), DEFAULT_SEED)
    }

    /// Ends the cuts between a host and all others; delays and losses stay, and so do the faults of others.
    pub fn heal_host(&self, host: &str) -> Result<()> {
        let picture = self.look()?;
        known(&picture, host)?;
        let concerns = |fault: &Fault| fault.cut && (fault.from == host || fault.to == host);
        if !picture.faults.iter().any(concerns) {
            return Ok(());
        }
        let mut faults = picture.faults;
        for fault in faults.iter_mut().filter(|fault| concerns(fault)) {
            fault.cut = false;
        }
        self.set_faults(faults, DEFAULT_SEED)
    }

    /// Replaces all faults of the network.
    pub fn set_faults(&self, faults: Vec<Fault>, seed: u64) -> Result<()> {
        self.ask(Order::SetFaults { faults, seed }).map(drop)
    }

    fn change_ways(&self, ways: &[(&str, &str)], change: impl Fn(&mut Fault)) -> Result<()> {
        let picture = self.look()?;
        let mut faults = picture.faults.clone();
        for &(from, to) in ways {
            for host in [from, to] {
                known(&picture, host)?;
            }
            if from == to {
                return refused(format!("{from} has no link to itself"));
            }
            let place = faults.iter().position(|f| f.from == from && f.to == to);
            let place = place.unwrap_or_else(|| {
                faults.push(Fault::none(from, to));
                faults.len() - 1
            });
            change(&mut faults[place]);
        }
        self.set_faults(faults, DEFAULT_SEED)
    }

    /// The plain path of a host's copy of a directory, seen from outside of all hosts and past every mount of
    /// theirs.
    ///
    /// # Errors
    /// When the host is unknown, or the directory is not absolute.
    pub fn backing(&self, host: &str, dir: &Path) -> Result<PathBuf> {
        let dir = directory::plain(dir)?;
        let picture = self.look()?;
        let own_disk = known(&picture, host)?.disk.is_some();
        let mut path = self.host_directory(host).join("disk");
        if own_disk {
            // Mounted in the keeper's mount namespace, which can be walked into.
            let below_root = path.strip_prefix("/").unwrap_or(&path);
            path = PathBuf::from(format!("/proc/{}/root", picture.keeper.pid)).join(below_root);
        }
        Ok(path.join(dir.strip_prefix("/").unwrap_or(&dir)))
    }
}

/// Decides which frames are lost, unless told otherwise.
pub const DEFAULT_SEED: u64 = 1;

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.removed_on_drop {
            return;
        }
        if let Err(error) = self.remove() {
            eprintln!("lab {} could not be removed: {error}", self.name);
        }
    }
}

/// A host of the picture, or the refusal that names those there are.
pub(crate) fn known<'a>(picture: &'a Picture, host: &str) -> Result<&'a HostPicture> {
    picture.host(host).ok_or_else(|| {
        let names: Vec<_> = picture.hosts.iter().map(|host| host.name.as_str()).collect();
        Error::Refused(format!(
            "lab {} has no host {host}, only {}",
            picture.lab,
            names.join(", ")
        ))
    })
}

fn check(options: &LabOptions) -> Result<()> {
    if options.hosts.is_empty() || options.hosts.len() > HOSTS_MAX {
        return refused(format!("a lab has 1 to {HOSTS_MAX} hosts"));
    }
    for (place, host) in options.hosts.iter().enumerate() {
        directory::check_host_name(host)?;
        if options.hosts[..place].contains(host) {
            return refused(format!("host {host} is named twice"));
        }
    }
    Ok(())
}

/// First processes of hosts of the lab in this directory: they carry it in their command line.
fn first_processes(directory: &Path) -> Result<Vec<ProcessId>> {
    use std::os::unix::ffi::OsStrExt;
    let mut found = Vec::new();
    for process in process::all()? {
        // Gone meanwhile, or a kernel thread: no command line.
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let arguments: Vec<_> = line.split(|byte| *byte == 0).collect();
        let is_init = arguments.get(1) == Some(&b"host-init".as_slice());
        if is_init && arguments.contains(&directory.as_os_str().as_bytes()) {
            found.push(process);
        }
    }
    Ok(found)
}
