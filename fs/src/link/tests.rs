use super::tls::{Identity, Refusal};
use super::*;
use crate::config;
use crate::operation::{InodeId, Number, Operation};
use crate::wire::frame::{Message, WireError, preamble};
use crate::wire::message::{ToPrimary, ToSecondary, VERSION};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use time::{OffsetDateTime, ext::NumericalDuration};

const ANY: &str = "127.0.0.1:0";
const STALL: Duration = Duration::from_secs(10);

/// A CA, in memory, and what it has signed, in files.
struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

#[derive(Clone, Copy)]
struct Validity {
    from: OffsetDateTime,
    to: OffsetDateTime,
}

fn now() -> Validity {
    Validity {
        from: OffsetDateTime::now_utc() - 1.hours(),
        to: OffsetDateTime::now_utc() + 1.hours(),
    }
}

fn past() -> Validity {
    Validity {
        from: now().from - 2.days(),
        to: now().to - 1.days(),
    }
}

fn future() -> Validity {
    Validity {
        from: now().from + 1.days(),
        to: now().to + 2.days(),
    }
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        // Every CA has the same name, so that only its key tells it from others.
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), ca.pem()).unwrap();
        Pki { ca, dir }
    }

    fn files(&self, name: &str, validity: Validity) -> config::Tls {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = validity.from;
        params.not_after = validity.to;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        let path = |kind: &str| -> PathBuf { self.dir.path().join(format!("{name}.{kind}")) };
        std::fs::write(path("crt"), certificate.pem()).unwrap();
        write_private(&path("key"), &key.serialize_pem());
        config::Tls {
            ca: self.dir.path().join("ca.crt"),
            certificate: path("crt"),
            key: path("key"),
        }
    }

    /// An endpoint of `node`, whose peer is `peer`, without a look at the own certificate.
    fn endpoint(&self, node: &str, peer: &str, validity: Validity) -> Endpoint {
        bind(Identity::read(&self.files(node, validity), peer).unwrap())
    }

    /// An endpoint that trusts this CA and shows a certificate of another one.
    fn foreign_endpoint(&self, node: &str, peer: &str) -> Endpoint {
        let other = Pki::new();
        let files = config::Tls {
            ca: self.dir.path().join("ca.crt"),
            ..other.files(node, now())
        };
        bind(Identity::read(&files, peer).unwrap())
    }
}

fn write_private(path: &Path, text: &str) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

fn bind(identity: Identity) -> Endpoint {
    Endpoint::bind_as(identity, ANY.parse().unwrap(), STALL).unwrap()
}

fn address(endpoint: &Endpoint) -> SocketAddr {
    endpoint.local_address().unwrap()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .unwrap_or_else(|_| panic!("too late: {what}"))
}

/// What both sides get when `client` calls `server`.
async fn meet(
    client: &Endpoint,
    server: &Endpoint,
) -> (Result<Connection, LinkError>, Result<Connection, LinkError>) {
    let mut listener = server.listener();
    let (out, come) = soon("a connection", async {
        tokio::join!(client.connect(address(server)), listener.next())
    })
    .await;
    (out, come.unwrap())
}

async fn pair() -> (Pki, Endpoint, Endpoint, Connection, Connection) {
    let pki = Pki::new();
    let (a, b) = (pki.endpoint("a", "b", now()), pki.endpoint("b", "a", now()));
    let (out, come) = meet(&a, &b).await;
    (pki, a, b, out.unwrap(), come.unwrap())
}

fn refusal(refused: Result<Connection, LinkError>) -> Refusal {
    match refused {
        Err(LinkError::Refused { refusal, .. }) => refusal,
        other => panic!("not a refusal: {other:?}"),
    }
}

/// The rule in words, as the refused side is told it.
fn told(refused: Result<Connection, LinkError>) -> &'static str {
    match refused {
        Err(LinkError::RefusedByPeer { rule, .. }) => rule,
        other => panic!("was not told of a refusal: {other:?}"),
    }
}

fn write(number: u64, data: Bytes) -> ToSecondary {
    let operation = Operation::Write {
        inode: InodeId(2),
        offset: 0,
        data,
        time: None,
        mode: None,
    };
    ToSecondary::Operation {
        number: Number(number),
        confirmed: Number(0),
        introduced: vec![],
        operation,
    }
}

#[tokio::test]
async fn the_right_peer_is_taken_and_frames_pass_both_ways_in_order() {
    let (_pki, a, b, out, come) = pair().await;
    assert_eq!((out.peer_node.as_str(), come.peer_node.as_str()), ("b", "a"));
    assert_eq!((out.remote, come.remote), (address(&b), address(&a)));
    let (mut to_secondary, mut from_secondary) = out.split::<ToSecondary, ToPrimary>();
    let (mut to_primary, mut from_primary) = come.split::<ToPrimary, ToSecondary>();

    let sent: Vec<_> = (1..40)
        .map(|number| write(number, vec![7; number as usize * 5000].into()))
        .collect();
    let frames: Vec<_> = sent.iter().map(|message| message.encode().unwrap()).collect();
    let receive = async {
        let mut received = vec![];
        while received.len() < sent.len() {
            assert!(from_primary.next_batch(&mut received).await.unwrap());
        }
        received
    };
    let (sending, received) = soon("the batch", async {
        tokio::join!(to_secondary.send(frames), receive)
    })
    .await;
    sending.unwrap();
    assert_eq!(received, sent);

    to_primary
        .send([ToPrimary::Parted.encode().unwrap()])
        .await
        .unwrap();
    assert_eq!(
        soon("the answer", from_secondary.next()).await.unwrap(),
        Some(ToPrimary::Parted)
    );
}

#[tokio::test]
async fn messages_that_are_here_come_in_one_batch() {
    let (_pki, _a, _b, out, come) = pair().await;
    let (mut sender, _rest) = out.split::<ToSecondary, ToPrimary>();
    let (_other, mut receiver) = come.split::<ToPrimary, ToSecondary>();
    let frames: Vec<_> = (1..=10)
        .map(|n| write(n, Bytes::from_static(b"x")).encode().unwrap())
        .collect();
    sender.send(frames).await.unwrap();
    let mut batch = vec![];
    assert!(soon("the batch", receiver.next_batch(&mut batch)).await.unwrap());
    assert_eq!(batch.len(), 10);
}

#[tokio::test]
async fn a_direction_that_is_finished_ends_after_its_last_message() {
    let (_pki, _a, _b, out, come) = pair().await;
    let (mut sender, _rest) = out.split::<ToSecondary, ToPrimary>();
    let (_other, mut receiver) = come.split::<ToPrimary, ToSecondary>();
    sender.send([ToSecondary::End.encode().unwrap()]).await.unwrap();
    let receive = async { (receiver.next().await.unwrap(), receiver.next().await.unwrap()) };
    let (finished, received) = soon("the end", async { tokio::join!(sender.finish(), receive) }).await;
    finished.unwrap();
    assert_eq!(received, (Some(ToSecondary::End), None));
}

#[tokio::test]
async fn the_reason_of_a_close_reaches_the_peer() {
    let (_pki, _a, _b, out, come) = pair().await;
    let (_sender, mut receiver) = out.split::<ToSecondary, ToPrimary>();
    let closer = come.closer();
    closer.close("superseded by a newer connection");
    let error = soon("the close", receiver.next()).await.unwrap_err();
    assert!(
        matches!(&error, LinkError::ClosedByPeer { reason, .. } if reason.contains("superseded")),
        "{error}"
    );
    assert!(matches!(closer.closed().await, LinkError::ClosedHere { .. }));
}

#[tokio::test]
async fn both_ends_know_what_a_connection_is_for() {
    let pki = Pki::new();
    let (a, b) = (pki.endpoint("a", "b", now()), pki.endpoint("b", "a", now()));
    let mut listener = b.listener();
    for purpose in [Purpose::Bulk, Purpose::Session] {
        let (out, come) = soon("a connection", async {
            tokio::join!(a.connect_for(purpose, address(&b)), listener.next())
        })
        .await;
        let (out, come) = (out.unwrap(), come.unwrap().unwrap());
        assert_eq!((out.purpose, come.purpose), (purpose, purpose));
    }
}

#[tokio::test]
async fn a_queue_sends_in_order_and_ends_the_connection_when_it_is_dropped() {
    let (_pki, _a, _b, out, come) = pair().await;
    assert_eq!(out.purpose, Purpose::Session);
    let (sender, _rest) = out.split::<ToSecondary, ToPrimary>();
    let (_other, receiver) = come.split::<ToPrimary, ToSecondary>();
    let outbox = sender.into_outbox();
    let sent: Vec<_> = (1..=300).map(|n| write(n, vec![1; 3000].into())).collect();
    for message in &sent {
        outbox.send(message.clone()).unwrap();
    }
    drop(outbox);
    let received = Arc::new(std::sync::Mutex::new(vec![]));
    let into = received.clone();
    let take = move |batch: &mut Vec<ToSecondary>| {
        into.lock().unwrap().append(batch);
        true
    };
    assert!(soon("the end", receiver.each_batch(take)).await.unwrap());
    assert_eq!(*received.lock().unwrap(), sent);
}

#[tokio::test]
async fn a_client_of_another_ca_is_refused() {
    let pki = Pki::new();
    let (out, come) = meet(&pki.foreign_endpoint("a", "b"), &pki.endpoint("b", "a", now())).await;
    assert_eq!(refusal(come), Refusal::OtherCa);
    assert_eq!(told(out), "of another CA");
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused() {
    let pki = Pki::new();
    let (out, come) = meet(&pki.endpoint("a", "b", now()), &pki.foreign_endpoint("b", "a")).await;
    assert_eq!(refusal(out), Refusal::OtherCa);
    assert_eq!(told(come), "of another CA");
}

#[tokio::test]
async fn a_client_of_another_name_is_refused_naming_both() {
    let pki = Pki::new();
    let (out, come) = meet(&pki.endpoint("c", "b", now()), &pki.endpoint("b", "a", now())).await;
    let text = refusal(come).to_string();
    assert!(text.contains("node a") && text.contains("\"c\""), "{text}");
    assert_eq!(told(out), "of another name");
}

#[tokio::test]
async fn a_server_of_another_name_is_refused_naming_both() {
    let pki = Pki::new();
    let (out, come) = meet(&pki.endpoint("a", "b", now()), &pki.endpoint("c", "a", now())).await;
    let text = refusal(out).to_string();
    assert!(text.contains("node b") && text.contains("\"c\""), "{text}");
    assert_eq!(told(come), "of another name");
}

#[tokio::test]
async fn an_expired_client_is_refused() {
    let pki = Pki::new();
    let (out, come) = meet(&pki.endpoint("a", "b", past()), &pki.endpoint("b", "a", now())).await;
    assert!(matches!(refusal(come), Refusal::Expired(_)));
    assert_eq!(told(out), "expired or not valid yet");
}

#[tokio::test]
async fn an_expired_server_is_refused() {
    let pki = Pki::new();
    let (out, come) = meet(&pki.endpoint("a", "b", now()), &pki.endpoint("b", "a", past())).await;
    assert!(matches!(refusal(out), Refusal::Expired(_)));
    assert_eq!(told(come), "expired or not valid yet");
}

#[tokio::test]
async fn a_client_that_is_not_valid_yet_is_refused() {
    let pki = Pki::new();
    let (_, come) = meet(&pki.endpoint("a", "b", future()), &pki.endpoint("b", "a", now())).await;
    assert!(matches!(refusal(come), Refusal::NotYetValid(_)));
}

/// A client of the right CA that shows `own` certificate, or none, and speaks QUIC by hand.
fn raw_client(pki: &Pki, own: Option<&config::Tls>) -> quinn::Endpoint {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = vec![CertificateDer::from_pem_file(&files.certificate).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"skfs".to_vec()];
    let mut endpoint = quinn::Endpoint::client(ANY.parse().unwrap()).unwrap();
    let config = QuicClientConfig::try_from(config).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    endpoint
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let pki = Pki::new();
    let server = pki.endpoint("b", "a", now());
    let client = raw_client(&pki, None);
    let mut listener = server.listener();
    let connecting = client.connect(address(&server), "b").unwrap();
    let call = async {
        let ended = match connecting.await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        };
        ended.to_string()
    };
    let (ended, come) = soon("the refusal", async { tokio::join!(call, listener.next()) }).await;
    assert_eq!(refusal(come.unwrap()), Refusal::NoCertificate);
    assert!(ended.contains("116"), "{ended}");
}

#[derive(Debug)]
struct NoServerCertificate;

impl rustls::server::ResolvesServerCert for NoServerCertificate {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
}

#[tokio::test]
async fn a_server_without_certificate_is_not_taken() {
    let pki = Pki::new();
    let client = pki.endpoint("a", "b", now());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoServerCertificate));
    config.alpn_protocols = vec![b"skfs".to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()));
    let server = quinn::Endpoint::server(config, ANY.parse().unwrap()).unwrap();
    let remote = server.local_addr().unwrap();
    let accept = async { server.accept().await.unwrap().await.map(drop) };
    let (out, come) = soon("the refusal", async {
        tokio::join!(client.connect(remote), accept)
    })
    .await;
    assert!(matches!(out, Err(LinkError::RefusedByPeer { .. })), "{out:?}");
    assert!(come.is_err());
}

/// A client of the right name that sends `bytes` on the one stream, and what the server makes of it.
async fn send_raw(
    bytes: Vec<u8>,
    ending: Ending,
) -> (Result<Option<ToSecondary>, LinkError>, Option<String>) {
    let pki = Pki::new();
    let server = pki.endpoint("b", "a", now());
    let files = pki.files("a", now());
    let client = raw_client(&pki, Some(&files));
    let mut listener = server.listener();
    let call = async {
        let connection = client.connect(address(&server), "b").unwrap().await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        let mut first = [0; 8];
        // Fails when the server has closed by then, which is one of the cases here.
        receive.read_exact(&mut first).await.ok();
        match ending {
            Ending::Finish => send.finish().unwrap(),
            Ending::Close => connection.close(0u32.into(), b"gone"),
            Ending::Wait => {}
        }
        connection.closed().await.to_string()
    };
    let serve = async {
        let connection = listener.next().await.unwrap()?;
        let (_sender, mut receiver) = connection.split::<ToPrimary, ToSecondary>();
        receiver.next().await
    };
    let (ended, served) = soon("the end", async { tokio::join!(call, serve) }).await;
    (served, Some(ended))
}

enum Ending {
    Finish,
    Close,
    Wait,
}

#[tokio::test]
async fn a_client_of_another_version_is_refused_naming_both() {
    let mut bytes = preamble().to_vec();
    bytes[5] = 9;
    let (served, ended) = send_raw(bytes, Ending::Wait).await;
    let error = served.unwrap_err();
    let expected = WireError::Version {
        ours: VERSION,
        theirs: 9,
    };
    assert!(
        matches!(&error, LinkError::Wire { source, .. } if *source == expected),
        "{error}"
    );
    let ours = format!("version {VERSION}");
    assert!(ended.is_some_and(|text| text.contains("version 9") && text.contains(&ours)));
}

#[tokio::test]
async fn a_server_of_another_version_is_refused_naming_both() {
    for answers_first in [true, false] {
        let pki = Pki::new();
        let client = pki.endpoint("a", "b", now());
        let server = pki.endpoint("b", "a", now());
        let serve = async {
            let incoming = server.accept().await.unwrap();
            let connection = incoming.raw().await;
            let (mut send, _receive) = connection.accept_bi().await.unwrap();
            if answers_first {
                let mut bytes = preamble();
                bytes[5] = 9;
                send.write_all(&bytes).await.unwrap();
            } else {
                quic::close(&connection, quic::Close::Version(9), "another version");
            }
            connection.closed().await;
        };
        let connect = client.connect(address(&server));
        let (out, ()) = soon("the refusal", async { tokio::join!(connect, serve) }).await;
        let expected = WireError::Version {
            ours: VERSION,
            theirs: 9,
        };
        assert!(
            matches!(&out, Err(LinkError::Wire { source, .. }) if *source == expected),
            "{out:?}"
        );
    }
}

#[tokio::test]
async fn an_oversized_frame_closes_the_connection() {
    let mut bytes = preamble().to_vec();
    bytes.extend(u32::MAX.to_be_bytes());
    let (served, ended) = send_raw(bytes, Ending::Wait).await;
    assert!(matches!(
        served,
        Err(LinkError::Wire {
            source: WireError::FrameTooLong { .. },
            ..
        })
    ));
    assert!(ended.is_some_and(|text| text.contains("4294967295 bytes")));
}

#[tokio::test]
async fn half_a_frame_before_the_end_is_an_error_and_no_message() {
    let mut bytes = preamble().to_vec();
    let frame = write(1, Bytes::from_static(b"data")).encode().unwrap();
    bytes.extend(frame.into_chunks().flatten());
    bytes.pop();
    let (served, _) = send_raw(bytes, Ending::Finish).await;
    assert!(
        matches!(
            served,
            Err(LinkError::Wire {
                source: WireError::Truncated { .. },
                ..
            })
        ),
        "{served:?}"
    );
}

#[tokio::test]
async fn half_a_frame_before_a_close_is_an_error_and_no_message() {
    let mut bytes = preamble().to_vec();
    bytes.extend([0, 0, 0]);
    let (served, _) = send_raw(bytes, Ending::Close).await;
    assert!(
        matches!(served, Err(LinkError::ClosedByPeer { .. })),
        "{served:?}"
    );
}

#[tokio::test]
async fn messages_before_a_bad_frame_are_handed_out_before_the_error() {
    let (_pki, _a, _b, out, come) = pair().await;
    let (mut sender, mut back) = out.split::<ToSecondary, ToPrimary>();
    let (_other, mut receiver) = come.split::<ToPrimary, ToSecondary>();
    let mut bad = ToSecondary::End.encode().unwrap();
    bad.head = Bytes::from_static(&[0, 0, 0, 1, 9]);
    sender
        .send([ToSecondary::End.encode().unwrap(), bad])
        .await
        .unwrap();
    let mut batch = vec![];
    assert!(
        soon("the message", receiver.next_batch(&mut batch))
            .await
            .unwrap()
    );
    assert_eq!(batch, [ToSecondary::End]);
    let error = soon("the error", receiver.next_batch(&mut batch))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            LinkError::Wire {
                source: WireError::Malformed { .. },
                ..
            }
        ),
        "{error}"
    );
    let told = soon("the close", back.next()).await.unwrap_err();
    assert!(told.to_string().contains("unknown kind 9"), "{told}");
}

#[tokio::test]
async fn a_peer_that_is_not_there_gives_an_error_in_time() {
    let pki = Pki::new();
    let silent = std::net::UdpSocket::bind(ANY).unwrap();
    let out = soon(
        "the error",
        pki.endpoint("a", "b", now())
            .connect(silent.local_addr().unwrap()),
    )
    .await;
    assert!(
        matches!(out, Err(LinkError::NoAnswer { .. } | LinkError::Lost { .. })),
        "{out:?}"
    );
}

#[tokio::test]
async fn a_flood_of_strangers_is_reported_once_and_the_peer_is_taken() {
    let pki = Pki::new();
    let server = pki.endpoint("b", "a", now());
    let (stranger, a) = (pki.foreign_endpoint("a", "b"), pki.endpoint("a", "b", now()));
    let mut listener = server.listener();
    let call = async {
        for _ in 0..5 {
            assert!(stranger.connect(address(&server)).await.is_err());
        }
        a.connect(address(&server)).await.unwrap()
    };
    let serve = async {
        let mut refused = 0;
        loop {
            match listener.next().await.unwrap() {
                Ok(connection) => return (connection, refused),
                Err(_) => refused += 1,
            }
        }
    };
    let start = std::time::Instant::now();
    let (_connection, (_come, refused)) = soon("the peer", async { tokio::join!(call, serve) }).await;
    // One at once and one for each whole second that a busy machine takes.
    assert!(
        refused >= 1 && refused <= 1 + start.elapsed().as_secs(),
        "{refused}"
    );
}

#[tokio::test]
async fn callers_who_stall_do_not_keep_the_peer_out() {
    let pki = Pki::new();
    let (a, b) = (pki.endpoint("a", "b", now()), pki.endpoint("b", "a", now()));
    let stalling = raw_client(&pki, Some(&pki.files("a", now())));
    let mut listener = b.listener();
    let call = async {
        let mut stalled = vec![];
        for _ in 0..quic::HANDSHAKES_UNPROVED_MAX {
            // Opens no stream, so that the handshake never ends.
            stalled.push(stalling.connect(address(&b), "b").unwrap().await.unwrap());
        }
        a.connect(address(&b)).await
    };
    let (out, come) = soon("the peer", async { tokio::join!(call, listener.next()) }).await;
    assert_eq!(out.unwrap().remote, address(&b));
    assert_eq!(come.unwrap().unwrap().remote, address(&a));
}

#[tokio::test]
async fn closing_the_endpoint_ends_its_connections_and_its_listener() {
    let (_pki, _a, b, out, _come) = pair().await;
    let (_sender, mut receiver) = out.split::<ToSecondary, ToPrimary>();
    soon("the close", b.close("stopped")).await;
    assert!(soon("the listener's end", b.listener().next()).await.is_none());
    let error = soon("the error", receiver.next()).await.unwrap_err();
    assert!(
        matches!(&error, LinkError::ClosedByPeer { reason, .. } if reason == "stopped"),
        "{error}"
    );
}

#[test]
fn an_own_certificate_of_another_node_or_ca_is_an_error_and_an_expired_one_is_not() {
    let pki = Pki::new();
    let error = Identity::load(&pki.files("c", now()), "a", "b").unwrap_err();
    let other_name = |refusal: &Refusal| matches!(refusal, Refusal::OtherName { .. });
    assert!(
        matches!(&error, LinkError::OwnCertificate { refusal, .. } if other_name(refusal)),
        "{error}"
    );
    let other = Pki::new();
    let files = config::Tls {
        ca: pki.dir.path().join("ca.crt"),
        ..other.files("a", now())
    };
    let error = Identity::load(&files, "a", "b").unwrap_err();
    assert!(
        matches!(
            &error,
            LinkError::OwnCertificate {
                refusal: Refusal::OtherCa,
                ..
            }
        ),
        "{error}"
    );
    Identity::load(&pki.files("a", past()), "a", "b").unwrap();
}

#[test]
fn a_private_key_that_others_may_read_is_refused() {
    let pki = Pki::new();
    let files = pki.files("a", now());
    std::fs::set_permissions(&files.key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let error = Identity::load(&files, "a", "b").unwrap_err();
    assert!(
        matches!(error, LinkError::KeyExposed { mode: 0o640, .. }),
        "{error}"
    );
}

#[test]
fn names_that_no_certificate_can_carry_are_refused() {
    let pki = Pki::new();
    for name in ["10.0.0.1", "a..b", "-a"] {
        let error = Identity::read(&pki.files("a", now()), name).unwrap_err();
        assert!(matches!(error, LinkError::NodeName(_)), "{name}: {error}");
    }
    Identity::load(&pki.files("node_1.shop", now()), "node_1.shop", "b").unwrap();
}
