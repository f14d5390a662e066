//! Reads attestation trust anchors from the files that the configuration names.

use crate::config::{ConfigError, TrustStoreSection};
use enrollment::attestation::policy::TrustStores;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// Loads every named store.
///
/// # Errors
/// [`ConfigError::Value`] names the file that cannot be read or holds no certificate.
pub fn load(sections: &BTreeMap<String, TrustStoreSection>) -> Result<TrustStores, ConfigError> {
    let mut stores = TrustStores::new();
    for (name, section) in sections {
        let key = format!("trust_stores.{name}");
        for path in files(&key, &section.files)? {
            let bytes = fs::read(&path).map_err(|e| problem(&key, format!("{}: {e}", path.display())))?;
            stores.add(name, &bytes).map_err(|e| problem(&key, format!("{}: {e}", path.display())))?;
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
