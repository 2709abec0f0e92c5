//! QUIC from memory to memory, as little around it as possible: the ceiling for a first copy over the same network.
//! Packets, windows and acknowledgements are set as Sidekick's own link sets them.

use crate::work::Rate;
use anyhow::{Context, Result};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use rustix::net::sockopt;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAME: &str = "bench";
const STREAMS: usize = 4;
const CHUNK_BYTES: usize = 128 << 10;
const MTU_MAX: u16 = 6500;
const WINDOW_BYTES: u32 = 16 << 20;
const ACK_AFTER_PACKETS: u32 = 10;
const FIRST_RTT: Duration = Duration::from_millis(10);
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// Takes everything that comes and throws it away, until it is killed; writes its certificate, then prints where it
/// listens.
///
/// # Errors
/// When it cannot listen.
pub fn serve(address: IpAddr, certificate: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()));
    std::fs::write(certificate, made.cert.der())
        .with_context(|| format!("cannot write {}", certificate.display()))?;
    runtime()?.block_on(async {
        let endpoint = endpoint(SocketAddr::new(address, 0), Some(config))?;
        let mut output = std::io::stdout();
        writeln!(output, "listening {}", endpoint.local_addr()?)?;
        output.flush()?;
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                if let Err(error) = drain(incoming).await {
                    eprintln!("a connection ended: {error:#}");
                }
            });
        }
        Ok(())
    })
}

async fn drain(incoming: quinn::Incoming) -> Result<()> {
    let connection = incoming.await?;
    // Ends with the connection, which the sender closes.
    while let Ok(mut stream) = connection.accept_uni().await {
        tokio::spawn(async move {
            // A stream that breaks off shows at the sender.
            while let Ok(Some(_)) = stream.read_chunk(usize::MAX, true).await {}
        });
    }
    Ok(())
}

/// Sends for this long over parallel streams. What the other side acknowledged at the end is what was sent: the rest
/// is at most a window.
///
/// # Errors
/// When the connection cannot be made or breaks.
pub fn send(remote: SocketAddr, certificate: &Path, limit: Duration) -> Result<Rate> {
    let der = std::fs::read(certificate).with_context(|| format!("cannot read {}", certificate.display()))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(der))?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()));
    runtime()?.block_on(async {
        let endpoint = endpoint(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), None)?;
        let connection = endpoint.connect_with(config, remote, NAME)?.await?;
        let start = Instant::now();
        let streams: Vec<_> = (0..STREAMS)
            .map(|_| tokio::spawn(stream(connection.clone(), start + limit)))
            .collect();
        let mut count = 0;
        for stream in streams {
            count += stream.await??;
        }
        let seconds = start.elapsed().as_secs_f64();
        connection.close(VarInt::from_u32(0), b"done");
        endpoint.wait_idle().await;
        Ok(Rate { count, seconds })
    })
}

/// Sends until the deadline and waits until all of it has arrived.
async fn stream(connection: Connection, deadline: Instant) -> Result<u64> {
    let chunk = Bytes::from(vec![0x5a; CHUNK_BYTES]);
    let mut stream = connection.open_uni().await?;
    let mut sent = 0;
    while Instant::now() < deadline {
        stream.write_chunk(chunk.clone()).await?;
        sent += CHUNK_BYTES as u64;
    }
    stream.finish()?;
    stream.stopped().await?;
    Ok(sent)
}

/// AES-128-GCM is the cheapest where the processor has it.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX);
    let mut ack_frequency = AckFrequencyConfig::default();
    ack_frequency.ack_eliciting_threshold(VarInt::from_u32(ACK_AFTER_PACKETS));
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .initial_rtt(FIRST_RTT)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(ack_frequency));
    transport
}

fn endpoint(address: SocketAddr, server: Option<ServerConfig>) -> Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MTU_MAX)?;
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot open {address}"))?;
    sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)
        .and_then(|()| sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES))
        .context("cannot enlarge the socket's buffers")?;
    Ok(Endpoint::new(config, server, socket, Arc::new(TokioRuntime))?)
}

/// One thread: with several, every packet wakes another one on another processor, which on a busy machine costs five
/// times the throughput.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")
}
