//! What names a CSR may ask for.

use super::spec::AltNameKind;
use crate::{
    alt_name::{is_dns_name, is_uri},
    csr::RequestedName,
};
use std::net::IpAddr;

/// A pattern for one kind of name.
///
/// * dns: `host.example.com` is that name; `*.example.com` has exactly one more label; `**.example.com` has one or
///   more. Letters compare without case.
/// * uri: a prefix that ends in `/` or `:`, past the authority where there is one: `spiffe://example.com/device/`,
///   `urn:dev:`. Compared as it stands.
/// * ip: an address, or a network such as `10.1.0.0/16`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AltNamePattern {
    /// This host name, in lower case.
    DnsExact(String),
    /// `.suffix` in lower case, with one label before it or, when `deep`, any number.
    DnsBelow {
        /// The suffix with its leading dot.
        suffix: String,
        /// Several labels may stand before it.
        deep: bool,
    },
    /// URIs that begin so.
    UriPrefix(String),
    /// Addresses that share the first `bits` bits.
    Network {
        /// The network's address.
        address: IpAddr,
        /// How many bits count.
        bits: u8,
    },
}

impl AltNamePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn parse(kind: AltNameKind, text: &str) -> Result<Self, String> {
        match kind {
            AltNameKind::Dns => {
                let lower = text.to_ascii_lowercase();
                let (name, pattern) = if let Some(rest) = lower.strip_prefix("**.") {
                    (rest, Self::DnsBelow { suffix: format!(".{rest}"), deep: true })
                } else if let Some(rest) = lower.strip_prefix("*.") {
                    (rest, Self::DnsBelow { suffix: format!(".{rest}"), deep: false })
                } else {
                    (lower.as_str(), Self::DnsExact(lower.clone()))
                };
                if is_dns_name(name) {
                    Ok(pattern)
                } else {
                    Err(format!("{text:?} is neither a host name, *.suffix nor **.suffix"))
                }
            }
            AltNameKind::Uri => {
                let past_authority = match text.split_once("://") {
                    Some((_, rest)) => rest.find('/').is_some_and(|at| at > 0),
                    None => text.matches(':').count() >= 2,
                };
                if past_authority && text.ends_with(['/', ':']) && is_uri(text) {
                    Ok(Self::UriPrefix(text.to_owned()))
                } else {
                    Err(format!(
                        "{text:?} is not a URI prefix such as spiffe://example.com/ or urn:dev:, ending in / or :"
                    ))
                }
            }
            AltNameKind::Ip => {
                network(text).ok_or_else(|| format!("{text:?} is neither an address nor a network such as 10.1.0.0/16"))
            }
            AltNameKind::HardwareModuleName => Err("hardware-module-name never comes from a CSR".to_owned()),
        }
    }

    /// Whether the CSR may ask for `name`.
    pub fn matches(&self, name: &RequestedName) -> bool {
        match (self, name) {
            (Self::DnsExact(allowed), RequestedName::Dns(name)) => allowed.eq_ignore_ascii_case(name),
            (Self::DnsBelow { suffix, deep }, RequestedName::Dns(name)) => {
                let lower = name.to_ascii_lowercase();
                let front = lower.strip_suffix(suffix.as_str());
                front.is_some_and(|front| !front.is_empty() && (*deep || !front.contains('.')))
            }
            (Self::UriPrefix(prefix), RequestedName::Uri(uri)) => {
                uri.strip_prefix(prefix.as_str()).is_some_and(|rest| !rest.is_empty())
            }
            (Self::Network { address, bits }, RequestedName::Ip(ip)) => {
                leading(*address, *bits).is_some() && leading(*address, *bits) == leading(*ip, *bits)
            }
            _ => false,
        }
    }
}

/// Whether `value` is a name of this kind.
pub(crate) fn is_valid(kind: AltNameKind, value: &str) -> bool {
    match kind {
        AltNameKind::Dns => is_dns_name(value),
        AltNameKind::Uri => is_uri(value),
        AltNameKind::Ip => value.parse::<IpAddr>().is_ok(),
        // hwSerialNum is an OCTET STRING; 64 as for the serialNumber attribute.
        AltNameKind::HardwareModuleName => (1..=64).contains(&value.len()) && !value.chars().any(char::is_control),
    }
}

fn network(text: &str) -> Option<AltNamePattern> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address.parse::<IpAddr>().ok()?, Some(bits.parse::<u8>().ok()?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(width);
    // A network of all addresses is no limit, and bits beyond the mask are a mistake.
    let in_range = (1..=width).contains(&bits);
    let bare = in_range && leading(address, bits)?.1 << (width - bits) == leading(address, width)?.1;
    bare.then_some(AltNamePattern::Network { address, bits })
}

/// The first `bits` bits of an address, with its family; `None` for `bits` that the family does not have.
fn leading(address: IpAddr, bits: u8) -> Option<(bool, u128)> {
    let (value, width) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    // bits is at least 1 wherever a pattern was made, so the shift is below the width.
    let shift = u32::from(u8::checked_sub(width, bits)?);
    Some((address.is_ipv4(), value.checked_shr(shift).unwrap_or(0)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn matches(kind: AltNameKind, pattern: &str, name: RequestedName) -> bool {
        AltNamePattern::parse(kind, pattern).unwrap().matches(&name)
    }

    #[test]
    fn dns_patterns() {
        let is = |pattern: &str, name: &str| matches(AltNameKind::Dns, pattern, RequestedName::Dns(name.to_owned()));
        assert!(is("a.example.com", "A.Example.com"));
        assert!(is("*.example.com", "a.example.com"));
        assert!(!is("*.example.com", "a.b.example.com"));
        assert!(!is("*.example.com", "example.com"));
        assert!(!is("*.example.com", "aexample.com"));
        assert!(is("**.example.com", "a.b.example.com"));
        assert!(!is("**.example.com", "example.com.evil"));
        for bad in ["*", "*.", "a.*.com", "", "***.com", "a*.com"] {
            assert!(AltNamePattern::parse(AltNameKind::Dns, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn uri_patterns() {
        let is = |pattern: &str, name: &str| matches(AltNameKind::Uri, pattern, RequestedName::Uri(name.to_owned()));
        assert!(is("spiffe://example.com/d/", "spiffe://example.com/d/1"));
        assert!(!is("spiffe://example.com/d/", "spiffe://example.com/d/"));
        assert!(!is("spiffe://example.com/d/", "spiffe://example.com/e/1"));
        assert!(is("urn:dev:", "urn:dev:1"));
        for bad in ["https://example.com", "https://", "https:", "urn:", "x", "https:///", "urn:dev"] {
            assert!(AltNamePattern::parse(AltNameKind::Uri, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks() {
        let is = |pattern: &str, ip: &str| matches(AltNameKind::Ip, pattern, RequestedName::Ip(ip.parse().unwrap()));
        assert!(is("10.1.0.0/16", "10.1.2.3") && !is("10.1.0.0/16", "10.2.2.3"));
        assert!(is("10.1.0.9", "10.1.0.9") && !is("10.1.0.9", "10.1.0.8"));
        assert!(is("fd00::/8", "fd12::1") && !is("fd00::/8", "fe80::1"));
        assert!(!is("10.1.0.0/16", "::ffff:10.1.2.3"));
        for bad in ["10.1.0.0/0", "10.1.0.0/33", "10.1.0.1/16", "x", "::/0", "fd00::/129", ""] {
            assert!(AltNamePattern::parse(AltNameKind::Ip, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_do_not_mix() {
        assert!(!matches(AltNameKind::Uri, "urn:dev:", RequestedName::Dns("urn:dev:1".to_owned())));
        assert!(!matches(AltNameKind::Dns, "a.b", RequestedName::Email("a.b".to_owned())));
    }
}
