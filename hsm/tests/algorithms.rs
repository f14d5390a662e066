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
                token.sign(SignRequest { key: id(1), algorithm, message }).unwrap()
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
        let refused = token.sign(SignRequest { key: id(1), algorithm: S::MlDsa65, message }).unwrap_err();
        assert_eq!(refused, HsmError::Unsupported { what: "ML-DSA-65 signatures".to_owned() });
    });
}
