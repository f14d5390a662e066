//! A share as text, for a file or for paper: `SWPIN1-threshold-index-set-data-checksum`, numbers decimal, the rest in
//! hexadecimal digits.

use super::{CHECK, PIN_MOST, SET, SHARES_MOST, Share, ShareError, THRESHOLD_LEAST, UNIT};
use sha2::{Digest, Sha256};
use std::str::FromStr;
use zeroize::Zeroizing;

const NAME: &str = "SWPIN";
const VERSION: &str = "1";
const CHECKSUM_DOMAIN: &[u8] = b"sealwright pin share v1\0";
/// Octets of the checksum: a mistyped share passes once in four thousand million.
const CHECKSUM: usize = 4;
/// The longest data, in octets.
const DATA_MOST: usize = (1 + PIN_MOST).next_multiple_of(UNIT) + CHECK;
/// The longest text, in characters: two digits an octet, and as many again for spaces, line ends and what else is typed.
pub(super) const TEXT_MOST: usize = 4 * (DATA_MOST + SET + CHECKSUM) + 64;

impl Share {
    /// The text for a file: one line without its end. It is the secret; keep it as such.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}{}-{}", self.head(), *self.digits(), hex::encode(self.checksum())))
    }

    /// The text for paper: the digits in groups of four, eight groups a line. It is the secret; keep it as such.
    pub fn to_paper(&self) -> Zeroizing<String> {
        let digits = self.digits();
        let mut text = Zeroizing::new(String::with_capacity(TEXT_MOST));
        text.push_str(&self.head());
        for (at, digit) in digits.chars().enumerate() {
            match (at % 32, at % 4) {
                (0, _) => text.push('\n'),
                (_, 0) => text.push(' '),
                _ => {}
            }
            text.push(digit);
        }
        text.push_str("\n-");
        text.push_str(&hex::encode(self.checksum()));
        text
    }

    fn head(&self) -> String {
        format!("{NAME}{VERSION}-{}-{}-{}-", self.threshold, self.index, self.set())
    }

    fn digits(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.data.as_slice()))
    }

    fn checksum(&self) -> [u8; CHECKSUM] {
        let digest: [u8; 32] = Sha256::new()
            .chain_update(CHECKSUM_DOMAIN)
            .chain_update([self.threshold, self.index])
            .chain_update(self.set)
            .chain_update(&*self.data)
            .finalize()
            .into();
        let mut checksum = [0; CHECKSUM];
        checksum.copy_from_slice(&digest[..CHECKSUM]);
        checksum
    }
}

impl FromStr for Share {
    type Err = ShareError;

    /// Takes either case, and spaces and line ends anywhere.
    fn from_str(text: &str) -> Result<Self, ShareError> {
        if text.len() > TEXT_MOST {
            return Err(syntax("the text", "is too long"));
        }
        // As long as the text at most, so it never grows and leaves no copy behind.
        let mut packed = Zeroizing::new(String::with_capacity(text.len()));
        packed.extend(text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_uppercase()));
        let mut parts = packed.split('-');
        let mut next = |field| parts.next().ok_or(syntax(field, "is missing"));
        version(next("the beginning")?)?;
        let threshold = number(next("the threshold")?, "the threshold", THRESHOLD_LEAST)?;
        let index = number(next("the number")?, "the number", 1)?;
        let mut set = [0; SET];
        octets(next("the set")?, "the set", &mut set)?;
        let digits = next("the data")?;
        let length = digits.len() / 2;
        if !(UNIT + CHECK..=DATA_MOST).contains(&length) || !(length - CHECK).is_multiple_of(UNIT) {
            return Err(syntax("the data", "has not the right number of digits"));
        }
        let mut data = Zeroizing::new(vec![0; length]);
        octets(digits, "the data", &mut data)?;
        let mut checksum = [0; CHECKSUM];
        octets(next("the checksum")?, "the checksum", &mut checksum)?;
        if parts.next().is_some() {
            return Err(syntax("the end", "has something behind the checksum"));
        }
        let share = Self { threshold, index, set, data };
        if share.checksum() != checksum {
            return Err(ShareError::Checksum { index });
        }
        Ok(share)
    }
}

fn syntax(field: &'static str, problem: &'static str) -> ShareError {
    ShareError::Syntax { field, problem }
}

fn version(text: &str) -> Result<(), ShareError> {
    match text.strip_prefix(NAME) {
        Some(VERSION) => Ok(()),
        // Only what a version can be is repeated: it may be a secret that was pasted here.
        Some(other) if (1..=3).contains(&other.len()) && other.bytes().all(|b| b.is_ascii_digit()) => {
            Err(ShareError::Version(other.to_owned()))
        }
        _ => Err(syntax("the beginning", "is not SWPIN1")),
    }
}

fn number(text: &str, field: &'static str, least: u8) -> Result<u8, ShareError> {
    let number = text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    number.filter(|n| (least..=SHARES_MOST).contains(n)).ok_or(syntax(field, "is no possible number"))
}

fn octets(digits: &str, field: &'static str, into: &mut [u8]) -> Result<(), ShareError> {
    hex::decode_to_slice(digits, into).map_err(|error| match error {
        hex::FromHexError::InvalidHexCharacter { .. } => syntax(field, "has something else than 0-9 and a-f"),
        _ => syntax(field, "has not the right number of digits"),
    })
}
