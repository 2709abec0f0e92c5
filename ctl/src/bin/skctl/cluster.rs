//! `skctl cluster`: what is made once for a cluster.

use clap::Subcommand;
use skctl::pki::{self, Folder, Report, Request, State};
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the cluster's CA and one folder of certificates per node.
    ///
    /// Each node's folder has ca.crt, node.crt and node.key: copy it to that node only, and keep the folder
    /// 'ca' in a safe place off the nodes. What exists is kept: the same command again changes nothing, and
    /// with one more --node it makes that node's folder with the same CA.
    #[command(after_help = super::EXIT_CODES)]
    Init {
        /// Name of a node, as its configuration has it; once for each node.
        #[arg(long = "node", value_name = "NAME", required = true)]
        nodes: Vec<String>,
        /// Folder to write to; made when absent.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The cluster's name [default: that of the CA in place, else "sidekick"].
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Days that a new node's certificate is valid.
        #[arg(long, value_name = "N", default_value_t = 3650,
              value_parser = clap::value_parser!(u32).range(1..=i64::from(pki::CA_DAYS)))]
        days: u32,
        /// Print what was made and kept as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: Command) -> anyhow::Result<()> {
    let Command::Init {
        nodes,
        out,
        name,
        days,
        json,
    } = command;
    let report = pki::init(
        &out,
        &Request {
            cluster: name,
            nodes,
            days,
        },
    )?;
    let mut stdout = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut stdout, &report).map_err(io::Error::from)?;
        writeln!(stdout)?;
    } else {
        print(&mut stdout, &report)?;
    }
    stdout.flush()?;
    Ok(())
}

fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    line(out, &report.ca, &format!("CA of cluster {}", report.cluster))?;
    for node in &report.nodes {
        // The day is enough for a person; --json has the second.
        let day = node.valid_until.split('T').next().unwrap_or_default();
        line(
            out,
            &node.folder,
            &format!("node {}, valid until {day}", node.node),
        )?;
    }
    let made = |folder: &Folder| folder.state == State::Made;
    match (
        made(&report.ca),
        report.nodes.iter().any(|node| made(&node.folder)),
    ) {
        (false, false) => writeln!(out, "Nothing to do: everything is in place."),
        (ca, _) => {
            writeln!(out, "Copy each new node's folder to that node only.")?;
            if ca {
                writeln!(
                    out,
                    "Keep {} off the nodes: it can make new ones.",
                    report.ca.path.display()
                )?;
            }
            Ok(())
        }
    }
}

fn line(out: &mut impl Write, folder: &Folder, what: &str) -> io::Result<()> {
    let state = match folder.state {
        State::Made => "made",
        State::Kept => "kept",
    };
    writeln!(out, "{state}  {}  ({what})", folder.path.display())
}
