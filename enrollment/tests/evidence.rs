//! Golden evidence, made by a TPM in software: what is good passes, and every change of it is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

use ca_core::{key::PublicKey, time::UnixTime};
use enrollment::{
    attestation::{
        EvidenceError, Format,
        trust::{TrustStore, TrustStores, certificates},
    },
    tpm2::{
        Attest, Attested, Attributes, Public, Signature, TpmError,
        attest::verify_signature,
        ek::{EkError, EndorsementKey, MAX_CERTIFICATE},
        make_credential, spki_from_public,
        templates::Template,
        verify::{check_attestation_key, verify_certify},
    },
};
use std::path::Path;

const NOW: UnixTime = UnixTime::from_secs(1_795_500_000);

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)).unwrap()
}

struct Certified {
    ak: Vec<u8>,
    subject: Vec<u8>,
    attest: Vec<u8>,
    signature: Vec<u8>,
    binding: [u8; 32],
}

fn certified(prefix: &str) -> Certified {
    let v = |name: &str| vector(&format!("{prefix}_{name}"));
    Certified {
        ak: v("ak_pub.bin"),
        subject: v("subject_pub.bin"),
        attest: v("certify.attest"),
        signature: v("certify.sig"),
        binding: v("qualifying.bin").try_into().unwrap(),
    }
}

impl Certified {
    fn verify(&self) -> Result<PublicKey, EvidenceError> {
        let ak = Public::parse(&self.ak).map_err(|error| EvidenceError::Structure { field: "ak_public", error })?;
        verify_certify(&ak, &self.subject, &self.attest, &self.signature, &self.binding).map(|p| p.key().clone())
    }
}

#[test]
fn good_evidence_passes() {
    for prefix in ["rsa", "ecc"] {
        let good = certified(prefix);
        assert_eq!(good.verify().unwrap(), spki_from_public(&good.subject).unwrap());
    }
}

/// An unrestricted key in a genuine TPM passes activation and signs whatever it is given.
#[test]
fn a_forgery_by_an_unrestricted_key_is_refused_for_its_attributes() {
    for prefix in ["rsa", "ecc"] {
        let v = |name: &str| vector(&format!("{prefix}_attack_{name}"));
        let ak = Public::parse(&v("unrestricted_ak_pub.bin")).unwrap();
        let attest = v("forged.attest");
        let signature = Signature::parse(&v("forged.sig")).unwrap();
        assert_eq!(verify_signature(&ak, &attest, &signature), Ok(()), "the forged signature itself is valid");
        assert!(!ak.attributes().has_any(Attributes::RESTRICTED));
        let refused = check_attestation_key(&ak).unwrap_err();
        assert!(matches!(refused, TpmError::Invalid(rule) if rule.contains("restricted")));
        let binding = vector(&format!("{prefix}_qualifying.bin")).try_into().unwrap();
        let outcome = verify_certify(&ak, &v("sw_subject_pub.bin"), &attest, &v("forged.sig"), &binding);
        assert_eq!(outcome, Err(EvidenceError::Structure { field: "ak_public", error: refused }));
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for prefix in ["rsa", "ecc"] {
        let good = certified(prefix);
        good.verify().expect("the control passes");
        let name = Public::parse(&good.ak).unwrap().name();
        type Part = fn(&mut Certified) -> &mut Vec<u8>;
        let parts: [(&str, Part); 4] = [
            ("attest", |c| &mut c.attest),
            ("signature", |c| &mut c.signature),
            ("subject", |c| &mut c.subject),
            ("ak", |c| &mut c.ak),
        ];
        for (part, of) in parts {
            for bit in 0..of(&mut certified(prefix)).len() * 8 {
                let mut flipped = certified(prefix);
                of(&mut flipped)[bit / 8] ^= 1 << (bit % 8);
                // What the signature does not cover of the AK is covered by activation: its Name is another one.
                let other_name = || Public::parse(&flipped.ak).is_ok_and(|ak| ak.name() != name);
                assert!(flipped.verify().is_err() || (part == "ak" && other_name()), "{prefix} {part} bit {bit}");
            }
        }
        for length in 0..good.attest.len() {
            let cut = Certified { attest: good.attest[..length].to_vec(), ..certified(prefix) };
            assert!(cut.verify().is_err());
            assert!(Attest::parse(&good.attest[..length]).is_err());
        }
        let longer = Certified { subject: [&good.subject[..], &[0]].concat(), ..certified(prefix) };
        assert!(matches!(longer.verify(), Err(EvidenceError::Structure { error: TpmError::Trailing, .. })));
    }
}

#[test]
fn stale_and_foreign_evidence_is_refused() {
    let good = certified("rsa");
    let stale = Certified { binding: [0; 32], ..certified("rsa") };
    assert_eq!(stale.verify(), Err(EvidenceError::NotFresh));
    let swapped = Certified { subject: good.ak.clone(), ..certified("rsa") };
    assert_eq!(swapped.verify(), Err(EvidenceError::OtherObject));
    // Another key of the same kind: the attributes (octets 4 to 8) are those of the attestation key.
    let mut other = vector("rsa_attack_unrestricted_ak_pub.bin");
    other[4..8].copy_from_slice(&good.ak[4..8]);
    let foreign = Certified { ak: other, ..certified("rsa") };
    let outcome = foreign.verify().unwrap_err();
    assert!(matches!(outcome, EvidenceError::Structure { field: "certify_signature", .. }), "{outcome}");
    let Attested::Certify { name, qualified_name } = Attest::parse(&good.attest).unwrap().attested;
    assert_ne!(name, qualified_name);
}

#[test]
fn unfit_schemes_are_refused_by_name() {
    let scheme_at = 12;
    let ak = vector("rsa_ak_pub.bin");
    assert_eq!(&ak[scheme_at..scheme_at + 4], &[0x00, 0x18, 0x00, 0x0b], "ECDSA with SHA-256");
    let mut sha1 = ak.clone();
    sha1[scheme_at + 3] = 4;
    assert_eq!(Public::parse(&sha1), Err(TpmError::Algorithm(4)));
    let none = [&ak[..scheme_at], &[0, 0x10], &ak[scheme_at + 4..]].concat();
    let none = Public::parse(&none).unwrap();
    assert!(matches!(check_attestation_key(&none), Err(TpmError::Invalid(rule)) if rule.contains("fixed")));
    let pss = [&[0x00, 0x16, 0x00, 0x0b, 0x01, 0x00][..], &[1; 256]].concat();
    assert!(matches!(Signature::parse(&pss), Err(TpmError::Invalid(rule)) if rule.contains("RSAPSS")));
}

#[test]
fn the_endorsement_key_is_the_certificates_key_in_the_tcg_template() {
    for prefix in ["rsa", "ecc"] {
        let ek = endorsement(prefix, "swtpm-localca-rootca-cert.pem").unwrap();
        assert_eq!(ek.public().as_bytes(), vector(&format!("{prefix}_ek_pub.bin")), "{prefix}");
        assert_eq!((ek.vendor(), ek.model(), ek.version()), (Some("00001014"), Some("swtpm"), Some("20191023")));
        assert_eq!(ek.trust().len(), 1);
        assert_eq!(ek.trust()[0].anchor_name, "CN=swtpm-localca-rootca");
    }
}

fn stores(pem: &[u8]) -> TrustStores {
    let mut stores = TrustStores::new();
    stores.add(TrustStore::parse("tpm", Format::Tpm2, pem).unwrap()).unwrap();
    stores
}

fn chain() -> Vec<Vec<u8>> {
    certificates("chain", &vector("issuercert.pem")).unwrap()
}

fn endorsement(prefix: &str, root: &str) -> Result<EndorsementKey, EkError> {
    let certificate = vector(&format!("{prefix}_ek_cert.der"));
    EndorsementKey::verify(&certificate, &chain(), &stores(&vector(root)), NOW)
}

#[test]
fn endorsement_certificates_lead_to_their_root_and_no_other() {
    for prefix in ["rsa", "ecc"] {
        endorsement(prefix, "swtpm-localca-rootca-cert.pem").expect("the control passes");
        endorsement(prefix, "issuercert.pem").expect("an intermediate can be an anchor");
        let certificate = vector(&format!("{prefix}_ek_cert.der"));
        let root = stores(&vector("swtpm-localca-rootca-cert.pem"));
        let other_key = rcgen::KeyPair::generate().unwrap();
        let mut other = rcgen::CertificateParams::default();
        other.distinguished_name = rcgen::DistinguishedName::new();
        other.distinguished_name.push(rcgen::DnType::CommonName, "swtpm-localca-rootca");
        other.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let other = stores(other.self_signed(&other_key).unwrap().pem().as_bytes());
        let untrusted = |outcome: Result<EndorsementKey, EkError>| matches!(outcome, Err(EkError::Untrusted(_)));
        assert!(
            untrusted(EndorsementKey::verify(&certificate, &chain(), &other, NOW)),
            "another root of the same name"
        );
        assert!(untrusted(EndorsementKey::verify(&certificate, &[], &root, NOW)), "without the intermediate");
        assert!(untrusted(EndorsementKey::verify(&certificate, &chain(), &TrustStores::new(), NOW)), "no store");
        let before = UnixTime::from_secs(1_600_000_000);
        assert!(untrusted(EndorsementKey::verify(&certificate, &chain(), &root, before)), "not yet valid");

        let padded = [&certificate[..], &[0xff; 300]].concat();
        EndorsementKey::verify(&padded, &chain(), &root, NOW).expect("NV padding is passed over");
        let mut forged = certificate.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(untrusted(EndorsementKey::verify(&forged, &chain(), &root, NOW)));
        for length in [0, 1, 4, 100, certificate.len() - 1] {
            let cut = EndorsementKey::verify(&certificate[..length], &chain(), &root, NOW);
            assert!(matches!(cut, Err(EkError::Malformed)));
        }
        let many = vec![chain().remove(0); 9];
        assert!(matches!(EndorsementKey::verify(&certificate, &many, &root, NOW), Err(EkError::TooLarge)));
        let long = vec![0x30; MAX_CERTIFICATE + 1];
        assert!(matches!(EndorsementKey::verify(&long, &chain(), &root, NOW), Err(EkError::TooLarge)));
    }
}

#[test]
fn a_changed_endorsement_certificate_is_refused() {
    let root = stores(&vector("swtpm-localca-rootca-cert.pem"));
    for prefix in ["rsa", "ecc"] {
        let good = vector(&format!("{prefix}_ek_cert.der"));
        EndorsementKey::verify(&good, &chain(), &root, NOW).expect("the control passes");
        // A step that is prime to 8 meets every position within an octet.
        for bit in (0..good.len() * 8).step_by(3) {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(EndorsementKey::verify(&flipped, &chain(), &root, NOW).is_err(), "{prefix} bit {bit}");
        }
    }
}

/// Some vendors' CAs carry tcg-kp-EKCertificate themselves; presented as an endorsement key they are refused.
#[test]
fn certificates_of_other_kinds_are_no_endorsement_certificates() {
    let root = stores(&vector("swtpm-localca-rootca-cert.pem"));
    let issuer = chain().remove(0);
    assert!(matches!(EndorsementKey::verify(&issuer, &[], &root, NOW), Err(EkError::IsCa)));

    let root_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let anchors = stores(params.self_signed(&root_key).unwrap().pem().as_bytes());
    let issuer = rcgen::Issuer::new(params, root_key);
    let made = |change: fn(&mut rcgen::CertificateParams)| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::default();
        leaf.is_ca = rcgen::IsCa::ExplicitNoCa;
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        leaf.key_usages = vec![rcgen::KeyUsagePurpose::KeyAgreement];
        change(&mut leaf);
        let der = leaf.signed_by(&key, &issuer).unwrap().der().to_vec();
        EndorsementKey::verify(&der, &[], &anchors, NOW)
    };
    made(|_| ()).expect("the control passes");
    let ca = made(|l| l.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert!(matches!(ca, Err(EkError::IsCa)), "a CA with the extended key usage of an endorsement key");
    assert!(matches!(made(|l| l.extended_key_usages.clear()), Err(EkError::ExtendedKeyUsage)));
    let client = made(|l| l.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(matches!(client, Err(EkError::ExtendedKeyUsage)));
    assert!(matches!(made(|l| l.key_usages.clear()), Err(EkError::KeyUsage)));
    let signing = made(|l| l.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature]);
    assert!(matches!(signing, Err(EkError::KeyUsage)));
    let rsa_usage = made(|l| l.key_usages = vec![rcgen::KeyUsagePurpose::KeyEncipherment]);
    assert!(matches!(rsa_usage, Err(EkError::KeyUsage)), "keyEncipherment is for RSA");
}

#[test]
fn the_same_randomness_gives_the_same_credential() {
    let name = Public::parse(&vector("rsa_ak_pub.bin")).unwrap().name();
    for prefix in ["rsa", "ecc"] {
        let ek = Public::parse(&vector(&format!("{prefix}_ek_pub.bin"))).unwrap();
        let make = |start: u8| {
            let mut next = start;
            let mut random = |out: &mut [u8]| {
                for b in out {
                    *b = next;
                    next = next.wrapping_add(1);
                }
            };
            make_credential(&ek, &name, &[7; 32], &mut random).unwrap()
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1).id_object, make(2).id_object);
        assert_ne!(make(1).encrypted_secret, make(2).encrypted_secret);
        assert!(make_credential(&ek, &name, &[7; 65], &mut |_| ()).is_err(), "a secret longer than the digest");
    }
    let ecc = Public::parse(&vector("ecc_ek_pub.bin")).unwrap();
    let stuck = make_credential(&ecc, &name, &[7; 32], &mut |out| out.fill(0xff));
    assert!(stuck.is_err(), "a source that gives only octets beyond the curve's order is refused, not waited for");
    let ak = Public::parse(&vector("rsa_ak_pub.bin")).unwrap();
    assert!(make_credential(&ak, &name, &[7; 32], &mut |out| out.fill(1)).is_err(), "not a storage key");
    assert!(Template::EK_P256.public(ecc.key()).is_err(), "a P-384 key in the P-256 template");
}

#[test]
fn vendor_authorities_are_accepted_as_anchors() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/keylime_tpm_cert_store");
    let Ok(files) = std::fs::read_dir(&folder) else {
        println!("skipped: no vendor certificates beside the repository");
        return;
    };
    let mut read = 0;
    for file in files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "pem")) {
        let contents = std::fs::read(&file).unwrap();
        let store = TrustStore::parse("vendor", Format::Tpm2, &contents);
        assert!(store.is_ok(), "{}: {store:?}", file.display());
        read += store.unwrap().len();
        for der in certificates("vendor", &contents).unwrap() {
            let as_ek = EndorsementKey::verify(&der, &[], &stores(&contents), NOW);
            assert!(as_ek.is_err(), "{} passes for an endorsement key", file.display());
        }
    }
    println!("{read} vendor certificates");
    assert!(read > 0);
}
