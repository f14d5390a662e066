//! Requests that are no message of the contract: tonic answers INTERNAL, which blames us. This layer makes them typed
//! refusals, counted like all others.

use crate::{access, error::Failure};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{HeaderMap, Request, Response},
};
use tower::{Layer, Service};

/// The layer, before the services.
#[derive(Clone, Copy, Debug)]
pub struct Malformed;

impl<S> Layer<S> for Malformed {
    type Service = Watched<S>;
    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner }
    }
}

/// A service whose decoding errors are translated.
#[derive(Clone)]
pub struct Watched<S> {
    inner: S,
}

/// What an answer without a body says about the request. Every refusal of ours has details, so what has them stays.
fn failure(headers: &HeaderMap) -> Option<Failure> {
    if !headers.contains_key(Status::GRPC_STATUS) {
        return None;
    }
    let status = Status::from_header_map(headers)?;
    if !status.details().is_empty() {
        return None;
    }
    let says = |begin: &str| status.message().starts_with(begin);
    match status.code() {
        Code::Internal
            if says("failed to decode Protobuf message")
                || says("Missing request message")
                || says("Unexpected EOF decoding stream")
                || says("protocol error: received message with") =>
        {
            Some(Failure::new(
                Code::InvalidArgument,
                "MALFORMED_REQUEST",
                "the request is not a message of sealwright.v1; is the client made from the same proto files?",
            ))
        }
        Code::OutOfRange if says("Error, decoded message length too large") => {
            Some(Failure::new(Code::OutOfRange, "REQUEST_TOO_LARGE", "the request message is too large"))
        }
        _ => None,
    }
}

impl<S> Service<Request<Body>> for Watched<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let rpc = access::method(request.uri().path()).unwrap_or("unknown");
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(match failure(answer.headers()) {
                Some(failure) => failure.into_status(rpc).into_http(),
                None => answer,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(status: Status) -> Option<&'static str> {
        let answer: Response<Body> = status.into_http();
        failure(answer.headers()).map(|f| f.reason())
    }

    #[test]
    fn only_decoding_errors_are_translated() {
        let decoding = "failed to decode Protobuf message: EnrollRequest.csr: buffer underflow";
        assert_eq!(translated(Status::internal(decoding)), Some("MALFORMED_REQUEST"));
        let large = "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes";
        assert_eq!(translated(Status::out_of_range(large)), Some("REQUEST_TOO_LARGE"));
        assert_eq!(translated(Status::internal("the service failed")), None);
        assert_eq!(translated(Status::invalid_argument(decoding)), None);
        assert_eq!(translated(Failure::internal(decoding).into_status("test")), None);
    }
}
