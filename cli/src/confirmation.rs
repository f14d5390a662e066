//! Asking before what cannot be undone.

use crate::{
    error::{Exit, Problem},
    terminal,
};
use std::io::{self, BufRead, IsTerminal, Write};

/// The option that answers the question beforehand.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct ConfirmationArgs {
    /// Do not ask; needed where no person sits at a terminal
    #[arg(long, short = 'y')]
    pub yes: bool,
}

impl ConfirmationArgs {
    /// Whether [`Self::demand`] will need a question; what it says may take a request to find out.
    ///
    /// # Errors
    /// A [`Problem`] when there is nobody to ask.
    pub fn must_ask(self) -> Result<bool, Problem> {
        must_ask(self.yes, io::stdin().is_terminal())
    }

    /// Asks on the terminal.
    ///
    /// # Errors
    /// A [`Problem`] when the answer is not yes.
    pub fn demand(question: &str) -> anyhow::Result<()> {
        demand(question, &mut io::stdin().lock(), &mut io::stderr())
    }
}

fn must_ask(yes: bool, terminal: bool) -> Result<bool, Problem> {
    match (yes, terminal) {
        (true, _) => Ok(false),
        (false, true) => Ok(true),
        (false, false) => Err(Problem::usage(
            "this cannot be undone and there is no terminal to ask on",
            "Add --yes if you are sure; nothing was changed.",
        )),
    }
}

fn demand(question: &str, input: &mut impl BufRead, output: &mut impl Write) -> anyhow::Result<()> {
    if terminal::confirm(&terminal::clean(question), input, output)? {
        return Ok(());
    }
    Err(Problem::new(Exit::Failure, "not confirmed", "Nothing was changed; answer y to go on.").into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_asked_and_a_script_must_say_yes() {
        assert_eq!(must_ask(true, true), Ok(false));
        assert_eq!(must_ask(true, false), Ok(false));
        assert_eq!(must_ask(false, true), Ok(true));
        assert_eq!(must_ask(false, false).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn anything_but_yes_stops() {
        assert!(demand("Sure?", &mut &b"y\n"[..], &mut Vec::new()).is_ok());
        let error = demand("Sure?", &mut &b"\n"[..], &mut Vec::new()).unwrap_err();
        assert_eq!(error.downcast_ref::<Problem>().unwrap().exit, Exit::Failure);
    }
}
