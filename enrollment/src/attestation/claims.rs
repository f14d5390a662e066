//! What evidence establishes: a closed set of typed claims.

use std::{collections::BTreeMap, fmt, str::FromStr};

macro_rules! claims {
    ($($(#[$doc:meta])* $variant:ident, $text:literal, $kind:ident;)*) => {
        /// The name of a claim.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ClaimName {
            $($(#[$doc])* $variant,)*
        }

        impl ClaimName {
            /// Every claim.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As written in policies and shown to people.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The type of the claim's value.
            pub const fn kind(self) -> ClaimKind {
                match self { $(Self::$variant => ClaimKind::$kind,)* }
            }
        }
    };
}

claims! {
    /// The key in the request is the key that the evidence is about.
    KeyAttested, "key.attested", Ternary;
    /// The private key never leaves the hardware.
    KeyHardwareBound, "key.hardware_bound", Ternary;
    /// The private key can be taken out, wrapped or not.
    KeyExportable, "key.exportable", Ternary;
    /// SHA-256 of the endorsement key's DER SubjectPublicKeyInfo.
    DeviceEkSha256, "device.id.ek_sha256", Digest;
    /// The hardware's manufacturer, for example "STM".
    HwVendor, "hw.vendor", Text;
    /// The hardware's model.
    HwModel, "hw.model", Text;
    /// The hardware's firmware version.
    HwFirmware, "hw.firmware", Text;
    /// How freshness was shown: "nonce".
    FreshKind, "fresh.kind", Text;
    /// SHA-256 of the trust anchor's certificate.
    TrustAnchor, "trust.anchor", Digest;
}

/// The type of a claim's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// yes, no or unknown.
    Ternary,
    /// Text.
    Text,
    /// A SHA-256 digest.
    Digest,
}

/// There is no claim of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no claim {0:?}")]
pub struct UnknownClaim(pub String);

impl FromStr for ClaimName {
    type Err = UnknownClaim;
    fn from_str(s: &str) -> Result<Self, UnknownClaim> {
        Self::ALL.iter().copied().find(|c| c.as_str() == s).ok_or_else(|| UnknownClaim(s.to_owned()))
    }
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A fact that evidence may leave open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ternary {
    /// Established.
    Yes,
    /// Established not to be so.
    No,
    /// Not established.
    Unknown,
}

/// The value of a claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClaimValue {
    /// yes, no or unknown.
    Ternary(Ternary),
    /// Text.
    Text(String),
    /// A SHA-256 digest; shown as hexadecimal.
    Digest([u8; 32]),
}

impl ClaimValue {
    /// Its type.
    pub fn kind(&self) -> ClaimKind {
        match self {
            Self::Ternary(_) => ClaimKind::Ternary,
            Self::Text(_) => ClaimKind::Text,
            Self::Digest(_) => ClaimKind::Digest,
        }
    }
}

impl fmt::Display for ClaimValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ternary(Ternary::Yes) => f.write_str("yes"),
            Self::Ternary(Ternary::No) => f.write_str("no"),
            Self::Ternary(Ternary::Unknown) => f.write_str("unknown"),
            Self::Text(text) => f.write_str(text),
            Self::Digest(digest) => f.write_str(&hex::encode(digest)),
        }
    }
}

/// The claims of one result. A claim that is absent satisfies no rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<ClaimName, ClaimValue>);

impl Claims {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// States a claim. A value of another type than the claim's is as good as absent.
    #[must_use]
    pub fn with(mut self, name: ClaimName, value: ClaimValue) -> Self {
        if value.kind() == name.kind() {
            self.0.insert(name, value);
        }
        self
    }

    /// States a claim where there is a value.
    #[must_use]
    pub fn with_text(self, name: ClaimName, value: Option<&str>) -> Self {
        match value {
            Some(text) => self.with(name, ClaimValue::Text(text.to_owned())),
            None => self,
        }
    }

    /// The value, where the claim was made.
    pub fn get(&self, name: ClaimName) -> Option<&ClaimValue> {
        self.0.get(&name)
    }

    /// All, in the order of [`ClaimName::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (ClaimName, &ClaimValue)> {
        self.0.iter().map(|(n, v)| (*n, v))
    }
}
