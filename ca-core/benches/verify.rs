//! What one verification costs: with a key that is decoded each time, and with a [`Verifier`].
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic, and prints")]

use ca_core::key::{PublicKey, Verifier};
use rcgen::{KeyPair, PublicKeyData, RsaKeySize, SigningKey};
use std::time::{Duration, Instant};

/// The machine does other things too: the fastest of many short runs is what the work itself takes.
const RUNS: u32 = 60;
const CALLS: u32 = 25;

fn microseconds(mut call: impl FnMut()) -> f64 {
    let run = || {
        let begun = Instant::now();
        (0..CALLS).for_each(|_| call());
        begun.elapsed()
    };
    let fastest: Duration = std::iter::repeat_with(run).take(RUNS as usize).min().unwrap();
    fastest.as_secs_f64() * 1e6 / f64::from(CALLS)
}

fn main() {
    let kinds = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_ML_DSA_44,
        &rcgen::PKCS_ML_DSA_65,
        &rcgen::PKCS_ML_DSA_87,
    ];
    let mut pairs: Vec<KeyPair> = kinds.into_iter().map(|kind| KeyPair::generate_for(kind).unwrap()).collect();
    pairs.push(KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072).unwrap());
    println!("{:<12} {:>16} {:>16}", "key", "decoded each time", "decoded once");
    for pair in pairs {
        let key = PublicKey::from_spki_der(&pair.subject_public_key_info()).unwrap();
        let algorithm = key.algorithm().signature_algorithm();
        let verifier = Verifier::new(&key, algorithm).unwrap();
        // About the length of a TBSCertificate.
        let message = vec![0x5a; 700];
        let signature = pair.sign(&message).unwrap();
        let each = microseconds(|| key.verify(algorithm, &message, &signature).unwrap());
        let once = microseconds(|| verifier.verify(&message, &signature).unwrap());
        println!("{:<12} {each:>14.1} µs {once:>13.1} µs", key.algorithm().to_string());
    }
}
