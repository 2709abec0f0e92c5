//! The UDP socket as quinn sees it: segmentation offload both ways, and sends that are gathered.
//!
//! quinn hands over at most ten packets at a time. Those of one thread's turn are put together, so that one system
//! call carries as many as the kernel takes; [`Socket::flush`] ends the turn. The socket never blocks: what the
//! kernel does not take waits here, and quinn is told to wait.

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use rustix::fd::{AsFd, BorrowedFd};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tracing::debug;

/// Most bytes in one send: what the kernel takes in a datagram, headers included, with some room.
const SEND_BYTES_MAX: usize = 65_000;
/// Messages taken in one call: each may hold a whole segmented send.
const RECEIVE_MESSAGES: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    gathered: Mutex<Gathered>,
    /// Something is gathered. Written with `gathered` held, read without.
    has_some: AtomicBool,
    /// The kernel takes no more at present. Written with `gathered` held, read without.
    is_blocked: AtomicBool,
    /// Who waits for packets.
    reader: Mutex<Option<Waker>>,
    /// The last receive took all there was.
    is_drained: AtomicBool,
}

/// Packets of one size for one destination; the last may be shorter.
#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    shape: Option<Shape>,
    writers: Vec<Waker>,
}

#[derive(Debug)]
struct Shape {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    src_ip: Option<IpAddr>,
    /// None for a single packet, to which nothing is added: it may be one that tries whether the path takes its
    /// size.
    segment_bytes: Option<usize>,
}

impl Socket {
    pub(super) fn new(io: UdpSocket) -> io::Result<Self> {
        Ok(Socket {
            // Makes it non-blocking as well.
            state: UdpSocketState::new((&io).into())?,
            io,
            gathered: Mutex::default(),
            has_some: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            reader: Mutex::default(),
            is_drained: AtomicBool::new(false),
        })
    }

    /// Hands the kernel what was gathered. True when it does not take it.
    ///
    /// Does not wait for another thread that is gathering or sending: that one's own flush sends all there is.
    pub(super) fn flush(&self) -> bool {
        if self.has_some.load(Ordering::Acquire)
            && !self.is_blocked()
            && let Ok(mut gathered) = self.gathered.try_lock()
        {
            self.send(&mut gathered);
        }
        self.is_blocked()
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Acquire)
    }

    /// The kernel takes packets again.
    pub(super) fn unblock(&self) {
        let writers = {
            let mut gathered = self.gathered();
            self.is_blocked.store(false, Ordering::Release);
            self.send(&mut gathered);
            if self.is_blocked() {
                return;
            }
            std::mem::take(&mut gathered.writers)
        };
        writers.into_iter().for_each(Waker::wake);
    }

    /// There are packets.
    pub(super) fn wake_reader(&self) {
        let reader = self.reader().take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        // Bytes that a panic left half written are a broken packet, which the peer drops.
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self) -> MutexGuard<'_, Option<Waker>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, gathered: &mut Gathered) {
        let Some(shape) = &gathered.shape else { return };
        let several = shape.segment_bytes.filter(|bytes| gathered.bytes.len() > *bytes);
        let transmit = Transmit {
            destination: shape.destination,
            ecn: shape.ecn,
            contents: &gathered.bytes,
            segment_size: several,
            src_ip: shape.src_ip,
        };
        match self.hand_over(&transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_blocked.store(true, Ordering::Release);
            }
            _ => {
                gathered.bytes.clear();
                gathered.shape = None;
                self.has_some.store(false, Ordering::Release);
            }
        }
    }

    /// Errors other than "not now" are like loss: QUIC sends again, and the path's silence tells.
    fn hand_over(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send((&self.io).into(), transmit);
        if let Err(error) = &sent {
            debug!(%error, "the kernel does not take a packet now");
        }
        sent
    }
}

impl Gathered {
    /// True when `transmit` can go out in one send with what is here.
    fn fits(&self, transmit: &Transmit<'_>, segments_max: usize) -> bool {
        let Some(Shape {
            destination,
            ecn,
            src_ip,
            segment_bytes: Some(segment_bytes),
        }) = &self.shape
        else {
            return false;
        };
        let bytes = self.bytes.len() + transmit.contents.len();
        *destination == transmit.destination
            && *ecn == transmit.ecn
            && *src_ip == transmit.src_ip
            // No shorter packet was the last so far.
            && self.bytes.len().is_multiple_of(*segment_bytes)
            && match transmit.segment_size {
                Some(size) => size == *segment_bytes,
                None => transmit.contents.len() <= *segment_bytes,
            }
            && bytes <= SEND_BYTES_MAX
            && bytes.div_ceil(*segment_bytes) <= segments_max
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut gathered = self.gathered();
        if self.is_blocked() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if gathered.shape.is_some() && !gathered.fits(transmit, self.state.max_gso_segments()) {
            self.send(&mut gathered);
            if self.is_blocked() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        gathered.bytes.extend_from_slice(transmit.contents);
        if gathered.shape.is_none() {
            gathered.shape = Some(Shape {
                destination: transmit.destination,
                ecn: transmit.ecn,
                src_ip: transmit.src_ip,
                segment_bytes: transmit.segment_size,
            });
            self.has_some.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let most = buffers.len().min(RECEIVE_MESSAGES);
        if !self.is_drained.swap(false, Ordering::AcqRel) {
            match self
                .state
                .recv((&self.io).into(), &mut buffers[..most], &mut meta[..most])
            {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(count) => {
                    self.is_drained.store(count < most, Ordering::Release);
                    return Poll::Ready(Ok(count));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // The loop looks at the socket's state, not at its changes: what has come by now wakes it at once.
        *self.reader() = Some(context.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

/// For one task that waits until the kernel takes packets again.
#[derive(Debug)]
struct Poller {
    socket: Arc<Socket>,
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.socket.gathered();
        if self.socket.is_blocked() {
            if !gathered
                .writers
                .iter()
                .any(|writer| writer.will_wake(context.waker()))
            {
                gathered.writers.push(context.waker().clone());
            }
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }
}
