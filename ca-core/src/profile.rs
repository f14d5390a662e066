//! Certificate profiles: what a certificate will contain, decided before anyone asks for one.

mod builtin;
mod pattern;
mod spec;

pub use pattern::AltNamePattern;
pub(crate) use pattern::is_valid as is_valid_alt_name;
pub use spec::{
    AltNameKind, AltNameSpec, AttestationPolicy, CsrExtensionsSpec, DeviceIdSource, EnrollBy, KeyUsageName, PastIssuer,
    ProfileSpec, Source, SubjectSpec,
};

use crate::{
    id::ProfileName,
    key::KeyAlgorithm,
    name::{AttributeType, DistinguishedName, NameError},
    time::UnixTime,
};
use const_oid::{
    ObjectIdentifier,
    db::{rfc5280, rfc5912},
};
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

fn has_duplicates<T: PartialEq>(list: &[T]) -> bool {
    list.iter().enumerate().any(|(i, item)| list.iter().take(i).any(|earlier| earlier == item))
}

fn parse_oid(text: &str) -> Option<ObjectIdentifier> {
    ObjectIdentifier::new(text).ok()
}

/// One number and one unit: `90d`, `12h`, `30m`, `45s`, `2w`, `1y` (365 days). No signs, blanks or leading zeros.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let unit: u64 = match text.strip_prefix(digits)? {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        "y" => 365 * 86_400,
        _ => return None,
    };
    let canonical = digits == "0" || !digits.starts_with('0');
    if !canonical || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_secs)
}

fn parse_lifetime(text: &str) -> Result<Lifetime, Fault> {
    if text == "infinite" {
        return Ok(Lifetime::Infinite);
    }
    parse_duration(text).filter(|d| *d >= Duration::from_secs(60) && *d <= MAX_VALIDITY).map(Lifetime::For).ok_or((
        "validity",
        format!("{text:?} is not a duration such as \"90d\", \"12h\" or \"1y\" (1m to 100y), nor \"infinite\""),
    ))
}

fn compile_key_algorithms(names: &[String]) -> Result<Vec<KeyAlgorithm>, Fault> {
    use KeyAlgorithm as K;
    const KNOWN: [KeyAlgorithm; 7] =
        [K::EcP256, K::EcP384, K::EcP521, K::Ed25519, K::Rsa(2048), K::Rsa(3072), K::Rsa(4096)];
    let algorithms = names
        .iter()
        .map(|name| {
            KNOWN.into_iter().find(|k| k.to_string() == *name).ok_or((
                "key_algorithms",
                format!("{name:?} is none of P-256, P-384, P-521, Ed25519, RSA-2048, RSA-3072, RSA-4096"),
            ))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if algorithms.is_empty() {
        return Err(("key_algorithms", "name at least one".to_owned()));
    }
    if has_duplicates(&algorithms) {
        return Err(("key_algorithms", "names one algorithm twice".to_owned()));
    }
    Ok(algorithms)
}

fn compile_key_usage(names: &[KeyUsageName], keys: &[KeyAlgorithm]) -> Result<FlagSet<KeyUsages>, Fault> {
    if names.is_empty() {
        return Err(("key_usage", "name at least one, for example digitalSignature".to_owned()));
    }
    if has_duplicates(names) {
        return Err(("key_usage", "names one usage twice".to_owned()));
    }
    let usages = names.iter().fold(FlagSet::default(), |set, name| set | name.flag());
    match keys.iter().find(|key| !key_usage_fits(usages, **key)) {
        Some(key) => Err((
            "key_usage",
            format!(
                "{key} keys cannot do all of this: encipherment is for RSA keys, keyAgreement for EC keys (RFC 5480 3, RFC 8410 5, RFC 4055 1.2)"
            ),
        )),
        None => Ok(usages),
    }
}

/// Whether a key of this kind can do all of `usages` (RFC 4055 1.2, RFC 5480 3, RFC 8410 5).
pub(crate) fn key_usage_fits(usages: FlagSet<KeyUsages>, key: KeyAlgorithm) -> bool {
    let encipherment = KeyUsages::KeyEncipherment | KeyUsages::DataEncipherment;
    let agreement = KeyUsages::KeyAgreement | KeyUsages::EncipherOnly | KeyUsages::DecipherOnly;
    let forbidden = match key {
        KeyAlgorithm::Rsa(_) => agreement,
        KeyAlgorithm::Ed25519 => encipherment | agreement,
        _ => encipherment,
    };
    (usages & forbidden).is_empty()
}

fn compile_extended_key_usage(names: &[String]) -> Result<Vec<ObjectIdentifier>, Fault> {
    const FIELD: &str = "extended_key_usage";
    if names.len() > 16 {
        return Err((FIELD, "at most 16".to_owned()));
    }
    let oids = names
        .iter()
        .map(|name| {
            let oid = match name.as_str() {
                "clientAuth" => rfc5912::ID_KP_CLIENT_AUTH,
                "serverAuth" => rfc5912::ID_KP_SERVER_AUTH,
                dotted => parse_oid(dotted)
                    .ok_or((FIELD, format!("{name:?} is neither clientAuth, serverAuth nor a dotted OID")))?,
            };
            match oid {
                rfc5912::ID_KP_OCSP_SIGNING => {
                    Err((FIELD, "OCSPSigning would let its holder forge certificate status".to_owned()))
                }
                rfc5280::ANY_EXTENDED_KEY_USAGE => Err((FIELD, "anyExtendedKeyUsage is not a purpose".to_owned())),
                oid => Ok(oid),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    if has_duplicates(&oids) {
        return Err((FIELD, "names one purpose twice".to_owned()));
    }
    Ok(oids)
}

fn compile_ignored(names: &[String]) -> Result<Vec<ObjectIdentifier>, Fault> {
    const FIELD: &str = "csr_extensions.ignore";
    if names.len() > 32 {
        return Err((FIELD, "at most 32".to_owned()));
    }
    names
        .iter()
        .map(|name| {
            let oid = match name.as_str() {
                "keyUsage" => rfc5280::ID_CE_KEY_USAGE,
                "extendedKeyUsage" => rfc5280::ID_CE_EXT_KEY_USAGE,
                "basicConstraints" => rfc5280::ID_CE_BASIC_CONSTRAINTS,
                "subjectKeyIdentifier" => rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER,
                dotted => parse_oid(dotted).ok_or((
                    FIELD,
                    format!("{name:?} is none of keyUsage, extendedKeyUsage, basicConstraints, subjectKeyIdentifier, nor a dotted OID"),
                ))?,
            };
            if oid == rfc5280::ID_CE_SUBJECT_ALT_NAME {
                return Err((FIELD, "subjectAltName cannot be ignored: allow names with a san rule from = \"csr\"".to_owned()));
            }
            Ok(oid)
        })
        .collect()
}

fn compile_subject(specs: &[SubjectSpec]) -> Result<Vec<SubjectRule>, Fault> {
    const FIELD: &str = "subject";
    if specs.len() > DistinguishedName::MAX_ATTRIBUTES {
        return Err((FIELD, NameError::TooMany.to_string()));
    }
    let rules = specs
        .iter()
        .map(|spec| {
            let kind = spec.kind;
            let value = match (&spec.value, spec.from) {
                (Some(_), None) if spec.optional => {
                    return Err((FIELD, format!("{kind}: a fixed value is never absent; remove optional")));
                }
                (Some(value), None) => {
                    DistinguishedName::new([(kind, value.clone())]).map_err(|e| (FIELD, e.to_string()))?;
                    Value::Fixed(value.clone())
                }
                (None, Some(Source::Csr)) => {
                    return Err((FIELD, format!("{kind}: take csr.common_name; a whole subject is never copied")));
                }
                (None, Some(source)) => {
                    Value::From { prefix: String::new(), source, suffix: String::new(), optional: spec.optional }
                }
                _ => return Err((FIELD, format!("{kind}: give either value or from"))),
            };
            Ok(SubjectRule { kind, value })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let single: Vec<_> = rules.iter().map(|r| r.kind).filter(|k| *k != AttributeType::OrganizationalUnit).collect();
    if has_duplicates(&single) {
        return Err((FIELD, "only organizationalUnit may occur more than once".to_owned()));
    }
    Ok(rules)
}

fn compile_alt_names(specs: &[AltNameSpec], hw_type: Option<ObjectIdentifier>) -> Result<Vec<AltNameRule>, Fault> {
    if specs.len() > MAX_ALT_NAME_RULES {
        return Err(("san", format!("at most {MAX_ALT_NAME_RULES} rules")));
    }
    let rules =
        specs.iter().map(|spec| compile_alt_name(spec).map_err(|m| ("san", m))).collect::<Result<Vec<_>, _>>()?;
    let hardware = specs.iter().any(|s| s.kind == AltNameKind::HardwareModuleName);
    if hardware && hw_type.is_none() {
        return Err((
            "hw_type",
            "hardware-module-name needs the OID of the kind of hardware, from your own arc".to_owned(),
        ));
    }
    Ok(rules)
}

fn compile_alt_name(spec: &AltNameSpec) -> Result<AltNameRule, String> {
    let kind = spec.kind;
    if spec.from == Some(Source::Csr) {
        if kind == AltNameKind::HardwareModuleName {
            return Err("hardware-module-name identifies the device and never comes from a CSR".to_owned());
        }
        if spec.value.is_some() || spec.optional || !spec.prefix.is_empty() || !spec.suffix.is_empty() {
            return Err("from = \"csr\" goes with allow and max alone".to_owned());
        }
        if !(1..=MAX_NAMES_PER_RULE).contains(&spec.max) {
            return Err(format!("max must be 1 to {MAX_NAMES_PER_RULE}"));
        }
        if spec.allow.is_empty() || spec.allow.len() > 64 {
            return Err("from = \"csr\" needs 1 to 64 patterns in allow".to_owned());
        }
        let allow = spec.allow.iter().map(|p| AltNamePattern::parse(kind, p)).collect::<Result<_, _>>()?;
        return Ok(AltNameRule::Requested { kind, allow, max: spec.max });
    }
    if !spec.allow.is_empty() {
        return Err("allow goes with from = \"csr\" alone".to_owned());
    }
    let value = match (&spec.value, spec.from) {
        (Some(_), None) if spec.optional || !spec.prefix.is_empty() || !spec.suffix.is_empty() => {
            return Err("prefix, suffix and optional go with from".to_owned());
        }
        (Some(value), None) => {
            if !pattern::is_valid(kind, value) {
                return Err(format!("{value:?} is not a valid {kind} name"));
            }
            Value::Fixed(value.clone())
        }
        (None, Some(source)) => {
            Value::From { prefix: spec.prefix.clone(), source, suffix: spec.suffix.clone(), optional: spec.optional }
        }
        _ => return Err("give either value or from".to_owned()),
    };
    Ok(AltNameRule::Made { kind, value })
}
