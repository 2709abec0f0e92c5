//! `verify`: begins a verification, waits for it with a line of progress on a terminal, shows what it found.

use super::progress::while_shown;
use anyhow::bail;
use skctl::verification::{left, line, render};
use skfs::control::client::Client;
use skfs::control::command::{Command, Reply, VerifyCommand};
use skfs::control::verification::Report;
use std::io::{self, Write};
use std::path::Path;

/// The copies differ: it has an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("the copies differ in {left} points")]
pub struct Differ {
    left: u64,
}

/// Begins one.
pub fn start(mut client: Client, socket: &Path, repair: bool, wait: bool, json: bool) -> anyhow::Result<()> {
    client.call(Command::Verify(VerifyCommand::Start { repair }))?;
    if !wait {
        return Ok(());
    }
    let waited = while_shown(
        socket,
        |status| status.verification.filter(|one| one.running).as_ref().map(line),
        || client.call(Command::Verify(VerifyCommand::Wait)),
    );
    let report = report(waited?)?;
    show(&report, json)?;
    if let Some(error) = &report.verification.error {
        bail!("the verification ended before its end: {error}");
    }
    match left(&report.verification) {
        0 => Ok(()),
        left => Err(Differ { left }.into()),
    }
}

/// How far it is, or how the last one ended.
pub fn status(mut client: Client, json: bool) -> anyhow::Result<()> {
    show(
        &report(client.call(Command::Verify(VerifyCommand::Status))?)?,
        json,
    )
}

fn report(reply: Reply) -> anyhow::Result<Report> {
    match reply {
        Reply::Verification(report) => Ok(*report),
        other => bail!("skfs answered {other:?} to 'verify'"),
    }
}

fn show(report: &Report, json: bool) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut stdout, report).map_err(io::Error::from)?;
        writeln!(stdout)?;
    } else {
        stdout.write_all(render(report).as_bytes())?;
    }
    stdout.flush()?;
    Ok(())
}
