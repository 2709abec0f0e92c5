//! The module's directories: opened before anything is mounted over them, covered, and who holds them open.

use super::{Module, refusal, system};
use crate::backing::Volume;
use crate::config::Config;
use crate::control::command::{Refusal, RefusalKind};
use crate::control::event::What;
use crate::mount::mountinfo::{self, Device};
use crate::mount::{claim, cover, holders, leftovers, over};
use anyhow::Context;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

impl Module {
    /// Before a role is taken: another module may have come in between since the start.
    pub(super) fn refuse_overlaps(&self) -> Result<(), Refusal> {
        let refuse = |dir: &Path| refuse_overlap(&real_path(dir)?);
        self.config
            .replicate
            .iter()
            .try_for_each(|replicate| refuse(&replicate.dir))
            .map_err(|error| refusal(RefusalKind::System, format!("{error:#}")))
    }

    /// What was opened before the mount would go on past it, unseen.
    pub(super) fn refuse_holders(&self, ignore_holders: bool) -> Result<(), Refusal> {
        for (replicate, root) in self.config.replicate.iter().zip(&self.directories.roots) {
            let status = rustix::fs::fstat(root).map_err(|errno| system("look at the directory", errno))?;
            let found = holders::of_directory(&replicate.dir, Device::of_status(status.st_dev));
            if found.is_empty() {
                continue;
            }
            let message = format!(
                "{} is in use from before the mount by {}; what they write would not be replicated",
                replicate.dir.display(),
                holders::list(&found)
            );
            if !ignore_holders {
                let message = format!("{message}. End them, or use --ignore-holders if they only read");
                return Err(refusal(RefusalKind::Holders, message));
            }
            self.reporter.report(What::Warning, message);
        }
        Ok(())
    }

    /// What was opened for writing before the cover can still change the copy unseen; who only reads does no harm,
    /// and which it is cannot be told for all. So nobody is refused.
    pub(super) fn warn_of_holders(&self) -> Result<(), Refusal> {
        for (replicate, root) in self.config.replicate.iter().zip(&self.directories.roots) {
            let status = rustix::fs::fstat(root).map_err(|errno| system("look at the directory", errno))?;
            let found = holders::of_directory(&replicate.dir, Device::of_status(status.st_dev));
            if !found.is_empty() {
                let message = format!(
                    "{} is held open by {}; what was opened for writing before can still change this copy unseen",
                    replicate.dir.display(),
                    holders::list(&found)
                );
                self.reporter.report(What::Warning, message);
            }
        }
        Ok(())
    }

    pub(super) fn cover_or_refuse(&self) -> Result<(), Refusal> {
        self.config
            .replicate
            .iter()
            .try_for_each(|replicate| cover::cover(&replicate.dir))
            .map_err(|error| system("cover the directories", error))
    }

    /// Covers what can be covered; what cannot is reported, since there is nobody to refuse.
    pub(super) fn cover_all(&self) {
        for replicate in &self.config.replicate {
            if let Err(error) = cover::cover(&replicate.dir) {
                self.reporter.report(
                    What::Warning,
                    format!("the directory can be changed unseen: {error}"),
                );
            }
        }
    }
}

/// A directory inside another module's, or around one, would be replicated twice or not at all. It is seen when that
/// is mounted or covered; one that is open for maintenance is seen by whichever of the two takes a role last.
fn refuse_overlap(dir: &Path) -> anyhow::Result<()> {
    let mounts = mountinfo::mounts()?;
    if let Some(other) = mountinfo::overlapping(dir, &mounts) {
        anyhow::bail!(
            "{} overlaps with {}, mounted on {}; a directory belongs to one module only",
            dir.display(),
            other.source,
            other.point.display()
        );
    }
    if let Some(other) = cover::overlapping(dir, &mounts) {
        anyhow::bail!(
            "{} overlaps with {}, which has a read-only cover, as the directory of a module that is secondary or \
             stopped; a directory belongs to one module only (if none has that any more, unmount the cover)",
            dir.display(),
            other.point.display()
        );
    }
    Ok(())
}

fn real_path(dir: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(dir)
        .with_context(|| format!("cannot find the directory {}; make it first", dir.display()))
}

/// A module's directories.
pub(super) struct Directories {
    /// As they are below any mount of ours.
    pub roots: Vec<OwnedFd>,
    /// Held as long as the module is served: nobody else serves them.
    _claims: Vec<OwnedFd>,
}

impl Directories {
    /// Clears leftovers, claims and opens every directory, and covers it.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let (mut roots, mut claims) = (Vec::new(), Vec::new());
        let mut resolved: Vec<PathBuf> = Vec::new();
        for replicate in &config.replicate {
            let dir = &replicate.dir;
            leftovers::clear(dir)?;
            let real = real_path(dir)?;
            if let Some(other) = resolved
                .iter()
                .find(|other| other.starts_with(&real) || real.starts_with(other))
            {
                anyhow::bail!(
                    "{} and {} are the same or one inside the other",
                    real.display(),
                    other.display()
                );
            }
            refuse_overlap(&real)?;
            resolved.push(real);
            claims.push(claim::claim(dir)?);
            roots.push(over::open_backing(dir)?);
            cover::cover(dir)?;
        }
        Ok(Directories {
            roots,
            _claims: claims,
        })
    }

    /// Where the record has its copies.
    pub(super) fn volumes(&self) -> anyhow::Result<Vec<Volume>> {
        let volume = |root: &OwnedFd| {
            let descriptor = root.try_clone().context("cannot copy a descriptor")?;
            Ok(Volume::open(descriptor)?)
        };
        self.roots.iter().map(volume).collect()
    }
}
