//! What a killed predecessor left over a directory: its dead mount, its cover.

use super::claim;
use super::cover;
use super::error::MountError;
use super::mountinfo::{self, FILE_SYSTEM_TYPE, Mount};
use rustix::mount::UnmountFlags;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;
use tracing::info;

/// How long a mount may take to say that it is dead. A dead one answers at once; a live one whose process is
/// stopped does not answer at all and must not be taken for dead.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Clears dead mounts and covers of ours from `dir`, so that it shows its own content. Doing it twice is fine.
/// # Errors
/// [`MountError::StillServed`] when a process serves a mount of ours there, [`MountError::Claimed`] when one serves
/// the directory without a mount.
pub fn clear(dir: &Path) -> Result<(), MountError> {
    loop {
        if cover::is_covered(dir)? {
            // The cover of a living process stays.
            drop(claim::claim(dir)?);
            cover::uncover(dir)?;
        }
        let mounts = mountinfo::mounts()?;
        let Some(top) = mountinfo::top_at(dir, &mounts) else {
            return Ok(());
        };
        if top.kind != FILE_SYSTEM_TYPE {
            return Ok(());
        }
        if !is_dead(top) {
            return Err(MountError::StillServed {
                dir: dir.to_owned(),
                source_name: top.source.clone(),
            });
        }
        rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(|source| {
            MountError::Call {
                what: "clear a dead mount from",
                dir: dir.to_owned(),
                source: source.into(),
            }
        })?;
        info!(dir = %dir.display(), source = %top.source, "cleared the dead mount of a former process");
    }
}

/// Asks the mount something that it cannot answer from a cache, on a thread of its own: if nobody answers,
/// that thread stays behind until somebody does, and nobody waits for it.
fn is_dead(mount: &Mount) -> bool {
    let (send, answer) = mpsc::channel();
    let point = mount.point.clone();
    let asker = std::thread::Builder::new()
        .name("mount-probe".into())
        .spawn(move || {
            let dead = matches!(
                rustix::fs::statfs(&point),
                Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)
            );
            // Nobody listens any more once the time is over.
            let _ = send.send(dead);
        });
    match asker {
        Ok(_thread) => answer.recv_timeout(ANSWER_MAX).unwrap_or(false),
        Err(_) => false,
    }
}
