//! Each action has its effect, and no other.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use std::time::{Duration, Instant};
use support::*;

#[test]
fn without_rules_it_is_the_wrapped_module() {
    with_plan("without_rules_it_is_the_wrapped_module", "# nothing\n", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let (public, private) = make_key(&session, 1);
        assert_eq!(private_keys(&session, 1), [private]);
        let signature = sign(&session, private).unwrap();
        assert_eq!(signature.len(), 64);
        assert!(verifies(&session, public, &signature));
        assert_eq!(module.get_token_info(slot).unwrap().label(), softhsm::test::LABEL);
        assert!(faults().is_empty());
    });
}

#[test]
fn it_says_what_it_is() {
    with_plan("it_says_what_it_is", "", || {
        let info = module().0.get_library_info().unwrap();
        assert!(info.library_description().starts_with("FAULT INJECTION"), "{info:?}");
        assert_eq!(info.manufacturer_id(), "Sealwright tests");
        assert_eq!(info.cryptoki_version().major(), 2);
    });
}

#[test]
fn a_code_is_returned_instead_of_the_call() {
    with_plan("a_code_is_returned_instead_of_the_call", "C_GenerateKeyPair once ckr=CKR_DEVICE_MEMORY\n", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let failed = session.generate_key_pair(&Mechanism::EccKeyPairGen, &[], &[]);
        assert_eq!(code(failed), "DeviceMemory");
        assert!(private_keys(&session, 1).is_empty());
        let (_, private) = make_key(&session, 1);
        // A vendor's code, as a number, for the second C_Sign from now: the first asks for the length.
        plan("C_Sign nth=2 ckr=0x80000005\n");
        assert_eq!(code(sign(&session, private)), "VendorDefined(2147483653)");
        assert_eq!(faults(), ["C_GenerateKeyPair ckr=CKR_DEVICE_MEMORY", "C_Sign ckr=0x80000005"]);
    });
}

#[test]
fn a_code_after_the_call_hides_that_it_was_made() {
    with_plan("a_code_after_the_call_hides_that_it_was_made", "", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let (_, private) = make_key(&session, 1);
        plan("C_DestroyObject once after=CKR_DEVICE_ERROR\n");
        assert_eq!(code(session.destroy_object(private)), "DeviceError");
        assert!(private_keys(&session, 1).is_empty(), "it was made");
        assert_eq!(faults(), ["C_DestroyObject after=CKR_DEVICE_ERROR"]);
    });
}

#[test]
fn delays_add_up_and_the_call_is_made() {
    with_plan("delays_add_up_and_the_call_is_made", "", || {
        let (module, slot) = module();
        plan("C_GetTokenInfo always delay=150\n* once delay=150\nC_GetTokenInfo nth=2 ckr=CKR_DEVICE_ERROR\n");
        let start = Instant::now();
        assert_eq!(module.get_token_info(slot).unwrap().label(), softhsm::test::LABEL);
        assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(code(module.get_token_info(slot)), "DeviceError");
        assert!((150..290).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        assert_eq!(faults().len(), 4);
    });
}

#[test]
fn the_first_rule_that_fires_takes_the_call() {
    with_plan("the_first_rule_that_fires_takes_the_call", "", || {
        let (module, slot) = module();
        plan("C_GetTokenInfo nth=2 ckr=CKR_DEVICE_ERROR\n* nth=2 ckr=CKR_GENERAL_ERROR\n");
        let answers = [(); 4].map(|()| code(module.get_token_info(slot)));
        // The second rule does not see the second call, so the third is its second.
        assert_eq!(answers, ["Ok", "DeviceError", "GeneralError", "Ok"]);
    });
}

#[test]
fn signatures_are_spoilt() {
    with_plan("signatures_are_spoilt", "", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let (public, private) = make_key(&session, 1);
        for (action, length) in [("wrong-signature", 64), ("truncated-signature", 63), ("garbage-signature", 64)] {
            plan(&format!("C_Sign once {action}\n"));
            let spoilt = sign(&session, private).unwrap();
            assert_eq!(spoilt.len(), length, "{action}");
            assert!(!verifies(&session, public, &spoilt), "{action}");
            // The length query did not use the rule up, and the next signature is good.
            assert!(verifies(&session, public, &sign(&session, private).unwrap()), "{action}");
        }
        assert_eq!(faults().len(), 3);
    });
}

#[test]
fn a_wrong_signature_is_one_bit_from_a_good_one() {
    with_plan("a_wrong_signature_is_one_bit_from_a_good_one", "* always wrong-signature\n", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let (public, private) = make_key(&session, 1);
        let mut signature = sign(&session, private).unwrap();
        assert!(!verifies(&session, public, &signature));
        signature[63] ^= 1;
        assert!(verifies(&session, public, &signature));
    });
}

#[test]
fn signatures_in_parts_are_spoilt() {
    with_plan("signatures_in_parts_are_spoilt", "", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let public = [Attribute::ModulusBits(2048.into()), Attribute::PublicExponent(vec![1, 0, 1])];
        let (public, private) = session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &[]).unwrap();
        let signature = || {
            session.sign_init(&Mechanism::Sha256RsaPkcs, private).unwrap();
            session.sign_update(b"in ").unwrap();
            session.sign_update(b"parts").unwrap();
            session.sign_final().unwrap()
        };
        let good = |signature: &[u8]| session.verify(&Mechanism::Sha256RsaPkcs, public, b"in parts", signature).is_ok();
        for (action, length) in [("wrong-signature", 256), ("truncated-signature", 255), ("garbage-signature", 256)] {
            plan(&format!("C_SignFinal once {action}\n"));
            let spoilt = signature();
            assert_eq!(spoilt.len(), length, "{action}");
            assert!(!good(&spoilt) && good(&signature()), "{action}");
        }
        assert_eq!(faults().len(), 3);
    });
}

#[test]
fn every_second_signature_is_wrong() {
    with_plan("every_second_signature_is_wrong", "C_Sign every=2 wrong-signature\n", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let (public, private) = make_key(&session, 1);
        let good = || verifies(&session, public, &sign(&session, private).unwrap());
        assert_eq!([good(), good(), good(), good()], [true, false, true, false]);
    });
}

#[test]
fn sessions_are_forgotten() {
    with_plan("sessions_are_forgotten", "", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let other = module.open_ro_session(slot).unwrap();
        let (_, private) = make_key(&session, 1);
        plan("C_SignInit once forget-sessions\n");
        assert_eq!(code(sign(&session, private)), "SessionHandleInvalid");
        // Really: for the calls that no rule takes, for the other session, and for the login.
        assert_eq!(code(session.get_session_info()), "SessionHandleInvalid");
        assert_eq!(code(other.get_session_info()), "SessionHandleInvalid");
        let fresh = module.open_rw_session(slot).unwrap();
        assert!(private_keys(&fresh, 1).is_empty(), "nobody is logged in");
        fresh.login(UserType::User, Some(&pin())).unwrap();
        assert_eq!(private_keys(&fresh, 1).len(), 1);
        assert_eq!(faults(), ["C_SignInit forget-sessions"]);
    });
}

#[test]
fn a_call_without_a_session_goes_on_when_sessions_are_forgotten() {
    with_plan("a_call_without_a_session_goes_on_when_sessions_are_forgotten", "", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        plan("C_GetTokenInfo once forget-sessions\n");
        assert_eq!(module.get_token_info(slot).unwrap().label(), softhsm::test::LABEL);
        assert_eq!(code(session.get_session_info()), "SessionHandleInvalid");
    });
}

#[test]
fn the_login_is_lost() {
    with_plan("the_login_is_lost", "", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let (_, private) = make_key(&session, 1);
        plan("C_SignInit once logout\n");
        // The token's own answer: without a login the private key's handle is nothing.
        assert_ne!(code(sign(&session, private)), "Ok");
        session.get_session_info().unwrap();
        session.login(UserType::User, Some(&pin())).unwrap();
        let again = private_keys(&session, 1)[0];
        sign(&session, again).unwrap();
        assert_eq!(faults(), ["C_SignInit logout"]);
        assert_eq!(logins().len(), 2);
    });
}

#[test]
fn another_private_key_is_found() {
    with_plan("another_private_key_is_found", "", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let (public, private) = make_key(&session, 1);
        plan("C_FindObjects always swap-keys\n");
        assert_eq!(private_keys(&session, 1), [private], "there is no other key yet, so nothing happens");
        assert!(faults().is_empty());
        let (other_public, other) = make_key(&session, 2);
        assert_eq!(private_keys(&session, 1), [other]);
        assert_eq!(private_keys(&session, 2), [private]);
        assert_eq!(id_of(&session, private_keys(&session, 1)[0]), 2);
        let signature = sign(&session, private_keys(&session, 1)[0]).unwrap();
        assert!(verifies(&session, other_public, &signature) && !verifies(&session, public, &signature));
        // A search for public keys is left alone.
        let wanted = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Id(vec![1])];
        assert_eq!(session.find_objects(&wanted).unwrap(), [public]);
        plan("");
        assert_eq!(private_keys(&session, 1), [private]);
    });
}

#[test]
fn a_key_is_found_twice() {
    with_plan("a_key_is_found_twice", "", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let (_, private) = make_key(&session, 1);
        plan("C_FindObjects once double-key\n");
        assert!(private_keys(&session, 9).is_empty(), "nothing to find twice");
        assert_eq!(private_keys(&session, 1), [private, private]);
        assert_eq!(private_keys(&session, 1), [private]);
        assert_eq!(faults(), ["C_FindObjects double-key"]);
    });
}

#[test]
fn a_key_seems_extractable() {
    with_plan("a_key_seems_extractable", "", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let (_, private) = make_key(&session, 1);
        let asked = [AttributeType::Sensitive, AttributeType::Extractable];
        let seen = || session.get_attributes(private, &asked).unwrap();
        assert_eq!(seen(), [Attribute::Sensitive(true), Attribute::Extractable(false)]);
        plan("C_GetAttributeValue once extractable\n");
        assert_eq!(id_of(&session, private), 1, "not asked for, so not counted");
        assert_eq!(seen(), [Attribute::Sensitive(true), Attribute::Extractable(true)]);
        assert_eq!(seen(), [Attribute::Sensitive(true), Attribute::Extractable(false)]);
        assert_eq!(faults(), ["C_GetAttributeValue extractable"]);
    });
}

#[test]
fn the_token_is_gone_and_comes_back() {
    with_plan("the_token_is_gone_and_comes_back", "", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        let (_, private) = make_key(&session, 1);
        plan("* always gone\n");
        assert!(module.get_slots_with_token().unwrap().is_empty());
        assert!(module.get_all_slots().unwrap().is_empty());
        assert_eq!(code(module.get_token_info(slot)), "TokenNotPresent");
        assert_eq!(code(module.get_slot_info(slot)), "SlotIdInvalid");
        assert_eq!(code(module.open_ro_session(slot).map(drop)), "TokenNotPresent");
        assert_eq!(code(sign(&session, private)), "TokenNotPresent");
        module.get_library_info().unwrap();
        plan("");
        assert_eq!(module.get_slots_with_initialized_token().unwrap(), [slot]);
        sign(&session, private).unwrap();
    });
}

#[test]
fn logins_are_logged_without_their_pin() {
    with_plan("logins_are_logged_without_their_pin", "C_Login nth=2 ckr=CKR_DEVICE_REMOVED\n", || {
        let (module, slot) = module();
        let session = module.open_rw_session(slot).unwrap();
        let wrong = AuthPin::new("wrong-pin-9876".into());
        assert_eq!(code(session.login(UserType::User, Some(&wrong))), "PinIncorrect");
        assert_eq!(code(session.login(UserType::User, Some(&pin()))), "DeviceRemoved");
        session.login(UserType::User, Some(&pin())).unwrap();
        plan("C_Login once after=CKR_GENERAL_ERROR\n");
        assert_eq!(code(session.login(UserType::User, Some(&pin()))), "GeneralError");
        let text = |login: faulty_pkcs11::Login| {
            let token = login.token.map_or("not asked".to_owned(), |code| code.to_string());
            (login.process, login.user, token, login.answer.to_string())
        };
        let seen: Vec<_> = logins().into_iter().map(text).collect();
        let expected = |token: &str, answer: &str| (std::process::id(), 1, token.to_owned(), answer.to_owned());
        assert_eq!(
            seen,
            [
                expected("CKR_PIN_INCORRECT", "CKR_PIN_INCORRECT"),
                expected("not asked", "CKR_DEVICE_REMOVED"),
                expected("CKR_OK", "CKR_OK"),
                expected("CKR_USER_ALREADY_LOGGED_IN", "CKR_GENERAL_ERROR"),
            ]
        );
        let log = log();
        assert!(!log.contains(softhsm::test::PIN) && !log.contains("wrong-pin-9876"), "{log}");
        assert_eq!(log.lines().count(), 4 + 2);
    });
}

#[test]
fn threads_sign_while_sessions_are_forgotten() {
    with_plan("threads_sign_while_sessions_are_forgotten", "", || {
        let (module, slot) = module();
        let session = log_in(&module, slot);
        make_key(&session, 1);
        plan("C_SignInit every=50 forget-sessions\n");
        let worker = || {
            let mut good = 0;
            for _ in 0..200 {
                let Ok(session) = module.open_rw_session(slot) else { continue };
                // Another thread may have logged in already, or have taken the session away.
                let _ = session.login(UserType::User, Some(&pin()));
                let found = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]);
                let signed =
                    found.and_then(|keys| keys.first().map_or(Err(Error::NotSupported), |key| sign(&session, *key)));
                good += u32::from(signed.is_ok());
            }
            good
        };
        let good: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(good > 100, "{good} good signatures");
        assert!(faults().len() > 3, "{:?}", faults());
    });
}
