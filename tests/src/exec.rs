//! `lab exec`: a command on a host, with the caller's input, output, signals and exit code.

use crate::error::{Attempt, Error, Result};
use crate::keeper::protocol::HostPicture;
use crate::namespace;
use rustix::fd::OwnedFd;
use rustix::thread::UnshareFlags;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Exit code when the lab itself fails, as `env` and `timeout` use it.
pub const LAB_FAILED: u8 = 125;
/// Exit code when the command was found and could not be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit code when the command was not found.
pub const NOT_FOUND: u8 = 127;

/// Handed on to the command when somebody sends them to this process.
const HANDED_ON: [libc::c_int; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Opens the first process of a host that is up and not frozen.
///
/// # Errors
/// When nothing can be started there now, with what to do.
pub fn open_running(host: &HostPicture) -> Result<OwnedFd> {
    if host.frozen {
        return Err(Error::Refused(format!(
            "host {} is frozen; thaw it first",
            host.name
        )));
    }
    host.init
        .and_then(|init| init.open())
        .ok_or_else(|| Error::Refused(format!("host {} is down; start it first", host.name)))
}

/// Moves this process to the host and runs a command there to its end; gives its exit code, or 128 and the
/// number of the signal that ended it. After `limit` the command is killed.
///
/// To be called from a process with one thread, which is of no other use afterwards.
///
/// # Errors
/// When the host cannot be entered or waiting fails, and when the limit has passed.
pub fn run(host: &HostPicture, command: &[OsString], limit: Option<Duration>) -> Result<u8> {
    let init = open_running(host)?;
    let directory = std::env::current_dir();
    namespace::unshare(UnshareFlags::FS).attempt(|| "leave a shared working directory".into())?;
    namespace::enter(&init, namespace::HOST).attempt(|| format!("enter host {}", host.name))?;
    // Where the caller's directory does not exist on the host, the command starts in the root, as entering left it.
    if let Ok(directory) = directory {
        let _ = std::env::set_current_dir(directory);
    }
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Error::Refused("no command was named".into()))?;
    let (signals, former) = block_signals()?;
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: sigprocmask(2) may be called between fork and exec, and the set that it is given is a copy.
    unsafe {
        command.pre_exec(
            move || match libc::sigprocmask(libc::SIG_SETMASK, &former, std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            },
        );
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("lab: cannot run {}: {error}", program.display());
            let missing = error.kind() == io::ErrorKind::NotFound;
            return Ok(if missing { NOT_FOUND } else { NOT_EXECUTABLE });
        }
    };
    wait(&mut child, &signals, limit)
}

fn wait(child: &mut Child, signals: &libc::sigset_t, limit: Option<Duration>) -> Result<u8> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        if let Some(status) = child.try_wait().attempt(|| "wait for the command".into())? {
            let killed = status.signal().map(|signal| 128 + signal);
            let code = status.code().or(killed).unwrap_or(i32::from(LAB_FAILED));
            return Ok(u8::try_from(code).unwrap_or(LAB_FAILED));
        }
        match next_signal(signals, deadline)? {
            Some((libc::SIGCHLD, _)) => {}
            // A terminal's signal reaches the command by itself: both are in its foreground group.
            Some((_, libc::SI_KERNEL)) => {}
            Some((signal, _)) => {
                // SAFETY: plain system call; the child was not waited for, so the pid is its own.
                unsafe { libc::kill(child.id() as libc::pid_t, signal) };
            }
            None => {
                child.kill().attempt(|| "end the command".into())?;
                child.wait().attempt(|| "wait for the command".into())?;
                return Err(Error::Deadline {
                    what: "the command ends".into(),
                    waited: limit.unwrap_or_default(),
                    last: "it ran and was killed".into(),
                });
            }
        }
    }
}

/// Blocks what [`next_signal`] takes. The second value is the mask before, which a child must get back: it inherits
/// this one.
fn block_signals() -> Result<(libc::sigset_t, libc::sigset_t)> {
    // SAFETY: sigemptyset initialises the set it is given, and sigprocmask the former one; the others change a set that
    // is initialised.
    let (signals, former, blocked) = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        let mut former: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGCHLD);
        for signal in HANDED_ON {
            libc::sigaddset(&mut signals, signal);
        }
        let blocked = libc::sigprocmask(libc::SIG_BLOCK, &signals, &mut former);
        (signals, former, blocked)
    };
    if blocked != 0 {
        return Err(io::Error::last_os_error()).attempt(|| "block signals".into());
    }
    Ok((signals, former))
}

/// The next signal and its origin, or `None` at the deadline.
fn next_signal(
    signals: &libc::sigset_t,
    deadline: Option<Instant>,
) -> Result<Option<(libc::c_int, libc::c_int)>> {
    /// Without a deadline the wait is cut into pieces of this length, and goes on.
    const LONG: Duration = Duration::from_secs(3600);
    loop {
        let rest = deadline.map_or(LONG, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        let timeout = libc::timespec {
            tv_sec: rest.as_secs() as libc::time_t,
            tv_nsec: rest.subsec_nanos().into(),
        };
        // SAFETY: an all-zero siginfo_t is a valid value of that plain structure.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: all three point to values that live through the call.
        let signal = unsafe { libc::sigtimedwait(signals, &mut info, &timeout) };
        if signal > 0 {
            return Ok(Some((signal, info.si_code)));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN) if deadline.is_some() => return Ok(None),
            Some(libc::EAGAIN | libc::EINTR) => {}
            _ => return Err(error).attempt(|| "wait for a signal".into()),
        }
    }
}
