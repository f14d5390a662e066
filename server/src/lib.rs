//! The shell around the rooms: configuration, gRPC and HTTP edges, identity of the peer, timers, telemetry, wiring.

pub mod access;
pub mod attest;
pub mod authority;
pub mod bootstrap;
pub mod ca;
pub mod clock;
pub mod config;
pub mod convert;
pub mod doctor;
pub mod enroll;
pub mod error;
pub mod http;
pub mod identity;
pub mod inventory;
pub mod issuance;
pub mod limits;
pub mod ocsp;
pub mod principals;
pub mod publish;
pub mod request;
pub mod revoke;
pub mod serve;
pub mod service_certificates;
pub mod telemetry;
pub mod tls;
pub mod trust;
