//! Who may be at the other end: TLS 1.3 with certificates of the cluster's own CA, both ways.
//!
//! A certificate is taken when the CA of the configuration has signed it, it is valid now, and it carries the
//! peer's node name as a DNS name. Client and server check the same rules in the handshake, so that no byte of
//! anyone else is decoded. Each handshake gets its own verifier, which remembers the rule that was broken: the
//! errors of the libraries above it only carry text.

use super::error::LinkError;
use super::purpose::Purpose;
use crate::config;
use crate::wire::limits::LABEL_BYTES_MAX;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore,
    SignatureScheme,
};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tracing::warn;

/// Which rule a certificate breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Signed by another CA, or by itself.
    #[error("its certificate is of another CA than this cluster's")]
    OtherCa,
    /// Of another node.
    #[error("its certificate is for {}, not for node {expected}", list(.presented))]
    OtherName {
        /// The peer in the configuration.
        expected: String,
        /// The names it carries.
        presented: Vec<String>,
    },
    /// Not valid any more.
    #[error("its certificate has expired (or a clock is wrong): {0}")]
    Expired(String),
    /// Not valid yet.
    #[error("its certificate is not valid yet (or a clock is wrong): {0}")]
    NotYetValid(String),
    /// The peer has none.
    #[error("it presents no certificate")]
    NoCertificate,
    /// Anything else about it.
    #[error("its certificate cannot be used: {0}")]
    Unusable(String),
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "no name at all".into()
    } else {
        names.join(", ")
    }
}

impl Refusal {
    fn new(error: &rustls::Error, expected: &str) -> Self {
        let rustls::Error::InvalidCertificate(broken) = error else {
            return match error {
                rustls::Error::NoCertificatesPresented => Refusal::NoCertificate,
                other => Refusal::Unusable(other.to_string()),
            };
        };
        match broken {
            // A CA of the same name and another key gives BadSignature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Refusal::OtherCa,
            CertificateError::NotValidForName => Refusal::OtherName {
                expected: expected.into(),
                presented: vec![],
            },
            CertificateError::NotValidForNameContext { presented, .. } => Refusal::OtherName {
                expected: expected.into(),
                presented: presented.clone(),
            },
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Refusal::Expired(broken.to_string())
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Refusal::NotYetValid(broken.to_string())
            }
            other => Refusal::Unusable(other.to_string()),
        }
    }
}

/// What a TLS alert of the peer says about this node's certificate, in words.
pub(super) fn alert_in_words(alert: u8) -> &'static str {
    match AlertDescription::from(alert) {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => "of another CA",
        AlertDescription::BadCertificate => "of another name",
        AlertDescription::CertificateExpired => "expired or not valid yet",
        AlertDescription::CertificateRequired => "none presented",
        AlertDescription::NoApplicationProtocol => "another protocol",
        _ => "unusable",
    }
}

/// The rule that the peer's certificate broke in one handshake, if it did.
pub(super) type Verdict = Arc<OnceLock<Refusal>>;

/// Why this node ended a handshake, if it was for the peer's certificate: the verifier's `verdict`, or else what the
/// `alert` that was sent says, which alone tells of a certificate that never came.
pub(super) fn refusal(verdict: Option<&Verdict>, alert: Option<u8>, reason: &str) -> Option<Refusal> {
    if let Some(refusal) = verdict.and_then(|verdict| verdict.get()) {
        return Some(refusal.clone());
    }
    match AlertDescription::from(alert?) {
        AlertDescription::CertificateRequired => Some(Refusal::NoCertificate),
        _ => Some(Refusal::Unusable(reason.to_owned())),
    }
}

/// This node's certificate and key, the cluster's CA and the peer's name: all that a handshake needs.
#[derive(Debug)]
pub struct Identity {
    provider: Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
    peer: ServerName<'static>,
    peer_node: String,
    path: std::path::PathBuf,
}

impl Identity {
    /// Reads the three PEM files.
    ///
    /// An own certificate that is out of date is only warned about: the peer refuses it, and the module goes on
    /// without its peer. One of another node or CA is a mistake and an error.
    pub fn load(files: &config::Tls, node: &str, peer_node: &str) -> Result<Self, LinkError> {
        let identity = Self::read(files, peer_node)?;
        match identity.own_refusal(node)? {
            None => Ok(identity),
            Some(refusal @ (Refusal::Expired(_) | Refusal::NotYetValid(_))) => {
                warn!(certificate = %files.certificate.display(), "the peer will refuse this node: {refusal}");
                Ok(identity)
            }
            Some(refusal) => Err(LinkError::OwnCertificate {
                path: files.certificate.clone(),
                node: node.into(),
                refusal,
            }),
        }
    }

    /// The rule by which a peer would refuse the certificate in `files` as `node`'s, if any.
    ///
    /// # Errors
    /// When the files cannot be read or the key is not the certificate's.
    pub fn examine(files: &config::Tls, node: &str) -> Result<Option<Refusal>, LinkError> {
        Self::read(files, node)?.own_refusal(node)
    }

    fn own_refusal(&self, node: &str) -> Result<Option<Refusal>, LinkError> {
        // Fails when the key is not the certificate's.
        self.server()?;
        let own_name = server_name(node)?;
        let Some((own, issuers)) = self.chain.split_first() else {
            return Ok(Some(Refusal::NoCertificate));
        };
        let checked = self
            .servers
            .verify_server_cert(own, issuers, &own_name, &[], UnixTime::now());
        Ok(checked.err().map(|error| Refusal::new(&error, node)))
    }

    /// Reads the files without looking at what the own certificate says.
    pub(super) fn read(files: &config::Tls, peer_node: &str) -> Result<Self, LinkError> {
        let provider = provider();
        let chain = certificates("this node's certificate", &files.certificate)?;
        let mut roots = RootCertStore::empty();
        for ca in certificates("the cluster's CA", &files.ca)? {
            roots.add(ca).map_err(|error| LinkError::Pem {
                what: "the cluster's CA",
                path: files.ca.clone(),
                reason: error.to_string(),
            })?;
        }
        let roots = Arc::new(roots);
        let bad_ca = |error: rustls::server::VerifierBuilderError| LinkError::Pem {
            what: "the cluster's CA",
            path: files.ca.clone(),
            reason: error.to_string(),
        };
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(bad_ca)?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(bad_ca)?;
        Ok(Identity {
            provider,
            chain,
            key: private_key(&files.key)?,
            clients,
            servers,
            peer: server_name(peer_node)?,
            peer_node: peer_node.into(),
            path: files.certificate.clone(),
        })
    }

    /// The node that may be at the other end.
    pub fn peer_node(&self) -> &str {
        &self.peer_node
    }

    /// The name that a client asks for.
    pub(super) fn peer_name(&self) -> String {
        self.peer.to_str().into_owned()
    }

    /// For one connection to the peer.
    pub(super) fn client(&self, purpose: Purpose) -> Result<(QuicClientConfig, Verdict), LinkError> {
        let verdict = Verdict::default();
        let verifier = ServerVerifier {
            inner: self.servers.clone(),
            peer_node: self.peer_node.clone(),
            verdict: verdict.clone(),
        };
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|source| self.unusable(source))?
            .dangerous() // only because the verifier is not the library's own: it calls that one
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|source| self.unusable(source))?;
        config.alpn_protocols = vec![purpose.protocol().to_vec()];
        config.resumption = Resumption::disabled();
        let config = QuicClientConfig::try_from(config)
            .map_err(|error| self.unusable(rustls::Error::General(error.to_string())))?;
        Ok((config, verdict))
    }

    /// For one connection from the peer.
    pub(super) fn server(&self) -> Result<(QuicServerConfig, Verdict), LinkError> {
        let verdict = Verdict::default();
        let verifier = ClientVerifier {
            inner: self.clients.clone(),
            peer: self.peer.clone(),
            peer_node: self.peer_node.clone(),
            verdict: verdict.clone(),
        };
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|source| self.unusable(source))?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|source| self.unusable(source))?;
        config.alpn_protocols = [Purpose::Session, Purpose::Bulk]
            .map(|purpose| purpose.protocol().to_vec())
            .to_vec();
        // A resumed session would not check the certificate again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let config = QuicServerConfig::try_from(config)
            .map_err(|error| self.unusable(rustls::Error::General(error.to_string())))?;
        Ok((config, verdict))
    }

    fn unusable(&self, source: rustls::Error) -> LinkError {
        LinkError::Identity {
            path: self.path.clone(),
            source,
        }
    }
}

/// ring with AES only: ChaCha20 costs half as much again where the processor has AES instructions.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        ..ring::default_provider()
    })
}

/// Checks that certificates can carry `node` as a name: 1 to 63 letters, digits, `-`, `_` and `.`; each part
/// between dots begins with no `-`, and the last is no number.
pub fn check_node_name(node: &str) -> Result<(), LinkError> {
    server_name(node).map(drop)
}

/// `node` as certificates carry it. A name that looks like an address is refused, as it would be taken for one.
fn server_name(node: &str) -> Result<ServerName<'static>, LinkError> {
    let bad = || LinkError::NodeName(node.into());
    if node.len() > LABEL_BYTES_MAX || node.ends_with('.') {
        return Err(bad());
    }
    DnsName::try_from(node.to_owned())
        .map(ServerName::DnsName)
        .map_err(|_| bad())
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, LinkError> {
    let failed = |reason: String| LinkError::Pem {
        what,
        path: path.to_owned(),
        reason,
    };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| failed(error.to_string()))?;
    if found.is_empty() {
        return Err(failed("there is no certificate in it".into()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, LinkError> {
    let failed = |reason: String| LinkError::Pem {
        what: "this node's private key",
        path: path.to_owned(),
        reason,
    };
    let status = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    let mode = status.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(LinkError::KeyExposed {
            path: path.to_owned(),
            mode,
        });
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| failed(error.to_string()))
}

/// Takes a server's certificate if it is the peer's.
#[derive(Debug)]
struct ServerVerifier {
    inner: Arc<WebPkiServerVerifier>,
    peer_node: String,
    verdict: Verdict,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .inspect_err(|error| note(&self.verdict, error, &self.peer_node))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes a client's certificate if it is the peer's: what the library checks, and the name.
#[derive(Debug)]
struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    peer: ServerName<'static>,
    peer_node: String,
    verdict: Verdict,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.inner
            .verify_client_cert(end_entity, intermediates, now)
            .and_then(|verified| {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, &self.peer)?;
                Ok(verified)
            })
            .inspect_err(|error| note(&self.verdict, error, &self.peer_node))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn note(verdict: &Verdict, error: &rustls::Error, expected: &str) {
    verdict.get_or_init(|| Refusal::new(error, expected));
}
