//! Certificate profiles: what a certificate will contain, decided before anyone asks for one.

mod builtin;
mod compile;
mod pattern;
mod spec;

pub use pattern::AltNamePattern;
pub(crate) use pattern::is_valid as is_valid_alt_name;
pub use spec::{
    AltNameKind, AltNameSpec, AttestationPolicy, CsrExtensionsSpec, DeviceIdSource, EnrollBy, KeyUsageName, PastIssuer,
    ProfileSpec, Source, SubjectSpec,
};

pub(crate) use compile::key_usage_fits;

use crate::{id::ProfileName, key::KeyAlgorithm, name::AttributeType, time::UnixTime};
use compile::{
    compile_alt_names, compile_extended_key_usage, compile_ignored, compile_key_algorithms, compile_key_usage,
    compile_subject, has_duplicates, parse_duration, parse_lifetime, parse_oid,
};
use const_oid::ObjectIdentifier;
use der::flagset::FlagSet;
use std::time::Duration;
use x509_cert::ext::pkix::KeyUsages;

/// Back-dating beyond this makes a certificate valid before anyone could have asked for it.
pub const MAX_BACKDATE: Duration = Duration::from_secs(48 * 3600);
/// The longest finite validity: a hundred years of 365 days. What shall last longer is `infinite`.
pub const MAX_VALIDITY: Duration = Duration::from_secs(100 * 365 * 86_400);
/// subjectAltName rules in a profile.
pub const MAX_ALT_NAME_RULES: usize = 16;
/// The most names that one rule may take from a CSR.
pub const MAX_NAMES_PER_RULE: usize = 32;

/// Why a profile was refused: the field in its specification, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("profile {profile}: {field}: {message}")]
pub struct ProfileError {
    profile: ProfileName,
    field: &'static str,
    message: String,
}

impl ProfileError {
    /// The field of [`ProfileSpec`] that is wrong.
    pub fn field(&self) -> &'static str {
        self.field
    }
    /// What is wrong with it.
    pub fn message(&self) -> &str {
        &self.message
    }
    /// Which profile.
    pub fn profile(&self) -> &ProfileName {
        &self.profile
    }
}

/// A field and what is wrong with it.
type Fault = (&'static str, String);

/// How long certificates live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// From now for this long.
    For(Duration),
    /// Until 99991231235959Z: no well-defined end (RFC 5280 4.1.2.5).
    Infinite,
}

/// Where the value of a name comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Fixed(String),
    From { prefix: String, source: Source, suffix: String, optional: bool },
}

/// A compiled subject attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubjectRule {
    pub(crate) kind: AttributeType,
    pub(crate) value: Value,
}

/// A compiled subjectAltName rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AltNameRule {
    /// The CA makes the name.
    Made { kind: AltNameKind, value: Value },
    /// The CSR may ask for names that match.
    Requested { kind: AltNameKind, allow: Vec<AltNamePattern>, max: usize },
}

/// A profile that was checked as a whole: nothing in it contradicts itself or RFC 5280.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateProfile {
    name: ProfileName,
    spec: ProfileSpec,
    key_algorithms: Vec<KeyAlgorithm>,
    lifetime: Lifetime,
    backdate: Duration,
    key_usage: FlagSet<KeyUsages>,
    extended_key_usage: Vec<ObjectIdentifier>,
    hw_type: Option<ObjectIdentifier>,
    subject: Vec<SubjectRule>,
    alt_names: Vec<AltNameRule>,
    ignored_extensions: Vec<ObjectIdentifier>,
}

impl CertificateProfile {
    /// Checks `spec` and prepares it for use.
    ///
    /// # Errors
    /// [`ProfileError`] names the field.
    pub fn compile(name: ProfileName, spec: ProfileSpec) -> Result<Self, ProfileError> {
        Self::try_compile(&name, spec).map_err(|(field, message)| ProfileError { profile: name, field, message })
    }

    fn try_compile(name: &ProfileName, spec: ProfileSpec) -> Result<Self, Fault> {
        if spec.description.chars().count() > 1000 {
            return Err(("description", "at most 1000 characters".to_owned()));
        }
        let key_algorithms = compile_key_algorithms(&spec.key_algorithms)?;
        let key_usage = compile_key_usage(&spec.key_usage, &key_algorithms)?;
        let backdate = parse_duration(&spec.backdate)
            .filter(|d| *d <= MAX_BACKDATE)
            .ok_or(("backdate", "a duration such as \"1h\" or \"30m\", at most 48h".to_owned()))?;
        let hw_type = match &spec.hw_type {
            None => None,
            Some(oid) => Some(parse_oid(oid).ok_or(("hw_type", format!("{oid:?} is not a dotted OID")))?),
        };
        if spec.attestation == AttestationPolicy::Off && spec.enroll_by.contains(&EnrollBy::Attestation) {
            return Err(("attestation", "must not be \"off\" when enroll_by has \"attestation\"".to_owned()));
        }
        if has_duplicates(&spec.enroll_by) {
            return Err(("enroll_by", "names one way twice".to_owned()));
        }
        if has_duplicates(&spec.device_id_from) {
            return Err(("device_id_from", "names one source twice".to_owned()));
        }
        let subject = compile_subject(&spec.subject)?;
        let alt_names = compile_alt_names(&spec.san, hw_type)?;
        let always = |v: &Value| !matches!(v, Value::From { optional: true, .. });
        let named = subject.iter().any(|r| always(&r.value))
            || alt_names.iter().any(|r| matches!(r, AltNameRule::Made { value, .. } if always(value)));
        if !named {
            return Err((
                "subject",
                "the certificate might name nobody: make one subject or san entry non-optional".to_owned(),
            ));
        }
        Ok(Self {
            name: name.clone(),
            lifetime: parse_lifetime(&spec.validity)?,
            extended_key_usage: compile_extended_key_usage(&spec.extended_key_usage)?,
            ignored_extensions: compile_ignored(&spec.csr_extensions.ignore)?,
            key_algorithms,
            backdate,
            key_usage,
            hw_type,
            subject,
            alt_names,
            spec,
        })
    }

    /// Its name.
    pub fn name(&self) -> &ProfileName {
        &self.name
    }
    /// What it was compiled from.
    pub fn spec(&self) -> &ProfileSpec {
        &self.spec
    }
    /// For people.
    pub fn description(&self) -> &str {
        &self.spec.description
    }
    /// The keys that it certifies.
    pub fn key_algorithms(&self) -> &[KeyAlgorithm] {
        &self.key_algorithms
    }
    /// Whether it certifies keys of this kind.
    pub fn accepts_key(&self, algorithm: KeyAlgorithm) -> bool {
        self.key_algorithms.contains(&algorithm)
    }
    /// How long its certificates live.
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }
    /// When a certificate issued at `now` would expire, before the issuer's own end is looked at.
    pub fn not_after(&self, now: UnixTime) -> UnixTime {
        match self.lifetime {
            Lifetime::For(duration) => now.plus(duration),
            Lifetime::Infinite => UnixTime::INFINITY,
        }
    }
    /// What happens to a certificate that would outlive its issuer.
    pub fn past_issuer(&self) -> PastIssuer {
        self.spec.validity_past_issuer
    }
    /// How long before the moment of issuance a certificate starts, for devices with slow clocks.
    pub fn backdate(&self) -> Duration {
        self.backdate
    }
    /// The keyUsage extension, always critical.
    pub fn key_usage(&self) -> FlagSet<KeyUsages> {
        self.key_usage
    }
    /// The extKeyUsage extension, not critical; absent when empty.
    pub fn extended_key_usage(&self) -> &[ObjectIdentifier] {
        &self.extended_key_usage
    }
    /// hwType of hardwareModuleName.
    pub fn hw_type(&self) -> Option<ObjectIdentifier> {
        self.hw_type
    }
    /// Where the device identifier may come from.
    pub fn device_id_from(&self) -> &[DeviceIdSource] {
        &self.spec.device_id_from
    }
    /// What may authorise an enrollment; empty for profiles that devices cannot enroll under.
    pub fn enroll_by(&self) -> &[EnrollBy] {
        &self.spec.enroll_by
    }
    /// Whether attestation evidence is looked at or demanded.
    pub fn attestation(&self) -> AttestationPolicy {
        self.spec.attestation
    }
    /// Whether a certificate may be renewed by its holder.
    pub fn renewable(&self) -> bool {
        self.spec.renewable
    }
    /// Whether an extension in a CSR is passed over in silence.
    pub fn ignores_extension(&self, oid: ObjectIdentifier) -> bool {
        self.ignored_extensions.contains(&oid)
    }
    pub(crate) fn subject_rules(&self) -> &[SubjectRule] {
        &self.subject
    }
    pub(crate) fn alt_name_rules(&self) -> &[AltNameRule] {
        &self.alt_names
    }
}
