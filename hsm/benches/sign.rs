//! Signatures per second on SoftHSM: the bare C_Sign loop, one request in flight, and a full queue.
//! `cargo bench -p hsm`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a benchmark prints and may panic")]

use ca_core::key::{KeyAlgorithm, SignatureAlgorithm};
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass};
use hsm::{HsmError, KeyId, KeyRequest, Pin, SignRequest, Token, TokenConfig, TokenUri};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_secs(2);
const PIN: &str = "bench-1234";

fn main() {
    // SOFTHSM2_CONF must be there before the library is initialised, so the work is done in a child.
    if std::env::var_os("SOFTHSM2_CONF").is_none_or(|conf| !conf.to_string_lossy().contains("sealwright-bench")) {
        let dir = std::env::temp_dir().join(format!("sealwright-bench-{}", std::process::id()));
        let made = softhsm::ThrowawayToken::create(&dir, "bench", PIN).unwrap();
        let (variable, conf) = made.environment();
        let status = Command::new(std::env::current_exe().unwrap()).env(variable, conf).status().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(status.success());
        return;
    }
    let config = TokenConfig {
        queue: 256,
        ..TokenConfig::new(softhsm::find_module().unwrap(), TokenUri::from_label("bench").unwrap())
    };
    println!(
        "{:<10} {:>12} {:>14} {:>12} {:>12}  per second",
        "key", "C_Sign loop", "one in flight", "queue, 1", "queue, 2"
    );
    for (n, algorithm) in [
        (1, KeyAlgorithm::EcP256),
        (2, KeyAlgorithm::EcP384),
        (3, KeyAlgorithm::Ed25519),
        (4, KeyAlgorithm::Rsa(2048)),
        (5, KeyAlgorithm::Rsa(3072)),
    ] {
        let id = KeyId::from_bytes([n; 16]);
        let open =
            |sessions| Token::open(TokenConfig { sessions, ..config.clone() }, Pin::new(PIN.into()).unwrap()).unwrap();
        let one = open(1);
        one.generate(&KeyRequest { label: format!("key {n}"), id, algorithm }).unwrap();
        let bare = bare(&config, id, algorithm);
        let single = single(&one, id, algorithm);
        let queued = queued(&one, id, algorithm);
        drop(one);
        let two = queued_with(&open(2), id, algorithm);
        println!("{:<10} {bare:>12.0} {single:>14.0} {queued:>12.0} {two:>12.0}", algorithm.to_string());
    }
}

fn queued_with(token: &Token, id: KeyId, algorithm: KeyAlgorithm) -> f64 {
    queued(token, id, algorithm)
}

fn message(id: KeyId, algorithm: SignatureAlgorithm) -> SignRequest {
    SignRequest { key: id, algorithm, message: vec![0x5a; 1000] }
}

/// What the library gives to one thread that holds its handle. The digest of ECDSA is made beforehand.
fn bare(config: &TokenConfig, id: KeyId, algorithm: KeyAlgorithm) -> f64 {
    let library = Pkcs11::new(&config.module).unwrap();
    // The token that is open in this process did initialise and log in.
    let slot = library.get_slots_with_initialized_token().unwrap()[0];
    let session = library.open_rw_session(slot).unwrap();
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(id.as_bytes().to_vec())];
    let key = session.find_objects(&template).unwrap()[0];
    let (mechanism, data) = match algorithm {
        KeyAlgorithm::EcP256 => (Mechanism::Ecdsa, vec![0x5a; 32]),
        KeyAlgorithm::EcP384 => (Mechanism::Ecdsa, vec![0x5a; 48]),
        KeyAlgorithm::EcP521 => (Mechanism::Ecdsa, vec![0x5a; 64]),
        KeyAlgorithm::Ed25519 => {
            use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
            (Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)), vec![0x5a; 1000])
        }
        KeyAlgorithm::Rsa(_) => (Mechanism::Sha256RsaPkcs, vec![0x5a; 1000]),
        KeyAlgorithm::MlDsa44 | KeyAlgorithm::MlDsa65 | KeyAlgorithm::MlDsa87 => {
            use cryptoki::mechanism::dsa::{HedgeType, SignAdditionalContext};
            (Mechanism::MlDsa(SignAdditionalContext::new(HedgeType::Preferred, None)), vec![0x5a; 1000])
        }
    };
    rate(|| drop(session.sign(&mechanism, key, &data).unwrap()))
}

fn single(token: &Token, id: KeyId, algorithm: KeyAlgorithm) -> f64 {
    let algorithm = algorithm.signature_algorithm();
    rate(|| drop(token.sign(message(id, algorithm)).unwrap()))
}

fn rate(mut body: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut n = 0;
    while begun.elapsed() < RUN {
        body();
        n += 1;
    }
    f64::from(n) / begun.elapsed().as_secs_f64()
}

/// A caller that keeps the queue full and backs off when it is.
fn queued(token: &Token, id: KeyId, algorithm: KeyAlgorithm) -> f64 {
    let algorithm = algorithm.signature_algorithm();
    let (made, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    while begun.elapsed() < RUN {
        let (made, refusals) = (made.clone(), refused.clone());
        let before = refused.load(Ordering::Relaxed);
        token.submit(
            message(id, algorithm),
            Box::new(move |result| match result {
                Ok(_) => drop(made.fetch_add(1, Ordering::Relaxed)),
                Err(HsmError::Busy { .. }) => drop(refusals.fetch_add(1, Ordering::Relaxed)),
                Err(error) => panic!("{error}"),
            }),
        );
        if refused.load(Ordering::Relaxed) != before {
            thread::sleep(Duration::from_millis(2));
        }
    }
    let rate = made.load(Ordering::Relaxed);
    let took = begun.elapsed().as_secs_f64();
    while token.statistics().in_flight + token.statistics().queued > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = rate as f64 / took;
    rate
}
