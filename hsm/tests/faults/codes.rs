//! Every return code on every function that the layer calls, once each, while it signs.

use crate::rig::{BACK, Rig, alone, figure, id, is_full, request, sign, state, wait};
use ca_core::key::PublicKey;
use faulty_pkcs11::CODES;
use hsm::{FailureClass, HsmError, Token, TokenState};
use std::time::{Duration, Instant};

/// One of each class and of what is in no class: success that is none, and a vendor's code.
const ONE_OF_EACH: [&str; 11] = [
    "CKR_OK",
    "CKR_SESSION_CLOSED",
    "CKR_USER_NOT_LOGGED_IN",
    "CKR_DEVICE_ERROR",
    "CKR_KEY_HANDLE_INVALID",
    "CKR_DEVICE_REMOVED",
    "CKR_PIN_INCORRECT",
    "CKR_PIN_LOCKED",
    "CKR_MECHANISM_INVALID",
    "CKR_RANDOM_NO_RNG",
    "CKR_VENDOR_DEFINED",
];
/// Codes after which no PIN is tried any more.
const WRONG_PIN: [&str; 4] = ["CKR_PIN_INCORRECT", "CKR_PIN_INVALID", "CKR_PIN_LEN_RANGE", "CKR_PIN_TOO_WEAK"];
/// Codes that only a person can do something about.
const LOCKED_PIN: [&str; 5] =
    ["CKR_PIN_LOCKED", "CKR_PIN_EXPIRED", "CKR_USER_PIN_NOT_INITIALIZED", "CKR_NEW_PIN_MODE", "CKR_NEXT_OTP"];

const PLAIN: [&str; 2] = ["C_SignInit", "C_Sign"];
const LOOKING: [&str; 4] = ["C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_GetAttributeValue"];
const SITTING: [&str; 2] = ["C_CloseSession", "C_OpenSession"];
const LOGGING_IN: [&str; 5] = ["C_GetSessionInfo", "C_GetTokenInfo", "C_OpenSession", "C_CloseSession", "C_Login"];
const STARTING: [&str; 9] = [
    "C_Initialize",
    "C_GetInfo",
    "C_GetSlotList",
    "C_GetSlotInfo",
    "C_GetTokenInfo",
    "C_GetMechanismList",
    "C_OpenSession",
    "C_GetSessionInfo",
    "C_Login",
];

fn codes() -> Vec<&'static str> {
    if is_full() { CODES.iter().map(|(name, _)| *name).collect() } else { ONE_OF_EACH.to_vec() }
}

/// A function, and what makes the layer call it.
struct Way {
    function: &'static str,
    provoke: Option<&'static str>,
}

/// What a run over many codes came to.
#[derive(Default)]
struct Sum {
    injected: usize,
    standing: usize,
    worst: Duration,
    at: String,
}

fn run(name: &str, functions: &[&'static str], provoke: Option<&'static str>) {
    let _alone = alone();
    let mut sum = Sum::default();
    for function in functions {
        let rig = Rig::new();
        let (token, key) = rig.open(rig.with(rig.one()));
        for code in codes() {
            if *function == "C_Login" && WRONG_PIN.contains(&code) {
                // They have a test of their own.
                continue;
            }
            inject(&rig, &token, &key, &Way { function, provoke }, code, &mut sum);
        }
        let statistics = token.statistics();
        assert_eq!(statistics.wrong_pins, 0);
        assert_eq!(statistics.hangs, 0, "{function}: somebody waited for nothing");
    }
    figure(&format!(
        "{name}: {} faults, {} standing refusals, worst recovery {:?} ({})",
        sum.injected, sum.standing, sum.worst, sum.at
    ));
}

fn inject(rig: &Rig, token: &Token, key: &PublicKey, way: &Way, code: &str, sum: &mut Sum) {
    let Way { function, provoke } = way;
    let (met, provoked) = (rig.path(&format!("{function}-{code}")), rig.path(&format!("{function}-{code}-before")));
    let first = provoke.map(|p| {
        let (function, action) = p.split_once(' ').unwrap();
        format!("{function} once-file={} {action}\n", provoked.display())
    });
    rig.plan(&format!("{}{function} once-file={} ckr={code}\n", first.unwrap_or_default(), met.display()));
    let begun = Instant::now();
    let mut since = None;
    loop {
        let is_met = met.exists();
        if is_met {
            since.get_or_insert_with(Instant::now);
        }
        let asked = sign(token, key, code.as_bytes());
        match asked {
            Ok(()) if is_met => break,
            Ok(()) => {}
            Err(error) => {
                assert!(is_expected(&error, function, code), "{function} {code}: {error:?}");
                sum.standing += usize::from(!error.is_retryable());
            }
        }
        assert!(begun.elapsed() < BACK, "{function} {code}: met {is_met}, {:?}", state(token));
        std::thread::sleep(Duration::from_millis(2));
    }
    sum.injected += 1;
    let took = since.unwrap().elapsed();
    if took > sum.worst {
        (sum.worst, sum.at) = (took, format!("{function} {code}"));
    }
}

/// Worth asking again, or a refusal that stands and says why.
fn is_expected(error: &HsmError, function: &str, code: &str) -> bool {
    let lies = code == "CKR_OK";
    match error {
        HsmError::Refused(failure) => failure.class() == FailureClass::Refused,
        HsmError::Fatal(failure) => failure.class() == FailureClass::Fatal,
        HsmError::PinLocked => LOCKED_PIN.contains(&code),
        // An attribute that cannot be read is as good as one that is wrong.
        HsmError::KeyUnsuitable { .. } => function == "C_GetAttributeValue",
        HsmError::KeyMissing { .. } | HsmError::KeyAmbiguous { .. } => lies && LOOKING.contains(&function),
        HsmError::WrongSignature | HsmError::MalformedSignature { .. } => lies && PLAIN.contains(&function),
        other => other.is_retryable() && other.retry_after().is_some(),
    }
}

#[test]
fn each_code_while_signing() {
    run("while signing", &PLAIN, None);
}

#[test]
fn each_code_while_looking_for_a_key() {
    run("while looking for a key", &LOOKING, Some("C_SignInit ckr=CKR_KEY_HANDLE_INVALID"));
}

#[test]
fn each_code_while_changing_the_session() {
    run("while changing the session", &SITTING, Some("C_SignInit ckr=CKR_SESSION_HANDLE_INVALID"));
}

#[test]
fn each_code_while_logging_in_again() {
    run("while logging in again", &LOGGING_IN, Some("C_Sign logout"));
}

#[test]
fn each_code_at_the_start_of_a_signer() {
    run("at the start of a signer", &STARTING, Some("C_Sign crash"));
}

#[test]
fn each_wrong_pin_is_tried_once() {
    let _alone = alone();
    let mut worst = Duration::ZERO;
    for provoke in ["C_Sign once logout", "C_Sign once-file=DIR/crashed crash"] {
        let rig = Rig::new();
        let (token, key) = rig.open(rig.with(rig.one()));
        for code in WRONG_PIN {
            let _ = std::fs::remove_file(rig.path("crashed"));
            let before = rig.logins().len();
            let provoke = provoke.replace("DIR", rig.path("").to_str().unwrap().trim_end_matches('/'));
            rig.plan(&format!("{provoke}\nC_Login always ckr={code}\n"));
            wait(BACK, code, || {
                let _ = sign(&token, &key, b"locked");
                state(&token) == TokenState::LockedOut
            });
            for _ in 0..50 {
                let error = sign(&token, &key, b"locked").unwrap_err();
                assert!(error.is_retryable() && error.to_string().contains("locked out by us"), "{code}: {error}");
                std::thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(rig.logins().len() - before, 1, "{code}: one attempt");
            rig.plan("");
            assert!(hsm::unlock(&rig.path(""), &rig.one()).unwrap());
            worst = worst.max(crate::rig::back(&token, &key));
        }
        assert_eq!(token.statistics().wrong_pins, 4);
    }
    figure(&format!("wrong PIN: 8 lock-outs with one attempt each, worst return after the unlock {worst:?}"));
}

#[test]
fn each_code_while_a_key_is_made() {
    let _alone = alone();
    let rig = Rig::new();
    let (token, key) = rig.open(rig.with(rig.one()));
    let mut worst = Duration::ZERO;
    for (n, code) in codes().into_iter().enumerate() {
        let met = rig.path(&format!("made-{code}"));
        rig.plan(&format!("C_GenerateKeyPair once-file={} ckr={code}\n", met.display()));
        let id = id(u8::try_from(n + 2).unwrap());
        let made = token.generate(&hsm::KeyRequest { id, label: format!("made {n}"), ..request(2) });
        assert!(met.exists(), "{code}: {made:?}");
        let begun = Instant::now();
        crate::rig::back(&token, &key);
        worst = worst.max(begun.elapsed());
        match made {
            // A template that was refused is tried with less in it.
            Ok(made) => assert_eq!(made.attributes.flaw(), None),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert_eq!(token.find(&id).unwrap_err(), HsmError::KeyMissing { id }, "{code}: half a key");
            }
        }
    }
    figure(&format!("while making a key: {} faults, worst recovery {worst:?}", codes().len()));
}
