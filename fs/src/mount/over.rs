//! Opens a replicated directory and mounts FUSE over the directory itself.

use super::error::MountError;
use super::mountinfo::{self, Device, FILE_SYSTEM_TYPE};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use tracing::debug;

/// Opens `dir` so that the descriptor goes on showing it once something is mounted over it.
///
/// The descriptor belongs to a mount of its own that is attached nowhere: mounts inside the directory are not
/// seen through it (the empty directories below them are), and unmounting `dir` does not concern it. Where the
/// kernel refuses such a copy it is a plain descriptor.
/// # Errors
/// [`MountError::Open`], or [`MountError::ReadOnly`] when nothing could be written through it.
pub fn open_backing(dir: &Path) -> Result<OwnedFd, MountError> {
    let open = |source: rustix::io::Errno| MountError::Open {
        dir: dir.to_owned(),
        source: source.into(),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let plain = rustix::fs::open(dir, flags, Mode::empty()).map_err(open)?;
    let clone =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let descriptor = match rustix::mount::open_tree(&plain, c"", clone) {
        Ok(copy) => copy,
        Err(errno) => {
            // An unbindable mount, or a kernel without the call: mounts inside are then refused by name.
            debug!(dir = %dir.display(), %errno, "the directory's mount cannot be copied, using it as it is");
            plain
        }
    };
    let status = rustix::fs::fstatvfs(&descriptor).map_err(open)?;
    if status.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(MountError::ReadOnly { dir: dir.to_owned() });
    }
    Ok(descriptor)
}

/// A FUSE file system that is mounted and not yet served.
pub struct Unserved {
    /// `/dev/fuse`, connected to the mount.
    pub device: OwnedFd,
    /// The mount's device number.
    pub number: Device,
}

/// Mounts a FUSE file system over `dir`, shown as `sidekick:<module>`, with the flags of the mount it hides.
///
/// From here on every access to `dir` waits until the returned device is served.
pub fn mount_over(dir: &Path, module: &str, backing: impl AsFd) -> Result<Unserved, MountError> {
    let call = |what: &'static str| {
        move |source: rustix::io::Errno| MountError::Call {
            what,
            dir: dir.to_owned(),
            source: source.into(),
        }
    };
    let device =
        rustix::fs::open(c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|source| {
            MountError::Device {
                source: source.into(),
            }
        })?;
    let status = rustix::fs::fstat(&backing).map_err(call("read the mode of"))?;
    let hidden = rustix::fs::fstatvfs(&backing).map_err(call("read the mount flags of"))?;
    let data = format!(
        "fd={},rootmode={:o},user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd(),
        status.st_mode
    );
    let data = CString::new(data).map_err(|_| call("mount over")(rustix::io::Errno::INVAL))?;
    let source = format!("sidekick:{module}");
    rustix::mount::mount(
        source.as_str(),
        dir,
        FILE_SYSTEM_TYPE,
        equal_flags(hidden.f_flag),
        data.as_c_str(),
    )
    .map_err(call("mount over"))?;
    let number = make_private(dir).and_then(|()| device_of(dir));
    match number {
        Ok(number) => Ok(Unserved { device, number }),
        Err(error) => {
            // The mount must not stay without a server; if even this fails the closed device leaves a dead
            // mount, which the next start clears, and the first error is the one worth reporting.
            let _ = rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH);
            Err(error)
        }
    }
}

/// Raises the read-ahead of a mount that answers already, for cold sequential reads. Not fatal where `/sys`
/// is read-only.
pub fn raise_read_ahead(number: Device) {
    let path = format!("/sys/class/bdi/{number}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KIB) {
        debug!(%path, %error, "the read-ahead stays as it is");
    }
}

/// One kernel request carries at most this much (`max_write`, and reads alike).
const READ_AHEAD_KIB: &str = "1024";

fn make_private(dir: &Path) -> Result<(), MountError> {
    rustix::mount::mount_change(dir, MountPropagationFlags::PRIVATE).map_err(|source| MountError::Call {
        what: "make private the mount over",
        dir: dir.to_owned(),
        source: source.into(),
    })
}

fn device_of(dir: &Path) -> Result<Device, MountError> {
    let dir = std::path::absolute(dir).map_err(|source: io::Error| MountError::Open {
        dir: dir.to_owned(),
        source,
    })?;
    let mounts = mountinfo::mounts()?;
    match mountinfo::top_at(&dir, &mounts) {
        Some(mount) if mount.kind == FILE_SYSTEM_TYPE => Ok(mount.device),
        _ => Err(MountError::Vanished { dir }),
    }
}

/// What the hidden mount forbids stays forbidden, what it allows stays allowed.
pub(super) fn equal_flags(hidden: StatVfsMountFlags) -> MountFlags {
    [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ]
    .into_iter()
    .filter(|(seen, _)| hidden.contains(*seen))
    .fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
}
