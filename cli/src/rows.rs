//! Messages as people read them: rows of tables, and fields below each other.

use crate::{
    output::fields,
    when::{human, human_duration},
    words,
};
use proto::v1;

/// Column headings of [`certificate`].
pub const CERTIFICATE: &[&str] = &["SERIAL", "HOLDER", "PROFILE", "STATE", "ISSUED", "EXPIRES", "ISSUER"];
/// Column headings of [`device`].
pub const DEVICE: &[&str] = &["DEVICE", "MANUFACTURER", "MODEL", "FIRST ENROLLED", "CERTIFICATES", "CURRENT"];
/// Column headings of [`issuer`].
pub const ISSUER: &[&str] = &["ISSUER", "STATE", "KEY", "EXPIRES", "CRL", "NEXT CRL BY", "SUBJECT"];
/// Column headings of [`profile`].
pub const PROFILE: &[&str] = &["PROFILE", "VALIDITY", "KEYS", "ENROLL BY", "ATTESTATION", "RENEWABLE", "DESCRIPTION"];
/// Column headings of [`principal`].
pub const PRINCIPAL: &[&str] = &["PRINCIPAL", "ROLE", "CREATED", "CREATED BY", "DISABLED"];

fn serial(r: Option<&v1::CertificateRef>) -> String {
    r.map(|r| r.serial_number.clone()).unwrap_or_default()
}

/// Who holds the certificate, with the kind of holder.
pub fn holder(c: &v1::Certificate) -> String {
    match (c.device_id.as_str(), c.principal_id.as_str()) {
        ("", "") => "nobody".to_owned(),
        ("", principal) => format!("principal {principal}"),
        (device, _) => format!("device {device}"),
    }
}

/// A row of a list of certificates.
pub fn certificate(c: &v1::Certificate) -> Vec<String> {
    vec![
        serial(c.r#ref.as_ref()),
        holder(c),
        c.profile.clone(),
        words::certificate_state(c.state),
        human(c.issued_at.as_ref()),
        human(c.not_after.as_ref()),
        c.r#ref.as_ref().map(|r| r.issuer_id.clone()).unwrap_or_default(),
    ]
}

/// A row of a list of devices.
pub fn device(d: &v1::Device) -> Vec<String> {
    let identity = d.identity.clone().unwrap_or_default();
    vec![
        d.device_id.clone(),
        identity.manufacturer,
        identity.model,
        human(d.first_enrolled_at.as_ref()),
        d.certificate_count.to_string(),
        serial(d.current.as_ref()),
    ]
}

/// A row of a list of issuers.
pub fn issuer(i: &v1::Issuer) -> Vec<String> {
    vec![
        i.issuer_id.clone(),
        words::issuer_state(i.state),
        i.key_algorithm.clone(),
        human(i.not_after.as_ref()),
        i.crl_number.to_string(),
        human(i.crl_next_update.as_ref()),
        i.subject.clone(),
    ]
}

/// A row of a list of profiles.
pub fn profile(p: &v1::Profile) -> Vec<String> {
    vec![
        p.name.clone(),
        validity(p.validity_seconds),
        p.key_algorithms.join(" "),
        p.enroll_by.join(" "),
        p.attestation.clone(),
        if p.renewable { "yes" } else { "no" }.to_owned(),
        p.description.clone(),
    ]
}

fn validity(seconds: u64) -> String {
    if seconds == 0 { "no end".to_owned() } else { human_duration(seconds) }
}

/// A row of a list of principals.
pub fn principal(p: &v1::Principal) -> Vec<String> {
    vec![
        p.principal_id.clone(),
        words::role(p.role),
        human(p.created_at.as_ref()),
        p.created_by.clone(),
        human(p.disabled_at.as_ref()),
    ]
}

/// One certificate in full.
pub fn certificate_fields(c: &v1::Certificate) -> String {
    let when = |at: &Option<prost_types::Timestamp>| at.as_ref().map(|at| human(Some(at))).unwrap_or_default();
    let mut lines = vec![
        ("Serial", serial(c.r#ref.as_ref())),
        ("Issuer", c.r#ref.as_ref().map(|r| r.issuer_id.clone()).unwrap_or_default()),
        ("State", words::certificate_state(c.state)),
        ("Holder", holder(c)),
        ("Subject", c.subject.clone()),
        ("Profile", c.profile.clone()),
        ("Valid from", when(&c.not_before)),
        ("Valid to", when(&c.not_after)),
        ("Issued", when(&c.issued_at)),
        ("Requested by", c.requested_by.clone()),
        ("Renews", c.replaces_serial_number.clone()),
        ("SHA-256", c.sha256.clone()),
    ];
    if let Some(r) = &c.revocation {
        lines.push(("Revoked", when(&r.revoked_at)));
        lines.push(("Reason", words::reason(r.reason)));
        lines.push(("Invalid since", when(&r.invalidity_date)));
        lines.push(("Revoked by", r.revoked_by.clone()));
    }
    let mut claims = Vec::new();
    if let Some(a) = &c.attestation {
        lines.push(("Attestation", a.format.clone()));
        lines.push(("Attested by", a.trust_anchor.clone()));
        lines.push(("Evidence", a.evidence_sha256.clone()));
        claims = a.claims.iter().collect();
        claims.sort();
    }
    lines.extend(claims.into_iter().map(|(name, value)| ("Claim", format!("{name} = {value}"))));
    fields(&lines)
}

/// One device in full, with a line for each of its certificates.
pub fn device_fields(r: &v1::GetDeviceResponse) -> String {
    let d = r.device.clone().unwrap_or_default();
    let identity = d.identity.unwrap_or_default();
    let mut lines = vec![
        ("Device", d.device_id),
        ("Serial number", identity.serial_number),
        ("Manufacturer", identity.manufacturer),
        ("Model", identity.model),
        ("First enrolled", human(d.first_enrolled_at.as_ref())),
        ("Attestation anchor", d.attestation_anchor),
        ("Certificates", d.certificate_count.to_string()),
    ];
    let current = serial(d.current.as_ref());
    for c in &r.certificates {
        let serial = serial(c.r#ref.as_ref());
        let name = if serial == current { "Current" } else { "Earlier" };
        let state = words::certificate_state(c.state);
        lines.push((name, format!("{serial}  {}  {state}  to {}", c.profile, human(c.not_after.as_ref()))));
    }
    fields(&lines)
}

/// One profile in full.
pub fn profile_fields(p: &v1::Profile) -> String {
    fields(&[
        ("Profile", p.name.clone()),
        ("Description", p.description.clone()),
        ("Keys", p.key_algorithms.join(", ")),
        ("Validity", validity(p.validity_seconds)),
        ("Enroll by", p.enroll_by.join(", ")),
        ("Attestation", p.attestation.clone()),
        ("Renewable", if p.renewable { "yes" } else { "no" }.to_owned()),
        ("SHA-256", p.sha256.clone()),
    ])
}

/// The answer of a revocation.
pub fn revoked(r: &v1::RevokeResponse) -> String {
    if r.certificates.is_empty() {
        return "There was no live certificate; nothing was revoked.\n".to_owned();
    }
    r.certificates
        .iter()
        .map(|c| {
            let revocation = c.revocation.clone().unwrap_or_default();
            format!(
                "Revoked {} of {} at {}, reason {}.\n",
                crate::terminal::clean(&serial(c.r#ref.as_ref())),
                crate::terminal::clean(&holder(c)),
                human(revocation.revoked_at.as_ref()),
                words::reason(revocation.reason)
            )
        })
        .collect()
}

/// The status of one certificate.
pub fn status(of: &v1::CertificateRef, r: &v1::GetStatusResponse) -> String {
    let mut lines = vec![
        ("Serial", of.serial_number.clone()),
        ("Issuer", of.issuer_id.clone()),
        ("Status", words::status(r.status)),
        ("As of", human(r.as_of.as_ref())),
    ];
    if let Some(revocation) = &r.revocation {
        lines.push(("Revoked", human(revocation.revoked_at.as_ref())));
        lines.push(("Reason", words::reason(revocation.reason)));
        if revocation.invalidity_date.is_some() {
            lines.push(("Invalid since", human(revocation.invalidity_date.as_ref())));
        }
        lines.push(("Revoked by", revocation.revoked_by.clone()));
    }
    let agrees = if r.on_crl { "says the same" } else { "does not say so yet" };
    lines.push(("Newest CRL", format!("number {}, {agrees}", r.crl_number)));
    fields(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fit_their_headings() {
        assert_eq!(certificate(&Default::default()).len(), CERTIFICATE.len());
        assert_eq!(device(&Default::default()).len(), DEVICE.len());
        assert_eq!(issuer(&Default::default()).len(), ISSUER.len());
        assert_eq!(profile(&Default::default()).len(), PROFILE.len());
        assert_eq!(principal(&Default::default()).len(), PRINCIPAL.len());
    }

    #[test]
    fn a_revocation_is_told_in_one_line() {
        let certificate = v1::Certificate {
            r#ref: Some(v1::CertificateRef { issuer_id: "i".into(), serial_number: "4f".into() }),
            device_id: "SN-1\n".into(),
            revocation: Some(v1::Revocation {
                revoked_at: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
                reason: 1,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            revoked(&v1::RevokeResponse { certificates: vec![certificate.clone()] }),
            "Revoked 4f of device SN-1\\u{a} at 1970-01-01T00:00:00Z, reason key_compromise.\n"
        );
        assert!(revoked(&v1::RevokeResponse::default()).contains("nothing was revoked"));
        let text = certificate_fields(&certificate);
        assert!(text.contains("Reason      "), "{text}");
        assert!(!text.contains("Attestation"), "{text}");
    }
}
