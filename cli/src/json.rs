//! The JSON form of each message. `cli/OUTPUT.md` documents it; scripts rely on it, so fields are only ever added.
//!
//! Names are those of the proto files. Every field is always there; an absent message or time is null.

use crate::{pem, when, words};
use prost_types::Timestamp;
use proto::v1;
use serde_json::{Value, json};

fn time(at: &Option<Timestamp>) -> Value {
    at.as_ref().and_then(when::rfc3339).map_or(Value::Null, Value::String)
}

/// `CertificateRef`.
pub fn certificate_ref(r: &v1::CertificateRef) -> Value {
    json!({ "issuer_id": r.issuer_id, "serial_number": r.serial_number })
}

/// `DeviceIdentity`.
pub fn device_identity(d: &v1::DeviceIdentity) -> Value {
    json!({ "manufacturer": d.manufacturer, "model": d.model, "serial_number": d.serial_number })
}

/// `Revocation`.
pub fn revocation(r: &v1::Revocation) -> Value {
    json!({
        "revoked_at": time(&r.revoked_at),
        "reason": words::reason(r.reason),
        "invalidity_date": time(&r.invalidity_date),
        "revoked_by": r.revoked_by,
    })
}

/// `AttestationResult`.
pub fn attestation(a: &v1::AttestationResult) -> Value {
    let claims: serde_json::Map<String, Value> =
        a.claims.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect();
    json!({
        "format": a.format,
        "claims": claims,
        "evidence_sha256": a.evidence_sha256,
        "trust_anchor": a.trust_anchor,
    })
}

/// `Certificate`; `der` becomes `pem`.
pub fn certificate(c: &v1::Certificate) -> Value {
    json!({
        "ref": c.r#ref.as_ref().map(certificate_ref),
        "pem": pem::certificate(&c.der),
        "subject": c.subject,
        "profile": c.profile,
        "not_before": time(&c.not_before),
        "not_after": time(&c.not_after),
        "state": words::certificate_state(c.state),
        "device_id": c.device_id,
        "principal_id": c.principal_id,
        "sha256": c.sha256,
        "revocation": c.revocation.as_ref().map(revocation),
        "replaces_serial_number": c.replaces_serial_number,
        "issued_at": time(&c.issued_at),
        "requested_by": c.requested_by,
        "attestation": c.attestation.as_ref().map(attestation),
    })
}

fn chain(chain: &[Vec<u8>]) -> Vec<String> {
    chain.iter().map(|der| pem::certificate(der)).collect()
}

/// `GetCertificateResponse`.
pub fn get_certificate(r: &v1::GetCertificateResponse) -> Value {
    json!({ "certificate": r.certificate.as_ref().map(certificate), "chain": chain(&r.chain), "pem": r.pem })
}

/// `EnrollResponse`.
pub fn enroll(r: &v1::EnrollResponse) -> Value {
    json!({
        "certificate": r.certificate.as_ref().map(certificate),
        "chain": chain(&r.chain),
        "pem": r.pem,
        "replayed": r.replayed,
    })
}

/// `RevokeResponse`.
pub fn revoke(r: &v1::RevokeResponse) -> Value {
    json!({ "certificates": r.certificates.iter().map(certificate).collect::<Vec<_>>() })
}

/// `GetStatusResponse`, with the certificate that it speaks of.
pub fn get_status(of: &v1::CertificateRef, r: &v1::GetStatusResponse) -> Value {
    json!({
        "ref": certificate_ref(of),
        "status": words::status(r.status),
        "as_of": time(&r.as_of),
        "revocation": r.revocation.as_ref().map(revocation),
        "crl_number": r.crl_number,
        "on_crl": r.on_crl,
    })
}

/// `Device`.
pub fn device(d: &v1::Device) -> Value {
    json!({
        "device_id": d.device_id,
        "identity": d.identity.as_ref().map(device_identity),
        "first_enrolled_at": time(&d.first_enrolled_at),
        "attestation_anchor": d.attestation_anchor,
        "current": d.current.as_ref().map(certificate_ref),
        "certificate_count": d.certificate_count,
    })
}

/// `GetDeviceResponse`.
pub fn get_device(r: &v1::GetDeviceResponse) -> Value {
    json!({
        "device": r.device.as_ref().map(device),
        "certificates": r.certificates.iter().map(certificate).collect::<Vec<_>>(),
    })
}

/// `Issuer`; `certificate` becomes `pem`.
pub fn issuer(i: &v1::Issuer) -> Value {
    json!({
        "issuer_id": i.issuer_id,
        "subject": i.subject,
        "pem": pem::certificate(&i.certificate),
        "state": words::issuer_state(i.state),
        "subject_key_identifier": i.subject_key_identifier,
        "key_algorithm": i.key_algorithm,
        "signature_algorithm": i.signature_algorithm,
        "not_after": time(&i.not_after),
        "crl_url": i.crl_url,
        "ocsp_url": i.ocsp_url,
        "ca_issuers_url": i.ca_issuers_url,
        "crl_number": i.crl_number,
        "crl_next_update": time(&i.crl_next_update),
    })
}

/// `GetTrustBundleResponse`; the DER lists become lists of PEM.
pub fn trust_bundle(b: &v1::GetTrustBundleResponse) -> Value {
    json!({
        "roots": chain(&b.roots),
        "intermediates": chain(&b.intermediates),
        "pem": b.pem,
        "fingerprints": b.fingerprints,
    })
}

/// `Profile`.
pub fn profile(p: &v1::Profile) -> Value {
    json!({
        "name": p.name,
        "description": p.description,
        "key_algorithms": p.key_algorithms,
        "validity_seconds": p.validity_seconds,
        "enroll_by": p.enroll_by,
        "attestation": p.attestation,
        "renewable": p.renewable,
        "toml": p.toml,
        "sha256": p.sha256,
    })
}

/// `Principal`.
pub fn principal(p: &v1::Principal) -> Value {
    json!({
        "principal_id": p.principal_id,
        "role": words::role(p.role),
        "created_at": time(&p.created_at),
        "created_by": p.created_by,
        "disabled_at": time(&p.disabled_at),
    })
}

/// `CreatePrincipalResponse`.
pub fn create_principal(r: &v1::CreatePrincipalResponse) -> Value {
    json!({
        "principal": r.principal.as_ref().map(principal),
        "certificate": r.certificate.as_ref().map(certificate),
        "chain": chain(&r.chain),
        "pem": r.pem,
    })
}

/// `CreateEnrollmentTokenResponse`.
pub fn enrollment_token(t: &v1::CreateEnrollmentTokenResponse) -> Value {
    json!({ "token_id": t.token_id, "enrollment_token": t.enrollment_token, "expires_at": time(&t.expires_at) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use prost::Message;

    /// The field names of a message, from the descriptors that the contract was compiled to.
    fn fields_of(message: &str) -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let found = set.file.iter().flat_map(|f| &f.message_type).find(|m| m.name() == message).expect(message);
        let mut names: Vec<String> = found.field.iter().map(|f| f.name().to_owned()).collect();
        names.sort();
        names
    }

    fn keys(value: &Value) -> Vec<String> {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    }

    #[test]
    fn every_field_of_every_message_is_there() {
        let renamed = |message: &str, from: &str| {
            let mut names: Vec<String> =
                fields_of(message).into_iter().map(|n| if n == from { "pem".to_owned() } else { n }).collect();
            names.sort();
            names
        };
        let with_ref = |message: &str| {
            let mut names = fields_of(message);
            names.push("ref".to_owned());
            names.sort();
            names
        };
        assert_eq!(keys(&certificate(&Default::default())), renamed("Certificate", "der"));
        assert_eq!(keys(&issuer(&Default::default())), renamed("Issuer", "certificate"));
        assert_eq!(keys(&get_status(&Default::default(), &Default::default())), with_ref("GetStatusResponse"));
        for (value, message) in [
            (certificate_ref(&Default::default()), "CertificateRef"),
            (device_identity(&Default::default()), "DeviceIdentity"),
            (revocation(&Default::default()), "Revocation"),
            (attestation(&Default::default()), "AttestationResult"),
            (get_certificate(&Default::default()), "GetCertificateResponse"),
            (enroll(&Default::default()), "EnrollResponse"),
            (revoke(&Default::default()), "RevokeResponse"),
            (device(&Default::default()), "Device"),
            (get_device(&Default::default()), "GetDeviceResponse"),
            (trust_bundle(&Default::default()), "GetTrustBundleResponse"),
            (profile(&Default::default()), "Profile"),
            (principal(&Default::default()), "Principal"),
            (create_principal(&Default::default()), "CreatePrincipalResponse"),
            (enrollment_token(&Default::default()), "CreateEnrollmentTokenResponse"),
        ] {
            assert_eq!(keys(&value), fields_of(message), "{message}");
        }
    }

    #[test]
    fn a_certificate_has_the_documented_form() {
        let value = certificate(&v1::Certificate {
            r#ref: Some(v1::CertificateRef { issuer_id: "i1".into(), serial_number: "4f01".into() }),
            der: vec![1, 2, 3],
            subject: "CN=x".into(),
            not_after: Some(Timestamp { seconds: 253_402_300_799, nanos: 0 }),
            state: v1::CertificateState::Revoked as i32,
            revocation: Some(v1::Revocation {
                revoked_at: Some(Timestamp { seconds: 0, nanos: 0 }),
                reason: v1::RevocationReason::KeyCompromise as i32,
                ..Default::default()
            }),
            attestation: Some(v1::AttestationResult {
                format: "tpm2".into(),
                claims: [("key.hardware_bound".to_owned(), "yes".to_owned())].into(),
                ..Default::default()
            }),
            ..Default::default()
        });
        assert_eq!(
            value,
            json!({
                "ref": { "issuer_id": "i1", "serial_number": "4f01" },
                "pem": "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n",
                "subject": "CN=x",
                "profile": "",
                "not_before": null,
                "not_after": "9999-12-31T23:59:59Z",
                "state": "revoked",
                "device_id": "",
                "principal_id": "",
                "sha256": "",
                "revocation": {
                    "revoked_at": "1970-01-01T00:00:00Z",
                    "reason": "key_compromise",
                    "invalidity_date": null,
                    "revoked_by": "",
                },
                "replaces_serial_number": "",
                "issued_at": null,
                "requested_by": "",
                "attestation": {
                    "format": "tpm2",
                    "claims": { "key.hardware_bound": "yes" },
                    "evidence_sha256": "",
                    "trust_anchor": "",
                },
            })
        );
    }

    #[test]
    fn status_names_what_it_speaks_of() {
        let of = v1::CertificateRef { issuer_id: "i1".into(), serial_number: "4f".into() };
        let value = get_status(
            &of,
            &v1::GetStatusResponse {
                status: v1::Status::Good as i32,
                as_of: Some(Timestamp { seconds: 1, nanos: 0 }),
                crl_number: u64::MAX,
                ..Default::default()
            },
        );
        assert_eq!(
            value,
            json!({
                "ref": { "issuer_id": "i1", "serial_number": "4f" }, "status": "good", "as_of": "1970-01-01T00:00:01Z",
                "revocation": null, "crl_number": u64::MAX, "on_crl": false
            })
        );
    }
}
