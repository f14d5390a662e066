//! The journal, which is the truth, and its index.

pub mod change;
pub mod entry;
pub mod error;
pub mod report;
mod store;

pub use change::*;
pub use entry::*;
pub use error::{DeviceConflict, OpenError, Place, StoreError};
pub use report::*;
pub use store::{OpenOptions, Store};
