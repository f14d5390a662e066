//! The terminal: what may be written to it, in which colour, and a question with its answer.

use std::{
    env,
    io::{self, BufRead, IsTerminal, Write},
};

/// The text without anything that steers a terminal: control and bidirectional-override characters are escaped.
///
/// What a server answers contains names that strangers chose.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let steers =
            c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if steers { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// Whether standard error takes colour: a terminal, and `NO_COLOR` (no-color.org) unset or empty.
pub fn stderr_has_colour() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Asks a question; only "y" or "yes" means yes.
///
/// # Errors
/// Those of reading and writing.
pub fn confirm(question: &str, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<bool> {
    write!(output, "{question} [y/N] ")?;
    output.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(clean("CN=Gerät 7"), "CN=Gerät 7");
        assert_eq!(clean("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\u{a}c");
        assert_eq!(clean("x\u{202e}y"), "x\\u{202e}y");
    }

    #[test]
    fn only_yes_is_yes() {
        for (answer, expected) in
            [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("no\n", false), ("yesterday\n", false)]
        {
            let mut asked = Vec::new();
            assert_eq!(confirm("Revoke?", &mut answer.as_bytes(), &mut asked).unwrap(), expected, "{answer:?}");
            assert_eq!(asked, b"Revoke? [y/N] ");
        }
    }
}
