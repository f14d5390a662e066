//! Keys and signatures on a real token.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use ca_core::key::{KeyAlgorithm, SignatureAlgorithm};
use hsm::{HsmError, KeyRequest, Pin, SignRequest, Token, TokenConfig, TokenUri};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use support::{config, id, open, pkcs11_tool, request};

const ALL: [KeyAlgorithm; 6] = [
    KeyAlgorithm::EcP256,
    KeyAlgorithm::EcP384,
    KeyAlgorithm::EcP521,
    KeyAlgorithm::Ed25519,
    KeyAlgorithm::Rsa(2048),
    KeyAlgorithm::Rsa(3072),
];

#[test]
fn every_algorithm_generates_signs_and_verifies() {
    softhsm::test::in_child("every_algorithm_generates_signs_and_verifies", || {
        let token = open();
        for (n, algorithm) in (1u8..).zip(ALL) {
            let key = token.generate(&request(n, algorithm)).unwrap();
            assert_eq!(key.public_key.algorithm(), algorithm);
            assert_eq!(token.find(&id(n)).unwrap(), key);
            token.prove(&id(n), &key.public_key).unwrap();
            for signature_algorithm in token.info().algorithms {
                let message = b"to be signed".to_vec();
                let asked = SignRequest { key: id(n), algorithm: signature_algorithm, message: message.clone() };
                match token.sign(asked) {
                    Ok(signature) => {
                        key.public_key.verify(signature_algorithm, &message, &signature).unwrap();
                        assert!(key.public_key.verify(signature_algorithm, b"another", &signature).is_err());
                    }
                    Err(error) => {
                        assert_eq!(
                            error,
                            HsmError::AlgorithmMismatch { key: algorithm, algorithm: signature_algorithm }
                        );
                        assert_ne!(signature_algorithm, algorithm.signature_algorithm());
                    }
                }
            }
        }
        assert_eq!(token.list().unwrap().len(), ALL.len());
        // 3 kinds of EC key with 3 digests, 2 of RSA with 3 in two paddings, Ed25519, and one proof each.
        assert_eq!(token.statistics().signatures, 9 + 12 + 1 + 6);
    });
}

#[test]
fn short_ecdsa_integers_verify() {
    softhsm::test::in_child("short_ecdsa_integers_verify", || {
        let token = open();
        let key = token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
        // About one signature in 256 has an r or s with a leading zero octet and the other no padding.
        let short = (0..20_000u32).find(|n| {
            let message = n.to_be_bytes().to_vec();
            let algorithm = SignatureAlgorithm::EcdsaSha256;
            let signature = token.sign(SignRequest { key: id(1), algorithm, message: message.clone() }).unwrap();
            key.public_key.verify(algorithm, &message, &signature).unwrap();
            signature.len() < 70
        });
        assert!(short.is_some());
    });
}

#[test]
fn a_new_key_cannot_leave_the_token() {
    softhsm::test::in_child("a_new_key_cannot_leave_the_token", || {
        let token = open();
        let key = token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
        let found = key.attributes;
        assert_eq!(found.flaw(), None);
        assert!(found.sensitive && found.always_sensitive && found.never_extractable && found.local);
        assert!(!found.extractable && !found.modifiable && !found.copyable && !found.other_use);
        // A foreign tool's view of the same key.
        let seen = pkcs11_tool(&["--list-objects", "--type", "privkey"]);
        assert!(seen.contains("sensitive, always sensitive, never extractable, local"), "{seen}");
        let usage = seen.lines().find(|l| l.trim_start().starts_with("Usage:")).unwrap();
        assert_eq!(usage.split_once(':').unwrap().1.trim(), "sign");
    });
}

#[test]
fn a_key_from_outside_does_not_sign() {
    softhsm::test::in_child("a_key_from_outside_does_not_sign", || {
        let token = open();
        // Made by another tool as extractable: present, described, and refused.
        pkcs11_tool(&["--keypairgen", "--key-type", "EC:prime256v1", "--id", &id(7).to_string(), "--extractable"]);
        let key = token.find(&id(7)).unwrap();
        assert!(key.attributes.extractable);
        let refused = token.sign(sign(7)).unwrap_err();
        assert!(matches!(refused, HsmError::KeyUnsuitable { .. }), "{refused}");
    });
}

#[test]
fn an_id_or_label_is_given_once() {
    softhsm::test::in_child("an_id_or_label_is_given_once", || {
        let token = open();
        token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
        let same_id = KeyRequest { label: "other".into(), ..request(1, KeyAlgorithm::EcP256) };
        let same_label = KeyRequest { id: id(2), ..request(1, KeyAlgorithm::EcP256) };
        for twice in [same_id, same_label] {
            assert!(matches!(token.generate(&twice), Err(HsmError::KeyExists { .. })));
        }
        assert_eq!(token.list().unwrap().len(), 1);
        // PKCS#11 itself allows it: somebody else makes a second pair with the id.
        pkcs11_tool(&["--keypairgen", "--key-type", "EC:prime256v1", "--id", &id(1).to_string(), "--label", "twin"]);
        let ambiguous = HsmError::KeyAmbiguous { id: id(1), private: 2, public: 2 };
        assert_eq!(token.find(&id(1)).unwrap_err(), ambiguous);
        assert_eq!(token.list().unwrap_err(), ambiguous);
        assert_eq!(token.sign(sign(1)).unwrap_err(), ambiguous);
    });
}

#[test]
fn a_wrong_pin_is_tried_once() {
    softhsm::test::in_child("a_wrong_pin_is_tried_once", || {
        let wrong = Token::open(config(), Pin::new("wrong-9999".into()).unwrap()).unwrap_err();
        assert_eq!(wrong, HsmError::PinWrong);
        assert!(!wrong.is_retryable());
        // SoftHSM never locks and would take the right PIN now: the refusal is ours, without a second attempt.
        let right = Pin::new(softhsm::test::PIN.into()).unwrap();
        for _ in 0..3 {
            assert_eq!(Token::open(config(), right.clone()).unwrap_err(), HsmError::PinLockedOut);
        }
    });
}

#[test]
fn a_token_is_selected_by_name_alone() {
    softhsm::test::in_child("a_token_is_selected_by_name_alone", || {
        let ours = softhsm::test::token();
        let pin = || Pin::new(ours.pin.clone()).unwrap();
        let with = |uri: &str| Token::open(TokenConfig { uri: uri.parse().unwrap(), ..config() }, pin());
        assert!(matches!(with("pkcs11:token=nobody"), Err(HsmError::TokenNotFound { .. })));
        assert!(matches!(with("pkcs11:token=throwaway;slot-id=0"), Err(HsmError::Configuration { field: "uri", .. })));
        assert!(matches!(with("pkcs11:token=throwaway;model=other"), Err(HsmError::TokenNotFound { .. })));
        let exact = format!("pkcs11:serial={};model=SoftHSM%20v2;manufacturer=SoftHSM%20project", ours.serial);
        assert_eq!(with(&exact).unwrap().info().serial, ours.serial);
        assert_eq!(TokenUri::from_label("throwaway").unwrap(), config().uri);
        // A second token of the same label: only the serial tells them apart.
        softhsm::ThrowawayToken::create(&ours.dir, &ours.label, &ours.pin).unwrap();
        assert!(matches!(with("pkcs11:token=throwaway"), Err(HsmError::TokenAmbiguous { count: 2, .. })));
        assert_eq!(with(&exact).unwrap().info().serial, ours.serial);
    });
}

#[test]
fn configuration_errors_name_their_field() {
    softhsm::test::in_child("configuration_errors_name_their_field", || {
        let pin = || Pin::new("1234".into()).unwrap();
        for (bad, field) in [
            (TokenConfig { sessions: 0, ..config() }, "sessions"),
            (TokenConfig { queue: 0, ..config() }, "queue"),
            (TokenConfig { deadline: Duration::ZERO, ..config() }, "deadline"),
        ] {
            assert!(matches!(Token::open(bad, pin()), Err(HsmError::Configuration { field: f, .. }) if f == field));
        }
        for module in ["libsofthsm2.so", "/nonexistent.so", "/etc/passwd"] {
            let error = Token::open(TokenConfig { module: module.into(), ..config() }, pin()).unwrap_err();
            assert!(matches!(error, HsmError::Module { .. }), "{error}");
        }
    });
}

#[test]
fn a_token_is_initialised_through_the_module() {
    softhsm::test::in_child("a_token_is_initialised_through_the_module", || {
        let module = softhsm::find_module().unwrap();
        let before = open();
        let pin = Pin::new("fresh-1234".into()).unwrap();
        let uri = hsm::init_token(&module, "fresh", &Pin::new("officer-1".into()).unwrap(), &pin).unwrap();
        assert!(uri.serial().is_some());
        let fresh = Token::open(TokenConfig::new(module.clone(), uri), pin.clone()).unwrap();
        fresh.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
        // The library was finalised under the other token, which recovers.
        before.generate(&request(1, KeyAlgorithm::Ed25519)).unwrap();
        assert_eq!(fresh.find(&id(1)).unwrap().public_key.algorithm(), KeyAlgorithm::EcP256);
        assert!(matches!(hsm::init_token(&module, "fresh", &pin, &pin), Err(HsmError::TokenExists { .. })));
    });
}

#[test]
fn a_queue_has_a_bound_and_every_request_an_answer() {
    softhsm::test::in_child("a_queue_has_a_bound_and_every_request_an_answer", || {
        let pin = Pin::new(softhsm::test::PIN.into()).unwrap();
        let token = Token::open(TokenConfig { queue: 8, ..config() }, pin).unwrap();
        token.generate(&request(1, KeyAlgorithm::Rsa(2048))).unwrap();
        let (sender, receiver) = channel();
        let begun = Instant::now();
        for _ in 0..200 {
            let sender = sender.clone();
            let algorithm = SignatureAlgorithm::RsaPkcs1Sha256;
            let request = SignRequest { key: id(1), algorithm, message: b"m".to_vec() };
            token.submit(request, Box::new(move |result| sender.send(result).unwrap()));
        }
        drop(sender);
        assert!(begun.elapsed() < Duration::from_secs(3), "submitting does not block");
        let answers: Vec<_> = receiver.iter().collect();
        assert_eq!(answers.len(), 200);
        let refused = answers.iter().filter(|a| matches!(a, Err(HsmError::Busy { .. }))).count();
        let made = answers.iter().filter(|a| a.is_ok()).count();
        assert!(refused > 0 && made >= 8 && refused + made == 200, "{refused} refused, {made} made");
        assert_eq!(token.statistics().refused, u64::try_from(refused).unwrap());
        assert_eq!(token.statistics().queued, 0);
    });
}

#[test]
fn a_caller_behind_a_slow_call_is_answered_at_its_deadline() {
    softhsm::test::in_child("a_caller_behind_a_slow_call_is_answered_at_its_deadline", || {
        let deadline = Duration::from_millis(40);
        let pin = Pin::new(softhsm::test::PIN.into()).unwrap();
        let token = Token::open(TokenConfig { deadline, ..config() }, pin).unwrap();
        token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
        let slow = token.clone();
        let busy = std::thread::spawn(move || {
            for n in 2..6 {
                slow.generate(&request(n, KeyAlgorithm::Rsa(4096))).unwrap();
            }
        });
        let mut met = 0;
        while !busy.is_finished() {
            let asked = Instant::now();
            match token.sign(sign(1)) {
                Ok(_) => {}
                Err(HsmError::Deadline { after }) => {
                    assert_eq!(after, deadline);
                    met += 1;
                }
                Err(other) => panic!("{other}"),
            }
            assert!(asked.elapsed() < deadline + Duration::from_secs(1), "{:?}", asked.elapsed());
        }
        busy.join().unwrap();
        assert!(met > 0, "the token was never slow enough");
        token.sign(sign(1)).unwrap();
        assert_eq!(token.statistics().stuck, 0);
    });
}

#[test]
fn closing_answers_what_waits() {
    softhsm::test::in_child("closing_answers_what_waits", || {
        let token = open();
        token.generate(&request(1, KeyAlgorithm::EcP384)).unwrap();
        let (sender, receiver) = channel();
        for _ in 0..100 {
            let sender = sender.clone();
            token.submit(sign_with(1, SignatureAlgorithm::EcdsaSha384), Box::new(move |r| sender.send(r).unwrap()));
        }
        drop((token, sender));
        let answers: Vec<_> = receiver.iter().collect();
        assert_eq!(answers.len(), 100);
        assert!(answers.iter().all(|a| matches!(a, Ok(_) | Err(HsmError::Closed))));
        // And it opens again in the same process.
        open().health().unwrap();
    });
}

fn sign(n: u8) -> SignRequest {
    sign_with(n, SignatureAlgorithm::EcdsaSha256)
}

fn sign_with(n: u8, algorithm: SignatureAlgorithm) -> SignRequest {
    SignRequest { key: id(n), algorithm, message: b"message".to_vec() }
}
