//! Certificate serial numbers (RFC 5280 4.1.2.2).

use std::{fmt, str::FromStr};

/// A positive serial number of at most 20 octets, minimal big-endian.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SerialNumber(Vec<u8>);

/// Why a serial number was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// Zero, or no octets at all.
    #[error("a serial number must be positive")]
    NotPositive,
    /// More than 20 octets.
    #[error("a serial number has at most 20 octets")]
    TooLong,
    /// Not hexadecimal.
    #[error("a serial number is written in hexadecimal digits, two an octet")]
    NotHex,
}

impl SerialNumber {
    /// RFC 5280 4.1.2.2: at most 20 octets.
    pub const MAX_LEN: usize = 20;

    /// From 16 random octets: 126 bits of randomness, always 16 octets long, never negative, never zero
    /// (CA/B Baseline Requirements 7.1 ask for 64 bits).
    pub fn from_random(mut random: [u8; 16]) -> Self {
        // The first octet is 0x40..=0x7f: positive without padding, and no leading zeros to strip.
        random[0] = (random[0] & 0x3f) | 0x40;
        Self(random.to_vec())
    }

    /// From the unsigned big-endian value; leading zeros are removed.
    ///
    /// # Errors
    /// [`SerialError`] when it is zero or longer than 20 octets.
    pub fn from_be_bytes(bytes: &[u8]) -> Result<Self, SerialError> {
        let start = bytes.iter().position(|&b| b != 0).ok_or(SerialError::NotPositive)?;
        let value = bytes.get(start..).unwrap_or_default();
        // A set top bit costs a zero octet in DER, which counts.
        let der_len = value.len() + usize::from(value.first().is_some_and(|b| b & 0x80 != 0));
        if der_len > Self::MAX_LEN {
            return Err(SerialError::TooLong);
        }
        Ok(Self(value.to_vec()))
    }

    /// The minimal unsigned big-endian value.
    pub fn as_be_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For the X.509 encoder.
    ///
    /// # Errors
    /// None for a value of this type; the signature is that of the encoder.
    pub fn to_x509(&self) -> der::Result<x509_cert::serial_number::SerialNumber> {
        x509_cert::serial_number::SerialNumber::new(&self.0)
    }
}

impl fmt::Display for SerialNumber {
    /// Lower-case hexadecimal, two digits an octet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SerialNumber({self})")
    }
}

impl FromStr for SerialNumber {
    type Err = SerialError;

    /// Accepts either case, with or without the colons that people copy from `openssl x509 -text`.
    fn from_str(s: &str) -> Result<Self, SerialError> {
        // 20 octets are 40 digits and 19 colons.
        if s.len() > 59 {
            return Err(SerialError::TooLong);
        }
        let digits: String = s.chars().filter(|&c| c != ':').collect();
        Self::from_be_bytes(&hex::decode(digits).map_err(|_| SerialError::NotHex)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn random_serials_are_positive_and_sixteen_octets() {
        for first in 0..=255u8 {
            let serial = SerialNumber::from_random([first; 16]);
            assert_eq!(serial.as_be_bytes().len(), 16);
            assert_eq!(serial.as_be_bytes()[0] & 0xc0, 0x40);
            assert_eq!(serial.to_string().parse::<SerialNumber>().unwrap(), serial);
        }
    }

    #[test]
    fn refuses_zero_and_overlong() {
        assert_eq!(SerialNumber::from_be_bytes(&[0; 8]), Err(SerialError::NotPositive));
        assert_eq!(SerialNumber::from_be_bytes(&[0x80; 20]), Err(SerialError::TooLong));
        assert!(SerialNumber::from_be_bytes(&[0x7f; 20]).is_ok());
        assert_eq!("xy".parse::<SerialNumber>(), Err(SerialError::NotHex));
    }
}
