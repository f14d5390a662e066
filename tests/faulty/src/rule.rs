//! One rule of a plan: `FUNCTION TRIGGER ACTION`.

use crate::codes::{Code, CodeError};
use crate::table::{FUNCTIONS, needs_token, on_session};
use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The longest delay: an hour is longer than any test, and `hang` is there for more.
const MAX_DELAY: u64 = 3_600_000;

/// Which functions a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Each function that the action can be for.
    Any,
    /// One of [`FUNCTIONS`].
    One(&'static str),
}

/// Which of the calls that reach a rule it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Each.
    Always,
    /// The Nth in this process since the rule was read, and no other.
    Nth(NonZeroU64),
    /// The Nth, the 2Nth, and so on.
    Every(NonZeroU64),
    /// The Nth and all after it.
    From(NonZeroU64),
    /// The first in this process since the rule was read.
    Once,
    /// The first over all processes: the one that manages to create this file, whose path is absolute.
    OnceFile(PathBuf),
    /// So many in a thousand, at random.
    Chance(u16),
}

/// What a rule does with a call that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Returns the code; the wrapped module is not asked.
    Return(Code),
    /// Asks the wrapped module, and returns the code instead of its own.
    After(Code),
    /// Waits, then goes on to the rules below.
    Delay(Duration),
    /// Never returns.
    Hang,
    /// The process dies by SIGSEGV.
    Crash,
    /// The process ends with status 3.
    Exit,
    /// Flips a bit of the signature.
    WrongSignature,
    /// Says that the signature is one octet shorter.
    TruncatedSignature,
    /// Fills the signature with random octets.
    GarbageSignature,
    /// Closes every session of this process on every token. A call on a session is then refused with
    /// CKR_SESSION_HANDLE_INVALID; another is forwarded.
    ForgetSessions,
    /// Logs out, then forwards.
    Logout,
    /// Gives the handle of another private key (one with another CKA_ID) for the first that was found.
    SwapKeys,
    /// Gives the first handle that was found twice.
    DoubleKey,
    /// Says that CKA_EXTRACTABLE is true.
    Extractable,
    /// No slots, and CKR_TOKEN_NOT_PRESENT for each call that needs the token.
    Gone,
}

/// Why a line is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Not three words.
    #[error("a rule has three words: function, trigger, action")]
    Words,
    /// Not a function.
    #[error("{0}: not a function of PKCS#11 2.40; write its name, or * for all")]
    Function(String),
    /// Not a trigger.
    #[error(
        "{0}: not a trigger; write always, once, nth=N, every=N, from=N (N from 1), once-file=/PATH or chance=P (0 to 1000)"
    )]
    Trigger(String),
    /// Not an action.
    #[error(
        "{0}: not an action; write ckr=CODE, after=CODE, delay=MILLISECONDS (up to an hour), hang, crash, exit, \
         wrong-signature, truncated-signature, garbage-signature, forget-sessions, logout, swap-keys, double-key, \
         extractable or gone"
    )]
    Action(String),
    /// Not a return code.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The action can do nothing with this function.
    #[error("{action} can do nothing with {function}; a rule without effect would let a test pass for nothing")]
    NoEffect {
        /// The function.
        function: String,
        /// The action.
        action: String,
    },
    /// The file's path would not come back from a plan as it is.
    #[error("{0}: the path of once-file must be absolute, UTF-8, without blanks and #")]
    Path(PathBuf),
}

/// A rule. Its text form is a line of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    target: Target,
    trigger: Trigger,
    action: Action,
}

impl Rule {
    /// A rule for `function`, one of [`FUNCTIONS`] or `*`.
    ///
    /// # Errors
    /// [`RuleError`]: there is no such function, the action can do nothing with it, or a path is unfit.
    pub fn new(function: &str, trigger: Trigger, action: Action) -> Result<Self, RuleError> {
        let named = || FUNCTIONS.iter().copied().find(|name| *name == function);
        let target = match function {
            "*" => Target::Any,
            _ => Target::One(named().ok_or_else(|| RuleError::Function(function.to_owned()))?),
        };
        if let Trigger::OnceFile(path) = &trigger
            && !(path.is_absolute()
                && path.to_str().is_some_and(|text| !text.contains(|c: char| c == '#' || c.is_whitespace())))
        {
            return Err(RuleError::Path(path.clone()));
        }
        let possible = match target {
            Target::Any => true,
            Target::One(name) => action.is_for(name),
        };
        if !possible {
            return Err(RuleError::NoEffect { function: function.to_owned(), action: action.to_string() });
        }
        Ok(Self { target, trigger, action })
    }

    /// Which functions it is for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Which calls it takes.
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// What it does.
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// True when calls of `function` reach this rule.
    pub(crate) fn is_for(&self, function: &str) -> bool {
        match self.target {
            Target::Any => self.action.is_for(function),
            Target::One(name) => name == function,
        }
    }
}

impl Action {
    /// True when it needs the wrapped module's answer.
    pub(crate) fn is_on_answer(&self) -> bool {
        match self {
            Self::After(_)
            | Self::WrongSignature
            | Self::TruncatedSignature
            | Self::GarbageSignature
            | Self::SwapKeys
            | Self::DoubleKey
            | Self::Extractable => true,
            Self::Return(_)
            | Self::Delay(_)
            | Self::Hang
            | Self::Crash
            | Self::Exit
            | Self::ForgetSessions
            | Self::Logout
            | Self::Gone => false,
        }
    }

    /// True when it can do something with a call of `function`.
    fn is_for(&self, function: &str) -> bool {
        match self {
            Self::Return(_) | Self::After(_) | Self::Delay(_) | Self::Hang | Self::Crash | Self::Exit => true,
            // Before these there are no sessions.
            Self::ForgetSessions => !matches!(function, "C_GetFunctionList" | "C_Initialize"),
            Self::WrongSignature | Self::TruncatedSignature | Self::GarbageSignature => {
                matches!(function, "C_Sign" | "C_SignFinal")
            }
            Self::Logout => on_session(function),
            Self::SwapKeys | Self::DoubleKey => function == "C_FindObjects",
            Self::Extractable => function == "C_GetAttributeValue",
            Self::Gone => needs_token(function) || matches!(function, "C_GetSlotList" | "C_GetSlotInfo"),
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(line: &str) -> Result<Self, RuleError> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [function, trigger, action] = words[..] else { return Err(RuleError::Words) };
        Self::new(function, trigger.parse()?, action.parse()?)
    }
}

impl FromStr for Trigger {
    type Err = RuleError;

    fn from_str(word: &str) -> Result<Self, RuleError> {
        let parsed = match word.split_once('=') {
            None if word == "always" => Some(Self::Always),
            None if word == "once" => Some(Self::Once),
            Some(("nth", n)) => n.parse().ok().map(Self::Nth),
            Some(("every", n)) => n.parse().ok().map(Self::Every),
            Some(("from", n)) => n.parse().ok().map(Self::From),
            Some(("once-file", path)) => Some(Self::OnceFile(path.into())),
            Some(("chance", p)) => p.parse().ok().filter(|p| *p <= 1000).map(Self::Chance),
            _ => None,
        };
        parsed.ok_or_else(|| RuleError::Trigger(word.to_owned()))
    }
}

impl FromStr for Action {
    type Err = RuleError;

    fn from_str(word: &str) -> Result<Self, RuleError> {
        Ok(match word.split_once('=') {
            Some(("ckr", code)) => Self::Return(code.parse()?),
            Some(("after", code)) => Self::After(code.parse()?),
            Some(("delay", time)) => match time.parse() {
                Ok(milliseconds @ 0..=MAX_DELAY) => Self::Delay(Duration::from_millis(milliseconds)),
                _ => return Err(RuleError::Action(word.to_owned())),
            },
            _ => match word {
                "hang" => Self::Hang,
                "crash" => Self::Crash,
                "exit" => Self::Exit,
                "wrong-signature" => Self::WrongSignature,
                "truncated-signature" => Self::TruncatedSignature,
                "garbage-signature" => Self::GarbageSignature,
                "forget-sessions" => Self::ForgetSessions,
                "logout" => Self::Logout,
                "swap-keys" => Self::SwapKeys,
                "double-key" => Self::DoubleKey,
                "extractable" => Self::Extractable,
                "gone" => Self::Gone,
                _ => return Err(RuleError::Action(word.to_owned())),
            },
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let function = match self.target {
            Target::Any => "*",
            Target::One(name) => name,
        };
        write!(f, "{function} {} {}", self.trigger, self.action)
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Nth(n) => write!(f, "nth={n}"),
            Self::Every(n) => write!(f, "every={n}"),
            Self::From(n) => write!(f, "from={n}"),
            Self::Once => f.write_str("once"),
            Self::OnceFile(path) => write!(f, "once-file={}", path.display()),
            Self::Chance(p) => write!(f, "chance={p}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Return(code) => write!(f, "ckr={code}"),
            Self::After(code) => write!(f, "after={code}"),
            Self::Delay(time) => write!(f, "delay={}", time.as_millis()),
            Self::Hang => f.write_str("hang"),
            Self::Crash => f.write_str("crash"),
            Self::Exit => f.write_str("exit"),
            Self::WrongSignature => f.write_str("wrong-signature"),
            Self::TruncatedSignature => f.write_str("truncated-signature"),
            Self::GarbageSignature => f.write_str("garbage-signature"),
            Self::ForgetSessions => f.write_str("forget-sessions"),
            Self::Logout => f.write_str("logout"),
            Self::SwapKeys => f.write_str("swap-keys"),
            Self::DoubleKey => f.write_str("double-key"),
            Self::Extractable => f.write_str("extractable"),
            Self::Gone => f.write_str("gone"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_rule_comes_back_from_its_text() {
        let triggers =
            ["always", "once", "nth=1", "every=7", "from=3", "once-file=/tmp/first", "chance=0", "chance=1000"];
        let actions = [
            "ckr=CKR_DEVICE_ERROR",
            "ckr=0x80000001",
            "after=CKR_OK",
            "delay=0",
            "delay=3600000",
            "hang",
            "crash",
            "exit",
            "wrong-signature",
            "truncated-signature",
            "garbage-signature",
            "forget-sessions",
            "logout",
            "swap-keys",
            "double-key",
            "extractable",
            "gone",
        ];
        for (trigger, action) in triggers.iter().flat_map(|t| actions.iter().map(move |a| (t, a))) {
            let line = format!("* {trigger} {action}");
            assert_eq!(line.parse::<Rule>().unwrap().to_string(), line);
        }
        for function in FUNCTIONS {
            assert_eq!(format!("{function} once hang").parse::<Rule>().unwrap().target(), Target::One(function));
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        let lines = [
            "",
            "C_Sign",
            "C_Sign once",
            "C_Sign once hang now",
            "C_Nothing once hang",
            "c_sign once hang",
            "C_Sign sometimes hang",
            "C_Sign nth=0 hang",
            "C_Sign nth=-1 hang",
            "C_Sign every= hang",
            "C_Sign chance=1001 hang",
            "C_Sign once-file=relative hang",
            "C_Sign once-file= hang",
            "C_Sign once=1 hang",
            "C_Sign once ckr",
            "C_Sign once ckr=CKR_NOTHING",
            "C_Sign once delay=3600001",
            "C_Sign once delay=1s",
            "C_Sign once explode",
            "C_Sign once hang=1",
        ];
        for line in lines {
            assert!(line.parse::<Rule>().is_err(), "{line}");
        }
    }

    #[test]
    fn an_action_that_can_do_nothing_is_refused() {
        for line in [
            "C_Verify once wrong-signature",
            "C_SignInit once truncated-signature",
            "C_Digest once garbage-signature",
            "C_Initialize once logout",
            "C_Initialize once forget-sessions",
            "C_FindObjectsInit once swap-keys",
            "C_Sign once double-key",
            "C_Sign once extractable",
            "C_GetInfo once gone",
        ] {
            assert!(matches!(line.parse::<Rule>(), Err(RuleError::NoEffect { .. })), "{line}");
        }
        let all: Rule = "* once wrong-signature".parse().unwrap();
        assert!(all.is_for("C_Sign") && !all.is_for("C_Verify"));
    }
}
