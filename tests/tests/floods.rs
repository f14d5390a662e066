//! Strangers who open connections and do nothing with them: they are closed, and nobody else notices.

use anyhow::{Context, Result, ensure};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tests::{
    api::issued,
    ca::{Ca, Options},
    device::DeviceKey,
    judge::Case,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// More than the service may have open.
const FLOOD: usize = 300;
const OPEN_FILES: u32 = 256;

/// Connections from another address than the honest callers'.
async fn flood(address: &str, say: &[u8]) -> Result<Vec<TcpStream>> {
    let address: SocketAddr = address.parse()?;
    let mut connections = Vec::new();
    for _ in 0..FLOOD {
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.2:0".parse()?)?;
        let mut stream = socket.connect(address).await?;
        // What was closed at once says so here or when read.
        let _ = stream.write_all(say).await;
        connections.push(stream);
    }
    Ok(connections)
}

/// Reads each connection to its end.
async fn all_end(connections: Vec<TcpStream>, within: Duration) -> Result<Duration> {
    let began = Instant::now();
    let ends = async {
        for mut stream in connections {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
    };
    tokio::time::timeout(within, ends).await.with_context(|| format!("some are open after {within:?}"))?;
    Ok(began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_strangers_take_nothing_from_others() -> Result<()> {
    let ca = Ca::start_with(Options { open_files: Some(OPEN_FILES), ..Options::default() })?;
    let (grpc, http) = (ca.grpc()?, ca.http()?);
    let first = ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-0").await?;
    let case = Case::new(&ca, &issued(&first)?.der, &first.chain)?;
    let half_body = b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\n\
        Content-Length: 100\r\n\r\n0";
    let floods: [(&str, &str, &[u8], u64); 5] = [
        ("HTTP, silent", &http, b"", 5),
        ("HTTP, half a header", &http, b"GET / HTTP/1.1\r\nHost: x\r\n", 5),
        ("HTTP, half a body", &http, half_body, 10),
        ("gRPC, silent", &grpc, b"", 2),
        ("gRPC, half a record", &grpc, b"\x16\x03\x01\x02\x00", 5),
    ];
    for (number, (name, address, say, seconds)) in (1..).zip(floods) {
        let connections = flood(address, say).await?;
        // New connections of others, while it goes on.
        ca.role("station").await?.enroll(&DeviceKey::new()?, &format!("SN-{number}")).await.context(name)?;
        case.fetch_crl(&ca).context(name)?;
        ensure!(case.ocsp_status(&ca).context(name)? == "good", "{name}");
        let took = all_end(connections, Duration::from_secs(seconds + 4)).await.context(name)?;
        eprintln!("{name}: all closed after {took:?}");
    }
    for listener in ["http", "grpc-arrivals"] {
        let refused = ca.metric("sealwright_connections_refused_total", &format!("listener=\"{listener}\""))?;
        ensure!(refused > 0.0, "no connection to {listener} was refused");
    }
    // The flooding address itself is welcome again, here the honest callers' own.
    let mut same = Vec::new();
    for _ in 0..FLOOD {
        same.push(TcpStream::connect(&grpc).await?);
    }
    all_end(same, Duration::from_secs(6)).await?;
    ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-9").await?;
    ca.finish()
}

/// Clients that ask and never take the answers do not keep their connections.
#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_end_their_connection() -> Result<()> {
    let ca = Ca::start_with(Options { open_files: Some(OPEN_FILES), ..Options::default() })?;
    let first = ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-0").await?;
    let case = Case::new(&ca, &issued(&first)?.der, &first.chain)?;
    let address: SocketAddr = ca.http()?.parse()?;
    // More than the buffers on the way hold.
    let requests = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(600_000);
    let mut greedy = Vec::new();
    for _ in 0..8 {
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.2:0".parse()?)?;
        socket.set_recv_buffer_size(4_096)?;
        let mut stream = socket.connect(address).await?;
        let sent = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&requests)).await;
        ensure!(sent.is_err(), "the service took everything, so nothing was left unread");
        greedy.push(stream);
    }
    case.fetch_crl(&ca)?;
    let end = Instant::now() + Duration::from_secs(30);
    for stream in &mut greedy {
        // The reset that follows the service's close makes writing fail.
        while !matches!(stream.try_write(b"x"), Err(error) if error.kind() != std::io::ErrorKind::WouldBlock) {
            ensure!(Instant::now() < end, "an unread connection stays");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    ca.finish()
}
