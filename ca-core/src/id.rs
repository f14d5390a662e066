//! Identifiers: validated once, where they enter.

use std::{fmt, str::FromStr};

/// Why an identifier was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty.
    #[error("must not be empty")]
    Empty,
    /// Longer than its limit.
    #[error("must have at most {0} characters")]
    TooLong(usize),
    /// A character outside the identifier's alphabet.
    #[error("may only contain {0}")]
    Alphabet(&'static str),
}

fn check(s: &str, max: usize, allowed: fn(char) -> bool, alphabet: &'static str) -> Result<(), IdError> {
    if s.is_empty() {
        return Err(IdError::Empty);
    }
    if s.len() > max {
        return Err(IdError::TooLong(max));
    }
    if !s.chars().all(allowed) {
        return Err(IdError::Alphabet(alphabet));
    }
    Ok(())
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $max:literal, $allowed:expr, $alphabet:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, serde::Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The longest value, in characters.
            pub const MAX_LEN: usize = $max;

            /// Checks and takes the value.
            ///
            /// # Errors
            /// [`IdError`] says what is wrong with it.
            pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
                let value = value.into();
                check(&value, $max, $allowed, $alphabet)?;
                Ok(Self(value))
            }

            /// The value.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                Self::new(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                Self::new(s)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

fn slug(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_')
}

fn device(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-' | ' ')
}

identifier!(
    /// A tenant. Tenants share nothing but the process.
    TenantId, 32, slug, "a-z 0-9 . _ -"
);
identifier!(
    /// An issuing CA: one key, one name, one CRL. Stands in its URLs.
    IssuerId, 64, slug, "a-z 0-9 . _ -"
);
identifier!(
    /// A certificate profile.
    ProfileName, 64, slug, "a-z 0-9 . _ -"
);
identifier!(
    /// A person or machine that is no device: the holder of a role.
    PrincipalId, 64, slug, "a-z 0-9 . _ -"
);
identifier!(
    /// A device, unique within its tenant.
    DeviceId, 64, device, "A-Z a-z 0-9 . _ : - and space"
);
identifier!(
    /// The caller's name for one request; the same key gives the same result.
    IdempotencyKey, 64, |c| c.is_ascii_graphic(), "visible ASCII characters"
);

impl TenantId {
    /// The tenant of an installation that knows only one.
    pub fn default_tenant() -> Self {
        Self("default".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_alphabets_hold() {
        assert_eq!(TenantId::new(""), Err(IdError::Empty));
        assert_eq!(TenantId::new("a".repeat(33)), Err(IdError::TooLong(32)));
        assert!(matches!(IssuerId::new("../etc"), Err(IdError::Alphabet(_))));
        assert!(matches!(DeviceId::new("a\nb"), Err(IdError::Alphabet(_))));
        assert!(matches!(DeviceId::new("*%"), Err(IdError::Alphabet(_))));
        assert!(IdempotencyKey::new("0191-ab/+=").is_ok());
        assert!(DeviceId::new("SN 0001:A").is_ok());
    }
}
