//! `skctl`: the command line of Sidekick.
//!
//! Results go to standard output, everything else to standard error. Whoever reads the output may stop reading:
//! a closed pipe ends the program without an error.

mod cluster;
mod fs;
mod progress;
mod status;
mod verify;

use clap::{Parser, Subcommand};
use skfs::control::client::ClientError;
use std::io;
use std::process::ExitCode;

/// Exit code of a command that was refused or failed.
const REFUSED: u8 = 1;
/// Exit code when nobody listens on the control socket. (2, for usage, is clap's.)
const NOT_RUNNING: u8 = 3;
/// Exit code when a verification found what differs and was not repaired.
const DIFFER: u8 = 4;

const EXIT_CODES: &str = "\
Exit codes:
  0  carried out (or already so)
  1  refused or failed; standard error says why and what to do
  2  wrong usage
  3  the program asked is not running
  4  verify --wait: the copies differ";

/// Sidekick keeps an application running on two servers.
#[derive(Debug, Parser)]
#[command(name = "skctl", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Certificates of a cluster's nodes.
    #[command(subcommand, after_help = EXIT_CODES)]
    Cluster(cluster::Command),
    /// Talk to the skfs process of one mirror module.
    #[command(after_help = EXIT_CODES)]
    Fs(fs::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Cluster(command) => cluster::run(command),
        Command::Fs(arguments) => fs::run(arguments),
    };
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    if error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    eprintln!("skctl: {error:#}");
    if error.is::<verify::Differ>() {
        return ExitCode::from(DIFFER);
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { source, .. }) if is_absent(source) => ExitCode::from(NOT_RUNNING),
        _ => ExitCode::from(REFUSED),
    }
}

/// Nobody has the socket; other reasons, as no permission, say nothing about who runs.
fn is_absent(source: &io::Error) -> bool {
    matches!(
        source.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}
