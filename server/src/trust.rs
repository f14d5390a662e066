//! Reads attestation trust anchors from the files that the configuration names.

use crate::config::{ConfigError, TrustStoreSection};
use enrollment::attestation::{
    Format,
    trust::{TrustStore, TrustStores, certificates},
};
use std::{collections::BTreeMap, fs, path::PathBuf};

/// Loads every named store.
///
/// # Errors
/// [`ConfigError::Value`] names the file that cannot be read or holds no certificate.
pub fn load(sections: &BTreeMap<String, TrustStoreSection>) -> Result<TrustStores, ConfigError> {
    let mut stores = TrustStores::new();
    for (name, section) in sections {
        let key = format!("trust_stores.{name}");
        let mut anchors = Vec::new();
        for path in files(&key, &section.files)? {
            let bytes = fs::read(&path).map_err(|e| problem(&key, format!("{}: {e}", path.display())))?;
            let found = certificates(name, &bytes).map_err(|e| problem(&key, format!("{}: {e}", path.display())))?;
            anchors.extend(found);
        }
        // An empty folder is a store that accepts nothing, until somebody puts a certificate there.
        if !anchors.is_empty() {
            let store = TrustStore::from_der(name, Format::Tpm2, &anchors).map_err(|e| problem(&key, e.to_string()))?;
            stores.add(store).map_err(|e| problem(&key, e.to_string()))?;
        }
    }
    Ok(stores)
}

fn problem(key: &str, problem: String) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), problem }
}

fn files(key: &str, named: &[PathBuf]) -> Result<Vec<PathBuf>, ConfigError> {
    let mut found = Vec::new();
    for path in named {
        if path.is_dir() {
            let entries = fs::read_dir(path).map_err(|e| problem(key, format!("{}: {e}", path.display())))?;
            let mut inside: Vec<PathBuf> = entries
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.extension().is_some_and(|x| x == "pem" || x == "der" || x == "crt" || x == "cer"))
                .collect();
            inside.sort();
            found.extend(inside);
        } else {
            found.push(path.clone());
        }
    }
    Ok(found)
}
