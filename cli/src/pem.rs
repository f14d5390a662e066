//! DER as PEM (RFC 7468).

use base64::{Engine, engine::general_purpose::STANDARD};

/// One certificate; nothing at all for no bytes.
pub fn certificate(der: &[u8]) -> String {
    if der.is_empty() {
        return String::new();
    }
    let base64 = STANDARD.encode(der);
    let mut out = String::with_capacity(base64.len() + 80);
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so every cut is a character's end.
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::{CertificateDer, pem::PemObject};

    #[test]
    fn reads_back() {
        for length in [1, 47, 48, 49, 96, 1000] {
            let der: Vec<u8> = (0..length).map(|i: u32| i.to_le_bytes()[0]).collect();
            let pem = certificate(&der);
            assert!(pem.lines().all(|line| line.len() <= 64));
            assert_eq!(CertificateDer::from_pem_slice(pem.as_bytes()).map(|c| c.to_vec()).ok(), Some(der));
        }
        assert_eq!(certificate(&[]), "");
    }
}
