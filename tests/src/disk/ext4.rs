//! A host's own disk: an ext4 of a given size, mounted where the host keeps its directories.

use super::loop_device::{Attached, LoopDevice};
use super::unflushed::Cut;
use super::volatile::VolatileImage;
use crate::error::{Attempt, Result, refused};
use crate::programs;
use crate::wait::{self, Look};
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};
use std::ffi::CStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What kind of disk a host is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskOptions {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// It forgets unflushed writes at a power cut.
    pub volatile: bool,
}

/// Below this ext4 has no room for a journal, and without one nothing survives a power cut.
pub const SIZE_BYTES_MIN: u64 = 8 << 20;

/// A mounted disk. Mounts are the calling process's: it must keep running.
#[derive(Debug)]
pub struct Disk {
    /// As asked for.
    pub options: DiskOptions,
    image: PathBuf,
    served: PathBuf,
    mount_point: PathBuf,
    attachment: Option<Attachment>,
}

#[derive(Debug)]
struct Attachment {
    device: Attached,
    volatile: Option<VolatileImage>,
    file: PathBuf,
}

impl Disk {
    /// Makes an ext4 without reserved blocks and mounts it on `mount_point`; image and helpers live in
    /// `directory`.
    ///
    /// # Errors
    /// When a step fails; what it had made stays in `directory`, unmounted.
    pub fn make(directory: &Path, mount_point: &Path, options: DiskOptions) -> Result<Self> {
        if options.size_bytes < SIZE_BYTES_MIN {
            return refused(format!("a disk needs at least {SIZE_BYTES_MIN} bytes"));
        }
        let image = directory.join("disk.img");
        let file = File::create(&image).on("make the disk image", &image)?;
        file.set_len(options.size_bytes)
            .on("set the size of the disk image", &image)?;
        programs::run(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0", "-b", "4096", "-O", "has_journal"])
                .args(["-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"])
                .arg(&image),
        )?;
        let mut disk = Disk {
            options,
            image,
            served: directory.join("disk.served"),
            mount_point: mount_point.to_owned(),
            attachment: None,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// The block device that it is mounted from, to mount it in another mount namespace as well.
    pub fn device(&self) -> Option<&Path> {
        Some(self.attachment.as_ref()?.device.path())
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Cuts the power of a volatile disk. It must then be [mounted again](Disk::recover).
    ///
    /// # Errors
    /// When the disk is not volatile or not mounted.
    pub fn cut(&mut self, seed: u64) -> Result<Cut> {
        match self.attachment.as_ref().and_then(|a| a.volatile.as_ref()) {
            Some(volatile) => volatile.cut(seed),
            None => refused("the disk does not lose unflushed writes: give the host a volatile one"),
        }
    }

    /// Lets every read of a volatile disk fail, of what no cache has, until it is mounted again.
    ///
    /// # Errors
    /// When the disk is not volatile or not mounted.
    pub fn fail_reads(&self) -> Result<()> {
        match self.attachment.as_ref().and_then(|a| a.volatile.as_ref()) {
            Some(volatile) => volatile.fail_reads(),
            None => refused("only the reads of a volatile disk can be made to fail"),
        }
    }

    /// Unmounts after a cut and mounts again, which replays the journal. No other mount namespace may have it
    /// mounted any more.
    ///
    /// # Errors
    /// When it is still in use after `limit`, or does not mount.
    pub fn recover(&mut self, limit: Duration) -> Result<()> {
        self.unmount(limit)?;
        self.mount()
    }

    /// Unmounts and releases everything.
    ///
    /// # Errors
    /// When it is still in use after `limit`.
    pub fn unmount(&mut self, limit: Duration) -> Result<()> {
        let Some(Attachment {
            device,
            volatile,
            file,
        }) = self.attachment.take()
        else {
            return Ok(());
        };
        let what = format!("{} is unmounted", self.mount_point.display());
        wait::until(limit, &what, || {
            match rustix::mount::unmount(&self.mount_point, UnmountFlags::NOFOLLOW) {
                // EINVAL: not mounted, which is what is wanted.
                Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(Look::Holds(())),
                Err(rustix::io::Errno::BUSY) => Ok(Look::NotYet("files on it are in use".into())),
                Err(error) => Err(error).on("unmount", &self.mount_point),
            }
        })?;
        device.wait_released(&file, limit)?;
        volatile.map_or(Ok(()), VolatileImage::end)
    }

    fn mount(&mut self) -> Result<()> {
        let volatile = if self.options.volatile {
            Some(VolatileImage::serve(&self.image, &self.served)?)
        } else {
            None
        };
        let file = volatile.as_ref().map_or(self.image.clone(), VolatileImage::file);
        let directory = self.image.parent().unwrap_or(Path::new("/"));
        let device = LoopDevice::attach(&file, directory)?;
        fs::create_dir_all(&self.mount_point).on("make the directory", &self.mount_point)?;
        mount_ext4(device.path(), &self.mount_point)?;
        self.attachment = Some(Attachment {
            device: device.leave_to_mount(),
            volatile,
            file,
        });
        Ok(())
    }
}

/// Mounts an ext4 in the caller's mount namespace.
///
/// # Errors
/// Those of mount(2).
pub fn mount_ext4(device: &Path, mount_point: &Path) -> Result<()> {
    rustix::mount::mount(device, mount_point, "ext4", MountFlags::empty(), None::<&CStr>).attempt(|| {
        let (device, at) = (device.display(), mount_point.display());
        format!("mount the ext4 of {device} on {at}")
    })
}
