//! A profile as it is written down.

use crate::name::AttributeType;
use der::flagset::FlagSet;
use serde::{Deserialize, Serialize};
use std::fmt;
use x509_cert::ext::pkix::KeyUsages;

/// A profile as configuration writes it. Nothing is checked here beyond its shape; see
/// [`CertificateProfile::compile`](super::CertificateProfile::compile).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileSpec {
    /// For people; at most 1000 characters.
    #[serde(default)]
    pub description: String,
    /// The keys that are certified: `P-256`, `P-384`, `P-521`, `Ed25519`, `RSA-2048`, `RSA-3072`, `RSA-4096`,
    /// `ML-DSA-44`, `ML-DSA-65`, `ML-DSA-87`.
    pub key_algorithms: Vec<String>,
    /// `"90d"`, `"12h"`, `"1y"` (365 days), or `"infinite"` for 99991231235959Z.
    pub validity: String,
    /// What happens when that lies beyond the issuer's own end.
    #[serde(default)]
    pub validity_past_issuer: PastIssuer,
    /// How long before issuance the certificate starts: `"1h"` unless said otherwise, at most 48 hours.
    #[serde(default = "default_backdate")]
    pub backdate: String,
    /// The OID of the kind of hardware, for `hardware-module-name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_type: Option<String>,
    /// keyUsage, at least one.
    pub key_usage: Vec<KeyUsageName>,
    /// extKeyUsage: `clientAuth`, `serverAuth` or dotted OIDs; empty for none.
    #[serde(default)]
    pub extended_key_usage: Vec<String>,
    /// Where the device identifier may come from, in order of preference.
    #[serde(default)]
    pub device_id_from: Vec<DeviceIdSource>,
    /// What may authorise an enrollment; empty: nothing, so that devices cannot use the profile.
    #[serde(default)]
    pub enroll_by: Vec<EnrollBy>,
    /// Whether attestation evidence is looked at.
    #[serde(default)]
    pub attestation: AttestationPolicy,
    /// Whether the holder may renew.
    #[serde(default)]
    pub renewable: bool,
    /// The subject, in encoding order.
    #[serde(default)]
    pub subject: Vec<SubjectSpec>,
    /// The subjectAltName, in encoding order.
    #[serde(default)]
    pub san: Vec<AltNameSpec>,
    /// What becomes of extensions in a CSR.
    #[serde(default)]
    pub csr_extensions: CsrExtensionsSpec,
}

pub(super) fn default_backdate() -> String {
    "1h".to_owned()
}

/// What happens to a certificate that would outlive its issuer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PastIssuer {
    /// The request fails.
    Refuse,
    /// The certificate ends with its issuer.
    #[default]
    Truncate,
    /// It outlives its issuer, as IEEE 802.1AR 8 wants it for IDevIDs.
    Allow,
}

/// A keyUsage bit (RFC 5280 4.2.1.3). Those of a CA are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyUsageName {
    /// Signatures other than on certificates and CRLs: TLS 1.3, say.
    DigitalSignature,
    /// contentCommitment, formerly nonRepudiation.
    ContentCommitment,
    /// RSA key transport.
    KeyEncipherment,
    /// RSA encryption of data.
    DataEncipherment,
    /// Diffie-Hellman on EC keys.
    KeyAgreement,
}

impl KeyUsageName {
    pub(super) fn flag(self) -> FlagSet<KeyUsages> {
        match self {
            Self::DigitalSignature => KeyUsages::DigitalSignature.into(),
            Self::ContentCommitment => KeyUsages::NonRepudiation.into(),
            Self::KeyEncipherment => KeyUsages::KeyEncipherment.into(),
            Self::DataEncipherment => KeyUsages::DataEncipherment.into(),
            Self::KeyAgreement => KeyUsages::KeyAgreement.into(),
        }
    }
}

/// Where the device identifier may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceIdSource {
    /// The enrollment request names it.
    Request,
    /// The CSR's commonName or serialNumber names it.
    Csr,
}

/// What may authorise an enrollment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnrollBy {
    /// A station's certificate with a production order.
    Station,
    /// A one-time enrollment token.
    Token,
    /// Attestation evidence alone.
    Attestation,
}

/// Whether attestation evidence is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttestationPolicy {
    /// Evidence is not accepted.
    #[default]
    Off,
    /// Evidence is verified where it is given.
    Optional,
    /// No certificate without evidence.
    Required,
}

/// A source of a name's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Source {
    /// The device identifier.
    #[serde(rename = "device.id")]
    DeviceId,
    /// The device's serial number.
    #[serde(rename = "device.serial_number")]
    DeviceSerialNumber,
    /// The device's manufacturer.
    #[serde(rename = "device.manufacturer")]
    DeviceManufacturer,
    /// The device's model.
    #[serde(rename = "device.model")]
    DeviceModel,
    /// The tenant.
    #[serde(rename = "tenant")]
    Tenant,
    /// The principal: the holder of a role.
    #[serde(rename = "principal.id")]
    PrincipalId,
    /// The CSR's only commonName.
    #[serde(rename = "csr.common_name")]
    CsrCommonName,
    /// The CSR's subjectAltName, as far as `allow` goes; in `san` alone.
    #[serde(rename = "csr")]
    Csr,
}

impl Source {
    /// The name in configuration and errors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeviceId => "device.id",
            Self::DeviceSerialNumber => "device.serial_number",
            Self::DeviceManufacturer => "device.manufacturer",
            Self::DeviceModel => "device.model",
            Self::Tenant => "tenant",
            Self::PrincipalId => "principal.id",
            Self::CsrCommonName => "csr.common_name",
            Self::Csr => "csr",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One subject attribute: `{ type, value }` or `{ type, from, optional }`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectSpec {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: AttributeType,
    /// A fixed value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the value comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Source>,
    /// Leave the attribute out when its source has no value, instead of refusing the request.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
}

/// A kind of subjectAltName.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AltNameKind {
    /// dNSName.
    Dns,
    /// uniformResourceIdentifier.
    Uri,
    /// otherName id-on-hardwareModuleName (RFC 4108 5).
    HardwareModuleName,
    /// iPAddress.
    Ip,
}

impl fmt::Display for AltNameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "dns",
            Self::Uri => "uri",
            Self::HardwareModuleName => "hardware-module-name",
            Self::Ip => "ip",
        })
    }
}

/// One subjectAltName rule: a name that the CA makes (`value`, or `from` with `prefix` and `suffix`), or names that the
/// CSR may ask for (`from = "csr"` with `allow` and `max`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AltNameSpec {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: AltNameKind,
    /// A fixed value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the value comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Source>,
    /// Put before the value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Put after the value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub suffix: String,
    /// Leave the name out when its source has no value.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
    /// What a CSR may ask for; see [`AltNamePattern`](super::AltNamePattern).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// How many names a CSR may ask for under this rule; 1 unless said otherwise, at most 32.
    #[serde(default = "default_max", skip_serializing_if = "is_default_max")]
    pub max: usize,
}

impl AltNameSpec {
    /// A name made from `source`.
    pub fn from_source(kind: AltNameKind, source: Source) -> Self {
        Self {
            kind,
            value: None,
            from: Some(source),
            prefix: String::new(),
            suffix: String::new(),
            optional: false,
            allow: Vec::new(),
            max: default_max(),
        }
    }
}

fn default_max() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it by reference")]
fn is_default_max(max: &usize) -> bool {
    *max == default_max()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it by reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What becomes of extensions in a CSR. basicConstraints with CA:TRUE, keyUsage with keyCertSign or cRLSign, and names
/// that no `san` rule allows are refused whatever stands here; everything not listed is refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CsrExtensionsSpec {
    /// Passed over in silence: the profile decides what the certificate says. Names as in the default, or dotted OIDs.
    pub ignore: Vec<String>,
}

impl Default for CsrExtensionsSpec {
    fn default() -> Self {
        let ignore = ["keyUsage", "extendedKeyUsage", "basicConstraints", "subjectKeyIdentifier"];
        Self { ignore: ignore.map(str::to_owned).into() }
    }
}
