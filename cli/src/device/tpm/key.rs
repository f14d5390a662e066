//! A P-256 key in the TPM, made again from its template whenever it is used.
//!
//! The owner hierarchy's seed and a random number in the template give the key, so the file that describes it holds
//! no secret and is of no use without this TPM.

use super::{
    TpmAddress, TpmError,
    commands::{Handle, Hierarchy, Tpm},
};
use ca_core::key::PublicKey;
use enrollment::tpm2::{Attributes, HashAlgorithm, Public, Signature, Writer};
use rustls::{
    Error as TlsError, SignatureAlgorithm, SignatureScheme,
    sign::{Signer, SigningKey},
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const ALG_ECC: u16 = 0x0023;
const ALG_NULL: u16 = 0x0010;
const CURVE_P256: u16 = 0x0003;

/// `tpm-key.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u32,
    /// Where the TPM is, as `--tpm` has it.
    tpm: String,
    /// The template's `unique`, hexadecimal.
    #[serde(with = "crate::device::octets")]
    unique: [u8; 32],
    /// The DER SubjectPublicKeyInfo, hexadecimal.
    #[serde(with = "crate::device::octets")]
    public_key: Vec<u8>,
}

/// A key in the TPM: signs CSRs and TLS handshakes with ECDSA and SHA-256.
#[derive(Clone, Debug)]
pub struct TpmKey {
    address: TpmAddress,
    unique: [u8; 32],
    public: PublicKey,
}

impl TpmKey {
    /// Makes a key.
    ///
    /// # Errors
    /// Those of the TPM.
    pub fn generate(address: &TpmAddress) -> Result<Self, TpmError> {
        let mut unique = [0; 32];
        rand::fill(&mut unique);
        let mut tpm = Tpm::open(address)?;
        let public = tpm.with_primary(Hierarchy::Owner, &template(&unique), |_, _, public| {
            Ok(Public::parse(public)?.key().clone())
        })?;
        Ok(Self { address: address.clone(), unique, public })
    }

    /// Reads `tpm-key.json`. The TPM is not asked; `address` overrides the one in the file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn from_json(json: &[u8], address: Option<&TpmAddress>) -> anyhow::Result<Self> {
        let file: KeyFile = serde_json::from_slice(json)?;
        anyhow::ensure!(file.version == 1, "version {} of the key file is not known", file.version);
        let address = match address {
            Some(address) => address.clone(),
            None => file.tpm.parse()?,
        };
        Ok(Self { address, unique: file.unique, public: PublicKey::from_spki_der(&file.public_key)? })
    }

    /// Writes `tpm-key.json`.
    ///
    /// # Errors
    /// None for a value of this type; the signature is that of the encoder.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec_pretty(&KeyFile {
            version: 1,
            tpm: self.address.to_string(),
            unique: self.unique,
            public_key: self.public.spki_der().to_vec(),
        })
    }

    /// The public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Where its TPM is.
    pub fn address(&self) -> &TpmAddress {
        &self.address
    }

    /// Loads the key, lets `f` use it with its TPMT_PUBLIC, and flushes it.
    ///
    /// # Errors
    /// [`TpmError::OtherKey`] when the TPM makes another one now; those of the TPM and of `f`.
    pub fn with_loaded<T>(
        &self,
        tpm: &mut Tpm,
        f: impl FnOnce(&mut Tpm, Handle, &[u8]) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        tpm.with_primary(Hierarchy::Owner, &template(&self.unique), |tpm, handle, public| {
            if Public::parse(public)?.key() != &self.public {
                return Err(TpmError::OtherKey);
            }
            f(tpm, handle, public)
        })
    }

    /// Signs with ECDSA and SHA-256; DER (RFC 3279 2.2.3).
    ///
    /// # Errors
    /// Those of [`Self::with_loaded`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TpmError> {
        let digest: [u8; 32] = Sha256::digest(message).into();
        // A connection for each signature: swtpm serves one at a time.
        let mut tpm = Tpm::open(&self.address)?;
        let signature = self.with_loaded(&mut tpm, |tpm, handle, _| tpm.sign(handle, &digest))?;
        Ok(Signature::parse(&signature)?.to_x509()?)
    }
}

/// inPublic: a device key for certificates, with no fixed scheme, and `unique` in the x coordinate.
fn template(unique: &[u8; 32]) -> Vec<u8> {
    let attributes = Attributes::FIXED_TPM
        .with(Attributes::FIXED_PARENT)
        .with(Attributes::SENSITIVE_DATA_ORIGIN)
        .with(Attributes::USER_WITH_AUTH)
        .with(Attributes::NO_DA)
        .with(Attributes::SIGN);
    Writer::new()
        .u16(ALG_ECC)
        .u16(HashAlgorithm::Sha256.id())
        .u32(attributes.bits())
        .sized(&[])
        // Symmetric algorithm and scheme, curve, key derivation scheme.
        .u16(ALG_NULL)
        .u16(ALG_NULL)
        .u16(CURVE_P256)
        .u16(ALG_NULL)
        .sized(unique)
        .sized(&[0; 32])
        .finish()
}

impl rcgen::PublicKeyData for TpmKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.key_bits()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for TpmKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        TpmKey::sign(self, message).map_err(|error| {
            // rcgen's error has no room for the cause.
            tracing::error!(%error, "the TPM did not sign");
            rcgen::Error::RemoteKeyError
        })
    }
}

impl SigningKey for TpmKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.public.spki_der()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TpmKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TlsError> {
        TpmKey::sign(self, message).map_err(|error| TlsError::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
