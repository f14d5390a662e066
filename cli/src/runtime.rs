//! The async runtimes of the verbs.

use std::future::Future;
use tokio::runtime::Builder;

/// Runs a verb that talks to a server: one thread is enough.
///
/// # Errors
/// Those of the verb, and of a system without epoll or timers.
pub fn client(verb: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(verb)
}

/// Runs the service: two threads for the network; signing and the journal have threads of their own.
///
/// # Errors
/// As [`client`].
pub fn server(verb: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(verb)
}
