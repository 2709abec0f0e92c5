//! One host of a lab, as the lab's user holds it.

use crate::disk::ext4::DiskOptions;
use crate::disk::unflushed::Cut;
use crate::error::{Result, refused};
use crate::exec;
use crate::keeper::protocol::{Answer, HostPicture, Order};
use crate::lab::{Lab, known};
use crate::namespace;
use crate::programs;
use crate::wait::{self, Look};
use rustix::process::Signal;
use rustix::thread::ThreadNameSpaceType;
use std::ffi::OsStr;
use std::process::Command;

/// One host of a lab.
#[derive(Debug, Clone, Copy)]
pub struct HostHandle<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) name: &'a str,
}

impl HostHandle<'_> {
    /// A command that runs on the host: `lab exec`, so that whoever waits for it or ends it does so for the
    /// program on the host.
    ///
    /// # Errors
    /// When the program `lab` is not found.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new(programs::find("lab")?);
        command
            .args(["--lab", self.lab.name(), "exec", self.name, "--"])
            .arg(program);
        Ok(command)
    }

    /// Runs `action` on a thread in the host's network and mount namespaces.
    ///
    /// # Errors
    /// When the host is down or frozen, and those of `action`.
    pub fn within<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let init = exec::open_running(&self.picture()?)?;
        let types = ThreadNameSpaceType::NETWORK | ThreadNameSpaceType::MOUNT;
        namespace::within(&init, types, action)
    }

    /// How it is, as the keeper knows it.
    pub fn picture(&self) -> Result<HostPicture> {
        known(&self.lab.look()?, self.name).cloned()
    }

    /// Ends everything on the host at once. What its disk holds stays.
    pub fn kill(&self) -> Result<()> {
        let host = self.name.to_owned();
        self.lab.ask(Order::Kill { host }).map(drop)
    }

    /// SIGKILL to all processes of one program, and waits for their death.
    ///
    /// # Errors
    /// When no such program runs there.
    pub fn kill_program(&self, program: &str) -> Result<()> {
        let picture = self.picture()?;
        let victims: Vec<_> = picture
            .processes
            .iter()
            .map(|(process, _)| *process)
            .filter(|process| process.runs_program(program))
            .collect();
        if victims.is_empty() {
            return refused(format!("no {program} runs on host {}", self.name));
        }
        for victim in &victims {
            victim.signal(Signal::KILL)?;
        }
        victims
            .iter()
            .try_for_each(|victim| victim.kill(self.lab.limit()))
    }

    /// Stops all processes of the host where they are.
    pub fn freeze(&self) -> Result<()> {
        let host = self.name.to_owned();
        self.lab.ask(Order::Freeze { host }).map(drop)
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<()> {
        let host = self.name.to_owned();
        self.lab.ask(Order::Thaw { host }).map(drop)
    }

    /// Starts the host itself, without the programs of its mirrors.
    pub fn boot(&self) -> Result<()> {
        let host = self.name.to_owned();
        self.lab.ask(Order::Boot { host }).map(drop)
    }

    /// Gives the host a disk of its own, before its first mirror.
    pub fn make_disk(&self, options: DiskOptions) -> Result<()> {
        let host = self.name.to_owned();
        self.lab.ask(Order::MakeDisk { host, options }).map(drop)
    }

    /// Cuts the power of a host with a volatile disk: it is down, and part of what was not flushed is gone.
    pub fn cut_power(&self, seed: u64) -> Result<Cut> {
        let host = self.name.to_owned();
        match self.lab.ask(Order::CutPower { host, seed })? {
            Answer::PowerCut(cut) => Ok(cut),
            other => refused(format!("the keeper answered a power cut with {other:?}")),
        }
    }

    /// Lets every read of the host's volatile disk fail, of what no cache has, until its power is cut.
    pub fn fail_reads(&self) -> Result<()> {
        let host = self.name.to_owned();
        self.lab.ask(Order::FailReads { host }).map(drop)
    }

    /// Waits until a look at the host shows what is wanted.
    pub fn wait_for(&self, what: &str, mut holds: impl FnMut(&HostPicture) -> bool) -> Result<()> {
        wait::until(self.lab.limit(), what, || {
            let picture = self.picture()?;
            Ok(if holds(&picture) {
                Look::Holds(())
            } else {
                Look::NotYet(format!("{picture:?}"))
            })
        })
    }
}
