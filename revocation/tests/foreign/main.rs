//! Foreign judges of what this crate makes: openssl, and GnuTLS' certtool where it is installed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod algorithms;
mod authority;
mod crl;
mod ocsp;
