//! Who holds a directory open: processes with files, working directories, roots, programs or mappings in it.
//!
//! Reads `/proc` only. Nothing here asks the file system of the directory itself, which may be frozen or dead.

use super::mountinfo::Device;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How a process holds something open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// An open file or directory, with its descriptor's number.
    Descriptor(u32),
    /// Its working directory.
    WorkingDirectory,
    /// Its root directory.
    Root,
    /// The program it runs.
    Program,
    /// A mapped file.
    Mapping,
}

/// One process that holds the directory open; its first use found is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process number.
    pub pid: u32,
    /// Its command name.
    pub command: String,
    /// How.
    pub what: Use,
    /// Which file, as the kernel shows it.
    pub path: PathBuf,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            Use::Descriptor(number) => format!("descriptor {number}"),
            Use::WorkingDirectory => "working directory".into(),
            Use::Root => "root directory".into(),
            Use::Program => "running program".into(),
            Use::Mapping => "mapped file".into(),
        };
        write!(
            f,
            "{} (pid {}, {what}: {})",
            self.command,
            self.pid,
            self.path.display()
        )
    }
}

/// Most holders that a message names.
const NAMED_MAX: usize = 8;

/// The holders as one line for a message.
pub fn list(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "something that is no process (a mount inside, a loop device or a swap file)".into();
    }
    let mut line: Vec<String> = holders.iter().take(NAMED_MAX).map(Holder::to_string).collect();
    if holders.len() > NAMED_MAX {
        line.push(format!("and {} more", holders.len() - NAMED_MAX));
    }
    line.join(", ")
}

/// Processes that use anything of the mounted file system `number`, in whatever mount namespace they live.
pub fn of_mount(number: Device) -> Vec<Holder> {
    processes(&Wanted::Device(number))
}

/// Processes that use anything inside `dir` as it is before our mount is made over it: it would bypass us.
///
/// `device` is the file system of the directory, so that equal paths of other file systems, as mounts inside
/// it, do not count. Processes that see the directory under another path (a container's) are not found.
pub fn of_directory(dir: &Path, device: Device) -> Vec<Holder> {
    processes(&Wanted::Inside { dir, device })
}

enum Wanted<'a> {
    Device(Device),
    Inside { dir: &'a Path, device: Device },
}

impl Wanted<'_> {
    fn holds(&self, link: &Path, shown: &Path) -> bool {
        match self {
            Wanted::Device(number) => device_behind(link) == Some(*number),
            Wanted::Inside { dir, device } => shown.starts_with(dir) && device_behind(link) == Some(*device),
        }
    }

    fn maps(&self, device: Device, shown: &Path) -> bool {
        match self {
            Wanted::Device(number) => device == *number,
            Wanted::Inside { dir, device: own } => shown.starts_with(dir) && device == *own,
        }
    }
}

/// A process may end while it is looked at, and some links need rights that a container lacks: what cannot be
/// read holds nothing that we could name.
fn processes(wanted: &Wanted<'_>) -> Vec<Holder> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| first_use(pid, wanted))
        .collect()
}

fn first_use(pid: u32, wanted: &Wanted<'_>) -> Option<Holder> {
    let base = PathBuf::from(format!("/proc/{pid}"));
    let found = links(&base, wanted)
        .or_else(|| descriptors(&base, wanted))
        .or_else(|| mappings(&base, wanted));
    let (what, path) = found?;
    let command = std::fs::read(base.join("comm")).unwrap_or_default();
    Some(Holder {
        pid,
        command: String::from_utf8_lossy(command.trim_ascii()).into_owned(),
        what,
        path,
    })
}

fn links(base: &Path, wanted: &Wanted<'_>) -> Option<(Use, PathBuf)> {
    [
        ("cwd", Use::WorkingDirectory),
        ("root", Use::Root),
        ("exe", Use::Program),
    ]
    .into_iter()
    .find_map(|(name, what)| Some((what, held(&base.join(name), wanted)?)))
}

fn descriptors(base: &Path, wanted: &Wanted<'_>) -> Option<(Use, PathBuf)> {
    std::fs::read_dir(base.join("fd")).ok()?.find_map(|entry| {
        let link = entry.ok()?.path();
        let number = link.file_name()?.to_str()?.parse().ok()?;
        Some((Use::Descriptor(number), held(&link, wanted)?))
    })
}

fn held(link: &Path, wanted: &Wanted<'_>) -> Option<PathBuf> {
    let shown = std::fs::read_link(link).ok()?;
    wanted.holds(link, &shown).then_some(shown)
}

/// `AT_STATX_DONT_SYNC` with no field asked: answered by the kernel alone, also when the server is stopped.
fn device_behind(link: &Path) -> Option<Device> {
    let status = rustix::fs::statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::empty()).ok()?;
    Some(Device {
        major: status.stx_dev_major,
        minor: status.stx_dev_minor,
    })
}

/// Lines of `/proc/PID/maps`: address, permissions, offset, device in hexadecimal, inode, path.
fn mappings(base: &Path, wanted: &Wanted<'_>) -> Option<(Use, PathBuf)> {
    let maps = std::fs::read(base.join("maps")).ok()?;
    maps.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let device = str::from_utf8(fields.nth(3)?).ok()?;
        let (major, minor) = device.split_once(':')?;
        let device = Device {
            major: u32::from_str_radix(major, 16).ok()?,
            minor: u32::from_str_radix(minor, 16).ok()?,
        };
        let path = fields.nth(1)?.trim_ascii_start();
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
        wanted.maps(device, &path).then_some((Use::Mapping, path))
    })
}
