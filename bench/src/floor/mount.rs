//! The floor's mount, with the mount options and the threads that Sidekick's has.

use super::files::Files;
use anyhow::{Context, Result};
use fuser::{Session, SessionACL};
use skfs::mount::over;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

/// As many session threads as Sidekick's mount has at most.
const THREADS_MAX: usize = 4;

/// Mounts over `directory` and serves until the mount is gone or this process is killed; prints when it is there.
///
/// # Errors
/// When it cannot mount.
pub fn serve(directory: &Path, peer: SocketAddr) -> Result<()> {
    let backing = over::open_backing(directory)?;
    let unserved = over::mount_over(directory, "tcp-floor", &backing)?;
    let mut config = fuser::Config::default();
    config.acl = SessionACL::All;
    config.clone_fd = true;
    config.n_threads =
        Some(std::thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_MAX)));
    let files = Files::new(backing, peer);
    let session = Session::from_fd(files, unserved.device, SessionACL::All, config)
        .context("the kernel does not serve the mount")?;
    over::raise_read_ahead(unserved.number);
    let mut output = std::io::stdout();
    writeln!(output, "mounted")?;
    output.flush()?;
    session.run().context("the FUSE session ended")
}
