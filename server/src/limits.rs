//! Every limit of the service's edge, with the reason for its number.

use crate::listen::Bound;
use std::time::Duration;

/// Largest request message. The largest legal one is BeginAttestation with eight 16 KiB intermediates; a CSR is 16 KiB.
pub const REQUEST_BYTES: usize = 160 * 1024;
/// Largest response message: what gRPC clients take unless told otherwise. See [`PAGE_OCTETS`].
pub const RESPONSE_BYTES: usize = 4 * 1024 * 1024;
/// How long a gRPC connection may be silent before its TLS handshake: a client speaks first, within a round trip.
pub const FIRST_BYTE: Duration = Duration::from_secs(2);
/// A TLS handshake that takes longer is a slow or hostile client; a satellite link needs about 3 s.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes in progress. Each holds about 40 KiB.
pub const HANDSHAKES: usize = 256;
/// gRPC connections before the end of their handshake. One address gets half of what may shake hands at once.
pub const ARRIVALS: Bound = Bound { overall: 1_024, source: 128, loopback: 128 };
/// gRPC connections whose client certificate was one of ours, unrevoked, at the handshake.
pub const MEMBERS: Bound = Bound { overall: 1_024, source: 256, loopback: 256 };
/// gRPC connections of all others: devices that enroll with a token or a birth certificate, and strangers.
pub const STRANGERS: Bound = Bound { overall: 512, source: 128, loopback: 128 };
/// Connections of the plain HTTP listener. A plant's devices may share one address, and a proxy is at loopback.
pub const HTTP: Bound = Bound { overall: 512, source: 64, loopback: 256 };
/// Connections of the telemetry listener: a few collectors.
pub const TELEMETRY: Bound = Bound { overall: 32, source: 16, loopback: 16 };
/// Open files that the service asks the system for: twice the connections above, and room for what else it opens. Not
/// all that it may have: PKCS#11 modules that use select(2) do not stand large numbers.
pub const DESCRIPTORS: u64 = 8_192;
/// A member's connection ends in order after this. Long enough to cost a station nothing; short enough that a forgotten
/// connection frees its place, and that everybody has seen a renewed TLS certificate within the day.
pub const CONNECTION_AGE: Duration = Duration::from_secs(6 * 3_600);
/// A stranger's connection ends after this: attesting and enrolling take less than a minute.
pub const STRANGER_AGE: Duration = Duration::from_secs(600);
/// An HTTP request's header must be there within this, from the connection's begin or the answer before.
pub const HTTP_HEADER: Duration = Duration::from_secs(5);
/// One HTTP request, its body and the wait for an OCSP signature included.
pub const HTTP_REQUEST: Duration = Duration::from_secs(10);
/// An HTTP connection on which nothing moves for this long is closed: its peer does not take the answer.
pub const HTTP_STALL: Duration = Duration::from_secs(10);
/// An HTTP connection takes no new request after this.
pub const HTTP_AGE: Duration = Duration::from_secs(60);
/// And is closed after this: a CRL of 10 MiB at 35 KiB/s.
pub const HTTP_LIFE: Duration = Duration::from_secs(300);
/// Size of an HTTP request's header: a GET with the largest OCSP request is 11 KiB.
pub const HTTP_HEAD: usize = 32 * 1024;
/// One gRPC call, the wait for a slow token included.
pub const CALL: Duration = Duration::from_secs(30);
/// Streams on one connection: a station keeps at most 64 units in flight.
pub const STREAMS_PER_CONNECTION: u32 = 128;
/// Issuances in progress: two batches of the journal's group commit. More only wait longer.
pub const ISSUANCES: usize = 512;
/// OCSP signatures in progress; beyond it the answer is tryLater (RFC 6960 2.3).
pub const OCSP_SIGNATURES: usize = 64;
/// OCSP responses kept: about 1 KiB each with ECDSA.
pub const OCSP_CACHE: usize = 8_192;
/// Octets of OCSP responses kept: with ML-DSA-87 one has 13 KiB, the responder's certificate in it.
pub const OCSP_CACHE_OCTETS: usize = 16 * 1024 * 1024;
/// OCSP request body: 32 CertIDs with SHA-256 and a nonce are 4 KiB.
pub const OCSP_BODY: usize = 8 * 1024;
/// Page size when the caller names none, and the largest.
pub const PAGE: usize = 100;
/// Largest page.
pub const PAGE_MAX: usize = 500;
/// Certificates of a page in octets; a page of larger ones ends early. 500 of ECDSA have half a mebibyte, 500 of
/// ML-DSA-87 four, and [`RESPONSE_BYTES`] also holds what is said about them.
pub const PAGE_OCTETS: usize = 2 * 1024 * 1024;
/// A client's certificate: ML-DSA-87 takes 8 KiB (a key of 2592 octets, a signature of 4627), 32 names of the usual
/// length two more.
pub const CLIENT_CERTIFICATE: usize = 16 * 1024;
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
/// How long a readiness probe's outcome is told again: collectors ask every 10 s or less often.
pub const PROBE_AGE: Duration = Duration::from_secs(5);
