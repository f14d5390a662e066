//! The index: keys and journal positions in sled. It can always be made anew from the journal, and nothing in it is
//! believed that the journal does not say.
//!
//! sled 0.34 does not make data durable by itself, and after a power cut it may panic or open empty. So every call is
//! guarded against a panic, and `sync` syncs its file itself.

pub(crate) mod key;
pub(crate) mod project;
pub(crate) mod row;

use crate::{error::StoreError, journal::reader::Link};
use prost::Message;
use row::{Applied, Lifecycle};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// The index's own format. Another one is rebuilt.
const VERSION: u32 = 3;
/// What sled may keep in memory.
const CACHE_OCTETS: u64 = 16 * 1024 * 1024;
/// How many entries one scan takes at a time.
const CHUNK: usize = 1024;

/// Changes to the index that are not in it yet: `None` removes.
pub(crate) type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// An entry of a scan.
pub(crate) type KeyValue = (Vec<u8>, Vec<u8>);

/// What is told of every entry of a scan.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;

/// The index, open.
#[derive(Debug)]
pub(crate) struct Index {
    /// None while it is being made anew.
    db: RwLock<Option<Opened>>,
    dirty: AtomicBool,
    /// A sync failed, so the kernel may have dropped pages: the next start makes the index anew.
    doubtful: AtomicBool,
    /// Lets a test fail the syncs.
    #[cfg(test)]
    pub(crate) fail_sync: AtomicBool,
}

/// sled, and its file: kept open, so that making it durable needs no new descriptor.
#[derive(Debug)]
struct Opened {
    db: sled::Db,
    file: File,
}

/// Where the index is.
pub(crate) fn directory(store: &Path) -> PathBuf {
    store.join("index")
}

/// Takes the index away. What cannot be removed is moved aside.
pub(crate) fn remove(store: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory(store)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            // A file in the directory's place, for example.
            let aside = store.join("index.damaged");
            let _ = fs::remove_dir_all(&aside);
            let _ = fs::remove_file(&aside);
            fs::rename(directory(store), aside)
        }
        _ => Ok(()),
    }
}

/// The identity of this boot: a process that ended without closing lost nothing while the kernel lives.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

fn guard<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(StoreError::Index(error.to_string())),
        Err(_) => Err(StoreError::Index("it panicked".to_owned())),
    }
}

impl Index {
    /// Opens it, whatever is in it.
    pub fn open(store: &Path) -> Result<Self, StoreError> {
        let dir = directory(store);
        let failed = |error: io::Error| StoreError::Index(error.to_string());
        // Before sled makes it for everybody to read.
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        let config =
            sled::Config::new().path(&dir).cache_capacity(CACHE_OCTETS).flush_every_ms(None).use_compression(false);
        let db = guard(|| config.open())?;
        if let Err(error) = make_private(&dir) {
            tracing::warn!(%error, dir = %dir.display(), "others may be able to read the index");
        }
        let file = File::open(dir.join("db")).map_err(failed)?;
        Ok(Self {
            db: RwLock::new(Some(Opened { db, file })),
            dirty: AtomicBool::new(false),
            doubtful: AtomicBool::new(false),
            #[cfg(test)]
            fail_sync: AtomicBool::new(false),
        })
    }

    fn with<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, StoreError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let Some(opened) = db.as_ref() else { return Err(StoreError::Index("it is away".to_owned())) };
        guard(|| call(&opened.db))
    }

    /// Lets go of the files, so that they can be opened again. Reads fail until [`Index::adopt`].
    pub fn let_go(&self) {
        let db = self.db.write().unwrap_or_else(PoisonError::into_inner).take();
        let _ = guard(|| {
            drop(db);
            Ok(())
        });
    }

    /// Goes on with the files of another.
    pub fn adopt(&self, other: Self) {
        let db = other.db.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = db;
        self.dirty.store(true, Ordering::Release);
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|db| db.get(key)).map(|value| value.map(|v| v.to_vec()))
    }

    /// Up to `limit` entries whose keys begin with `prefix` and come after `after` (itself excluded).
    pub fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, StoreError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = match after {
            Some(after) => Excluded(after.to_vec()),
            None => Included(prefix.to_vec()),
        };
        let to = key::behind(prefix).map_or(Unbounded, Excluded);
        if let (Excluded(from), Excluded(to)) = (&from, &to)
            && from >= to
        {
            return Ok(Vec::new());
        }
        self.with(|db| {
            let mut found = Vec::new();
            for entry in db.range::<Vec<u8>, _>((from, to)).take(limit) {
                let (key, value) = entry?;
                found.push((key.to_vec(), value.to_vec()));
            }
            Ok(found)
        })
    }

    /// Every entry whose key begins with `prefix`, a piece at a time.
    pub fn each(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let piece = self.scan(prefix, after.as_deref(), CHUNK)?;
            for (key, value) in &piece {
                visit(key, value)?;
            }
            match piece.into_iter().next_back() {
                Some((key, _)) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    /// Applies rows and says how far the index is now, in one batch.
    pub fn apply(&self, rows: &Rows, link: &Link, store_id: &[u8; 16]) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, value) in rows {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        let applied = Applied {
            sequence: link.sequence,
            end: link.end,
            hash: link.hash.to_vec(),
            time: link.time,
            store_id: store_id.to_vec(),
            version: VERSION,
        };
        batch.insert(key::APPLIED, applied.encode_to_vec());
        self.dirty.store(true, Ordering::Release);
        self.with(|db| db.apply_batch(batch))
    }

    /// How far it is, when it belongs to this store and has this program's format.
    pub fn applied(&self, store_id: &[u8; 16]) -> Result<Option<Link>, StoreError> {
        let Some(bytes) = self.get(key::APPLIED)? else { return Ok(None) };
        let applied = Applied::decode(bytes.as_slice()).map_err(|e| StoreError::Index(e.to_string()))?;
        if applied.store_id != store_id || applied.version != VERSION {
            return Ok(None);
        }
        let Ok(hash) = applied.hash.try_into() else { return Ok(None) };
        Ok(Some(Link { end: applied.end, sequence: applied.sequence, hash, time: applied.time, remaining: 0 }))
    }

    /// Whether it may have lost writes: it was not closed in order, and the kernel is another one since.
    pub fn may_have_lost_writes(&self) -> Result<bool, StoreError> {
        let Some(bytes) = self.get(key::LIFECYCLE)? else { return Ok(true) };
        let left = Lifecycle::decode(bytes.as_slice()).map_err(|e| StoreError::Index(e.to_string()))?;
        let boot = boot_id();
        Ok(!left.clean && (boot.is_empty() || left.boot_id != boot))
    }

    /// Says durably whether it is in use. One that is in doubt is never left as clean.
    pub fn set_clean(&self, clean: bool) -> Result<(), StoreError> {
        let doubtful = self.doubtful.load(Ordering::Acquire);
        // No boot has an empty identity.
        let boot_id = if doubtful { String::new() } else { boot_id() };
        let lifecycle = Lifecycle { clean: clean && !doubtful, boot_id };
        self.with(|db| db.insert(key::LIFECYCLE, lifecycle.encode_to_vec()))?;
        self.dirty.store(true, Ordering::Release);
        self.sync()
    }

    /// Makes it durable where it changed. sled's own flush ends in the page cache. After an error it is still to be
    /// made durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let result = self.with(|db| db.flush()).and_then(|_| {
            self.sync_file().inspect_err(|_| {
                if !self.doubtful.swap(true, Ordering::AcqRel) {
                    let lifecycle = Lifecycle { clean: false, boot_id: String::new() };
                    let _ = self.with(|db| db.insert(key::LIFECYCLE, lifecycle.encode_to_vec()));
                }
            })
        });
        if result.is_err() {
            self.dirty.store(true, Ordering::Release);
        }
        result
    }

    fn sync_file(&self) -> Result<(), StoreError> {
        #[cfg(test)]
        if self.fail_sync.load(Ordering::Acquire) {
            return Err(StoreError::Index("a test failed this sync".to_owned()));
        }
        let opened = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let Some(opened) = opened.as_ref() else { return Err(StoreError::Index("it is away".to_owned())) };
        opened.file.sync_data().map_err(|error| StoreError::Index(error.to_string()))
    }
}

/// Nobody else reads what the index says, also where sled or an earlier run made files for everybody.
fn make_private(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let mode = if entry.file_type()?.is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
    }
    Ok(())
}
