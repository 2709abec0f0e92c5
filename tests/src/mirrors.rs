//! The mirrors of a lab: making them, starting their `skfs`, telling it what to do, and comparing the copies.
//!
//! In place of `skd`, which does not exist yet, the lab decides which host is primary: the one a mirror was made
//! with, or the one promoted last.

use crate::directory;
use crate::error::{Attempt, Error, Result, refused};
use crate::keeper::events::{self, Recorded};
use crate::keeper::protocol::{Answer, HostPicture, Order, Picture};
use crate::lab::{Lab, known};
use crate::mirror::{self, Mirror, MirrorOptions, Node, PORT_FIRST};
use crate::mount_points;
use crate::process::ProcessId;
use crate::programs;
use crate::status::{HostStatus, LabStatus, LinkStatus, MirrorStatus, Wanted, named_pids};
use crate::verify::{self, Report};
use crate::wait::{self, Look};
use skctl::pki;
use skfs::config::Tls;
use skfs::control::client::{Client, ClientError};
use skfs::control::command::{Command, Reply};
use skfs::control::status::{Role, State, Status};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a status may take to come: a `skfs` that hangs must not hang whoever looks.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// Longer than any lab lives.
const CERTIFICATE_DAYS: u32 = 3650;
/// Lines of a log that an error shows.
const LOG_LINES: usize = 20;

impl Lab {
    /// Makes a directory a mirror of two hosts and returns when the copies are in sync. On each host the
    /// directory is one of its own; where the path does not exist it is made, and removed with the lab.
    ///
    /// # Errors
    /// When the directory overlaps another mirror, a host is unknown, or `skfs` does not start or refuses.
    pub fn mirror(&self, dir: impl AsRef<Path>, options: &MirrorOptions) -> Result<Mirror> {
        let picture = self.look()?;
        let dir = directory::plain(dir.as_ref())?;
        if let Some(other) = picture.mirrors.iter().find(|mirror| mirror.overlaps(&dir)) {
            return refused(format!(
                "{} overlaps the mirror {}",
                dir.display(),
                other.dir.display()
            ));
        }
        let hosts = chosen_hosts(&picture, options)?;
        let port_last = picture.mirrors.iter().map(|mirror| mirror.port).max();
        let mirror = Mirror {
            module: mirror::module_name(&dir, &picture.mirrors),
            port: port_last.map_or(PORT_FIRST, |port| port + 1),
            sync: options.sync,
            durability: options.durability,
            primary: hosts[0].clone(),
            hosts,
            dir,
            exclude: options.exclude.clone(),
        };
        let certificates = self.certificates(&mirror.hosts)?;
        for host in &mirror.hosts {
            let node = self.node(&picture, &mirror, host, &certificates)?;
            mirror::write_config(&mirror, options, node)?;
        }
        mount_points::provide(self.directory(), &mirror.dir)?;
        self.ask(Order::AddMirror(mirror.clone()))?;
        let [primary, secondary] = &mirror.hosts;
        for host in [primary, secondary] {
            self.start_skfs(host, &mirror)?;
        }
        self.command(secondary, &mirror.dir, Command::BecomeSecondary)?;
        let become_primary = Command::BecomePrimary {
            ignore_holders: false,
            force: false,
        };
        self.command(primary, &mirror.dir, become_primary)?;
        self.command(primary, &mirror.dir, Command::Connect { overwrite: false })?;
        let what = format!("{} is in sync", mirror.dir.display());
        self.wait_for(self.limit(), &what, |status| {
            let is = |host, wanted| mirror_of(status, host, &mirror.dir).is_some_and(|m| m.is(wanted));
            is(primary, Wanted::InSync) && is(secondary, Wanted::State(State::Second))
        })?;
        Ok(mirror)
    }

    /// Starts a host if it is down, and the `skfs` of each of its mirrors that does not run. A host that is not
    /// meant to be primary becomes secondary and joins its primary. What stands in the way of that is told, and
    /// no error: the host is up.
    ///
    /// # Errors
    /// When the host or an `skfs` does not start.
    pub fn start(&self, host: &str) -> Result<Vec<String>> {
        self.host(host).boot()?;
        let picture = self.look()?;
        if known(&picture, host)?.frozen {
            return refused(format!("host {host} is frozen; thaw it first"));
        }
        let mut notes = Vec::new();
        for mirror in picture
            .mirrors
            .iter()
            .filter(|m| m.hosts.iter().any(|h| h == host))
        {
            self.start_skfs(host, mirror)?;
            let status = self.skfs_status(host, mirror)?;
            if status.role != Role::Stopped {
                continue;
            }
            if mirror.primary == host {
                let dir = mirror.dir.display();
                notes.push(format!("{dir}: waits for `lab promote {host}`"));
            } else if let Err(error) = self.join(host, mirror) {
                notes.push(format!("{}: not joined: {error}", mirror.dir.display()));
            }
        }
        Ok(notes)
    }

    fn join(&self, host: &str, mirror: &Mirror) -> Result<()> {
        self.command(host, &mirror.dir, Command::BecomeSecondary)?;
        let primary = mirror.peer_of(host);
        match self.skfs_status(primary, mirror) {
            Ok(status) if status.role == Role::Primary => {
                let connect = Command::Connect { overwrite: false };
                self.command(primary, &mirror.dir, connect).map(drop)
            }
            Ok(_) | Err(Error::Skfs { .. }) => refused(format!("no primary runs on host {primary}")),
            Err(error) => Err(error),
        }
    }

    /// Makes a host the primary of its mirrors, all or the one given.
    ///
    /// # Errors
    /// When `skfs` refuses, or the directory is not mounted at the end.
    pub fn promote(&self, host: &str, dir: Option<&Path>, force: bool) -> Result<()> {
        for mirror in self.mirrors_of(host, dir)? {
            let command = Command::BecomePrimary {
                ignore_holders: force,
                force,
            };
            self.command(host, &mirror.dir, command)?;
            self.set_primary(&mirror, host)?;
            let what = format!("{} is primary on host {host}", mirror.dir.display());
            self.wait_for(self.limit(), &what, |status| {
                mirror_of(status, host, &mirror.dir).is_some_and(|m| m.role == Some(Role::Primary))
            })?;
        }
        Ok(())
    }

    /// Which host is meant to be primary from now on.
    pub(crate) fn set_primary(&self, mirror: &Mirror, host: &str) -> Result<()> {
        self.ask(Order::SetPrimary {
            dir: mirror.dir.clone(),
            host: host.to_owned(),
        })
        .map(drop)
    }

    /// Sends a command to the `skfs` of each mirror of a host, all or the one given.
    ///
    /// # Errors
    /// The first refusal.
    pub fn command_all(&self, host: &str, dir: Option<&Path>, command: &Command) -> Result<()> {
        self.mirrors_of(host, dir)?
            .iter()
            .try_for_each(|mirror| self.command(host, &mirror.dir, command.clone()).map(drop))
    }

    /// Sends a command to the `skfs` of a directory on a host and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Skfs`] with the refusal as `skfs` gave it.
    pub fn command(&self, host: &str, dir: &Path, command: Command) -> Result<Reply> {
        let mirror = self.one_mirror(host, dir)?;
        self.tell(host, &mirror, self.limit(), command)
    }

    fn tell(&self, host: &str, mirror: &Mirror, limit: Duration, command: Command) -> Result<Reply> {
        self.client(host, mirror, limit)?
            .call(command)
            .map_err(|source| skfs_failed(host, mirror, source))
    }

    /// A connection to the `skfs` of a mirror on a host.
    pub(crate) fn client(&self, host: &str, mirror: &Mirror, limit: Duration) -> Result<Client> {
        let socket = mirror.control(&self.host_directory(host));
        Client::connect(&socket)
            .and_then(|client| {
                client.set_timeout(Some(limit))?;
                Ok(client)
            })
            .map_err(|source| skfs_failed(host, mirror, source))
    }

    pub(crate) fn skfs_status(&self, host: &str, mirror: &Mirror) -> Result<Status> {
        match self.tell(host, mirror, STATUS_LIMIT, Command::Status)? {
            Reply::Status(status) => Ok(*status),
            Reply::Done | Reply::Verification(_) | Reply::Archives(_) => refused(format!(
                "skfs on host {host} answered a question for its status with something else"
            )),
        }
    }

    /// How the whole lab is.
    ///
    /// # Errors
    /// When the keeper does not answer. A `skfs` that does not is told in its mirror's `reason`.
    pub fn status(&self) -> Result<LabStatus> {
        let picture = self.look()?;
        let mut hosts = Vec::with_capacity(picture.hosts.len());
        for host in &picture.hosts {
            let mirrors = picture.mirrors.iter().filter(|m| m.hosts.contains(&host.name));
            hosts.push(HostStatus {
                name: host.name.clone(),
                alive: host.init.is_some(),
                frozen: host.frozen,
                pids: named_pids(
                    host.processes
                        .iter()
                        .map(|(process, name)| (process.pid, name.clone())),
                ),
                mirrors: mirrors.map(|mirror| self.mirror_status(host, mirror)).collect(),
                address: host.address,
            });
        }
        Ok(LabStatus {
            lab: picture.lab.clone(),
            links: links(&picture),
            hosts,
        })
    }

    fn mirror_status(&self, host: &HostPicture, mirror: &Mirror) -> MirrorStatus {
        let mut status = MirrorStatus::unknown(mirror);
        if host.init.is_none() {
            status.reason = Some(format!("host {} is down", host.name));
        } else if host.frozen {
            status.reason = Some(format!("host {} is frozen", host.name));
        } else {
            match self.skfs_status(&host.name, mirror) {
                Ok(told) => status.tell(told),
                Err(error) => status.reason = Some(error.to_string()),
            }
        }
        status
    }

    /// Looks at the status until it is as wanted, and gives it.
    ///
    /// # Errors
    /// After `limit`, with the last status seen.
    pub fn wait_for(
        &self,
        limit: Duration,
        what: &str,
        mut holds: impl FnMut(&LabStatus) -> bool,
    ) -> Result<LabStatus> {
        wait::until(limit, what, || {
            let status = self.status()?;
            if holds(&status) {
                return Ok(Look::Holds(status));
            }
            let shown = serde_json::to_string(&status).map_err(io::Error::from);
            Ok(Look::NotYet(shown.attempt(|| "write a status as JSON".into())?))
        })
    }

    /// Waits until the mirrors of a host, all or the one given, are in a state.
    ///
    /// # Errors
    /// When the host has no such mirror, or after the lab's limit.
    pub fn wait_state(&self, host: &str, dir: Option<&Path>, wanted: Wanted) -> Result<()> {
        let mirrors = self.mirrors_of(host, dir)?;
        self.wait_for(self.limit(), &format!("host {host} is {wanted}"), |status| {
            mirrors
                .iter()
                .all(|mirror| mirror_of(status, host, &mirror.dir).is_some_and(|m| m.is(wanted)))
        })
        .map(drop)
    }

    /// What the `skfs` of a host reported since the lab is up, oldest first. Restarts are not told apart.
    ///
    /// # Errors
    /// When the host is unknown or its log cannot be read.
    pub fn events(&self, host: &str) -> Result<Vec<Recorded>> {
        known(&self.look()?, host)?;
        events::recorded(&self.host_directory(host).join(events::LOG))
    }

    /// Compares the two copies of a mirror, past every mount, but for what is excluded of it.
    ///
    /// # Errors
    /// When the directory is not mirrored, or a copy cannot be read.
    pub fn verify(&self, dir: &Path, options: verify::Options) -> Result<Report> {
        let dir = directory::plain(dir)?;
        let picture = self.look()?;
        let Some(mirror) = picture.mirrors.iter().find(|mirror| mirror.dir == dir) else {
            return refused(format!("{} is not mirrored", dir.display()));
        };
        let [first, second] = &mirror.hosts;
        let (one, other) = (self.backing(first, &dir)?, self.backing(second, &dir)?);
        verify::compare_without(&mirror.exclude, &one, &other, options)
    }

    /// Starts the `skfs` of a mirror on a host unless it answers already.
    pub(crate) fn start_skfs(&self, host: &str, mirror: &Mirror) -> Result<()> {
        if self.skfs_status(host, mirror).is_ok() {
            return Ok(());
        }
        let directory = self.host_directory(host);
        let (config, log) = (mirror.config_file(&directory), mirror.log_file(&directory));
        let skfs = programs::find("skfs")?;
        let started = self.ask(Order::Spawn {
            host: host.to_owned(),
            arguments: vec![skfs.into(), "--config".into(), config.into()],
            log: log.clone(),
        })?;
        let process = match started {
            Answer::Started(process) => process,
            other => return refused(format!("the keeper answered a start with {other:?}")),
        };
        let what = format!("skfs of {} answers on host {host}", mirror.dir.display());
        wait::until(self.limit(), &what, || {
            let error = match self.skfs_status(host, mirror) {
                Ok(_) => return Ok(Look::Holds(())),
                Err(error) => error,
            };
            if process.lives() {
                return Ok(Look::NotYet(error.to_string()));
            }
            Err(ended_early(process, &log))
        })?;
        self.ask(Order::RecordEvents {
            host: host.to_owned(),
            dir: mirror.dir.clone(),
            socket: mirror.control(&directory),
        })
        .map(drop)
    }

    fn certificates(&self, hosts: &[String; 2]) -> Result<PathBuf> {
        let out = self.directory().join("certificates");
        let request = pki::Request {
            cluster: None,
            nodes: hosts.to_vec(),
            days: CERTIFICATE_DAYS,
        };
        pki::init(&out, &request)
            .map_err(io::Error::other)
            .on("make certificates in", &out)?;
        Ok(out)
    }

    fn node(&self, picture: &Picture, mirror: &Mirror, host: &str, certificates: &Path) -> Result<Node> {
        let own = known(picture, host)?;
        let peer = known(picture, mirror.peer_of(host))?;
        let directory = self.host_directory(host);
        // What a power cut takes from the copy it must be able to take from the record of the copy.
        let volatile = own.disk.is_some_and(|disk| disk.volatile);
        let states = if volatile { "disk/.skfs" } else { "state" };
        let folder = certificates.join(host);
        Ok(Node {
            host: host.to_owned(),
            address: own.address,
            peer_address: peer.address,
            state: directory.join(states).join(&mirror.module),
            directory,
            tls: Tls {
                ca: folder.join("ca.crt"),
                certificate: folder.join("node.crt"),
                key: folder.join("node.key"),
            },
        })
    }

    fn one_mirror(&self, host: &str, dir: &Path) -> Result<Mirror> {
        let mut mirrors = self.mirrors_of(host, Some(dir))?;
        mirrors
            .pop()
            .ok_or_else(|| Error::Refused(format!("{} is not mirrored", dir.display())))
    }

    pub(crate) fn mirrors_of(&self, host: &str, dir: Option<&Path>) -> Result<Vec<Mirror>> {
        let picture = self.look()?;
        known(&picture, host)?;
        let dir = dir.map(directory::plain).transpose()?;
        let fits = |mirror: &Mirror| {
            mirror.hosts.iter().any(|name| name == host) && dir.as_ref().is_none_or(|dir| mirror.dir == *dir)
        };
        let found: Vec<_> = picture.mirrors.into_iter().filter(fits).collect();
        match (&dir, found.is_empty()) {
            (_, false) => Ok(found),
            (Some(dir), true) => refused(format!("{} is not mirrored on host {host}", dir.display())),
            (None, true) => refused(format!(
                "host {host} has no mirror; make one with `lab mirror DIR`"
            )),
        }
    }
}

fn chosen_hosts(picture: &Picture, options: &MirrorOptions) -> Result<[String; 2]> {
    let hosts = match &options.hosts {
        Some(hosts) => hosts.clone(),
        None => match &picture.hosts[..] {
            [first, second, ..] => [first.name.clone(), second.name.clone()],
            _ => return refused("a mirror needs two hosts; make the lab with --hosts a,b"),
        },
    };
    if hosts[0] == hosts[1] {
        return refused(format!("host {} cannot be its own secondary", hosts[0]));
    }
    for host in &hosts {
        if known(picture, host)?.init.is_none() {
            return refused(format!("host {host} is down; start it first"));
        }
    }
    Ok(hosts)
}

/// A mirror of a host in a status.
pub fn mirror_of<'a>(status: &'a LabStatus, host: &str, dir: &Path) -> Option<&'a MirrorStatus> {
    status.host(host)?.mirrors.iter().find(|mirror| mirror.dir == dir)
}

fn links(picture: &Picture) -> Vec<LinkStatus> {
    let mut links = Vec::new();
    for from in &picture.hosts {
        for to in picture.hosts.iter().filter(|to| to.name != from.name) {
            let fault = picture
                .faults
                .iter()
                .find(|f| f.from == from.name && f.to == to.name);
            links.push(LinkStatus {
                from: from.name.clone(),
                to: to.name.clone(),
                cut: fault.is_some_and(|fault| fault.cut),
                delay_ms: fault.map_or(0.0, |fault| fault.delay.as_secs_f64() * 1000.0),
                loss: fault.map_or(0.0, |fault| fault.loss),
            });
        }
    }
    links
}

/// An `skfs` that could not be asked, or refused.
pub(crate) fn skfs_failed(host: &str, mirror: &Mirror, source: ClientError) -> Error {
    Error::Skfs {
        host: host.to_owned(),
        dir: mirror.dir.clone(),
        source: Box::new(source),
    }
}

/// The end of its log tells why.
fn ended_early(process: ProcessId, log: &Path) -> Error {
    let text = fs::read_to_string(log).unwrap_or_else(|error| format!("and its log cannot be read: {error}"));
    let lines: Vec<_> = text.lines().collect();
    Error::Program {
        program: format!("skfs (process {})", process.pid),
        output: lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"),
    }
}
