//! The mount table of this mount namespace, as `/proc/thread-self/mountinfo` shows it (`proc_pid_mountinfo(5)`).

use super::error::MountError;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Type that our mounts show: the kernel's `fuse` with a subtype.
pub const FILE_SYSTEM_TYPE: &str = "fuse.sidekick";

const TABLE: &str = "/proc/thread-self/mountinfo";

/// The device number of a mounted file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// 0 for file systems without a block device, as FUSE.
    pub major: u32,
    /// For FUSE also the number of its connection.
    pub minor: u32,
}

impl Device {
    /// From `st_dev`.
    pub fn of_status(st_dev: u64) -> Self {
        Device {
            major: rustix::fs::major(st_dev),
            minor: rustix::fs::minor(st_dev),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Unique while it is mounted.
    pub id: u64,
    /// The mount it is attached to.
    pub parent: u64,
    /// Of its file system.
    pub device: Device,
    /// Which directory of its file system is shown.
    pub root: PathBuf,
    /// Where it is attached.
    pub point: PathBuf,
    /// The mount itself, not the file system, is read-only.
    pub read_only: bool,
    /// File system type with subtype.
    pub kind: String,
    /// What the mounting program called the source.
    pub source: String,
}

/// A mount of ours on `dir`, inside it, or on a directory above it.
pub fn overlapping<'a>(dir: &Path, mounts: &'a [Mount]) -> Option<&'a Mount> {
    let overlaps = |mount: &&Mount| {
        mount.kind == FILE_SYSTEM_TYPE && (dir.starts_with(&mount.point) || mount.point.starts_with(dir))
    };
    mounts.iter().find(overlaps)
}

/// Reads the table, parents before children.
pub fn mounts() -> Result<Vec<Mount>, MountError> {
    let table = std::fs::read(TABLE).map_err(|source| MountError::Table {
        path: TABLE.into(),
        source,
    })?;
    Ok(parse(&table))
}

/// The mounts in a table of this format, in its order.
pub fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// The mount that a path walk to `dir` ends on, when one is attached exactly there.
pub fn top_at<'a>(dir: &Path, mounts: &'a [Mount]) -> Option<&'a Mount> {
    let mut at: Vec<&Mount> = mounts.iter().filter(|mount| mount.point == dir).collect();
    // The top of a stack is the one that no other of the stack is attached to.
    let parents: Vec<u64> = at.iter().map(|mount| mount.parent).collect();
    at.retain(|mount| !parents.contains(&mount.id));
    at.pop()
}

/// A line that does not parse is left out: it is none of ours, and the kernel's format only grows.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = path(fields.next()?);
    let point = path(fields.next()?);
    let options = fields.next()?;
    // Any number of optional fields, then a single dash.
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = path(fields.next()?).to_string_lossy().into_owned();
    Some(Mount {
        id,
        parent,
        device: Device {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        },
        root,
        point,
        read_only: options.split(|byte| *byte == b',').any(|option| option == b"ro"),
        kind,
        source,
    })
}

fn number(field: &[u8]) -> Option<u64> {
    str::from_utf8(field).ok()?.parse().ok()
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = match tail {
            [a, b, c, ..] if *first == b'\\' => octal(*a, *b, *c),
            _ => None,
        };
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(a: u8, b: u8, c: u8) -> Option<u8> {
    let digit = |byte: u8| (b'0'..=b'7').contains(&byte).then(|| u32::from(byte - b'0'));
    u8::try_from(digit(a)? * 64 + digit(b)? * 8 + digit(c)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes_is_read() {
        let line =
            b"36 35 0:44 / /mnt/with\\040space rw,noatime shared:1 master:2 - fuse.sidekick sidekick:db rw";
        let mount = parse_line(line).expect("a well-formed line");
        assert_eq!(mount.point, Path::new("/mnt/with space"));
        assert_eq!(mount.device, Device { major: 0, minor: 44 });
        assert_eq!(
            (mount.kind.as_str(), mount.source.as_str()),
            ("fuse.sidekick", "sidekick:db")
        );
        assert!(!mount.read_only);
    }

    #[test]
    fn a_mount_of_ours_above_or_below_a_directory_overlaps_with_it() {
        let table = parse(
            b"36 35 0:44 / /srv/db rw - fuse.sidekick sidekick:db rw\n37 35 8:1 / /srv/other rw - ext4 /dev/sda rw\n",
        );
        for overlapped in ["/srv/db", "/srv/db/inner", "/srv"] {
            assert!(
                overlapping(Path::new(overlapped), &table).is_some(),
                "{overlapped}"
            );
        }
        for apart in ["/srv/database", "/srv/other", "/srv/other/inner"] {
            assert!(overlapping(Path::new(apart), &table).is_none(), "{apart}");
        }
    }

    #[test]
    fn the_top_of_a_stack_is_the_mount_nobody_is_attached_to() {
        let line = |id: u64, parent: u64| {
            parse_line(format!("{id} {parent} 0:{id} / /data ro - ext4 /dev/vda rw").as_bytes())
                .expect("well-formed")
        };
        let table = [line(30, 29), line(20, 1), line(29, 20)];
        assert_eq!(top_at(Path::new("/data"), &table).map(|mount| mount.id), Some(30));
        assert_eq!(top_at(Path::new("/other"), &table), None);
    }

    #[test]
    fn nonsense_is_left_out() {
        for line in [&b""[..], b"x", b"1 2 3 / / rw", b"1 2 0:x / / rw - a b c"] {
            assert_eq!(parse_line(line), None);
        }
    }
}
