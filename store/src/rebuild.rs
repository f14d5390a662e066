//! Making the index anew on purpose.

use crate::{
    error::OpenError,
    index,
    journal::segment::{at, directory},
    recovery,
};
use std::path::Path;

/// Drops the index and makes it anew from the journal, every record of which is checked. `progress` is told the
/// sequence that was reached. Gives the number of records.
///
/// # Errors
/// [`OpenError::Locked`] while a server runs; otherwise as [`crate::Store::open`].
pub fn rebuild(dir: &Path, progress: &mut dyn FnMut(u64)) -> Result<u64, OpenError> {
    if !directory(dir).is_dir() {
        return Err(OpenError::Missing(dir.to_owned()));
    }
    let _lock = recovery::lock(dir)?;
    index::remove(dir).map_err(at(&index::directory(dir)))?;
    let (recovered, _, index, _) = recovery::open(dir, progress)?;
    index.set_clean(true).map_err(|e| OpenError::Index(e.to_string()))?;
    Ok(recovered.link.sequence)
}
