//! The verbs that run on the server's own machine.

pub mod config;
pub mod credential;
pub mod dev;
pub mod doctor;
pub mod init;
pub mod serve;
pub mod signer;

use crate::error::Problem;
use server::config::Config;
use std::path::{Path, PathBuf};

/// `--config`, for every verb that works on a configured service.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "SEALWRIGHT_CONFIG", default_value = "/etc/sealwright/sealwright.toml")]
    pub config: PathBuf,
}

impl ConfigArgs {
    /// Reads and checks it.
    ///
    /// # Errors
    /// A [`Problem`] with the line or key, and what would be right.
    pub fn load(&self) -> Result<Config, Problem> {
        load(&self.config)
    }
}

fn load(path: &Path) -> Result<Config, Problem> {
    Config::load(path).map_err(|e| {
        Problem::usage(e.to_string(), "'sealwright config example' prints a commented configuration with all defaults.")
    })
}
