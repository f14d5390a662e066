//! The appraisal policy of a profile: which evidence, which trust, which claims. Default deny.

use super::{
    AttestationResult, Format, UnknownFormat,
    claims::{ClaimKind, ClaimName, ClaimValue, UnknownClaim},
    trust::TrustStores,
};
use rule::{Rule, RuleError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

mod rule;

/// The most entries in an accept list.
pub const MAX_ENTRIES: usize = 16;
/// The most rules in an entry.
pub const MAX_RULES: usize = 32;

/// A profile's appraisal policy as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationPolicySpec {
    /// What is accepted: one entry suffices. Empty: the built-in rules, with every trust store of the format.
    #[serde(default)]
    pub accept: Vec<AcceptSpec>,
}

/// One way to be accepted: every rule must hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptSpec {
    /// The evidence formats, at least one: "tpm2".
    pub format: Vec<String>,
    /// The name of the trust store; absent: any store for the format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
    /// Rules such as `key.hardware_bound == yes`, `hw.vendor in ["STM", "IFX"]`, `hw.model startswith "SLB"`,
    /// `device.id.ek_sha256 in inventory`.
    pub require: Vec<String>,
}

/// Why a policy cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too many entries, or an entry with too many rules or without a format.
    #[error("accept: at most {MAX_ENTRIES} entries, each with a format and 1 to {MAX_RULES} rules")]
    Size,
    /// No such format.
    #[error("accept[{0}].format: {1}")]
    Format(usize, UnknownFormat),
    /// No such trust store, or one for another format.
    #[error("accept[{0}].trust: there is no trust store {1:?} for this format")]
    Trust(usize, String),
    /// A rule that cannot be understood.
    #[error("accept[{0}].require[{1}]: {2}")]
    Rule(usize, usize, RuleError),
}

impl PolicyError {
    /// The field at fault.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Size => "accept",
            Self::Format(..) => "accept.format",
            Self::Trust(..) => "accept.trust",
            Self::Rule(..) => "accept.require",
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    formats: Vec<Format>,
    trust: Option<String>,
    rules: Vec<Rule>,
}

/// A policy that was checked: every claim known, every value of its claim's type.
#[derive(Clone, Debug)]
pub struct AppraisalPolicy {
    entries: Vec<Entry>,
    sha256: [u8; 32],
}

/// How one rule came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleResult {
    /// The entry, from 0.
    pub entry: usize,
    /// The rule as written; `format` and `trust` stand for the entry's own conditions.
    pub rule: String,
    /// Whether it holds.
    pub holds: bool,
}

/// The outcome of an appraisal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether some entry accepted the result.
    pub accepted: bool,
    /// Every rule of every entry up to the one that accepted.
    pub rules: Vec<RuleResult>,
    /// SHA-256 of the policy's text, for the record.
    pub policy_sha256: [u8; 32],
}

/// Tells whether a device, by the SHA-256 of its endorsement key's SubjectPublicKeyInfo, is in the inventory.
pub type Inventory<'a> = &'a dyn Fn(&[u8; 32]) -> bool;

impl AppraisalPolicy {
    /// Checks a policy against the claims and trust stores that there are.
    ///
    /// # Errors
    /// [`PolicyError`] names the entry, the rule and what is wrong.
    pub fn compile(spec: &AttestationPolicySpec, stores: &TrustStores) -> Result<Self, PolicyError> {
        let default = AttestationPolicySpec { accept: vec![AcceptSpec::built_in()] };
        let spec = if spec.accept.is_empty() { &default } else { spec };
        if spec.accept.len() > MAX_ENTRIES {
            return Err(PolicyError::Size);
        }
        let mut digest = Sha256::new();
        let mut entries = Vec::new();
        for (i, accept) in spec.accept.iter().enumerate() {
            if accept.format.is_empty() || accept.require.is_empty() || accept.require.len() > MAX_RULES {
                return Err(PolicyError::Size);
            }
            let formats: Vec<Format> = accept
                .format
                .iter()
                .map(|f| f.parse().map_err(|e| PolicyError::Format(i, e)))
                .collect::<Result<_, _>>()?;
            if let Some(name) = &accept.trust {
                let fits = stores.get(name).is_some_and(|s| formats.contains(&s.format()));
                if !fits {
                    return Err(PolicyError::Trust(i, name.clone()));
                }
            }
            let parse = |(k, text): (usize, &String)| Rule::parse(text).map_err(|e| PolicyError::Rule(i, k, e));
            let rules = accept.require.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
            // Unit separators keep one text from passing for another.
            let texts = accept.format.iter().chain(&accept.trust).chain(&accept.require);
            texts.for_each(|t| digest.update([t.as_bytes(), &[0x1f]].concat()));
            digest.update([0x1e]);
            entries.push(Entry { formats, trust: accept.trust.clone(), rules });
        }
        Ok(Self { entries, sha256: digest.finalize().into() })
    }

    /// The built-in policy: the key is attested, bound to hardware and not exportable.
    ///
    /// # Errors
    /// None: the built-in rules are known to be sound.
    pub fn built_in() -> Result<Self, PolicyError> {
        Self::compile(&AttestationPolicySpec::default(), &TrustStores::new())
    }

    /// SHA-256 of the policy's text.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// Appraises a result.
    pub fn evaluate(&self, result: &AttestationResult, inventory: Inventory<'_>) -> Verdict {
        let mut rules = Vec::new();
        let mut accepted = false;
        for (i, entry) in self.entries.iter().enumerate() {
            let start = rules.len();
            let mut record = |rule: String, holds| rules.push(RuleResult { entry: i, rule, holds });
            record("format".to_owned(), entry.formats.contains(&result.format));
            let path = result.trust.iter().find(|t| entry.trust.as_ref().is_none_or(|name| *name == t.store));
            record("trust".to_owned(), path.is_some());
            for rule in &entry.rules {
                // The anchor is the one in the entry's own store.
                let anchor = path.map(|p| ClaimValue::Digest(p.anchor_sha256));
                let claim = match rule.claim() {
                    ClaimName::TrustAnchor => anchor.as_ref(),
                    other => result.claims.get(other),
                };
                record(rule.text().to_owned(), rule.holds(claim, inventory));
            }
            accepted = rules.iter().skip(start).all(|r| r.holds);
            if accepted {
                break;
            }
        }
        Verdict { accepted, rules, policy_sha256: self.sha256 }
    }
}

impl AcceptSpec {
    fn built_in() -> Self {
        let require = ["key.attested == yes", "key.hardware_bound == yes", "key.exportable == no"];
        Self { format: vec!["tpm2".to_owned()], trust: None, require: require.map(str::to_owned).to_vec() }
    }
}
