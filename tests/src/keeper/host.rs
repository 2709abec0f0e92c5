//! A host: what is left of it while it is down, and its processes while it is up.

use super::init;
use crate::disk::ext4::{self, Disk};
use crate::error::{Attempt, Error, Result, refused};
use crate::mirror::Mirror;
use crate::namespace;
use crate::process::{self, ProcessId};
use crate::wait::{self, Look};
use rustix::fd::OwnedFd;
use rustix::process::Signal;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

/// One host.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// All its processes are stopped.
    pub frozen: bool,
    /// Its own disk, if it has one.
    pub disk: Option<Disk>,
    lab_directory: PathBuf,
    life: Option<Life>,
}

/// A host that is up.
#[derive(Debug)]
struct Life {
    init: ProcessId,
    init_descriptor: OwnedFd,
    /// Text of the link to its pid namespace.
    pid_namespace: PathBuf,
    /// The first process ends when this is closed.
    _keep_alive: ChildStdin,
    child: Child,
}

impl Host {
    /// A host that was never up.
    pub fn new(name: &str, lab_directory: &Path) -> Result<Self> {
        let host = Host {
            name: name.to_owned(),
            frozen: false,
            disk: None,
            lab_directory: lab_directory.to_owned(),
            life: None,
        };
        for part in ["disk", "state", "modules", "log"] {
            let path = host.directory().join(part);
            fs::create_dir_all(&path).on("make the directory", &path)?;
        }
        Ok(host)
    }

    /// Where the lab keeps what belongs to this host.
    pub fn directory(&self) -> PathBuf {
        self.lab_directory.join(&self.name)
    }

    /// Its first process; none while it is down.
    pub fn init(&self) -> Option<ProcessId> {
        self.life.as_ref().map(|life| life.init)
    }

    /// Starts it with mounts of its own, the network namespace given, and its mirrors' directories bound.
    ///
    /// # Errors
    /// When a namespace, a mount or the first process cannot be had; the host is then down.
    pub fn boot(&mut self, network: &OwnedFd, mirrors: &[Mirror]) -> Result<()> {
        if self.life.is_some() {
            return Ok(());
        }
        let mut child = namespace::on_own_thread(|| {
            let own = UnshareFlags::FS
                | UnshareFlags::NEWNS
                | UnshareFlags::NEWPID
                | UnshareFlags::NEWIPC
                | UnshareFlags::NEWUTS;
            namespace::unshare(own).attempt(|| format!("make namespaces for host {}", self.name))?;
            namespace::enter(network, ThreadNameSpaceType::NETWORK)
                .attempt(|| format!("enter the network namespace of host {}", self.name))?;
            Command::new("/proc/self/exe")
                .args(["host-init", "--host", &self.name, "--directory"])
                .arg(&self.lab_directory)
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .attempt(|| format!("start the first process of host {}", self.name))
        })?;
        let started = self.take_over(&mut child);
        match started {
            Ok((init, init_descriptor, pid_namespace, keep_alive)) => {
                self.life = Some(Life {
                    init,
                    init_descriptor,
                    pid_namespace,
                    _keep_alive: keep_alive,
                    child,
                });
            }
            Err(error) => {
                end(&mut child)?;
                return Err(error);
            }
        }
        self.frozen = false;
        for mirror in mirrors.iter().filter(|mirror| mirror.hosts.contains(&self.name)) {
            if let Err(error) = self.bind(mirror) {
                self.kill(Duration::from_secs(10))?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn take_over(&self, child: &mut Child) -> Result<(ProcessId, OwnedFd, PathBuf, ChildStdin)> {
        let (Some(keep_alive), Some(mut output), Some(mut errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return refused("the first process of a host was started without pipes");
        };
        let mut said = vec![0; init::READY.len()];
        if output.read_exact(&mut said).is_err() || said != init::READY.as_bytes() {
            let mut problem = String::new();
            // What it said is all there is to tell; an error of reading it adds nothing.
            let _ = errors.read_to_string(&mut problem);
            return Err(Error::Program {
                program: format!("the first process of host {}", self.name),
                output: problem.trim().to_owned(),
            });
        }
        let init = ProcessId::of(child.id())?;
        let Some(descriptor) = init.open() else {
            return refused(format!("the first process of host {} ended at once", self.name));
        };
        let link = PathBuf::from(format!("/proc/{}/ns/pid", init.pid));
        let pid_namespace = fs::read_link(&link).on("read the link", &link)?;
        Ok((init, descriptor, pid_namespace, keep_alive))
    }

    /// Binds a mirror's directory on this host to the host's own copy; once in the life of the host.
    pub fn bind(&self, mirror: &Mirror) -> Result<()> {
        let backing = mirror.backing(&self.directory());
        fs::create_dir_all(&backing).on("make the directory", &backing)?;
        let life = self.life()?;
        namespace::within(&life.init_descriptor, ThreadNameSpaceType::MOUNT, || {
            rustix::mount::mount_bind(&backing, &mirror.dir).attempt(|| {
                let (dir, host) = (mirror.dir.display(), &self.name);
                format!("bind {} on {dir} of host {host}", backing.display())
            })
        })
    }

    /// Gives it a disk of its own; nothing may be on the old one.
    pub fn make_disk(&mut self, options: ext4::DiskOptions) -> Result<()> {
        if self.disk.is_some() {
            return refused(format!("host {} has a disk of its own already", self.name));
        }
        let mount_point = self.directory().join("disk");
        let is_empty = fs::read_dir(&mount_point)
            .on("list", &mount_point)?
            .next()
            .is_none();
        if !is_empty {
            return refused(format!(
                "host {} has data on its disk already; give it another disk before the first mirror",
                self.name
            ));
        }
        let disk = Disk::make(&self.directory(), &mount_point, options)?;
        let seen = self.show_disk(&disk);
        self.disk = Some(disk);
        seen
    }

    /// A host that is up has its own mount namespace: the disk is mounted there, too.
    fn show_disk(&self, disk: &Disk) -> Result<()> {
        let (Some(life), Some(device)) = (&self.life, disk.device()) else {
            return Ok(());
        };
        namespace::within(&life.init_descriptor, ThreadNameSpaceType::MOUNT, || {
            ext4::mount_ext4(device, disk.mount_point())
        })
    }

    /// Starts a program on it, in a session of its own; output goes to `log`.
    pub fn spawn(&self, arguments: &[OsString], log: &Path) -> Result<ProcessId> {
        let life = self.life()?;
        let Some((program, arguments)) = arguments.split_first() else {
            return refused("no program to start was named");
        };
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .on("open the log", log)?;
        let errors = output.try_clone().on("open the log", log)?;
        let mut child = namespace::within(&life.init_descriptor, namespace::HOST, || {
            use std::os::unix::process::CommandExt;
            let mut command = Command::new(program);
            command
                .args(arguments)
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(errors)
                .process_group(0)
                .spawn()
                .attempt(|| format!("start {} on host {}", program.display(), self.name))
        })?;
        let started = ProcessId::of(child.id());
        // Collected here because its parent, this process, is outside of the host.
        std::thread::Builder::new()
            .name("collect".into())
            .spawn(move || child.wait())
            .attempt(|| "start a thread".into())?;
        started
    }

    /// All living processes on it but the first.
    pub fn processes(&self) -> Result<Vec<ProcessId>> {
        match &self.life {
            Some(life) => process::members(&life.pid_namespace, life.init),
            None => Ok(Vec::new()),
        }
    }

    /// Stops all its processes; returns when none runs any more.
    pub fn freeze(&mut self, limit: Duration) -> Result<()> {
        self.life()?;
        let what = format!("all processes of host {} are stopped", self.name);
        wait::until(limit, &what, || {
            // Signalled again in every round: a process may have started another before it stopped.
            let mut running = Vec::new();
            for process in self.processes()? {
                if !process.is_stopped() {
                    process.signal(Signal::STOP)?;
                }
                if !process.is_still() {
                    running.push(process);
                }
            }
            Ok(look_at(running))
        })?;
        self.frozen = true;
        Ok(())
    }

    /// Lets all its processes go on.
    pub fn thaw(&mut self, limit: Duration) -> Result<()> {
        self.life()?;
        let what = format!("all processes of host {} go on", self.name);
        wait::until(limit, &what, || {
            let stopped: Vec<_> = self
                .processes()?
                .into_iter()
                .filter(|process| process.is_stopped())
                .collect();
            for process in &stopped {
                process.signal(Signal::CONT)?;
            }
            Ok(look_at(stopped))
        })?;
        self.frozen = false;
        Ok(())
    }

    /// Ends everything on it at once, as a loss of power does, but for what its disk remembers.
    pub fn kill(&mut self, limit: Duration) -> Result<()> {
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        life.init.signal(Signal::KILL)?;
        let (namespace, init) = (life.pid_namespace.clone(), life.init);
        let what = format!("all processes of host {} are dead", self.name);
        wait::until(limit, &what, || {
            let mut left = process::members(&namespace, init)?;
            // The first process leaves its namespaces only after it has seen all others die.
            if life
                .child
                .try_wait()
                .attempt(|| "wait for a process".into())?
                .is_none()
                && left.is_empty()
            {
                left.push(init);
            }
            Ok(look_at(left))
        })?;
        self.life = None;
        self.frozen = false;
        Ok(())
    }

    fn life(&self) -> Result<&Life> {
        match &self.life {
            Some(life) => Ok(life),
            None => refused(format!("host {} is down; start it first", self.name)),
        }
    }
}

fn look_at(processes: Vec<ProcessId>) -> Look<()> {
    if processes.is_empty() {
        return Look::Holds(());
    }
    let names = processes.iter().map(|process| {
        let name = process.comm().unwrap_or_default();
        format!("{} {name}", process.pid)
    });
    Look::NotYet(format!("not so: {}", names.collect::<Vec<_>>().join(", ")))
}

fn end(child: &mut Child) -> Result<()> {
    child
        .kill()
        .and_then(|()| child.wait())
        .map(drop)
        .attempt(|| "end the first process of a host".into())
}
