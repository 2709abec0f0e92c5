//! Processes: named so that a reused pid is never signalled, and found by the host they live on.

use crate::error::{Attempt, Result};
use crate::wait::{self, Look};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// One process for ever: a pid may come back, a pid with its start time does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid, as seen outside of all hosts.
    pub pid: u32,
    /// Clock ticks between boot and the start of the process.
    pub started_ticks: u64,
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pid, self.started_ticks)
    }
}

impl FromStr for ProcessId {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts = text.split_once(':').and_then(|(pid, ticks)| {
            Some(ProcessId {
                pid: pid.parse().ok()?,
                started_ticks: ticks.parse().ok()?,
            })
        });
        parts.ok_or_else(|| format!("{text:?} is not a pid and its start time, as 7:4242"))
    }
}

/// What the scheduler says of a process or thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Runs, or could run as soon as what it waits for comes.
    Runs,
    /// Stopped by a signal.
    Stopped,
    /// In an uninterruptible call of the kernel: runs no code of its own until that ends.
    InKernel,
    /// Dead, not yet collected by its parent.
    Dead,
}

impl ProcessId {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Result<Self> {
        let (_, started_ticks) = stat(Path::new(&format!("/proc/{pid}/stat")))
            .attempt(|| format!("find the start time of process {pid}"))?;
        Ok(ProcessId { pid, started_ticks })
    }

    /// A descriptor of the process, or `None` when it is gone.
    pub fn open(self) -> Option<OwnedFd> {
        let descriptor = pidfd_open(Pid::from_raw(self.pid.try_into().ok()?)?, PidfdFlags::empty()).ok()?;
        // The pid is looked at after the descriptor was opened: if it is the right one now, it was then.
        let (state, started_ticks) = stat(Path::new(&format!("/proc/{}/stat", self.pid))).ok()?;
        (started_ticks == self.started_ticks && state != RunState::Dead).then_some(descriptor)
    }

    /// Whether it lives. A zombie does not.
    pub fn lives(self) -> bool {
        self.open().is_some()
    }

    /// Sends a signal; a process that is gone already is no error.
    pub fn signal(self, signal: Signal) -> Result<()> {
        let Some(descriptor) = self.open() else {
            return Ok(());
        };
        match pidfd_send_signal(&descriptor, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).attempt(|| format!("send {signal:?} to process {}", self.pid)),
        }
    }

    /// Returns when it is dead, which may be never.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait_for_end(self) -> Result<()> {
        let Some(descriptor) = self.open() else {
            return Ok(());
        };
        let attempt = || format!("wait for the end of process {}", self.pid);
        loop {
            match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error).attempt(attempt),
            }
        }
    }

    /// SIGKILL, and waits until it is dead.
    pub fn kill(self, limit: Duration) -> Result<()> {
        self.signal(Signal::KILL)?;
        wait::until(limit, &format!("process {} is dead", self.pid), || {
            Ok(if self.lives() {
                Look::NotYet("it lives".into())
            } else {
                Look::Holds(())
            })
        })
    }

    /// Its name as `ps` shows it.
    pub fn comm(self) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{}/comm", self.pid)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// Whether it is an instance of `program`, by its name or by the file it executes.
    pub fn runs_program(self, program: &str) -> bool {
        // The kernel keeps 15 bytes of the name.
        let short: String = program.chars().take(15).collect();
        if self.comm().is_some_and(|comm| comm == program || comm == short) {
            return true;
        }
        let executable = fs::read_link(format!("/proc/{}/exe", self.pid)).unwrap_or_default();
        let name = executable.file_name().unwrap_or_default().to_string_lossy();
        name.strip_suffix(" (deleted)").unwrap_or(&name) == program
    }

    /// Whether none of its threads can run code of its own: each is stopped, dead, or inside the kernel
    /// (where it meets the stop signal on its way out).
    pub fn is_still(self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return true;
        };
        threads
            .flatten()
            .all(|thread| match stat(&thread.path().join("stat")) {
                Ok((state, _)) => state != RunState::Runs,
                Err(_) => true, // gone between the listing and the look
            })
    }

    /// Whether any of its threads is stopped by a signal.
    pub fn is_stopped(self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return false;
        };
        threads
            .flatten()
            .any(|thread| matches!(stat(&thread.path().join("stat")), Ok((RunState::Stopped, _))))
    }
}

/// All living processes of a pid namespace and of those inside it, its first process excepted.
///
/// `namespace` is what `/proc/PID/ns/pid` of a member links to.
pub fn members(namespace: &Path, except: ProcessId) -> Result<Vec<ProcessId>> {
    let mut found = all()?;
    found.retain(|process| *process != except && is_within(process.pid, namespace) && process.lives());
    Ok(found)
}

/// All processes that the caller can see.
pub fn all() -> Result<Vec<ProcessId>> {
    let entries = fs::read_dir("/proc").attempt(|| "list /proc".into())?;
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // A process may end at any moment: what cannot be read of it is gone.
    Ok(pids.filter_map(|pid| ProcessId::of(pid).ok()).collect())
}

/// Whether the pid namespace of a process is `namespace` or a descendant of it.
fn is_within(pid: u32, namespace: &Path) -> bool {
    let link = PathBuf::from(format!("/proc/{pid}/ns/pid"));
    match fs::read_link(&link) {
        Ok(own) if own == namespace => return true,
        Ok(own) if fs::read_link("/proc/self/ns/pid").is_ok_and(|ours| ours == own) => return false,
        Ok(_) => {}
        Err(_) => return false,
    }
    let Ok(mut descriptor) = fs::File::open(&link).map(OwnedFd::from) else {
        return false;
    };
    // Namespaces nest at most 32 deep; the walk ends above our own with EPERM.
    while let Ok(parent) = crate::namespace::parent(&descriptor) {
        if crate::namespace::link_text(&parent).is_ok_and(|text| text == namespace) {
            return true;
        }
        descriptor = parent;
    }
    false
}

/// State and start time from a `stat` file of proc(5).
fn stat(path: &Path) -> io::Result<(RunState, u64)> {
    let text = fs::read_to_string(path)?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a stat file of proc(5)"))
}

/// The name in parentheses may itself hold spaces and parentheses: fields count from the last one.
fn parse_stat(text: &str) -> Option<(RunState, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = match fields.next()? {
        "T" | "t" => RunState::Stopped,
        "D" => RunState::InKernel,
        "Z" | "X" | "x" => RunState::Dead,
        _ => RunState::Runs,
    };
    // The start time is field 22 of the file; the state was field 3.
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = "7 (a) S (b)) T 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_stat(line), Some((RunState::Stopped, 4242)));
    }

    #[test]
    fn a_pid_with_another_start_time_is_another_process() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.lives());
        assert_eq!(own.to_string().parse(), Ok(own));
        let other = ProcessId {
            started_ticks: own.started_ticks + 1,
            ..own
        };
        assert!(!other.lives());
    }
}
