//! One rule of a policy: a claim, a test, values of the claim's type.
//!
//! ```text
//! rule  = claim ("==" | "!=") value | claim "in" "[" value *("," value) "]" | claim "startswith" value
//!       | claim "in" "inventory"
//! value = 1*(ALPHA / DIGIT / "_" / "-" / ".") | DQUOTE *(any character but DQUOTE and controls) DQUOTE
//! ```

use super::{ClaimKind, ClaimName, ClaimValue, Inventory, UnknownClaim};
use crate::attestation::claims::Ternary;

/// The longest rule, in octets.
pub const MAX_RULE: usize = 2048;
/// The most values in a list.
pub const MAX_VALUES: usize = 64;

/// Why a rule cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Too long, or too many values.
    #[error("a rule has at most {MAX_RULE} octets and {MAX_VALUES} values")]
    TooLong,
    /// Not of a known form.
    #[error("expected {0}")]
    Syntax(&'static str),
    /// No such claim.
    #[error(transparent)]
    Claim(#[from] UnknownClaim),
    /// A value of another type than the claim's.
    #[error("{value:?} is no value for {claim}: {expected}")]
    Type {
        /// The claim.
        claim: ClaimName,
        /// The value.
        value: String,
        /// What would be one.
        expected: &'static str,
    },
    /// A test that makes no sense for the claim's type.
    #[error("{0} cannot be tested like this")]
    Test(ClaimName),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    OneOf(Vec<ClaimValue>),
    NotEqual(ClaimValue),
    StartsWith(String),
    InInventory,
}

/// A rule that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    text: String,
    claim: ClaimName,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Equal,
    NotEqual,
    Open,
    Close,
    Comma,
}

impl Rule {
    pub(super) fn parse(text: &str) -> Result<Self, RuleError> {
        if text.len() > MAX_RULE {
            return Err(RuleError::TooLong);
        }
        let tokens = tokens(text)?;
        let mut rest = tokens.into_iter();
        let Some(Token::Word(claim)) = rest.next() else { return Err(RuleError::Syntax("a claim")) };
        let claim: ClaimName = claim.parse()?;
        let operator = rest.next();
        let operands: Vec<Token> = rest.collect();
        let test = match (operator, operands.as_slice()) {
            (Some(Token::Equal), [value]) => Test::OneOf(vec![typed(claim, value)?]),
            (Some(Token::NotEqual), [value]) => Test::NotEqual(typed(claim, value)?),
            (Some(Token::Word(op)), [Token::Word(list)]) if op == "in" && list == "inventory" => {
                if claim != ClaimName::DeviceEkSha256 {
                    return Err(RuleError::Test(claim));
                }
                Test::InInventory
            }
            (Some(Token::Word(op)), [Token::Open, list @ .., Token::Close]) if op == "in" => {
                Test::OneOf(values(claim, list)?)
            }
            (Some(Token::Word(op)), [value]) if op == "startswith" => match typed(claim, value)? {
                ClaimValue::Text(prefix) if !prefix.is_empty() => Test::StartsWith(prefix),
                _ => return Err(RuleError::Test(claim)),
            },
            (Some(Token::Equal | Token::NotEqual), _) => return Err(RuleError::Syntax("one value")),
            _ => return Err(RuleError::Syntax("==, !=, in [...], in inventory or startswith after the claim")),
        };
        Ok(Self { text: text.to_owned(), claim, test })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn claim(&self) -> ClaimName {
        self.claim
    }

    /// Whether the rule holds; never for a claim that is absent.
    pub(super) fn holds(&self, claim: Option<&ClaimValue>, inventory: Inventory<'_>) -> bool {
        let Some(value) = claim.filter(|v| v.kind() == self.claim.kind()) else { return false };
        match (&self.test, value) {
            (Test::OneOf(values), value) => values.contains(value),
            (Test::NotEqual(other), value) => value != other,
            (Test::StartsWith(prefix), ClaimValue::Text(text)) => text.starts_with(prefix),
            (Test::InInventory, ClaimValue::Digest(digest)) => inventory(digest),
            _ => false,
        }
    }
}

fn values(claim: ClaimName, list: &[Token]) -> Result<Vec<ClaimValue>, RuleError> {
    if list.len() > 2 * MAX_VALUES - 1 {
        return Err(RuleError::TooLong);
    }
    let mut values = Vec::new();
    for (i, item) in list.split(|t| *t == Token::Comma).enumerate() {
        match item {
            [value] => values.push(typed(claim, value)?),
            _ if i == 0 => return Err(RuleError::Syntax("at least one value in the list")),
            _ => return Err(RuleError::Syntax("one value between commas")),
        }
    }
    Ok(values)
}

fn typed(claim: ClaimName, token: &Token) -> Result<ClaimValue, RuleError> {
    let (text, quoted) = match token {
        Token::Word(text) => (text, false),
        Token::Quoted(text) => (text, true),
        _ => return Err(RuleError::Syntax("a value")),
    };
    let wrong = |expected| RuleError::Type { claim, value: text.clone(), expected };
    match claim.kind() {
        ClaimKind::Ternary => match text.as_str() {
            "yes" => Ok(ClaimValue::Ternary(Ternary::Yes)),
            "no" => Ok(ClaimValue::Ternary(Ternary::No)),
            "unknown" => Ok(ClaimValue::Ternary(Ternary::Unknown)),
            _ => Err(wrong("yes, no or unknown")),
        },
        ClaimKind::Text if claim == ClaimName::FreshKind && text != "nonce" => Err(wrong("nonce")),
        ClaimKind::Text if claim != ClaimName::FreshKind && !quoted => Err(wrong("a text in double quotes")),
        ClaimKind::Text => Ok(ClaimValue::Text(text.clone())),
        ClaimKind::Digest => {
            let mut digest = [0; 32];
            hex::decode_to_slice(text, &mut digest).map_err(|_| wrong("64 hexadecimal digits"))?;
            Ok(ClaimValue::Digest(digest))
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, RuleError> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(' ');
    while let Some(first) = rest.chars().next() {
        let (token, after) = if let Some(after) = rest.strip_prefix("==") {
            (Token::Equal, after)
        } else if let Some(after) = rest.strip_prefix("!=") {
            (Token::NotEqual, after)
        } else if let Some(after) = rest.strip_prefix('[') {
            (Token::Open, after)
        } else if let Some(after) = rest.strip_prefix(']') {
            (Token::Close, after)
        } else if let Some(after) = rest.strip_prefix(',') {
            (Token::Comma, after)
        } else if let Some(after) = rest.strip_prefix('"') {
            let (inside, after) = after.split_once('"').ok_or(RuleError::Syntax("a closing double quote"))?;
            if inside.chars().any(char::is_control) {
                return Err(RuleError::Syntax("text without control characters"));
            }
            (Token::Quoted(inside.to_owned()), after)
        } else if word(first) {
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            (Token::Word(name.to_owned()), after)
        } else {
            return Err(RuleError::Syntax("a claim, a value or an operator"));
        };
        tokens.push(token);
        rest = after.trim_start_matches(' ');
    }
    Ok(tokens)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holds(rule: &str, value: &ClaimValue) -> bool {
        Rule::parse(rule).unwrap().holds(Some(value), &|d| *d == [7; 32])
    }

    #[test]
    fn rules_mean_what_they_say() {
        let yes = ClaimValue::Ternary(Ternary::Yes);
        assert!(holds("key.hardware_bound == yes", &yes));
        assert!(!holds("key.hardware_bound == no", &yes));
        assert!(holds("key.hardware_bound != no", &yes));
        assert!(!holds("key.hardware_bound==unknown", &yes));
        let stm = ClaimValue::Text("STM".into());
        assert!(holds(r#"hw.vendor in ["IFX", "STM"]"#, &stm));
        assert!(!holds(r#"hw.vendor in ["IFX","ST"]"#, &stm));
        assert!(holds(r#"hw.model startswith "ST""#, &stm));
        assert!(!holds(r#"hw.model startswith "TM""#, &stm));
        assert!(holds("device.id.ek_sha256 in inventory", &ClaimValue::Digest([7; 32])));
        assert!(!holds("device.id.ek_sha256 in inventory", &ClaimValue::Digest([8; 32])));
        assert!(holds(&format!("trust.anchor == \"{}\"", "07".repeat(32)), &ClaimValue::Digest([7; 32])));
        assert!(holds("fresh.kind in [nonce]", &ClaimValue::Text("nonce".into())));
    }

    #[test]
    fn an_absent_claim_satisfies_nothing() {
        for rule in
            ["key.attested == yes", "key.attested != no", "hw.vendor != \"STM\"", "device.id.ek_sha256 in inventory"]
        {
            assert!(!Rule::parse(rule).unwrap().holds(None, &|_| true), "{rule}");
        }
        let mistyped = ClaimValue::Text("x".into());
        assert!(!Rule::parse("key.attested != no").unwrap().holds(Some(&mistyped), &|_| true));
    }

    #[test]
    fn mistakes_are_load_errors() {
        assert!(matches!(Rule::parse("key.atested == yes"), Err(RuleError::Claim(_))));
        assert!(matches!(Rule::parse("key.attested == maybe"), Err(RuleError::Type { .. })));
        assert!(matches!(Rule::parse("hw.vendor == STM"), Err(RuleError::Type { .. })));
        assert!(matches!(Rule::parse("trust.anchor == \"abc\""), Err(RuleError::Type { .. })));
        assert!(matches!(Rule::parse("fresh.kind == none"), Err(RuleError::Type { .. })));
        assert!(matches!(Rule::parse("hw.vendor in inventory"), Err(RuleError::Test(_))));
        assert!(matches!(Rule::parse("key.attested startswith yes"), Err(RuleError::Test(_))));
        assert!(matches!(Rule::parse("hw.vendor startswith \"\""), Err(RuleError::Test(_))));
        let syntax = [
            "",
            "key.attested",
            "key.attested ==",
            "key.attested == yes yes",
            "key.attested = yes",
            "== yes",
            "hw.vendor in []",
            "hw.vendor in [\"a\",]",
            "hw.vendor in [\"a\" \"b\"]",
            "hw.vendor in \"a\"",
            "hw.vendor == \"a",
            "hw.vendor == \"a\" || key.attested == yes",
            "key.attested == yes;",
        ];
        for rule in syntax {
            assert!(matches!(Rule::parse(rule), Err(RuleError::Syntax(_))), "{rule:?}");
        }
        assert_eq!(Rule::parse(&" ".repeat(MAX_RULE + 1)), Err(RuleError::TooLong));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,80}") {
            if let Ok(rule) = Rule::parse(&text) {
                prop_assert!(!rule.holds(None, &|_| true));
            }
        }

        #[test]
        fn lists_hold_exactly_their_members(
            list in proptest::collection::vec("[A-Z0-9 ]{1,6}", 1..10),
            probe in "[A-Z0-9 ]{1,6}",
        ) {
            let quoted: Vec<String> = list.iter().map(|v| format!("\"{v}\"")).collect();
            let rule = Rule::parse(&format!("hw.vendor in [{}]", quoted.join(", "))).unwrap();
            for member in &list {
                prop_assert!(rule.holds(Some(&ClaimValue::Text(member.clone())), &|_| false));
            }
            prop_assert_eq!(rule.holds(Some(&ClaimValue::Text(probe.clone())), &|_| false), list.contains(&probe));
        }
    }
}
