//! HTTP as a device with little memory speaks it.

use anyhow::{Context, Result, ensure};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header lines as they came.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

/// The path of an `http://` URL.
///
/// # Errors
/// It is none.
pub fn path_of(url: &str) -> Result<&str> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is no http URL"))?;
    Ok(rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"))
}

/// GET.
///
/// # Errors
/// Network, or no HTTP.
pub fn get(address: &str, path: &str) -> Result<Answer> {
    exchange(address, format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
}

/// POST.
///
/// # Errors
/// Network, or no HTTP.
pub fn post(address: &str, path: &str, content_type: &str, body: &[u8]) -> Result<Answer> {
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    exchange(address, &[head.as_bytes(), body].concat())
}

// HTTP/1.0: the answer ends with the connection and is never chunked.
fn exchange(address: &str, request: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no end of the HTTP header")?;
    let head = String::from_utf8(answer.get(..end).unwrap_or_default().to_vec())?;
    ensure!(head.starts_with("HTTP/1."), "no HTTP: {head}");
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Answer { status, head, body: answer.get(end + 4..).unwrap_or_default().to_vec() })
}
