//! What one verification costs: with a key that is decoded each time, and with a [`Verifier`].
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic, and prints")]

use ca_core::key::{PublicKey, Verifier};
use rcgen::{KeyPair, PublicKeyData, RsaKeySize, SigningKey};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_millis(500);

fn microseconds(mut call: impl FnMut()) -> f64 {
    let (begun, mut calls) = (Instant::now(), 0u32);
    while begun.elapsed() < TIME {
        call();
        calls += 1;
    }
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
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
