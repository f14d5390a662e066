//! The system seen from outside: starts the real `sealwright` binary and talks to it as its users do.
//!
//! Nothing here knows the service's inside. What a test needs is what a customer has: the binary, its files, gRPC,
//! HTTP, and foreign tools that judge what comes out.

pub mod api;
pub mod ca;
pub mod device;
pub mod http;
pub mod installation;
pub mod judge;
pub mod load;
pub mod power_cut;
pub mod slow;
pub mod token;
pub mod tools;
