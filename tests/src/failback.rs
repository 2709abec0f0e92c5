//! Bringing a host back that was gone: started, thawed, reachable, secondary, and in sync again.

use crate::error::{Attempt, Error, Result, refused};
use crate::keeper::protocol::{HostPicture, Picture};
use crate::lab::{Lab, known};
use crate::mirror::Mirror;
use crate::mirrors::{mirror_of, skfs_failed};
use crate::status::Wanted;
use serde::Serialize;
use skfs::control::client::ClientError;
use skfs::control::command::{Command, RefusalKind};
use skfs::control::status::{Copy, Role, State};
use skfs::mount::mountinfo::{self, FILE_SYSTEM_TYPE};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often progress is looked at.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// One mirror that is in sync again.
#[derive(Debug, Clone, Serialize)]
pub struct Returned {
    /// Its directory.
    pub dir: PathBuf,
    /// From the call to "in sync".
    pub seconds: f64,
    /// What was copied; none when it was in sync already or nothing needed to be.
    pub copy: Option<Copy>,
}

impl Lab {
    /// Brings a host back and waits until its mirrors, all or the one given, are in sync: the host is started if it is
    /// down, thawed if it is frozen, the cuts of its links end; its `skfs` becomes secondary, and the primary connects.
    /// A frozen primary whose peer was promoted is started anew, as the machine that a cluster has given up: thawed it
    /// would be a second primary. `progress` is told of a copy that goes on.
    ///
    /// # Errors
    /// When the other host is not primary, when the host goes down meanwhile, or one of the `skfs` refuses: a copy
    /// that took writes of its own is not overwritten.
    pub fn return_host(
        &self,
        host: &str,
        dir: Option<&Path>,
        progress: &mut dyn FnMut(&Path, &Copy),
    ) -> Result<Vec<Returned>> {
        let began = Instant::now();
        let mirrors = self.mirrors_of(host, dir)?;
        for mirror in &mirrors {
            self.refuse_without_primary(host, mirror)?;
        }
        let picture = self.look()?;
        let found = known(&picture, host)?;
        if found.frozen {
            if has_mounted(found, &mirrors)? {
                self.host(host).kill()?;
            } else {
                self.host(host).thaw()?;
            }
        }
        self.heal_host(host)?;
        self.host(host).boot()?;
        let mut returned = Vec::new();
        for mirror in mirrors {
            let copy = self.return_mirror(host, &mirror, progress)?;
            returned.push(Returned {
                dir: mirror.dir,
                seconds: began.elapsed().as_secs_f64(),
                copy,
            });
        }
        Ok(returned)
    }

    fn refuse_without_primary(&self, host: &str, mirror: &Mirror) -> Result<()> {
        let (dir, primary) = (mirror.dir.display(), mirror.peer_of(host));
        match self.skfs_status(primary, mirror) {
            Ok(status) if status.role == Role::Primary => Ok(()),
            Ok(_) | Err(_) => refused(format!(
                "no primary of {dir} runs on host {primary}, to which {host} could return: `lab start {primary}` and \
                 `lab promote {primary}` first"
            )),
        }
    }

    fn return_mirror(
        &self,
        host: &str,
        mirror: &Mirror,
        progress: &mut dyn FnMut(&Path, &Copy),
    ) -> Result<Option<Copy>> {
        let primary = mirror.peer_of(host);
        self.start_skfs(host, mirror)?;
        match self.skfs_status(host, mirror)?.role {
            Role::Stopped => {
                self.command(host, &mirror.dir, Command::BecomeSecondary)?;
            }
            Role::Secondary => {}
            Role::Primary => {
                return refused(format!(
                    "host {host} is primary of {} as well as {primary}: demote the one whose writes may be lost",
                    mirror.dir.display()
                ));
            }
        }
        let before = self.skfs_status(primary, mirror)?.last_copy;
        let deadline = Instant::now() + self.limit();
        loop {
            // A primary that has not noticed yet that the host was away says that it is connected; one that has just
            // noticed has to decide first.
            let connected = self.connect_shown(host, mirror, progress);
            if known(&self.look()?, host)?.init.is_none() {
                return refused(format!(
                    "host {host} went down while {} was brought to the primary's state: `lab return {host}` begins \
                     again, with what is there already",
                    mirror.dir.display()
                ));
            }
            let status = self.status()?;
            let is = |host, wanted| mirror_of(&status, host, &mirror.dir).is_some_and(|m| m.is(wanted));
            if is(primary, Wanted::InSync) && is(host, Wanted::State(State::Second)) {
                break;
            }
            match connected {
                Err(error) if is_final(&error) || Instant::now() > deadline => return Err(error),
                Ok(()) if Instant::now() > deadline => {
                    return refused(format!(
                        "{} is not in sync after {:?}; `lab status` tells how it is",
                        mirror.dir.display(),
                        self.limit()
                    ));
                }
                Err(_) | Ok(()) => std::thread::park_timeout(PROGRESS_EVERY),
            }
        }
        self.set_primary(mirror, primary)?;
        let after = self.skfs_status(primary, mirror)?.last_copy;
        Ok(if after == before { None } else { after })
    }

    /// Has the primary connect to `host`, and waits for that; no longer than the host is up.
    fn connect_shown(
        &self,
        host: &str,
        mirror: &Mirror,
        progress: &mut dyn FnMut(&Path, &Copy),
    ) -> Result<()> {
        let primary = mirror.peer_of(host);
        let mut client = self.client(primary, mirror, self.limit())?;
        let interrupter = client
            .interrupter()
            .map_err(|error| skfs_failed(primary, mirror, error))?;
        let over = AtomicBool::new(false);
        let connected = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                let connected = client.call(Command::Connect { overwrite: false });
                over.store(true, Ordering::Release);
                connected
            });
            while !over.load(Ordering::Acquire) {
                if let Ok(status) = self.skfs_status(primary, mirror)
                    && let Some(copy) = &status.copy
                {
                    progress(&mirror.dir, copy);
                }
                let is_down = |picture: Picture| picture.host(host).is_some_and(|host| host.init.is_none());
                if self.look().is_ok_and(is_down) {
                    interrupter.interrupt();
                }
                // A pace for looking, not a wait for a condition.
                std::thread::park_timeout(PROGRESS_EVERY);
            }
            connecting.join()
        });
        match connected {
            Ok(connected) => connected
                .map(drop)
                .map_err(|error| skfs_failed(primary, mirror, error)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Nothing that happens by itself changes this answer.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Skfs { source, .. } => matches!(
            &**source,
            ClientError::Refused(refusal) if refusal.kind == RefusalKind::WouldOverwrite
        ),
        _ => false,
    }
}

/// Whether one of the mirrors is mounted on a host, so that its `skfs` is primary. One that is frozen cannot be asked.
fn has_mounted(host: &HostPicture, mirrors: &[Mirror]) -> Result<bool> {
    let Some(init) = host.init else {
        return Ok(false);
    };
    let path = PathBuf::from(format!("/proc/{}/mountinfo", init.pid));
    let table = std::fs::read(&path).on("read", &path)?;
    let mounts = mountinfo::parse(&table);
    Ok(mirrors.iter().any(|mirror| {
        mountinfo::top_at(&mirror.dir, &mounts).is_some_and(|mount| mount.kind == FILE_SYSTEM_TYPE)
    }))
}
