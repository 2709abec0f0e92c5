//! The command line.

use crate::values;
use clap::{Parser, Subcommand};
use lab::process::ProcessId;
use lab::relay::fault::parse_loss;
use lab::status::Wanted;
use skfs::config::{Durability, OnPeerLoss, SyncMode};
use skfs::control::command::CopyCommand;
use skfs::record::split_brain::Policy;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Hosts made of namespaces on one machine, a network between them that can be broken, and mirrors on them.
///
/// Every command exits 0 only when its effect holds, 1 when it could not be brought about, 2 when it was not
/// understood. Needs root.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// Which lab.
    #[arg(long, global = true, default_value = "default")]
    pub lab: String,
    /// How long the command may take [default: 60s; exec: no limit].
    #[arg(long, global = true, value_parser = values::duration)]
    pub timeout: Option<Duration>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum CopyOrder {
    /// Bring nothing more over until `resume`.
    Pause,
    /// Go on.
    Resume,
    /// Take at most so many bytes of files per second.
    Limit {
        /// As 50M.
        #[arg(value_parser = values::size)]
        rate: u64,
    },
    /// Take as many as there can be.
    Unlimit,
    /// As fast as can be, whatever it costs the application.
    Hurry,
    /// So that operations of the application hardly take longer: the usual.
    Yield,
}

impl From<CopyOrder> for CopyCommand {
    fn from(order: CopyOrder) -> Self {
        let limit = |bytes_per_second| CopyCommand::Limit { bytes_per_second };
        match order {
            CopyOrder::Pause => CopyCommand::Pause,
            CopyOrder::Resume => CopyCommand::Resume,
            CopyOrder::Limit { rate } => limit(Some(rate)),
            CopyOrder::Unlimit => limit(None),
            CopyOrder::Hurry => CopyCommand::Hurry,
            CopyOrder::Yield => CopyCommand::Yield,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
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
    /// Start a host that is down, and the skfs that are missing on one that is up. A host that is not meant to be
    /// primary joins its primary; what stands in the way of that is printed.
    Start {
        /// The host.
        host: String,
    },
    /// Bring back a host that was killed, frozen or cut off: it becomes secondary, is brought to the primary's state,
    /// and the command returns when both copies are in sync. What was copied is printed.
    Return {
        /// The host.
        host: String,
        /// Only this mirror.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Show how a copy goes on, also where the output is no terminal.
        #[arg(long)]
        progress: bool,
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
        #[arg(long, default_value = "0ms", value_parser = values::duration)]
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
        #[arg(long, default_value = "256M", value_parser = values::size)]
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
    /// Mirror a directory from host A to host B; returns when both copies are in sync.
    Mirror {
        /// The directory, as the hosts see it; made where it does not exist.
        dir: PathBuf,
        /// When an operation is shipped: write or flush.
        #[arg(long, default_value = "write", value_parser = values::sync)]
        sync: SyncMode,
        /// What fsync waits for on the secondary: disk or memory.
        #[arg(long, default_value = "disk", value_parser = values::durability)]
        durability: Durability,
        /// What the primary does that loses its secondary: alone or ask.
        #[arg(long, default_value = "alone", value_parser = values::on_peer_loss)]
        on_peer_loss: OnPeerLoss,
        /// Longest time without progress of the peer [default: that of skfs].
        #[arg(long, value_parser = values::duration)]
        peer_stall: Option<Duration>,
        /// Longest time without progress of the own disk [default: that of skfs].
        #[arg(long, value_parser = values::duration)]
        local_stall: Option<Duration>,
        /// Time between checkpoints of both copies [default: that of skfs].
        #[arg(long, value_parser = values::duration)]
        checkpoint: Option<Duration>,
        /// Primary and secondary [default: the first two hosts].
        #[arg(long, value_delimiter = ',', num_args = 1)]
        hosts: Vec<String>,
        /// A pattern, as in a gitignore file, of what is not mirrored; may be given several times.
        #[arg(long)]
        exclude: Vec<String>,
        /// Whose changes stay after a split brain: discard-zero-changes, discard-least-changes, keep-primary or manual.
        #[arg(long, default_value = "discard-zero-changes", value_parser = values::split_brain)]
        split_brain: Policy,
    },
    /// A database under load, its host dies, the other one goes on; in a lab of its own. Fails if a commit is lost.
    Demo {
        /// The directory to mirror.
        #[arg(long, default_value = "/srv/sidekick-demo")]
        dir: PathBuf,
        /// How many commits before the host is killed; at least 1000.
        #[arg(long, default_value_t = 2000)]
        commits: u64,
    },
    /// Make a host the primary of its mirrors.
    Promote {
        /// The host.
        host: String,
        /// Only this mirror.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Although its copy may be old, or somebody holds files in the directory open.
        #[arg(long)]
        force: bool,
    },
    /// Let a host leave its role, primary or secondary.
    Demote {
        /// The host.
        host: String,
        /// Only this mirror.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Let a primary open a session with its secondary, which is brought to the primary's state first if need be;
    /// returns when both copies are in sync.
    Connect {
        /// The host of the primary.
        host: String,
        /// Only this mirror.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Whatever the secondary holds may be overwritten.
        #[arg(long)]
        overwrite: bool,
    },
    /// Tell a primary how its copy should go on.
    Copy {
        /// The host of the primary.
        host: String,
        /// Pause, resume, or take at most a rate.
        #[command(subcommand)]
        order: CopyOrder,
        /// Only this mirror.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Let a primary that waits for a decision go on without its secondary.
    Alone {
        /// The host of the primary.
        host: String,
        /// Only this mirror.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Wait until all mirrors of a host are in a state: PRIM, ALONE, SECOND, WAIT, STOP, or in-sync.
    Wait {
        /// The host.
        host: String,
        /// The state.
        state: Wanted,
        /// Only this mirror.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Show what the skfs of a host reported since the lab is up.
    Events {
        /// The host.
        host: String,
        /// One JSON object per line.
        #[arg(long)]
        json: bool,
        /// Wait for an event of this kind, as went-alone.
        #[arg(long, value_name = "KIND", conflicts_with = "follow")]
        until: Option<String>,
        /// Go on with new events until interrupted.
        #[arg(long)]
        follow: bool,
    },
    /// Show how the lab is.
    Status {
        /// As JSON, whose fields are only added to.
        #[arg(long)]
        json: bool,
    },
    /// Compare the two copies of a mirrored directory; prints what differs, and exits 1 if anything does.
    Verify {
        /// The directory, as the hosts see it.
        dir: PathBuf,
        /// Do not compare times of modification.
        #[arg(long)]
        ignore_mtime: bool,
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
        #[arg(long)]
        owner: Option<ProcessId>,
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
