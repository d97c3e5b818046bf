//! What a handshake offers.

/// Where TLS stands (spec: "Server-side requirements").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// There is none: the spec's NOTLS.
    #[default]
    Off,
    /// Clients may use it, and must for exports that say so: SELECTIVETLS.
    On,
    /// Nothing is told without it: FORCEDTLS.
    Require,
}

/// What a handshake offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeConfig {
    /// Where TLS stands.
    pub tls: TlsMode,
    /// Whether clients may have structured replies.
    pub structured_replies: bool,
    /// Whether clients may select metadata contexts.
    pub meta_contexts: bool,
    /// Whether clients may have extended headers.
    pub extended_headers: bool,
    /// Whether options but EXPORT_NAME are understood. Off only to test clients.
    pub fixed_newstyle: bool,
    /// Whether the zeroes after EXPORT_NAME can be left out. Off only to test clients.
    pub no_zeroes: bool,
}

impl Default for HandshakeConfig {
    fn default() -> Self {
        Self {
            tls: TlsMode::Off,
            structured_replies: true,
            meta_contexts: true,
            extended_headers: true,
            fixed_newstyle: true,
            no_zeroes: true,
        }
    }
}
