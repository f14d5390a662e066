//! Group commit: one thread decides the waiting changes one after the other, keeps their records with one sync, and
//! only then answers.

use crate::{
    change::{Change, Decided},
    error::StoreError,
    event::Event,
    index::{
        Rows,
        project::{At, project},
    },
    journal::{
        format::{MAX_PAYLOAD, Record},
        writer::{Failure, Journal},
    },
    recovery,
    store::{RevocationHook, Shared},
    view::{Batch, View},
};
use ca_core::{id::IssuerId, time::UnixTime};
use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::Duration,
};

/// How many changes one sync carries at most.
const MAX_BATCH: usize = 256;
/// How often a failed index is tried again.
const HEAL_EVERY: Duration = Duration::from_secs(1);
/// How many records one change makes at most.
const MAX_RECORDS: usize = 16 * 1024;

/// What the writer is told.
pub enum Message {
    Job(Box<dyn Job>),
    /// No more changes come; keep what waits, then stop.
    Close,
    /// A test fails the next sync.
    #[cfg(test)]
    FailSync,
}

/// A change that waits, whatever its type.
pub trait Job: Send {
    fn now(&self) -> UnixTime;
    fn decide(&self, view: &View<'_>, now: UnixTime) -> Result<Decided, StoreError>;
    /// Reads the outcome and keeps it until [`Job::finish`].
    fn read_outcome(&mut self, view: &View<'_>, replayed: bool) -> Result<(), StoreError>;
    /// Tells the caller: the kept outcome, or the error.
    fn finish(self: Box<Self>, error: Option<StoreError>);
}

/// A change with its callback.
pub struct Waiting<C: Change, F> {
    pub change: C,
    pub now: UnixTime,
    pub outcome: Option<C::Outcome>,
    pub done: F,
}

impl<C, F> Job for Waiting<C, F>
where
    C: Change,
    F: FnOnce(Result<C::Outcome, StoreError>) + Send,
{
    fn now(&self) -> UnixTime {
        self.now
    }

    fn decide(&self, view: &View<'_>, now: UnixTime) -> Result<Decided, StoreError> {
        self.change.decide(view, now)
    }

    fn read_outcome(&mut self, view: &View<'_>, replayed: bool) -> Result<(), StoreError> {
        self.outcome = Some(self.change.outcome(view, replayed)?);
        Ok(())
    }

    fn finish(self: Box<Self>, error: Option<StoreError>) {
        let Self { outcome, done, .. } = *self;
        let result = match (error, outcome) {
            (Some(error), _) => Err(error),
            (None, Some(outcome)) => Ok(outcome),
            (None, None) => Err(StoreError::Closed),
        };
        // A callback that panics must not take the journal with it.
        if catch_unwind(AssertUnwindSafe(move || done(result))).is_err() {
            tracing::error!("a callback of the store panicked");
        }
    }
}

/// The writer thread's state.
pub struct Writer {
    pub shared: Arc<Shared>,
    pub journal: Journal,
    pub queue: Receiver<Message>,
    /// Issuers whose revocations are durable and not in the index yet.
    pub untold: BTreeSet<String>,
}

impl Writer {
    /// Runs until it is told to close.
    pub fn run(mut self) {
        let mut open = true;
        while open {
            let mut jobs = Vec::new();
            // Refused changes do not wake this thread, so it looks by itself whether the index failed.
            match self.queue.recv_timeout(HEAL_EVERY) {
                Ok(first) => open = self.take(first, &mut jobs),
                Err(RecvTimeoutError::Timeout) => {
                    if matches!(self.shared.refusal(), Some(StoreError::Index(_))) {
                        self.heal();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while open && jobs.len() < MAX_BATCH {
                match self.queue.try_recv() {
                    Ok(message) => open = self.take(message, &mut jobs),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            if !open {
                // Whoever got in before the end is served.
                while let Ok(message) = self.queue.try_recv() {
                    self.take(message, &mut jobs);
                }
            }
            let mut jobs = jobs.into_iter().peekable();
            while jobs.peek().is_some() {
                self.batch(jobs.by_ref().take(MAX_BATCH).collect());
            }
        }
        if let Err(error) = self.journal.close() {
            tracing::warn!(%error, "the journal's mark was not synced");
        }
    }

    /// The index failed, perhaps because the disk was full: makes it anew. What sled holds after a failed write may be
    /// neither the old nor the new, and would not look wrong.
    fn heal(&mut self) {
        self.shared.index.let_go();
        if let Err(error) = crate::index::remove(self.journal.store()) {
            tracing::error!(%error, "the failed index cannot be taken away yet");
            return;
        }
        match recovery::open(self.journal.store(), &mut |_| ()) {
            Ok((recovered, _, index, state)) if recovered.link.sequence == self.journal.link().sequence => {
                let marked = index.set_clean(false);
                self.shared.index.adopt(index);
                match marked {
                    Ok(()) => {
                        tracing::warn!(?state, "the index is in order again");
                        self.shared.healed();
                        self.tell_revocations();
                    }
                    Err(error) => tracing::error!(%error, "the index cannot be used yet"),
                }
            }
            Ok(_) => {
                tracing::error!("the journal is not where it was left");
                self.shared.fail(StoreError::Poisoned);
            }
            Err(error) => tracing::error!(%error, "the index cannot be made anew yet"),
        }
    }

    /// Whether to go on.
    fn take(&mut self, message: Message, jobs: &mut Vec<Box<dyn Job>>) -> bool {
        match message {
            Message::Job(job) => {
                self.shared.queued.fetch_sub(1, Ordering::AcqRel);
                jobs.push(job);
                true
            }
            Message::Close => false,
            #[cfg(test)]
            Message::FailSync => {
                self.journal.fail_sync = true;
                true
            }
        }
    }

    fn batch(&mut self, jobs: Vec<Box<dyn Job>>) {
        let count = jobs.len();
        let mut answers: Vec<(Box<dyn Job>, Option<StoreError>)> = Vec::with_capacity(count);
        let ready = self.shared.refusal().map_or_else(
            || self.journal.make_room().map_err(StoreError::from).inspect_err(|e| self.shared.refused(e.clone())),
            Err,
        );
        if let Err(error) = ready {
            for job in jobs {
                job.finish(Some(error.clone()));
            }
            return;
        }
        let mut batch = Batch::new(self.journal.link());
        for mut job in jobs {
            let decided = catch_unwind(AssertUnwindSafe(|| self.decide(job.as_mut(), &mut batch)));
            let error = match decided {
                Ok(result) => result.err(),
                Err(_) => {
                    self.shared.fail(StoreError::Index("a decision panicked".to_owned()));
                    self.shared.refusal()
                }
            };
            answers.push((job, error));
        }
        // Also who is refused is answered after the sync: the reason may be a record of this batch.
        if let Err(error) = self.keep(&batch, count) {
            for (_, answer) in &mut answers {
                *answer = Some(error.clone());
            }
        }
        for (job, error) in answers {
            job.finish(error);
        }
    }

    /// Decides one change and adds its records to the batch; on an error nothing of it stays.
    fn decide(&self, job: &mut dyn Job, batch: &mut Batch) -> Result<(), StoreError> {
        let before = (batch.bytes.len(), batch.link);
        let now = UnixTime::from_secs(job.now().as_secs().max(batch.link.time));
        let Decided { tenant, events } = job.decide(&self.view(batch), now)?;
        if events.len() > MAX_RECORDS {
            return Err(StoreError::TooLarge { field: "records", limit: MAX_RECORDS });
        }
        let replayed = events.is_empty();
        let mut undo = Vec::new();
        let mut add = || {
            let mut following = events.len();
            for event in &events {
                following -= 1;
                self.add(batch, event, &tenant, now, following, &mut undo)?;
            }
            job.read_outcome(&self.view(batch), replayed)
        };
        // A panic here must not leave half a change in the batch: the next records would follow on it.
        let result = catch_unwind(AssertUnwindSafe(&mut add)).unwrap_or_else(|_| {
            self.shared.fail(StoreError::Index("a decision panicked".to_owned()));
            Err(self.shared.refusal().unwrap_or(StoreError::Closed))
        });
        if result.is_ok() {
            batch.revoked.extend(events.iter().filter_map(|event| match event {
                Event::CertificateRevoked(revoked) => Some(revoked.issuer.clone()),
                _ => None,
            }));
        } else {
            batch.bytes.truncate(before.0);
            batch.link = before.1;
            for rows in undo.into_iter().rev() {
                restore(&mut batch.rows, rows);
            }
        }
        result
    }

    fn add(
        &self,
        batch: &mut Batch,
        event: &Event,
        tenant: &str,
        now: UnixTime,
        following: usize,
        undo: &mut Vec<Undo>,
    ) -> Result<(), StoreError> {
        let payload = event.encode();
        if payload.len() > MAX_PAYLOAD {
            return Err(StoreError::TooLarge { field: "payload", limit: MAX_PAYLOAD });
        }
        let offset = batch.link.end;
        let record = Record {
            kind: event.kind(),
            version: event.version(),
            remaining: u16::try_from(following).unwrap_or(u16::MAX),
            tenant: tenant.to_owned(),
            sequence: batch.link.sequence + 1,
            time: now.as_secs(),
            batch: batch.start,
            payload,
            previous: batch.link.hash,
        };
        let at = At { offset, sequence: record.sequence, time: record.time, tenant };
        let rows = project(&self.view(batch), event, at)?;
        undo.push(replace(&mut batch.rows, rows));
        let length = batch.bytes.len();
        let hash = record.encode(&mut batch.bytes);
        batch.link.end = offset + (batch.bytes.len() - length) as u64;
        batch.link.sequence = record.sequence;
        batch.link.hash = hash;
        batch.link.time = record.time;
        Ok(())
    }

    fn view<'a>(&'a self, batch: &'a Batch) -> View<'a> {
        View { index: &self.shared.index, files: &self.shared.files, batch: Some(batch) }
    }

    /// Makes a batch durable and visible.
    fn keep(&mut self, batch: &Batch, count: usize) -> Result<(), StoreError> {
        if batch.bytes.is_empty() {
            return Ok(());
        }
        let took = self.journal.append(&batch.bytes, batch.link).map_err(|failure| match failure {
            Failure::Refused(error) => {
                tracing::error!(%error, "the journal refused a batch");
                let error = StoreError::from(error);
                self.shared.refused(error.clone());
                error
            }
            Failure::Poisoned(error) => {
                tracing::error!(%error, "the journal is poisoned: restart after the disk has been looked at");
                self.shared.fail(StoreError::Poisoned);
                StoreError::Poisoned
            }
        })?;
        // From here on the batch has happened, whatever becomes of the index.
        let applied = self.shared.index.apply(&batch.rows, &batch.link, self.journal.store_id());
        self.shared.kept(&batch.link, batch.bytes.len(), count, took);
        self.untold.extend(batch.revoked.iter().cloned());
        match applied {
            Ok(()) => self.tell_revocations(),
            Err(error) => {
                tracing::error!(%error, "the index failed and is opened again");
                self.shared.fail(error);
            }
        }
        Ok(())
    }

    /// Tells who waits for revocations, once readers can see them.
    fn tell_revocations(&mut self) {
        let issuers = std::mem::take(&mut self.untold);
        let hook = self.shared.on_revocation.read().unwrap_or_else(PoisonError::into_inner);
        let RevocationHook::Set(tell) = &*hook else { return };
        for issuer in issuers.into_iter().filter_map(|issuer| IssuerId::new(issuer).ok()) {
            if catch_unwind(AssertUnwindSafe(|| tell(&issuer))).is_err() {
                tracing::error!("the hook for revocations panicked");
            }
        }
    }
}

type Undo = Vec<(Vec<u8>, Option<Option<Vec<u8>>>)>;

/// Puts rows over others and gives what was there.
fn replace(rows: &mut Rows, new: Rows) -> Undo {
    new.into_iter()
        .map(|(key, value)| {
            let before = rows.insert(key.clone(), value);
            (key, before)
        })
        .collect()
}

fn restore(rows: &mut Rows, undo: Undo) {
    for (key, before) in undo {
        match before {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
}
