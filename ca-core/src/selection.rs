//! From facts about a requester and its CSR to the names that a profile certifies.

use crate::{
    alt_name::AltName,
    csr::{CertificationRequest, RequestedName, RequestedValue},
    id::{DeviceId, PrincipalId, TenantId},
    name::{AttributeType, DistinguishedName, NameError},
    profile::{AltNameKind, AltNameRule, CertificateProfile, Source, Value, is_valid_alt_name},
};
use const_oid::ObjectIdentifier;

/// Why a request does not fit its profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// basicConstraints with CA:TRUE.
    #[error("the request asks for a CA certificate; none is issued on request")]
    AsksForCa,
    /// keyUsage with keyCertSign or cRLSign.
    #[error("the request asks for keyCertSign or cRLSign, which belong to a CA")]
    AsksForCaKeyUsage,
    /// A subjectAltName that no rule of the profile allows.
    #[error("the profile does not allow the requested subjectAltName {0}")]
    AltName(String),
    /// More names than a rule allows.
    #[error("the profile allows at most {0} requested names of this kind")]
    TooManyAltNames(usize),
    /// An extension that the profile neither knows nor ignores.
    #[error("the profile refuses extension {0} in a request; leave it out, or list it in csr_extensions.ignore")]
    Extension(ObjectIdentifier),
    /// A subject attribute without a value.
    #[error("the profile puts {from} into {kind}, and there is none")]
    MissingSubject {
        /// The attribute.
        kind: AttributeType,
        /// Its source.
        from: Source,
    },
    /// A subjectAltName without a value.
    #[error("the profile puts {from} into subjectAltName {kind}, and there is none")]
    MissingAltName {
        /// The kind of name.
        kind: AltNameKind,
        /// Its source.
        from: Source,
    },
    /// A value that is no such name.
    #[error("{from} does not make a valid {kind} subjectAltName")]
    InvalidAltName {
        /// The kind of name.
        kind: AltNameKind,
        /// Its source.
        from: Source,
    },
    /// A subject that cannot be.
    #[error("{0}")]
    Name(#[from] NameError),
}

impl SelectionError {
    /// The path of the offending field.
    pub fn field(&self) -> &'static str {
        match self {
            Self::AsksForCa => "csr.extension_request.basic_constraints",
            Self::AsksForCaKeyUsage => "csr.extension_request.key_usage",
            Self::AltName(_) | Self::TooManyAltNames(_) => "csr.extension_request.subject_alt_name",
            Self::Extension(_) => "csr.extension_request",
            Self::MissingSubject { from, .. }
            | Self::MissingAltName { from, .. }
            | Self::InvalidAltName { from, .. } => from.as_str(),
            Self::Name(e) => e.field(),
        }
    }
}

/// What is known about the requester, from evidence, inventory and order; never from the CSR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The tenant.
    pub tenant: TenantId,
    /// `device.id`.
    pub device_id: Option<DeviceId>,
    /// `device.serial_number`.
    pub device_serial_number: Option<String>,
    /// `device.manufacturer`.
    pub device_manufacturer: Option<String>,
    /// `device.model`.
    pub device_model: Option<String>,
    /// `principal.id`.
    pub principal_id: Option<PrincipalId>,
}

impl Facts {
    /// Nothing but the tenant.
    pub fn of_tenant(tenant: TenantId) -> Self {
        Self {
            tenant,
            device_id: None,
            device_serial_number: None,
            device_manufacturer: None,
            device_model: None,
            principal_id: None,
        }
    }
}

/// The values that a profile builds names from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    facts: Facts,
    csr_common_name: Option<String>,
    /// In the order of the CSR, each once.
    csr_sans: Vec<AltName>,
}

impl Names {
    /// Names without a CSR, as for a key whose possession was proven in another way.
    pub fn from_facts(facts: Facts) -> Self {
        Self { facts, csr_common_name: None, csr_sans: Vec::new() }
    }
    /// What is known about the requester.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
    /// The CSR's only commonName.
    pub fn csr_common_name(&self) -> Option<&str> {
        self.csr_common_name.as_deref()
    }
    /// The names from the CSR that the profile accepted.
    pub fn csr_sans(&self) -> &[AltName] {
        &self.csr_sans
    }

    fn value(&self, source: Source) -> Option<&str> {
        let facts = &self.facts;
        match source {
            Source::DeviceId => facts.device_id.as_ref().map(DeviceId::as_str),
            Source::DeviceSerialNumber => facts.device_serial_number.as_deref(),
            Source::DeviceManufacturer => facts.device_manufacturer.as_deref(),
            Source::DeviceModel => facts.device_model.as_deref(),
            Source::Tenant => Some(facts.tenant.as_str()),
            Source::PrincipalId => facts.principal_id.as_ref().map(PrincipalId::as_str),
            Source::CsrCommonName => self.csr_common_name.as_deref(),
            Source::Csr => None,
        }
        // An inventory that knows nothing may say so with an empty string.
        .filter(|value| !value.is_empty())
    }

    /// The subject that `profile` makes of these values.
    ///
    /// # Errors
    /// [`SelectionError`] names the source that is missing or unfit.
    pub fn subject(&self, profile: &CertificateProfile) -> Result<DistinguishedName, SelectionError> {
        let mut attributes = Vec::new();
        for rule in profile.subject_rules() {
            let missing = |from| SelectionError::MissingSubject { kind: rule.kind, from };
            if let Some(value) = self.resolve(&rule.value).map_err(missing)? {
                attributes.push((rule.kind, value));
            }
        }
        Ok(DistinguishedName::new(attributes)?)
    }

    /// The subjectAltName that `profile` makes of these values: the rules' order, names from the CSR where their rule
    /// stands, each name once.
    ///
    /// # Errors
    /// [`SelectionError`] names the source that is missing or unfit.
    pub fn alt_names(&self, profile: &CertificateProfile) -> Result<Vec<AltName>, SelectionError> {
        let mut names: Vec<AltName> = Vec::new();
        let mut add = |name: AltName| {
            if !names.contains(&name) {
                names.push(name);
            }
        };
        for rule in profile.alt_name_rules() {
            match rule {
                AltNameRule::Made { kind, value } => {
                    let missing = |from| SelectionError::MissingAltName { kind: *kind, from };
                    if let Some(text) = self.resolve(value).map_err(missing)? {
                        add(make(profile, *kind, value, text)?);
                    }
                }
                AltNameRule::Requested { allow, .. } => {
                    let allowed =
                        |name: &&AltName| requested(name).is_some_and(|n| allow.iter().any(|p| p.matches(&n)));
                    self.csr_sans.iter().filter(allowed).cloned().for_each(&mut add);
                }
            }
        }
        Ok(names)
    }

    /// The value, `None` where it is optional and absent, the source where it is missing.
    fn resolve(&self, value: &Value) -> Result<Option<String>, Source> {
        match value {
            Value::Fixed(text) => Ok(Some(text.clone())),
            Value::From { prefix, source, suffix, optional } => match self.value(*source) {
                Some(text) => Ok(Some(format!("{prefix}{text}{suffix}"))),
                None if *optional => Ok(None),
                None => Err(*source),
            },
        }
    }
}

fn make(
    profile: &CertificateProfile,
    kind: AltNameKind,
    value: &Value,
    text: String,
) -> Result<AltName, SelectionError> {
    let from = match value {
        Value::From { source, .. } => *source,
        // Checked when the profile was compiled.
        Value::Fixed(_) => Source::Tenant,
    };
    let invalid = SelectionError::InvalidAltName { kind, from };
    if !is_valid_alt_name(kind, &text) {
        return Err(invalid);
    }
    Ok(match kind {
        AltNameKind::Dns => AltName::Dns(text),
        AltNameKind::Uri => AltName::Uri(text),
        AltNameKind::Ip => AltName::Ip(text.parse().map_err(|_| invalid)?),
        AltNameKind::HardwareModuleName => {
            AltName::HardwareModule { hw_type: profile.hw_type().ok_or(invalid)?, serial: text }
        }
    })
}

/// The same name as a CSR would ask for it.
fn requested(name: &AltName) -> Option<RequestedName> {
    match name {
        AltName::Dns(name) => Some(RequestedName::Dns(name.clone())),
        AltName::Ip(address) => Some(RequestedName::Ip(*address)),
        AltName::Uri(uri) => Some(RequestedName::Uri(uri.clone())),
        AltName::HardwareModule { .. } => None,
    }
}

/// Applies the profile's policy to the CSR's extensions and takes from it the values that the profile allows.
///
/// Unknown attributes of the CSR say nothing about the certificate and are passed over.
///
/// # Errors
/// [`SelectionError`] names the extension that was refused.
pub fn select_names(
    profile: &CertificateProfile,
    csr: &CertificationRequest,
    facts: Facts,
) -> Result<Names, SelectionError> {
    let mut csr_sans = Vec::new();
    for extension in csr.extensions() {
        match &extension.parsed {
            RequestedValue::BasicConstraints { ca: true } => return Err(SelectionError::AsksForCa),
            RequestedValue::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                return Err(SelectionError::AsksForCaKeyUsage);
            }
            RequestedValue::SubjectAltName(names) => csr_sans = accept_alt_names(profile, names)?,
            _ if profile.ignores_extension(extension.oid) => {}
            _ => return Err(SelectionError::Extension(extension.oid)),
        }
    }
    Ok(Names { facts, csr_common_name: csr.common_name().map(str::to_owned), csr_sans })
}

fn accept_alt_names(profile: &CertificateProfile, names: &[RequestedName]) -> Result<Vec<AltName>, SelectionError> {
    let rules = || {
        profile.alt_name_rules().iter().enumerate().filter_map(|(i, rule)| match rule {
            AltNameRule::Requested { allow, max, .. } => Some((i, allow, *max)),
            AltNameRule::Made { .. } => None,
        })
    };
    let mut accepted = Vec::new();
    // Each name counts under the first rule that allows it.
    let mut used = vec![0usize; profile.alt_name_rules().len()];
    for name in names {
        let rule = rules().find(|(_, allow, _)| allow.iter().any(|pattern| pattern.matches(name)));
        let (Some((i, _, max)), Some(taken)) = (rule, alt_name(name)) else {
            return Err(SelectionError::AltName(describe(name)));
        };
        if let Some(count) = used.get_mut(i) {
            *count += 1;
            if *count > max {
                return Err(SelectionError::TooManyAltNames(max));
            }
        }
        accepted.push(taken);
    }
    Ok(accepted)
}

fn alt_name(name: &RequestedName) -> Option<AltName> {
    match name {
        RequestedName::Dns(dns) => Some(AltName::Dns(dns.clone())),
        RequestedName::Ip(address) => Some(AltName::Ip(*address)),
        RequestedName::Uri(uri) => Some(AltName::Uri(uri.clone())),
        RequestedName::Email(_) | RequestedName::Other(_) => None,
    }
}

fn describe(name: &RequestedName) -> String {
    match name {
        RequestedName::Dns(dns) => format!("DNS:{dns}"),
        RequestedName::Ip(address) => format!("IP:{address}"),
        RequestedName::Uri(uri) => format!("URI:{uri}"),
        RequestedName::Email(mail) => format!("email:{}", mail.escape_default()),
        RequestedName::Other(kind) => (*kind).to_owned(),
    }
}
