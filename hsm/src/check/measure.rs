//! How fast a token is: one signature at a time, and with a full queue in each shape of workers and sessions.

use super::algorithm::Subject;
use super::report::{Latency, Shape, Verdict, failed};
use super::scratch::Scratch;
use super::{Bench, cure};
use crate::token::{GAIN, IN_FLIGHT, SHAPES};
use crate::{HsmError, SignRequest, Token};
use ca_core::key::{KeyAlgorithm, SignatureAlgorithm};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Signatures for a median at least, and at most.
const SAMPLES: (usize, usize) = (3, 200);
/// How long further workers may take to come up.
const WORKERS: Duration = Duration::from_secs(10);

impl Bench<'_> {
    /// The time of one signature while nothing else is asked.
    pub(super) fn latency(&mut self, subject: &Subject<'_>, signature: SignatureAlgorithm) {
        let begun = Instant::now();
        let mut times = Vec::new();
        while times.len() < SAMPLES.0 || (times.len() < SAMPLES.1 && begun.elapsed() < self.options.measure / 2) {
            let asked = Instant::now();
            let message = b"sealwright check of the time v1\0".to_vec();
            if let Err(error) = subject.token.sign(subject.request(signature, message)) {
                return self.note(subject.algorithm(), "latency", failed(&error, cure(&error)));
            }
            times.push(asked.elapsed());
        }
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let longest = times.last().copied().unwrap_or_default();
        let (algorithm, signature) = (subject.algorithm().to_string(), signature.to_string());
        self.report.latencies.push(Latency { algorithm, signature, samples: times.len(), median, longest });
    }

    /// How many workers and sessions the token bears, and what each shape gives.
    pub(super) fn shapes(&mut self, token: &Token, algorithm: KeyAlgorithm) {
        let scratch = Scratch::new(algorithm);
        match scratch.make(token) {
            Ok(key) => {
                let subject = Subject { token, key };
                if let Some(signature) = subject.signature_algorithms().first() {
                    let message = b"sealwright check of the rate v1\0".to_vec();
                    self.each_shape(&subject.request(*signature, message));
                }
            }
            Err(error) => self.note("sessions", "key", failed(&error, cure(&error))),
        }
        let id = *scratch.id();
        if let Err(error) = scratch.remove(token) {
            let what = format!("{error}; the scratch key {id} may be left");
            self.note("sessions", "destroy", failed(what, "destroy it with the vendor's tool, by its CKA_ID"));
        }
    }

    fn each_shape(&mut self, request: &SignRequest) {
        for (workers, sessions) in SHAPES {
            self.step(&format!("{workers} workers with {sessions} sessions each"));
            let measured = self.open(workers, sessions).and_then(|token| {
                all_serve(&token, workers)?;
                rate(&token, request, self.options.measure)
            });
            let (per_second, problem) = match measured {
                Ok(rate) => (rate, None),
                Err(error) => (0.0, Some(error.to_string())),
            };
            self.report.shapes.push(Shape { workers, sessions, per_second, problem });
            self.done += 1;
        }
        let mut best: Option<&Shape> = None;
        for shape in &self.report.shapes {
            if shape.per_second > best.map_or(0.0, |b| b.per_second * GAIN) {
                best = Some(shape);
            }
        }
        self.report.best = best.map(|b| (b.workers, b.sessions));
        let verdict = match (best, self.report.shapes.iter().find(|s| s.problem.is_some())) {
            (None, _) => failed("no number of sessions works", "close what else uses the token, or raise its limit"),
            (Some(_), Some(lacking)) => Verdict::Missing(format!(
                "{} workers with {} sessions each do not work: {}",
                lacking.workers,
                lacking.sessions,
                lacking.problem.as_deref().unwrap_or_default()
            )),
            (Some(_), None) => Verdict::Ok("up to 16 in one worker".into()),
        };
        self.note("sessions", "bears", verdict);
    }
}

/// Waits until so many workers serve.
fn all_serve(token: &Token, workers: u32) -> Result<(), HsmError> {
    let until = Instant::now() + WORKERS;
    while token.status().first().is_none_or(|s| s.workers < workers) {
        if Instant::now() > until {
            let reason = format!("only {} of {workers} start", token.status().first().map_or(0, |s| s.workers));
            return Err(HsmError::Process(reason));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Signatures a second with a full queue.
#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn rate(token: &Token, request: &SignRequest, longest: Duration) -> Result<f64, HsmError> {
    let (sender, receiver) = channel();
    let request = Arc::new(request.clone());
    let ask = || {
        let sender = sender.clone();
        // Nobody listens any more once one has failed.
        token.submit((*request).clone(), Box::new(move |result| drop(sender.send(result.map(|_| ())))));
    };
    let begun = Instant::now();
    (0..IN_FLIGHT).for_each(|_| ask());
    let mut made = 0_u64;
    while begun.elapsed() < longest {
        match receiver.recv_timeout(longest.saturating_sub(begun.elapsed())) {
            Ok(result) => result?,
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => return Err(HsmError::Closed),
        }
        made += 1;
        ask();
    }
    Ok(made as f64 / begun.elapsed().as_secs_f64())
}
