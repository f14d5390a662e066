//! Points in time as certificates have them: whole seconds, UTC.

use der::asn1::{GeneralizedTime, UtcTime};
use std::{fmt, time::Duration};
use x509_cert::time::Time;

/// Seconds since 1970-01-01T00:00:00Z, from 0 to the end of the year 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

/// The first second that UTCTime cannot express (RFC 5280 4.1.2.5): 2050-01-01T00:00:00Z.
const FIRST_GENERALIZED: u64 = 2_524_608_000;

impl UnixTime {
    /// 9999-12-31T23:59:59Z: "no well-defined expiration date" (RFC 5280 4.1.2.5).
    pub const INFINITY: Self = Self(253_402_300_799);

    /// The given second; anything after the year 9999 becomes [`Self::INFINITY`].
    pub const fn from_secs(secs: u64) -> Self {
        if secs > Self::INFINITY.0 { Self::INFINITY } else { Self(secs) }
    }

    /// Seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// Later by `by`, ending at [`Self::INFINITY`].
    pub const fn plus(self, by: Duration) -> Self {
        Self::from_secs(self.0.saturating_add(by.as_secs()))
    }

    /// Earlier by `by`, ending at the epoch.
    pub const fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by.as_secs()))
    }

    /// How long until `later`; zero when it is not later.
    pub const fn until(self, later: Self) -> Duration {
        Duration::from_secs(later.0.saturating_sub(self.0))
    }

    /// As X.509 wants it: UTCTime up to 2049, GeneralizedTime after (RFC 5280 4.1.2.5).
    ///
    /// # Errors
    /// None for a value of this type; the signature is that of the encoder.
    pub fn to_x509(self) -> der::Result<Time> {
        let since_epoch = Duration::from_secs(self.0);
        Ok(if self.0 < FIRST_GENERALIZED {
            Time::UtcTime(UtcTime::from_unix_duration(since_epoch)?)
        } else {
            Time::GeneralTime(GeneralizedTime::from_unix_duration(since_epoch)?)
        })
    }

    /// As GeneralizedTime whatever the year, for OCSP (RFC 6960 4.2.1).
    ///
    /// # Errors
    /// None for a value of this type; the signature is that of the encoder.
    pub fn to_generalized(self) -> der::Result<GeneralizedTime> {
        GeneralizedTime::from_unix_duration(Duration::from_secs(self.0))
    }

    /// From a decoded certificate or CRL.
    pub fn from_x509(time: &Time) -> Self {
        Self::from_secs(time.to_unix_duration().as_secs())
    }
}

impl fmt::Display for UnixTime {
    /// RFC 3339, for example `2026-11-23T17:10:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match der::DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(date) => date.fmt(f),
            Err(_) => write!(f, "@{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_changes_in_2050() {
        let last = UnixTime::from_secs(FIRST_GENERALIZED - 1);
        assert!(matches!(last.to_x509(), Ok(Time::UtcTime(_))));
        let first = UnixTime::from_secs(FIRST_GENERALIZED);
        assert!(matches!(first.to_x509(), Ok(Time::GeneralTime(_))));
        assert_eq!(first.to_string(), "2050-01-01T00:00:00Z");
        assert_eq!(UnixTime::INFINITY.to_string(), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(UnixTime::INFINITY.plus(Duration::MAX), UnixTime::INFINITY);
        assert_eq!(UnixTime::from_secs(5).minus(Duration::from_secs(9)).as_secs(), 0);
    }
}
