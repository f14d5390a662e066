//! The service's end of a signer's socket, for writing. The asker writes itself, so that a request costs no change of
//! threads; only what does not fit into the socket's buffer is left to a thread.

use rustix::net::{self, SendFlags, Shutdown};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Octets kept for a signer that does not read: the largest message, and room for the others.
const KEPT: usize = 96 << 20;

pub(super) struct Outbox {
    stream: UnixStream,
    rest: Mutex<Rest>,
}

#[derive(Default)]
struct Rest {
    octets: Vec<u8>,
    /// A thread writes.
    writing: bool,
    closed: bool,
}

impl Outbox {
    pub fn new(stream: UnixStream) -> Arc<Self> {
        Arc::new(Self { stream, rest: Mutex::default() })
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends whole frames, or keeps them for the thread. What a dead signer does not get is answered when its end of
    /// the stream is read.
    pub fn send(self: &Arc<Self>, mut frames: &[u8]) {
        let mut rest = self.rest();
        if rest.closed {
            return;
        }
        while !rest.writing && !frames.is_empty() {
            match net::send(&self.stream, frames, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => frames = frames.get(sent..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => {
                    rest.closed = true;
                    return;
                }
            }
        }
        if frames.is_empty() {
            return;
        }
        if rest.octets.len() + frames.len() > KEPT {
            // It has not read for long; what it was given is done by another.
            rest.closed = true;
            let _ = net::shutdown(&self.stream, Shutdown::Both);
            return;
        }
        rest.octets.extend_from_slice(frames);
        if !rest.writing {
            let this = self.clone();
            rest.writing = thread::Builder::new().name("hsm-writer".to_owned()).spawn(move || this.write()).is_ok();
            if !rest.writing {
                // A frame that is cut off makes the stream useless.
                rest.closed = true;
                let _ = net::shutdown(&self.stream, Shutdown::Both);
            }
        }
    }

    fn write(&self) {
        loop {
            let octets = {
                let mut rest = self.rest();
                if rest.octets.is_empty() {
                    rest.writing = false;
                    return;
                }
                std::mem::take(&mut rest.octets)
            };
            if (&self.stream).write_all(&octets).is_err() {
                let mut rest = self.rest();
                rest.closed = true;
                rest.writing = false;
                return;
            }
        }
    }

    /// No more requests; the signer finishes what it has and ends.
    pub fn close(&self) {
        self.rest().closed = true;
        let _ = net::shutdown(&self.stream, Shutdown::Write);
    }
}
