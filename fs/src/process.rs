//! What `skfs` asks of the kernel for itself: a process that serves a file system must not wait for itself
//! when memory is short.
//!
//! Each wish may be refused (containers, missing capabilities); the daemon works without, and says so once.

use rustix::mm::MlockAllFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Applies all of them. Call once, before any thread is started.
pub fn prepare() {
    // New files (state, sockets) are root's alone; modes of replicated files are always set explicitly.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    raise_descriptor_limit();
    // PR_SET_IO_FLUSHER (prctl(2)): allocations made while serving a write must not wait for write-back that this
    // process would have to serve.
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        warn!(%error, "PR_SET_IO_FLUSHER is refused (needs CAP_SYS_RESOURCE): under memory pressure writes may be slow");
    }
    // ONFAULT: only pages that are used are locked, not the whole address space of every stack and buffer.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = rustix::mm::mlockall(flags) {
        warn!(%error, "memory cannot be locked: under memory pressure parts of skfs may be paged out");
    }
    match std::fs::write("/proc/self/oom_score_adj", "-1000") {
        Ok(()) => info!("oom_score_adj is -1000"),
        Err(error) => {
            warn!(%error, "oom_score_adj cannot be lowered (needs CAP_SYS_RESOURCE): the OOM killer may choose skfs");
        }
    }
}

/// Open and unlinked files of applications take descriptors here, and shells start programs with a soft limit of
/// 1,024: the hard limit is what the administrator allows.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => info!(descriptors = ?limit.maximum, "the limit of open descriptors is the hard one"),
        Err(error) => {
            warn!(%error, descriptors = ?limit.current, "the limit of open descriptors cannot be raised")
        }
    }
}
