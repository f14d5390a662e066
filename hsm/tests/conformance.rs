//! The conformance suite on two real tokens, and on broken ones: it must find what is broken.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use hsm::check::{self, Finding, Options, Report, Step, TokenReport, Verdict};
use hsm::{TokenConfig, TokensConfig};
use softhsm::Kind;
use std::path::PathBuf;
use std::time::Duration;
use support::{config, one, open, with};

const QUICK: Options = Options { fast: true, measure: Duration::from_millis(200) };

fn check(config: TokensConfig, options: &Options) -> (TokenReport, Vec<Step>) {
    let mut steps = Vec::new();
    let mut report: Report = check::run(config, options, |step| steps.push(step.clone()));
    assert_eq!(report.tokens.len(), 1);
    (report.tokens.remove(0), steps)
}

fn failures(report: &TokenReport) -> Vec<Finding> {
    report.failures().cloned().collect()
}

/// No scratch key is left, whatever happened.
fn nothing_is_left() {
    let labels: Vec<_> = open().list().unwrap().into_iter().map(|key| key.label).collect();
    assert_eq!(labels, Vec::<String>::new());
}

/// What must be said of an algorithm that the token has.
fn is_whole(report: &TokenReport, algorithm: &str) {
    for check in [
        "generate",
        "attributes",
        "public key",
        "extraction",
        "new process",
        "message of 1 MiB",
        "same id",
        "every signature",
        "wrong algorithm",
        "destroy",
    ] {
        let verdict = report.verdict(algorithm, check);
        assert!(matches!(verdict, Some(Verdict::Ok(_))), "{algorithm}: {check}: {verdict:?}");
    }
    assert!(report.latencies.iter().any(|l| l.algorithm == algorithm && l.samples >= 3 && !l.median.is_zero()));
}

fn whole(options: &Options) -> TokenReport {
    let (report, steps) = check(config(), options);
    assert_eq!(failures(&report), []);
    let last = steps.last().unwrap();
    assert_eq!((last.done, last.of), (steps[0].of, steps[0].of));
    assert!(steps.windows(2).all(|pair| pair[0].done <= pair[1].done));
    for algorithm in check::algorithms(options.fast) {
        let made = report.verdict(&algorithm.to_string(), "generate");
        assert!(made.is_some(), "{algorithm} was left out");
    }
    let info = report.info.as_ref().unwrap();
    assert_eq!(info.serial, softhsm::test::token().serial);
    assert!(report.mechanisms.iter().any(|m| m.signs) && report.mechanisms.iter().any(|m| m.generates));
    nothing_is_left();
    report
}

/// Both tokens have these.
const COMMON: [&str; 7] = ["P-256", "P-384", "P-521", "Ed25519", "RSA-2048", "RSA-3072", "RSA-4096"];
const ML_DSA: [&str; 3] = ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"];
const WHOLE: Options = Options { fast: false, measure: Duration::from_millis(200) };

/// [`COMMON`], and every shape of workers and sessions.
fn common(report: &TokenReport) {
    for algorithm in COMMON {
        is_whole(report, algorithm);
    }
    for signature in ["RSA PKCS#1 v1.5 with SHA-256", "RSA-PSS with SHA-256", "RSA-PSS with SHA-512"] {
        let verdict = report.verdict("RSA-2048", &format!("signs {signature}"));
        assert!(matches!(verdict, Some(Verdict::Ok(_))), "{signature}: {verdict:?}");
    }
    assert!(report.best.is_some());
    assert_eq!(report.shapes.len(), 7);
    for shape in &report.shapes {
        assert!(shape.per_second > 1.0 && shape.problem.is_none(), "{shape:?}");
    }
}

#[test]
fn softhsm_passes() {
    softhsm::test::in_child_on(Kind::SoftHsm, "softhsm_passes", || {
        let report = whole(&WHOLE);
        common(&report);
        for algorithm in ML_DSA {
            let verdict = report.verdict(algorithm, "generate");
            assert!(matches!(verdict, Some(Verdict::Missing(_))), "{algorithm}: {verdict:?}");
        }
    });
}

#[test]
fn kryoptic_passes() {
    softhsm::test::in_child_on(Kind::Kryoptic, "kryoptic_passes", || {
        let report = whole(&WHOLE);
        common(&report);
        for algorithm in ML_DSA {
            is_whole(&report, algorithm);
        }
    });
}

/// The log of the module that breaks this test's token.
fn log() -> PathBuf {
    softhsm::test::token().dir.join("faults.log")
}

/// This test's token behind the module that breaks it by `plan`. The signers alone are told to take it.
fn broken(plan: &str, allowed: bool) -> TokensConfig {
    let token = softhsm::test::token();
    let path = token.dir.join("plan");
    plan.parse::<faulty_pkcs11::Plan>().unwrap().write(&path).unwrap();
    let text = |path: PathBuf| path.into_os_string().into_string().unwrap();
    let mut environment = vec![
        ("FAULTY_PKCS11_MODULE".to_owned(), text(token.module)),
        ("FAULTY_PKCS11_PLAN".to_owned(), text(path)),
        ("FAULTY_PKCS11_LOG".to_owned(), text(log())),
    ];
    if allowed {
        environment.push(("SEALWRIGHT_ALLOW_FAULT_INJECTION".to_owned(), "1".to_owned()));
    }
    let module = faulty_pkcs11::library().unwrap();
    TokensConfig { deadline: Duration::from_secs(3), ..with(TokenConfig { module, environment, ..one() }) }
}

/// What failed beside the module's own description, as `subject: check`, and all that was said of it.
fn found(plan: &str) -> (Vec<String>, String) {
    let (report, _) = check(broken(plan, true), &QUICK);
    assert!(matches!(report.verdict("token", "library"), Some(Verdict::Failed { .. })), "the module says what it is");
    let failed: Vec<_> = failures(&report).into_iter().filter(|f| f.check != "library").collect();
    (failed.iter().map(|f| format!("{}: {}", f.subject, f.check)).collect(), format!("{failed:?}"))
}

#[test]
fn a_module_that_injects_faults_is_named() {
    softhsm::test::in_child("a_module_that_injects_faults_is_named", || {
        let (report, _) = check(broken("", false), &QUICK);
        let failed = failures(&report);
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0].check, "library");
        assert!(format!("{failed:?}").contains("injects faults"), "{failed:?}");
        // Without a fault in its plan it is as sound as what it wraps.
        assert_eq!(found("").0, Vec::<String>::new());
        nothing_is_left();
    });
}

#[test]
fn an_extractable_key_is_found() {
    softhsm::test::in_child("an_extractable_key_is_found", || {
        let (failed, said) = found("C_GetAttributeValue always extractable");
        for algorithm in COMMON.into_iter().take(5) {
            assert!(failed.contains(&format!("{algorithm}: attributes")), "{failed:?}");
        }
        assert!(failed.contains(&"token: an algorithm".to_owned()), "{failed:?}");
        assert!(said.contains("CKA_EXTRACTABLE is true"), "{said}");
        nothing_is_left();
    });
}

#[test]
fn a_wrong_signature_now_and_then_is_found() {
    softhsm::test::in_child("a_wrong_signature_now_and_then_is_found", || {
        // A second attempt cures it for a caller, and it is found all the same.
        let (failed, said) = found("C_Sign every=5 wrong-signature");
        assert!(failed.contains(&"P-256: every signature".to_owned()), "{failed:?}");
        assert!(failed.iter().all(|f| f.ends_with("every signature")), "{failed:?}");
        assert!(said.contains("did not verify and were withheld") && said.contains("out of service"), "{said}");
        nothing_is_left();
    });
}

#[test]
fn a_wrong_pin_is_found_and_tried_once() {
    softhsm::test::in_child("a_wrong_pin_is_found_and_tried_once", || {
        let (failed, said) = found_at_the_door("C_Login always ckr=CKR_PIN_INCORRECT");
        assert_eq!(failed, ["token: login"]);
        assert!(said.contains("refused the PIN"), "{said}");
        assert_eq!(faulty_pkcs11::logins(&std::fs::read_to_string(log()).unwrap()).len(), 1);
        nothing_is_left();
    });
}

/// [`found`] where not even the module's description is seen.
fn found_at_the_door(plan: &str) -> (Vec<String>, String) {
    let (report, _) = check(broken(plan, true), &QUICK);
    let failed = failures(&report);
    (failed.iter().map(|f| format!("{}: {}", f.subject, f.check)).collect(), format!("{failed:?}"))
}

#[test]
fn a_hang_and_a_crash_are_found() {
    softhsm::test::in_child("a_hang_and_a_crash_are_found", || {
        for (action, words) in [("hang", "the library hung"), ("crash", "the library crashed")] {
            let once = softhsm::test::token().dir.join(action);
            let (failed, said) = found(&format!("C_Sign once-file={} {action}", once.display()));
            assert!(once.exists());
            assert_eq!(failed, ["P-256: steady"], "{action}");
            assert!(said.contains(words), "{said}");
        }
        nothing_is_left();
    });
}

#[test]
fn two_keys_with_one_id_are_found() {
    softhsm::test::in_child("two_keys_with_one_id_are_found", || {
        support::pkcs11_tool(&[
            "--keypairgen",
            "--key-type",
            "EC:prime256v1",
            "--id",
            &"07".repeat(16),
            "--label",
            "a",
        ]);
        support::pkcs11_tool(&[
            "--keypairgen",
            "--key-type",
            "EC:prime256v1",
            "--id",
            &"07".repeat(16),
            "--label",
            "b",
        ]);
        let (report, _) = check(config(), &QUICK);
        let failed = failures(&report);
        assert_eq!(failed.iter().map(|f| f.check.as_str()).collect::<Vec<_>>(), ["keys"]);
        assert!(format!("{failed:?}").contains(&"07".repeat(16)), "{failed:?}");
    });
}

#[test]
fn a_key_that_the_token_says_twice_is_found() {
    softhsm::test::in_child("a_key_that_the_token_says_twice_is_found", || {
        let (failed, said) = found("C_FindObjects always double-key");
        assert!(failed.contains(&"P-256: public key".to_owned()), "{failed:?}");
        assert!(said.contains("exactly one of each is needed"), "{said}");
        nothing_is_left();
    });
}

#[test]
fn a_bound_on_sessions_is_seen() {
    softhsm::test::in_child("a_bound_on_sessions_is_seen", || {
        // In each process: an anchor, and as many as are asked for.
        let options = Options { fast: false, ..QUICK };
        let (report, _) = check(broken("C_OpenSession from=7 ckr=CKR_SESSION_COUNT", true), &options);
        for shape in &report.shapes {
            assert_eq!(shape.problem.is_some(), shape.sessions > 6, "{shape:?}");
            assert_eq!(shape.per_second > 1.0, shape.sessions <= 6, "{shape:?}");
        }
        let Some(Verdict::Missing(text)) = report.verdict("sessions", "bears") else { panic!() };
        assert!(text.contains("8 sessions each do not work"), "{text}");
        assert!(report.best.is_some_and(|(_, sessions)| sessions <= 6));
        nothing_is_left();
    });
}
