//! PKCS#11 URIs (RFC 7512) that name a token.

use std::fmt;
use std::str::FromStr;

/// A URI longer than this is refused.
const MAX_URI: usize = 2048;

/// Path attributes that name a token, its slot or its library: name, octets at most (CK_TOKEN_INFO, CK_SLOT_INFO,
/// CK_INFO are fixed fields).
const PATH: [(&str, usize); 10] = [
    ("token", 32),
    ("manufacturer", 32),
    ("serial", 16),
    ("model", 16),
    ("slot-id", 20),
    ("slot-description", 64),
    ("slot-manufacturer", 32),
    ("library-manufacturer", 32),
    ("library-description", 32),
    ("library-version", 7),
];

/// Why a URI was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum UriError {
    /// Does not begin with `pkcs11:`, or is over 2048 octets.
    #[error("a token URI begins with 'pkcs11:' and has at most 2048 octets (RFC 7512)")]
    Scheme,
    /// An attribute without `=`, or with an empty name.
    #[error("the token URI contains '{0}', which is not name=value")]
    Attribute(String),
    /// A character that must be percent-encoded, a bad escape, or octets that are not UTF-8.
    #[error("{0}: the value is not validly percent-encoded UTF-8")]
    Encoding(String),
    /// A value over the length of its PKCS#11 field, or empty.
    #[error("{0}: the value is empty or longer than its PKCS#11 field")]
    Length(String),
    /// An attribute that occurs twice.
    #[error("{0} occurs twice in the token URI")]
    Duplicate(String),
    /// A standard attribute that has no place in a token's name, or an unknown one.
    #[error("{0} is not an attribute of a token; use token, serial, model and manufacturer")]
    Unknown(String),
    /// A PIN, or where to fetch one, in the URI.
    #[error(
        "{0}: a PIN does not belong into a URI, where logs and process lists show it; give it as a file or on standard input"
    )]
    Pin(String),
    /// A slot number that is no number.
    #[error("slot-id is not a number")]
    SlotId,
    /// The URI names nothing that tells tokens apart.
    #[error("the token URI must have token= or serial=")]
    TooWide,
}

/// A token's name. Attributes that are absent match anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TokenUri {
    values: [Option<String>; PATH.len()],
    module_path: Option<String>,
    module_name: Option<String>,
}

impl TokenUri {
    /// A URI with a token label alone.
    ///
    /// # Errors
    /// [`UriError::Length`] unless the label has 1 to 32 octets, [`UriError::Encoding`] for NUL.
    pub fn from_label(label: &str) -> Result<Self, UriError> {
        Self::default().with("token", label)
    }

    /// The same URI with `serial` added.
    ///
    /// # Errors
    /// [`UriError::Length`] unless the serial has 1 to 16 octets.
    pub fn with_serial(self, serial: &str) -> Result<Self, UriError> {
        self.with("serial", serial)
    }

    fn with(mut self, name: &'static str, value: &str) -> Result<Self, UriError> {
        self.set(name, value.to_owned())?;
        Ok(self)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), UriError> {
        let Some((slot, (_, limit))) = self.values.iter_mut().zip(PATH).find(|(_, (n, _))| *n == name) else {
            return Err(UriError::Unknown(name.to_owned()));
        };
        // Fields are blank padded, so trailing blanks are not part of a value.
        let value = value.trim_end_matches(' ');
        if value.is_empty() || value.len() > limit {
            return Err(UriError::Length(name.to_owned()));
        }
        if value.contains('\0') {
            return Err(UriError::Encoding(name.to_owned()));
        }
        if slot.is_some() {
            return Err(UriError::Duplicate(name.to_owned()));
        }
        if name == "slot-id" && !value.bytes().all(|b| b.is_ascii_digit()) {
            return Err(UriError::SlotId);
        }
        *slot = Some(value.to_owned());
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().zip(PATH).find(|(_, (n, _))| *n == name).and_then(|(v, _)| v.as_deref())
    }

    /// The token's label.
    pub fn token(&self) -> Option<&str> {
        self.get("token")
    }

    /// The token's serial number.
    pub fn serial(&self) -> Option<&str> {
        self.get("serial")
    }

    /// The token's model.
    pub fn model(&self) -> Option<&str> {
        self.get("model")
    }

    /// The token's manufacturer.
    pub fn manufacturer(&self) -> Option<&str> {
        self.get("manufacturer")
    }

    /// The slot number. It is parsed, but a token is never selected by it: numbers change between starts.
    pub fn slot_id(&self) -> Option<&str> {
        self.get("slot-id")
    }

    /// The module's file (query attribute).
    pub fn module_path(&self) -> Option<&str> {
        self.module_path.as_deref()
    }

    /// The module's name without directory and suffix (query attribute).
    pub fn module_name(&self) -> Option<&str> {
        self.module_name.as_deref()
    }

    /// True when each attribute that is present here equals what `actual` gives for its name.
    pub(crate) fn matches<'a>(&self, actual: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.values.iter().zip(PATH).all(|(wanted, (name, _))| {
            wanted.as_deref().is_none_or(|w| actual(name).is_some_and(|a| a.trim_end_matches(' ') == w))
        })
    }
}

impl FromStr for TokenUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let rest = match text.get(..7) {
            Some(scheme) if scheme.eq_ignore_ascii_case("pkcs11:") && text.len() <= MAX_URI => &text[7..],
            _ => return Err(UriError::Scheme),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self::default();
        for attribute in path.split(';').filter(|a| !a.is_empty()) {
            let (name, value) = split(attribute)?;
            refuse_pin(name)?;
            // RFC 7512 2.3: vendors' attributes are not ours to judge.
            if name.starts_with("x-") {
                continue;
            }
            let value = decode(name, value, "&")?;
            uri.set(name, value)?;
        }
        for attribute in query.split('&').filter(|a| !a.is_empty()) {
            let (name, value) = split(attribute)?;
            refuse_pin(name)?;
            let field = match name {
                "module-path" => &mut uri.module_path,
                "module-name" => &mut uri.module_name,
                vendor if vendor.starts_with("x-") => continue,
                other => return Err(UriError::Unknown(other.to_owned())),
            };
            let value = decode(name, value, "/?|")?;
            if value.is_empty() || value.contains('\0') {
                return Err(UriError::Length(name.to_owned()));
            }
            if field.replace(value).is_some() {
                return Err(UriError::Duplicate(name.to_owned()));
            }
        }
        if uri.token().is_none() && uri.serial().is_none() {
            return Err(UriError::TooWide);
        }
        Ok(uri)
    }
}

// The value stays out of every message: it may be a secret in the wrong place.
fn refuse_pin(name: &str) -> Result<(), UriError> {
    if matches!(name, "pin-value" | "pin-source" | "pinfile") { Err(UriError::Pin(name.to_owned())) } else { Ok(()) }
}

fn split(attribute: &str) -> Result<(&str, &str), UriError> {
    match attribute.split_once('=') {
        Some((name, value))
            if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') =>
        {
            Ok((name, value))
        }
        _ => Err(UriError::Attribute(attribute.chars().take_while(|c| *c != '=').take(32).collect())),
    }
}

/// pk11-res-avail and RFC 3986's unreserved.
fn is_plain(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"-._~:[]@!$'()*+,=".contains(&octet)
}

fn decode(name: &str, value: &str, extra: &str) -> Result<String, UriError> {
    let bad = || UriError::Encoding(name.to_owned());
    let mut octets = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(octet) = rest.next() {
        if octet == b'%' {
            let high = rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(bad)?;
            let low = rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(bad)?;
            octets.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
        } else if is_plain(octet) || extra.as_bytes().contains(&octet) {
            octets.push(octet);
        } else {
            return Err(bad());
        }
    }
    String::from_utf8(octets).map_err(|_| bad())
}

struct Encoded<'a>(&'a str, &'a [u8]);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for octet in self.0.bytes() {
            if is_plain(octet) || self.1.contains(&octet) {
                write!(f, "{}", char::from(octet))?;
            } else {
                write!(f, "%{octet:02X}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkcs11:")?;
        let mut separator = "";
        for (value, (name, _)) in self.values.iter().zip(PATH) {
            if let Some(value) = value {
                write!(f, "{separator}{name}={}", Encoded(value, b""))?;
                separator = ";";
            }
        }
        separator = "?";
        for (value, name) in [(&self.module_path, "module-path"), (&self.module_name, "module-name")] {
            if let Some(value) = value {
                write!(f, "{separator}{name}={}", Encoded(value, b"/"))?;
                separator = "&";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_the_rfc_shows() {
        let uri: TokenUri = "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;\
                             model=1.0;x-vend=%FF;serial=4a138d3d?module-path=/usr/lib/a.so&x-more=1"
            .parse()
            .unwrap();
        assert_eq!(uri.token(), Some("The Software PKCS#11 Softtoken"));
        assert_eq!(uri.manufacturer(), Some("Snake Oil, Inc."));
        assert_eq!(uri.model(), Some("1.0"));
        assert_eq!(uri.serial(), Some("4a138d3d"));
        assert_eq!(uri.module_path(), Some("/usr/lib/a.so"));
    }

    #[test]
    fn refuses_with_a_reason() {
        for (text, error) in [
            ("token=a", UriError::Scheme),
            ("pkcs11:", UriError::TooWide),
            ("pkcs11:model=a", UriError::TooWide),
            ("pkcs11:token", UriError::Attribute("token".into())),
            ("pkcs11:token=%zz", UriError::Encoding("token".into())),
            ("pkcs11:token=%F", UriError::Encoding("token".into())),
            ("pkcs11:token=%ff", UriError::Encoding("token".into())),
            ("pkcs11:token=a b", UriError::Encoding("token".into())),
            ("pkcs11:token=a%00b", UriError::Encoding("token".into())),
            ("pkcs11:token=", UriError::Length("token".into())),
            ("pkcs11:serial=12345678901234567", UriError::Length("serial".into())),
            ("pkcs11:token=a;token=a", UriError::Duplicate("token".into())),
            ("pkcs11:token=a;object=k", UriError::Unknown("object".into())),
            ("pkcs11:token=a;id=%01", UriError::Unknown("id".into())),
            ("pkcs11:token=a;pin-value=1234", UriError::Pin("pin-value".into())),
            ("pkcs11:token=a?pin-value=1234", UriError::Pin("pin-value".into())),
            ("pkcs11:token=a?pin-source=/etc/pin", UriError::Pin("pin-source".into())),
            ("pkcs11:token=a?module=x", UriError::Unknown("module".into())),
            ("pkcs11:token=a;slot-id=one", UriError::SlotId),
        ] {
            let refused = text.parse::<TokenUri>().unwrap_err();
            assert_eq!(refused, error, "{text}");
            assert!(!refused.to_string().contains("1234"), "{refused}");
        }
    }

    #[test]
    fn matches_on_what_is_present() {
        let uri: TokenUri = "pkcs11:token=a;model=m".parse().unwrap();
        let actual = |model: &'static str| {
            move |name: &str| match name {
                "token" => Some("a  "),
                "model" => Some(model),
                _ => None,
            }
        };
        assert!(uri.matches(actual("m")));
        assert!(!uri.matches(actual("other")));
        assert!(!uri.clone().with_serial("1").unwrap().matches(actual("m")));
    }

    proptest! {
        #[test]
        fn round_trip(token in "[^\0 ]{1,8}", serial in "[^\0 ]{0,4}", path in "[^\0]{0,40}") {
            let mut uri = TokenUri::from_label(&token).unwrap();
            if !serial.is_empty() {
                uri = uri.with_serial(&serial).unwrap();
            }
            uri.module_path = (!path.is_empty()).then_some(path);
            prop_assert_eq!(uri.to_string().parse::<TokenUri>().unwrap(), uri);
        }

        #[test]
        fn never_panics(text in "(pkcs11:)?[ -~é]{0,60}") {
            if let Ok(uri) = text.parse::<TokenUri>() {
                prop_assert_eq!(uri.to_string().parse::<TokenUri>().unwrap(), uri);
            }
        }
    }
}
