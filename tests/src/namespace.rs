//! Entering, leaving and describing namespaces.
//!
//! Whoever wants to act inside a host does so on a thread of its own, which ends afterwards: the namespaces of
//! every other thread of the process stay as they are.

use crate::error::{Attempt, Error, Result};
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};
use std::io;
use std::path::PathBuf;

/// All namespaces that make up a host.
pub const HOST: ThreadNameSpaceType = ThreadNameSpaceType::MOUNT
    .union(ThreadNameSpaceType::NETWORK)
    .union(ThreadNameSpaceType::PROCESS_ID)
    .union(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION)
    .union(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME);

/// Moves the calling thread into namespaces of the process or namespace that `descriptor` refers to.
/// Of the pid namespace, only children of the thread are in it.
///
/// # Errors
/// Those of setns(2). With [`ThreadNameSpaceType::MOUNT`] the thread must not share its root and working
/// directory: see [`unshare`] with [`UnshareFlags::FS`].
pub fn enter(descriptor: impl AsFd, types: ThreadNameSpaceType) -> io::Result<()> {
    Ok(move_into_thread_name_spaces(descriptor.as_fd(), types)?)
}

/// Gives the calling thread namespaces of its own.
///
/// # Errors
/// Those of unshare(2).
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // Descriptors stay shared among threads: with a private table, those that Rust's types own would be
    // closed under numbers that mean something else.
    let flags = flags.difference(UnshareFlags::FILES);
    // SAFETY: unshare_unsafe is unsafe for CLONE_FILES alone, which was taken out above.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Runs `action` on a thread of its own inside namespaces of the process that `process` is a descriptor of.
///
/// # Errors
/// When the namespaces cannot be entered, and those of `action`.
pub fn within<T: Send>(
    process: &OwnedFd,
    types: ThreadNameSpaceType,
    action: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    on_own_thread(|| {
        unshare(UnshareFlags::FS).attempt(|| "give a thread its own working directory".into())?;
        enter(process, types).attempt(|| "enter the namespaces of a host".into())?;
        action()
    })
}

/// Runs `action` on a thread that ends with it, so that what it does to its namespaces ends too.
///
/// # Errors
/// When no thread can be had, and those of `action`.
pub fn on_own_thread<T: Send>(action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, action)
            .attempt(|| "start a thread".into())?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// What links in `/proc/PID/ns` read like for this namespace.
pub fn link_text(namespace: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd()))
}

/// The parent of a pid namespace; EPERM above the caller's own.
pub fn parent(namespace: &OwnedFd) -> io::Result<OwnedFd> {
    const NS_GET_PARENT: libc::Ioctl = 0xb702;
    // SAFETY: NS_GET_PARENT takes no argument and touches no memory of ours.
    let descriptor = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Closes every descriptor above the standard ones that this process inherited, so that a process which stays
/// does not keep its starter's locks, pipes and files open. To be called before anything is opened.
pub fn close_inherited() -> Result<()> {
    // SAFETY: called first in main, when no value of this process owns a descriptor above 2.
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if closed < 0 {
        return Err(Error::System {
            attempt: "close inherited descriptors".into(),
            source: io::Error::last_os_error(),
        });
    }
    Ok(())
}
