//! One port of the relay: a raw socket on the switch's end of a host's cable.
//!
//! Every frame carries the kernel's 10-byte `virtio_net_hdr` in front (`PACKET_VNET_HDR`), which is handed back
//! unchanged when the frame is sent: it keeps checksums that the sender left to the "hardware", and big
//! segments from the moment of change-over, valid.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ffi::CString;
use std::io;

/// Bytes of `virtio_net_hdr`.
pub const PREFIX_BYTES: usize = 10;

/// Longest thing that can be received: a full segmentation-offload frame with its headers.
pub const FRAME_BYTES_MAX: usize = PREFIX_BYTES + (64 << 10) + 256;

/// Room for frames that wait for the relay's thread.
const RECEIVE_BYTES: libc::c_int = 8 << 20;

/// A bound raw socket. Frames that this machine itself sends through the interface are not received.
#[derive(Debug)]
pub struct Port {
    socket: OwnedFd,
}

impl Port {
    /// Opens a port on a network interface of the caller's network namespace.
    ///
    /// # Errors
    /// Those of the system; ENODEV when there is no such interface.
    pub fn open(interface: &str) -> io::Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: the name is a valid C string for the length of the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0 receives nothing until bind names interface and protocol together: no frame of another
        // port slips in between.
        // SAFETY: plain system call; the result is checked before use.
        let descriptor = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BYTES)?;
        // SAFETY: an all-zero sockaddr_ll is a valid value of that plain structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as libc::c_int;
        // SAFETY: address is a sockaddr_ll and its size is given.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Port { socket })
    }

    /// The next frame that waits, or `None`. A link that is down has none.
    ///
    /// # Errors
    /// Those of recv(2) but EAGAIN and ENETDOWN.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        // SAFETY: the buffer is valid for its length.
        let got = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        };
        if got >= 0 {
            return Ok(Some(got as usize));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENETDOWN | libc::EINTR) => Ok(None),
            _ => Err(error),
        }
    }

    /// Sends a frame. One that the interface does not take now (down, queue full, too long for it) is lost,
    /// as on a wire.
    ///
    /// # Errors
    /// Those of send(2) that say the socket itself is unusable.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the frame is valid for its length.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EBADF | libc::ENOTSOCK | libc::ENXIO | libc::ENODEV) => Err(error),
            _ => Ok(()),
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn set(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is a c_int and its size is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
