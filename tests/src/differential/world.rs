//! Carries steps out below one directory, as one of three users.

use super::generate::SLOTS;
use super::step::{Outcome, RenameFlag, Special, Step, User};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::ffi::CString;
use std::hash::{DefaultHasher, Hasher};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// A subtree and the descriptors opened in it.
#[derive(Debug)]
pub struct World {
    root: OwnedFd,
    slots: [Option<OwnedFd>; SLOTS],
    sharing: Sharing,
}

/// Whether other threads change the same files meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// This thread alone.
    Alone,
    /// Others too: nothing is mapped, since a truncation by another thread would raise SIGBUS here.
    WithOthers,
}

/// Gives the calling thread an umask and a working directory of its own, so that `Step::Umask` of one thread
/// does not change another's files.
pub fn own_umask() -> anyhow::Result<()> {
    // SAFETY: unshare(CLONE_FS) only detaches this thread's fs_struct; no memory is involved.
    if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
        anyhow::bail!(
            "cannot give the thread an umask of its own: {}",
            std::io::Error::last_os_error()
        );
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// While it lives, the calling thread's file system identity is another user's.
struct Identity;

impl Identity {
    fn assume(user: User) -> Self {
        let (id, groups): (libc::uid_t, &[libc::gid_t]) = match user {
            User::Root => (0, &[]),
            User::Nobody => (65534, &[]),
            User::Daemon => (1, &[65534]),
        };
        // SAFETY: the raw system call (not glibc's wrapper, which changes all threads) reads `groups.len()` ids
        // from a live slice and changes this thread only; setfsuid and setfsgid take plain numbers.
        unsafe {
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
            libc::setfsgid(id);
            libc::setfsuid(id);
        }
        if user != User::Root {
            administer(false);
        }
        Identity
    }
}

/// Gives the calling thread `CAP_SYS_ADMIN` or takes it: setfsuid(2) leaves it to a user, who with it sees more
/// than users do.
fn administer(may: bool) {
    // A thread without the right to its own capabilities has none to lose.
    if let Ok(mut sets) = capabilities(None) {
        sets.effective.set(CapabilitySet::SYS_ADMIN, may);
        // It may set what it was permitted before; should that fail, the outcomes of both sides still compare.
        let _ = set_capabilities(None, sets);
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        administer(true);
        // SAFETY: as in `assume`; root may always return to itself because only the fs ids were changed.
        unsafe {
            libc::setfsuid(0);
            libc::setfsgid(0);
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>());
        }
    }
}

impl World {
    /// Makes `directory` (mode 0777, unless it exists) and works below it.
    pub fn new(directory: &Path, sharing: Sharing) -> anyhow::Result<Self> {
        match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => anyhow::bail!("cannot make {}: {errno}", directory.display()),
        }
        rustix::fs::chmod(directory, Mode::from_raw_mode(0o777))?;
        let root = rustix::fs::open(
            directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(World {
            root,
            slots: Default::default(),
            sharing,
        })
    }

    /// Carries `step` out as `user`.
    pub fn run(&mut self, user: User, step: &Step) -> Outcome {
        if let Step::Umask { mask } = step {
            rustix::process::umask(Mode::from_raw_mode(*mask));
            return Outcome::Nothing;
        }
        let identity = Identity::assume(user);
        let outcome = self.call(step);
        drop(identity);
        match outcome {
            Ok(outcome) => outcome,
            Err(errno) => Outcome::Errno(errno.raw_os_error()),
        }
    }

    fn call(&mut self, step: &Step) -> Result<Outcome, Errno> {
        let root = self.root.as_fd();
        let done = |()| Outcome::Value(0);
        match step {
            Step::Open {
                slot,
                path,
                flags,
                mode,
            } => {
                let flags = OFlags::from_bits_retain(*flags) | OFlags::CLOEXEC;
                let file = rustix::fs::openat(root, name(path), flags, Mode::from_raw_mode(*mode))?;
                self.slots[*slot] = Some(file);
                Ok(Outcome::Value(0))
            }
            Step::OpenDirectory { slot, path } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                self.slots[*slot] = Some(rustix::fs::openat(root, name(path), flags, Mode::empty())?);
                Ok(Outcome::Value(0))
            }
            Step::Close { slot } => Ok(match self.slots[*slot].take() {
                Some(_) => Outcome::Value(0),
                None => Outcome::Nothing,
            }),
            Step::Mkdir { path, mode } => {
                rustix::fs::mkdirat(root, name(path), Mode::from_raw_mode(*mode)).map(done)
            }
            Step::Mknod { path, kind, mode } => {
                let (kind, device) = match kind {
                    Special::Fifo => (FileType::Fifo, 0),
                    Special::Socket => (FileType::Socket, 0),
                    Special::Character => (FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
                    Special::File => (FileType::RegularFile, 0),
                };
                rustix::fs::mknodat(root, name(path), kind, Mode::from_raw_mode(*mode), device).map(done)
            }
            Step::Symlink { target, path } => rustix::fs::symlinkat(name(target), root, name(path)).map(done),
            Step::Readlink { path } => rustix::fs::readlinkat(root, name(path), Vec::new())
                .map(|target| Outcome::Text(target.to_string_lossy().into_owned())),
            Step::Link { from, to } => {
                rustix::fs::linkat(root, name(from), root, name(to), AtFlags::empty()).map(done)
            }
            Step::Unlink { path } => rustix::fs::unlinkat(root, name(path), AtFlags::empty()).map(done),
            Step::Rmdir { path } => rustix::fs::unlinkat(root, name(path), AtFlags::REMOVEDIR).map(done),
            Step::Rename { from, to, flag } => {
                let flags = match flag {
                    RenameFlag::Plain => RenameFlags::empty(),
                    RenameFlag::NoReplace => RenameFlags::NOREPLACE,
                    RenameFlag::Exchange => RenameFlags::EXCHANGE,
                };
                rustix::fs::renameat_with(root, name(from), root, name(to), flags).map(done)
            }
            Step::Chmod { path, mode } => {
                rustix::fs::chmodat(root, name(path), Mode::from_raw_mode(*mode), AtFlags::empty()).map(done)
            }
            Step::Chown { path, uid, gid } => {
                let (uid, gid) = (
                    uid.map(rustix::fs::Uid::from_raw),
                    gid.map(rustix::fs::Gid::from_raw),
                );
                rustix::fs::chownat(root, name(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW).map(done)
            }
            Step::Times {
                path,
                seconds,
                nanoseconds,
            } => {
                let time = rustix::fs::Timespec {
                    tv_sec: *seconds,
                    tv_nsec: *nanoseconds,
                };
                let times = rustix::fs::Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                rustix::fs::utimensat(root, name(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
                let status = rustix::fs::statat(root, name(path), AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(Outcome::Text(format!(
                    "{}.{}",
                    status.st_mtime, status.st_mtime_nsec
                )))
            }
            Step::List { path } => self.list(path),
            Step::Stat { path } => rustix::fs::statat(root, name(path), AtFlags::SYMLINK_NOFOLLOW)
                .map(|status| describe(&status)),
            Step::Access { path, mode } => {
                let access = rustix::fs::Access::from_bits_truncate(*mode);
                rustix::fs::accessat(root, name(path), access, AtFlags::EACCESS).map(done)
            }
            Step::SetXattr { .. }
            | Step::GetXattr { .. }
            | Step::RemoveXattr { .. }
            | Step::ListXattr { .. }
            | Step::SetAcl { .. } => self.attribute(step),
            Step::Umask { .. } => Ok(Outcome::Nothing),
            Step::Write { .. }
            | Step::Read { .. }
            | Step::Truncate { .. }
            | Step::Fallocate { .. }
            | Step::Seek { .. }
            | Step::Copy { .. }
            | Step::Map { .. }
            | Step::Sync { .. }
            | Step::StatOpen { .. } => self.data(step),
        }
    }

    fn list(&self, path: &[u8]) -> Result<Outcome, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(self.root.as_fd(), name(path), flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let entry = entry?;
            names.push(format!("{:?} {:?}", entry.file_name(), entry.file_type()));
        }
        names.sort();
        Ok(Outcome::Text(names.join(", ")))
    }

    /// Extended attributes have no `*at` calls with this kernel interface: through `/proc/self/fd` of an
    /// `O_PATH` descriptor, which does not follow a last symlink.
    fn attribute(&self, step: &Step) -> Result<Outcome, Errno> {
        let open = |path: &[u8]| -> Result<(OwnedFd, String), Errno> {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(self.root.as_fd(), name(path), flags, Mode::empty())?;
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            Ok((file, link))
        };
        let key = |name: &u8| match name {
            0 => "user.a",
            1 => "user.a longer name",
            2 => "trusted.b",
            _ => "security.test",
        };
        match step {
            Step::SetXattr {
                path,
                name,
                length,
                fill,
                flag,
            } => {
                let (_file, link) = open(path)?;
                let flags = match flag {
                    0 => XattrFlags::empty(),
                    1 => XattrFlags::CREATE,
                    _ => XattrFlags::REPLACE,
                };
                rustix::fs::setxattr(link, key(name), &vec![*fill; *length], flags)
                    .map(|()| Outcome::Value(0))
            }
            Step::GetXattr { path, name } => {
                let (_file, link) = open(path)?;
                let mut value = vec![0; 65_536];
                let length = rustix::fs::getxattr(link, key(name), &mut value)?;
                Ok(digest(&value[..length]))
            }
            Step::RemoveXattr { path, name } => {
                let (_file, link) = open(path)?;
                rustix::fs::removexattr(link, key(name)).map(|()| Outcome::Value(0))
            }
            Step::ListXattr { path } => {
                let (_file, link) = open(path)?;
                let mut list = vec![0; 65_536];
                let length = rustix::fs::listxattr(link, &mut list)?;
                let text = String::from_utf8_lossy(&list[..length]).into_owned();
                let mut names: Vec<&str> = text.split_terminator('\0').collect();
                names.sort_unstable();
                Ok(Outcome::Text(names.join(", ")))
            }
            Step::SetAcl {
                path,
                default,
                user,
                permissions,
            } => {
                let (_file, link) = open(path)?;
                let key = if *default {
                    "system.posix_acl_default"
                } else {
                    "system.posix_acl_access"
                };
                rustix::fs::setxattr(link, key, &acl(*user, *permissions), XattrFlags::empty())
                    .map(|()| Outcome::Value(0))
            }
            _ => Ok(Outcome::Nothing),
        }
    }

    fn data(&self, step: &Step) -> Result<Outcome, Errno> {
        let slot = |index: &usize| self.slots[*index].as_ref();
        match step {
            Step::Write {
                slot: at,
                offset,
                length,
                fill,
            } => {
                let Some(file) = slot(at) else {
                    return Ok(Outcome::Nothing);
                };
                let data: Vec<u8> = (0..*length)
                    .map(|byte| fill.wrapping_add((byte / 512) as u8))
                    .collect();
                let written = match offset {
                    Some(offset) => rustix::io::pwrite(file, &data, *offset)?,
                    None => rustix::io::write(file, &data)?,
                };
                Ok(Outcome::Value(written as u64))
            }
            Step::Read {
                slot: at,
                offset,
                length,
            } => {
                let Some(file) = slot(at) else {
                    return Ok(Outcome::Nothing);
                };
                let mut data = vec![0; *length];
                let read = rustix::io::pread(file, &mut data, *offset)?;
                Ok(digest(&data[..read]))
            }
            Step::Truncate { slot: at, size } => {
                let Some(file) = slot(at) else {
                    return Ok(Outcome::Nothing);
                };
                rustix::fs::ftruncate(file, *size).map(|()| Outcome::Value(0))
            }
            Step::Fallocate {
                slot: at,
                mode,
                offset,
                length,
            } => {
                let Some(file) = slot(at) else {
                    return Ok(Outcome::Nothing);
                };
                let mode = rustix::fs::FallocateFlags::from_bits_retain(*mode);
                rustix::fs::fallocate(file, mode, *offset, *length).map(|()| Outcome::Value(0))
            }
            Step::Seek {
                slot: at,
                offset,
                hole,
            } => {
                // In a directory the end of the hash tree counts as a hole on ext4, and the kernel asks no FUSE.
                let Some(file) = slot(at).filter(|file| !is_directory(file)) else {
                    return Ok(Outcome::Nothing);
                };
                seek(file, *offset, *hole)
            }
            Step::Copy {
                from,
                to,
                source,
                target,
                length,
            } => {
                let (Some(from), Some(to)) = (slot(from), slot(to)) else {
                    return Ok(Outcome::Nothing);
                };
                let (mut source, mut target) = (*source, *target);
                rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), *length)
                    .map(|copied| Outcome::Value(copied as u64))
            }
            Step::Map {
                slot: at,
                offset,
                length,
                fill,
            } => {
                let Some(file) = slot(at).filter(|_| self.sharing == Sharing::Alone) else {
                    return Ok(Outcome::Nothing);
                };
                map_and_fill(file, *offset, *length, *fill)
            }
            Step::Sync { slot: at, data_only } => {
                let Some(file) = slot(at) else {
                    return Ok(Outcome::Nothing);
                };
                if *data_only {
                    rustix::fs::fdatasync(file)
                } else {
                    rustix::fs::fsync(file)
                }
                .map(|()| Outcome::Value(0))
            }
            Step::StatOpen { slot: at } => {
                let Some(file) = slot(at) else {
                    return Ok(Outcome::Nothing);
                };
                rustix::fs::fstat(file).map(|status| describe(&status))
            }
            _ => Ok(Outcome::Nothing),
        }
    }
}

/// Looks for data or a hole. Where exactly it is found depends on what the page cache holds of allocated blocks
/// that were never written; the outcome is whether the answer is true.
fn seek(file: &OwnedFd, offset: u64, hole: bool) -> Result<Outcome, Errno> {
    let to = if hole {
        SeekFrom::Hole(offset)
    } else {
        SeekFrom::Data(offset)
    };
    let found = rustix::fs::seek(file, to);
    if found.is_ok() {
        // Or writes without an offset would go to different places.
        rustix::fs::seek(file, SeekFrom::Start(offset))?;
    }
    let size = rustix::fs::fstat(file)?.st_size as u64;
    let zeroes = match found {
        Ok(position) if hole => position..(position + 1).min(size),
        Ok(position) => offset..position,
        // All that is left is a hole.
        Err(Errno::NXIO) if !hole && offset < size => offset..size,
        Err(errno) => return Err(errno),
    };
    let mut bytes = vec![0; zeroes.end.saturating_sub(zeroes.start) as usize];
    match rustix::io::pread(file, &mut bytes, zeroes.start) {
        Ok(read) if bytes[..read].iter().all(|byte| *byte == 0) => Ok(Outcome::Text("a true answer".into())),
        Ok(_) => Ok(Outcome::Text(format!("not so: {found:?} from {offset}"))),
        Err(errno) => Err(errno),
    }
}

fn is_directory(file: &OwnedFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

/// Fills the part of a shared mapping that lies within the file, and writes it back.
fn map_and_fill(file: &OwnedFd, offset: u64, length: usize, fill: u8) -> Result<Outcome, Errno> {
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
    let status = rustix::fs::fstat(file)?;
    let within = (status.st_size as u64).saturating_sub(offset).min(length as u64) as usize;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile || within == 0 {
        return Ok(Outcome::Nothing);
    }
    // SAFETY: a new mapping at an address of the kernel's choice, used only below and unmapped before return; it
    // lies within the file's size, and nobody else changes the file (`Sharing::Alone`).
    unsafe {
        let pointer = mmap(
            std::ptr::null_mut(),
            within,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            file,
            offset,
        )?;
        std::ptr::write_bytes(pointer.cast::<u8>(), fill, within);
        let synced = msync(pointer, within, MsyncFlags::SYNC);
        munmap(pointer, within)?;
        synced?;
    }
    Ok(Outcome::Value(within as u64))
}

/// `n0`, `n1/n3`, ...; one of the names has bytes that are no UTF-8, one is as long as names may be.
fn name(path: &[u8]) -> CString {
    let mut bytes = Vec::new();
    for (level, index) in path.iter().enumerate() {
        if level > 0 {
            bytes.push(b'/');
        }
        match index {
            6 => bytes.extend_from_slice(b"\xff\xfe new\nline"),
            7 => bytes.extend(std::iter::repeat_n(b'L', 255)),
            index => bytes.extend_from_slice(format!("n{index}").as_bytes()),
        }
    }
    CString::new(bytes).expect("no name of the pool contains a NUL")
}

/// What `stat` tells and must be equal: not times, inode numbers, blocks or the size of a directory.
fn describe(status: &rustix::fs::Stat) -> Outcome {
    let kind = FileType::from_raw_mode(status.st_mode);
    let size = if kind == FileType::Directory {
        0
    } else {
        status.st_size
    };
    Outcome::Text(format!(
        "mode {:o} uid {} gid {} links {} size {size} rdev {}",
        status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_rdev
    ))
}

fn digest(bytes: &[u8]) -> Outcome {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    Outcome::Bytes(bytes.len(), hasher.finish())
}

/// A POSIX ACL as `setxattr` takes it (linux/posix_acl_xattr.h): owner rwx, one named user, group r-x, mask, other.
fn acl(user: u32, permissions: u16) -> Vec<u8> {
    const UNDEFINED: u32 = u32::MAX;
    let entries = [
        (0x01, 7, UNDEFINED),
        (0x02, permissions, user),
        (0x04, 5, UNDEFINED),
        (0x10, 7, UNDEFINED),
        (0x20, 5, UNDEFINED),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&u16::to_le_bytes(tag));
        bytes.extend_from_slice(&u16::to_le_bytes(permissions));
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}
