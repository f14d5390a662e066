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

/// Runs a verb that serves, or that asks the token from several threads.
///
/// # Errors
/// Those of the verb, and of a system without epoll or timers.
pub fn service(verb: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(verb);
    // A blocking call of the token that hangs must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}
