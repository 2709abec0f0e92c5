//! Mounts one directory over itself without a peer: a tool for developing and testing the mount.
//!
//! `unshare -m --propagation private local_mount DIR [--flush] [-- COMMAND ARGUMENTS]` mounts DIR and runs the
//! command, or waits for SIGINT, SIGTERM or an unmount from outside; then it unmounts and names whoever is in
//! the way. It exits with the command's code.

#[path = "../tests/local/mod.rs"]
mod local;

use anyhow::Context;
use skfs::backing::Store;
use skfs::config::SyncMode;
use skfs::fuse::{MountOptions, Mounted};
use skfs::mount::{leftovers, over};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

struct Arguments {
    dir: PathBuf,
    sync: SyncMode,
    command: Vec<String>,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut given = std::env::args().skip(1);
    let dir = given
        .next()
        .context("usage: local_mount DIR [--flush] [-- COMMAND ...]")?;
    let mut sync = SyncMode::Write;
    let mut command = Vec::new();
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--flush" => sync = SyncMode::Flush,
            "--" => command = given.by_ref().collect(),
            other => anyhow::bail!("{other:?} is neither --flush nor --"),
        }
    }
    let dir = std::fs::canonicalize(&dir).with_context(|| format!("cannot find {dir}"))?;
    Ok(Arguments { dir, sync, command })
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Arguments { dir, sync, command } = arguments()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    leftovers::clear(&dir)?;
    let store = Arc::new(Store::new(vec![over::open_backing(&dir)?])?);
    let state = tempfile::tempdir().context("cannot make a state directory")?;
    let replicator = local::alone(&dir, sync, store.clone(), state.path()).await?;
    let options = MountOptions {
        module: local::MODULE.into(),
        dir,
        root_index: 0,
        sync,
    };
    let mut mounted = Mounted::mount(options, store, replicator)?;
    let mut ended = mounted.ended();

    let mut code = ExitCode::SUCCESS;
    let mut child = match command.split_first() {
        Some((program, arguments)) => Some(
            tokio::process::Command::new(program)
                .args(arguments)
                .spawn()
                .with_context(|| format!("cannot run {program}"))?,
        ),
        None => None,
    };
    let command_ends = async {
        match &mut child {
            Some(child) => child.wait().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        status = command_ends => {
            let status = status.context("cannot wait for the command")?;
            code = ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1));
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = ended.wait_for(|ended| *ended) => tracing::warn!("the mount was taken away"),
    }
    mounted.unmount()?;
    Ok(code)
}
