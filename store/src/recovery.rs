//! From a directory to a journal that is whole and an index that agrees with it.

use crate::{
    error::{OpenError, StoreError},
    event::Event,
    index::{
        self, Index, key,
        project::{At, project},
        row::CertificateRow,
    },
    journal::{
        format::{HEADER_LEN, Header, Mark},
        mark::{self, Found, MarkFile},
        reader::{Break, Chain, Link, later_batch},
        segment::{self, Files, Segment, at},
    },
    report::{IndexState, TornTail},
    view::{Batch, View},
};
use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

/// How many of the newest certificates are looked up in the index at each start.
const SPOT_CHECK: usize = 1_000;
/// How many records are replayed in one batch.
const REPLAY_BATCH: usize = 4_096;

/// Takes the exclusive lock of a store.
pub fn lock(store: &Path) -> Result<File, OpenError> {
    let path = store.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(store.to_owned())),
        Err(TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}

/// Makes the directories of a store.
pub fn make_directories(store: &Path) -> Result<(), OpenError> {
    let journal = segment::directory(store);
    DirBuilder::new().recursive(true).mode(0o700).create(&journal).map_err(at(&journal))?;
    fs::set_permissions(&journal, Permissions::from_mode(0o700)).map_err(at(&journal))?;
    segment::sync_directory(store).map_err(at(store))?;
    if let Some(parent) = store.parent().filter(|p| !p.as_os_str().is_empty()) {
        segment::sync_directory(parent).map_err(at(parent))?;
    }
    Ok(())
}

/// Makes the first segment.
pub fn create(store: &Path) -> Result<(), OpenError> {
    let dir = segment::directory(store);
    let mut store_id = [0; 16];
    let random = Path::new("/dev/urandom");
    File::open(random).and_then(|mut f| f.read_exact(&mut store_id)).map_err(at(random))?;
    let header = Header { store_id, base: 0, first_sequence: 1, previous: [0; 32] };
    segment::create(store, &header).map_err(at(&dir))?;
    let marks = MarkFile::open(store, store_id).map_err(at(&mark::path(store)))?;
    let first = Mark { offset: HEADER_LEN as u64, sequence: 0, hash: header.link() };
    marks.set(&first).and_then(|()| marks.sync()).map_err(at(&mark::path(store)))?;
    segment::sync_directory(store).map_err(at(store))
}

/// A whole journal.
pub struct Recovered {
    pub segments: Vec<Segment>,
    pub store_id: [u8; 16],
    /// The chain after the last record.
    pub link: Link,
    pub torn: Option<TornTail>,
    /// The newest issued certificates, by the offset of the record that issued them.
    recent: VecDeque<(u64, Event)>,
}

impl Recovered {
    /// Global offset of the newest segment.
    pub fn base(&self) -> u64 {
        self.segments.last().map_or(0, |s| s.header.base)
    }
}

/// Recovers the journal, then the index. The lock must be held.
pub fn open(
    store: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(Recovered, Arc<Files>, Index, IndexState), OpenError> {
    let mut opened = Err("it is missing".to_owned());
    let recovered = journal(store, |store_id| {
        if index::directory(store).exists() {
            opened = open_index(store, store_id);
        }
        opened.as_ref().ok().map(|(_, applied)| *applied)
    })?;
    let files = Arc::new(Files::open(&recovered.segments)?);
    let (index, state) = index(store, &recovered, &files, opened, progress)?;
    Ok((recovered, files, index, state))
}

/// Checks the newest segment and cuts a torn tail off. `applied`: how far the index was, which the journal was too.
pub fn journal(store: &Path, applied: impl FnOnce(&[u8; 16]) -> Option<Link>) -> Result<Recovered, OpenError> {
    remove_unfinished(store)?;
    let mut segments = segment::list(store)?;
    let Some(newest) = segments.last().cloned() else { return Err(OpenError::Missing(store.to_owned())) };
    let store_id = newest.header.store_id;
    // An index that is ahead of a shorter journal is the index's fault (or that of who restored the journal), not
    // damage; within the journal's length it is a second witness.
    let applied = applied(&store_id).filter(|applied| applied.end <= newest.end());
    let floor = floor(store, &store_id, applied)?;
    let mut recent = VecDeque::new();
    let mut chain = Chain::new(&segments, Link::before(&newest));
    let mut at_floor = floor.is_none_or(|f| f.end <= newest.header.base + HEADER_LEN as u64);
    let broken = loop {
        match chain.next() {
            Ok(Some(located)) => {
                if floor.is_some_and(|f| f.end == located.end && f.hash == located.hash) {
                    at_floor = true;
                }
                if let Some(event @ Event::CertificateIssued(_)) =
                    Event::decode(located.record.kind, located.record.version, &located.record.payload)
                {
                    recent.push_back((located.offset, event));
                    if recent.len() > SPOT_CHECK {
                        recent.pop_front();
                    }
                }
            }
            Ok(None) => break None,
            Err(broken) => break Some(broken),
        }
    };
    let link = chain.complete();
    recent.retain(|(offset, _)| *offset < link.end);
    let reached = chain.link();
    if let Some(error) = broken.as_ref().and_then(|b| b.error.as_ref()) {
        let source = io::Error::new(error.kind(), error.to_string());
        return Err(OpenError::Io { path: newest.path, source });
    }
    let floor_end = floor.map_or(0, |f| f.end);
    let damaged = |what: String| {
        let place = match &broken {
            Some(broken) => broken.place.clone(),
            None => newest.place(reached.end, reached.sequence + 1),
        };
        OpenError::Damaged { place, what }
    };
    if link.end < floor_end {
        let what = broken.as_ref().map_or("records that were durable are missing at the end", |b| b.what.as_str());
        return Err(damaged(what.to_owned()));
    }
    if !at_floor {
        return Err(damaged("the records are not those that were durable".to_owned()));
    }
    if let Some(broken) = &broken
        && let Some(offset) = later_batch(&newest, broken.offset).map_err(at(&newest.path))?
    {
        let at = newest.place(offset, 0);
        return Err(damaged(format!(
            "{}, and whole records of later batches follow at byte {}",
            broken.what, at.offset
        )));
    }
    let torn = if link.end < newest.end() { Some(cut(store, &newest, link.end)?) } else { None };
    // What a process that was killed left in the page cache is about to be believed.
    segment::open_for_writing(&newest.path).and_then(|f| f.sync_data()).map_err(at(&newest.path))?;
    if let Some(last) = segments.last_mut() {
        last.len = link.end - last.header.base;
    }
    let marks = MarkFile::open(store, store_id).map_err(at(&mark::path(store)))?;
    let now = Mark { offset: link.end, sequence: link.sequence, hash: link.hash };
    marks.set(&now).map_err(at(&mark::path(store)))?;
    Ok(Recovered { segments, store_id, link, torn, recent })
}

/// How far the journal is known to have been durable.
fn floor(store: &Path, store_id: &[u8; 16], applied: Option<Link>) -> Result<Option<Link>, OpenError> {
    let mark = match mark::read(store, store_id).map_err(at(&mark::path(store)))? {
        Found::Mark(mark) => {
            Some(Link { end: mark.offset, sequence: mark.sequence, hash: mark.hash, time: 0, remaining: 0 })
        }
        Found::Nothing => None,
        Found::Damaged => {
            tracing::warn!(path = %mark::path(store).display(), "the journal's mark is damaged and was ignored");
            None
        }
    };
    Ok(match (mark, applied) {
        (Some(mark), Some(applied)) if applied.end > mark.end => Some(applied),
        (Some(mark), _) => Some(mark),
        (None, applied) => applied,
    })
}

/// A segment that was not complete when the process or machine stopped has no record yet.
fn remove_unfinished(store: &Path) -> Result<(), OpenError> {
    let dir = segment::directory(store);
    let Ok(entries) = fs::read_dir(&dir) else { return Ok(()) };
    for entry in entries {
        let path = entry.map_err(at(&dir))?.path();
        if path.extension().is_some_and(|e| e == "new") {
            fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}

/// Sets the octets from the global offset `from` on aside, durably, and then cuts them off.
fn cut(store: &Path, segment: &Segment, from: u64) -> Result<TornTail, OpenError> {
    let kept_as = segment::directory(store).join(format!("torn-{from:020}"));
    let file = segment::open_for_writing(&segment.path).map_err(at(&segment.path))?;
    let start = from - segment.header.base;
    let mut tail = vec![0; usize::try_from(segment.len - start).unwrap_or(0)];
    file.read_exact_at(&mut tail, start).map_err(at(&segment.path))?;
    let mut aside =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&kept_as).map_err(at(&kept_as))?;
    aside.write_all(&tail).and_then(|()| aside.sync_all()).map_err(at(&kept_as))?;
    segment::sync_directory(&segment::directory(store)).map_err(at(&kept_as))?;
    file.set_len(start).and_then(|()| file.sync_all()).map_err(at(&segment.path))?;
    tracing::warn!(offset = from, octets = tail.len(), kept_as = %kept_as.display(), "a torn tail was cut off");
    Ok(TornTail { offset: from, octets: tail.len() as u64, kept_as })
}

/// The index as it was left, and how far it is; or why it cannot be used.
pub fn open_index(store: &Path, store_id: &[u8; 16]) -> Result<(Index, Link), String> {
    let index = Index::open(store).map_err(|e| e.to_string())?;
    let applied = index.applied(store_id).map_err(|e| e.to_string())?.ok_or("it is empty or of another store")?;
    if index.may_have_lost_writes().map_err(|e| e.to_string())? {
        return Err("the machine stopped before it was closed".to_owned());
    }
    Ok((index, applied))
}

/// Brings an index that was opened up to date, or makes it anew.
pub fn index(
    store: &Path,
    recovered: &Recovered,
    files: &Files,
    opened: Result<(Index, Link), String>,
    progress: &mut dyn FnMut(u64),
) -> Result<(Index, IndexState), OpenError> {
    let is_new = !index::directory(store).exists() || recovered.link.sequence == 0;
    let reason = match opened.and_then(|(index, applied)| catch_up(index, applied, recovered, files, progress)) {
        Ok((index, 0)) => return Ok((index, IndexState::Intact)),
        Ok((index, replayed)) => return Ok((index, IndexState::Replayed(replayed))),
        Err(reason) => reason,
    };
    if !is_new {
        tracing::warn!(reason, "the index is made anew from the journal");
    }
    index::remove(store).map_err(at(&index::directory(store)))?;
    let index = Index::open(store).map_err(|e| OpenError::Index(e.to_string()))?;
    let segments = &recovered.segments;
    let link = Chain::whole(segments).link();
    replay(&index, recovered, files, link, progress)?;
    spot_check(&index, recovered).map_err(OpenError::Index)?;
    let state = if recovered.link.sequence == 0 { IndexState::Intact } else { IndexState::Rebuilt(reason) };
    Ok((index, state))
}

fn catch_up(
    index: Index,
    applied: Link,
    recovered: &Recovered,
    files: &Files,
    progress: &mut dyn FnMut(u64),
) -> Result<(Index, u64), String> {
    if applied.sequence > recovered.link.sequence || applied.end > recovered.link.end {
        return Err("it is ahead of the journal".to_owned());
    }
    let start = Chain::whole(&recovered.segments).link();
    let expected = if applied.sequence == 0 {
        Some(start.hash)
    } else {
        files.hash_before(applied.end).map_err(|e| e.to_string())?
    };
    if expected != Some(applied.hash) {
        return Err("it does not belong to this journal".to_owned());
    }
    let missing = recovered.link.sequence - applied.sequence;
    if missing > 0 {
        replay(&index, recovered, files, applied, progress).map_err(|e| e.to_string())?;
    }
    spot_check(&index, recovered)?;
    Ok((index, missing))
}

/// Projects the records behind `from`, with every check of the chain.
fn replay(
    index: &Index,
    recovered: &Recovered,
    files: &Files,
    from: Link,
    progress: &mut dyn FnMut(u64),
) -> Result<(), OpenError> {
    let failed = |error: StoreError| OpenError::Index(error.to_string());
    let mut chain = Chain::new(&recovered.segments, from);
    // Nothing is read back from its bytes: the records are all in the files.
    let mut batch = Batch { start: u64::MAX, ..Batch::new(from) };
    let mut waiting = 0;
    loop {
        let next = chain.next().map_err(|broken| {
            let Break { place, what, .. } = *broken;
            OpenError::Damaged { place, what }
        })?;
        let Some(located) = next else { break };
        let event = Event::of(&located).map_err(failed)?;
        let record = &located.record;
        let at = At { offset: located.offset, sequence: record.sequence, time: record.time, tenant: &record.tenant };
        let view = View { index, files, batch: Some(&batch) };
        let rows = project(&view, &event, at).map_err(failed)?;
        batch.rows.extend(rows);
        waiting += 1;
        // Only whole changes are applied.
        if waiting >= REPLAY_BATCH && record.remaining == 0 {
            index.apply(&batch.rows, &chain.link(), &recovered.store_id).map_err(failed)?;
            batch.rows.clear();
            waiting = 0;
            progress(record.sequence);
        }
    }
    index.apply(&batch.rows, &chain.link(), &recovered.store_id).map_err(failed)?;
    index.sync().map_err(failed)?;
    progress(chain.link().sequence);
    Ok(())
}

/// The newest certificates of the journal must be in the index.
fn spot_check(index: &Index, recovered: &Recovered) -> Result<(), String> {
    for (offset, event) in &recovered.recent {
        let Event::CertificateIssued(issued) = event else { continue };
        let value = index.get(&key::certificate(&issued.issuer, &issued.serial)).map_err(|e| e.to_string())?;
        let row = value.and_then(|v| crate::view::decode_row::<CertificateRow>(&v).ok());
        if row.is_none_or(|row| row.issued != *offset) {
            return Err(format!("it lacks the certificate of the record at {offset}"));
        }
    }
    Ok(())
}
