//! Loop devices: a file as a block device.

use crate::error::{Attempt, Result};
use crate::wait;
use rustix::fd::AsRawFd;
use rustix::fs::{FileType, Mode};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
/// The device is released with its last user: a mount that goes away for whatever reason leaves nothing.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LOOP_MAJOR: u32 = 7;
/// Somebody else may take the free device between the question and the claim.
const CLAIMS_MAX: usize = 64;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// A loop device on a file. It exists as long as this value is kept or something is mounted from it.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// Keeps it until it is mounted.
    device: File,
}

impl LoopDevice {
    /// Puts a free loop device on `file`. Where the system makes no device nodes, one is made in `directory`.
    ///
    /// # Errors
    /// When there is no loop device to be had.
    pub fn attach(file: &Path, directory: &Path) -> Result<Self> {
        let backing = File::options()
            .read(true)
            .write(true)
            .open(file)
            .on("open", file)?;
        let control = Path::new("/dev/loop-control");
        let control = File::options()
            .read(true)
            .write(true)
            .open(control)
            .on("open", control)?;
        let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
        for _ in 0..CLAIMS_MAX {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            let Ok(number) = u32::try_from(number) else {
                return Err(io::Error::last_os_error()).attempt(|| "find a free loop device".into());
            };
            let path = node(number, directory)?;
            let device = File::options()
                .read(true)
                .write(true)
                .open(&path)
                .on("open the loop device", &path)?;
            match claim(&device, &backing) {
                Ok(()) => return Ok(LoopDevice { path, device }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
                Err(error) => return Err(error).on("attach the loop device", &path),
            }
        }
        Err(last).attempt(|| format!("attach a loop device to {}: all were taken", file.display()))
    }

    /// Its device node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the device to whatever is mounted from it, and returns what is needed to see it end.
    pub fn leave_to_mount(self) -> Attached {
        drop(self.device);
        Attached { path: self.path }
    }
}

/// A loop device that ends with the last mount from it.
#[derive(Debug)]
pub struct Attached {
    path: PathBuf,
}

impl Attached {
    /// Its device node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the kernel has released the file.
    ///
    /// # Errors
    /// When it is still in use after `limit`.
    pub fn wait_released(&self, file: &Path, limit: Duration) -> Result<()> {
        let what = format!("{} is released from {}", self.path.display(), file.display());
        wait::until_true(limit, &what, || !is_on(&self.path, file))
    }
}

fn claim(device: &File, backing: &File) -> io::Result<()> {
    // SAFETY: an all-zero loop_config is a valid value of that plain structure.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = backing.as_raw_fd() as u32;
    config.info.flags = LO_FLAGS_AUTOCLEAR;
    // SAFETY: LOOP_CONFIGURE reads one loop_config.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the device is on `file` still; another user may have taken it meanwhile.
fn is_on(device: &Path, file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(device) = File::open(device) else {
        return false;
    };
    // SAFETY: an all-zero loop_info64 is a valid value of that plain structure.
    let mut info: LoopInfo = unsafe { std::mem::zeroed() };
    // SAFETY: LOOP_GET_STATUS64 writes one loop_info64.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) } != 0 {
        return false; // ENXIO: on nothing
    }
    // A file that is gone cannot be told from another: then any use counts.
    file.metadata().map_or(true, |file| {
        file.ino() == info.inode && encoded(file.dev()) == info.device
    })
}

/// The kernel's own way to write a device number, as loop devices tell it.
fn encoded(device: u64) -> u64 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    u64::from((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// The node of a loop device; devtmpfs makes it, elsewhere it is made here.
fn node(number: u32, directory: &Path) -> Result<PathBuf> {
    let usual = PathBuf::from(format!("/dev/loop{number}"));
    if usual
        .metadata()
        .is_ok_and(|data| data.file_type().is_block_device())
    {
        return Ok(usual);
    }
    let own = directory.join(format!("loop{number}"));
    let device = rustix::fs::makedev(LOOP_MAJOR, number);
    match rustix::fs::mknodat(
        rustix::fs::CWD,
        &own,
        FileType::BlockDevice,
        Mode::from_raw_mode(0o600),
        device,
    ) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(own),
        Err(error) => Err(error).on("make the device node", &own),
    }
}
