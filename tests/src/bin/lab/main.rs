//! `lab`: makes hosts on this machine, mirrors directories between them, breaks things, and looks.

mod arguments;
mod report;
mod values;

use anyhow::{Context, bail};
use arguments::{Arguments, Command};
use clap::Parser;
use lab::directory;
use lab::disk::ext4::DiskOptions;
use lab::exec;
use lab::keeper::{init, server};
use lab::mirror::MirrorOptions;
use lab::verify;
use lab::{Lab, LabOptions};
use skfs::control::command::Command as Tell;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let failed = if matches!(arguments.command, Command::Exec { .. }) {
        exec::LAB_FAILED
    } else {
        1
    };
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        // Whoever read the output has seen enough.
        Err(error) if report::is_closed_pipe(&error) => ExitCode::SUCCESS,
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
        Command::Start { host } => {
            for note in open()?.start(&host)? {
                eprintln!("lab: {note}");
            }
        }
        Command::Return {
            host,
            dir,
            json,
            progress,
        } => {
            let shown = progress || std::io::stderr().is_terminal();
            let mut lines = report::CopyLines::new(shown);
            let returned = open()?.return_host(&host, dir.as_deref(), &mut |dir, copy| lines.show(dir, copy));
            lines.end();
            report::returned(&returned?, json)?;
        }
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
            report::line(format_args!(
                "{dropped} unflushed blocks are lost, {kept} reached the disk (seed {seed})"
            ))?;
        }
        Command::Mirror {
            dir,
            sync,
            durability,
            on_peer_loss,
            peer_stall,
            local_stall,
            checkpoint,
            hosts,
            exclude,
            split_brain,
        } => {
            let options = MirrorOptions {
                sync,
                durability,
                on_peer_loss,
                peer_stall,
                local_stall,
                checkpoint,
                hosts: pair(hosts)?,
                exclude,
                split_brain,
            };
            open()?.mirror(&dir, &options)?;
        }
        Command::Promote { host, dir, force } => open()?.promote(&host, dir.as_deref(), force)?,
        Command::Demote { host, dir } => open()?.command_all(&host, dir.as_deref(), &Tell::Demote)?,
        Command::Connect { host, dir, overwrite } => {
            open()?.command_all(&host, dir.as_deref(), &Tell::Connect { overwrite })?;
        }
        Command::Copy { host, order, dir } => {
            open()?.command_all(&host, dir.as_deref(), &Tell::Copy(order.into()))?;
        }
        Command::Alone { host, dir } => open()?.command_all(&host, dir.as_deref(), &Tell::GoAlone)?,
        Command::Wait { host, state, dir } => open()?.wait_state(&host, dir.as_deref(), state)?,
        Command::Events {
            host,
            json,
            until,
            follow,
        } => report::events(&open()?, &host, json, until.as_deref(), follow)?,
        Command::Status { json } => report::status(&open()?.status()?, json)?,
        Command::Demo { dir, commits } => return demonstrate(&dir, commits),
        Command::Verify { dir, ignore_mtime } => {
            let options = verify::Options { mtime: !ignore_mtime };
            return report::differences(&open()?.verify(&dir, options)?);
        }
        Command::Backing { host, dir } => {
            report::line(format_args!("{}", open()?.backing(&host, &dir)?.display()))?;
        }
        Command::Keeper {
            directory,
            hosts,
            mtu,
            owner,
        } => {
            lab::namespace::close_inherited()?;
            rustix::process::setsid().context("cannot leave the session of the starter")?;
            server::run(server::KeeperOptions {
                lab,
                directory,
                hosts,
                mtu,
                owner,
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
        owner: None,
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

/// `--hosts PRIMARY,SECONDARY`; none is the lab's own choice.
fn pair(hosts: Vec<String>) -> anyhow::Result<Option<[String; 2]>> {
    if hosts.is_empty() {
        return Ok(None);
    }
    match <[String; 2]>::try_from(hosts) {
        Ok(pair) => Ok(Some(pair)),
        Err(hosts) => bail!(
            "a mirror has two hosts, not {}: name them as --hosts a,b",
            hosts.len()
        ),
    }
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

/// The last line says what came of it; the code is 0 only if nothing was lost and enough was committed.
fn demonstrate(dir: &std::path::Path, commits: u64) -> anyhow::Result<u8> {
    report::line(format_args!("A database survives its servers:"))?;
    let mut last = std::time::Instant::now();
    let outcome = lab::demo::run(dir, commits, &mut |line| {
        // Once a second is enough to see that it goes on.
        if last.elapsed() >= Duration::from_secs(1) {
            last = std::time::Instant::now();
            println!("    {line}");
        }
    })?;
    report::failback(&outcome.failback)?;
    let (count, lost) = (outcome.count, outcome.count.lost());
    report::line(format_args!(
        "committed {}, found {}, lost {lost}, failover {:.1} s",
        count.committed,
        count.found,
        outcome.failover.as_secs_f64()
    ))?;
    let enough = count.committed as u64 >= lab::demo::COMMITS_MIN;
    Ok(u8::from(lost > 0 || !enough))
}
