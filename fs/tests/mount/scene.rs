//! One mounted directory, and a plain one beside it to compare with.

use crate::local;
use anyhow::Context;
use rustix::mount::MountPropagationFlags;
use rustix::process::{Gid, Uid};
use rustix::thread::UnshareFlags;
use skfs::backing::Store;
use skfs::config::SyncMode;
use skfs::fuse::{MountOptions, Mounted};
use skfs::mount::over;
use std::fmt::Debug;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub struct Scene {
    pub mounted: Mounted,
    /// The mounted directory.
    pub dir: PathBuf,
    /// Its backing directory as this process can reach it past the mount.
    pub backing: PathBuf,
    /// An ordinary directory of the same file system.
    pub plain: PathBuf,
    _backing: std::os::fd::OwnedFd,
    _runtime: tokio::runtime::Runtime,
    _temporary: tempfile::TempDir,
}

/// Gives this thread a mount namespace of its own. Threads started from now on share it.
pub fn own_mount_namespace() -> anyhow::Result<()> {
    // SAFETY: a new mount namespace concerns paths only; the thread shares its descriptors as before.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.context("these tests need root")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("cannot make the mounts private")
}

impl Scene {
    pub fn new(sync: SyncMode) -> anyhow::Result<Self> {
        own_mount_namespace()?;
        let temporary = tempfile::tempdir()?;
        // Ordinary users must get in.
        std::fs::set_permissions(temporary.path(), PermissionsExt::from_mode(0o755))?;
        let [dir, plain, state] = ["mounted", "ordinary", "state"].map(|name| temporary.path().join(name));
        for directory in [&dir, &plain, &state] {
            std::fs::create_dir(directory)?;
        }
        let descriptor = over::open_backing(&dir)?;
        let backing = PathBuf::from(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&descriptor)
        ));
        let store = Arc::new(Store::new(vec![descriptor.try_clone()?])?);
        let runtime = tokio::runtime::Runtime::new()?;
        let replicator = runtime.block_on(local::alone(&dir, sync, store.clone(), &state))?;
        let options = MountOptions {
            module: local::MODULE.into(),
            dir: dir.clone(),
            root_index: 0,
            sync,
        };
        Ok(Scene {
            mounted: Mounted::mount(options, store, replicator)?,
            dir,
            backing,
            plain,
            _backing: descriptor,
            _runtime: runtime,
            _temporary: temporary,
        })
    }

    /// Does the same on the mount and in the plain directory: the same must come of it.
    pub fn same<T: PartialEq + Debug>(&self, act: impl Fn(&Path) -> T) {
        let expected = act(&self.plain);
        assert_eq!(
            act(&self.dir),
            expected,
            "left: on the mount, right: in a plain directory"
        );
    }
}

/// Runs `act` in a thread that is another user, with supplementary groups.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], act: impl FnOnce() -> T + Send) -> T {
    let become_user = || -> rustix::io::Result<()> {
        let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
        rustix::thread::set_thread_groups(&groups)?;
        let gid = Gid::from_raw(gid);
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        let uid = Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid)
    };
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            become_user().expect("root may become anybody");
            act()
        });
        user.join().expect("the user's part of the test")
    })
}

/// Waits for a condition; panics with `what` after ten seconds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}
