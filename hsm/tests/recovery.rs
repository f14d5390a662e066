//! Faults of a real token: absent tokens, changed PINs, deleted, replaced and swapped keys, killed signers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use ca_core::key::KeyAlgorithm;
use hsm::{HsmError, Token, TokenConfig, TokenState, TokensConfig};
use std::fs;
use std::time::{Duration, Instant};
use support::{config, id, key, kill_keeper, kill_signers, one, open, pkcs11_tool, request, sign, signing, with};

/// Asks until it is done; every refusal must say that it is worth asking again.
fn comes_back(within: Duration, mut ask: impl FnMut() -> Result<(), HsmError>) -> Duration {
    let begun = Instant::now();
    while let Err(error) = ask() {
        assert!(error.is_retryable(), "{error}");
        assert!(begun.elapsed() < within, "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
    begun.elapsed()
}

#[test]
fn an_absent_token_is_unavailable_and_comes_back() {
    softhsm::test::in_child("an_absent_token_is_unavailable_and_comes_back", || {
        let token = open();
        let public = key(&token);
        let dir = softhsm::test::token().dir;
        let (here, away) = (dir.join("tokens"), dir.join("away"));
        for _ in 0..2 {
            fs::rename(&here, &away).unwrap();
            fs::create_dir(&here).unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(1500) {
                let asked = Instant::now();
                let error = sign(&token, &public).unwrap_err();
                assert!(matches!(error, HsmError::Unavailable { .. }), "{error}");
                assert!(error.is_retryable() && error.retry_after().unwrap() <= Duration::from_secs(1));
                assert!(asked.elapsed() < Duration::from_secs(1), "answered at once, not at the deadline");
                assert!(token.health().is_err());
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(matches!(token.status()[0].state, TokenState::Down(_)));
            fs::remove_dir(&here).unwrap();
            fs::rename(&away, &here).unwrap();
            comes_back(Duration::from_secs(5), || sign(&token, &public));
            token.health().unwrap();
        }
    });
}

#[test]
fn a_killed_signer_is_replaced_and_nobody_notices() {
    softhsm::test::in_child("a_killed_signer_is_replaced_and_nobody_notices", || {
        let token = open();
        let public = key(&token);
        for n in 1..=5 {
            kill_signers();
            let asked = Instant::now();
            sign(&token, &public).unwrap();
            assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
            assert_eq!(token.statistics().crashes, n);
        }
        assert_eq!(token.statistics().logins, 6);
    });
}

#[test]
fn a_killed_keeper_is_replaced() {
    softhsm::test::in_child("a_killed_keeper_is_replaced", || {
        let token = open();
        let public = key(&token);
        for starts in 2..5 {
            kill_keeper();
            let begun = Instant::now();
            while token.statistics().starts < starts {
                assert!(begun.elapsed() < Duration::from_secs(5), "no new signer");
                std::thread::sleep(Duration::from_millis(10));
            }
            comes_back(Duration::from_secs(5), || sign(&token, &public));
        }
    });
}

#[test]
fn a_login_lost_to_a_changed_pin_is_not_repeated() {
    softhsm::test::in_child("a_login_lost_to_a_changed_pin_is_not_repeated", || {
        let state_dir = Some(softhsm::test::token().dir);
        let token = Token::open(TokensConfig { state_dir, ..with(TokenConfig { workers: Some(2), ..one() }) }).unwrap();
        let public = key(&token);
        pkcs11_tool(&["--change-pin", "--new-pin", "changed-5678"]);
        let begun = Instant::now();
        while token.status()[0].workers < 2 && begun.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(5));
        }
        kill_signers();
        let begun = Instant::now();
        while token.status()[0].state != TokenState::LockedOut {
            let _ = sign(&token, &public);
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
        let before = token.statistics();
        assert_eq!(before.wrong_pins, 1);
        for _ in 0..5 {
            let error = sign(&token, &public).unwrap_err();
            assert!(matches!(error, HsmError::Unavailable { .. }) && error.to_string().contains("locked out by us"));
        }
        assert_eq!(token.statistics().logins, before.logins, "no further attempt");
        // The operator corrects the PIN and says so; the service goes on without a restart.
        let unlocked = one();
        support::pin_file("pin", "changed-5678");
        assert!(hsm::unlock(&softhsm::test::token().dir, &unlocked).unwrap());
        comes_back(Duration::from_secs(5), || sign(&token, &public));
        assert_eq!(token.statistics().wrong_pins, 1);
    });
}

#[test]
fn a_deleted_key_is_missing_and_the_others_sign_on() {
    softhsm::test::in_child("a_deleted_key_is_missing_and_the_others_sign_on", || {
        let token = open();
        let first = key(&token);
        sign(&token, &first).unwrap();
        let second = token.generate(&request(2, KeyAlgorithm::Ed25519)).unwrap().public_key;
        for kind in ["privkey", "pubkey"] {
            pkcs11_tool(&["--delete-object", "--type", kind, "--id", &id(1).to_string()]);
        }
        for _ in 0..3 {
            assert_eq!(sign(&token, &first), Err(HsmError::KeyMissing { id: id(1) }));
        }
        assert_eq!(token.find(&id(1)).unwrap_err(), HsmError::KeyMissing { id: id(1) });
        token.sign(signing(2, &second)).unwrap();
        // Another process makes it again: found without a restart.
        let fresh = open().generate(&request(1, KeyAlgorithm::EcP256)).unwrap().public_key;
        sign(&token, &fresh).unwrap();
    });
}

#[test]
fn a_replaced_key_does_not_pass_for_the_old_one() {
    softhsm::test::in_child("a_replaced_key_does_not_pass_for_the_old_one", || {
        let token = open();
        let old = key(&token);
        token.prove(&id(1), &old).unwrap();
        token.destroy(&id(1)).unwrap();
        token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
        assert_eq!(token.prove(&id(1), &old), Err(HsmError::KeyMismatch { id: id(1) }));
        // Its signature is not let go either.
        assert_eq!(sign(&token, &old), Err(HsmError::WrongSignature));
        assert!(token.statistics().wrong_signatures > 0);
    });
}

#[test]
fn a_token_is_recognised_by_its_identity_key() {
    softhsm::test::in_child("a_token_is_recognised_by_its_identity_key", || {
        let identity = {
            let token = open();
            key(&token);
            token.enroll(0, id(9)).unwrap()
        };
        let known = |known| Token::open(TokensConfig { known, ..config() });
        let token = known(vec![identity.clone()]).unwrap();
        let public = key(&token);
        sign(&token, &public).unwrap();
        drop(token);
        // A key of the same id that is another: the token was restored or rebuilt.
        for kind in ["privkey", "pubkey"] {
            pkcs11_tool(&["--delete-object", "--type", kind, "--id", &id(9).to_string()]);
        }
        assert!(matches!(known(vec![identity.clone()]), Err(HsmError::WrongToken { .. })));
        let again = open().enroll(0, id(9)).unwrap();
        assert!(matches!(known(vec![identity.clone()]), Err(HsmError::WrongToken { .. })));
        known(vec![again.clone()]).unwrap();
        // Another serial number.
        let other = hsm::Identity { serial: "0123".into(), ..again };
        assert!(matches!(known(vec![other]), Err(HsmError::WrongToken { .. })));
    });
}

#[test]
fn a_swapped_token_is_refused_while_running() {
    softhsm::test::in_child("a_swapped_token_is_refused_while_running", || {
        let identity = open().enroll(0, id(9)).unwrap();
        let token = Token::open(TokensConfig { known: vec![identity], ..config() }).unwrap();
        let public = key(&token);
        let ours = softhsm::test::token();
        let (here, away) = (ours.dir.join("tokens"), ours.dir.join("away"));
        fs::rename(&here, &away).unwrap();
        fs::create_dir(&here).unwrap();
        softhsm::ThrowawayToken::create(&ours.dir, &ours.label, &ours.pin).unwrap();
        let begun = Instant::now();
        while !matches!(token.status()[0].state, TokenState::Down(HsmError::WrongToken { .. })) {
            assert!(matches!(sign(&token, &public), Err(HsmError::Unavailable { .. })));
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", token.status()[0].state);
        }
        fs::remove_dir_all(&here).unwrap();
        fs::rename(&away, &here).unwrap();
        comes_back(Duration::from_secs(5), || sign(&token, &public));
    });
}

#[test]
fn a_token_that_leaves_it_open_is_measured() {
    softhsm::test::in_child("a_token_that_leaves_it_open_is_measured", || {
        let identity = open().enroll(0, id(9)).unwrap();
        let dir = softhsm::test::token().dir;
        let config = || TokensConfig {
            known: vec![identity.clone()],
            state_dir: Some(dir.clone()),
            ..with(TokenConfig { workers: None, sessions: None, ..one() })
        };
        let token = Token::open(config()).unwrap();
        let public = key(&token);
        sign(&token, &public).unwrap();
        let kept: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("token-measured-"))
            .collect();
        assert_eq!(kept.len(), 1);
        let shape = (token.status()[0].workers, token.status()[0].sessions);
        drop(token);
        // The second start takes it up without measuring.
        let begun = Instant::now();
        let token = Token::open(config()).unwrap();
        assert_eq!((token.status()[0].workers, token.status()[0].sessions), shape);
        assert!(token.statistics().signatures < 20, "{:?}", begun.elapsed());
        sign(&token, &public).unwrap();
    });
}

#[test]
fn a_token_put_back_from_a_backup_is_refused() {
    softhsm::test::in_child("a_token_put_back_from_a_backup_is_refused", || {
        let identity = open().enroll(0, id(9)).unwrap();
        let dir = softhsm::test::token().dir;
        let service = || {
            let config = TokensConfig { known: vec![identity.clone()], state_dir: Some(dir.clone()), ..config() };
            Token::open(TokensConfig { serves: true, ..config }).unwrap()
        };
        let started = || {
            let token = service();
            sign(&token, &key(&token)).unwrap();
        };
        started();
        let copy = |from: &str, to: &str| {
            let status = std::process::Command::new("cp").arg("-a").arg(dir.join(from)).arg(dir.join(to)).status();
            assert!(status.unwrap().success());
        };
        copy("tokens", "backup");
        started();
        // The present token is fine as often as one likes, the older copy is not.
        started();
        fs::rename(dir.join("tokens"), dir.join("present")).unwrap();
        copy("backup", "tokens");
        let config = TokensConfig { known: vec![identity.clone()], state_dir: Some(dir.clone()), ..config() };
        let refused = Token::open(config).unwrap_err();
        assert!(matches!(&refused, HsmError::WrongToken { reason, .. } if reason.contains("backup")), "{refused}");
        fs::remove_dir_all(dir.join("tokens")).unwrap();
        fs::rename(dir.join("present"), dir.join("tokens")).unwrap();
        started();
    });
}
