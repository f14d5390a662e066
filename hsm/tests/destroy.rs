//! The end of a key.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use ca_core::key::KeyAlgorithm;
use hsm::HsmError;
use support::{id, open, pkcs11_tool, request};

#[test]
fn a_destroyed_key_is_gone_for_everybody() {
    softhsm::test::in_child("a_destroyed_key_is_gone_for_everybody", || {
        let token = open();
        let key = token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
        token.generate(&request(2, KeyAlgorithm::EcP256)).unwrap();
        token.prove(&id(1), &key.public_key).unwrap();
        token.destroy(&id(1)).unwrap();
        assert_eq!(token.destroy(&id(1)).unwrap_err(), HsmError::KeyMissing { id: id(1) });
        assert_eq!(token.prove(&id(1), &key.public_key).unwrap_err(), HsmError::KeyMissing { id: id(1) });
        assert_eq!(token.list().unwrap().iter().map(|key| key.id).collect::<Vec<_>>(), [id(2)]);
        let seen = pkcs11_tool(&["--list-objects"]);
        assert!(seen.contains("key 2") && !seen.contains("key 1"), "{seen}");
    });
}
