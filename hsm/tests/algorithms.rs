//! Each way of signing, on a real token and judged by the service's verifier, which is another library than the token's.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use ca_core::key::{KeyAlgorithm, SignatureAlgorithm as S, Verifier};
use hsm::{HsmError, SignRequest};
use support::{id, open, request};

#[test]
fn one_rsa_key_signs_in_both_paddings() {
    softhsm::test::in_child("one_rsa_key_signs_in_both_paddings", || {
        let token = open();
        let key = token.generate(&request(1, KeyAlgorithm::Rsa(3072))).unwrap().public_key;
        for algorithm in
            [S::RsaPkcs1Sha256, S::RsaPkcs1Sha384, S::RsaPkcs1Sha512, S::RsaPssSha256, S::RsaPssSha384, S::RsaPssSha512]
        {
            assert!(token.info().algorithms.contains(&algorithm), "{algorithm}");
            let sign = || {
                let message = b"to be signed".to_vec();
                token.sign(SignRequest { key: id(1), public_key: key.clone(), algorithm, message }).unwrap()
            };
            let (first, second) = (sign(), sign());
            let salted = matches!(algorithm, S::RsaPssSha256 | S::RsaPssSha384 | S::RsaPssSha512);
            assert_eq!(first != second, salted, "{algorithm}: PSS has a new salt each time");
            for other in S::ALL.into_iter().filter(|other| key.algorithm().signs_with(*other)) {
                let verifier = Verifier::new(&key, other).unwrap();
                assert_eq!(
                    verifier.verify(b"to be signed", &first).is_ok(),
                    other == algorithm,
                    "{algorithm} as {other}"
                );
                assert!(verifier.verify(b"something else", &first).is_err());
            }
        }
    });
}

#[test]
fn a_token_without_ml_dsa_says_so() {
    softhsm::test::in_child("a_token_without_ml_dsa_says_so", || {
        let token = open();
        assert!(!token.info().algorithms.contains(&S::MlDsa65));
        let refused = token.generate(&request(1, KeyAlgorithm::MlDsa65)).unwrap_err();
        assert_eq!(refused, HsmError::Unsupported { what: "ML-DSA-65 keys".to_owned() });
        let message = b"to be signed".to_vec();
        let public_key = support::key(&token);
        let refused = token.sign(SignRequest { key: id(1), public_key, algorithm: S::MlDsa65, message }).unwrap_err();
        assert_eq!(refused, HsmError::Unsupported { what: "ML-DSA-65 signatures".to_owned() });
    });
}

#[test]
fn ml_dsa_keys_are_made_found_and_sign() {
    softhsm::test::in_child_on(softhsm::Kind::Kryoptic, "ml_dsa_keys_are_made_found_and_sign", || {
        let token = open();
        for (n, key, algorithm, octets) in [
            (1, KeyAlgorithm::MlDsa44, S::MlDsa44, 2420),
            (2, KeyAlgorithm::MlDsa65, S::MlDsa65, 3309),
            (3, KeyAlgorithm::MlDsa87, S::MlDsa87, 4627),
        ] {
            assert!(token.info().algorithms.contains(&algorithm), "{algorithm}");
            let made = token.generate(&request(n, key)).unwrap();
            assert_eq!((made.public_key.algorithm(), made.attributes.flaw()), (key, None));
            assert_eq!(token.find(&id(n)).unwrap(), made);
            token.prove(&id(n), &made.public_key).unwrap();
            let verifier = Verifier::new(&made.public_key, algorithm).unwrap();
            let sign = |algorithm, length| {
                let public_key = made.public_key.clone();
                token.sign(SignRequest { key: id(n), public_key, algorithm, message: vec![7; length] })
            };
            for length in [1, 4096, 1 << 20] {
                let (first, second) = (sign(algorithm, length).unwrap(), sign(algorithm, length).unwrap());
                assert_eq!(first.len(), octets);
                assert_ne!(first, second, "the token adds randomness");
                assert_eq!(verifier.verify(&vec![7; length], &first), Ok(()));
                assert!(verifier.verify(&vec![8; length], &second).is_err());
            }
            let other = if algorithm == S::MlDsa65 { S::MlDsa44 } else { S::MlDsa65 };
            assert!(matches!(sign(other, 1), Err(HsmError::AlgorithmMismatch { .. })));
        }
        assert_eq!(token.list().unwrap().len(), 3);
    });
}

/// The same on the second token: its mechanisms for PSS are those that hash as well as the raw one.
#[test]
fn kryoptic_signs_with_every_other_algorithm() {
    softhsm::test::in_child_on(softhsm::Kind::Kryoptic, "kryoptic_signs_with_every_other_algorithm", || {
        let token = open();
        let kinds = [
            KeyAlgorithm::EcP256,
            KeyAlgorithm::EcP384,
            KeyAlgorithm::EcP521,
            KeyAlgorithm::Ed25519,
            KeyAlgorithm::Rsa(2048),
        ];
        for (n, kind) in (1..).zip(kinds) {
            let key = token.generate(&request(n, kind)).unwrap().public_key;
            for algorithm in S::ALL.into_iter().filter(|algorithm| kind.signs_with(*algorithm)) {
                let message = b"to be signed".to_vec();
                let signature =
                    token.sign(SignRequest { key: id(n), public_key: key.clone(), algorithm, message }).unwrap();
                assert_eq!(key.verify(algorithm, b"to be signed", &signature), Ok(()), "{algorithm}");
            }
        }
    });
}
