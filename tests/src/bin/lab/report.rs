//! What the commands that look print.

use lab::Lab;
use lab::failback::Returned;
use lab::keeper::events::Recorded;
use lab::status::{HostStatus, LabStatus, MirrorStatus};
use lab::verify::Report;
use lab::wait::{self, Look};
use serde::Serialize;
use skctl::progress;
use skfs::control::status::Copy;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// Longer than anybody follows.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Completes the sentence "cannot ...".
const PRINT_EVENT: &str = "print an event";
/// Differences that are listed; the rest is counted.
const DIFFERENCES_SHOWN: usize = 200;

/// Prints one line.
pub fn line(text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Whether a command failed only because nobody reads its output any more.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let print_failed = |source: &io::Error| source.kind() == io::ErrorKind::BrokenPipe;
    match error.downcast_ref::<lab::Error>() {
        Some(lab::Error::System { attempt, source }) => attempt == PRINT_EVENT && print_failed(source),
        Some(_) => false,
        None => error.downcast_ref::<io::Error>().is_some_and(print_failed),
    }
}

/// Prints the status of a lab.
pub fn status(status: &LabStatus, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, status).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    for host in &status.hosts {
        writeln!(out, "{:<12} {:<15} {}", host.name, host.address, condition(host))?;
        for mirror in &host.mirrors {
            writeln!(out, "  {}", one_line(mirror))?;
        }
    }
    for link in status
        .links
        .iter()
        .filter(|link| link.cut || link.delay_ms > 0.0 || link.loss > 0.0)
    {
        let cut = if link.cut { "cut, " } else { "" };
        let (from, to, loss) = (&link.from, &link.to, link.loss * 100.0);
        writeln!(
            out,
            "{from} to {to}: {cut}delay {} ms, loss {loss} %",
            link.delay_ms
        )?;
    }
    Ok(())
}

fn condition(host: &HostStatus) -> &'static str {
    match (host.alive, host.frozen) {
        (false, _) => "down",
        (true, true) => "frozen",
        (true, false) => "up",
    }
}

fn one_line(mirror: &MirrorStatus) -> String {
    let mut parts = vec![mirror.dir.display().to_string()];
    parts.push(name(&mirror.state));
    parts.push(name(&mirror.standing));
    if mirror.in_sync == Some(true) {
        parts.push("in sync".into());
    }
    parts.extend(mirror.reason.clone());
    parts.join(", ")
}

/// A value as JSON writes it, which is how people know it.
fn name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "unknown".into(),
    }
}

/// Lines that show how a copy goes on, each over the last one on a terminal.
pub struct CopyLines {
    shown: bool,
    over: bool,
    any: bool,
}

impl CopyLines {
    /// `shown`: else nothing is written.
    pub fn new(shown: bool) -> Self {
        CopyLines {
            shown,
            over: io::stderr().is_terminal(),
            any: false,
        }
    }

    /// Writes a line. Who does not see it loses nothing.
    pub fn show(&mut self, dir: &Path, copy: &Copy) {
        if !self.shown {
            return;
        }
        let line = format!("{}: {}", dir.display(), progress::line(copy));
        let _ = if self.over {
            write!(io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(io::stderr(), "{line}")
        };
        self.any = true;
    }

    /// Nothing more is shown.
    pub fn end(&self) {
        if self.any && self.over {
            let _ = writeln!(io::stderr());
        }
    }
}

/// Prints what was copied to a host that is back.
pub fn returned(returned: &[Returned], json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, returned).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    for mirror in returned {
        let (dir, seconds) = (mirror.dir.display(), mirror.seconds);
        match &mirror.copy {
            Some(copy) => {
                let sent = progress::bytes(copy.bytes_sent.unwrap_or(0));
                let compared = progress::bytes(copy.bytes_skipped.unwrap_or(0));
                let what = match copy.tracked {
                    Some(true) => "of what had changed",
                    Some(false) | None => "after everything was compared",
                };
                writeln!(
                    out,
                    "{dir}: in sync after {seconds:.1} s, {sent} sent {what}, {compared} were there"
                )?;
            }
            None => writeln!(
                out,
                "{dir}: in sync after {seconds:.1} s, nothing had to be copied"
            )?,
        }
    }
    Ok(())
}

/// Prints what the return of a host under load took.
pub fn failback(returned: &Returned) -> anyhow::Result<()> {
    let copied = |value: Option<u64>| progress::bytes(value.unwrap_or(0));
    let (sent, there) = match &returned.copy {
        Some(copy) => (copied(copy.bytes_sent), copied(copy.bytes_skipped)),
        None => (copied(None), copied(None)),
    };
    line(format_args!(
        "failback: copied {sent}, {there} were there already, {:.1} s, under load",
        returned.seconds
    ))
}

/// Prints what differs; the exit code is 1 if anything does.
pub fn differences(report: &Report) -> anyhow::Result<u8> {
    let mut out = io::stdout().lock();
    for difference in report.differences.iter().take(DIFFERENCES_SHOWN) {
        writeln!(out, "{difference}")?;
    }
    let (found, hidden) = (
        report.differences.len(),
        report.differences.len().saturating_sub(DIFFERENCES_SHOWN),
    );
    if hidden > 0 {
        writeln!(out, "... and {hidden} more")?;
    }
    let (entries, bytes) = (report.entries, report.bytes);
    writeln!(
        out,
        "{entries} entries and {bytes} bytes compared, {found} differences"
    )?;
    Ok(u8::from(found > 0))
}

/// Prints events: those there are, those up to the first of a kind, or all that ever come.
pub fn events(lab: &Lab, host: &str, json: bool, until: Option<&str>, follow: bool) -> anyhow::Result<()> {
    let mut printed = 0;
    let limit = if follow { FOREVER } else { lab.limit() };
    let what = match until {
        Some(kind) => format!("host {host} reports an event {kind:?}"),
        None => format!("events of host {host} end"),
    };
    wait::until(limit, &what, || {
        let events = lab.events(host)?;
        for event in &events[printed..] {
            print(event, json).map_err(|source| lab::Error::System {
                attempt: PRINT_EVENT.into(),
                source,
            })?;
        }
        printed = events.len();
        let done = match until {
            Some(kind) => events.iter().any(|event| kind_of(event) == kind),
            None => !follow,
        };
        Ok(if done {
            Look::Holds(())
        } else {
            Look::NotYet(format!("{printed} events, none of this kind"))
        })
    })?;
    Ok(())
}

fn print(event: &Recorded, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(event)?)
    } else {
        let (at, dir) = (event.event.at_ms as f64 / 1000.0, event.dir.display());
        let (kind, message) = (kind_of(event), &event.event.message);
        writeln!(out, "{at:12.3} {dir} {kind}: {message}")
    }
}

fn kind_of(event: &Recorded) -> String {
    let what = serde_json::to_value(&event.event.what).unwrap_or_default();
    what["kind"].as_str().unwrap_or_default().to_owned()
}
