//! The append-only journal: hash-chained records in segment files.

pub(crate) mod format;
pub(crate) mod mark;
pub(crate) mod reader;
pub(crate) mod segment;
pub(crate) mod verify;
pub(crate) mod writer;
