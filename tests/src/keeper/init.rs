//! The first process of a host: gives it mounts of its own, collects its orphans, and ends with the keeper.
//!
//! It is process 1 of the host's pid namespace; when it dies the kernel kills everything else there.

use crate::error::{Attempt, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::ffi::CStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// What it says on standard output once the host is ready.
pub const READY: &str = "ready\n";

/// The life of the process; returns when its standard input ends.
///
/// # Errors
/// When the host's mounts or its name cannot be set.
pub fn run(lab_directory: &Path, host: &str) -> Result<()> {
    // SAFETY: an ignored SIGCHLD makes the kernel collect dead children by itself; no handler is involved.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    rustix::system::sethostname(host.as_bytes()).attempt(|| format!("set the host name {host}"))?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .attempt(|| "keep mounts of the host to itself".into())?;
    drop_foreign_mounts(lab_directory, &lab_directory.join(host).join("disk"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", flags, None::<&CStr>)
        .attempt(|| "mount /proc of the host".into())?;
    // Shared memory does not outlive a host, and another host must not see it.
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", "/dev/shm", "tmpfs", flags, Some(c"mode=1777"))
        .attempt(|| "mount /dev/shm of the host".into())?;
    let mut output = std::io::stdout();
    output
        .write_all(READY.as_bytes())
        .and_then(|()| output.flush())
        .attempt(|| "tell the keeper that the host is ready".into())?;
    // Nothing is ever written there: the read ends with the keeper.
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .map(drop)
        .attempt(|| "wait for the keeper".into())
}

/// Unmounts what the keeper's namespace has mounted for other hosts: a disk of theirs would stay in use here.
fn drop_foreign_mounts(lab_directory: &Path, own_disk: &Path) -> Result<()> {
    for mount_point in mount_points()?.into_iter().rev() {
        if mount_point.starts_with(lab_directory) && mount_point != own_disk {
            rustix::mount::unmount(&mount_point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .on("unmount", &mount_point)?;
        }
    }
    Ok(())
}

/// The mount points of the caller's mount namespace, in the order of mounting.
pub fn mount_points() -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").attempt(|| "read /proc/self/mountinfo".into())?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescaped(field)))
        .collect())
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescaped(field: &str) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    let mut rest = field.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    std::ffi::OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_spaces_and_backslashes_are_read_back() {
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescaped("/end\\"), "/end\\");
    }
}
