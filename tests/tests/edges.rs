//! The listeners before strangers: old TLS, garbage, odd HTTP; and what lies on the disk.

use anyhow::{Context, Result, ensure};
use proto::v1::ListCertificatesRequest;
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    process::Command,
    time::Duration,
};
use tests::{
    api::{issued, refused, station_request},
    ca::{Ca, files},
    device::DeviceKey,
    http,
    judge::Case,
    tools,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_grpc_listener_speaks_tls_1_3_and_nothing_else() -> Result<()> {
    let ca = Ca::start()?;
    let (address, (_, roots)) = (ca.grpc()?, ca.roots(None)?);
    let handshake = |version: &str| {
        let mut command = Command::new("openssl");
        command.args(["s_client", version, "-alpn", "h2", "-brief", "-verify_return_error", "-connect", &address]);
        tools::ask(command.arg("-CAfile").arg(&roots))
    };
    let verdict = handshake("-tls1_3")?;
    ensure!(verdict.text.contains("TLSv1.3") && verdict.text.contains("Verification: OK"), "{}", verdict.text);
    for old in ["-tls1", "-tls1_1", "-tls1_2"] {
        let verdict = handshake(old)?;
        ensure!(!verdict.accepted, "{old}: {}", verdict.text);
    }
    // Plain HTTP, a TLS record that promises more than comes, and silence.
    for bytes in
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff\x01", &[0; 64]]
    {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(bytes)?;
        let mut answer = Vec::new();
        // An alert, an end or nothing yet; never data.
        let _ = stream.read_to_end(&mut answer);
        ensure!(answer.len() <= 7 && answer.first().is_none_or(|first| *first == 0x15), "{bytes:x?}: {answer:x?}");
    }
    // Many that connect and say nothing do not keep others out.
    let silent: Result<Vec<_>, _> = (0..100).map(|_| TcpStream::connect(&address)).collect();
    let silent = silent?;
    ca.role("auditor").await?.all_certificates().await?;
    drop(silent);
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_listener_serves_what_certificates_point_to_and_nothing_else() -> Result<()> {
    let ca = Ca::start()?;
    let answer = ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-1").await?;
    let case = Case::new(&ca, &issued(&answer)?.der, &answer.chain)?;
    let address = ca.http()?;
    let (crl, _) = case.urls()?;
    let shown = tools::run(
        Command::new("openssl").args(["x509", "-noout", "-ext", "authorityInfoAccess", "-in"]).arg(case.leaf()),
    )?;
    let shown = String::from_utf8(shown)?;
    let issuer =
        shown.lines().find_map(|line| line.trim().strip_prefix("CA Issuers - URI:")).context("no CA issuers")?;
    assert_eq!(Some(&ca.fetch(issuer)?), answer.chain.first(), "the issuer's certificate, DER");
    ca.fetch(&crl)?;

    let crl = http::path_of(&crl)?;
    let long = format!("/crl/{}.crl", "x".repeat(8_000));
    let absent = [
        "/",
        "/crl/",
        "/crl/..%2f..%2fdata.crl",
        "/crl/../../dev.json",
        "/crl/nothing.crl",
        "/issuer/nothing.cer",
        "/ocsp/nothing/",
        "/dev.json",
        "/sealwright.toml",
        "//etc/passwd",
        "/%00",
        &long,
    ];
    for path in absent {
        let status = http::get(&address, path)?.status;
        ensure!((400..500).contains(&status), "{path}: {status}");
    }
    ensure!((400..500).contains(&http::post(&address, crl, "text/plain", b"x")?.status), "POST to a CRL");
    for path in ["/livez", "/readyz"] {
        ensure!(http::get(&address, path)?.status == 200, "{path}");
    }
    // A header without end.
    let mut stream = TcpStream::connect(&address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1 << 21)).as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    ensure!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    ca.fetch(&case.urls()?.0)?;
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_shown() -> Result<()> {
    let ca = Ca::start()?;
    let token = ca.role("operator").await?.token(None).await?;
    let mut device = ca.anonymous().await?;
    let mut request = station_request(&DeviceKey::new()?, "SN-1")?;
    request.enrollment_token.clone_from(&token);
    device.enrollment.enroll(request.clone()).await?;
    request.idempotency_key = "again".to_owned();
    let refusal = refused(device.enrollment.enroll(request).await.map_err(Into::into))?;
    ensure!(!refusal.message.contains(&token), "{refusal:?}");

    let pins = files(ca.directory(), &|path| path.file_name().is_some_and(|name| name == "pin"))?;
    let pin = fs::read_to_string(pins.first().context("no PIN file")?)?;
    let metrics = String::from_utf8(http::get(&ca.http()?, "/metrics")?.body)?;
    let log = ca.log_tail();
    for (place, text) in [("the metrics", &metrics), ("the log", &log)] {
        ensure!(!text.contains(pin.trim()) && !text.contains(&token), "{place} have a secret");
    }
    let data = files(&ca.directory().join("data"), &|_| true)?;
    ensure!(!data.is_empty());
    for file in data {
        let bytes = fs::read(&file)?;
        for secret in [pin.trim(), &token] {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            ensure!(!found, "{} has a secret", file.display());
        }
    }
    let mode = fs::metadata(ca.directory().join("data"))?.permissions().mode();
    ensure!(mode & 0o077 == 0, "the data directory has mode {mode:o}");
    for file in files(ca.directory(), &|path| fs::read(path).is_ok_and(|b| b.windows(11).any(|w| w == b"PRIVATE KEY")))?
    {
        let mode = fs::metadata(&file)?.permissions().mode();
        ensure!(mode & 0o077 == 0, "{}: mode {mode:o}", file.display());
    }
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_on_the_same_directory_is_refused() -> Result<()> {
    let ca = Ca::start()?;
    let description = fs::read(ca.directory().join("dev.json"))?;
    let log = ca.directory().with_extension("second.log");
    let mut second = Ca::at(ca.directory(), &log, tests::ca::Options::default());
    let said = second.must_not_start()?;
    ensure!(said.contains("lock") || said.contains("use") || said.contains("running"), "it does not say why: {said}");
    fs::write(ca.directory().join("dev.json"), description)?;
    // The first one works on.
    ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-1").await?;
    let listed = ca.role("auditor").await?.certificates.list_certificates(ListCertificatesRequest::default()).await?;
    ensure!(listed.into_inner().certificates.iter().any(|c| c.device_id == "SN-1"));
    ca.finish()
}
