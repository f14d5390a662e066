//! What can go wrong.

use std::{fmt, io, path::PathBuf, time::Duration};

/// A place in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub segment: PathBuf,
    /// Octets from the beginning of that file.
    pub offset: u64,
    /// The sequence number that the record there has, or should have.
    pub sequence: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {} (record {})", self.segment.display(), self.offset, self.sequence)
    }
}

/// Why a change or a read was refused. Nothing was recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No such object, or it is another tenant's.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// An object of this name exists.
    #[error("this {0} exists already")]
    AlreadyExists(&'static str),
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    IdempotencyConflict,
    /// The issuer has given this serial number before.
    #[error("the serial number is in use")]
    SerialInUse,
    /// No such enrollment token, or not for this profile.
    #[error("no such enrollment token")]
    TokenUnknown,
    /// The enrollment token was used before.
    #[error("the enrollment token has been used")]
    TokenUsed,
    /// The enrollment token is past its time.
    #[error("the enrollment token has expired")]
    TokenExpired,
    /// The device is known otherwise.
    #[error("{0}")]
    DeviceConflict(DeviceConflict),
    /// The device has as many live certificates of this profile as one may have.
    #[error("the device has too many live certificates of this profile; revoke some, or renew one")]
    DeviceFull,
    /// A certificate for this public key was revoked because the key was compromised.
    #[error("this public key is known to be compromised")]
    KeyCompromised,
    /// The public key belongs to another holder of the tenant.
    #[error("the public key belongs to another holder")]
    KeyInUse,
    /// The certificate is revoked.
    #[error("the certificate is revoked")]
    Revoked,
    /// The certificate's intent was given up, or it is not in the state that the change needs.
    #[error("the certificate is not {0}")]
    WrongState(&'static str),
    /// The certificate to be replaced has another holder.
    #[error("the certificate to be replaced has another holder")]
    OtherHolder,
    /// The certificate is being renewed by an earlier request that is not finished.
    #[error("the certificate is being renewed by another request; send this one again")]
    InProgress,
    /// The certificate was renewed too often.
    #[error("the certificate was renewed too often; try again in {} s", retry_after.as_secs())]
    TooManySuccessors {
        /// When one more is allowed.
        retry_after: Duration,
    },
    /// The principal is disabled.
    #[error("the principal is disabled")]
    PrincipalDisabled,
    /// A certificate of the service itself (its holder has the role [`crate::ROLE_SERVICE`]).
    #[error("this is a certificate of the service itself; it is not revoked here")]
    ServiceCertificate,
    /// The name is kept for the service itself.
    #[error("names that begin with {} are kept for the service itself", crate::SERVICE_NAMES)]
    ReservedName,
    /// The tenant would have no enabled admin with a certificate in force left.
    #[error("the tenant would be left without an admin who has a valid certificate; create another admin first")]
    LastAdmin,
    /// A number or time that must rise did not.
    #[error("{0} must rise")]
    NotRising(&'static str),
    /// The key belongs to an issuer, a responder, the server or a token's identity.
    #[error("the key is in use; retire its issuer or give its user another key first")]
    KeyServes,
    /// A value is not given.
    #[error("{0} must be given")]
    Missing(&'static str),
    /// A value is beyond its limit.
    #[error("{field} is longer than {limit} octets")]
    TooLarge {
        /// The value.
        field: &'static str,
        /// Its limit in octets.
        limit: usize,
    },
    /// The queue is full.
    #[error("the journal is busy; try again in {} ms", retry_after.as_millis())]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// No space on the device. Accepted again as soon as there is space.
    #[error("no space left for the journal")]
    Full,
    /// A sync failed: what is on the disk is unknown until the next start, so nothing is accepted.
    #[error("the journal takes no more records until a restart, because the disk failed to keep one")]
    Poisoned,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The operating system refused.
    #[error("{0}")]
    Io(String),
    /// A record is damaged.
    #[error("the journal is damaged in {0}")]
    Corrupt(Place),
    /// The index failed; it is opened again or made anew, which can take a while.
    #[error("the index failed: {0}; it is being opened again")]
    Index(String),
}

impl StoreError {
    /// When the same change may succeed later without anybody doing anything: after how long.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after } | Self::TooManySuccessors { retry_after } => Some(*retry_after),
            Self::InProgress => Some(Duration::from_secs(1)),
            Self::Full => Some(Duration::from_secs(10)),
            Self::Index(_) => Some(Duration::from_secs(2)),
            _ => None,
        }
    }
}

/// How a device is known otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceConflict {
    /// The device was enrolled with another attestation anchor.
    #[error("the device is bound to another attestation anchor")]
    OtherAnchor,
    /// The attestation anchor belongs to another device.
    #[error("the attestation anchor belongs to another device")]
    AnchorInUse,
    /// The device has a certificate that is neither revoked nor expired.
    #[error("the device has a live certificate")]
    DeviceExists,
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(error.to_string()),
        }
    }
}

/// Why a store was not opened. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process; stop it first", .0.display())]
    Locked(PathBuf),
    /// There is no store.
    #[error("{} holds no journal; initialise it first", .0.display())]
    Missing(PathBuf),
    /// The journal is damaged where it was durable.
    #[error(
        "the journal is damaged: {what} in {place}. Nothing was changed. Keep a copy of the directory, then restore \
         the journal from the newest backup or replica; a journal that does not verify must not be used"
    )]
    Damaged {
        /// Where.
        place: Place,
        /// What is wrong there.
        what: String,
    },
    /// The directory's format is newer than this program.
    #[error("{} has format version {version}, and this program knows up to {known}; use the newer program", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u16,
        /// The newest that is known.
        known: u16,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The index cannot even be made anew.
    #[error("the index cannot be made: {0}")]
    Index(String),
}
