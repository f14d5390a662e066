//! What the module did to its process: one line for each fault and each C_Login.
//!
//! ```text
//! 1790000000123 4711 fault C_Sign nth=3 ckr=CKR_DEVICE_ERROR
//! 1790000000124 4711 login user=1 session=2 token=CKR_OK answer=CKR_OK
//! ```
//! The first two words are the time in milliseconds since 1970 and the process. No PIN ever comes here.

use crate::codes::Code;
use crate::rule::{Action, Rule};
use crate::watch::fatal;
use cryptoki_sys::{CK_SESSION_HANDLE, CK_USER_TYPE};
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

/// A fault that was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Milliseconds since 1970.
    pub time: u64,
    /// The process.
    pub process: u32,
    /// The function that was called.
    pub function: String,
    /// What was done to it.
    pub action: Action,
}

/// A call of C_Login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Milliseconds since 1970.
    pub time: u64,
    /// The process.
    pub process: u32,
    /// CKU_SO (0), CKU_USER (1) or CKU_CONTEXT_SPECIFIC (2).
    pub user: u64,
    /// The session's handle.
    pub session: u64,
    /// What the token said; `None` if a fault kept the call from it, so that no attempt was spent.
    pub token: Option<Code>,
    /// What the caller was told.
    pub answer: Code,
}

/// The faults in a log, in order. A line of another kind is none.
pub fn faults(log: &str) -> Vec<Fault> {
    log.lines().filter_map(fault).collect()
}

/// The logins in a log, in order. A line of another kind is none.
pub fn logins(log: &str) -> Vec<Login> {
    log.lines().filter_map(login).collect()
}

fn fault(line: &str) -> Option<Fault> {
    let words: Vec<&str> = line.split(' ').collect();
    let [time, process, "fault", function, _trigger, action] = words[..] else { return None };
    Some(Fault {
        time: time.parse().ok()?,
        process: process.parse().ok()?,
        function: function.to_owned(),
        action: action.parse().ok()?,
    })
}

fn login(line: &str) -> Option<Login> {
    let words: Vec<&str> = line.split(' ').collect();
    let [time, process, "login", user, session, token, answer] = words[..] else { return None };
    let token = match token.strip_prefix("token=")? {
        "none" => None,
        code => Some(code.parse().ok()?),
    };
    Some(Login {
        time: time.parse().ok()?,
        process: process.parse().ok()?,
        user: user.strip_prefix("user=")?.parse().ok()?,
        session: session.strip_prefix("session=")?.parse().ok()?,
        token,
        answer: answer.strip_prefix("answer=")?.parse().ok()?,
    })
}

/// Where the lines go: to a file, or nowhere.
pub(crate) struct Log(pub(crate) Option<PathBuf>);

impl Log {
    /// Before the fault happens: it may be the last thing that the process does.
    pub(crate) fn fault(&self, function: &str, rule: &Rule) {
        self.line(format_args!("fault {function} {} {}", rule.trigger(), rule.action()));
    }

    /// After C_Login.
    pub(crate) fn login(&self, session: CK_SESSION_HANDLE, user: CK_USER_TYPE, token: Option<Code>, answer: Code) {
        let token = token.map_or_else(|| "none".to_owned(), |code| code.to_string());
        self.line(format_args!("login user={user} session={session} token={token} answer={answer}"));
    }

    fn line(&self, event: fmt::Arguments) {
        let Some(path) = &self.0 else { return };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
        let line = format!("{time} {} {event}\n", process::id());
        // One write with O_APPEND: lines of several processes do not mix.
        let written =
            OpenOptions::new().append(true).create(true).open(path).and_then(|mut f| f.write(line.as_bytes()));
        match written {
            Ok(count) if count == line.len() => {}
            Ok(_) => fatal(&format!("{}: the disk is full", path.display())),
            Err(error) => fatal(&format!("{}: {error}", path.display())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log(Some(path.clone()));
        log.fault("C_Sign", &"* once-file=/tmp/x after=0x80000001".parse().unwrap());
        log.login(2, 1, Some(Code(0)), Code(0x30));
        log.login(3, 0, None, Code(0xa0));
        let text = fs::read_to_string(path).unwrap();
        let [fault] = &faults(&text)[..] else { panic!("{text}") };
        assert_eq!((fault.function.as_str(), &fault.action), ("C_Sign", &Action::After(Code(0x8000_0001))));
        assert_eq!(fault.process, process::id());
        let logins = logins(&text);
        assert_eq!((logins[0].token, logins[0].answer, logins[0].session), (Some(Code(0)), Code(0x30), 2));
        assert_eq!((logins[1].token, logins[1].answer, logins[1].user), (None, Code(0xa0), 0));
        assert_eq!(logins.len(), 2);
    }
}
