//! What a person reads when a command fails: one sentence what happened, one what to do, and the exit code.

use crate::terminal;
use std::{error::Error, fmt, io};
use tokio_rustls::rustls::{self, AlertDescription};
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

fn find<T: Error + Send + Sync + 'static>(error: &anyhow::Error) -> Option<&T> {
    error.downcast_ref::<T>().or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<T>()))
}

/// Reads the google.rpc details of an answer.
pub fn from_status(status: &Status) -> Problem {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str()).unwrap_or_default();
    if reason.is_empty()
        && let Some(problem) = status.source().and_then(|source| transport(source))
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
    Problem::new(exit, terminal::clean(&what), advice)
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
            match io.get_ref() {
                Some(inner) => {
                    if let Some(problem) = transport(inner) {
                        return Some(problem);
                    }
                }
                None => return Some(from_io(io)),
            }
        }
        next = cause.source();
    }
    None
}

fn from_io(error: &io::Error) -> Problem {
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
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError),
        ) => Problem::new(
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
