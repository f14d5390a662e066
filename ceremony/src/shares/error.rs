//! Why a share, or a set of them, was refused.

/// Why a share, or a set of them, was refused. No message contains anything of a share's secret part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// The threshold cannot be.
    #[error("threshold: {given} is not possible; 2 to 16 custodians can be needed")]
    Threshold {
        /// What was given.
        given: u8,
    },
    /// The number of shares cannot be.
    #[error("shares: {given} is not possible; make at least as many as are needed ({threshold}), and at most 16")]
    Count {
        /// What was given.
        given: u8,
        /// How many are needed.
        threshold: u8,
    },
    /// The PIN cannot be split.
    #[error("PIN: it {0}; give the token's user PIN, 1 to 255 octets")]
    Pin(&'static str),
    /// Not the text of a share.
    #[error("share: {field} {problem}; type it again as it stands on the paper, from SWPIN1 to the last digit")]
    Syntax {
        /// The part of the text.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A share of a program that is newer than this one.
    #[error("share: it has format {0}, which this program does not know; use the program that made it, or a newer one")]
    Version(String),
    /// The checksum is not that of the text.
    #[error("share {index}: the checksum is wrong: a digit was mistyped or misread; compare it group by group")]
    Checksum {
        /// The share's number as it was typed.
        index: u8,
    },
    /// A share of another set.
    #[error("share {index} belongs to set {set}, the first one to set {wanted}; bring shares of one set together")]
    OtherSet {
        /// The share's number.
        index: u8,
        /// Its set.
        set: String,
        /// The set of the first share.
        wanted: String,
    },
    /// The same share twice.
    #[error("share {index} was given twice; each custodian gives an own one")]
    Twice {
        /// Its number.
        index: u8,
    },
    /// Not enough shares.
    #[error("{given} shares are not enough; {needed} are needed")]
    TooFew {
        /// How many are needed.
        needed: u8,
        /// How many there are.
        given: u8,
    },
    /// Together they do not give what was split.
    #[error("the shares do not give the PIN that was split: one of them was altered; try another custodian's")]
    Disagree,
    /// The library refused what passed our own checks.
    #[error("the shares cannot be computed: {0}; report this")]
    Library(String),
}
