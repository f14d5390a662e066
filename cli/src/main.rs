//! The `sealwright` binary.

mod connection;
mod error;
mod terminal;

fn main() {}
