//! Keys and signatures on a real token.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[macro_use]
mod support;

use ca_core::key::{KeyAlgorithm, SignatureAlgorithm};
use hsm::{HsmError, KeyRequest, Pin, SignRequest, Token, TokenConfig, TokenUri, TokensConfig};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use support::{config, id, one, open, pin_file, pkcs11_tool, program, request, signing, signing_with, with};

const ALL: [KeyAlgorithm; 6] = [
    KeyAlgorithm::EcP256,
    KeyAlgorithm::EcP384,
    KeyAlgorithm::EcP521,
    KeyAlgorithm::Ed25519,
    KeyAlgorithm::Rsa(2048),
    KeyAlgorithm::Rsa(3072),
];

on_both_tokens!(every_algorithm_generates_signs_and_verifies, {
    let token = open();
    for (n, algorithm) in (1u8..).zip(ALL) {
        let key = token.generate(&request(n, algorithm)).unwrap();
        assert_eq!(key.public_key.algorithm(), algorithm);
        assert_eq!(token.find(&id(n)).unwrap(), key);
        token.prove(&id(n), &key.public_key).unwrap();
        for signature_algorithm in token.info().algorithms {
            let message = b"to be signed".to_vec();
            let asked = SignRequest {
                key: id(n),
                public_key: key.public_key.clone(),
                algorithm: signature_algorithm,
                message: message.clone(),
            };
            match token.sign(asked) {
                Ok(signature) => {
                    key.public_key.verify(signature_algorithm, &message, &signature).unwrap();
                    assert!(key.public_key.verify(signature_algorithm, b"another", &signature).is_err());
                }
                Err(error) => {
                    assert!(matches!(error, HsmError::AlgorithmMismatch { .. }), "{error}");
                    assert_ne!(signature_algorithm, algorithm.signature_algorithm());
                }
            }
        }
    }
    assert_eq!(token.list().unwrap().len(), ALL.len());
    // 3 kinds of EC key with 3 digests, 2 of RSA with 3 in two paddings, Ed25519, and one proof each.
    assert_eq!(token.statistics().signatures, 9 + 12 + 1 + 6);
});

#[test]
fn short_ecdsa_integers_verify() {
    softhsm::test::in_child("short_ecdsa_integers_verify", || {
        let token = open();
        let key = token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
        // About one signature in 256 has an r or s with a leading zero octet and the other no padding.
        let short = (0..20_000u32).find(|n| {
            let message = n.to_be_bytes().to_vec();
            let algorithm = SignatureAlgorithm::EcdsaSha256;
            let public_key = key.public_key.clone();
            let signature =
                token.sign(SignRequest { key: id(1), public_key, algorithm, message: message.clone() }).unwrap();
            key.public_key.verify(algorithm, &message, &signature).unwrap();
            signature.len() < 70
        });
        assert!(short.is_some());
    });
}

on_both_tokens!(a_new_key_cannot_leave_the_token, {
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

on_both_tokens!(a_key_from_outside_does_not_sign, {
    let token = open();
    // Made by another tool as extractable: present, described, and refused.
    pkcs11_tool(&["--keypairgen", "--key-type", "EC:prime256v1", "--id", &id(7).to_string(), "--extractable"]);
    let key = token.find(&id(7)).unwrap();
    assert!(key.attributes.extractable);
    let refused = token.sign(signing(7, &key.public_key)).unwrap_err();
    assert!(matches!(refused, HsmError::KeyUnsuitable { .. }), "{refused}");
});

on_both_tokens!(an_id_or_label_is_given_once, {
    let token = open();
    let key = token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap().public_key;
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
    assert_eq!(token.sign(signing(1, &key)).unwrap_err(), ambiguous);
});

on_both_tokens!(a_wrong_pin_is_tried_once, {
    let state_dir = Some(softhsm::test::token().dir);
    let wrong = TokenConfig { workers: Some(3), pin: pin_file("wrong", "wrong-9999"), ..one() };
    let wrong = Token::open(TokensConfig { state_dir: state_dir.clone(), ..with(wrong) }).unwrap_err();
    assert_eq!(wrong, HsmError::PinWrong);
    assert!(!wrong.is_retryable());
    // SoftHSM never locks and would take the right PIN now: the refusal is ours, without a second attempt.
    let right = || Token::open(TokensConfig { state_dir: state_dir.clone(), ..config() });
    for _ in 0..3 {
        assert_eq!(right().unwrap_err(), HsmError::PinLockedOut);
    }
    assert!(
        hsm::unlock(
            &softhsm::test::token().dir,
            &TokenConfig { workers: Some(3), pin: pin_file("wrong", "wrong-9999"), ..one() }
        )
        .unwrap()
    );
    assert_eq!(right().unwrap().statistics().logins, 1);
});

#[test]
fn a_token_is_selected_by_name_alone() {
    softhsm::test::in_child("a_token_is_selected_by_name_alone", || {
        let ours = softhsm::test::token();
        let named = |uri: &str| Token::open(with(TokenConfig { uri: uri.parse().unwrap(), ..one() }));
        assert!(matches!(named("pkcs11:token=nobody"), Err(HsmError::TokenNotFound { .. })));
        let by_slot = named("pkcs11:token=throwaway;slot-id=0");
        assert!(matches!(by_slot, Err(HsmError::Configuration { field, .. }) if field == "uri"));
        assert!(matches!(named("pkcs11:token=throwaway;model=other"), Err(HsmError::TokenNotFound { .. })));
        let exact = format!("pkcs11:serial={};model=SoftHSM%20v2;manufacturer=SoftHSM%20project", ours.serial);
        assert_eq!(named(&exact).unwrap().info().serial, ours.serial);
        assert_eq!(TokenUri::from_label("throwaway").unwrap(), one().uri);
        // A second token of the same label: only the serial tells them apart.
        softhsm::ThrowawayToken::create(&ours.dir, &ours.label, &ours.pin).unwrap();
        assert!(matches!(named("pkcs11:token=throwaway"), Err(HsmError::TokenAmbiguous { count: 2, .. })));
        assert_eq!(named(&exact).unwrap().info().serial, ours.serial);
    });
}

on_both_tokens!(configuration_errors_name_their_field, {
    for (bad, field) in [
        (with(TokenConfig { sessions: Some(0), ..one() }), "sessions"),
        (with(TokenConfig { workers: Some(17), ..one() }), "workers"),
        (with(TokenConfig { environment: vec![("A=B".into(), String::new())], ..one() }), "environment"),
        (TokensConfig { queue: 0, ..config() }, "queue"),
        (TokensConfig { deadline: Duration::ZERO, ..config() }, "deadline"),
        (TokensConfig { tokens: Vec::new(), ..config() }, "tokens"),
        (TokensConfig { exceptions: vec![id(1); 257], ..config() }, "exceptions"),
    ] {
        assert!(matches!(Token::open(bad), Err(HsmError::Configuration { field: f, .. }) if f == field));
    }
    for module in ["libsofthsm2.so", "/nonexistent.so", "/etc/passwd"] {
        let error = Token::open(with(TokenConfig { module: module.into(), ..one() })).unwrap_err();
        assert!(matches!(error, HsmError::Module { .. }), "{error}");
    }
    let open = pin_file("open", "1234");
    let hsm::PinSource::File(path) = &open else { panic!() };
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    for pin in [open, hsm::PinSource::File("/nonexistent".into()), hsm::PinSource::Credential("x".into())] {
        let error = Token::open(with(TokenConfig { pin, ..one() })).unwrap_err();
        assert!(matches!(error, HsmError::PinSource(_)), "{error}");
    }
});

#[test]
fn a_token_is_initialised_through_the_module() {
    softhsm::test::in_child("a_token_is_initialised_through_the_module", || {
        let module = softhsm::find_module().unwrap();
        let before = open();
        let (officer, pin) = (Pin::new("officer-1".into()).unwrap(), Pin::new("fresh-1234".into()).unwrap());
        let init = || hsm::init_token(&program(), &module, &[], "fresh", &officer, &pin);
        let uri = init().unwrap();
        assert!(uri.serial().is_some());
        let config = TokenConfig::new(module.clone(), uri, pin_file("fresh", "fresh-1234"));
        let fresh = Token::open(with(config)).unwrap();
        fresh.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
        before.generate(&request(1, KeyAlgorithm::Ed25519)).unwrap();
        assert_eq!(fresh.find(&id(1)).unwrap().public_key.algorithm(), KeyAlgorithm::EcP256);
        assert!(matches!(init(), Err(HsmError::TokenExists { .. })));
    });
}

on_both_tokens!(a_queue_has_a_bound_and_every_request_an_answer, {
    let token = Token::open(TokensConfig { queue: 8, ..config() }).unwrap();
    let key = token.generate(&request(1, KeyAlgorithm::Rsa(2048))).unwrap().public_key;
    let (sender, receiver) = channel();
    let begun = Instant::now();
    for _ in 0..200 {
        let sender = sender.clone();
        token.submit(signing(1, &key), Box::new(move |result| sender.send(result).unwrap()));
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

on_both_tokens!(a_caller_behind_a_slow_call_is_answered_at_its_deadline, {
    let deadline = Duration::from_millis(40);
    let token = Token::open(TokensConfig { deadline, ..config() }).unwrap();
    let key = token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap().public_key;
    let slow = token.clone();
    let busy = std::thread::spawn(move || {
        for n in 2..6 {
            slow.generate(&request(n, KeyAlgorithm::Rsa(4096))).unwrap();
        }
    });
    let mut met = 0;
    while !busy.is_finished() {
        let asked = Instant::now();
        match token.sign(signing(1, &key)) {
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
    token.sign(signing(1, &key)).unwrap();
    assert_eq!(token.statistics().hangs, 0, "a signer that makes a key is not taken for hung");
});

on_both_tokens!(closing_answers_what_waits, {
    let token = open();
    let key = token.generate(&request(1, KeyAlgorithm::EcP384)).unwrap().public_key;
    let (sender, receiver) = channel();
    for _ in 0..100 {
        let sender = sender.clone();
        let request = signing_with(1, &key, SignatureAlgorithm::EcdsaSha384);
        token.submit(request, Box::new(move |r| sender.send(r).unwrap()));
    }
    drop((token, sender));
    let answers: Vec<_> = receiver.iter().collect();
    assert_eq!(answers.len(), 100);
    assert!(answers.iter().all(|a| matches!(a, Ok(_) | Err(HsmError::Closed))));
    // And it opens again in the same process.
    open().health().unwrap();
});

on_both_tokens!(several_sessions_and_workers_share_the_work, {
    let token = Token::open(with(TokenConfig { workers: Some(2), sessions: Some(3), ..one() })).unwrap();
    let key = token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap().public_key;
    let begun = Instant::now();
    while token.status()[0].workers < 2 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
    let (sender, receiver) = channel();
    for _ in 0..600 {
        let sender = sender.clone();
        token.submit(signing(1, &key), Box::new(move |result| sender.send(result).unwrap()));
    }
    drop(sender);
    let failures: Vec<_> = receiver.iter().filter(Result::is_err).collect();
    assert_eq!(failures, []);
    let status = token.status().remove(0);
    assert_eq!((status.workers, status.sessions, status.statistics.logins), (2, 6, 2));
});

on_both_tokens!(the_service_process_has_no_module, {
    let token = open();
    let key = token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap().public_key;
    token.sign(signing(1, &key)).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let module = softhsm::test::token().module;
    let name = module.file_name().unwrap().to_str().unwrap();
    assert!(!maps.contains(name), "{maps}");
});
