//! A signature over a digest, under a domain of its own: what is signed begins with a letter, so it can be no
//! certificate, CRL or OCSP response, which begin with 0x30.

use ca_core::key::{PublicKey, SignatureAlgorithm};
use der::{Decode, Encode};
use spki::AlgorithmIdentifierOwned;

/// What is signed.
pub fn message(domain: &[u8], digest: &[u8; 32]) -> Vec<u8> {
    [domain, digest].concat()
}

/// The algorithm as text: its DER AlgorithmIdentifier in hexadecimal digits.
pub fn algorithm_text(algorithm: SignatureAlgorithm) -> Option<String> {
    algorithm.identifier().to_der().ok().map(hex::encode)
}

/// Verifies a signature whose algorithm and octets are texts.
pub fn verify(key: &PublicKey, algorithm: &str, message: &[u8], signature: &str) -> Option<()> {
    let identifier = AlgorithmIdentifierOwned::from_der(&hex::decode(algorithm).ok()?).ok()?;
    let algorithm = SignatureAlgorithm::from_identifier(&identifier)?;
    key.verify(algorithm, message, &hex::decode(signature).ok()?).ok()
}
