//! What a person reads when a command fails: one sentence what happened, one what to do, and the exit code.

use crate::terminal;
use rustls::AlertDescription;
use std::{
    error::Error,
    fmt,
    io::{self, Write},
    process::ExitCode,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Exit codes, as `sealwright --help` documents them. Success is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something failed that is none of the others.
    Failure = 1,
    /// The command line or one of its values is wrong.
    Usage = 2,
    /// What was named does not exist, or not in this tenant.
    NotFound = 3,
    /// Understood and refused: permission, policy, state, or trust.
    Refused = 4,
    /// Not now; the same command may succeed later.
    Unavailable = 5,
}

/// A failure that already knows its exit code and its advice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The exit code.
    pub exit: Exit,
    /// What happened.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

impl Problem {
    /// A problem with the given exit code.
    pub fn new(exit: Exit, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { exit, what: what.into(), advice: advice.into() }
    }

    /// The command line is at fault.
    pub fn usage(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, advice)
    }

    /// A file could not be read or written.
    pub fn file(path: &std::path::Path, error: &io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "Check the path.",
            io::ErrorKind::PermissionDenied => "Check the permissions of the file and of its directory.",
            io::ErrorKind::AlreadyExists => "Move the old file away first; it is never overwritten.",
            _ => "Check the file system.",
        };
        Self::new(Exit::Failure, format!("{}: {error}", path.display()), advice)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Problem {}

/// Context for a request that can be repeated safely: the key to repeat it with.
#[derive(Clone, Debug)]
pub struct RepeatWith(pub String);

impl fmt::Display for RepeatWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request with idempotency key {}", self.0)
    }
}

/// The problem behind any error of a command.
pub fn explain(error: &anyhow::Error) -> Problem {
    let mut problem = if let Some(known) = find::<Problem>(error) {
        known.clone()
    } else if let Some(status) = find::<Status>(error) {
        from_status(status)
    } else {
        let mut what = String::new();
        for cause in error.chain() {
            let cause = cause.to_string();
            // Many errors repeat their source in their own text.
            if !what.contains(&cause) {
                what.push_str(if what.is_empty() { "" } else { ": " });
                what.push_str(&cause);
            }
        }
        Problem::new(Exit::Failure, what, "")
    };
    if problem.exit == Exit::Unavailable
        && let Some(RepeatWith(key)) = error.downcast_ref()
    {
        let dot = if problem.advice.is_empty() { "" } else { " " };
        problem.advice.push_str(dot);
        problem
            .advice
            .push_str(&format!("To be sure that it is done only once, repeat it with --idempotency-key {key}."));
    }
    problem
}

/// Writes the problem behind the error to standard error and answers the exit code.
///
/// A reader of our output that went away, as `head` does, is no failure.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let problem = explain(error);
    // Nothing is left to tell it to when standard error is closed.
    let _ = io::stderr().write_all(render(&problem, terminal::stderr_has_colour()).as_bytes());
    ExitCode::from(problem.exit as u8)
}

fn render(problem: &Problem, colour: bool) -> String {
    let label = if colour { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    let what = terminal::clean(&problem.what);
    let full_stop = if what.ends_with(['.', '!', '?']) { "" } else { "." };
    let mut text = format!("{label} {what}{full_stop}\n");
    if !problem.advice.is_empty() {
        text.push_str(&format!("       {}\n", terminal::clean(&problem.advice)));
    }
    text
}

fn find<T: Error + Send + Sync + 'static>(error: &anyhow::Error) -> Option<&T> {
    error.downcast_ref::<T>().or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<T>()))
}

/// Reads the google.rpc details of an answer.
pub fn from_status(status: &Status) -> Problem {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str()).unwrap_or_default();
    if reason.is_empty()
        && let Some(problem) = status.source().and_then(transport)
    {
        return problem;
    }

    let violations: Vec<String> = details
        .bad_request()
        .map(|bad| bad.field_violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect())
        .unwrap_or_default();
    let mut what = match (violations.is_empty(), status.message()) {
        (false, _) => violations.join("; "),
        (true, "") => status.code().description().to_owned(),
        (true, message) => message.to_owned(),
    };
    if !reason.is_empty() {
        what.push_str(&format!(" ({reason})"));
    }

    let exit = exit_of(status.code());
    let mut advice = advice_for_reason(reason).unwrap_or_else(|| advice_for_code(status.code())).to_owned();
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        // Rounded up: coming back early is refused again.
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        advice = format!("Try again in {seconds} s.");
    }
    Problem::new(exit, what, advice)
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition | Code::AlreadyExists => {
            Exit::Refused
        }
        // A deadline that passed on this side is Cancelled.
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => {
            Exit::Unavailable
        }
        Code::Ok | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => Exit::Failure,
    }
}

fn advice_for_reason(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "IDEMPOTENCY_CONFLICT" => {
            "This idempotency key was used for another request; leave --idempotency-key out to make a new request."
        }
        "SECRET_GONE" => "The secret can no longer be shown; make a new token.",
        "TOKEN_UNKNOWN" | "TOKEN_USED" | "TOKEN_EXPIRED" => {
            "Ask an operator for a new token (`sealwright token create`), for this profile."
        }
        "UNKNOWN_PROFILE" => "`sealwright profile list` shows the profiles.",
        "KEY_IN_USE" => "Make a new key and a request for it.",
        "DEVICE_EXISTS" | "DEVICE_BOUND_ELSEWHERE" | "ANCHOR_IN_USE" => {
            "`sealwright show device` shows what the server knows of it; revoke its certificates before it is enrolled anew."
        }
        "LAST_ADMIN" => "Create another admin first, then disable this one.",
        "PRINCIPAL_DISABLED" => "Ask an admin for a new principal; a disabled one is never enabled again.",
        "CLIENT_CERTIFICATE_EXPIRED" | "CLIENT_CERTIFICATE_NOT_YET_VALID" => {
            "Check the clock here; if it is right, ask an admin for a new certificate."
        }
        "CLIENT_CERTIFICATE_REVOKED" | "CLIENT_CERTIFICATE_UNKNOWN" | "CLIENT_CERTIFICATE_USAGE" => {
            "Use a certificate that this server issued for this use, or ask an admin for a new one."
        }
        "DISK_FULL" | "JOURNAL_STOPPED" | "TOKEN_FAILED" => {
            "Tell whoever runs the server; `sealwright doctor` there names the cure."
        }
        _ => return None,
    })
}

fn advice_for_code(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument | Code::OutOfRange => "Correct the value and run the command again; nothing was changed.",
        Code::NotFound => "Check the identifier; `sealwright list` shows what your tenant has.",
        Code::PermissionDenied => "Use the certificate of a principal whose role allows this (--cert and --key).",
        Code::Unauthenticated => "Give a client certificate that is valid and not revoked, with --cert and --key.",
        Code::AlreadyExists => "Choose another name, or look at the one that exists.",
        Code::FailedPrecondition => "Nothing was changed; look at the object's state with `sealwright show`.",
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => "Try again shortly.",
        Code::DeadlineExceeded | Code::Cancelled => "The server did not answer in time; the outcome is not known.",
        Code::Unimplemented => "The server does not know this request; use a client of the server's version.",
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => "Look into the server's log.",
    }
}

/// Names the cause of a connection that failed, or of a call on a connection that broke; `None` where it is unknown.
pub fn transport(error: &(dyn Error + 'static)) -> Option<Problem> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(problem) = cause.downcast_ref::<Problem>() {
            return Some(problem.clone());
        }
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Some(from_tls(tls));
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            // An io::Error hides the error that it wraps from `source`.
            let inner = io.get_ref().and_then(|inner| transport(inner));
            return Some(inner.unwrap_or_else(|| from_io(io)));
        }
        next = cause.source();
    }
    None
}

/// The alerts that a server ends a connection with because of our certificate.
const CERTIFICATE_ALERTS: [AlertDescription; 9] = [
    AlertDescription::CertificateRequired,
    AlertDescription::BadCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::DecryptError,
];

/// An alert that arrives when the connection is in use is handed on as text only.
fn alert_in(text: &str) -> Option<rustls::Error> {
    CERTIFICATE_ALERTS.into_iter().map(rustls::Error::AlertReceived).find(|alert| alert.to_string() == text)
}

fn from_io(error: &io::Error) -> Problem {
    if let Some(alert) = alert_in(&error.to_string()) {
        return from_tls(&alert);
    }
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused => "Check --server, and that the service runs and listens there.",
        io::ErrorKind::TimedOut => "Check --server and the network between here and there.",
        _ => "Try again; if it stays so, look into the server's log.",
    };
    Problem::new(Exit::Unavailable, format!("the server cannot be reached: {error}"), advice)
}

fn from_tls(error: &rustls::Error) -> Problem {
    match error {
        rustls::Error::InvalidCertificate(why) => Problem::new(
            Exit::Refused,
            format!("the server's certificate is not trusted: {why}"),
            "Check that --trust holds this server's root, and that --server uses a name in the certificate.",
        ),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            Problem::new(Exit::Refused, "the server wants a client certificate", "Give one with --cert and --key.")
        }
        rustls::Error::AlertReceived(alert) if CERTIFICATE_ALERTS.contains(alert) => Problem::new(
            Exit::Refused,
            format!("the server refused the client certificate: {alert:?}"),
            "Check that --cert is one of this server's, not expired and not revoked, and that its file holds the chain.",
        ),
        rustls::Error::PeerIncompatible(_) | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            Problem::new(
                Exit::Failure,
                format!("the server does not speak TLS 1.3 as this client does: {error}"),
                "Check that --server names the gRPC port of a Sealwright server.",
            )
        }
        _ => Problem::new(
            Exit::Failure,
            format!("TLS failed: {error}"),
            "Check that --server names the gRPC port of a Sealwright server.",
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use anyhow::Context;
    use std::{collections::HashMap, time::Duration};
    use tonic_types::ErrorDetails;

    fn explained(status: Status) -> Problem {
        explain(&anyhow::Error::from(status))
    }

    #[test]
    fn field_violations_are_named() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("csr", "the RSA key has 1024 bits, at least 2048 are needed");
        details.add_bad_request_violation("device.serial_number", "is missing");
        details.set_error_info("INVALID_FIELD", "sealwright.v1", HashMap::new());
        let problem = explained(Status::with_error_details(Code::InvalidArgument, "invalid request", details));
        assert_eq!(problem.exit, Exit::Usage);
        assert_eq!(
            problem.what,
            "csr: the RSA key has 1024 bits, at least 2048 are needed; device.serial_number: is missing \
             (INVALID_FIELD)"
        );
        assert!(problem.advice.starts_with("Correct the value"));
    }

    #[test]
    fn a_retry_hint_is_rounded_up_and_the_key_is_offered() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1200)));
        let status = Status::with_error_details(Code::ResourceExhausted, "the queue is full", details);
        let error = Err::<(), _>(status).context(RepeatWith("k1".into())).unwrap_err();
        let problem = explain(&error);
        assert_eq!(problem.exit, Exit::Unavailable);
        assert_eq!(problem.what, "the queue is full");
        assert_eq!(
            problem.advice,
            "Try again in 2 s. To be sure that it is done only once, repeat it with --idempotency-key k1."
        );
    }

    #[test]
    fn a_reason_has_its_own_advice() {
        let details = ErrorDetails::with_error_info("IDEMPOTENCY_CONFLICT", "sealwright.v1", HashMap::new());
        let error = Err::<(), _>(Status::with_error_details(Code::AlreadyExists, "another request", details))
            .context(RepeatWith("k1".into()))
            .unwrap_err();
        let problem = explain(&error);
        assert_eq!(problem.exit, Exit::Refused);
        assert!(problem.advice.contains("--idempotency-key"));
        assert!(!problem.advice.contains("k1"), "a refusal is not repeated");
    }

    #[test]
    fn codes_become_exit_codes() {
        for (code, exit) in [
            (Code::NotFound, Exit::NotFound),
            (Code::PermissionDenied, Exit::Refused),
            (Code::Unauthenticated, Exit::Refused),
            (Code::FailedPrecondition, Exit::Refused),
            (Code::Unavailable, Exit::Unavailable),
            (Code::DeadlineExceeded, Exit::Unavailable),
            (Code::Internal, Exit::Failure),
        ] {
            let problem = explained(Status::new(code, ""));
            assert_eq!(problem.exit, exit, "{code:?}");
            assert!(!problem.what.is_empty() && !problem.advice.is_empty());
        }
    }

    #[test]
    fn the_cause_of_a_broken_connection_is_found_below_its_wrapping() {
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRevoked);
        let problem = explained(Status::from_error(Box::new(io::Error::other(alert))));
        assert_eq!(problem.exit, Exit::Refused);
        assert!(problem.what.contains("CertificateRevoked"), "{problem:?}");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(transport(&refused).unwrap().exit, Exit::Unavailable);
    }

    #[test]
    fn what_is_printed_is_two_sentences_without_control_characters() {
        let problem = Problem::new(Exit::NotFound, "no device a\x1b[2J", "Look again.");
        assert_eq!(render(&problem, false), "error: no device a\\u{1b}[2J.\n       Look again.\n");
        assert!(render(&problem, true).starts_with("\x1b[1;31merror:\x1b[0m "));
        let bare = explain(&anyhow::anyhow!("inner").context("outer"));
        assert_eq!(render(&bare, false), "error: outer: inner.\n");
    }
}
