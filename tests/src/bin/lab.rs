//! `lab`: makes hosts on this machine, mirrors directories between them, breaks things, and looks.

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use lab::directory;
use lab::disk::ext4::DiskOptions;
use lab::exec;
use lab::keeper::{init, server};
use lab::relay::fault::parse_loss;
use lab::{Lab, LabOptions};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Hosts made of namespaces on one machine, a network between them that can be broken, and mirrors on them.
///
/// Every command exits 0 only when its effect holds, 1 when it could not be brought about, 2 when it was not
/// understood. Needs root.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Which lab.
    #[arg(long, global = true, default_value = "default")]
    lab: String,
    /// How long the command may take [default: 60s; exec: no limit].
    #[arg(long, global = true, value_parser = parse_duration)]
    timeout: Option<Duration>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a lab. Its hosts are 10.77.0.1, 10.77.0.2, ... in the order given.
    Up {
        /// Names of the hosts.
        #[arg(long, value_delimiter = ',', default_value = "a,b")]
        hosts: Vec<String>,
        /// Largest packet between them, in bytes.
        #[arg(long, default_value_t = lab::MTU)]
        mtu: u32,
        /// Give each host a disk that forgets unflushed writes at a power cut.
        #[arg(long)]
        volatile_disks: bool,
    },
    /// Remove a lab and everything on it. None there is fine.
    Down {
        /// Every lab of this machine.
        #[arg(long)]
        all: bool,
    },
    /// Run a command on a host; input, output and exit code are the command's, 125 is the lab's own failure.
    Exec {
        /// The host.
        host: String,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Start a host that is down, and what is missing on one that is up.
    Start {
        /// The host.
        host: String,
    },
    /// SIGKILL to everything on a host, or to one program; without a program the host is down afterwards.
    Kill {
        /// The host.
        host: String,
        /// The program's name.
        program: Option<String>,
    },
    /// Stop all processes of a host where they are.
    Freeze {
        /// The host.
        host: String,
    },
    /// Let the processes of a frozen host go on.
    Thaw {
        /// The host.
        host: String,
    },
    /// Let nothing pass between two hosts.
    Cut {
        /// A host.
        a: String,
        /// Another one.
        b: String,
        /// Cut only the way from A to B.
        #[arg(long)]
        one_way: bool,
    },
    /// Delay and lose frames between two hosts, in each direction. Replaces an earlier `slow` of the pair.
    Slow {
        /// A host.
        a: String,
        /// Another one.
        b: String,
        /// Added to the way of every frame: a round trip takes twice as long.
        #[arg(long, default_value = "0ms", value_parser = parse_duration)]
        delay: Duration,
        /// Share of lost frames, as 1% or 0.01.
        #[arg(long, default_value = "0%", value_parser = parse_loss)]
        loss: f64,
        /// Only the way from A to B.
        #[arg(long)]
        one_way: bool,
    },
    /// End all cuts, delays and losses.
    Heal,
    /// Give a host an ext4 of its own without reserved blocks, before its first mirror.
    Disk {
        /// The host.
        host: String,
        /// Its size, as 64M.
        #[arg(long, default_value = "256M", value_parser = parse_size)]
        size: u64,
        /// It forgets unflushed writes at a power cut.
        #[arg(long)]
        volatile: bool,
    },
    /// Cut the power of a host with a volatile disk: part of what was not flushed is gone, the host is down.
    Powercut {
        /// The host.
        host: String,
        /// Decides what is lost.
        #[arg(long, default_value_t = lab::DEFAULT_SEED)]
        seed: u64,
    },
    /// Print where a host's own copy of a directory lies, seen from outside of all hosts.
    Backing {
        /// The host.
        host: String,
        /// The directory, as the hosts see it.
        dir: PathBuf,
    },
    /// The process that holds a lab together.
    #[command(hide = true)]
    Keeper {
        #[arg(long)]
        directory: PathBuf,
        #[arg(long, value_delimiter = ',')]
        hosts: Vec<String>,
        #[arg(long)]
        mtu: u32,
    },
    /// The first process of a host.
    #[command(hide = true)]
    HostInit {
        #[arg(long)]
        directory: PathBuf,
        #[arg(long)]
        host: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let failed = if matches!(arguments.command, Command::Exec { .. }) {
        exec::LAB_FAILED
    } else {
        1
    };
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::from(failed)
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let Arguments {
        lab,
        timeout,
        command,
    } = arguments;
    let limit = timeout.unwrap_or(lab::LIMIT);
    let open = || Lab::open(&lab, limit);
    match command {
        Command::Up {
            hosts,
            mtu,
            volatile_disks,
        } => up(lab, hosts, mtu, volatile_disks, limit)?,
        Command::Down { all: false } => Lab::down(&lab, limit)?,
        Command::Down { all: true } => down_all(limit)?,
        Command::Exec { host, command } => {
            let picture = open()?.host(&host).picture()?;
            return Ok(exec::run(&picture, &command, timeout)?);
        }
        Command::Start { host } => open()?.host(&host).boot()?,
        Command::Kill { host, program: None } => open()?.host(&host).kill()?,
        Command::Kill {
            host,
            program: Some(program),
        } => open()?.host(&host).kill_program(&program)?,
        Command::Freeze { host } => open()?.host(&host).freeze()?,
        Command::Thaw { host } => open()?.host(&host).thaw()?,
        Command::Cut { a, b, one_way: false } => open()?.cut(&a, &b)?,
        Command::Cut { a, b, one_way: true } => open()?.cut_one_way(&a, &b)?,
        Command::Slow {
            a,
            b,
            delay,
            loss,
            one_way,
        } => {
            let lab = open()?;
            if one_way {
                lab.slow_one_way(&a, &b, delay, loss)?;
            } else {
                lab.slow(&a, &b, delay, loss)?;
            }
        }
        Command::Heal => open()?.heal()?,
        Command::Disk { host, size, volatile } => open()?.host(&host).make_disk(DiskOptions {
            size_bytes: size,
            volatile,
        })?,
        Command::Powercut { host, seed } => {
            let cut = open()?.host(&host).cut_power(seed)?;
            let (dropped, kept) = (cut.dropped, cut.kept);
            println!("{dropped} unflushed blocks are lost, {kept} reached the disk (seed {seed})");
        }
        Command::Backing { host, dir } => println!("{}", open()?.backing(&host, &dir)?.display()),
        Command::Keeper {
            directory,
            hosts,
            mtu,
        } => {
            lab::namespace::close_inherited()?;
            rustix::process::setsid().context("cannot leave the session of the starter")?;
            server::run(server::KeeperOptions {
                lab,
                directory,
                hosts,
                mtu,
            })?;
        }
        Command::HostInit { directory, host } => {
            lab::namespace::close_inherited()?;
            init::run(&directory, &host)?;
        }
    }
    Ok(0)
}

/// The size of the disks of `lab up --volatile-disks`.
const VOLATILE_BYTES: u64 = 256 << 20;

fn up(name: String, hosts: Vec<String>, mtu: u32, volatile: bool, limit: Duration) -> anyhow::Result<()> {
    let lab = Lab::make(&LabOptions {
        name,
        hosts,
        mtu,
        limit,
    })?;
    let disk = DiskOptions {
        size_bytes: VOLATILE_BYTES,
        volatile: true,
    };
    let picture = lab.look()?;
    for host in picture
        .hosts
        .iter()
        .filter(|host| volatile && host.disk != Some(disk))
    {
        lab.host(&host.name).make_disk(disk)?;
    }
    Ok(())
}

/// Tries them all and tells every failure.
fn down_all(limit: Duration) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for name in directory::all_labs()? {
        if let Err(error) = Lab::down(&name, limit) {
            failures.push(format!("lab {name}: {error}"));
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\n"))
}

/// A number with a unit: `500us`, `5ms`, `1.5s`, `2m`; without one it is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("{text:?} is no duration: write it as 5ms, 2s or 1m");
    let split = text
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| problem())?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" | "" => number,
        "m" => number * 60.0,
        _ => return Err(problem()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| problem())
}

/// A number of bytes with K, M or G.
fn parse_size(text: &str) -> Result<u64, String> {
    let problem = || format!("{text:?} is no size: write it as 64M or 1G");
    let (number, scale) = match text.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G']) {
        Some(number) => {
            let exponent = match text.as_bytes().last() {
                Some(b'k' | b'K') => 10,
                Some(b'm' | b'M') => 20,
                _ => 30,
            };
            (number, 1u64 << exponent)
        }
        None => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| problem())?;
    number.checked_mul(scale).ok_or_else(problem)
}
