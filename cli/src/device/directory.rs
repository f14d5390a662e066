//! The device's directory: key, certificate, trusted roots, and what is going on.
//!
//! ```text
//! enrollment.json     server, tenant, profile; the request, installation or confirmation in progress
//! trust.pem           the roots that the server is checked with
//! key.pem             the private key, mode 0600; or
//! tpm-key.json        the description of the key in the TPM, no secret
//! certificate.pem     the certificate
//! chain.pem           the certificates above it, issuer first, without the root
//! *.next.*            the same for a certificate that is not installed yet
//! ```
//!
//! Key, certificate and chain change together. Each file is replaced in one step; `enrollment.json` says beforehand
//! that they are being replaced, and whoever opens the directory next finishes it.

use super::{
    key::{DeviceKey, KeyKind},
    record::{Installed, PendingRequest, Record, RequestKind},
    tpm::TpmAddress,
};
use crate::{
    error::{Exit, Problem},
    files::{self, Access},
    pem,
};
use anyhow::Context;
use ca_core::certificate::Certificate;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

const RECORD: &str = "enrollment.json";
const TRUST: &str = "trust.pem";
const CERTIFICATE: Slot = Slot { name: "certificate.pem", next: "certificate.next.pem", access: Access::Everybody };
const CHAIN: Slot = Slot { name: "chain.pem", next: "chain.next.pem", access: Access::Everybody };
const FILE_KEY: Slot = Slot { name: "key.pem", next: "key.next.pem", access: Access::Owner };
const TPM_KEY: Slot = Slot { name: "tpm-key.json", next: "tpm-key.next.json", access: Access::Owner };
/// No file here comes near.
const MAX_FILE: u64 = 1 << 20;

struct Slot {
    name: &'static str,
    next: &'static str,
    access: Access,
}

fn key_slot(kind: KeyKind) -> &'static Slot {
    match kind {
        KeyKind::File => &FILE_KEY,
        KeyKind::Tpm => &TPM_KEY,
    }
}

/// The directory, locked against a second agent.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    record: Option<Record>,
    _lock: File,
}

impl Directory {
    /// Opens the directory, makes it (mode 0700) if `create`, and finishes an installation that was cut off.
    ///
    /// # Errors
    /// A [`Problem`] that names file and cause.
    pub fn open(path: &Path, create: bool) -> anyhow::Result<Self> {
        if create {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| Problem::file(path, &e))?;
        }
        let lock_path = path.join(".lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| Problem::file(&lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!("{} is in use by another sealwright", path.display());
                return Err(Problem::new(Exit::Unavailable, what, "Wait until it has finished.").into());
            }
            Err(TryLockError::Error(error)) => return Err(Problem::file(&lock_path, &error).into()),
        }
        let mut directory = Self { path: path.to_owned(), record: read_record(path)?, _lock: lock };
        if directory.record.as_ref().is_some_and(|record| record.installing) {
            directory.finish_installation()?;
        }
        Ok(directory)
    }

    /// The record; `None` before the first enrollment began.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// The record of a device that began to enroll.
    ///
    /// # Errors
    /// A [`Problem`] that says to enroll first.
    pub fn enrolled(&self) -> Result<&Record, Problem> {
        self.record.as_ref().ok_or_else(|| not_enrolled(&self.path))
    }

    /// Puts the trusted roots down.
    ///
    /// # Errors
    /// A [`Problem`] that names the file.
    pub fn write_trust(&self, roots: &[CertificateDer<'_>]) -> Result<(), Problem> {
        let text: String = roots.iter().map(|root| pem::certificate(root)).collect();
        files::replace(&self.path.join(TRUST), text.as_bytes(), Access::Everybody)
    }

    /// The trusted roots.
    ///
    /// # Errors
    /// A [`Problem`] that names the file.
    pub fn trust(&self) -> Result<Vec<CertificateDer<'static>>, Problem> {
        crate::connection::read_certificates(&self.path.join(TRUST))
    }

    /// Puts a new key and the request for it down; after this the server may hear of them.
    ///
    /// # Errors
    /// A [`Problem`] that names the file.
    pub fn begin(&mut self, mut record: Record, kind: RequestKind, key: &DeviceKey) -> anyhow::Result<PendingRequest> {
        let common_name = record.device.as_ref().map(|device| device.serial_number.as_str());
        let request =
            PendingRequest { kind, idempotency_key: random_key(), key: key.kind(), csr: key.csr(common_name)? };
        // The key first: a record always has its key, a key without record is replaced by the next.
        let slot = key_slot(key.kind());
        files::replace(&self.path.join(slot.next), &key.to_file()?, slot.access)?;
        record.request = Some(request.clone());
        self.write(record)?;
        Ok(request)
    }

    /// Forgets the request on its way, because the server will never answer it with a certificate.
    ///
    /// # Errors
    /// A [`Problem`] that names the file.
    pub fn abandon(&mut self) -> anyhow::Result<()> {
        let record = self.enrolled()?.clone();
        let Some(request) = &record.request else { return Ok(()) };
        // A key without a certificate is of no use to anybody.
        let key = self.path.join(key_slot(request.key).next);
        self.write(Record { request: None, ..record })?;
        fs::remove_file(&key).map_err(|error| Problem::file(&key, &error).into())
    }

    /// The key of the request on its way.
    ///
    /// # Errors
    /// A [`Problem`] or another error that names the file.
    pub fn next_key(&self, kind: KeyKind, tpm: Option<&TpmAddress>) -> anyhow::Result<DeviceKey> {
        self.read_key(kind, key_slot(kind).next, tpm)
    }

    /// Key and certificate chain in use, leaf first.
    ///
    /// # Errors
    /// A [`Problem`] or another error that names the file.
    pub fn current(&self, tpm: Option<&TpmAddress>) -> anyhow::Result<(DeviceKey, Vec<CertificateDer<'static>>)> {
        let kind = self.installed()?.key;
        let key = self.read_key(kind, key_slot(kind).name, tpm)?;
        let mut chain = crate::connection::read_certificates(&self.path.join(CERTIFICATE.name))?;
        let above = files::read(&self.path.join(CHAIN.name), MAX_FILE)?;
        for certificate in CertificateDer::pem_slice_iter(&above) {
            chain.push(certificate.with_context(|| format!("{} is not PEM", CHAIN.name))?);
        }
        Ok((key, chain))
    }

    /// The certificate in use, as it is on disk.
    ///
    /// # Errors
    /// A [`Problem`] or another error that names the file.
    pub fn certificate(&self) -> anyhow::Result<Certificate> {
        self.installed()?;
        let path = self.path.join(CERTIFICATE.name);
        let certificates = crate::connection::read_certificates(&path)?;
        let first = certificates.first().map(|der| der.as_ref()).unwrap_or_default();
        Certificate::from_der(first).with_context(|| path.display().to_string())
    }

    /// What is installed.
    ///
    /// # Errors
    /// A [`Problem`] that says to enroll first.
    pub fn installed(&self) -> Result<&Installed, Problem> {
        self.record.as_ref().and_then(|record| record.installed.as_ref()).ok_or_else(|| not_enrolled(&self.path))
    }

    /// Installs the certificate of the request on its way, with its key. From here on it is the one in use, and waits
    /// for its confirmation.
    ///
    /// # Errors
    /// A [`Problem`] that names the file; whatever the moment, old or new are whole.
    pub fn install(&mut self, certificate: &[u8], chain: &[Vec<u8>], installed: Installed) -> anyhow::Result<()> {
        self.stage(certificate, chain, installed)?;
        self.finish_installation()
    }

    /// Puts everything down beside the old, and then says that it is the new.
    fn stage(&mut self, certificate: &[u8], chain: &[Vec<u8>], installed: Installed) -> anyhow::Result<()> {
        let record = self.enrolled()?.clone();
        let chain: String = chain.iter().map(|der| pem::certificate(der)).collect();
        for (slot, text) in [(&CERTIFICATE, pem::certificate(certificate)), (&CHAIN, chain)] {
            files::replace(&self.path.join(slot.next), text.as_bytes(), slot.access)?;
        }
        self.write(Record {
            installed: Some(installed),
            request: None,
            installing: true,
            confirmation: Some(random_key()),
            ..record
        })
    }

    /// Moves the new files to their places; may be done again after any cut.
    fn finish_installation(&mut self) -> anyhow::Result<()> {
        let record = self.enrolled()?.clone();
        let kind = self.installed()?.key;
        for slot in [key_slot(kind), &CERTIFICATE, &CHAIN] {
            let (from, to) = (self.path.join(slot.next), self.path.join(slot.name));
            match fs::rename(&from, &to) {
                Ok(()) => {}
                // Moved before the cut.
                Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => {}
                Err(error) => return Err(Problem::file(&from, &error).into()),
            }
        }
        // A key of the other kind belonged to the certificate before.
        let other = self.path.join(if kind == KeyKind::File { TPM_KEY.name } else { FILE_KEY.name });
        match fs::remove_file(&other) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Problem::file(&other, &error).into());
            }
            _ => {}
        }
        let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
        synced.map_err(|error| Problem::file(&self.path, &error))?;
        self.write(Record { installing: false, ..record })
    }

    /// Notes that the server knows of the installation.
    ///
    /// # Errors
    /// A [`Problem`] that names the file.
    pub fn confirmed(&mut self) -> anyhow::Result<()> {
        let record = self.enrolled()?.clone();
        self.write(Record { confirmation: None, ..record })
    }

    fn read_key(&self, kind: KeyKind, name: &str, tpm: Option<&TpmAddress>) -> anyhow::Result<DeviceKey> {
        let path = self.path.join(name);
        let contents = Zeroizing::new(files::read(&path, MAX_FILE)?);
        DeviceKey::from_file(kind, &contents, tpm).with_context(|| path.display().to_string())
    }

    fn write(&mut self, record: Record) -> anyhow::Result<()> {
        let mut json = serde_json::to_vec_pretty(&record)?;
        json.push(b'\n');
        files::replace(&self.path.join(RECORD), &json, Access::Owner)?;
        self.record = Some(record);
        Ok(())
    }
}

fn read_record(path: &Path) -> anyhow::Result<Option<Record>> {
    let path = path.join(RECORD);
    if !path.try_exists().map_err(|error| Problem::file(&path, &error))? {
        return Ok(None);
    }
    let record: Record = serde_json::from_slice(&files::read(&path, MAX_FILE)?).map_err(|error| {
        let advice = "The file was changed by hand or by a newer version; restore it.";
        Problem::new(Exit::Failure, format!("{}: {error}", path.display()), advice)
    })?;
    if record.version != 1 {
        let what = format!("{} has version {}, which is not known", path.display(), record.version);
        return Err(Problem::new(Exit::Failure, what, "Use the version of sealwright that wrote it.").into());
    }
    Ok(Some(record))
}

fn not_enrolled(path: &Path) -> Problem {
    Problem::new(
        Exit::NotFound,
        format!("{} holds no certificate", path.display()),
        "Enroll first: sealwright device enroll --dir DIR ...",
    )
}

/// 16 random octets in hexadecimal.
pub fn random_key() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn record() -> Record {
        Record::new(
            "ca.example.com:8443".into(),
            "default".parse().unwrap(),
            "tls-client".parse().unwrap(),
            None,
            false,
        )
    }

    fn installed(serial: &str) -> Installed {
        Installed { issuer_id: "i1".into(), serial_number: serial.into(), key: KeyKind::File }
    }

    fn file_key() -> DeviceKey {
        DeviceKey::generate(None).unwrap()
    }

    #[test]
    fn a_request_survives_with_its_key_and_csr() {
        let dir = tempfile::tempdir().unwrap();
        let key = file_key();
        let begun = {
            let mut directory = Directory::open(dir.path(), true).unwrap();
            assert!(directory.record().is_none() && directory.current(None).is_err());
            directory.begin(record(), RequestKind::Enroll, &key).unwrap()
        };
        let directory = Directory::open(dir.path(), false).unwrap();
        assert_eq!(directory.record().unwrap().request, Some(begun));
        assert_eq!(directory.next_key(KeyKind::File, None).unwrap().spki_der(), key.spki_der());
        assert!(directory.installed().is_err());
        let mode = fs::metadata(dir.path().join("key.next.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_second_agent_is_kept_out() {
        let dir = tempfile::tempdir().unwrap();
        let first = Directory::open(dir.path(), true).unwrap();
        let problem = Directory::open(dir.path(), false).unwrap_err().downcast::<Problem>().unwrap();
        assert_eq!(problem.exit, Exit::Unavailable);
        drop(first);
        assert!(Directory::open(dir.path(), false).is_ok());
    }

    /// Copies a directory as a power cut would leave it.
    fn snapshot(from: &Path) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
        to
    }

    #[test]
    fn a_cut_during_installation_leaves_old_or_new_and_never_a_mixture() {
        let dir = tempfile::tempdir().unwrap();
        let mut directory = Directory::open(dir.path(), true).unwrap();
        let (old, new) = (file_key(), file_key());
        directory.begin(record(), RequestKind::Enroll, &old).unwrap();
        directory.install(b"old certificate", &[b"old issuer".to_vec()], installed("01")).unwrap();
        directory.confirmed().unwrap();
        let before = directory.record().unwrap().clone();
        let request = directory.begin(before, RequestKind::Renew, &new).unwrap();

        let read = |directory: &Directory| {
            let (key, chain) = directory.current(None).unwrap();
            (key.spki_der(), chain.iter().map(|c| c.to_vec()).collect::<Vec<_>>())
        };
        let (is_old, is_new) = (
            (old.spki_der(), vec![b"old certificate".to_vec(), b"old issuer".to_vec()]),
            (new.spki_der(), vec![b"new certificate".to_vec(), b"new issuer".to_vec()]),
        );

        // The new files are there, but nothing says that they count.
        let cut = snapshot(dir.path());
        fs::write(cut.path().join(CERTIFICATE.next), pem::certificate(b"new certificate")).unwrap();
        fs::write(cut.path().join(CHAIN.next), pem::certificate(b"new issuer")).unwrap();
        let after = Directory::open(cut.path(), false).unwrap();
        assert_eq!(read(&after), is_old);
        assert_eq!(after.record().unwrap().request, Some(request));

        // From the record on it is the new one, wherever the moving was cut off.
        directory.stage(b"new certificate", &[b"new issuer".to_vec()], installed("02")).unwrap();
        for moved in 0..=3 {
            let cut = snapshot(dir.path());
            for slot in [&FILE_KEY, &CERTIFICATE, &CHAIN].into_iter().take(moved) {
                fs::rename(cut.path().join(slot.next), cut.path().join(slot.name)).unwrap();
            }
            let after = Directory::open(cut.path(), false).unwrap();
            assert_eq!(read(&after), is_new, "after {moved} files");
            let record = after.record().unwrap();
            assert!(record.request.is_none() && !record.installing && record.confirmation.is_some());
            assert_eq!(record.installed, Some(installed("02")));
        }
    }

    #[test]
    fn a_record_from_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{}", r#"{"version": 1, "surprise": true}"#] {
            fs::write(dir.path().join(RECORD), text).unwrap();
            assert!(Directory::open(dir.path(), false).is_err(), "{text}");
        }
        let mut newer = record();
        newer.version = 2;
        fs::write(dir.path().join(RECORD), serde_json::to_vec(&newer).unwrap()).unwrap();
        assert!(Directory::open(dir.path(), false).unwrap_err().to_string().contains("version 2"));
    }
}
