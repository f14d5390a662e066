//! A plan: rules in the order in which a call meets them.

use crate::rule::{Rule, RuleError};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The largest plan that the module reads: some thousand rules; a test has a handful.
pub(crate) const MAX_PLAN: u64 = 64 * 1024;

/// Why a text is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number} of the plan, `{line}`: {error}")]
pub struct PlanError {
    /// The line's number, from 1.
    pub number: usize,
    /// The line.
    pub line: String,
    /// What is wrong.
    pub error: RuleError,
}

/// Why a plan could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: the plan cannot be written: {error}")]
pub struct WriteError {
    /// Where to.
    pub path: PathBuf,
    /// What the system says.
    pub error: io::Error,
}

/// Rules. A call goes through them from the first to the last; a rule that fires takes it, and those below neither see
/// nor count it. Only a delay lets it go on. Actions on the answer come in a second passage, after the wrapped module
/// has been asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub rules: Vec<Rule>,
}

impl Plan {
    /// Puts the plan at `path`, whole or not at all, also where a module is reading it. Each rule starts counting anew.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, path: &Path) -> Result<(), WriteError> {
        let failed = |error| WriteError { path: path.to_owned(), error };
        let dir = path.parent().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let text = self.to_string();
        if text.len() as u64 > MAX_PLAN {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.persist(path).map_err(|refused| failed(refused.error))?;
        Ok(())
    }
}

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.split_once('#').map_or(line, |(content, _)| content);
            if !content.trim().is_empty() {
                let failed = |error| PlanError { number: index + 1, line: line.to_owned(), error };
                rules.push(content.parse().map_err(failed)?);
            }
        }
        Ok(Self { rules })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rules.iter().try_for_each(|rule| writeln!(f, "{rule}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn comments_and_blank_lines_are_no_rules() {
        let plan: Plan = "# first\n\n  C_Sign once hang # why\n\t\n* always delay=1\n".parse().unwrap();
        assert_eq!(plan.to_string(), "C_Sign once hang\n* always delay=1\n");
        assert_eq!("".parse::<Plan>().unwrap(), Plan::default());
    }

    #[test]
    fn the_error_names_the_line() {
        let error = "* always delay=1\nC_Sign once\n".parse::<Plan>().unwrap_err();
        assert_eq!((error.number, error.line.as_str()), (2, "C_Sign once"));
        assert!(error.to_string().contains("three words"), "{error}");
    }

    #[test]
    fn a_written_plan_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan");
        for text in ["C_Sign once hang\n", "", "* always gone\n"] {
            text.parse::<Plan>().unwrap().write(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = Plan::default().write(&dir.path().join("absent/plan")).unwrap_err();
        assert!(error.to_string().contains("absent/plan"), "{error}");
    }
}
