//! Every limit of the service's edge, with the reason for its number.

use std::time::Duration;

/// Largest request message. The largest legal one is BeginAttestation with eight 16 KiB intermediates; a CSR is 16 KiB.
pub const REQUEST_BYTES: usize = 160 * 1024;
/// Largest response message: a page of 500 certificates of at most 8 KiB.
pub const RESPONSE_BYTES: usize = 4 * 1024 * 1024;
/// A TLS handshake that takes longer is a slow or hostile client; a satellite link needs about 3 s.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes in progress. Each holds about 40 KiB.
pub const HANDSHAKES: usize = 256;
/// One gRPC call, the wait for a slow token included.
pub const CALL: Duration = Duration::from_secs(30);
/// Streams on one connection: a station keeps at most 64 units in flight.
pub const STREAMS_PER_CONNECTION: u32 = 128;
/// Issuances in progress: two batches of the journal's group commit. More only wait longer.
pub const ISSUANCES: usize = 512;
/// OCSP signatures in progress; beyond it the answer is tryLater (RFC 6960 2.3).
pub const OCSP_SIGNATURES: usize = 64;
/// OCSP responses kept: about 1 KiB each.
pub const OCSP_CACHE: usize = 8_192;
/// OCSP request body: 32 CertIDs with SHA-256 and a nonce are 4 KiB.
pub const OCSP_BODY: usize = 8 * 1024;
/// Page size when the caller names none, and the largest.
pub const PAGE: usize = 100;
/// Largest page.
pub const PAGE_MAX: usize = 500;
/// How many index entries one page may look at before it ends early with a token to go on.
pub const PAGE_SCAN: usize = 20_000;
/// Certificates that GetDevice returns.
pub const DEVICE_CERTIFICATES: usize = 100;
/// How long the secret of a new enrollment token can be asked for again.
pub const SECRET_REPLAY: Duration = Duration::from_secs(600);
/// Secrets kept for that.
pub const SECRETS: usize = 1_024;
/// Enrollment token life.
pub const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);
/// Shortest token life.
pub const TOKEN_TTL_MIN: Duration = Duration::from_secs(60);
/// Longest token life.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// A revocation's comment, in characters.
pub const COMMENT: usize = 256;
/// How far the clock may run behind the newest record before issuing stops: what NTP corrects without a step.
pub const CLOCK_BEHIND: Duration = Duration::from_secs(300);
/// How far the wall clock may leave the machine's own count of seconds within one run. NTP slews; it steps at boot.
pub const CLOCK_DRIFT: Duration = Duration::from_secs(900);
/// How long a service may have been stopped before the operator is asked whether the clock is right: a plant's longest
/// shutdown.
pub const CLOCK_GAP: Duration = Duration::from_secs(60 * 86_400);
/// An intent that is older is closed without a certificate: nobody waits for it any more.
pub const INTENT_AGE: Duration = Duration::from_secs(24 * 3600);
