//! Changes: each decides on the state as it is with everything before it, and gives the records to append.

mod access;
mod issuance;
mod issuer;
mod revocation;

pub use access::{CreateToken, DisablePrincipal};
pub use issuance::{Abort, Confirm, ConfirmCause, ExistingDevice, Intend, Intended, Issue};
pub use issuer::{AddIssuer, SetIssuerState, SetOcspResponder, SetServerIdentity};
pub use revocation::{PublishCrl, ReserveCrlNumber, Revoke, RevokeTarget};

use ca_core::time::UnixTime;

/// A change of state. Outcomes: `AddIssuer`, `SetOcspResponder`, `SetIssuerState` -> `IssuerEntry`;
/// `SetServerIdentity`, `PublishCrl` -> `()`; `Intend` -> `Intended`; `Issue`, `Abort`, `Confirm` -> `CertificateEntry`;
/// `Revoke` -> `Vec<CertificateEntry>`; `DisablePrincipal` -> `PrincipalEntry`; `CreateToken` -> `(TokenEntry, bool)`;
/// `ReserveCrlNumber` -> `u64`.
pub trait Change: Send + 'static {
    /// What the caller is told once the records are durable.
    type Outcome: Send + 'static;
}
