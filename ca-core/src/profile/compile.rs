//! The single fields of a profile, checked one by one.

use super::{
    AltNameRule, Fault, Lifetime, MAX_ALT_NAME_RULES, MAX_NAMES_PER_RULE, MAX_VALIDITY, SubjectRule, Value,
    pattern::{AltNamePattern, is_valid},
    spec::{AltNameKind, AltNameSpec, KeyUsageName, Source, SubjectSpec},
};
use crate::{
    key::KeyAlgorithm,
    name::{AttributeType, DistinguishedName, NameError},
};
use const_oid::{
    ObjectIdentifier,
    db::{rfc5280, rfc5912},
};
use der::flagset::FlagSet;
use std::time::Duration;
use x509_cert::ext::pkix::KeyUsages;

pub(super) fn has_duplicates<T: PartialEq>(list: &[T]) -> bool {
    list.iter().enumerate().any(|(i, item)| list.iter().take(i).any(|earlier| earlier == item))
}

pub(super) fn parse_oid(text: &str) -> Option<ObjectIdentifier> {
    ObjectIdentifier::new(text).ok()
}

/// One number and one unit: `90d`, `12h`, `30m`, `45s`, `2w`, `1y` (365 days). No signs, blanks or leading zeros.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
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

pub(super) fn parse_lifetime(text: &str) -> Result<Lifetime, Fault> {
    if text == "infinite" {
        return Ok(Lifetime::Infinite);
    }
    parse_duration(text).filter(|d| *d >= Duration::from_secs(60) && *d <= MAX_VALIDITY).map(Lifetime::For).ok_or((
        "validity",
        format!("{text:?} is not a duration such as \"90d\", \"12h\" or \"1y\" (1m to 100y), nor \"infinite\""),
    ))
}

pub(super) fn compile_key_algorithms(names: &[String]) -> Result<Vec<KeyAlgorithm>, Fault> {
    let algorithms = names
        .iter()
        .map(|name| {
            KeyAlgorithm::named(name).ok_or_else(|| {
                let known = KeyAlgorithm::NAMED.map(|k| k.to_string()).join(", ");
                ("key_algorithms", format!("{name:?} is none of {known}"))
            })
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

pub(super) fn compile_key_usage(names: &[KeyUsageName], keys: &[KeyAlgorithm]) -> Result<FlagSet<KeyUsages>, Fault> {
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
                "{key} keys cannot do all of this: encipherment is for RSA keys, keyAgreement for EC keys \
                 (RFC 5480 3, RFC 8410 5, RFC 4055 1.2, RFC 9881 5)"
            ),
        )),
        None => Ok(usages),
    }
}

/// Whether a key of this kind can do all of `usages` (RFC 4055 1.2, RFC 5480 3, RFC 8410 5, RFC 9881 5).
pub(crate) fn key_usage_fits(usages: FlagSet<KeyUsages>, key: KeyAlgorithm) -> bool {
    let encipherment = KeyUsages::KeyEncipherment | KeyUsages::DataEncipherment;
    let agreement = KeyUsages::KeyAgreement | KeyUsages::EncipherOnly | KeyUsages::DecipherOnly;
    let forbidden = match key {
        KeyAlgorithm::Rsa(_) => agreement,
        KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::EcP521 => encipherment,
        KeyAlgorithm::Ed25519 | KeyAlgorithm::MlDsa44 | KeyAlgorithm::MlDsa65 | KeyAlgorithm::MlDsa87 => {
            encipherment | agreement
        }
    };
    (usages & forbidden).is_empty()
}

pub(super) fn compile_extended_key_usage(names: &[String]) -> Result<Vec<ObjectIdentifier>, Fault> {
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

pub(super) fn compile_ignored(names: &[String]) -> Result<Vec<ObjectIdentifier>, Fault> {
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
                    format!(
                        "{name:?} is none of keyUsage, extendedKeyUsage, basicConstraints, subjectKeyIdentifier, \
                     nor a dotted OID"
                    ),
                ))?,
            };
            if oid == rfc5280::ID_CE_SUBJECT_ALT_NAME {
                return Err((
                    FIELD,
                    "allow names with a san rule from = \"csr\"; subjectAltName is not ignored".to_owned(),
                ));
            }
            Ok(oid)
        })
        .collect()
}

pub(super) fn compile_subject(specs: &[SubjectSpec]) -> Result<Vec<SubjectRule>, Fault> {
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

pub(super) fn compile_alt_names(
    specs: &[AltNameSpec],
    hw_type: Option<ObjectIdentifier>,
) -> Result<Vec<AltNameRule>, Fault> {
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

pub(super) fn compile_alt_name(spec: &AltNameSpec) -> Result<AltNameRule, String> {
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
            if !is_valid(kind, value) {
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
