//! Credentials that `init` and `dev` make on this machine: the key is made here and goes nowhere.

use crate::files::{self, Access};
use anyhow::{Context, Result};
use ca_core::id::TenantId;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use server::{access::Role, bootstrap, ca::Ca, convert};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

/// A credential's files.
pub struct Credential {
    /// Certificate and chain, PEM.
    pub cert: PathBuf,
    /// Key, PEM, mode 0600.
    pub key: PathBuf,
}

impl Credential {
    /// Where a principal's credential lies in `dir`.
    pub fn at(dir: &Path, principal: &str) -> Self {
        Self { cert: dir.join(format!("{principal}.pem")), key: dir.join(format!("{principal}.key")) }
    }

    /// Makes the principal with a new key, unless its files are there.
    ///
    /// # Errors
    /// When the authority refuses or the files cannot be written.
    pub async fn make(ca: &Arc<Ca>, tenant: &TenantId, principal: &str, role: Role, dir: &Path) -> Result<Self> {
        let credential = Self::at(dir, principal);
        if credential.cert.exists() {
            return Ok(credential);
        }
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        // A key without certificate is left by a run that was cut off before the principal existed: it serves again.
        let key = if credential.key.exists() {
            KeyPair::from_pem(&Zeroizing::new(fs::read_to_string(&credential.key)?))?
        } else {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            files::create(&credential.key, Zeroizing::new(key.serialize_pem()).as_bytes(), Access::Owner)?;
            key
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, principal);
        let csr = params.serialize_request(&key)?;
        let issued = bootstrap::make_principal(ca, tenant, principal, role, csr.der()).await?;
        let pem = convert::with_chain(ca, &issued.entry)?.pem;
        files::create(&credential.cert, pem.as_bytes(), Access::Everybody)?;
        Ok(credential)
    }
}
