//! What the configuration may say of a CA's key.

use ca_core::key::{KeyAlgorithm, SignatureAlgorithm};

/// What a CA key is, and what it signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyChoice {
    /// The key to make.
    pub key: KeyAlgorithm,
    /// Its signatures.
    pub signature: SignatureAlgorithm,
}

impl KeyChoice {
    /// What the journal records: nothing where it is the key's usual algorithm.
    pub fn recorded(self) -> Option<SignatureAlgorithm> {
        Some(self.signature).filter(|signature| *signature != self.key.signature_algorithm())
    }
}

/// Parses what a CA key may be: a key algorithm, or an RSA key algorithm with `-PSS`. The key is the same; certificates
/// say which of the two it signs with.
///
/// # Errors
/// A sentence that lists what is possible.
pub fn key_algorithm(text: &str) -> Result<KeyChoice, String> {
    let choice = match text.strip_suffix("-PSS") {
        // SHA-256 matches RSA-3072, and RSA-4096 gains nothing from a longer hash (NIST SP 800-57 part 1, table 2).
        Some(rsa) => KeyAlgorithm::named(rsa)
            .filter(|key| key.signs_with(SignatureAlgorithm::RsaPssSha256))
            .map(|key| KeyChoice { key, signature: SignatureAlgorithm::RsaPssSha256 }),
        None => KeyAlgorithm::named(text).map(|key| KeyChoice { key, signature: key.signature_algorithm() }),
    };
    choice.ok_or_else(|| {
        let known = KeyAlgorithm::NAMED.map(|key| key.to_string()).join(", ");
        format!("'{text}' is no key algorithm; use one of {known}, or RSA-3072-PSS and the like")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn pss_is_a_choice_of_rsa_keys_alone() {
        let plain = key_algorithm("RSA-3072").unwrap();
        let pss = key_algorithm("RSA-3072-PSS").unwrap();
        assert_eq!((plain.key, pss.key), (KeyAlgorithm::Rsa(3072), KeyAlgorithm::Rsa(3072)));
        assert_eq!((plain.recorded(), pss.recorded()), (None, Some(SignatureAlgorithm::RsaPssSha256)));
        for key in KeyAlgorithm::NAMED {
            let choice = key_algorithm(&key.to_string()).unwrap();
            assert_eq!((choice.key, choice.signature), (key, key.signature_algorithm()));
        }
        for wrong in ["P-256-PSS", "ML-DSA-65-PSS", "RSA-3072-pss", "RSA-3072-PSS-PSS", "-PSS", "RSA-1024", ""] {
            let refused = key_algorithm(wrong).unwrap_err();
            assert!(refused.contains("P-256, P-384") && refused.contains("RSA-3072-PSS"), "{refused}");
        }
    }
}
