//! A worker: a thread with one session, which does jobs and brings the session back when it is lost.

use crate::error::Trouble;
use crate::keys::{self, Pair};
use crate::link::{Link, Ticket};
use crate::mechanism::{self, Prepared};
use crate::module::Calls;
use crate::queue::Queue;
use crate::statistics::Counters;
use crate::{Failure, FailureClass, HsmError, KeyId, KeyRequest, TokenKey};
use ca_core::key::KeyAlgorithm;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// What a worker is asked. Plain values: the same messages can cross a process boundary.
pub(crate) enum Operation {
    Sign { key: KeyId, input: Prepared },
    Generate(KeyRequest),
    Find(KeyId),
    Destroy(KeyId),
    List,
    Probe,
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum Answer {
    Signature(Vec<u8>),
    Key(Box<TokenKey>),
    Keys(Vec<TokenKey>),
    Done,
}

pub(crate) struct Worker {
    pub index: usize,
    pub link: Arc<Link>,
    pub queue: Arc<Queue>,
    pub counters: Arc<Counters>,
    pub seat: Option<Seat>,
}

/// A session with the handles that were found through it, good for one connection.
pub(crate) struct Seat {
    ticket: Ticket,
    session: Session,
    held: HashMap<KeyId, Held>,
    /// The token said that the session does not exist.
    lost: bool,
}

#[derive(Clone, Copy)]
struct Held {
    handle: ObjectHandle,
    algorithm: KeyAlgorithm,
}

impl Worker {
    /// Works until the queue is closed.
    pub fn run(mut self) {
        while let Some(operation) = self.queue.take(self.index) {
            let result = self.perform(&operation);
            self.queue.finish(self.index, result);
        }
        if let Ok(calls) = self.link.calls() {
            leave(&self.link, &calls, self.seat.take());
        }
    }

    fn perform(&mut self, operation: &Operation) -> Result<Answer, HsmError> {
        let mut again = false;
        loop {
            let ticket = self.link.ensure()?;
            let failure = match self.attempt(ticket, operation) {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Answer(error)) => return Err(error),
                Err(Trouble::Call(failure)) => failure,
            };
            if !failure.class().is_transient() {
                return Err(failure.into());
            }
            self.link.broken(ticket, &failure, again);
            if again {
                return Err(failure.into());
            }
            again = true;
        }
    }

    fn attempt(&mut self, ticket: Ticket, operation: &Operation) -> Result<Answer, Trouble> {
        let link = self.link.clone();
        let calls = link.calls()?;
        if calls.generation() != ticket.generation {
            return Err(Failure::stale().into());
        }
        if self.seat.as_ref().is_none_or(|seat| seat.ticket != ticket) {
            let old = self.seat.take();
            let session = calls.context().open_rw_session_no_drop(ticket.slot)?;
            self.seat = Some(Seat { ticket, session, held: HashMap::new(), lost: false });
            leave(&link, &calls, old);
        }
        let Some(seat) = &mut self.seat else { return Err(Failure::stale().into()) };
        let result = seat.serve(operation, &self.counters);
        match result {
            // "No such key" from a token that is gone would be a lie.
            Ok(Answer::Done) | Err(Trouble::Answer(HsmError::KeyMissing { .. })) => {
                link.present(&calls, ticket)?;
                result
            }
            // Left when there is another: closing the last session would end the login.
            Err(Trouble::Call(ref failure)) if failure.class().is_transient() => {
                seat.lost = failure.lost_session();
                result
            }
            // After a refused call nobody knows what operation is still active in the session.
            Err(Trouble::Call(_)) => {
                leave(&link, &calls, self.seat.take());
                result
            }
            _ => result,
        }
    }
}

fn leave(link: &Link, calls: &Calls<'_>, seat: Option<Seat>) {
    if let Some(seat) = seat
        && !seat.lost
    {
        link.give_back(calls, seat.ticket, seat.session);
    }
}

impl Seat {
    fn serve(&mut self, operation: &Operation, counters: &Counters) -> Result<Answer, Trouble> {
        match operation {
            Operation::Sign { key, input } => self.sign(key, input, counters).map(Answer::Signature),
            Operation::Find(id) => {
                let pair = keys::pair(&self.session, id)?;
                Ok(Answer::Key(Box::new(keys::describe(&self.session, id, pair)?)))
            }
            Operation::Destroy(id) => {
                let pair = keys::pair(&self.session, id)?;
                self.held.remove(id);
                keys::destroy(&self.session, pair)?;
                Ok(Answer::Done)
            }
            Operation::List => keys::list(&self.session).map(Answer::Keys),
            Operation::Generate(request) => {
                keys::absent(&self.session, request)?;
                let made = keys::generate(&self.session, request);
                // A second attempt could make a second pair: tell the caller instead of trying again.
                match made {
                    Err(Trouble::Call(failure)) => Err(Trouble::Answer(failure.into())),
                    other => other.map(|key| Answer::Key(Box::new(key))),
                }
            }
            Operation::Probe => {
                if keys::logged_out(&self.session)? {
                    return Err(Failure::ours("C_GetSessionInfo", "not logged in", FailureClass::LoginAgain).into());
                }
                Ok(Answer::Done)
            }
        }
    }

    fn sign(&mut self, id: &KeyId, input: &Prepared, counters: &Counters) -> Result<Vec<u8>, Trouble> {
        let held = match self.held.get(id) {
            Some(held) => *held,
            None => {
                let held = self.hold(id)?;
                self.held.insert(*id, held);
                held
            }
        };
        if !mechanism::fits(held.algorithm, input.algorithm()) {
            return Err(HsmError::AlgorithmMismatch { key: held.algorithm, algorithm: input.algorithm() }.into());
        }
        let begun = Instant::now();
        let raw = self.session.sign(&input.mechanism(), held.handle, input.data(held.algorithm))?;
        counters.signed(begun.elapsed());
        Ok(mechanism::encode(held.algorithm, raw)?)
    }

    /// Finds the key once for this session and makes sure that it is one that may sign.
    fn hold(&self, id: &KeyId) -> Result<Held, Trouble> {
        let pair: Pair = keys::pair(&self.session, id)?;
        let key = keys::describe(&self.session, id, pair)?;
        if let Some(reason) = key.attributes.flaw() {
            return Err(HsmError::KeyUnsuitable { id: *id, reason }.into());
        }
        Ok(Held { handle: pair.private, algorithm: key.public_key.algorithm() })
    }
}
