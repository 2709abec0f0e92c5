//! One mounted directory, from mounting to unmounting.
//!
//! Owns the thread of the FUSE session, which owns the session threads, and the invalidating thread.

use super::handle::{Handles, Writers};
use super::inode::Inodes;
use super::invalidate::Invalidator;
use super::ops::Files;
use super::tree::Tree;
use crate::backing::{Access, Store};
use crate::config::SyncMode;
use crate::mount::error::MountError;
use crate::mount::fusectl::Connection;
use crate::mount::mountinfo::Device;
use crate::mount::{over, teardown};
use crate::operation::InodeId;
use crate::replicator::Replicator;
use fuser::{Session, SessionACL};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{info, warn};

/// Session threads; more than this or than there are processors only compete.
const THREADS_MAX: usize = 4;

/// How long the session may take to see that its connection has ended. After it the mount counts as gone all
/// the same: nobody can reach it any more, and a thread in a system call on a dying disk cannot be waited for.
const END_MAX: Duration = Duration::from_secs(5);

/// What to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Shown as `sidekick:<module>`.
    pub module: String,
    /// The directory, absolute.
    pub dir: PathBuf,
    /// Its index in the store.
    pub root_index: usize,
    /// When its operations are shipped.
    pub sync: SyncMode,
}

/// A directory with FUSE mounted over it.
///
/// Dropped without [`Mounted::unmount`] or [`Mounted::abort`] it is aborted: a mount that nobody serves would
/// block every process that touches it.
pub struct Mounted {
    dir: PathBuf,
    connection: Arc<Connection>,
    tree: Arc<Tree>,
    session: Option<Serving>,
    ended: watch::Receiver<bool>,
}

/// The threads of a mount.
struct Serving {
    thread: JoinHandle<()>,
    invalidator: JoinHandle<()>,
    ended: mpsc::Receiver<()>,
}

impl Mounted {
    /// Mounts over `options.dir`, whose backing directory `store` has opened before. Serves it when it returns.
    ///
    /// Call it with nothing of ours left there ([`crate::mount::leftovers::clear`]) and nothing open inside
    /// ([`crate::mount::holders::of_directory`]).
    pub fn mount(
        options: MountOptions,
        store: Arc<Store>,
        replicator: Arc<Replicator>,
    ) -> Result<Self, MountError> {
        let root = InodeId::root(options.root_index);
        let dir = options.dir;
        let open = |errno: crate::operation::Errno| MountError::Open {
            dir: dir.clone(),
            source: io::Error::from_raw_os_error(errno.0),
        };
        let backing = store.file(root, Access::Path).map_err(open)?;
        let status = store.status(root).map_err(open)?;
        let tree = Arc::new(Tree {
            root,
            sync: options.sync,
            inodes: Inodes::new(root, status.st_ino),
            files: Handles::default(),
            writers: Writers::default(),
            directories: Handles::default(),
            store,
            replicator,
            invalidator: Invalidator::default(),
        });
        let unserved = over::mount_over(&dir, &options.module, &backing)?;
        let number = unserved.number;
        let connection = Arc::new(Connection::of(number));
        let (ended_send, ended) = watch::channel(false);
        let serving = serve(tree.clone(), unserved.device, ended_send).map_err(|source| {
            // The mount must not stay without a server; the first error is the one worth reporting.
            let _ = teardown::abort(&dir, &connection);
            MountError::Handshake {
                dir: dir.clone(),
                source,
            }
        })?;
        over::raise_read_ahead(number);
        info!(dir = %dir.display(), device = %number, "mounted");
        Ok(Mounted {
            dir,
            connection,
            tree,
            session: Some(serving),
            ended,
        })
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The mount's device number, by which [`crate::mount::holders::of_mount`] finds who uses it.
    pub fn device(&self) -> Device {
        self.connection.number()
    }

    /// By which the mount is aborted from elsewhere.
    pub fn connection(&self) -> Arc<Connection> {
        self.connection.clone()
    }

    /// Becomes true when the kernel's side is gone, whoever ended it.
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.ended.clone()
    }

    /// Writes back what the kernel caches and unmounts.
    /// # Errors
    /// [`MountError::Busy`] with the holders; the mount then goes on, and this can be tried again.
    pub fn unmount(&mut self) -> Result<(), MountError> {
        if self.session.is_none() {
            return Ok(());
        }
        teardown::unmount(&self.dir, &self.connection)?;
        self.finish();
        info!(dir = %self.dir.display(), "unmounted");
        Ok(())
    }

    /// Takes the mount away whoever uses it; waiting requests fail, what was not written back is lost.
    pub fn abort(&mut self) -> Result<(), MountError> {
        if self.session.is_none() {
            return Ok(());
        }
        let aborted = teardown::abort(&self.dir, &self.connection);
        self.finish();
        aborted
    }

    /// Tells the kernel to drop the attributes and pages of every inode that it knows. Names stay known: they
    /// are dropped by unmounting.
    pub fn invalidate_all(&self) {
        for node in self.tree.inodes.nodes() {
            self.tree.invalidator.inode(node);
        }
    }

    fn finish(&mut self) {
        let Some(serving) = self.session.take() else {
            return;
        };
        self.tree.invalidator.end();
        match serving.ended.recv_timeout(END_MAX) {
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                let panicked = serving.thread.join().is_err() | serving.invalidator.join().is_err();
                if panicked {
                    warn!(dir = %self.dir.display(), "a thread of the mount ended in a panic");
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                warn!(dir = %self.dir.display(), "the mount is gone, a session thread is still busy");
            }
        }
        let known = self.tree.inodes.take_all();
        if !known.is_empty() {
            self.tree.replicator.forget(&known);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.abort() {
            warn!(dir = %self.dir.display(), %error, "the mount could not be taken away");
        }
    }
}

fn serve(tree: Arc<Tree>, device: std::os::fd::OwnedFd, ended: watch::Sender<bool>) -> io::Result<Serving> {
    let invalidator = tree.invalidator.clone();
    let mut config = fuser::Config::default();
    config.acl = SessionACL::All;
    config.clone_fd = true;
    config.n_threads =
        Some(std::thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_MAX)));
    let session = Session::from_fd(Files(tree), device, SessionACL::All, config)?;
    let invalidator_thread = invalidator.start(session.notifier())?;
    let (send, receive) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("fuse-session".into())
        .spawn(move || {
            if let Err(error) = session.run() {
                warn!(%error, "the FUSE session ended with an error");
            }
            invalidator.end();
            ended.send_replace(true);
            // Nobody may be waiting: the mount was not unmounted by us.
            let _ = send.send(());
        })?;
    Ok(Serving {
        thread,
        invalidator: invalidator_thread,
        ended: receive,
    })
}
