//! What the figures were measured on: kept beside them, because only figures of one run compare.

use crate::arguments::Arguments;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

/// The machine, the versions, and how the run was started.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    date: String,
    sidekick: String,
    /// The commit of the directory that it was started in, if that is a repository; `-dirty` when it is changed.
    #[serde(default)]
    commit: Option<String>,
    /// Of the `skfs` that was measured.
    #[serde(default)]
    skfs_blake3: Option<String>,
    kernel: String,
    processor: String,
    cores: usize,
    memory_mib: Option<u64>,
    file_system: String,
    tcp_congestion_control: String,
    load_before: String,
    rounds: u32,
    quick: bool,
    delay: Option<String>,
    loss: Option<f64>,
    fio: String,
    sqlite: String,
    postgresql: String,
    glusterfs: String,
}

impl Machine {
    /// Looks at the machine.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn look(arguments: &Arguments, rounds: u32) -> Result<Self> {
        let processors = read("/proc/cpuinfo")?;
        Ok(Machine {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            sidekick: env!("CARGO_PKG_VERSION").to_owned(),
            commit: commit(),
            skfs_blake3: skfs_sum()?,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: field(&processors, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_mib(&read("/proc/meminfo")?),
            file_system: said(
                "findmnt",
                &[
                    "--noheadings",
                    "--output",
                    "FSTYPE",
                    "--target",
                    &existing(&lab::directory::base()),
                ],
            ),
            tcp_congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control")?
                .trim()
                .to_owned(),
            load_before: read("/proc/loadavg")?.trim().to_owned(),
            rounds,
            quick: arguments.quick,
            delay: arguments
                .slow
                .map(|delay| humantime::format_duration(delay).to_string()),
            loss: arguments.loss,
            fio: said("fio", &["--version"]),
            sqlite: said("sqlite3", &["--version"]),
            postgresql: postgresql(),
            glusterfs: said("glusterd", &["--version"]),
        })
    }

    /// For the head of the table and of the picture.
    pub fn headline(&self) -> String {
        let mut network = String::new();
        if let Some(delay) = &self.delay {
            network.push_str(&format!(", {delay} each way"));
        }
        if let Some(loss) = self.loss {
            network.push_str(&format!(", {}% of the packets lost", loss * 100.0));
        }
        format!(
            "{}, {} x {}, kernel {}, {}, tcp {}, load {}; {}, {}; {} round{}{}{network}",
            self.date,
            self.cores,
            self.processor,
            self.kernel,
            self.file_system,
            self.tcp_congestion_control,
            self.load_before.split(' ').next().unwrap_or_default(),
            self.glusterfs,
            self.postgresql,
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
            if self.quick { ", quick" } else { "" },
        )
    }
}

fn commit() -> Option<String> {
    let arguments = ["describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"];
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn skfs_sum() -> Result<Option<String>> {
    let path = lab::programs::find("skfs")?;
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(blake3::hash(&bytes).to_hex().to_string()))
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// The first value of a `name : value` list.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(key, value)| (key.trim() == name).then(|| value.trim()))
}

fn memory_mib(meminfo: &str) -> Option<u64> {
    let kibibytes: u64 = field(meminfo, "MemTotal")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(kibibytes / 1024)
}

/// The nearest directory above that exists.
fn existing(path: &Path) -> String {
    let found = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    found.to_string_lossy().into_owned()
}

fn postgresql() -> String {
    match lab::postgres::programs() {
        Ok(programs) => said(&programs.join("postgres").to_string_lossy(), &["--version"]),
        Err(_) => "not installed".into(),
    }
}

/// The first line that a program says of itself.
fn said(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().next().unwrap_or_default().trim().to_owned()
        }
        Err(_) => "not installed".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: Some CPU\nprocessor : 1\nmodel name : Some CPU\n";
        assert_eq!(field(text, "model name"), Some("Some CPU"));
        assert_eq!(
            memory_mib("MemTotal:       24586816 kB\nMemFree: 1 kB\n"),
            Some(24_010)
        );
    }
}
