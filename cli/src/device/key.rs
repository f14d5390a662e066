//! The device's private key: in a file, or in the TPM.

use super::tpm::{TpmAddress, TpmKey};
use anyhow::Context;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Where the private key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// In a PEM file that only its owner reads.
    File,
    /// In the TPM.
    Tpm,
}

/// A P-256 key of the device.
#[derive(Debug)]
pub enum DeviceKey {
    /// In a file.
    File(KeyPair),
    /// In the TPM.
    Tpm(TpmKey),
}

impl DeviceKey {
    /// Makes a key, in the TPM if there is an address.
    ///
    /// # Errors
    /// Those of the TPM and of the system's randomness.
    pub fn generate(tpm: Option<&TpmAddress>) -> anyhow::Result<Self> {
        Ok(match tpm {
            Some(address) => Self::Tpm(TpmKey::generate(address)?),
            None => Self::File(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?),
        })
    }

    /// Reads what [`Self::to_file`] wrote. `tpm` overrides the address in the file.
    ///
    /// # Errors
    /// What is wrong with it; never its contents.
    pub fn from_file(kind: KeyKind, contents: &[u8], tpm: Option<&TpmAddress>) -> anyhow::Result<Self> {
        Ok(match kind {
            KeyKind::File => {
                let text = std::str::from_utf8(contents).context("not a PEM file")?;
                Self::File(KeyPair::from_pem(text)?)
            }
            KeyKind::Tpm => Self::Tpm(TpmKey::from_json(contents, tpm)?),
        })
    }

    /// The contents of the key file.
    ///
    /// # Errors
    /// None for a key of ours; the signature is that of the encoder.
    pub fn to_file(&self) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        Ok(Zeroizing::new(match self {
            Self::File(key) => key.serialize_pem().into_bytes(),
            Self::Tpm(key) => key.to_json()?,
        }))
    }

    /// Where it is.
    pub fn kind(&self) -> KeyKind {
        match self {
            Self::File(_) => KeyKind::File,
            Self::Tpm(_) => KeyKind::Tpm,
        }
    }

    /// The DER SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> Vec<u8> {
        match self {
            Self::File(key) => key.subject_public_key_info(),
            Self::Tpm(key) => key.public_key().spki_der().to_vec(),
        }
    }

    /// A PKCS#10 request, DER. The server builds the certificate's subject itself; a common name here is for people.
    ///
    /// # Errors
    /// Those of the TPM.
    pub fn csr(&self, common_name: Option<&str>) -> anyhow::Result<Vec<u8>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let csr = match self {
            Self::File(key) => params.serialize_request(key)?,
            Self::Tpm(key) => params.serialize_request(key)?,
        };
        Ok(csr.der().to_vec())
    }

    /// For TLS client authentication, with the certificate chain, leaf first.
    ///
    /// # Errors
    /// None for a key of ours; the signature is that of the TLS library.
    pub fn certified(&self, chain: Vec<CertificateDer<'static>>) -> anyhow::Result<Arc<CertifiedKey>> {
        let key: Arc<dyn SigningKey> = match self {
            Self::File(key) => {
                let pem = Zeroizing::new(key.serialize_pem());
                any_supported_type(&PrivateKeyDer::from_pem_slice(pem.as_bytes())?)?
            }
            Self::Tpm(key) => Arc::new(key.clone()),
        };
        Ok(Arc::new(CertifiedKey::new(chain, key)))
    }
}
