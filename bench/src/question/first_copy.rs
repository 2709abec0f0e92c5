//! `first_copy_large`, `first_copy_small`: what the primary wrote while it was alone is brought to the secondary.
//!
//! On a directory of its own: the others are full of what other tests wrote. For GlusterFS, which has no first copy
//! but a heal, a brick is away while the files are made.

use super::Place;
use crate::ground::{Ground, PEER, WORKER};
use crate::results::{Metric, Reading};
use crate::system::{SystemName, glusterfs};
use crate::work::Rate;
use anyhow::{Context, Result};
use lab::LIMIT;
use lab::mirror::MirrorOptions;
use lab::mirrors::mirror_of;
use lab::status::{LabStatus, Wanted};
use lab::wait::{self, Look};
use skfs::control::command::Command;
use skfs::control::status::State;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A copy that takes longer is given up.
const COPY_MAX: Duration = Duration::from_secs(240);
/// Large files of a copy; together they have the wanted size.
const LARGE_FILES: u64 = 4;
/// GlusterFS heals some 35 files a second: more of them would only take longer.
const HEAL_FILES_MAX: u64 = 700;
/// Making the files is not measured.
const MAKE_MAX: Duration = Duration::from_secs(120);

/// A few large files.
///
/// # Errors
/// When the copy is refused or does not end.
pub fn large(place: &Place) -> Result<Vec<Reading>> {
    let bytes = place.amount.copy_bytes / LARGE_FILES;
    let pair = Pair::of(place.ground)?;
    let took = pair.copy(|directory| {
        for number in 0..LARGE_FILES {
            let file = directory.join(format!("large-{number}"));
            let _: () = place
                .ground
                .work(&["fill", &file.to_string_lossy(), &bytes.to_string()])?;
        }
        Ok(())
    })?;
    let rate = (bytes * LARGE_FILES) as f64 / took.as_secs_f64() / 1e6;
    Ok(vec![Reading::new(Metric::MbPerS, rate)])
}

/// Many small files.
///
/// # Errors
/// When the copy is refused or does not end.
pub fn small(place: &Place) -> Result<Vec<Reading>> {
    let (count, took) = match place.name {
        SystemName::Glusterfs => heal(place)?,
        _ => {
            let count = place.amount.copy_files;
            let pair = Pair::of(place.ground)?;
            (
                count,
                pair.copy(|directory| make(place.ground, directory, count))?,
            )
        }
    };
    Ok(vec![Reading::new(
        Metric::OpsPerS,
        count as f64 / took.as_secs_f64(),
    )])
}

fn make(ground: &Ground, directory: &Path, count: u64) -> Result<()> {
    let (limit, wanted) = (MAKE_MAX.as_millis().to_string(), count.to_string());
    let files = directory.join("small");
    let made: Rate = ground.work(&[
        "create-files",
        &files.to_string_lossy(),
        "--count",
        &wanted,
        "--limit-ms",
        &limit,
    ])?;
    anyhow::ensure!(made.count == count, "only {} files were made in time", made.count);
    Ok(())
}

/// A mirror whose secondary goes and comes back.
struct Pair<'a> {
    ground: &'a Ground,
    dir: PathBuf,
}

impl<'a> Pair<'a> {
    /// Made at the first use, or brought back in sync and empty.
    fn of(ground: &'a Ground) -> Result<Self> {
        let dir = PathBuf::from(format!("/srv/{}/first-copy", ground.lab.name()));
        let pair = Pair { ground, dir };
        if mirror_of(&ground.lab.status()?, WORKER, &pair.dir).is_none() {
            ground.lab.mirror(&pair.dir, &MirrorOptions::default())?;
        }
        Ok(pair)
    }

    /// How long the copy takes of what `fill` makes while the secondary is away.
    fn copy(&self, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Duration> {
        let lab = &self.ground.lab;
        let status = lab.status()?;
        let mirror = mirror_of(&status, WORKER, &self.dir).context("the mirror of the copy is gone")?;
        anyhow::ensure!(
            mirror.in_sync == Some(true),
            "an earlier copy has not ended: {}",
            mirror.reason.as_deref().unwrap_or("no reason is given")
        );
        let old = self.dir.join("data");
        let _: () = self.ground.work(&["remove", &old.to_string_lossy()])?;
        lab.command(PEER, &self.dir, Command::Stop { abort: false })?;
        // Told by its clean end or by its silence; a primary of this lab then goes on alone.
        self.wait("the primary is alone", |status, dir| {
            mirror_of(status, WORKER, dir).is_some_and(|mirror| mirror.in_sync == Some(false))
        })?;
        let refused = lab.command(WORKER, &self.dir, Command::GoAlone).err();
        self.wait("the primary goes on alone", |status, dir| {
            mirror_of(status, WORKER, dir).is_some_and(|mirror| mirror.state == Some(State::Alone))
        })
        .map_err(|error| match &refused {
            Some(refusal) => error.context(refusal.to_string()),
            None => error,
        })?;
        let _: () = self.ground.work(&["make-directory", &old.to_string_lossy()])?;
        fill(&old)?;
        self.ground.settle(&self.dir)?;
        let start = Instant::now();
        // What stands in the way of joining comes back as notes: the refusal is the reason of the row.
        let notes = lab.start(PEER)?;
        anyhow::ensure!(notes.is_empty(), "{}", notes.join("; "));
        self.wait("the secondary is up to date", |status, dir| {
            let is = |host, wanted| mirror_of(status, host, dir).is_some_and(|mirror| mirror.is(wanted));
            is(WORKER, Wanted::InSync) && is(PEER, Wanted::State(State::Second))
        })?;
        Ok(start.elapsed())
    }

    fn wait(&self, what: &str, mut holds: impl FnMut(&LabStatus, &Path) -> bool) -> Result<()> {
        self.ground
            .lab
            .wait_for(COPY_MAX, what, |status| holds(status, &self.dir))?;
        Ok(())
    }
}

/// How long GlusterFS takes to heal files that were made while a brick was away.
fn heal(place: &Place) -> Result<(u64, Duration)> {
    let ground = place.ground;
    let count = place.amount.copy_files.min(HEAL_FILES_MAX);
    let directory = place.system.directory().join("heal");
    let _: () = ground.work(&["remove", &directory.to_string_lossy()])?;
    let picture = ground.lab.host(PEER).picture()?;
    // By its name: glusterd and the rest are the same executable under others.
    for (process, _) in picture.processes.iter().filter(|(_, name)| name == "glusterfsd") {
        process.kill(LIMIT)?;
    }
    let _: () = ground.work(&["make-directory", &directory.to_string_lossy()])?;
    make(ground, &directory, count)?;
    ground.settle(place.system.directory())?;
    let start = Instant::now();
    glusterfs::gluster(ground, &["volume", "start", glusterfs::VOLUME, "force"])?;
    let [here, there] = [WORKER, PEER].map(|host| glusterfs::brick(ground, host));
    let (here, there) = (here?, there?.join("heal").join("small"));
    wait::until(COPY_MAX, "both bricks are healed", || {
        let (waiting, arrived) = (waiting(&here), files(&there));
        Ok(match (waiting, arrived) {
            (Some(0), arrived) if arrived == count => Look::Holds(()),
            (waiting, arrived) => {
                Look::NotYet(format!("{arrived} files of {count}, to be healed: {waiting:?}"))
            }
        })
    })?;
    Ok((count, start.elapsed()))
}

/// Entries that a brick keeps a note of because the other one lacks them: looked at from outside, because asking
/// GlusterFS costs more than a second of processor time.
fn waiting(brick: &Path) -> Option<usize> {
    let entries = std::fs::read_dir(brick.join(".glusterfs/indices/xattrop")).ok()?;
    // The one that all notes are links to is always there.
    let is_note = |name: &std::ffi::OsStr| !name.as_encoded_bytes().starts_with(b"xattrop-");
    Some(
        entries
            .flatten()
            .filter(|entry| is_note(&entry.file_name()))
            .count(),
    )
}

/// Files in the directories of a directory; none while it is not there.
fn files(directory: &Path) -> u64 {
    let below = std::fs::read_dir(directory).into_iter().flatten().flatten();
    below
        .filter_map(|entry| std::fs::read_dir(entry.path()).ok())
        .map(|entries| entries.count() as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_healing_is_counted_without_the_note_that_is_always_there() {
        let brick = tempfile::tempdir().unwrap();
        let notes = brick.path().join(".glusterfs/indices/xattrop");
        assert_eq!(waiting(brick.path()), None);
        std::fs::create_dir_all(&notes).unwrap();
        std::fs::write(notes.join("xattrop-7d6f"), "").unwrap();
        assert_eq!(waiting(brick.path()), Some(0));
        std::fs::write(notes.join("0b1c-22"), "").unwrap();
        assert_eq!(waiting(brick.path()), Some(1));
    }

    #[test]
    fn files_are_counted_one_directory_down() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(files(&directory.path().join("none")), 0);
        std::fs::create_dir(directory.path().join("0")).unwrap();
        std::fs::write(directory.path().join("0/file-1"), "").unwrap();
        assert_eq!(files(directory.path()), 1);
    }
}
