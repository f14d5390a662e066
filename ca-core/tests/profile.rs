//! Profiles: what is accepted, what is refused, and under which field's name.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use ca_core::{
    id::ProfileName,
    key::KeyAlgorithm,
    profile::{AttestationPolicy, CertificateProfile, EnrollBy, Lifetime, PastIssuer, ProfileSpec},
    time::UnixTime,
};
use std::time::Duration;
use support::{NOW, compile};

fn from_toml(text: &str) -> Result<ProfileSpec, toml::de::Error> {
    toml::from_str(text)
}

/// The field under which `edit` makes the built-in TLS profile refused.
fn refused_field(edit: impl FnOnce(&mut ProfileSpec)) -> &'static str {
    let mut spec = ProfileSpec::tls_client();
    edit(&mut spec);
    let error = CertificateProfile::compile(ProfileName::new("p").unwrap(), spec).expect_err("must be refused");
    assert!(error.to_string().starts_with(&format!("profile p: {}: ", error.field())), "{error}");
    error.field()
}

const FULL: &str = r#"
description = "everything"
key_algorithms = ["P-256", "RSA-3072"]
validity = "90d"
validity_past_issuer = "refuse"
backdate = "30m"
hw_type = "1.3.6.1.4.1.32473.9"
key_usage = ["digitalSignature"]
extended_key_usage = ["clientAuth", "serverAuth", "1.3.6.1.4.1.32473.7"]
device_id_from = ["csr"]
enroll_by = ["token"]
attestation = "required"
renewable = true
subject = [{ type = "country", value = "DE" }, { type = "commonName", from = "device.id" },
           { type = "organizationalUnit", from = "device.model", optional = true }]
csr_extensions = { ignore = ["keyUsage", "1.2.3.4"] }

[[san]]
type = "dns"
from = "device.id"
suffix = ".devices.example.com"

[[san]]
type = "dns"
from = "csr"
allow = ["*.plant.example.com", "gateway.example.com"]
max = 4

[[san]]
type = "hardware-module-name"
from = "device.serial_number"
"#;

#[test]
fn a_full_profile_reads_compiles_and_writes_back() {
    let spec = from_toml(FULL).unwrap();
    let profile = compile(spec.clone());
    assert_eq!(profile.key_algorithms(), [KeyAlgorithm::EcP256, KeyAlgorithm::Rsa(3072)]);
    assert!(!profile.accepts_key(KeyAlgorithm::Rsa(2048)));
    assert_eq!(profile.lifetime(), Lifetime::For(Duration::from_secs(90 * 86_400)));
    assert_eq!(profile.past_issuer(), PastIssuer::Refuse);
    assert_eq!(profile.backdate(), Duration::from_secs(1800));
    assert_eq!(profile.extended_key_usage().len(), 3);
    assert_eq!(profile.enroll_by(), [EnrollBy::Token]);
    assert_eq!(profile.attestation(), AttestationPolicy::Required);
    assert!(profile.renewable());
    assert_eq!(from_toml(&toml::to_string(&spec).unwrap()).unwrap(), spec);
}

#[test]
fn unknown_words_are_refused() {
    for (good, bad) in [
        ("renewable", "renewabel"),
        ("\"refuse\"", "\"never\""),
        ("\"digitalSignature\"", "\"keyCertSign\""),
        ("\"token\"", "\"anyone\""),
        ("\"device.id\"", "\"device.colour\""),
        ("suffix", "sufix"),
        ("ignore =", "copy ="),
    ] {
        assert!(FULL.contains(good));
        assert!(from_toml(&FULL.replacen(good, bad, 1)).is_err(), "{bad}");
    }
}

#[test]
fn the_built_in_profiles_compile() {
    let tls = compile(ProfileSpec::tls_client());
    assert_eq!(tls.not_after(NOW), NOW.plus(Duration::from_secs(365 * 86_400)));
    let idevid = compile(ProfileSpec::idevid());
    assert_eq!((idevid.not_after(NOW), idevid.past_issuer()), (UnixTime::INFINITY, PastIssuer::Allow));
    assert!(!idevid.renewable() && idevid.extended_key_usage().is_empty());
    let principal = compile(ProfileSpec::principal());
    assert!(principal.enroll_by().is_empty() && principal.renewable());
    for spec in [ProfileSpec::tls_client(), ProfileSpec::idevid(), ProfileSpec::principal()] {
        assert_eq!(from_toml(&toml::to_string(&spec).unwrap()).unwrap(), spec);
    }
}

#[test]
fn durations_are_read_strictly() {
    for good in ["60s", "1m", "12h", "90d", "2w", "1y", "100y", "infinite"] {
        let mut spec = ProfileSpec::tls_client();
        spec.validity = good.to_owned();
        compile(spec);
    }
    for bad in [
        "",
        "0d",
        "90",
        "d",
        "-1d",
        "+1d",
        "1 d",
        " 1d",
        "01d",
        "1D",
        "1d1h",
        "1.5d",
        "101y",
        "59s",
        "1mo",
        "Infinite",
        "999999999999999999y",
        "9999999999d",
    ] {
        assert_eq!(refused_field(|s| s.validity = bad.to_owned()), "validity", "{bad}");
    }
    for bad in ["49h", "", "infinite", "x"] {
        assert_eq!(refused_field(|s| s.backdate = bad.to_owned()), "backdate", "{bad}");
    }
    let mut none = ProfileSpec::tls_client();
    none.backdate = "0s".to_owned();
    assert_eq!(compile(none).backdate(), Duration::ZERO);
}

#[test]
fn contradictions_name_their_field() {
    let list = |items: &[&str]| items.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
    for bad in [list(&[]), list(&["P-256", "P-256"]), list(&["RSA-1024"]), list(&["p-256"])] {
        assert_eq!(refused_field(|s| s.key_algorithms = bad), "key_algorithms");
    }
    for bad in ["OCSPSigning", "1.3.6.1.5.5.7.3.9", "2.5.29.37.0", "anything"] {
        assert_eq!(refused_field(|s| s.extended_key_usage = list(&[bad])), "extended_key_usage", "{bad}");
    }
    let usage = |text: &str| from_toml(&FULL.replace("[\"digitalSignature\"]", text)).unwrap().key_usage;
    for bad in [
        "[]",
        "[\"keyEncipherment\"]",
        "[\"digitalSignature\", \"keyAgreement\"]",
        "[\"digitalSignature\", \"digitalSignature\"]",
    ] {
        // The profile lists Ed25519 and RSA: neither encipherment nor agreement fits both.
        assert_eq!(refused_field(|s| s.key_usage = usage(bad)), "key_usage", "{bad}");
    }
    let mut rsa = ProfileSpec::tls_client();
    rsa.key_algorithms = list(&["RSA-2048"]);
    rsa.key_usage = usage("[\"digitalSignature\", \"keyEncipherment\"]");
    compile(rsa);
    for bad in ["subjectAltName", "2.5.29.17", "everything"] {
        assert_eq!(refused_field(|s| s.csr_extensions.ignore = list(&[bad])), "csr_extensions.ignore", "{bad}");
    }
    assert_eq!(refused_field(|s| s.attestation = AttestationPolicy::Off), "attestation");
    assert_eq!(refused_field(|s| s.enroll_by = vec![EnrollBy::Token, EnrollBy::Token]), "enroll_by");
    assert_eq!(refused_field(|s| s.subject.clear()), "subject");
    assert_eq!(refused_field(|s| s.hw_type = Some("x".to_owned())), "hw_type");
    assert_eq!(refused_field(|s| s.description = "x".repeat(1001)), "description");
    let mut idevid = ProfileSpec::idevid();
    idevid.hw_type = None;
    let error = CertificateProfile::compile(ProfileName::new("p").unwrap(), idevid).expect_err("needs hw_type");
    assert_eq!(error.field(), "hw_type");
}

#[test]
fn subject_and_san_rules_are_checked() {
    let subject = |text: &str| {
        toml::from_str::<ProfileSpec>(&format!("key_algorithms=[]\nvalidity=''\nkey_usage=[]\nsubject=[{text}]"))
            .unwrap()
            .subject
    };
    for bad in [
        "{ type = 'commonName' }",
        "{ type = 'commonName', value = 'a', from = 'tenant' }",
        "{ type = 'commonName', value = 'a', optional = true }",
        "{ type = 'commonName', value = '' }",
        "{ type = 'country', value = 'Germany' }",
        "{ type = 'commonName', from = 'csr' }",
        "{ type = 'commonName', from = 'device.id', optional = true }",
        "{ type = 'commonName', value = 'a' }, { type = 'commonName', value = 'b' }",
    ] {
        assert_eq!(refused_field(|s| s.subject = subject(bad)), "subject", "{bad}");
    }
    let san = |text: &str| {
        toml::from_str::<ProfileSpec>(&format!("key_algorithms=[]\nvalidity=''\nkey_usage=[]\nsan=[{text}]"))
            .unwrap()
            .san
    };
    for bad in [
        "{ type = 'dns' }",
        "{ type = 'dns', value = '*.a.b' }",
        "{ type = 'ip', value = '10.0.0.0/8' }",
        "{ type = 'uri', value = 'nothing' }",
        "{ type = 'dns', value = 'a.b', suffix = '.c' }",
        "{ type = 'dns', from = 'device.id', allow = ['a.b'] }",
        "{ type = 'dns', from = 'csr' }",
        "{ type = 'dns', from = 'csr', allow = ['*'] }",
        "{ type = 'dns', from = 'csr', allow = ['*.a.b'], max = 0 }",
        "{ type = 'dns', from = 'csr', allow = ['*.a.b'], max = 33 }",
        "{ type = 'uri', from = 'csr', allow = ['https://a.b'] }",
        "{ type = 'ip', from = 'csr', allow = ['0.0.0.0/0'] }",
        "{ type = 'hardware-module-name', from = 'csr', allow = ['x'] }",
    ] {
        assert_eq!(refused_field(|s| s.san = san(bad)), "san", "{bad}");
    }
}
