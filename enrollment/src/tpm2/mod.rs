//! TPM 2.0: its structures, the credential blob, the endorsement key certificate and the verification of evidence.
//!
//! "Part 1", "Part 2" and "Part 3" are the TPM 2.0 Library Specification's.

pub mod attest;
pub mod attributes;
pub mod certificate;
pub mod credential;
pub mod ek;
mod oaep;
pub mod structures;
pub mod templates;
pub mod verify;

pub use attest::{Attest, Attested, Signature};
pub use attributes::Attributes;
pub use credential::{CredentialBlob, make_credential};
pub use structures::{HashAlgorithm, Public, Reader, Scheme, TpmError, Writer, spki_from_public};
pub use verify::{Tpm2Evidence, Tpm2Hello, Tpm2Verifier};
