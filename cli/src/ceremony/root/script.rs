//! What a root ceremony makes: a TOML file that is agreed on before the day.

use crate::{error::Problem, files};
use anyhow::Result;
use ca_core::{
    key::PublicKey,
    name::{AttributeType, DistinguishedName},
};
use serde::Deserialize;
use std::{path::Path, time::Duration};

/// Octets of the largest script; the example has a thousand.
pub const SCRIPT_MOST: u64 = 64 * 1024;
/// More roles than this are a crowd in which nobody watches.
const ROLES_MOST: usize = 32;
const YEAR: Duration = Duration::from_secs(365 * 86_400 + 86_400 / 4);
const DAY: Duration = Duration::from_secs(86_400);

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// What the ceremony is called.
    pub title: String,
    /// The organization in the root's name.
    pub organization: String,
    /// The root's common name; without it the organization and a tag of the key.
    #[serde(default)]
    common_name: Option<String>,
    /// The root key's algorithm.
    algorithm: String,
    /// The root key's label in the token.
    pub label: String,
    /// How long the root is valid, in years: 1 to 50.
    years: u32,
    /// How long an issuing CA is valid, in years, and never longer than the root.
    issuing_years: u32,
    /// Where the root's CRL will be published; issuing CAs' certificates say it.
    pub crl_url: String,
    /// Where the root's certificate will be published.
    #[serde(default)]
    pub ca_issuers_url: Option<String>,
    /// For how many days the first CRL is good: 1 to 400, a year and some weeks to make the next.
    crl_days: u32,
    /// The roles of those who take part; a name is asked for each.
    pub roles: Vec<String>,
}

impl Script {
    /// Reads and checks it; gives its octets as well.
    ///
    /// # Errors
    /// A [`Problem`] that names the field.
    pub fn load(path: &Path) -> Result<(Self, Vec<u8>)> {
        let octets = files::read(path, SCRIPT_MOST)?;
        let text = std::str::from_utf8(&octets).unwrap_or_default();
        let wrong = |what: String| Problem::usage(format!("{}: {what}", path.display()), "Correct the script.");
        let script: Self = toml::from_str(text).map_err(|e| wrong(e.to_string()))?;
        script.check().map_err(wrong)?;
        Ok((script, octets))
    }

    fn check(&self) -> Result<(), String> {
        self.algorithm()?;
        let rules = [
            ((1..=50).contains(&self.years), "years must be 1 to 50"),
            ((1..=self.years).contains(&self.issuing_years), "issuing_years must be 1 to years"),
            ((1..=400).contains(&self.crl_days), "crl_days must be 1 to 400"),
            ((1..=64).contains(&self.label.len()), "label must have 1 to 64 octets"),
            (self.crl_url.starts_with("http://"), "crl_url must begin with http://"),
            (
                self.ca_issuers_url.as_ref().is_none_or(|u| u.starts_with("http://")),
                "ca_issuers_url must begin with http://",
            ),
            ((1..=ROLES_MOST).contains(&self.roles.len()), "roles must name 1 to 32 roles"),
            (self.roles.iter().all(|role| (1..=64).contains(&role.len())), "a role has 1 to 64 octets"),
        ];
        if let Some((_, rule)) = rules.into_iter().find(|(holds, _)| !holds) {
            return Err(rule.to_owned());
        }
        let twice = self.roles.iter().enumerate().find(|(at, role)| self.roles.iter().take(*at).any(|r| r == *role));
        match twice {
            Some((_, role)) => Err(format!("role '{role}' stands there twice; number them, as in 'custodian 1'")),
            None => Ok(()),
        }
    }

    /// The root key's algorithm.
    ///
    /// # Errors
    /// A sentence that lists what is possible.
    pub fn algorithm(&self) -> Result<server::config::KeyChoice, String> {
        server::config::key_algorithm(&self.algorithm).map_err(|e| format!("algorithm: {e}"))
    }

    /// The root's name. A new key is a new root, so unless it is given the key is in it.
    ///
    /// # Errors
    /// A value that no name can have.
    pub fn name(&self, key: &PublicKey) -> Result<DistinguishedName> {
        let tag = hex::encode(key.key_identifier().get(..4).unwrap_or_default()).to_uppercase();
        let common_name = self.common_name.clone().unwrap_or_else(|| format!("{} Root {tag}", self.organization));
        let parts =
            [(AttributeType::Organization, self.organization.clone()), (AttributeType::CommonName, common_name)];
        Ok(DistinguishedName::new(parts)?)
    }

    /// How long the root is valid.
    pub fn root_life(&self) -> Duration {
        YEAR * self.years
    }

    /// How long an issuing CA is valid.
    pub fn issuing_life(&self) -> Duration {
        YEAR * self.issuing_years
    }

    /// How long the first CRL is good.
    pub fn crl_life(&self) -> Duration {
        DAY * self.crl_days
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use ca_core::key::KeyAlgorithm;

    fn checked(from: &str, to: &str) -> Result<Script, String> {
        let text = super::super::EXAMPLE.replace(from, to);
        assert!(from.is_empty() || text != super::super::EXAMPLE, "{from}");
        let script: Script = toml::from_str(&text).map_err(|e| e.to_string())?;
        script.check().map(|()| script)
    }

    #[test]
    fn the_example_is_good_and_each_rule_is_one() {
        let script = checked("", "").unwrap();
        assert_eq!(script.algorithm().unwrap().key, KeyAlgorithm::EcP384);
        for (from, to, named) in [
            ("\"P-384\"", "\"P-383\"", "algorithm"),
            ("years = 35", "years = 51", "years"),
            ("issuing_years = 25", "issuing_years = 36", "issuing_years"),
            ("crl_days = 400", "crl_days = 0", "crl_days"),
            ("crl_url = \"http://", "crl_url = \"https://", "crl_url"),
            ("\"witness 2\"", "\"witness 1\"", "witness 1"),
            ("label", "labell", "labell"),
        ] {
            let error = checked(from, to).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
