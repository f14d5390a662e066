//! One failure type for the whole edge, and the one place where failures become gRPC status.

use std::{fmt, time::Duration};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every ErrorInfo.
pub const DOMAIN: &str = "sealwright.v1";

/// Why a request was refused: a code and reason for programs, a sentence for people.
#[derive(Clone, Debug)]
pub struct Failure {
    code: Code,
    reason: &'static str,
    message: String,
    field: Option<String>,
    retry: Option<Duration>,
}

impl Failure {
    /// A failure with a stable reason and a sentence that says what to do.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), field: None, retry: None }
    }

    /// Bad input: names the field.
    pub fn field(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(Code::InvalidArgument, reason, message) }
    }

    /// No such object, or one of another tenant: the answer is the same.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, "NOT_FOUND", format!("there is no such {what} in this tenant"))
    }

    /// Not allowed.
    pub fn denied(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, reason, message)
    }

    /// Something of ours is at fault; the details are in the log, not in the answer.
    pub fn internal(cause: impl fmt::Display) -> Self {
        tracing::error!(%cause, "internal failure");
        Self::new(Code::Internal, "INTERNAL", "the service failed; its log says why")
    }

    /// The same request may succeed after `delay`.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry = Some(delay);
        self
    }

    /// Names the field at fault.
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The stable reason.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// As gRPC status with google.rpc details; counts the refusal.
    pub fn into_status(self, rpc: &'static str) -> Status {
        metrics::counter!("sealwright_refused_total", "rpc" => rpc, "reason" => self.reason).increment(1);
        tracing::info!(rpc, reason = self.reason, field = self.field.as_deref(), message = %self.message, "refused");
        let mut details = ErrorDetails::with_error_info(self.reason, DOMAIN, [("rpc".to_owned(), rpc.to_owned())]);
        if let Some(field) = self.field {
            details.add_bad_request_violation(field, self.message.clone());
        }
        if self.retry.is_some() {
            details.set_retry_info(self.retry);
        }
        Status::with_error_details(self.code, self.message, details)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Failure {}

impl From<store::StoreError> for Failure {
    /// The one mapping from the store's errors to the edge.
    fn from(error: store::StoreError) -> Self {
        use store::{DeviceConflict as D, StoreError as E};
        let message = error.to_string();
        let retry = error.retry_after();
        let failure = match error {
            E::NotFound(what) => Self::not_found(what),
            E::AlreadyExists(_) => Self::new(Code::AlreadyExists, "ALREADY_EXISTS", message),
            E::IdempotencyConflict => Self::new(
                Code::AlreadyExists,
                "IDEMPOTENCY_CONFLICT",
                "this idempotency key was used for a different request; use a new key for a new request",
            )
            .at("idempotency_key"),
            E::TokenUnknown => Self::new(
                Code::Unauthenticated,
                "TOKEN_UNKNOWN",
                "this enrollment token is unknown, or not for this profile",
            )
            .at("enrollment_token"),
            E::TokenUsed => Self::new(
                Code::Unauthenticated,
                "TOKEN_USED",
                "this enrollment token has been used; ask the operator for a new one",
            )
            .at("enrollment_token"),
            E::TokenExpired => Self::new(
                Code::Unauthenticated,
                "TOKEN_EXPIRED",
                "this enrollment token has expired; ask the operator for a new one",
            )
            .at("enrollment_token"),
            E::DeviceConflict(conflict) => Self::new(
                Code::AlreadyExists,
                match conflict {
                    D::OtherAnchor => "DEVICE_BOUND_ELSEWHERE",
                    D::AnchorInUse => "ANCHOR_IN_USE",
                    D::DeviceExists => "DEVICE_EXISTS",
                },
                message,
            )
            .at("device"),
            E::KeyInUse => Self::new(
                Code::AlreadyExists,
                "KEY_IN_USE",
                "this public key belongs to another holder; make a new key",
            )
            .at("csr.subject_public_key"),
            E::DeviceFull => Self::new(Code::FailedPrecondition, "TOO_MANY_CERTIFICATES", message).at("device"),
            E::KeyCompromised => Self::new(
                Code::FailedPrecondition,
                "KEY_COMPROMISED",
                "a certificate for this public key was revoked because the key was compromised; make a new key",
            )
            .at("csr.subject_public_key"),
            E::Revoked => Self::new(Code::FailedPrecondition, "REVOKED", message),
            E::WrongState(_) => Self::new(Code::FailedPrecondition, "WRONG_STATE", message),
            E::OtherHolder => Self::denied("OTHER_HOLDER", message),
            E::PrincipalDisabled => Self::denied("PRINCIPAL_DISABLED", message),
            E::ServiceCertificate => Self::denied("SERVICE_CERTIFICATE", message).at("ref"),
            E::ReservedName => Self::field("principal_id", "RESERVED_NAME", message),
            E::LastAdmin => Self::new(Code::FailedPrecondition, "LAST_ADMIN", message),
            E::InProgress => Self::new(Code::Unavailable, "IN_PROGRESS", message),
            E::TooManySuccessors { .. } => Self::new(Code::ResourceExhausted, "RENEWED_TOO_OFTEN", message),
            E::KeyServes => Self::new(Code::FailedPrecondition, "KEY_SERVES", message),
            E::Missing(field) => Self::field(field, "MISSING", message),
            E::TooLarge { field, .. } => Self::field(field, "TOO_LARGE", message),
            E::Busy { .. } => Self::new(Code::ResourceExhausted, "BUSY", message),
            E::Full => Self::new(Code::ResourceExhausted, "DISK_FULL", message),
            E::Poisoned | E::Closed => Self::new(Code::Unavailable, "JOURNAL_STOPPED", message),
            E::SerialInUse | E::NotRising(_) | E::Io(_) | E::Corrupt(_) | E::Index(_) => Self::internal(message),
        };
        match retry {
            Some(delay) => failure.retry_after(delay),
            None => failure,
        }
    }
}

impl From<ca_core::csr::CsrError> for Failure {
    fn from(error: ca_core::csr::CsrError) -> Self {
        Self::field(error.field(), "BAD_CSR", error.to_string())
    }
}

impl From<ca_core::issue::SelectionError> for Failure {
    fn from(error: ca_core::issue::SelectionError) -> Self {
        Self::field(error.field(), "CSR_NOT_ALLOWED", error.to_string())
    }
}

impl From<ca_core::issue::IssueError> for Failure {
    fn from(error: ca_core::issue::IssueError) -> Self {
        use ca_core::issue::IssueError as E;
        match &error {
            E::KeyAlgorithm(_) | E::IssuersOwnKey => Self::field(error.field(), "KEY_NOT_ALLOWED", error.to_string()),
            E::Selection(_) => Self::field(error.field(), "CSR_NOT_ALLOWED", error.to_string()),
            E::IssuerState { .. } | E::IssuerNotValid(_) | E::PastIssuer { .. } => {
                Self::new(Code::FailedPrecondition, "ISSUER_NOT_READY", error.to_string())
            }
            _ => Self::internal(error),
        }
    }
}
