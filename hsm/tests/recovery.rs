//! Faults of a real token: lost sessions, logins and libraries, absent tokens, deleted keys.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use ca_core::key::{KeyAlgorithm, SignatureAlgorithm};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use hsm::{HsmError, Pin, SignRequest, Token, TokenConfig};
use std::fs;
use std::time::{Duration, Instant};
use support::{config, id, open, pkcs11_tool, request};

fn sign(token: &Token) -> Result<(), HsmError> {
    let algorithm = SignatureAlgorithm::EcdsaSha256;
    let message = b"message".to_vec();
    token.sign(SignRequest { key: id(1), algorithm, message }).map(|_| ())
}

/// A token with key 1 that has signed once, and another view of the library in this process: they share its state.
fn running(sessions: u32) -> (Token, Pkcs11) {
    let pin = Pin::new(softhsm::test::PIN.into()).unwrap();
    let token = Token::open(TokenConfig { sessions, ..config() }, pin).unwrap();
    token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
    for _ in 0..10 {
        sign(&token).unwrap();
    }
    (token, Pkcs11::new(softhsm::test::token().module).unwrap())
}

#[test]
fn lost_sessions_are_replaced() {
    softhsm::test::in_child("lost_sessions_are_replaced", || {
        for sessions in [1, 4] {
            let pin = Pin::new(softhsm::test::PIN.into()).unwrap();
            let token = Token::open(TokenConfig { sessions, ..config() }, pin).unwrap();
            let _ = token.generate(&request(1, KeyAlgorithm::EcP256));
            sign(&token).unwrap();
            let before = token.statistics();
            // Somebody else in the process initialises the library anew: CKR_SESSION_HANDLE_INVALID for us.
            let library = Pkcs11::new(softhsm::test::token().module).unwrap();
            library.clone().finalize().unwrap();
            library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
            for _ in 0..20 {
                sign(&token).unwrap();
            }
            let now = token.statistics();
            assert!(now.recoveries >= 1, "{now:?}");
            assert_eq!((now.failures - before.failures, now.reinitialisations), (0, 0), "{now:?}");
        }
    });
}

#[test]
fn a_lost_login_is_repeated_once() {
    softhsm::test::in_child("a_lost_login_is_repeated_once", || {
        let (token, library) = running(1);
        assert_eq!(token.statistics().logins, 1);
        let slot = library.get_slots_with_initialized_token().unwrap()[0];
        library.open_rw_session(slot).unwrap().logout().unwrap();
        sign(&token).unwrap();
        token.health().unwrap();
        assert_eq!(token.statistics().logins, 2);
        library.open_rw_session(slot).unwrap().logout().unwrap();
        token.health().unwrap();
        assert_eq!(token.statistics().logins, 3);
        assert_eq!(token.find(&id(1)).unwrap().id, id(1));
    });
}

#[test]
fn a_login_lost_to_a_changed_pin_is_not_repeated() {
    softhsm::test::in_child("a_login_lost_to_a_changed_pin_is_not_repeated", || {
        let (token, library) = running(1);
        pkcs11_tool(&["--change-pin", "--new-pin", "changed-5678"]);
        // SoftHSM reads the PIN's check value when it is initialised.
        library.clone().finalize().unwrap();
        library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        assert_eq!(sign(&token), Err(HsmError::PinWrong));
        let logins = token.statistics().logins;
        for _ in 0..5 {
            assert_eq!(sign(&token), Err(HsmError::PinLockedOut));
        }
        assert_eq!(token.statistics().logins, logins, "no further attempt");
    });
}

#[test]
fn a_finalised_library_is_initialised_again() {
    softhsm::test::in_child("a_finalised_library_is_initialised_again", || {
        let (token, library) = running(2);
        library.finalize().unwrap();
        sign(&token)
            .or_else(|_| {
                std::thread::sleep(Duration::from_millis(1100));
                sign(&token)
            })
            .unwrap();
        assert_eq!(token.statistics().reinitialisations, 1);
    });
}

#[test]
fn an_absent_token_is_unavailable_and_comes_back() {
    softhsm::test::in_child("an_absent_token_is_unavailable_and_comes_back", || {
        let (token, _library) = running(1);
        let dir = softhsm::test::token().dir;
        let (here, away) = (dir.join("tokens"), dir.join("away"));
        for _ in 0..2 {
            fs::rename(&here, &away).unwrap();
            fs::create_dir(&here).unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(2500) {
                let asked = Instant::now();
                let error = sign(&token).unwrap_err();
                assert!(matches!(error, HsmError::Unavailable { .. }), "{error}");
                assert!(error.is_retryable() && error.retry_after().unwrap() <= Duration::from_secs(1));
                assert!(asked.elapsed() < Duration::from_secs(2), "answered at once, not at the deadline");
                assert!(token.health().is_err());
                std::thread::sleep(Duration::from_millis(20));
            }
            fs::remove_dir(&here).unwrap();
            fs::rename(&away, &here).unwrap();
            let back = Instant::now();
            while let Err(error) = sign(&token) {
                assert!(error.is_retryable(), "{error}");
                assert!(back.elapsed() < Duration::from_secs(5), "{error}");
                std::thread::sleep(Duration::from_millis(20));
            }
            token.health().unwrap();
        }
        let now = token.statistics();
        assert!((2..=10).contains(&now.reinitialisations), "at most one per second: {now:?}");
    });
}

#[test]
fn a_deleted_key_is_missing_and_the_others_sign_on() {
    softhsm::test::in_child("a_deleted_key_is_missing_and_the_others_sign_on", || {
        let (token, _library) = running(1);
        token.generate(&request(2, KeyAlgorithm::Ed25519)).unwrap();
        for kind in ["privkey", "pubkey"] {
            pkcs11_tool(&["--delete-object", "--type", kind, "--id", &id(1).to_string()]);
        }
        for _ in 0..3 {
            assert_eq!(sign(&token), Err(HsmError::KeyMissing { id: id(1) }));
        }
        assert_eq!(token.find(&id(1)).unwrap_err(), HsmError::KeyMissing { id: id(1) });
        let algorithm = SignatureAlgorithm::Ed25519;
        token.sign(SignRequest { key: id(2), algorithm, message: b"m".to_vec() }).unwrap();
        // Another process makes it again: found without a restart.
        let other = open();
        other.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
        sign(&token).unwrap();
    });
}

#[test]
fn a_replaced_key_does_not_pass_for_the_old_one() {
    softhsm::test::in_child("a_replaced_key_does_not_pass_for_the_old_one", || {
        let (token, _library) = running(1);
        let old = token.find(&id(1)).unwrap().public_key;
        token.prove(&id(1), &old).unwrap();
        for kind in ["privkey", "pubkey"] {
            pkcs11_tool(&["--delete-object", "--type", kind, "--id", &id(1).to_string()]);
        }
        token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap();
        assert_eq!(token.prove(&id(1), &old), Err(HsmError::KeyMismatch { id: id(1) }));
    });
}

#[test]
fn sessions_stay_constant() {
    softhsm::test::in_child("sessions_stay_constant", || {
        let (token, library) = running(3);
        let slot = library.get_slots_with_initialized_token().unwrap()[0];
        // SoftHSM does not tell its session count, but it numbers handles in turn without reuse while one is open.
        let handle = || {
            let session = library.open_rw_session(slot).unwrap();
            let number = session.handle();
            session.close().unwrap();
            number
        };
        let before = handle();
        for _ in 0..2000 {
            sign(&token).unwrap();
        }
        token.list().unwrap();
        assert!(handle() <= before + 3, "at most the sessions of workers that had no job yet");
    });
}
