//! Writing DER headers (X.690 8.1, 10.1) around content whose length is known.

/// SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// BIT STRING.
pub const BIT_STRING: u8 = 0x03;
/// OCTET STRING.
pub const OCTET_STRING: u8 = 0x04;
/// OBJECT IDENTIFIER.
pub const OID: u8 = 0x06;
/// ENUMERATED.
pub const ENUMERATED: u8 = 0x0a;

/// No header is longer: a tag, the length's length, eight octets.
pub const MAX_HEADER: usize = 10;

/// Context tag `number` (below 31), constructed: an EXPLICIT wrapper, or an IMPLICIT SEQUENCE.
pub const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// Context tag `number` (below 31), primitive.
pub const fn context_primitive(number: u8) -> u8 {
    0x80 | number
}

/// Appends tag and minimal length.
pub fn push_header(out: &mut Vec<u8>, tag: u8, len: usize) {
    out.push(tag);
    let octets = len.to_be_bytes();
    let skip = octets.iter().take_while(|&&b| b == 0).count();
    match octets.get(skip..).unwrap_or_default() {
        [] => out.push(0),
        [short @ 0..=0x7f] => out.push(*short),
        long => {
            // At most eight, so the cast keeps the value.
            out.push(0x80 | long.len() as u8);
            out.extend_from_slice(long);
        }
    }
}

/// Appends a whole value.
pub fn push(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    push_header(out, tag, content.len());
    out.extend_from_slice(content);
}

/// A whole value.
pub fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + MAX_HEADER);
    push(&mut out, tag, content);
    out
}

/// Appends an INTEGER from an unsigned big-endian value.
pub fn push_unsigned(out: &mut Vec<u8>, value: &[u8]) {
    let start = value.iter().position(|&b| b != 0).unwrap_or(value.len());
    let value = value.get(start..).unwrap_or_default();
    let pad = value.first().is_none_or(|&b| b & 0x80 != 0);
    push_header(out, INTEGER, value.len() + usize::from(pad));
    if pad {
        out.push(0);
    }
    out.extend_from_slice(value);
}

/// Appends a BIT STRING of whole octets.
pub fn push_bits(out: &mut Vec<u8>, bits: &[u8]) {
    push_header(out, BIT_STRING, bits.len() + 1);
    out.push(0);
    out.extend_from_slice(bits);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use der::{Decode, asn1::OctetStringRef};

    #[test]
    fn lengths_are_minimal() {
        for len in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![7; len];
            let der = wrap(OCTET_STRING, &content);
            assert_eq!(<&OctetStringRef>::from_der(&der).unwrap().as_bytes(), content);
        }
    }

    #[test]
    fn integers_are_minimal_and_positive() {
        for value in [0u64, 1, 127, 128, 255, 256, u64::MAX] {
            let mut der = Vec::new();
            push_unsigned(&mut der, &value.to_be_bytes());
            assert_eq!(u64::from_der(&der).unwrap(), value);
        }
    }
}
