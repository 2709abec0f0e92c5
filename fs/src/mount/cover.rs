//! The read-only cover of a directory that this node must not change: a bind mount of it over itself.

use super::error::MountError;
use super::mountinfo::{self, Mount};
use super::over::equal_flags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::path::Path;

/// Covers `dir`. Covering twice is covering once.
///
/// Files that are open for writing already stay so: look for [`super::holders`] first.
pub fn cover(dir: &Path) -> Result<(), MountError> {
    if is_covered(dir)? {
        return Ok(());
    }
    let call = |what: &'static str| {
        move |source: rustix::io::Errno| MountError::Call {
            what,
            dir: dir.to_owned(),
            source: source.into(),
        }
    };
    let seen = rustix::fs::statvfs(dir).map_err(call("read the mount flags of"))?;
    rustix::mount::mount_bind(dir, dir).map_err(call("cover"))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | equal_flags(seen.f_flag);
    let made = rustix::mount::mount_change(dir, MountPropagationFlags::PRIVATE)
        .map_err(call("make private the cover of"))
        .and_then(|()| {
            rustix::mount::mount_remount(dir, flags, c"").map_err(call("make read-only the cover of"))
        });
    if let Err(error) = made {
        // A cover that is not read-only covers nothing; the first error is the one worth reporting.
        let _ = rustix::mount::unmount(dir, UnmountFlags::DETACH);
        return Err(error);
    }
    Ok(())
}

/// Takes every cover of `dir` away, if there is one. Whoever works below it keeps the read-only view.
pub fn uncover(dir: &Path) -> Result<(), MountError> {
    while is_covered(dir)? {
        rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(|source| {
            MountError::Call {
                what: "uncover",
                dir: dir.to_owned(),
                source: source.into(),
            }
        })?;
    }
    Ok(())
}

/// True when the mount that a path walk to `dir` ends on is a cover.
pub fn is_covered(dir: &Path) -> Result<bool, MountError> {
    let mounts = mountinfo::mounts()?;
    Ok(mountinfo::top_at(dir, &mounts).is_some_and(|top| is_cover(top, &mounts)))
}

/// A cover of another directory that is inside `dir` or around it. That of `dir` itself is not meant.
pub fn overlapping<'a>(dir: &Path, mounts: &'a [Mount]) -> Option<&'a Mount> {
    let overlaps = |mount: &&Mount| {
        mount.point != dir
            && (dir.starts_with(&mount.point) || mount.point.starts_with(dir))
            && is_cover(mount, mounts)
    };
    mounts.iter().find(overlaps)
}

/// A cover is read-only and shows what would be seen without it. The kernel keeps no mark of ours on a bind
/// mount, so a mount which someone else made exactly so counts as well: it does the same.
fn is_cover(mount: &Mount, mounts: &[Mount]) -> bool {
    let Some(below) = mounts.iter().find(|other| other.id == mount.parent) else {
        return false;
    };
    let Ok(inside) = mount.point.strip_prefix(&below.point) else {
        return false;
    };
    mount.read_only && mount.device == below.device && mount.root == below.root.join(inside)
}

#[cfg(test)]
mod tests {
    use super::super::mountinfo::Device;
    use super::*;
    use std::path::PathBuf;

    fn mount(id: u64, parent: u64, minor: u32, root: &str, point: &str, read_only: bool) -> Mount {
        Mount {
            id,
            parent,
            device: Device { major: 8, minor },
            root: PathBuf::from(root),
            point: PathBuf::from(point),
            read_only,
            kind: "ext4".into(),
            source: "/dev/vda".into(),
        }
    }

    #[test]
    fn only_a_read_only_bind_of_the_same_directory_is_a_cover() {
        let below = mount(1, 0, 1, "/", "/", false);
        let cases = [
            (mount(2, 1, 1, "/var/db", "/var/db", true), true),
            (mount(2, 1, 1, "/var/db", "/var/db", false), false),
            (mount(2, 1, 1, "/elsewhere", "/var/db", true), false),
            (mount(2, 1, 2, "/", "/var/db", true), false),
        ];
        for (top, expected) in cases {
            assert_eq!(is_cover(&top, &[below.clone(), top.clone()]), expected, "{top:?}");
        }
    }

    #[test]
    fn a_cover_around_or_inside_a_directory_overlaps_with_it_and_its_own_does_not() {
        let mounts = [
            mount(1, 0, 1, "/", "/", false),
            mount(2, 1, 1, "/srv/db", "/srv/db", true),
            // Read-only too, and no cover: it shows something else.
            mount(3, 1, 2, "/", "/srv/cdrom", true),
        ];
        let overlapped = |dir: &str| overlapping(Path::new(dir), &mounts).map(|mount| mount.id);
        for dir in ["/srv/db/inner", "/srv"] {
            assert_eq!(overlapped(dir), Some(2), "{dir}");
        }
        for dir in [
            "/srv/db",
            "/srv/database",
            "/srv/cdrom",
            "/srv/cdrom/inner",
            "/var",
        ] {
            assert_eq!(overlapped(dir), None, "{dir}");
        }
    }

    #[test]
    fn a_mount_point_can_be_covered_too() {
        let disk = mount(2, 1, 7, "/", "/var/db", false);
        let top = mount(3, 2, 7, "/", "/var/db", true);
        assert!(is_cover(&top, &[disk, top.clone()]));
    }
}
