//! What a connection is for: both ends know it from the handshake.

/// What a connection is for. Both ends know from the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A session.
    Session,
    /// Bulk data.
    Bulk,
}

impl Purpose {
    /// Its name in the handshake (ALPN), so that nothing but another `skfs` gets through it.
    pub(super) fn protocol(self) -> &'static [u8] {
        match self {
            Purpose::Session => b"skfs",
            Purpose::Bulk => b"skfs-bulk",
        }
    }

    pub(super) fn of_protocol(protocol: &[u8]) -> Option<Self> {
        [Purpose::Session, Purpose::Bulk]
            .into_iter()
            .find(|purpose| purpose.protocol() == protocol)
    }
}
