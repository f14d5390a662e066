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
