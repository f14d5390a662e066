//! The names in a certificate that is to be renewed.

use ca_core::{alt_name::AltName, certificate::Certificate, issue::Names, profile::CertificateProfile};
use const_oid::ObjectIdentifier;
use der::{Decode, Encode};
use std::net::{Ipv4Addr, Ipv6Addr};
use x509_cert::ext::pkix::{
    SubjectAltName,
    name::{GeneralName, HardwareModuleName},
};

/// id-on-hardwareModuleName (RFC 4108, 5).
const HARDWARE_MODULE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.8.4");

/// Whether `names` under `profile` give the subject and subjectAltName that `certificate` has.
pub(super) fn has_these_names(certificate: &Certificate, profile: &CertificateProfile, names: &Names) -> bool {
    let subject = names.subject(profile).is_ok_and(|subject| subject.der() == certificate.subject_der());
    subject && names.alt_names(profile).ok().is_some_and(|names| alt_names(certificate) == Some(names))
}

/// The subjectAltName, empty where there is none; `None` for a name of a kind that is never issued.
fn alt_names(certificate: &Certificate) -> Option<Vec<AltName>> {
    let parsed = x509_cert::Certificate::from_der(certificate.der()).ok()?;
    match parsed.tbs_certificate().get_extension::<SubjectAltName>().ok()? {
        Some((_, names)) => names.0.iter().map(alt_name).collect(),
        None => Some(Vec::new()),
    }
}

fn alt_name(name: &GeneralName) -> Option<AltName> {
    match name {
        GeneralName::DnsName(name) => Some(AltName::Dns(name.as_str().to_owned())),
        GeneralName::UniformResourceIdentifier(uri) => Some(AltName::Uri(uri.as_str().to_owned())),
        GeneralName::IpAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(octets.as_bytes()).map(|o| Ipv4Addr::from(o).into());
            let v6 = <[u8; 16]>::try_from(octets.as_bytes()).map(|o| Ipv6Addr::from(o).into());
            v4.or(v6).ok().map(AltName::Ip)
        }
        GeneralName::OtherName(other) if other.type_id == HARDWARE_MODULE_NAME => {
            let module = HardwareModuleName::from_der(&other.value.to_der().ok()?).ok()?;
            let serial = String::from_utf8(module.hw_serial_num.as_bytes().to_vec()).ok()?;
            Some(AltName::HardwareModule { hw_type: module.hw_type, serial })
        }
        _ => None,
    }
}
