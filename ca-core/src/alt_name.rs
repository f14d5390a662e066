//! Subject alternative names (RFC 5280 4.2.1.6): the kinds that are issued, and their syntax.

use const_oid::ObjectIdentifier;
use der::asn1::{Ia5String, OctetString};
use std::{fmt, net::IpAddr};
use x509_cert::ext::pkix::name::{GeneralName, HardwareModuleName, OtherName};

/// A name to be certified.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AltName {
    /// A host name; see [`is_dns_name`].
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// A URI; see [`is_uri`].
    Uri(String),
    /// id-on-hardwareModuleName (RFC 4108 5): what IEEE 802.1AR identifies a device by.
    HardwareModule {
        /// hwType: the kind of hardware, from the manufacturer's arc.
        hw_type: ObjectIdentifier,
        /// hwSerialNum.
        serial: String,
    },
}

impl AltName {
    /// For the X.509 encoder.
    pub(crate) fn to_general_name(&self) -> der::Result<GeneralName> {
        Ok(match self {
            Self::Dns(name) => GeneralName::DnsName(Ia5String::new(name)?),
            Self::Ip(address) => GeneralName::from(*address),
            Self::Uri(uri) => GeneralName::UniformResourceIdentifier(Ia5String::new(uri)?),
            Self::HardwareModule { hw_type, serial } => {
                let name =
                    HardwareModuleName { hw_type: *hw_type, hw_serial_num: OctetString::new(serial.as_bytes())? };
                GeneralName::OtherName(OtherName::try_from(&name)?)
            }
        })
    }
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Ip(address) => write!(f, "IP:{address}"),
            Self::Uri(uri) => write!(f, "URI:{uri}"),
            Self::HardwareModule { hw_type, serial } => write!(f, "hardwareModuleName:{hw_type}:{serial}"),
        }
    }
}

/// Whether `name` is a host name in preferred syntax (RFC 1034 3.5, RFC 1123 2.1): labels of 1 to 63 letters, digits
/// and inner hyphens, 253 characters in all, no trailing dot, no wildcard, not an IPv4 address.
pub fn is_dns_name(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.len() <= 253
        && name.split('.').all(label)
        && name.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether `uri` has a scheme, then only characters of RFC 3986, at most 512, and no dot segments, which would walk out
/// of an allowed prefix.
pub fn is_uri(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once(':') else { return false };
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    scheme_ok
        && !rest.is_empty()
        && uri.len() <= 512
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b))
        && escapes_are_whole(rest)
        && !path.split('/').any(is_dot_segment)
}

fn escapes_are_whole(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let mut digits = after.bytes().take(2);
        digits.by_ref().filter(u8::is_ascii_hexdigit).count() == 2
    })
}

/// `.` and `..`, plain or percent-encoded.
fn is_dot_segment(segment: &str) -> bool {
    matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names() {
        for good in ["a", "example.com", "xn--bcher-kva.example", "a-1.b2", "1a.2b"] {
            assert!(is_dns_name(good), "{good}");
        }
        let long = format!("{}.com", "a".repeat(64));
        for bad in ["", ".", "a.", ".a", "*.a", "-a", "a-", "a b", "a_b", "ü", "10.0.0.1", "a\0b", long.as_str()] {
            assert!(!is_dns_name(bad), "{bad}");
        }
    }

    #[test]
    fn uris() {
        for good in ["urn:dev:ops:1", "spiffe://example.com/d/1", "https://h/a%20b?x#y"] {
            assert!(is_uri(good), "{good}");
        }
        for bad in ["", "x", ":x", "a:", "1a:b", "a: b", "a:b\n", "a:%", "a:%zz", "s://h/a/../b", "s://h/%2E%2e/b"] {
            assert!(!is_uri(bad), "{bad}");
        }
    }
}
