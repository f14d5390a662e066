//! Requests in a URL (RFC 6960 A.1): base64 in a path, as clients really write it.

use super::request::{MAX_REQUEST_LEN, RequestError};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Three characters for each of the base64 characters of the longest request, should all be escaped.
const MAX_PATH_LEN: usize = MAX_REQUEST_LEN / 3 * 4 * 3 + 64;

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(true).with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The DER request in what follows the responder's own path, for example `/MFQwUjBQME4w...`.
///
/// Slashes at the front, `%2B`, `%2f` and `%3d` in either case, a blank where a framework has already turned the plus
/// sign into one, the URL-safe alphabet, and missing padding are all understood. The path must not have been
/// normalised: a double slash inside is part of the request.
///
/// # Errors
/// [`RequestError::TooLarge`] and [`RequestError::Encoding`].
pub fn decode_path(path: &str) -> Result<Vec<u8>, RequestError> {
    if path.len() > MAX_PATH_LEN {
        return Err(RequestError::TooLarge);
    }
    // A SEQUENCE's tag makes the first character an M, so no slash in front belongs to the request.
    let mut rest = path.trim_start_matches('/').bytes();
    let mut text = Vec::with_capacity(rest.len());
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let (high, low) = (rest.next().and_then(hex_digit), rest.next().and_then(hex_digit));
                let (Some(high), Some(low)) = (high, low) else { return Err(RequestError::Encoding) };
                high << 4 | low
            }
            other => other,
        };
        text.push(match byte {
            b'-' | b' ' => b'+',
            b'_' => b'/',
            other => other,
        });
    }
    while text.last() == Some(&b'=') {
        text.pop();
    }
    let der = ENGINE.decode(&text).map_err(|_| RequestError::Encoding)?;
    if der.len() > MAX_REQUEST_LEN {
        return Err(RequestError::TooLarge);
    }
    Ok(der)
}

/// The path of a DER request as RFC 6960 A.1 has it: base64, then percent-encoding; without a slash in front.
pub fn encode_path(der: &[u8]) -> String {
    ENGINE.encode(der).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_not_base64() {
        for bad in ["M%", "M%2", "M%zz", "MFQ=MFQ", "MFQ?", "MF\u{e9}", "M"] {
            assert_eq!(decode_path(bad), Err(RequestError::Encoding), "{bad}");
        }
        assert_eq!(decode_path(&"M".repeat(MAX_PATH_LEN + 1)), Err(RequestError::TooLarge));
        assert_eq!(decode_path(&"MMMM".repeat(MAX_REQUEST_LEN / 3 + 1)), Err(RequestError::TooLarge));
        assert_eq!(decode_path("/"), Ok(Vec::new()));
    }

    #[test]
    fn double_slashes_inside_are_data() {
        let der = [0x30, 3, 0xff, 0xff, 0xff, 0xfb];
        let path = ENGINE.encode(der);
        assert!(path.contains("//"));
        assert_eq!(decode_path(&format!("/{path}")).unwrap(), der);
    }

    proptest! {
        #[test]
        fn every_way_of_writing_a_request_gives_the_same_bytes(content in proptest::collection::vec(any::<u8>(), 0..600)) {
            let der = crate::tlv::wrap(crate::tlv::SEQUENCE, &content);
            let standard = ENGINE.encode(&der);
            let bare = standard.trim_end_matches('=').to_owned();
            let lower = standard.replace('+', "%2b").replace('/', "%2f").replace('=', "%3d");
            let everything: String = standard.bytes().map(|b| format!("%{b:02X}")).collect();
            let url_safe = standard.replace('+', "-").replace('/', "_");
            for path in [
                encode_path(&der), standard.clone(), bare.clone(), lower, everything, url_safe.clone(),
                url_safe.trim_end_matches('=').to_owned(), standard.replace('+', " "),
                standard.replace('/', "%2F"), standard.replace('+', "%2B"),
            ] {
                for front in ["", "/", "//"] {
                    prop_assert_eq!(&decode_path(&format!("{front}{path}")).unwrap(), &der);
                }
            }
        }

        #[test]
        fn any_text_is_answered(path in ".{0,200}") {
            let _ = decode_path(&path);
        }
    }
}
