//! What ties evidence to one request: the digest that the device's TPM signs, and the proof of activation.

use ca_core::id::{ProfileName, TenantId};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

const LABEL: &[u8] = b"sealwright-attest-v1\0";
const ACTIVATE: &[u8] = b"activate\0";

/// Names a session: 16 random octets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// From the wire; `None` when it has not 16 octets.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", hex::encode(self.0))
    }
}

/// The digest that evidence must carry as its freshness value: it binds nonce, session, key, profile and tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding(pub [u8; 32]);

impl Binding {
    /// SHA-256 over the label and the fields, each preceded by its length as a big-endian u32.
    pub fn new(
        nonce: &[u8; 32],
        session: &SessionId,
        csr_spki_sha256: &[u8; 32],
        profile: &ProfileName,
        tenant: &TenantId,
    ) -> Self {
        let fields: [&[u8]; 5] =
            [nonce, &session.0, csr_spki_sha256, profile.as_str().as_bytes(), tenant.as_str().as_bytes()];
        let mut digest = Sha256::new_with_prefix(LABEL);
        for field in fields {
            digest.update(length(field));
            digest.update(field);
        }
        Self(digest.finalize().into())
    }
}

/// The length as a big-endian u32. No field here comes near 4 GiB.
pub(crate) fn length(field: &[u8]) -> [u8; 4] {
    u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// HMAC-SHA256 under the activated secret over "activate", a zero octet, session and binding: it shows that the TPM
/// gave out the secret without sending the secret back.
pub fn activation_mac(secret: &[u8; 32], session: &SessionId, binding: &Binding) -> [u8; 32] {
    // HMAC takes keys of every length, so the empty result that would follow an error does not occur; and an
    // all-zero value is never accepted below either.
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(secret) else { return [0; 32] };
    mac.update(ACTIVATE);
    mac.update(&session.0);
    mac.update(&binding.0);
    mac.finalize().into_bytes().into()
}

/// Compares a received activation MAC in constant time.
pub fn activation_mac_matches(received: &[u8], secret: &[u8; 32], session: &SessionId, binding: &Binding) -> bool {
    let expected = activation_mac(secret, session, binding);
    expected != [0; 32] && bool::from(expected.as_slice().ct_eq(received))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn binding(nonce: u8, session: u8, spki: u8, profile: &str, tenant: &str) -> Binding {
        Binding::new(
            &[nonce; 32],
            &SessionId([session; 16]),
            &[spki; 32],
            &ProfileName::new(profile).unwrap(),
            &TenantId::new(tenant).unwrap(),
        )
    }

    #[test]
    fn is_what_the_wire_contract_says() {
        let mut bytes = b"sealwright-attest-v1\0".to_vec();
        for field in [&[1u8; 32][..], &[2; 16], &[3; 32], b"tls-client", b"default"] {
            bytes.extend((field.len() as u32).to_be_bytes());
            bytes.extend(field);
        }
        assert_eq!(binding(1, 2, 3, "tls-client", "default").0, <[u8; 32]>::from(Sha256::digest(&bytes)));
    }

    #[test]
    fn each_field_counts_and_none_runs_into_the_next() {
        let base = binding(1, 2, 3, "ab", "c");
        for other in [
            binding(9, 2, 3, "ab", "c"),
            binding(1, 9, 3, "ab", "c"),
            binding(1, 2, 9, "ab", "c"),
            binding(1, 2, 3, "a", "bc"),
            binding(1, 2, 3, "ab", "d"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn the_mac_is_bound_to_secret_session_and_binding() {
        let (secret, session, b) = ([5; 32], SessionId([6; 16]), binding(1, 2, 3, "p", "t"));
        let mac = activation_mac(&secret, &session, &b);
        assert!(activation_mac_matches(&mac, &secret, &session, &b));
        assert!(!activation_mac_matches(&mac, &[4; 32], &session, &b));
        assert!(!activation_mac_matches(&mac, &secret, &SessionId([7; 16]), &b));
        assert!(!activation_mac_matches(&mac, &secret, &session, &binding(2, 2, 3, "p", "t")));
        assert!(!activation_mac_matches(&mac[..31], &secret, &session, &b));
        assert!(!activation_mac_matches(&[], &secret, &session, &b));
    }
}
