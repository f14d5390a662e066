//! How far a long verb is.

use crate::terminal;
use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// A line on the terminal that says how far it is; silent where standard error is a file.
pub struct Meter {
    terminal: bool,
    last: Option<Instant>,
    shown: bool,
}

impl Meter {
    /// Shows nothing yet.
    pub fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), last: None, shown: false }
    }

    /// Replaces the line, a few times a second at most.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        let due = self.last.is_none_or(|last| last.elapsed() >= Duration::from_millis(200));
        if self.terminal && due {
            // A terminal that went away is no reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[K{}", terminal::clean(&text()));
            self.last = Some(Instant::now());
            self.shown = true;
        }
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
            self.shown = false;
        }
    }
}
