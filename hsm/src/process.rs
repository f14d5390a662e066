//! The processes beside the service: which program they run, what they inherit, and how they are closed to others.

use rustix::process::{self, DumpableBehavior, Resource, Rlimit, Signal};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// The program of keepers and signers: it calls [`crate::keeper::run`] or [`crate::signer::run`] by its last argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Absolute path.
    pub path: PathBuf,
    /// Arguments before the role's name.
    pub arguments: Vec<String>,
}

impl Program {
    /// This very program, also when its file was replaced meanwhile: `sealwright signer keeper`.
    pub fn this() -> Self {
        Self { path: PathBuf::from("/proc/self/exe"), arguments: vec!["signer".to_owned()] }
    }

    /// A command for `role` with `socket` as its standard input. Nothing of ours is inherited beside it and standard
    /// error: the standard library closes everything else.
    pub(crate) fn command(&self, role: &str, socket: OwnedFd) -> Command {
        let mut command = Command::new(&self.path);
        command.arg0(format!("sealwright-{role}")).args(&self.arguments).arg(role);
        command.stdin(Stdio::from(socket)).stdout(Stdio::null());
        // What systemd gave to the service is not theirs.
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("WATCHDOG_USEC");
        command
    }
}

/// No core dump, no debugger of the same user, and an end with the parent: for processes that have a PIN.
///
/// # Errors
/// Those of the system; a process that cannot be closed must not get a PIN.
pub(crate) fn close_to_others() -> io::Result<()> {
    keep_secrets()?;
    process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Ctrl-C and a service manager's stop reach the whole group at once. The service finishes what it has, and needs these
/// processes for it; they end with it.
pub(crate) fn outlast_signals() -> io::Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::default())?;
    }
    Ok(())
}

/// For a command that has a secret in its memory for a while: no core dump, no debugger of the same user.
///
/// # Errors
/// Those of the system.
pub fn keep_secrets() -> io::Result<()> {
    process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// The socket that came as standard input.
pub(crate) fn inherited_socket() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}
