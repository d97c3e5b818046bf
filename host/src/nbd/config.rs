//! The configuration of the handshake.

/// How TLS is offered (spec: "Server-side requirements").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// TLS is not available: the spec's NOTLS.
    #[default]
    Off,
    /// Clients may use TLS, and must do so for exports that require it: SELECTIVETLS.
    On,
    /// Nothing is revealed without TLS: FORCEDTLS.
    Require,
}

/// What the server offers during the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeConfig {
    /// How TLS is offered.
    pub tls: TlsMode,
    /// Whether clients may negotiate structured replies.
    pub structured_replies: bool,
    /// Whether clients may select metadata contexts.
    pub meta_contexts: bool,
    /// Whether clients may negotiate extended headers.
    pub extended_headers: bool,
    /// Whether options other than EXPORT_NAME are supported. Disabled only to test clients.
    pub fixed_newstyle: bool,
    /// Whether the zeroes after the reply to EXPORT_NAME can be omitted. Disabled only to test
    /// clients.
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
