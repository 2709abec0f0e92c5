//! The endpoint of this node, on one UDP port both client and server, and its connections.
//!
//! Everything runs on the endpoint's own [`Executor`]; whoever waits may do so on any other. A connection is handed out once
//! both sides have proved who they are and sent the first bytes of the one stream, so that a peer of another
//! version is known before anything else is decoded.

use super::error::LinkError;
use super::executor::Executor;
use super::purpose::Purpose;
use super::socket::Socket;
use super::stream::{Receiver, Sender};
use super::tls::{Identity, Verdict, alert_in_words, refusal};
use crate::config::Config;
use crate::wire::frame::{self, Message, WireError};
use quinn::crypto::rustls::HandshakeData;
use quinn::{
    AckFrequencyConfig, ClientConfig, ConnectionError, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    ReadExactError, RecvStream, SendStream, ServerConfig, TransportConfig, VarInt, WriteError,
};
use rustix::net::sockopt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

/// How long a connection may take until both sides have proved themselves.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the peers may take to hear that the endpoint is closed.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);
/// Most handshakes of callers at a time; those beyond wait in [`INCOMING_MAX`].
const HANDSHAKES_MAX: usize = 32;
/// With so many under way, a caller must first show that its address is its own: packets with forged ones would
/// else hold every place for [`HANDSHAKE_TIME_MAX`].
pub(super) const HANDSHAKES_UNPROVED_MAX: usize = 8;
/// Most callers that wait for a handshake; the ones beyond are refused by QUIC at once.
const INCOMING_MAX: usize = 64;
/// Largest UDP payload: quinn sends ten packets in one call, which the kernel takes up to 65,507 bytes.
const MTU_MAX: u16 = 6500;
/// What every path of QUIC carries; discovery goes up from here.
const MTU_FIRST: u16 = 1200;
/// Bytes that may be on their way and not read yet, each way.
const WINDOW_BYTES: u32 = 16 << 20;
/// Before it is measured; a local network is far below. quinn's own guess of a third of a second makes the first
/// lost packet cost a second.
const FIRST_RTT: Duration = Duration::from_millis(10);
/// Packets per acknowledgement: each costs both sides a system call.
const ACK_AFTER_PACKETS: u32 = 10;
/// Shortest time after which a silent connection counts as broken, whatever `peer_stall` says.
const IDLE_MIN: Duration = Duration::from_millis(500);
/// Wanted for the socket's buffers, so that a full write in one burst is not dropped.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Shortest time between two reports of callers turned away.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

/// Why a connection is closed, as a QUIC application error code. `docs/wire.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// On purpose; the reason says why.
    Done,
    /// A frame is not a message within its limits.
    NotUnderstood,
    /// The other side's version is refused; carries the own one, so that both sides can name both.
    Version(u16),
}

impl Close {
    /// Codes from here on carry a version.
    const VERSION_BASE: u32 = 0x1_0000;

    fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            Close::Done => 0,
            Close::NotUnderstood => 1,
            Close::Version(ours) => Self::VERSION_BASE + u32::from(ours),
        })
    }

    /// The peer's version, if `code` says that it refused this node's.
    fn version(code: VarInt) -> Option<u16> {
        let above = code.into_inner().checked_sub(u64::from(Self::VERSION_BASE))?;
        u16::try_from(above).ok()
    }
}

pub(super) fn close(connection: &quinn::Connection, why: Close, reason: &str) {
    connection.close(why.code(), reason.as_bytes());
}

/// This node's UDP port. Clones share it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: quinn::Endpoint,
    executor: Executor,
    identity: Arc<Identity>,
    as_client: Arc<TransportConfig>,
    as_server: Arc<TransportConfig>,
}

impl Endpoint {
    /// Reads the certificates and opens the port.
    pub fn bind(config: &Config) -> Result<Self, LinkError> {
        let identity = Identity::load(&config.tls, &config.node, &config.peer.node)?;
        Self::bind_as(identity, config.listen, config.peer_stall)
    }

    pub(super) fn bind_as(
        identity: Identity,
        listen: SocketAddr,
        peer_stall: Duration,
    ) -> Result<Self, LinkError> {
        let failed = |source| LinkError::Bind {
            address: listen,
            source,
        };
        let as_server = Arc::new(transport(peer_stall, 1));
        let mut server = ServerConfig::with_crypto(Arc::new(identity.server()?.0));
        server
            .transport_config(as_server.clone())
            .max_incoming(INCOMING_MAX)
            // Nodes have fixed addresses; a connection that moves is a new one.
            .migration(false);
        let mut endpoint = EndpointConfig::default();
        endpoint
            .max_udp_payload_size(MTU_MAX)
            .map_err(|error| failed(io::Error::other(error)))?;
        let socket = open_socket(listen).and_then(Socket::new).map_err(failed)?;
        let socket = Arc::new(socket);
        let executor = Executor::new(socket.clone()).map_err(failed)?;
        let runtime = Arc::new(executor.clone());
        let inner = quinn::Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, runtime)
            .map_err(failed)?;
        executor.start().map_err(failed)?;
        Ok(Endpoint {
            inner,
            executor,
            identity: Arc::new(identity),
            as_client: Arc::new(transport(peer_stall, 0)),
            as_server,
        })
    }

    /// What runs its connections.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The address that is listened on.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Opens a connection for a session to the peer at `remote`, within [`HANDSHAKE_TIME_MAX`].
    ///
    /// Cancel safe: dropped, the attempt ends.
    pub async fn connect(&self, remote: SocketAddr) -> Result<Connection, LinkError> {
        self.connect_for(Purpose::Session, remote).await
    }

    /// As [`Endpoint::connect`], for any purpose.
    pub async fn connect_for(&self, purpose: Purpose, remote: SocketAddr) -> Result<Connection, LinkError> {
        let (crypto, verdict) = self.identity.client(purpose)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.as_client.clone());
        let connecting = self
            .inner
            .connect_with(config, remote, &self.identity.peer_name())
            .map_err(|error| LinkError::Unusable {
                remote,
                reason: error.to_string(),
            })?;
        let open = async {
            let connection = connecting.await?;
            let (send, receive) = connection.open_bi().await?;
            Ok((connection, send, receive))
        };
        self.begin(remote, &verdict, open).await
    }

    /// Takes what callers send; one of these at a time.
    pub fn listener(&self) -> Listener {
        Listener {
            endpoint: self.clone(),
            handshakes: JoinSet::new(),
            refusals: Refusals::default(),
        }
    }

    /// Waits for a caller, of whom nothing is known yet. `None` once the endpoint is closed. Cancel safe.
    pub async fn accept(&self) -> Option<Incoming> {
        let inner = self.inner.accept().await?;
        Some(Incoming {
            endpoint: self.clone(),
            remote: inner.remote_address(),
            inner,
        })
    }

    /// Closes every connection, takes no more, and waits until the peers know it or a second has passed.
    pub async fn close(&self, reason: &str) {
        self.inner.close(Close::Done.code(), reason.as_bytes());
        let idle = self.executor.within(CLOSE_TIME_MAX, self.inner.wait_idle());
        if idle.await.is_none() {
            debug!("the peer did not confirm the end of the connection");
        }
    }

    /// The rest of a handshake, the same for both sides: the first bytes each way.
    async fn begin(
        &self,
        remote: SocketAddr,
        verdict: &Verdict,
        open: impl Future<Output = Result<(quinn::Connection, SendStream, RecvStream), ConnectionError>>,
    ) -> Result<Connection, LinkError> {
        let begin = async {
            let (inner, mut send, mut receive) =
                open.await.map_err(|error| broken(remote, Some(verdict), error))?;
            let lost = |reason: String| LinkError::Lost { remote, reason };
            send.write_all(&frame::preamble())
                .await
                .map_err(|error| match error {
                    WriteError::ConnectionLost(error) => broken(remote, Some(verdict), error),
                    other => lost(other.to_string()),
                })?;
            let mut theirs = [0; frame::PREAMBLE_BYTES];
            receive
                .read_exact(&mut theirs)
                .await
                .map_err(|error| match error {
                    ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error)) => {
                        broken(remote, Some(verdict), error)
                    }
                    other => lost(other.to_string()),
                })?;
            frame::check_preamble(theirs).map_err(|source| {
                let why = match source {
                    WireError::Version { ours, .. } => Close::Version(ours),
                    _ => Close::NotUnderstood,
                };
                close(&inner, why, &source.to_string());
                LinkError::Wire { remote, source }
            })?;
            let purpose = purpose_of(&inner).ok_or_else(|| {
                close(&inner, Close::NotUnderstood, "no purpose");
                lost("the handshake named no protocol".into())
            })?;
            Ok(Connection {
                peer_node: self.identity.peer_node().into(),
                remote,
                purpose,
                executor: self.executor.clone(),
                inner,
                send,
                receive,
            })
        };
        self.executor
            .within(HANDSHAKE_TIME_MAX, begin)
            .await
            .unwrap_or(Err(LinkError::NoAnswer {
                remote,
                limit: HANDSHAKE_TIME_MAX,
            }))
    }
}

fn transport(peer_stall: Duration, streams: u32) -> TransportConfig {
    // Half, so that a broken path shows in time to go on over another one.
    let idle = (peer_stall / 2).max(IDLE_MIN);
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX);
    let mut ack_frequency = AckFrequencyConfig::default();
    ack_frequency.ack_eliciting_threshold(VarInt::from_u32(ACK_AFTER_PACKETS));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        // Fails only beyond 2^62 milliseconds; the configuration allows an hour.
        .max_idle_timeout(IdleTimeout::try_from(idle).ok())
        // Later than a session's own pings, which keep the connection alive as well: only what has no session needs it.
        .keep_alive_interval(Some(idle * 2 / 3))
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .initial_rtt(FIRST_RTT)
        .initial_mtu(MTU_FIRST)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(ack_frequency))
        .enable_segmentation_offload(true);
    transport
}

/// What both ends agreed on in the handshake.
fn purpose_of(connection: &quinn::Connection) -> Option<Purpose> {
    let handshake = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Purpose::of_protocol(handshake.protocol.as_deref()?)
}

fn open_socket(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(listen)?;
    let forced = sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)
        .and_then(|()| sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES));
    if let Err(reason) = forced {
        // Without CAP_NET_ADMIN the kernel gives what net.core.rmem_max and wmem_max allow.
        sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
        sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
        let receive_bytes = sockopt::socket_recv_buffer_size(&socket)?;
        debug!(%reason, receive_bytes, "the UDP socket's buffers are limited by the system");
    }
    Ok(socket)
}

/// What `error` means for a connection with `remote`; `verdict` is that of its handshake.
pub(super) fn broken(remote: SocketAddr, verdict: Option<&Verdict>, error: ConnectionError) -> LinkError {
    let refused = |refusal| LinkError::Refused { remote, refusal };
    if let Some(refusal) = refusal(verdict, None, "") {
        return refused(refusal);
    }
    let lost = |reason: String| LinkError::Lost { remote, reason };
    match error {
        ConnectionError::TransportError(error) => match refusal(None, alert(error.code), &error.reason) {
            Some(refusal) => refused(refusal),
            None => lost(error.to_string()),
        },
        ConnectionError::ConnectionClosed(closed) => match alert(closed.error_code) {
            Some(alert) => LinkError::RefusedByPeer {
                remote,
                rule: alert_in_words(alert),
                detail: foreign_text(&closed.reason),
            },
            None => lost(format!(
                "the peer's QUIC ended it: {}",
                foreign_text(closed.to_string().as_bytes())
            )),
        },
        ConnectionError::ApplicationClosed(closed) => match Close::version(closed.error_code) {
            Some(theirs) => LinkError::Wire {
                remote,
                source: WireError::Version {
                    ours: crate::wire::message::VERSION,
                    theirs,
                },
            },
            None => LinkError::ClosedByPeer {
                remote,
                reason: foreign_text(&closed.reason),
            },
        },
        ConnectionError::LocallyClosed => LinkError::ClosedHere { remote },
        ConnectionError::TimedOut => lost("nothing came from the peer for too long".into()),
        ConnectionError::Reset => lost("the peer does not know it any more; it was started anew".into()),
        other @ (ConnectionError::VersionMismatch | ConnectionError::CidsExhausted) => {
            lost(other.to_string())
        }
    }
}

/// The TLS alert in a QUIC error code (RFC 9001 section 4.8).
fn alert(code: quinn::TransportErrorCode) -> Option<u8> {
    u64::from(code)
        .checked_sub(0x100)
        .and_then(|alert| u8::try_from(alert).ok())
}

/// Text of a peer for a log line.
fn foreign_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// A caller. Dropped, it is refused.
#[derive(Debug)]
pub struct Incoming {
    endpoint: Endpoint,
    inner: quinn::Incoming,
    remote: SocketAddr,
}

impl Incoming {
    /// The caller's address; anyone can write any into a packet.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The caller has received something at its address.
    fn is_proved(&self) -> bool {
        self.inner.remote_address_validated()
    }

    /// Has the caller call again with what it receives at its address (RFC 9000 section 8.1.2).
    fn demand_proof(self) {
        if let Err(error) = self.inner.retry() {
            debug!(remote = %self.remote, %error, "refused a caller that has no place");
        }
    }

    /// Lets the caller prove itself, within [`HANDSHAKE_TIME_MAX`].
    pub async fn finish(self) -> Result<Connection, LinkError> {
        let Incoming {
            endpoint,
            inner,
            remote,
        } = self;
        let (crypto, verdict) = endpoint.identity.server()?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(endpoint.as_server.clone())
            .migration(false);
        let open = async {
            let connection = inner.accept_with(Arc::new(config))?.await?;
            let (send, receive) = connection.accept_bi().await?;
            Ok((connection, send, receive))
        };
        endpoint.begin(remote, &verdict, open).await
    }
}

#[cfg(test)]
impl Incoming {
    /// The connection before anything is sent on it, for tests that send something wrong.
    pub(super) async fn raw(self) -> quinn::Connection {
        self.inner.accept().unwrap().await.unwrap()
    }
}

/// Runs the handshakes of callers, several at a time, so that one who stalls holds up nobody.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    handshakes: JoinSet<(SocketAddr, Result<Connection, LinkError>)>,
    refusals: Refusals,
}

impl Listener {
    /// The next peer that has proved itself, or a caller turned away and why, for the caller of this to log: at
    /// most one in a second, as anyone who reaches the port can be turned away. `None` once the endpoint is
    /// closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Connection, LinkError>> {
        loop {
            tokio::select! {
                incoming = self.endpoint.accept(), if self.handshakes.len() < HANDSHAKES_MAX => {
                    let incoming = incoming?;
                    if self.handshakes.len() >= HANDSHAKES_UNPROVED_MAX && !incoming.is_proved() {
                        incoming.demand_proof();
                        continue;
                    }
                    self.handshakes.spawn(async { (incoming.remote(), incoming.finish().await) });
                }
                Some(finished) = self.handshakes.join_next() => match finished {
                    Ok((_, Ok(connection))) => return Some(Ok(connection)),
                    Ok((_, Err(refusal))) if self.refusals.is_due(Instant::now()) => return Some(Err(refusal)),
                    Ok((remote, Err(refusal))) => debug!(%remote, "turned a caller away: {refusal}"),
                    Err(failed) => error!(%failed, "the handshake of a caller ended by a mistake in skfs"),
                },
            }
        }
    }
}

/// When a caller turned away is reported.
#[derive(Debug, Default)]
struct Refusals {
    last: Option<Instant>,
    unreported: u64,
}

impl Refusals {
    fn is_due(&mut self, now: Instant) -> bool {
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < REFUSAL_INTERVAL)
        {
            self.unreported += 1;
            return false;
        }
        if self.unreported > 0 {
            warn!(
                callers = self.unreported,
                "turned more callers away than were reported one by one"
            );
        }
        *self = Refusals {
            last: Some(now),
            unreported: 0,
        };
        true
    }
}

/// A connection whose two ends know each other and speak the same version.
#[derive(Debug)]
pub struct Connection {
    /// The peer's node name, as its certificate proves it.
    pub peer_node: String,
    /// The peer's address.
    pub remote: SocketAddr,
    /// What it was opened for.
    pub purpose: Purpose,
    executor: Executor,
    inner: quinn::Connection,
    send: SendStream,
    receive: RecvStream,
}

impl Connection {
    /// The two directions. Once they and every [`Closer`] are dropped, the connection is closed.
    pub fn split<Out: Message, In: Message>(self) -> (Sender<Out>, Receiver<In>) {
        let sender = Sender::new(self.inner.clone(), self.send, self.remote, self.executor.clone());
        let receiver = Receiver::new(self.inner, self.receive, self.remote, self.executor);
        (sender, receiver)
    }

    /// A handle to close the connection and to learn of its end, whoever has its directions.
    pub fn closer(&self) -> Closer {
        Closer {
            inner: self.inner.clone(),
            remote: self.remote,
        }
    }

    /// Closes it; `reason` is what the peer reads. Messages on their way are dropped ([`Sender::finish`]).
    pub fn close(&self, reason: &str) {
        close(&self.inner, Close::Done, reason);
    }
}

/// Closes a connection from anywhere.
#[derive(Debug, Clone)]
pub struct Closer {
    inner: quinn::Connection,
    remote: SocketAddr,
}

impl Closer {
    /// As [`Connection::close`].
    pub fn close(&self, reason: &str) {
        close(&self.inner, Close::Done, reason);
    }

    /// Waits for the connection's end and says why. Cancel safe.
    pub async fn closed(&self) -> LinkError {
        broken(self.remote, None, self.inner.closed().await)
    }

    /// The present estimate of the round-trip time.
    pub fn round_trip(&self) -> Duration {
        self.inner.rtt()
    }
}
