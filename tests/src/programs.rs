//! Where the programs are, and running one to its end.

use crate::error::{Attempt, Error, Result, refused};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Names a directory in which programs are looked for first.
pub const PROGRAM_DIRECTORY: &str = "SIDEKICK_BIN";

/// Finds a program of this project: in `$SIDEKICK_BIN`, beside the running executable, or in the directory
/// above it (test executables live in `target/debug/deps`).
pub fn find(name: &str) -> Result<PathBuf> {
    let mut looked = Vec::new();
    if let Some(directory) = std::env::var_os(PROGRAM_DIRECTORY) {
        looked.push(PathBuf::from(directory));
    }
    let own = std::env::current_exe().attempt(|| "find the running executable".into())?;
    looked.extend(own.ancestors().skip(1).take(2).map(Path::to_owned));
    if let Some(program) = looked.iter().map(|d| d.join(name)).find(|p| p.is_file()) {
        return Ok(program);
    }
    let places: Vec<_> = looked.iter().map(|d| d.display().to_string()).collect();
    refused(format!(
        "no program {name} in {}: build it, or name its directory in {PROGRAM_DIRECTORY}",
        places.join(", ")
    ))
}

/// Runs a program to its end and gives its standard output; a failure carries what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().attempt(|| format!("run {command:?}"))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    Err(Error::Program {
        program: format!("{command:?}"),
        output: format!("{status}: {}", String::from_utf8_lossy(&stderr).trim()),
    })
}
