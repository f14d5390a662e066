//! The protocol's enumerations as words: on the command line with dashes, in JSON as in the proto files without prefix.

use clap::ValueEnum;
use proto::v1;

/// A reason for a revocation (RFC 5280 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reason {
    /// No reason is given
    Unspecified,
    /// The private key is known or suspected to be compromised
    #[value(alias = "key_compromise", alias = "keyCompromise")]
    KeyCompromise,
    /// The name or affiliation in the certificate is no longer right
    #[value(alias = "affiliation_changed", alias = "affiliationChanged")]
    AffiliationChanged,
    /// A newer certificate has taken over
    Superseded,
    /// The device has been taken out of service
    #[value(alias = "cessation_of_operation", alias = "cessationOfOperation")]
    CessationOfOperation,
    /// A privilege stated in the certificate was withdrawn
    #[value(alias = "privilege_withdrawn", alias = "privilegeWithdrawn")]
    PrivilegeWithdrawn,
}

impl From<Reason> for v1::RevocationReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Unspecified => Self::Unspecified,
            Reason::KeyCompromise => Self::KeyCompromise,
            Reason::AffiliationChanged => Self::AffiliationChanged,
            Reason::Superseded => Self::Superseded,
            Reason::CessationOfOperation => Self::CessationOfOperation,
            Reason::PrivilegeWithdrawn => Self::PrivilegeWithdrawn,
        }
    }
}

/// A state to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    // Issued, not confirmed or used yet
    Issued,
    // Confirmed or used
    Installed,
    // Revoked
    Revoked,
}

impl From<State> for v1::CertificateState {
    fn from(state: State) -> Self {
        match state {
            State::Issued => Self::Issued,
            State::Installed => Self::Installed,
            State::Revoked => Self::Revoked,
        }
    }
}

/// A role that a principal can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrincipalRole {
    /// Manages principals, and does everything an operator does
    Admin,
    /// Revokes certificates, makes enrollment tokens, reads the inventory
    Operator,
    /// A station of a production line: enrolls devices
    Station,
    /// Reads everything, changes nothing
    Auditor,
}

impl From<PrincipalRole> for v1::Role {
    fn from(role: PrincipalRole) -> Self {
        match role {
            PrincipalRole::Admin => Self::Admin,
            PrincipalRole::Operator => Self::Operator,
            PrincipalRole::Station => Self::Station,
            PrincipalRole::Auditor => Self::Auditor,
        }
    }
}

/// The word for a number of `v1::RevocationReason`.
pub fn reason(number: i32) -> String {
    word(v1::RevocationReason::try_from(number).map(|v| v.as_str_name()), "REVOCATION_REASON_", number)
}

/// The word for a number of `v1::CertificateState`.
pub fn certificate_state(number: i32) -> String {
    word(v1::CertificateState::try_from(number).map(|v| v.as_str_name()), "CERTIFICATE_STATE_", number)
}

/// The word for a number of `v1::IssuerState`.
pub fn issuer_state(number: i32) -> String {
    word(v1::IssuerState::try_from(number).map(|v| v.as_str_name()), "ISSUER_STATE_", number)
}

/// The word for a number of `v1::Role`.
pub fn role(number: i32) -> String {
    word(v1::Role::try_from(number).map(|v| v.as_str_name()), "ROLE_", number)
}

/// The word for a number of `v1::Status`.
pub fn status(number: i32) -> String {
    word(v1::Status::try_from(number).map(|v| v.as_str_name()), "STATUS_", number)
}

/// A newer server may use numbers that this client has no word for.
fn word<E>(name: Result<&'static str, E>, prefix: &str, number: i32) -> String {
    match name {
        Ok(name) => name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase(),
        Err(_) => format!("unknown_{number}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_json_says_the_command_line_understands() {
        for value in Reason::value_variants() {
            let word = reason(v1::RevocationReason::from(*value) as i32);
            assert_eq!(Reason::from_str(&word, false).unwrap(), *value);
        }
        for value in State::value_variants() {
            let word = certificate_state(v1::CertificateState::from(*value) as i32);
            assert_eq!(State::from_str(&word, false).unwrap(), *value);
        }
        for value in PrincipalRole::value_variants() {
            assert_eq!(PrincipalRole::from_str(&role(v1::Role::from(*value) as i32), false).unwrap(), *value);
        }
        assert_eq!(Reason::from_str("keyCompromise", false).unwrap(), Reason::KeyCompromise);
    }

    #[test]
    fn an_unknown_number_is_said_to_be_one() {
        assert_eq!(reason(2), "unknown_2");
        assert_eq!(issuer_state(3), "draining");
        assert_eq!(status(1), "good");
    }
}
