//! Questions to the people at the ceremony, or to a file for a rehearsal.

use crate::{error::Problem, files, terminal};
use anyhow::{Result, bail};
use std::{
    collections::BTreeMap,
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
};

/// The longest answer, in octets; names are shorter.
const ANSWER_MOST: usize = 200;

/// Who answers.
#[derive(Debug)]
pub enum Dialog {
    /// People at the terminal.
    Typed,
    /// A file: question to answer.
    Scripted(BTreeMap<String, String>),
}

impl Dialog {
    /// From `--answers`, or people.
    ///
    /// # Errors
    /// A [`Problem`] that names the file, or when nobody can be asked.
    pub fn new(answers: Option<&Path>) -> Result<Self> {
        let Some(path) = answers else {
            if !io::stdin().is_terminal() {
                let what = "a ceremony is led by people, and there is no terminal";
                return Err(Problem::usage(what, "Run it on a terminal, or rehearse it with --answers.").into());
            }
            return Ok(Self::Typed);
        };
        let octets = files::read(path, super::script::SCRIPT_MOST)?;
        let answers = toml::from_str(std::str::from_utf8(&octets).unwrap_or_default());
        let wrong =
            |e: toml::de::Error| Problem::usage(format!("{}: {e}", path.display()), "Write QUESTION = \"answer\".");
        Ok(Self::Scripted(answers.map_err(wrong)?))
    }

    /// What the transcript says about it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Typed => "typed",
            Self::Scripted(_) => "scripted",
        }
    }

    /// Tells everybody something.
    pub fn say(&self, text: &str) {
        eprintln!("{}", text.lines().map(terminal::clean).collect::<Vec<_>>().join("\n"));
    }

    /// Goes on only after "yes".
    ///
    /// # Errors
    /// Any other answer ends the ceremony.
    pub fn confirm(&self, id: &str, question: &str) -> Result<()> {
        let answer = self.answer(id, &format!("{question} [yes/no]"))?;
        if answer == "yes" {
            return Ok(());
        }
        bail!("the answer to '{id}' was not yes");
    }

    /// A name.
    ///
    /// # Errors
    /// An empty answer ends the ceremony.
    pub fn name(&self, id: &str, question: &str) -> Result<String> {
        let answer = self.answer(id, question)?;
        if answer.is_empty() {
            bail!("'{id}' was not answered");
        }
        Ok(answer)
    }

    fn answer(&self, id: &str, question: &str) -> Result<String> {
        let shown = terminal::clean(question);
        let given = match self {
            Self::Scripted(answers) => {
                let Some(answer) = answers.get(id) else { bail!("the answers have none for '{id}'") };
                eprintln!("  {shown}: {}", terminal::clean(answer));
                answer.clone()
            }
            Self::Typed => {
                write!(io::stderr(), "  {shown}: ")?;
                let mut line = String::new();
                if io::stdin().lock().read_line(&mut line)? == 0 {
                    bail!("the terminal was closed at '{id}'");
                }
                line
            }
        };
        if given.len() > ANSWER_MOST {
            bail!("the answer to '{id}' is too long");
        }
        Ok(given.trim().to_owned())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn only_yes_goes_on_and_a_missing_answer_is_named() {
        let answers = [("clock", "yes"), ("token", "Yes, I think"), ("long", &"x".repeat(300)), ("empty", " ")];
        let dialog = Dialog::Scripted(answers.map(|(id, text)| (id.to_owned(), text.to_owned())).into());
        dialog.confirm("clock", "?").unwrap();
        for id in ["token", "long", "nothing"] {
            assert!(dialog.confirm(id, "?").unwrap_err().to_string().contains(id));
        }
        assert!(dialog.name("empty", "?").is_err());
    }
}
