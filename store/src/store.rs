//! The store: one writer, many readers.

use crate::{
    change::Change,
    commit::{Job, Message, Waiting, Writer},
    error::{OpenError, Place, StoreError},
    index::{Index, key},
    journal::{
        mark,
        reader::Link,
        segment::{Files, at, directory},
        writer::Journal,
    },
    recovery,
    report::{OpenReport, SYNC_BUCKETS_MICROS, Statistics},
    view::View,
};
use ca_core::{id::IssuerId, time::UnixTime};
use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How many changes may wait.
const QUEUE: usize = 1024;
/// When a full queue is worth another try.
const BUSY_RETRY: Duration = Duration::from_millis(50);
/// How often the index is made durable while it changes.
const CHECKPOINT: Duration = Duration::from_secs(1);

/// For how long a refusal without a hint to try again counts.
const REFUSED: Duration = Duration::from_secs(10);

/// How to open a store.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Make the directory and an empty journal where there is none.
    pub create: bool,
    /// A journal file of this many octets is followed by a new one. A batch of records ends in the file that it
    /// began in, so 32 MiB are left for it up to the 256 MiB that a file may have.
    pub segment_octets: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { create: false, segment_octets: 224 * 1024 * 1024 }
    }
}

/// The journal and its index. Clones share them; the last one to go closes them.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("statistics", &self.statistics()).finish_non_exhaustive()
    }
}

/// What readers, the writer and the checkpoint share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) index: Index,
    pub(crate) files: Arc<Files>,
    pub(crate) queued: AtomicUsize,
    high_water: AtomicU64,
    /// Why nothing is accepted any more.
    failed: RwLock<Option<StoreError>>,
    /// Why the newest batch was refused, and when; none once a later one was kept.
    refused: Mutex<Option<(Instant, StoreError)>>,
    statistics: Mutex<Statistics>,
    pub(crate) on_revocation: RwLock<RevocationHook>,
}

/// Who is told of revocations.
#[derive(Default)]
pub(crate) enum RevocationHook {
    #[default]
    None,
    Set(Box<dyn Fn(&IssuerId) + Send + Sync>),
    Closed,
}

impl fmt::Debug for RevocationHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RevocationHook")
    }
}

struct Inner {
    shared: Arc<Shared>,
    queue: SyncSender<Message>,
    closed: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    /// Kept until the last clone is gone.
    _lock: File,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Why nothing is accepted, if so.
    pub(crate) fn refusal(&self) -> Option<StoreError> {
        self.failed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on nothing is accepted. A poisoned journal outweighs everything else.
    pub(crate) fn fail(&self, error: StoreError) {
        let mut failed = self.failed.write().unwrap_or_else(PoisonError::into_inner);
        if *failed != Some(StoreError::Poisoned) {
            locked(&self.statistics).poisoned = error == StoreError::Poisoned;
            *failed = Some(error);
        }
    }

    /// The index is in order again.
    pub(crate) fn healed(&self) {
        let mut failed = self.failed.write().unwrap_or_else(PoisonError::into_inner);
        if *failed != Some(StoreError::Poisoned) {
            *failed = None;
        }
    }

    /// A batch was refused, perhaps only this one.
    pub(crate) fn refused(&self, error: StoreError) {
        *locked(&self.refused) = Some((Instant::now(), error));
    }

    /// Counts a batch that is durable.
    pub(crate) fn kept(&self, link: &Link, octets: usize, changes: usize, took: Duration) {
        self.high_water.store(link.time, Ordering::Release);
        *locked(&self.refused) = None;
        let mut s = locked(&self.statistics);
        s.records = link.sequence;
        s.octets += octets as u64;
        s.syncs += 1;
        s.sync_sum += took;
        s.sync_max = s.sync_max.max(took);
        s.last_batch = changes;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = SYNC_BUCKETS_MICROS.partition_point(|bound| *bound < micros);
        if let Some(count) = s.sync_buckets.get_mut(bucket) {
            *count += 1;
        }
    }
}

impl Store {
    /// Opens the store in `dir`: checks the newest journal file, cuts a torn tail off, and brings the index up to date
    /// or makes it anew.
    ///
    /// # Errors
    /// [`OpenError`] says what to do: another process has the store, there is none, or the journal is damaged.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<(Self, OpenReport), OpenError> {
        if options.create {
            recovery::make_directories(dir)?;
        } else if !directory(dir).is_dir() {
            return Err(OpenError::Missing(dir.to_owned()));
        }
        let lock = recovery::lock(dir)?;
        if options.create && !has_segments(dir).map_err(at(&directory(dir)))? {
            let mark = mark::path(dir);
            if std::fs::metadata(&mark).is_ok_and(|m| m.len() > 0) {
                // A new journal would hide that the old one is lost.
                return Err(OpenError::Damaged {
                    place: Place { segment: directory(dir), offset: 0, sequence: 1 },
                    what: format!("all its files are missing, although {} knows them", mark.display()),
                });
            }
            recovery::create(dir)?;
        }
        let (recovered, files, index, state) = recovery::open(dir, &mut |_| ())?;
        index.set_clean(false).map_err(|e| OpenError::Index(e.to_string()))?;
        let journal = Journal::new(
            dir,
            recovered.store_id,
            files.clone(),
            (recovered.base(), recovered.link),
            options.segment_octets,
        )
        .map_err(at(&directory(dir)))?;
        let report = OpenReport {
            records: recovered.link.sequence,
            torn_tail: recovered.torn.clone(),
            index: state,
            open_intents: View { index: &index, files: &files, batch: None }
                .all(key::OPEN)
                .map_err(|e| OpenError::Index(e.to_string()))?
                .len() as u64,
        };
        let statistics =
            Statistics { records: recovered.link.sequence, octets: recovered.link.end, ..Statistics::default() };
        let shared = Arc::new(Shared {
            index,
            files,
            queued: AtomicUsize::new(0),
            high_water: AtomicU64::new(recovered.link.time),
            failed: RwLock::new(None),
            refused: Mutex::new(None),
            statistics: Mutex::new(statistics),
            on_revocation: RwLock::default(),
        });
        Ok((Self { inner: Arc::new(start(shared, journal, lock).map_err(at(dir))?) }, report))
    }

    /// Hands a change to the writer and returns. `done` is called on the writer's thread once the change is durable,
    /// or refused; it must return soon. When the queue is full it is called at once, on this thread, with `Busy`.
    /// The change's time is `now`, or that of the newest record where that is later.
    pub fn submit<C: Change>(
        &self,
        change: C,
        now: UnixTime,
        done: impl FnOnce(Result<C::Outcome, StoreError>) + Send + 'static,
    ) {
        let job: Box<dyn Job> = Box::new(Waiting { change, now, outcome: None, done });
        let inner = &self.inner;
        if inner.closed.load(Ordering::Acquire) {
            return job.finish(Some(StoreError::Closed));
        }
        if let Some(error) = inner.shared.refusal() {
            return job.finish(Some(error));
        }
        inner.shared.queued.fetch_add(1, Ordering::AcqRel);
        match inner.queue.try_send(Message::Job(job)) {
            Ok(()) => {}
            Err(error) => {
                inner.shared.queued.fetch_sub(1, Ordering::AcqRel);
                let (message, error) = match error {
                    TrySendError::Full(message) => {
                        locked(&inner.shared.statistics).refused_busy += 1;
                        (message, StoreError::Busy { retry_after: BUSY_RETRY })
                    }
                    TrySendError::Disconnected(message) => (message, StoreError::Closed),
                };
                if let Message::Job(job) = message {
                    job.finish(Some(error));
                }
            }
        }
    }

    /// Makes a change and waits until it is durable. Never from a callback of [`Store::submit`]: it would wait for
    /// itself.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was recorded.
    pub fn commit<C: Change>(&self, change: C, now: UnixTime) -> Result<C::Outcome, StoreError> {
        let (tell, told) = std::sync::mpsc::channel();
        self.submit(change, now, move |result| {
            let _ = tell.send(result);
        });
        told.recv().unwrap_or(Err(StoreError::Closed))
    }

    /// Why changes are refused now; `None` while they are accepted. A journal that is full counts for as long as its
    /// hint to try again says, or until something fits: nothing but another try can tell.
    pub fn refusal(&self) -> Option<StoreError> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Some(StoreError::Closed);
        }
        let shared = &self.inner.shared;
        shared.refusal().or_else(|| {
            let refused = locked(&shared.refused).clone();
            refused.filter(|(at, error)| at.elapsed() < error.retry_after().unwrap_or(REFUSED)).map(|(_, error)| error)
        })
    }

    /// From now on `hook` is told of every issuer whose certificates were revoked, or whose reasons rose, whatever
    /// change did it: after the records are durable and readers see them, before the change is answered, on the
    /// writer's thread. It must return soon and make no blocking change. Records of earlier runs are not told. Gives
    /// false, and keeps the first, when there is a hook already. Closing drops it, so it may own a clone of the store; without
    /// [`Store::close`] such a clone would keep the store open for ever.
    pub fn on_revocation(&self, hook: Box<dyn Fn(&IssuerId) + Send + Sync>) -> bool {
        let mut place = self.inner.shared.on_revocation.write().unwrap_or_else(PoisonError::into_inner);
        let free = matches!(*place, RevocationHook::None);
        if free {
            *place = RevocationHook::Set(hook);
        }
        free
    }

    /// The largest time of any durable record. A clock that is behind it runs wrong.
    pub fn high_water(&self) -> UnixTime {
        UnixTime::from_secs(self.inner.shared.high_water.load(Ordering::Acquire))
    }

    /// Serves what waits, makes everything durable and stops. Other clones may still read; their changes are refused
    /// with `Closed`. The directory is free when the last clone is gone.
    pub fn close(self) {
        self.inner.close();
    }

    /// Counters.
    pub fn statistics(&self) -> Statistics {
        let mut statistics = locked(&self.inner.shared.statistics).clone();
        statistics.queue = self.inner.shared.queued.load(Ordering::Acquire);
        statistics
    }

    /// The durable facts.
    pub(crate) fn view(&self) -> View<'_> {
        View { index: &self.inner.shared.index, files: &self.inner.shared.files, batch: None }
    }

    /// Takes the index's files away, as a disk that failed would.
    #[cfg(test)]
    pub(crate) fn lose_index(&self) {
        self.inner.shared.index.let_go();
        self.inner.shared.fail(StoreError::Index("a test".to_owned()));
    }

    /// Makes the syncs of the index fail, or succeed again.
    #[cfg(test)]
    pub(crate) fn fail_index_syncs(&self, fail: bool) {
        self.inner.shared.index.fail_sync.store(fail, Ordering::Release);
    }

    /// Fails the next sync.
    #[cfg(test)]
    pub(crate) fn fail_next_sync(&self) {
        let _ = self.inner.queue.send(Message::FailSync);
    }
}

/// Whether a directory holds a journal.
fn has_segments(dir: &Path) -> io::Result<bool> {
    for entry in directory(dir).read_dir()? {
        if entry?.path().extension().is_some_and(|e| e == "swj") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn start(shared: Arc<Shared>, journal: Journal, lock: File) -> io::Result<Inner> {
    let (queue, waiting) = sync_channel(QUEUE);
    let writer = Writer { shared: shared.clone(), journal, queue: waiting, untold: BTreeSet::new() };
    let stop = Arc::new((Mutex::new(false), Condvar::new()));
    let (checkpointed, stopped) = (shared.clone(), stop.clone());
    let threads = vec![
        thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run())?,
        thread::Builder::new().name("checkpoint".to_owned()).spawn(move || checkpoint(&checkpointed, &stopped))?,
    ];
    Ok(Inner { shared, queue, closed: AtomicBool::new(false), threads: Mutex::new(threads), stop, _lock: lock })
}

/// Makes the index durable once a second while it changes, so that little is replayed after a crash. Where that fails
/// the journal goes on, for it is the truth, and the next second tries again.
fn checkpoint(shared: &Shared, stop: &(Mutex<bool>, Condvar)) {
    let (stopped, changed) = stop;
    let mut guard = locked(stopped);
    let mut failing = false;
    while !*guard {
        guard = changed.wait_timeout(guard, CHECKPOINT).unwrap_or_else(PoisonError::into_inner).0;
        if *guard || shared.refusal().is_some() {
            continue;
        }
        match shared.index.sync() {
            Ok(()) if failing => {
                failing = false;
                tracing::info!("the index is made durable again");
            }
            Ok(()) => {}
            Err(error) => {
                if !failing {
                    failing = true;
                    tracing::warn!(%error, "the index is not made durable; this is tried again each second");
                }
                // What cannot be read either is opened again.
                if let Err(error) = shared.index.get(key::APPLIED) {
                    tracing::error!(%error, "the index failed and is opened again");
                    shared.fail(error);
                }
            }
        }
    }
}

impl Inner {
    fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let _ = self.queue.send(Message::Close);
        *locked(&self.stop.0) = true;
        self.stop.1.notify_all();
        let threads = std::mem::take(&mut *locked(&self.threads));
        for handle in threads {
            // The last clone may go in a callback, on the writer's own thread, which cannot wait for itself.
            if handle.thread().id() == thread::current().id() {
                return;
            }
            let _ = handle.join();
        }
        // The hook may own a clone of the store, which must not keep the directory.
        let place = self.shared.on_revocation.write();
        drop(std::mem::replace(&mut *place.unwrap_or_else(PoisonError::into_inner), RevocationHook::Closed));
        if self.shared.refusal().is_none()
            && let Err(error) = self.shared.index.set_clean(true)
        {
            tracing::warn!(%error, "the index was not closed in order");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}
