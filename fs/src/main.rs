//! `skfs --config FILE`: serves one mirror module until it is told to stop.

use anyhow::Context;
use clap::Parser;
use skfs::config::Config;
use skfs::control::command::{Command, Refusal};
use skfs::control::server::Server;
use skfs::link::tls::{Identity, check_node_name};
use skfs::module::Module;
use skfs::process;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// How long a process that was told to stop waits for commands that are still under way.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// Sidekick's replicated file system: one process for each mirror module on a node.
///
/// Started with a configuration file it covers the module's directories read-only and waits for commands on its
/// control socket (see `skctl fs`). Exit codes: 0 stopped as told; 1 it could not go on, the reason is on stderr;
/// 2 the command line is wrong.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Serve the module that this file describes
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "check",
        conflicts_with = "check"
    )]
    config: Option<PathBuf>,
    /// Only say whether this file is a valid configuration
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skfs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Some(path) = arguments.check {
        let config = Config::load(&path)?;
        check_name("node", &config.node)?;
        check_name("peer.node", &config.peer.node)?;
        let certificate = config.tls.certificate.display().to_string();
        if let Some(refusal) = Identity::examine(&config.tls, &config.node)? {
            anyhow::bail!("{certificate}: a peer would refuse it: {refusal}");
        }
        println!(
            "{}: module {} on node {}, good",
            path.display(),
            config.module,
            config.node
        );
        return Ok(());
    }
    let path = arguments.config.context("--config FILE is needed")?;
    let config = Config::load(&path)?;
    let filter = EnvFilter::builder()
        .with_env_var("SKFS_LOG")
        .with_default_directive(tracing::Level::INFO.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    process::prepare();
    // Two threads drive the sockets and the control connections; whatever may wait for a disk runs in the blocking
    // pool, whose size bounds how many operations are in this node's kernel at a time.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(128)
        .thread_name("skfs")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(config));
    // A worker may be stuck in a disk that does not answer; the process must end all the same.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let server = Server::bind(&config.control)?;
    let module = Module::start(config).await.context("cannot start the module")?;
    info!(module = module.name(), "ready for commands");
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    loop {
        tokio::select! {
            () = server.serve(module.clone()) => anyhow::bail!("the control socket ended"),
            () = module.stopped() => {
                // Whoever said stop is answered. Another command that goes on for longer is cut off.
                if tokio::time::timeout(ANSWER_TIME_MAX, server.answered()).await.is_err() {
                    warn!("stopped while a command was not answered yet");
                }
                return Ok(());
            }
            _ = terminate.recv() => stop(&module, "SIGTERM").await,
            _ = interrupt.recv() => stop(&module, "SIGINT").await,
        }
    }
}

fn check_name(key: &str, node: &str) -> anyhow::Result<()> {
    check_node_name(node).with_context(|| format!("{key}: {node:?} cannot be in a certificate"))
}

/// A signal is `stop` without `abort`: when it is refused (the mount is busy, writes wait for a decision) the
/// process goes on and says why, as a file system that is in use must.
async fn stop(module: &Arc<Module>, signal: &str) {
    info!(signal, "stopping");
    if let Err(Refusal { message, .. }) = module.carry_out(Command::Stop { abort: false }).await {
        warn!(signal, "not stopped: {message}");
    }
}
