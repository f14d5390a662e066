//! The `sealwright` binary.

mod args;
mod ceremony;
mod confirmation;
mod connection;
mod device;
mod enroll;
mod error;
mod files;
mod hsm;
mod idempotency;
mod identity;
mod issuer;
mod journal;
mod json;
mod key;
mod list;
mod lookup;
mod output;
mod paging;
mod pem;
mod principal;
mod profile;
mod progress;
mod revoke;
mod rows;
mod runtime;
mod service;
mod show;
mod status;
mod terminal;
mod token;
mod when;
mod words;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match args::Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error::report(&error),
    }
}
