//! The keeper: a small process that has the PINs, and starts and kills signers for the service.
//!
//! The service parses what strangers send, so it must not have a PIN; a signer has a vendor's library in it, so it may
//! crash at any moment. The keeper does neither. It talks to the service over a SEQPACKET pair, one question at a time,
//! and hands over the service's end of each new signer's socket with SCM_RIGHTS. It ends when the service ends, and the
//! signers with it.

use crate::pin::Combine;
use crate::process::{self, Program};
use crate::wire::{self, Hello, Mode};
use crate::{HsmError, KeyId, Pin, PinSource, TokenConfig, TokensConfig};
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Longest question or answer: a few tokens with paths and URIs.
const MESSAGE: usize = 64 << 10;
/// How long a signer may take until it is closed to others; it has loaded nothing by then.
const CLOSED: Duration = Duration::from_secs(10);
/// How long an answer may take, but for the first: a person types the PINs then.
const ANSWER: Duration = Duration::from_secs(15);
/// How often ended signers are reaped while nothing is asked.
const REAP: Duration = Duration::from_millis(500);

/// A token as the keeper knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub module: PathBuf,
    pub uri: String,
    pub pin: PinSource,
    pub environment: Vec<(String, String)>,
    /// As [`crate::TokensConfig::exceptions`].
    pub exceptions: Vec<KeyId>,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Ask {
    /// First of all: the tokens. PINs that a person has to give are asked for now.
    Tokens(Vec<Spec>),
    /// A signer for the token of this number.
    Start {
        token: u32,
        sessions: u32,
    },
    Kill(u64),
    /// A signer that initialises a token; for development.
    Initialise {
        module: PathBuf,
        environment: Vec<(String, String)>,
        label: String,
        so_pin: String,
        pin: String,
    },
}

#[derive(Serialize, Deserialize)]
enum Reply {
    Done,
    /// With the service's end of its socket.
    Started(u64),
    Refused(HsmError),
}

fn failed(what: &str) -> impl Fn(io::Error) -> HsmError + '_ {
    move |error| HsmError::Process(format!("{what}: {error}"))
}

/// The service's view of its keeper. Dropping it ends the keeper and all signers.
pub(crate) struct Keeper {
    socket: Mutex<OwnedFd>,
    child: Mutex<Child>,
    /// It did not answer in time.
    lost: AtomicBool,
}

impl Keeper {
    /// Starts the process.
    pub fn start(program: &Program) -> Result<Self, HsmError> {
        let pair = net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(io::Error::from).map_err(failed("no socket pair"))?;
        let child = program.command("keeper", theirs).spawn().map_err(failed("the keeper does not start"))?;
        Ok(Self { socket: Mutex::new(ours), child: Mutex::new(child), lost: AtomicBool::new(false) })
    }

    /// Tells the tokens; returns when every PIN that a person has to give was given.
    pub fn tokens(&self, tokens: Vec<Spec>) -> Result<(), HsmError> {
        self.ask(&Ask::Tokens(tokens))?;
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        sockopt::set_socket_timeout(&*socket, sockopt::Timeout::Recv, Some(ANSWER))
            .map_err(io::Error::from)
            .map_err(failed("no time limit"))
    }

    /// A new signer: its number and our end of its socket.
    pub fn spawn(&self, ask: &Ask) -> Result<(u64, UnixStream), HsmError> {
        match self.ask(ask)? {
            (Reply::Started(number), Some(socket)) => Ok((number, UnixStream::from(socket))),
            _ => Err(HsmError::Process("the keeper gave no socket".to_owned())),
        }
    }

    /// The process has ended; nothing can be started through it any more.
    pub fn is_gone(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        self.lost.load(Relaxed) || !matches!(child.try_wait(), Ok(None))
    }

    /// Ends a signer, whatever it is doing.
    pub fn kill(&self, number: u64) {
        if let Err(error) = self.ask(&Ask::Kill(number)) {
            tracing::error!(%error, "a signer could not be ended");
        }
    }

    fn ask(&self, ask: &Ask) -> Result<(Reply, Option<OwnedFd>), HsmError> {
        // One question at a time; what a panicking asker left behind is a whole exchange or a dead keeper.
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = failed("the keeper is gone; start the service again");
        let text = Zeroizing::new(
            postcard::to_allocvec(ask).map_err(|e| HsmError::Process(format!("a question cannot be encoded: {e}")))?,
        );
        net::send(socket.as_fd(), &text, SendFlags::NOSIGNAL).map_err(|e| gone(e.into()))?;
        let received = receive(&*socket);
        if received.is_err() {
            // Its answer would be taken for the next one's.
            self.lost.store(true, Relaxed);
        }
        let (octets, descriptor) = received.map_err(&gone)?;
        if octets.is_empty() {
            return Err(gone(io::ErrorKind::UnexpectedEof.into()));
        }
        match postcard::from_bytes(&octets) {
            Ok(Reply::Refused(error)) => Err(error),
            Ok(reply) => Ok((reply, descriptor)),
            Err(error) => Err(HsmError::Process(format!("the keeper answered nonsense: {error}"))),
        }
    }
}

impl Spec {
    /// What a configuration says of its tokens.
    pub fn all(config: &TokensConfig) -> Vec<Self> {
        let spec = |token: &TokenConfig| Self {
            module: token.module.clone(),
            uri: token.uri.to_string(),
            pin: token.pin.clone(),
            environment: token.environment.clone(),
            exceptions: config.exceptions.clone(),
        };
        config.tokens.iter().map(spec).collect()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // The keeper sees the end of its socket; a moment later it is gone, with its signers.
        if let Ok(socket) = self.socket.get_mut() {
            let _ = net::shutdown(socket.as_fd(), net::Shutdown::Both);
        }
        if let Ok(child) = self.child.get_mut() {
            if self.lost.load(Relaxed) {
                let _ = child.kill();
            }
            let until = Instant::now() + Duration::from_secs(1);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if matches!(child.try_wait(), Ok(None)) {
                let _ = child.kill();
            }
        }
    }
}

/// One packet with at most one descriptor; empty at the end.
fn receive(socket: impl AsFd) -> io::Result<(Zeroizing<Vec<u8>>, Option<OwnedFd>)> {
    let mut octets = Zeroizing::new(vec![0; MESSAGE]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let got = net::recvmsg(&socket, &mut [IoSliceMut::new(&mut octets)], &mut control, RecvFlags::CMSG_CLOEXEC);
        match got {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message over the limit"));
    }
    octets.truncate(got.bytes);
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((octets, descriptor))
}

fn reply(socket: impl AsFd, reply: &Reply, descriptor: Option<&UnixStream>) -> io::Result<()> {
    let text = postcard::to_allocvec(reply).map_err(|e| io::Error::other(e.to_string()))?;
    let rights = descriptor.map(|d| [d.as_fd()]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(rights) = &rights {
        control.push(SendAncillaryMessage::ScmRights(rights));
    }
    net::sendmsg(socket, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The keeper process: serves until the service is gone. `combine` puts custodians' shares of a PIN together.
pub fn run(combine: Combine) -> ExitCode {
    let serve = || -> io::Result<()> {
        process::close_to_others()?;
        process::outlast_signals()?;
        let socket = process::inherited_socket()?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(REAP))?;
        let mut house = House { combine, tokens: Vec::new(), signers: Vec::new(), next: rand::random::<u64>() >> 1 };
        loop {
            match receive(&socket) {
                Ok((octets, _)) if octets.is_empty() => return Ok(()),
                Ok((octets, _)) => house.answer(&socket, &octets)?,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
            house.reap();
        }
    };
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sealwright keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the keeper keeps.
struct House {
    combine: Combine,
    /// With the PIN where only a person could give it again.
    tokens: Vec<(Spec, Option<Pin>)>,
    signers: Vec<(u64, Child)>,
    /// Begins anywhere: a keeper that takes another's place must not number its signers as that one did.
    next: u64,
}

impl House {
    fn answer(&mut self, socket: &OwnedFd, octets: &[u8]) -> io::Result<()> {
        let ask: Ask = postcard::from_bytes(octets).map_err(|e| io::Error::other(e.to_string()))?;
        let started = match ask {
            Ask::Tokens(specs) => self.take(specs).map(|()| None),
            Ask::Start { token, sessions } => self.start(token, sessions).map(Some),
            Ask::Kill(number) => {
                self.kill(number);
                Ok(None)
            }
            Ask::Initialise { module, environment, label, so_pin, pin } => {
                let (so_pin, pin) = (Zeroizing::new(so_pin), Zeroizing::new(pin));
                let mode = Mode::Initialise { label: &label, so_pin: &so_pin };
                self.signer(&module, &environment, &pin, mode).map(Some)
            }
        };
        match started {
            Ok(None) => reply(socket, &Reply::Done, None),
            // Our copy of the service's end is closed after this, so that the service sees the signer's end.
            Ok(Some((number, stream))) => reply(socket, &Reply::Started(number), Some(&stream)),
            Err(error) => reply(socket, &Reply::Refused(error), None),
        }
    }

    /// Once: a service that somebody else has taken over must not name its own module for a PIN that was given.
    fn take(&mut self, specs: Vec<Spec>) -> Result<(), HsmError> {
        if !self.tokens.is_empty() {
            return Err(HsmError::Process("the tokens are named once".to_owned()));
        }
        let mut tokens = Vec::new();
        for spec in specs {
            let pin = if spec.pin.is_lasting() { None } else { Some(spec.pin.read(&spec.uri, self.combine)?) };
            tokens.push((spec, pin));
        }
        self.tokens = tokens;
        Ok(())
    }

    fn start(&mut self, token: u32, sessions: u32) -> Result<(u64, UnixStream), HsmError> {
        let known = usize::try_from(token).ok().and_then(|i| self.tokens.get(i)).cloned();
        let Some((spec, pin)) = known else { return Err(HsmError::Process("an unknown token".to_owned())) };
        let pin = match pin {
            Some(pin) => pin,
            None => spec.pin.read(&spec.uri, self.combine)?,
        };
        let mode = Mode::Serve { uri: &spec.uri, sessions, exceptions: spec.exceptions.clone() };
        self.signer(&spec.module, &spec.environment, pin.expose(), mode)
    }

    fn signer(
        &mut self,
        module: &std::path::Path,
        environment: &[(String, String)],
        pin: &str,
        mode: Mode<'_>,
    ) -> Result<(u64, UnixStream), HsmError> {
        let module = module
            .to_str()
            .ok_or_else(|| HsmError::Module { path: module.to_owned(), reason: "is not a UTF-8 path".into() })?;
        // Room for all of it at once: growing would leave unwiped copies of the PIN.
        let mut frame = Zeroizing::new(Vec::with_capacity(MESSAGE));
        wire::put(&mut frame, &Hello { module, pin, mode })?;
        let start = || -> io::Result<(Child, UnixStream)> {
            let (mut ours, theirs) = UnixStream::pair()?;
            let mut command = Program { path: "/proc/self/exe".into(), arguments: own_arguments() }
                .command("worker", OwnedFd::from(theirs));
            let child = command.env_remove("CREDENTIALS_DIRECTORY").envs(environment.iter().cloned()).spawn()?;
            ours.set_read_timeout(Some(CLOSED))?;
            let mut closed = [0];
            ours.read_exact(&mut closed)?;
            ours.set_read_timeout(None)?;
            ours.write_all(&frame)?;
            Ok((child, ours))
        };
        let (child, stream) = start().map_err(failed("a signer does not start"))?;
        self.next += 1;
        self.signers.push((self.next, child));
        Ok((self.next, stream))
    }

    /// A process that is stuck in the kernel does not die at once, and nobody waits for it here: it is reaped later.
    fn kill(&mut self, number: u64) {
        if let Some((_, child)) = self.signers.iter_mut().find(|(n, _)| *n == number) {
            let _ = child.kill();
        }
    }

    fn reap(&mut self) {
        self.signers.retain_mut(|(_, child)| matches!(child.try_wait(), Ok(None)));
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // They also end with this process.
        for (_, child) in &mut self.signers {
            let _ = child.kill();
        }
    }
}

/// Everything that this process was started with but the role.
fn own_arguments() -> Vec<String> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    arguments.pop();
    arguments
}
