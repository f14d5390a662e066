//! Lost logins, and PINs that the token refuses.

use crate::load::Load;
use crate::rig::{BACK, Rig, alone, back, figure, rounds, sign, state, wait};
use faulty_pkcs11::Code;
use hsm::{HsmError, Token, TokenState};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn lost_logins_are_noticed_by_nobody() {
    let _alone = alone();
    let rig = Rig::new();
    let (token, key) = rig.open(rig.with(rig.shaped(2, 2)));
    let load = Load::start(8, &token, &key);
    rig.plan("C_Sign every=31 logout\n");
    wait(Duration::from_secs(120), "enough of them", || {
        thread::sleep(Duration::from_millis(50));
        rig.faults().len() >= rounds(50, 500)
    });
    rig.plan("");
    let tally = load.stop();
    tally.assert_all_served();
    assert_eq!(tally.asked_again, 0, "{tally:?}");
    let mut refused: Vec<_> = rig.logins().into_iter().map(|login| login.answer).collect();
    refused.retain(|answer| *answer != Code(0) && !answer.to_string().contains("ALREADY"));
    assert!(refused.iter().all(|answer| !answer.to_string().contains("PIN")), "{refused:?}");
    figure(&format!(
        "lost logins: {}, {} signatures, 0 failed; logins that the token refused: {refused:?}",
        rig.faults().len(),
        tally.signed
    ));
}

#[test]
fn a_wrong_pin_locks_both_workers_out() {
    let _alone = alone();
    let rig = Rig::new();
    let (token, key) = rig.open(rig.with(rig.shaped(2, 1)));
    let load = Load::start(8, &token, &key);
    let refused = rig.path("refused");
    rig.plan(&format!(
        "C_Sign every=30 logout\nC_Login once-file={} ckr=CKR_PIN_INCORRECT\nC_Login always ckr=CKR_OK\n",
        refused.display()
    ));
    let took = wait(BACK, "locked out", || state(&token) == TokenState::LockedOut);
    // Ten seconds, as two workers and a keeper could think of something.
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        let error = sign(&token, &key, b"locked").unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("locked out by us"), "{error}");
        assert_eq!(state(&token), TokenState::LockedOut);
        thread::sleep(Duration::from_millis(20));
    }
    let logins = rig.logins();
    let place = logins.iter().position(|login| login.answer == Code(0xa0)).unwrap();
    assert_eq!(logins.len(), place + 1, "nothing is tried after the wrong PIN: {logins:?}");
    let tally = load.stop();
    assert!(tally.failed.keys().all(|error| error.contains("locked out by us")), "{tally:?}");
    rig.plan("");
    assert!(hsm::unlock(&rig.path(""), &rig.one()).unwrap());
    let return_took = back(&token, &key);
    wait(BACK, "both workers are back", || token.status()[0].workers == 2);
    assert_eq!(token.statistics().wrong_pins, 1);
    figure(&format!("wrong PIN under load: locked out after {took:?}, back {return_took:?} after the unlock"));
}

#[test]
fn a_locked_pin_is_not_hammered() {
    let _alone = alone();
    for provoke in ["C_Sign every=30 logout", "C_Sign every=30 crash"] {
        let rig = Rig::new();
        let (token, key) = rig.open(rig.with(rig.shaped(2, 2)));
        let load = Load::start(8, &token, &key);
        let before = rig.logins().len();
        rig.plan(&format!("{provoke}\nC_Login always ckr=CKR_PIN_LOCKED\n"));
        wait(BACK, "it is down", || matches!(state(&token), TokenState::Down(_)));
        thread::sleep(Duration::from_secs(3));
        let tried = rig.logins().len() - before;
        rig.plan("");
        let took = back(&token, &key);
        drop(load.stop());
        // 100, 350 and 850 ms after the first, then each second; at first each of four sessions may try.
        assert!(tried <= 12, "{tried} attempts in three seconds");
        figure(&format!("PIN locked ({provoke}): {tried} attempts in 3 s of load, back in {took:?}"));
    }
}

/// A token that hides a wrong PIN behind another code, or a library that dies of it, over some restarts of the service.
#[test]
fn a_wrong_pin_that_nobody_admits_is_not_tried_on() {
    let _alone = alone();
    for action in ["after=CKR_FUNCTION_FAILED", "after=CKR_DEVICE_ERROR", "after=CKR_GENERAL_ERROR", "crash"] {
        let rig = Rig::new();
        drop(rig.open(rig.with(rig.one())));
        rig.pin("wrong-9999");
        rig.plan(&format!("C_Login always {action}\n"));
        let before = rig.logins().len();
        for _ in 0..4 {
            let token = Token::start(rig.with(rig.one())).unwrap();
            thread::sleep(Duration::from_millis(1500));
            assert!(token.wait().is_err());
        }
        let last = Token::open(rig.with(rig.one())).unwrap_err();
        assert_eq!(last, HsmError::PinLockedOut, "{action}");
        let seen: Vec<_> = rig.logins().into_iter().skip(before).filter(|login| login.token.is_some()).collect();
        // Three by count; where the token tells of the first by its flag, one.
        assert!(seen.len() <= 3, "{action}: {seen:?}");
        figure(&format!("a wrong PIN behind {action}: the token saw {} in four starts, then locked out", seen.len()));
        rig.pin(softhsm::test::PIN);
        rig.plan("");
        assert!(hsm::unlock(&rig.path(""), &rig.one()).unwrap());
        let (token, key) = rig.open(rig.with(rig.one()));
        sign(&token, &key, b"again").unwrap();
    }
}
