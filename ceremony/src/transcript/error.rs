//! Why a transcript was refused.

/// Why a transcript was refused. Lines count from 1, as editors do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranscriptError {
    /// Nothing in it, or too much.
    #[error("the file is empty or larger than 4 MiB; give the transcript of a ceremony")]
    Size,
    /// A line that is no line of a transcript.
    #[error("line {line}: it is not a line of a transcript: {problem}")]
    Syntax {
        /// Which.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A line does not follow the one before.
    #[error("line {line}: it does not follow the line before; a line was changed, taken out or put in there")]
    Chain {
        /// Which.
        line: usize,
    },
    /// A step at a place where it cannot be.
    #[error("line {line}: '{step}' cannot stand here")]
    Order {
        /// Which.
        line: usize,
        /// The step.
        step: String,
    },
    /// A line lacks a fact, or has one of another kind.
    #[error("line {line}: {field} is missing or not what it must be")]
    Fact {
        /// Which.
        line: usize,
        /// The fact.
        field: &'static str,
    },
    /// A closed transcript without a step that it must have.
    #[error("there is no line '{0}'; this is not the transcript of a whole ceremony")]
    Missing(&'static str),
    /// The root key is not what it must be.
    #[error("the root key's attribute {0} is not as it must be for a key that never leaves its token")]
    Attribute(&'static str),
    /// The root certificate is none, or not for the recorded key.
    #[error("the root certificate {0}")]
    Root(&'static str),
    /// A certificate that the root did not sign.
    #[error("line {line}: the root did not sign this certificate")]
    Issued {
        /// Which.
        line: usize,
    },
    /// The seal is not the root key's.
    #[error("the seal does not verify with the root's key; the transcript was changed or sealed by another key")]
    Seal,
    /// The encoder refused.
    #[error("the line cannot be written: {0}")]
    Encoding(String),
}
