//! File handles: `name_to_handle_at(2)` and `open_by_handle_at(2)`, which rustix does not wrap.

use crate::operation::FileHandle;
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use std::sync::Arc;

/// Most bytes of a handle (`MAX_HANDLE_SZ`, linux/exportfs.h).
pub(super) const HANDLE_BYTES_MAX: usize = 128;

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; HANDLE_BYTES_MAX],
}

/// The handle of what `descriptor` refers to; any node, `O_PATH` suffices.
pub(super) fn of(descriptor: BorrowedFd<'_>) -> Result<FileHandle> {
    let mut raw = RawHandle {
        handle_bytes: HANDLE_BYTES_MAX as u32,
        handle_type: 0,
        f_handle: [0; HANDLE_BYTES_MAX],
    };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the path is a NUL-terminated constant, `raw` is a `struct file_handle` that has `handle_bytes`
    // bytes of room behind its header as the call demands, and both pointers outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            descriptor.as_raw_fd(),
            c"".as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if result != 0 {
        return Err(last_errno());
    }
    let length = (raw.handle_bytes as usize).min(HANDLE_BYTES_MAX);
    Ok(FileHandle {
        kind: raw.handle_type,
        bytes: Arc::from(&raw.f_handle[..length]),
    })
}

/// Opens the inode of a handle on the file system that `mount` lies on. `mount` must not be `O_PATH`.
/// `ESTALE` when the inode is gone, `EINVAL` when `bytes` is no handle.
pub(super) fn open(mount: BorrowedFd<'_>, kind: i32, bytes: &[u8], flags: OFlags) -> Result<OwnedFd> {
    if bytes.len() > HANDLE_BYTES_MAX {
        return Err(Errno::INVAL);
    }
    let mut raw = RawHandle {
        handle_bytes: bytes.len() as u32,
        handle_type: kind,
        f_handle: [0; HANDLE_BYTES_MAX],
    };
    raw.f_handle[..bytes.len()].copy_from_slice(bytes);
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // SAFETY: `raw` is a valid `struct file_handle` with `handle_bytes` initialized bytes; it outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut raw,
            flags.bits() as libc::c_int,
        )
    };
    let Ok(number) = i32::try_from(result) else {
        return Err(Errno::BADF);
    };
    if number < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The errno of the libc call that just failed on this thread.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
