//! A worker: a thread with one session, which does what is asked and brings the session back when it is lost.

use super::link::Link;
use super::mailbox::Mailbox;
use crate::ckr::FailureClass;
use crate::epoch;
use crate::error::Trouble;
use crate::generate;
use crate::keys::{self, Pair};
use crate::mechanism;
use crate::wire::{Answer, FromSigner, Mechanism, Operation, SignWork, WireKey, WireRequest};
use crate::{Failure, HsmError, KeyId, wrapping};
use ca_core::key::KeyAlgorithm;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Attempts at one request: a session that was closed by the device costs one for the session, one for the login that
/// went with it and one for the handle.
const ATTEMPTS: u32 = 4;
/// Handles that are kept for one session. Each issuer has two keys; more is a token that many tenants share.
const HELD: usize = 1024;

pub(super) struct Worker {
    link: Arc<Link>,
    mailbox: Arc<Mailbox>,
    seat: Option<Seat>,
    /// Why there is no login any more. Whoever may not log in ends: the service waits between attempts, and says so.
    shut_out: Option<HsmError>,
}

/// A session with the handles that were found through it, good for one login.
struct Seat {
    epoch: u64,
    /// Doubts that there had been when the first handle was found.
    doubts: u64,
    session: Session,
    held: HashMap<KeyId, Held>,
}

#[derive(Clone, Copy)]
struct Held {
    handle: ObjectHandle,
    algorithm: KeyAlgorithm,
}

impl Worker {
    pub fn new(link: Arc<Link>, mailbox: Arc<Mailbox>) -> Self {
        Self { link, mailbox, seat: None, shut_out: None }
    }

    pub fn mailbox(&self) -> Arc<Mailbox> {
        self.mailbox.clone()
    }

    /// Works until the service is gone, or until nothing but a new process helps.
    pub fn run(mut self) -> Result<(), Trouble> {
        while let Some((id, operation)) = self.mailbox.next() {
            let begun = Instant::now();
            let mut took = Duration::ZERO;
            let outcome = self.perform(operation, &mut took);
            if took.is_zero() {
                took = begun.elapsed();
            }
            let end = match &outcome {
                Err(Trouble::Call(failure)) if failure.class().needs_new_process() => Some(failure.clone()),
                _ => None,
            };
            let result = outcome.map_err(HsmError::from);
            self.mailbox.answer(&FromSigner::Answer { id, result, took }, took);
            if let Some(failure) = end {
                return Err(failure.into());
            }
            if let Some(error) = self.shut_out {
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn perform(&mut self, operation: Operation, took: &mut Duration) -> Result<Answer, Trouble> {
        let work = match operation {
            Operation::Sign(work) => Work::sign(work)?,
            other => Work::Other(other),
        };
        let mut attempt = 1;
        loop {
            let failure = match self.attempt(&work, took) {
                Err(Trouble::Call(failure)) => self.look_closer(&work, failure)?,
                other => return other,
            };
            let class = failure.class();
            if !class.is_transient() {
                // After a refused call nobody knows what operation is still active in the session.
                self.drop_seat();
                return Err(failure.into());
            }
            if class.needs_new_process() || attempt == ATTEMPTS {
                self.drop_seat();
                return Err(stubborn(failure, attempt));
            }
            attempt += 1;
            self.mailbox.send(&FromSigner::Recovered(failure.to_string()));
            match self.mend(class) {
                // What befell the request may befall its cure: once more from the beginning, with what is left.
                Err(Trouble::Call(failure)) if self.may_go_on(&failure, attempt) => self.drop_seat(),
                other => other?,
            }
        }
    }

    fn may_go_on(&self, failure: &Failure, attempt: u32) -> bool {
        let class = failure.class();
        class.is_transient() && !class.needs_new_process() && self.shut_out.is_none() && attempt < ATTEMPTS
    }

    /// Some modules answer CKR_GENERAL_ERROR where the standard has a code that tells more.
    fn look_closer(&self, work: &Work, failure: Failure) -> Result<Failure, Trouble> {
        if failure.class() != FailureClass::Reinitialise {
            return Ok(failure);
        }
        let Some(seat) = &self.seat else { return Ok(failure) };
        // What was made meanwhile would be met as a stranger by a second attempt.
        if matches!(work, Work::Other(Operation::Generate(_))) {
            return Ok(failure);
        }
        if keys::logged_out(&seat.session).is_ok_and(|out| out) {
            return Ok(Failure::ours(failure.call(), failure.code(), FailureClass::LoginAgain));
        }
        // A key that another process destroyed is missing, if the token is there and says so.
        if let Work::Sign { key, .. } = work
            && seat.held.contains_key(key)
            && let Err(Trouble::Answer(missing @ HsmError::KeyMissing { .. })) = keys::pair(&seat.session, key)
            && self.link.present().is_ok()
            && self.link.same_login(seat.epoch).is_ok()
        {
            return Err(missing.into());
        }
        Ok(failure)
    }

    fn mend(&mut self, class: FailureClass) -> Result<(), Trouble> {
        match class {
            FailureClass::LoginAgain => {
                let seen = self.seat.as_ref().map_or_else(|| self.link.epoch(), |seat| seat.epoch);
                let result = self.link.login_again(seen);
                self.drop_seat();
                if let Err(trouble) = result {
                    return Err(self.shut_out(trouble));
                }
            }
            FailureClass::KeyMissing => {
                if let Some(seat) = &mut self.seat {
                    seat.held.clear();
                }
            }
            _ => self.drop_seat(),
        }
        Ok(())
    }

    /// A request that finds no login may come again; its token is the one that something stands against.
    fn shut_out(&mut self, trouble: Trouble) -> Trouble {
        if matches!(&trouble, Trouble::Call(failure) if failure.class().is_transient()) {
            return trouble;
        }
        let error = HsmError::from(trouble);
        let failure = Failure::ours("C_Login", &error.to_string(), FailureClass::LoginAgain);
        self.shut_out = Some(error);
        failure.into()
    }

    /// The link's anchor keeps the login, so closing this one changes nothing else. One that is gone already is fine.
    fn drop_seat(&mut self) {
        if let Some(seat) = self.seat.take() {
            let _ = seat.session.close();
        }
    }

    fn attempt(&mut self, work: &Work, took: &mut Duration) -> Result<Answer, Trouble> {
        let epoch = self.link.epoch();
        if self.seat.as_ref().is_some_and(|seat| seat.epoch != epoch) {
            self.drop_seat();
        }
        let doubts = self.mailbox.doubts();
        let seat = match &mut self.seat {
            Some(seat) => seat,
            empty => empty.insert(Seat { epoch, doubts, session: self.link.session()?, held: HashMap::new() }),
        };
        if seat.doubts != doubts {
            seat.doubts = doubts;
            seat.held.clear();
        }
        let result = seat.serve(work, &self.link, took);
        // "No such key" from a token that is gone, or from a session without a login, would be a lie.
        let is_absence = matches!(result, Ok(Answer::Keys(_)) | Err(Trouble::Answer(HsmError::KeyMissing { .. })));
        if is_absence || matches!(result, Ok(Answer::Done)) {
            self.link.present()?;
        }
        if is_absence {
            self.link.same_login(epoch)?;
        }
        result
    }
}

/// What four sessions did not cure may be cured by a new process.
fn stubborn(failure: Failure, attempts: u32) -> Trouble {
    if failure.class().needs_new_process() || attempts < ATTEMPTS {
        return failure.into();
    }
    Failure::ours(failure.call(), failure.code(), FailureClass::Reinitialise).into()
}

enum Work {
    Sign { key: KeyId, input: mechanism::Prepared },
    Other(Operation),
}

impl Work {
    fn sign(work: SignWork) -> Result<Self, HsmError> {
        let key = work.key;
        Ok(Self::Sign { key, input: work.into_prepared()? })
    }
}

impl Seat {
    fn serve(&mut self, work: &Work, link: &Link, took: &mut Duration) -> Result<Answer, Trouble> {
        let operation = match work {
            Work::Sign { key, input } => return self.sign(key, input, link, took).map(Answer::Signature),
            Work::Other(operation) => operation,
        };
        let session = &self.session;
        match operation {
            Operation::Find(id) => {
                let pair = keys::pair(session, id)?;
                Ok(Answer::Key(Box::new(WireKey::from(keys::describe(session, id, pair)?))))
            }
            Operation::List => Ok(Answer::Keys(keys::list(session)?.into_iter().map(WireKey::from).collect())),
            Operation::Generate(request) => {
                let request = WireRequest::clone(request).into_request()?;
                keys::absent(session, &request)?;
                if let Some(wrapping) = &request.extractable_under {
                    if !link.excepts(&request.id) {
                        return Err(HsmError::NoException { id: request.id }.into());
                    }
                    wrapping::trusted(session, wrapping)?;
                }
                // A second attempt could make a second pair: tell the caller instead of trying again.
                match generate::generate(session, &request) {
                    Err(Trouble::Call(failure)) if !failure.class().needs_new_process() => {
                        Err(Trouble::Answer(failure.into()))
                    }
                    other => other.map(|key| Answer::Key(Box::new(WireKey::from(key)))),
                }
            }
            Operation::Probe => {
                if keys::logged_out(session)? {
                    return Err(Failure::ours("C_GetSessionInfo", "not logged in", FailureClass::LoginAgain).into());
                }
                Ok(Answer::Done)
            }
            Operation::Destroy(id) => {
                self.held.remove(id);
                keys::destroy(&self.session, id)?;
                Ok(Answer::Done)
            }
            Operation::Extract(id) => Ok(Answer::Leaks(keys::extract(session, id)?)),
            Operation::WrappingKey(id) => wrapping::trusted(session, id).map(|()| Answer::Done),
            Operation::Mechanisms => mechanisms(link).map(Answer::Mechanisms),
            Operation::ReadEpoch => epoch::read(session).map(Answer::Epoch),
            Operation::WriteEpoch(epoch) => {
                epoch::write(session, *epoch)?;
                Ok(Answer::Done)
            }
            Operation::Sign(_) => Err(HsmError::Process("a request in the wrong place".to_owned()).into()),
        }
    }

    fn sign(
        &mut self,
        id: &KeyId,
        input: &mechanism::Prepared,
        link: &Link,
        took: &mut Duration,
    ) -> Result<Vec<u8>, Trouble> {
        let held = match self.held.get(id) {
            Some(held) => *held,
            None => {
                let held = self.hold(id, link)?;
                if self.held.len() >= HELD {
                    self.held.clear();
                }
                self.held.insert(*id, held);
                held
            }
        };
        if !mechanism::fits(held.algorithm, input.algorithm()) {
            return Err(HsmError::AlgorithmMismatch {
                key: held.algorithm.to_string(),
                algorithm: format!("{:?}", input.algorithm()),
            }
            .into());
        }
        let begun = Instant::now();
        let raw = self.session.sign(&input.mechanism(), held.handle, input.data(held.algorithm))?;
        *took = begun.elapsed();
        Ok(mechanism::encode(held.algorithm, raw)?)
    }

    /// Finds the key once for this session and makes sure that it is one that may sign.
    fn hold(&self, id: &KeyId, link: &Link) -> Result<Held, Trouble> {
        let pair: Pair = keys::pair(&self.session, id)?;
        let key = keys::describe(&self.session, id, pair)?;
        if let Some(reason) = key.attributes.flaw_under(link.excepts(id)) {
            return Err(HsmError::KeyUnsuitable { id: *id, reason: reason.into() }.into());
        }
        Ok(Held { handle: pair.private, algorithm: key.public_key.algorithm() })
    }
}

fn mechanisms(link: &Link) -> Result<Vec<Mechanism>, Trouble> {
    let mut found = Vec::new();
    for kind in link.context().get_mechanism_list(link.slot())? {
        // A mechanism that the token lists and cannot describe is as good as absent.
        let Ok(info) = link.context().get_mechanism_info(link.slot(), kind) else { continue };
        found.push(Mechanism {
            name: kind.to_string(),
            number: *kind,
            min_key: u64::try_from(info.min_key_size()).unwrap_or_default(),
            max_key: u64::try_from(info.max_key_size()).unwrap_or_default(),
            signs: info.sign(),
            generates: info.generate_key_pair(),
            hardware: info.hardware(),
        });
    }
    Ok(found)
}
