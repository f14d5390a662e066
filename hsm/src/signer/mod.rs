//! The signer: a process that has one token's module and PIN, and does what the service asks until one of them fails.
//!
//! Lost sessions, lost logins and stale handles are mended here. Whatever would need a new C_Initialize ends the
//! process; the service starts another.

mod init;
mod link;
mod mailbox;
mod module;
mod seat;

use crate::error::Trouble;
use crate::process;
use crate::wire::{FromSigner, Hello, Mode};
use crate::{HsmError, KeyId, Pin, TokenUri};
use cryptoki::context::Pkcs11;
use link::Link;
use mailbox::Mailbox;
use seat::Worker;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// The longest first frame: paths, a URI, PINs.
const HELLO: usize = 64 << 10;

/// How long the library may take to give its sessions back at the end.
const FINALISE: Duration = Duration::from_millis(300);

/// What the first frame asks for, with the PIN in memory that is wiped.
enum Task {
    Serve { module: PathBuf, uri: Box<TokenUri>, pin: Pin, sessions: u32, exceptions: HashSet<KeyId> },
    Initialise { module: PathBuf, label: String, so_pin: Pin, pin: Pin },
}

/// The signer process: standard input is the socket to the service, on which the keeper has sent the first frame.
pub fn run() -> ExitCode {
    let begin = || -> io::Result<(Task, Arc<Mailbox>)> {
        process::close_to_others()?;
        process::outlast_signals()?;
        let mut stream = UnixStream::from(process::inherited_socket()?);
        // The keeper waits for this: the PIN comes to a process that is closed to others.
        stream.write_all(&[1])?;
        let task = hello(&mut stream)?;
        Ok((task, Arc::new(Mailbox::new(stream)?)))
    };
    let (task, mailbox) = match begin() {
        Ok(begun) => begun,
        Err(error) => {
            eprintln!("sealwright signer: {error}");
            return ExitCode::FAILURE;
        }
    };
    match task {
        Task::Serve { module, uri, pin, sessions, exceptions } => {
            let context = match module::load(&module) {
                Ok(context) => context,
                Err(trouble) => {
                    mailbox.send(&FromSigner::Failed(trouble.into()));
                    end(None);
                }
            };
            let link = Link::open(context.clone(), *uri, pin, mailbox.clone());
            if let Err(trouble) = link.and_then(|link| serve(link.excepting(exceptions), sessions, &mailbox)) {
                mailbox.send(&FromSigner::Failed(trouble.into()));
            }
            end(Some(&context));
        }
        Task::Initialise { module, label, so_pin, pin } => {
            mailbox.send(&match init::initialise(&module, &label, &so_pin, &pin) {
                Ok(serial) => FromSigner::Initialised(serial),
                Err(trouble) => FromSigner::Failed(trouble.into()),
            });
            ExitCode::SUCCESS
        }
    }
}

/// Ends the process: the library gets a moment to give its sessions back, and is not waited for. Its exit handlers do not
/// run, because ending a process while a thread is inside has crashed libraries.
fn end(context: Option<&Pkcs11>) -> ! {
    if let Some(context) = context.cloned() {
        let finaliser = thread::Builder::new().spawn(move || context.finalize());
        let until = Instant::now() + FINALISE;
        while finaliser.as_ref().is_ok_and(|thread| !thread.is_finished()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

fn hello(stream: &mut UnixStream) -> io::Result<Task> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    let bad = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem.to_owned());
    if length > HELLO {
        return Err(bad("the first frame is over its limit"));
    }
    let mut frame = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut frame)?;
    let Hello { module, pin, mode } = postcard::from_bytes(&frame).map_err(|_| bad("the first frame is malformed"))?;
    let secret = |text: &str| Pin::new(text.to_owned()).map_err(|e| bad(&e.to_string()));
    let (module, pin) = (PathBuf::from(module), secret(pin)?);
    Ok(match mode {
        Mode::Serve { uri, sessions, exceptions } => {
            let uri = Box::new(uri.parse().map_err(|e: crate::UriError| bad(&e.to_string()))?);
            Task::Serve { module, uri, pin, sessions, exceptions: exceptions.into_iter().collect() }
        }
        Mode::Initialise { label, so_pin } => {
            Task::Initialise { module, label: label.to_owned(), so_pin: secret(so_pin)?, pin }
        }
    })
}

fn serve(link: Link, sessions: u32, mailbox: &Arc<Mailbox>) -> Result<(), Trouble> {
    let link = Arc::new(link);
    mailbox.send(&FromSigner::Ready(Box::new(link.facts()?)));
    // The first worker is this thread.
    let mut others = Vec::new();
    for _ in 1..sessions {
        let worker = Worker::new(link.clone(), mailbox.clone());
        let thread = thread::Builder::new().name("session".to_owned()).spawn(move || follow(worker));
        others.push(thread.map_err(|e| HsmError::Process(format!("no thread for a session: {e}")))?);
    }
    Worker::new(link, mailbox.clone()).run()?;
    // The service is gone or wants no more: what the others have begun they finish.
    for thread in others {
        let _ = thread.join();
    }
    mailbox.flush();
    Ok(())
}

/// A further worker. One that cannot go on takes the process with it.
fn follow(worker: Worker) {
    let mailbox = worker.mailbox();
    if let Err(trouble) = worker.run() {
        mailbox.send(&FromSigner::Failed(trouble.into()));
        end(None);
    }
}
