//! Patterns that are not those of the last start: what they took out of the copy or put into it was not shipped, so the
//! two copies are not equal any more, whatever their generations say.

use crate::config::Config;
use crate::control::event::{Reporter, What};
use crate::record::Keeper;
use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// The patterns that this copy was kept by, in the state directory: JSON, one list for each directory.
const FILE: &str = "exclude.json";
const TEMPORARY: &str = "exclude.json.new";

/// Marks the copy "verify" when it was kept by other patterns than the configuration's, and notes those.
pub(super) fn compare(config: &Config, keeper: &Keeper, reporter: &Reporter) -> anyhow::Result<()> {
    let wanted: Vec<&[String]> = config.replicate.iter().map(|one| &*one.exclude).collect();
    let path = config.state.join(FILE);
    let text = serde_json::to_string(&wanted).context("cannot write patterns as JSON")?;
    let before = match std::fs::read_to_string(&path) {
        Ok(before) => Some(before),
        // Written by a version that had no patterns, or the state directory is new.
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if before.as_deref() == Some(&*text) {
        return Ok(());
    }
    let none_before = before.is_none() && wanted.iter().all(|patterns| patterns.is_empty());
    if !none_before && keeper.current().generation.is_some() {
        let note = "what is excluded has changed since this copy was made";
        keeper
            .devalue(|record| record.distrust(note.to_owned()))
            .context("cannot note that this copy is to be verified")?;
        reporter.report(
            What::Warning,
            format!(
                "{note}: it is to be compared as a whole; start the copy that is to be kept with --force"
            ),
        );
    }
    // Only now: a start that is cut short before is repeated.
    write(&config.state, &text).with_context(|| format!("cannot write {}", path.display()))
}

fn write(state: &Path, text: &str) -> anyhow::Result<()> {
    let (new, path) = (state.join(TEMPORARY), state.join(FILE));
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, path)?;
    let directory = rustix::fs::open(
        state,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(rustix::fs::fsync(directory)?)
}
