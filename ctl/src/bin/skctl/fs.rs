//! `skctl fs`: commands to the `skfs` process of one module, over its control socket.

use super::{progress, status, verify};
use anyhow::bail;
use clap::{Args, Subcommand};
use skfs::control::client::Client;
use skfs::control::command::{ArchivesCommand, Command as Order, CopyCommand, Reply, VerifyCommand};
use skfs::control::event::Event;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The control socket, as 'control' in the module's configuration names it.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Give up waiting for the answer after this many seconds; what was ordered goes on. Not for
    /// 'events' [default: wait].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount the directories and take their writes.
    ///
    /// A running in-sync secondary ends its session first and goes on alone. Any other node starts with
    /// writes waiting for 'connect' or 'go-alone'.
    BecomePrimary {
        /// Mount although processes hold files in the directories open, and only warn of them: they bypass
        /// replication.
        #[arg(long)]
        ignore_holders: bool,
        /// Become primary although this node's copy may be old or mixed: newer data of the peer is lost.
        #[arg(long)]
        force: bool,
    },
    /// Cover the directories and wait for the primary.
    BecomeSecondary,
    /// Primary: open a session with the secondary; returns when the pair is in sync.
    ///
    /// A secondary whose copy is not known to be equal is brought to this node's state first, while the application
    /// runs; its progress is shown on a terminal. What it has already is not sent again. Interrupted (^C), the copy
    /// goes on; 'go-alone' ends it.
    Connect {
        /// Whatever the secondary holds may be overwritten: files that are not this module's, writes that only it
        /// has.
        #[arg(long)]
        overwrite: bool,
    },
    /// Primary: what the copy that 'connect' began should do.
    Copy {
        #[command(subcommand)]
        order: CopyOrder,
    },
    /// Primary: compare both copies completely, names, attributes and data, while the application runs.
    ///
    /// The pair must be in sync. What differs is reported, and nothing else: whatever seems to differ is looked at
    /// again while the operations on it wait for a moment. It yields to the application and obeys 'copy pause',
    /// 'resume', 'limit', 'hurry' and 'yield'. It goes on by itself until its end or 'verify stop'.
    #[command(args_conflicts_with_subcommands = true)]
    Verify {
        /// Bring what differs to this node's state, and compare it again.
        #[arg(long)]
        repair: bool,
        /// Wait for the end and print what was found. Interrupted (^C), the verification goes on.
        #[arg(long)]
        wait: bool,
        /// Print it as JSON; fields are only ever added.
        #[arg(long, requires = "wait")]
        json: bool,
        #[command(subcommand)]
        order: Option<VerifyOrder>,
    },
    /// Show what was put aside on this node before a copy overwrote it, after a split brain.
    ///
    /// 'files' in an archive is the replicated directory as it was, to be read (cp -a) while this node is no primary.
    #[command(args_conflicts_with_subcommands = true)]
    Archives {
        /// As JSON; fields are only ever added.
        #[arg(long)]
        json: bool,
        #[command(subcommand)]
        order: Option<ArchivesOrder>,
    },
    /// Primary: answer the waiting writes without the peer, after noting durably that it lacks data.
    GoAlone,
    /// Leave the role: end the session or unmount, and cover the directories.
    Demote,
    /// Uncover the directories of a stopped module; its copy is marked "verify" first.
    Unlock,
    /// Show where the module stands on this node.
    Status {
        /// As JSON; fields are only ever added.
        #[arg(long)]
        json: bool,
    },
    /// Show events as they come, until skfs ends.
    Events {
        /// One JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Demote and end the process; the directories stay covered.
    Stop {
        /// Do not wait for writes that cannot be answered: abort the mount and say what was lost.
        #[arg(long)]
        abort: bool,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum CopyOrder {
    /// Bring nothing more over until 'resume'; what the secondary has already stays up to date.
    Pause,
    /// Go on.
    Resume,
    /// Take at most this rate, now and in later copies.
    Limit {
        /// Bytes of files per second, as 50M; 'none' for no limit.
        #[arg(value_parser = rate)]
        rate: Rate,
    },
    /// Copy as fast as can be, whatever it costs the application.
    Hurry,
    /// Copy so that operations of the application hardly take longer; this is the usual.
    Yield,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum VerifyOrder {
    /// Show how far it is, or how the last one ended, and what it found.
    Status {
        /// As JSON; fields are only ever added.
        #[arg(long)]
        json: bool,
    },
    /// End it before its end; returns once it has.
    Stop,
}

#[derive(Debug, Clone, Subcommand)]
enum ArchivesOrder {
    /// Remove one, in every directory of the module.
    Remove {
        /// As listed.
        name: String,
    },
}

/// Bytes per second, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate(Option<u64>);

fn rate(text: &str) -> Result<Rate, String> {
    if text == "none" {
        return Ok(Rate(None));
    }
    let (number, factor) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    match bytes {
        Some(bytes) if bytes > 0 => Ok(Rate(Some(bytes))),
        _ => Err("it is a number of bytes as 500000, 512K, 50M or 1G, or 'none'".into()),
    }
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut client = Client::connect(&arguments.socket)?;
    // Between two events any time may pass.
    let limit = arguments
        .timeout
        .filter(|_| !matches!(arguments.command, Command::Events { .. }));
    client.set_timeout(limit.map(Duration::from_secs))?;
    let order = match arguments.command {
        Command::Events { json } => return follow(client, json),
        Command::Status { json } => return show_status(client, json),
        Command::BecomePrimary {
            ignore_holders,
            force,
        } => Order::BecomePrimary {
            ignore_holders,
            force,
        },
        Command::BecomeSecondary => Order::BecomeSecondary,
        Command::Connect { overwrite } => return progress::connect(client, &arguments.socket, overwrite),
        Command::Copy { order } => Order::Copy(match order {
            CopyOrder::Pause => CopyCommand::Pause,
            CopyOrder::Resume => CopyCommand::Resume,
            CopyOrder::Limit { rate } => CopyCommand::Limit {
                bytes_per_second: rate.0,
            },
            CopyOrder::Hurry => CopyCommand::Hurry,
            CopyOrder::Yield => CopyCommand::Yield,
        }),
        Command::Verify {
            repair,
            wait,
            json,
            order,
        } => match order {
            None => return verify::start(client, &arguments.socket, repair, wait, json),
            Some(VerifyOrder::Status { json }) => return verify::status(client, json),
            Some(VerifyOrder::Stop) => Order::Verify(VerifyCommand::Stop),
        },
        Command::Archives { json, order: None } => return show_archives(client, json),
        Command::Archives {
            order: Some(ArchivesOrder::Remove { name }),
            ..
        } => Order::Archives(ArchivesCommand::Remove { name }),
        Command::GoAlone => Order::GoAlone,
        Command::Demote => Order::Demote,
        Command::Unlock => Order::Unlock,
        Command::Stop { abort } => Order::Stop { abort },
    };
    match client.call(order)? {
        Reply::Done => Ok(()),
        other => bail!("skfs answered {other:?} to a command that has no such answer"),
    }
}

fn show_archives(mut client: Client, json: bool) -> anyhow::Result<()> {
    let archives = match client.call(Order::Archives(ArchivesCommand::List))? {
        Reply::Archives(archives) => archives,
        other => bail!("skfs answered {other:?} to 'archives'"),
    };
    let mut stdout = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut stdout, &archives).map_err(io::Error::from)?;
        writeln!(stdout)?;
    } else if archives.is_empty() {
        writeln!(stdout, "nothing was put aside on this node")?;
    } else {
        for one in archives {
            writeln!(
                stdout,
                "{}  {} entries, {} bytes of data\n    {}/files",
                one.name, one.entries, one.bytes, one.path
            )?;
        }
    }
    stdout.flush()?;
    Ok(())
}

fn show_status(mut client: Client, json: bool) -> anyhow::Result<()> {
    let status = match client.call(Order::Status)? {
        Reply::Status(status) => status,
        other => bail!("skfs answered {other:?} to 'status'"),
    };
    let mut stdout = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut stdout, &status).map_err(io::Error::from)?;
        writeln!(stdout)?;
    } else {
        stdout.write_all(status::render(&status)?.as_bytes())?;
    }
    stdout.flush()?;
    Ok(())
}

fn follow(client: Client, json: bool) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    for event in client.events()? {
        let event = event?;
        if json {
            serde_json::to_writer(&mut stdout, &event).map_err(io::Error::from)?;
            writeln!(stdout)?;
        } else {
            print(&mut stdout, &event)?;
        }
        stdout.flush()?;
    }
    eprintln!("skctl: skfs ended the connection");
    Ok(())
}

fn print(out: &mut impl Write, event: &Event) -> anyhow::Result<()> {
    let kind = serde_json::to_value(&event.what)?;
    let kind = kind["kind"].as_str().unwrap_or("event");
    writeln!(
        out,
        "{:>10}.{:03}  {kind}: {}",
        event.at_ms / 1000,
        event.at_ms % 1000,
        event.message
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_a_unit_or_none() {
        assert_eq!(rate("50M"), Ok(Rate(Some(50 << 20))));
        assert_eq!(rate("700"), Ok(Rate(Some(700))));
        assert_eq!(rate("none"), Ok(Rate(None)));
        for wrong in ["", "0", "M", "5T", "-1", "99999999999G"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
