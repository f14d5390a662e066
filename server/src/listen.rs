//! Connections as a bounded good: how many there may be, from one address and overall, how long each may idle, and the
//! plain HTTP/1.1 listener that keeps these bounds.

use crate::limits;
use anyhow::Result;
use arc_swap::ArcSwap;
use axum::response::{IntoResponse, Response};
use hyper::{Request, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::Sleep,
};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tower::ServiceExt;

/// Where a request comes from, as far as the transport knows.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub Option<IpAddr>);

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// From everywhere.
    pub overall: usize,
    /// From one address.
    pub source: usize,
    /// From one loopback address, where a proxy may stand for many.
    pub loopback: usize,
}

impl Bound {
    /// This bound where only `share` thousandths of it can be had. One address never gets more than half.
    fn scaled(self, share: usize) -> Self {
        let overall = (self.overall * share / 1_000).max(4);
        Self { overall, source: self.source.min(overall / 2), loopback: self.loopback.min(overall / 2) }
    }
}

/// The bounds that the process' open-file limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// gRPC before the end of the handshake.
    pub arrivals: Bound,
    /// gRPC with a certificate of ours.
    pub members: Bound,
    /// Other gRPC.
    pub strangers: Bound,
    /// Plain HTTP.
    pub http: Bound,
    /// Telemetry.
    pub telemetry: Bound,
}

impl Bounds {
    /// For this many open files: connections get half of them at most, the rest is the journal's, the index's and the
    /// token's.
    pub fn within(descriptors: u64) -> Self {
        let all = [limits::ARRIVALS, limits::MEMBERS, limits::STRANGERS, limits::HTTP, limits::TELEMETRY];
        let wanted: usize = all.iter().map(|bound| bound.overall).sum();
        let half = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
        let share = (half.saturating_mul(1_000) / wanted).min(1_000);
        let [arrivals, members, strangers, http, telemetry] = all.map(|bound| bound.scaled(share));
        Self { arrivals, members, strangers, http, telemetry }
    }

    /// Raises the process' soft limit of open files as far as it goes and is of use, and divides what there is.
    pub fn of_process() -> Self {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let now = limit.current.unwrap_or(u64::MAX);
        let best = limit.maximum.unwrap_or(u64::MAX).min(limits::DESCRIPTORS).max(now);
        let raised = Rlimit { current: Some(best), maximum: limit.maximum };
        let descriptors = if best == now || setrlimit(Resource::Nofile, raised).is_err() { now } else { best };
        let bounds = Self::within(descriptors);
        if bounds != Self::within(u64::MAX) {
            tracing::warn!(descriptors, ?bounds, "few open files are allowed (LimitNOFILE), so fewer connections are");
        }
        bounds
    }
}

/// Who counts as one source: an IPv4 address, or an IPv6 network of 64 bits, which is what one subscriber gets.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        other => other,
    }
}

/// Counts the connections of one kind.
#[derive(Clone)]
pub struct Door {
    name: &'static str,
    bound: Bound,
    slots: Arc<Semaphore>,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection's place, given back when dropped.
pub struct Place {
    _slot: OwnedSemaphorePermit,
    source: IpAddr,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Door {
    /// A door with this bound; the name is the metrics' label.
    pub fn new(name: &'static str, bound: Bound) -> Self {
        Self { name, bound, slots: Arc::new(Semaphore::new(bound.overall)), sources: Arc::default() }
    }

    /// A place for a connection from this address, or none: then it is closed at once, and counted.
    pub fn admit(&self, address: IpAddr) -> Option<Place> {
        let source = source(address);
        let most = if source.is_loopback() { self.bound.loopback } else { self.bound.source };
        let refused = |why: &'static str| {
            metrics::counter!("sealwright_connections_refused_total", "listener" => self.name, "why" => why)
                .increment(1);
            tracing::debug!(listener = self.name, %address, why, "connection refused");
        };
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            refused("overall");
            return None;
        };
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_default();
        if *count >= most {
            refused("source");
            return None;
        }
        *count += 1;
        Some(Place { _slot: slot, source, sources: self.sources.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// A TCP connection that holds its place, counts what moves, and may have an end set to it.
pub struct Counted {
    stream: TcpStream,
    place: Option<Place>,
    end: Option<Pin<Box<Sleep>>>,
    moved: Arc<AtomicU64>,
}

impl Counted {
    /// A connection in its place.
    pub fn new(stream: TcpStream, place: Place) -> Self {
        Self { stream, place: Some(place), end: None, moved: Arc::default() }
    }

    /// Gives up the old place for a new one.
    pub fn move_to(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Lets reading fail after this time.
    pub fn end_after(&mut self, life: Duration) {
        self.end = Some(Box::pin(tokio::time::sleep(life)));
    }

    /// A counter of the octets read and written.
    pub fn moved(&self) -> Arc<AtomicU64> {
        self.moved.clone()
    }
}

impl Connected for Counted {
    type ConnectInfo = TcpConnectInfo;
    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the connection's time is over")));
        }
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let octets = buffer.filled().len().saturating_sub(before);
        self.moved.fetch_add(octets as u64, Ordering::Relaxed);
        outcome
    }
}

impl Counted {
    fn written(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(octets)) = &outcome {
            self.moved.fetch_add(*octets as u64, Ordering::Relaxed);
        }
        outcome
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(outcome)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(outcome)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The next connection that finds a place.
pub async fn accept(listener: &TcpListener, door: &Door) -> (Counted, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                if let Some(place) = door.admit(address.ip()) {
                    let _ = stream.set_nodelay(true);
                    return (Counted::new(stream, place), address.ip());
                }
            }
            Err(error) => {
                // Out of file descriptors, most likely: give the others time to end.
                tracing::warn!(listener = door.name, %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Counted {
    /// Waits until the peer has sent something, without taking it.
    ///
    /// # Errors
    /// It is silent for [`limits::FIRST_BYTE`], or has gone.
    pub async fn spoken(&self) -> io::Result<()> {
        let seen = tokio::time::timeout(limits::FIRST_BYTE, self.stream.peek(&mut [0])).await;
        match seen {
            Ok(Ok(1..)) => Ok(()),
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Serves HTTP/1.1 until `stopped` says so; then requests in progress finish. A new connection gets the router that is
/// there then.
///
/// # Errors
/// None at present; a listener that cannot accept waits and tries again.
pub async fn serve_http(
    listener: TcpListener,
    door: Door,
    router: Arc<ArcSwap<axum::Router>>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, address) = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &door) => accepted,
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(serve_connection(stream, address, router.load().as_ref().clone(), stopped.clone()));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn serve_connection(stream: Counted, address: IpAddr, router: axum::Router, mut stopped: watch::Receiver<bool>) {
    let moved = stream.moved();
    let service = service_fn(|request: Request<Incoming>| answer(router.clone(), address, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HTTP_HEADER)
        .max_buf_size(limits::HTTP_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut age = pin!(tokio::time::sleep(limits::HTTP_AGE));
    let (mut ending, mut last) = (false, 0);
    let life = tokio::time::timeout(limits::HTTP_LIFE, async {
        let mut stall = tokio::time::interval(limits::HTTP_STALL);
        stall.tick().await;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%address, %error, "HTTP connection");
                    }
                    return;
                }
                _ = stall.tick() => {
                    let now = moved.load(Ordering::Relaxed);
                    if now == last {
                        return;
                    }
                    last = now;
                }
                () = age.as_mut(), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = stopped.wait_for(|stop| *stop), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    });
    if life.await.is_err() {
        tracing::debug!(%address, "an HTTP connection took too long");
    }
}

async fn answer(router: axum::Router, address: IpAddr, mut request: Request<Incoming>) -> Result<Response, Infallible> {
    request.extensions_mut().insert(PeerAddress(Some(address)));
    match tokio::time::timeout(limits::HTTP_REQUEST, router.oneshot(request)).await {
        Ok(answer) => answer,
        Err(_) => Ok(StatusCode::REQUEST_TIMEOUT.into_response()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn connections_get_half_of_the_open_files() {
        let full = Bounds::within(limits::DESCRIPTORS);
        assert_eq!(full.http, limits::HTTP);
        assert_eq!(full.members, limits::MEMBERS);
        for descriptors in [128, 256, 1_024, 4_096] {
            let b = Bounds::within(descriptors);
            let all = [b.arrivals, b.members, b.strangers, b.http, b.telemetry];
            let sum: usize = all.iter().map(|bound| bound.overall).sum();
            assert!(sum as u64 <= descriptors / 2, "{descriptors}: {b:?}");
            assert!(all.iter().all(|bound| bound.source * 2 <= bound.overall && bound.source > 0), "{b:?}");
        }
    }

    #[test]
    fn a_door_counts_by_source_and_overall() {
        let door = Door::new("test", Bound { overall: 3, source: 2, loopback: 1 });
        let at = |text: &str| door.admit(text.parse().unwrap());
        let first = at("192.0.2.1").unwrap();
        let _second = at("::ffff:192.0.2.1").unwrap();
        assert!(at("192.0.2.1").is_none(), "the source has its two");
        let _third = at("2001:db8::1").unwrap();
        assert!(at("2001:db8:1::1").is_none(), "three overall");
        drop(first);
        let _fourth = at("2001:db8::2").unwrap();
        assert!(at("192.0.2.9").is_none(), "three overall again");
        assert_eq!(door.sources.lock().unwrap().len(), 2);
        drop((_second, _third, _fourth));
        assert!(door.sources.lock().unwrap().is_empty());
        let _proxy = at("127.0.0.1").unwrap();
        assert!(at("127.0.0.1").is_none(), "loopback has its one");
    }
}
