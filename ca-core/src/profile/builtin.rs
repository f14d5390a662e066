//! The profiles that come with Sealwright.

use super::spec::{
    AltNameKind, AltNameSpec, AttestationPolicy, CsrExtensionsSpec, DeviceIdSource, EnrollBy, KeyUsageName, PastIssuer,
    ProfileSpec, Source, SubjectSpec, default_backdate,
};
use crate::name::AttributeType;

fn from(kind: AttributeType, source: Source, optional: bool) -> SubjectSpec {
    SubjectSpec { kind, value: None, from: Some(source), optional }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&s| s.to_owned()).collect()
}

impl ProfileSpec {
    /// `tls-client`: an operational identity (LDevID) with which a device opens TLS connections; a year, renewable.
    pub fn tls_client() -> Self {
        Self {
            description: "TLS client certificate of a device".to_owned(),
            key_algorithms: names(&["P-256", "P-384", "Ed25519", "RSA-2048", "RSA-3072", "RSA-4096"]),
            validity: "1y".to_owned(),
            validity_past_issuer: PastIssuer::Truncate,
            backdate: default_backdate(),
            hw_type: None,
            key_usage: vec![KeyUsageName::DigitalSignature],
            extended_key_usage: names(&["clientAuth"]),
            device_id_from: vec![DeviceIdSource::Request, DeviceIdSource::Csr],
            enroll_by: vec![EnrollBy::Station, EnrollBy::Token, EnrollBy::Attestation],
            attestation: AttestationPolicy::Optional,
            renewable: true,
            subject: vec![
                from(AttributeType::Organization, Source::Tenant, false),
                from(AttributeType::SerialNumber, Source::DeviceSerialNumber, true),
                from(AttributeType::CommonName, Source::DeviceId, false),
            ],
            san: Vec::new(),
            csr_extensions: CsrExtensionsSpec::default(),
        }
    }

    /// `idevid`: the initial device identity of IEEE 802.1AR-2018 clause 8: the device's serial number in the subject
    /// and in hardwareModuleName, no end of life, never renewed. Its hw_type stands in the arc for documentation
    /// (RFC 5612): put an OID of your own in its place.
    pub fn idevid() -> Self {
        Self {
            description: "Initial device identity (IEEE 802.1AR-2018)".to_owned(),
            key_algorithms: names(&["P-256", "P-384", "RSA-2048", "RSA-3072", "RSA-4096"]),
            validity: "infinite".to_owned(),
            validity_past_issuer: PastIssuer::Allow,
            backdate: default_backdate(),
            hw_type: Some("1.3.6.1.4.1.32473.1".to_owned()),
            key_usage: vec![KeyUsageName::DigitalSignature],
            extended_key_usage: Vec::new(),
            device_id_from: vec![DeviceIdSource::Request, DeviceIdSource::Csr],
            enroll_by: vec![EnrollBy::Station],
            attestation: AttestationPolicy::Optional,
            renewable: false,
            subject: vec![
                from(AttributeType::Organization, Source::DeviceManufacturer, true),
                from(AttributeType::SerialNumber, Source::DeviceSerialNumber, false),
            ],
            san: vec![AltNameSpec::from_source(AltNameKind::HardwareModuleName, Source::DeviceSerialNumber)],
            csr_extensions: CsrExtensionsSpec::default(),
        }
    }

    /// `principal`: a person's, station's or service's credential for Sealwright's own interface. No device can enroll
    /// under it.
    pub fn principal() -> Self {
        Self {
            description: "Credential of an operator, station or service".to_owned(),
            key_algorithms: names(&["P-256", "P-384", "Ed25519", "RSA-3072", "RSA-4096"]),
            validity: "1y".to_owned(),
            validity_past_issuer: PastIssuer::Truncate,
            backdate: default_backdate(),
            hw_type: None,
            key_usage: vec![KeyUsageName::DigitalSignature],
            extended_key_usage: names(&["clientAuth"]),
            device_id_from: Vec::new(),
            enroll_by: Vec::new(),
            attestation: AttestationPolicy::Off,
            renewable: true,
            subject: vec![
                from(AttributeType::Organization, Source::Tenant, false),
                from(AttributeType::CommonName, Source::PrincipalId, false),
            ],
            san: Vec::new(),
            csr_extensions: CsrExtensionsSpec::default(),
        }
    }
}
