//! Input that must be refused: each time with a stable reason and the field at fault, without a certificate, and counted.

use anyhow::{Context, Result, bail, ensure};
use proto::v1::{
    BeginAttestationRequest, CertificateRef, ConfirmInstalledRequest, CreateEnrollmentTokenRequest,
    CreatePrincipalRequest, DeviceIdentity, EnrollRequest, Evidence, GetProfileRequest, ListCertificatesRequest,
    RevokeRequest, Role, TpmEvidence, TpmHello, begin_attestation_request::Hello, evidence::Body,
    revoke_request::Target,
};
use rcgen::{CustomExtension, KeyPair};
use std::process::Command;
use tests::{
    api::{self, Api, Credential, Refusal, credential, fresh, identity, issued, station_request},
    ca::{Ca, Options},
    device::{DeviceKey, SoftwareTpm},
    judge::tampered,
    tools,
};
use tonic::{Code, Response, Status};

struct Watch {
    ca: Ca,
    auditor: Api,
}

impl Watch {
    async fn new(options: Options) -> Result<Self> {
        let ca = Ca::start_with(options)?;
        let auditor = ca.role("auditor").await?;
        Ok(Self { ca, auditor })
    }

    /// A call that must be refused with a typed reason; no certificate appears, and the refusal is counted.
    async fn refused<T>(&mut self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<Refusal> {
        let certificates = self.auditor.all_certificates().await?.len();
        let counted = self.ca.metric("sealwright_refused_total", "")?;
        let refusal = match call.await {
            Ok(_) => bail!("accepted"),
            Err(status) => api::refusal(&status),
        };
        ensure!(!refusal.reason.is_empty() && !refusal.message.is_empty(), "no reason: {refusal:?}");
        ensure!(self.auditor.all_certificates().await?.len() == certificates, "a certificate appeared: {refusal:?}");
        let label = format!("reason=\"{}\"", refusal.reason);
        ensure!(self.ca.metric("sealwright_refused_total", &label)? >= 1.0, "not counted: {refusal:?}");
        ensure!(self.ca.metric("sealwright_refused_total", "")? >= counted + 1.0, "not counted: {refusal:?}");
        Ok(refusal)
    }

    async fn enroll(&mut self, api: &mut Api, request: EnrollRequest) -> Result<Refusal> {
        self.refused(api.enrollment.enroll(request)).await
    }
}

/// A CSR by OpenSSL's command line: what rcgen cannot or will not make.
fn openssl_csr(words: &str) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-nodes", "-subj", "/CN=SN-1", "-outform", "DER", "-keyout"]);
    tools::run(command.arg(folder.path().join("key")).args(words.split_whitespace()))
}

fn p256(words: &str) -> Result<Vec<u8>> {
    openssl_csr(&format!("-newkey ec -pkeyopt ec_paramgen_curve:P-256 {words}"))
}

/// Flips a bit of the public point, so that it leaves the curve (but for one chance in two it is the other y's sign:
/// the last octet of y never gives a point of the curve when only one bit of it changes, up to negligible chance).
fn off_curve(csr: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = csr.to_vec();
    // BIT STRING, 66 octets, no unused bits, uncompressed point.
    let at = bytes.windows(4).position(|w| w == [0x03, 0x42, 0x00, 0x04]).context("no P-256 point")?;
    *bytes.get_mut(at + 4 + 63).context("too short")? ^= 1;
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn certification_requests() -> Result<()> {
    let mut watch = Watch::new(Options::default()).await?;
    let mut station = watch.ca.role("station").await?;
    let good = DeviceKey::new()?.csr("SN-1")?;
    let cut = |at: usize| good.get(..at).unwrap_or_default().to_vec();
    let other = DeviceKey::new()?;
    // The body of one request with the signature of another.
    let swapped = {
        let (key, body) = (DeviceKey::new()?, good.clone());
        let signature = key.csr("SN-1")?;
        let at = body.len().min(signature.len()) - 8;
        [body.get(..at).unwrap_or_default(), signature.get(signature.len() - (body.len() - at)..).unwrap_or_default()]
            .concat()
    };
    let twice = other.csr_with("SN-1", |params| {
        let one = || CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![0x03, 0x02, 0x07, 0x80]);
        params.custom_extensions = vec![one(), one()];
        Ok(())
    })?;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("one octet", cut(1)),
        ("cut in the middle", cut(good.len() / 2)),
        ("the last octet missing", cut(good.len() - 1)),
        ("an octet too many", [good.clone(), vec![0]].concat()),
        ("a huge length", vec![0x30, 0x84, 0x7f, 0xff, 0xff, 0xff]),
        ("nested 5000 deep", [0x30, 0x80].repeat(5_000)),
        ("over 16 KiB", [good.clone(), vec![0; 16 * 1024]].concat()),
        ("a broken signature", tampered(&good)),
        ("the signature of another", swapped),
        ("a point beside the curve", off_curve(&good)?),
        (
            "a certificate",
            KeyPair::generate().and_then(|key| rcgen::CertificateParams::default().self_signed(&key))?.der().to_vec(),
        ),
        ("RSA-1024", openssl_csr("-newkey rsa:1024")?),
        ("RSA-2047", openssl_csr("-newkey rsa:2047")?),
        ("RSA with exponent 3", openssl_csr("-newkey rsa:2048 -pkeyopt rsa_keygen_pubexp:3")?),
        ("secp256k1", openssl_csr("-newkey ec -pkeyopt ec_paramgen_curve:secp256k1")?),
        ("P-224", openssl_csr("-newkey ec -pkeyopt ec_paramgen_curve:P-224")?),
        ("explicit curve parameters", p256("-pkeyopt ec_param_enc:explicit")?),
        ("Ed448", openssl_csr("-newkey ed448")?),
        ("SHA-1", p256("-sha1")?),
        ("a CA", p256("-addext basicConstraints=critical,CA:TRUE")?),
        ("a certificate signer", p256("-addext keyUsage=critical,keyCertSign,cRLSign")?),
        ("a foreign DNS name", p256("-addext subjectAltName=DNS:bank.example.com")?),
        ("a foreign IP address", p256("-addext subjectAltName=IP:10.0.0.1")?),
        ("a foreign URI", p256("-addext subjectAltName=URI:urn:example:other")?),
        ("name constraints", p256("-addext nameConstraints=permitted;DNS:example.com")?),
        ("an extension twice", twice),
    ];
    for (name, csr) in cases {
        let request = EnrollRequest { csr, ..station_request(&DeviceKey::new()?, "SN-1")? };
        let refusal = watch.enroll(&mut station, request).await.with_context(|| name.to_owned())?;
        assert_eq!(refusal.code, Code::InvalidArgument, "{name}: {refusal:?}");
        assert!(refusal.field == "csr" || refusal.field.starts_with("csr."), "{name}: {refusal:?}");
    }
    // The control: the same station, the same device, a good request.
    let request = EnrollRequest { csr: good, ..station_request(&other, "SN-1")? };
    let answer = station.enrollment.enroll(request).await?.into_inner();
    let own = issued(&answer)?;
    // A key that another device holds.
    let mut theft = station_request(&other, "SN-2")?;
    theft.csr = DeviceKey::new()?.csr("SN-2")?;
    station.enrollment.enroll(theft.clone()).await?;
    let refusal = watch
        .enroll(&mut station, EnrollRequest { device: Some(identity("SN-3")), idempotency_key: fresh(), ..theft })
        .await?;
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::AlreadyExists, "KEY_IN_USE"));
    assert!(!own.der.is_empty());
    watch.ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_an_enrollment() -> Result<()> {
    let mut watch = Watch::new(Options::default()).await?;
    let mut station = watch.ca.role("station").await?;
    let base = || station_request(&DeviceKey::new()?, "SN-1");
    let device = |serial: &str| Some(DeviceIdentity { serial_number: serial.to_owned(), ..identity("x") });
    let long = "x".repeat(65);
    // Neither the request nor the CSR says which device it is.
    let nameless = DeviceKey::new()?.csr_with("", |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(())
    })?;
    let cases = [
        ("idempotency_key", EnrollRequest { idempotency_key: String::new(), ..base()? }),
        ("idempotency_key", EnrollRequest { idempotency_key: long.clone(), ..base()? }),
        ("idempotency_key", EnrollRequest { idempotency_key: "a\nb".to_owned(), ..base()? }),
        ("profile", EnrollRequest { profile: "no-such-profile".to_owned(), ..base()? }),
        ("profile", EnrollRequest { profile: "../etc/passwd".to_owned(), ..base()? }),
        ("device.serial_number", EnrollRequest { device: None, csr: nameless.clone(), ..base()? }),
        ("device.serial_number", EnrollRequest { device: device(""), csr: nameless.clone(), ..base()? }),
        ("device.serial_number", EnrollRequest { device: device(&long), ..base()? }),
        ("device.serial_number", EnrollRequest { device: device("SN\n1"), ..base()? }),
        ("device.serial_number", EnrollRequest { device: device("x, O=evil"), ..base()? }),
        ("device.serial_number", EnrollRequest { device: device("SN-\u{1F600}"), ..base()? }),
        (
            "device.model",
            EnrollRequest { device: Some(DeviceIdentity { model: long.clone(), ..identity("SN-1") }), ..base()? },
        ),
        (
            "device.manufacturer",
            EnrollRequest {
                device: Some(DeviceIdentity { manufacturer: "a\u{7}".to_owned(), ..identity("SN-1") }),
                ..base()?
            },
        ),
    ];
    for (field, request) in cases {
        let sent = format!("{field}: {:?}", (&request.idempotency_key, &request.profile, &request.device));
        let refusal = watch.enroll(&mut station, request).await.context(sent)?;
        assert_eq!((refusal.code, refusal.field.as_str()), (Code::InvalidArgument, field), "{refusal:?}");
    }
    // Far beyond every limit: refused before it is read.
    let huge = station.enrollment.enroll(EnrollRequest { csr: vec![0; 1 << 20], ..base()? }).await;
    let huge = huge.err().map(|status| api::refusal(&status)).context("it was taken")?;
    assert_eq!((huge.code, huge.reason.as_str()), (Code::OutOfRange, "REQUEST_TOO_LARGE"));

    // An idempotency key is bound to its request.
    let request = base()?;
    station.enrollment.enroll(request.clone()).await?;
    let other = EnrollRequest { device: Some(identity("SN-2")), ..request };
    let refusal = watch.enroll(&mut station, other).await?;
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::AlreadyExists, "IDEMPOTENCY_CONFLICT"));
    watch.ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_everything_else() -> Result<()> {
    let mut watch = Watch::new(Options::default()).await?;
    let (mut admin, mut station) = (watch.ca.role("admin").await?, watch.ca.role("station").await?);
    let certificate = issued(&station.enroll(&DeviceKey::new()?, "SN-1").await?)?;
    let known = certificate.r#ref.clone().context("no reference")?;
    let invalid = |refusal: &Refusal, field: &str| {
        assert_eq!((refusal.code, refusal.field.as_str()), (Code::InvalidArgument, field), "{refusal:?}");
    };

    let reference = |issuer: &str, serial: &str| {
        Some(CertificateRef { issuer_id: issuer.to_owned(), serial_number: serial.to_owned() })
    };
    let absent = [("no-such-issuer", known.serial_number.as_str()), (&known.issuer_id, "0123456789abcdef")];
    for (issuer, serial) in absent {
        let request = proto::v1::GetCertificateRequest { r#ref: reference(issuer, serial) };
        let refusal = watch.refused(admin.certificates.get_certificate(request)).await?;
        assert_eq!(refusal.code, Code::NotFound, "{refusal:?}");
    }
    for (serial, field) in
        [("xyz", "ref.serial_number"), ("", "ref.serial_number"), (&"ab".repeat(21), "ref.serial_number")]
    {
        let request = proto::v1::GetCertificateRequest { r#ref: reference(&known.issuer_id, serial) };
        invalid(&watch.refused(admin.certificates.get_certificate(request)).await?, field);
    }
    invalid(
        &watch.refused(admin.certificates.get_certificate(proto::v1::GetCertificateRequest::default())).await?,
        "ref",
    );

    let revoke =
        || RevokeRequest { idempotency_key: fresh(), target: Some(Target::Ref(known.clone())), ..Default::default() };
    // cACompromise, certificateHold, removeFromCRL and aACompromise are not for end entities; 99 is nothing.
    for reason in [2, 6, 8, 10, 99, -1] {
        invalid(&watch.refused(admin.revocation.revoke(RevokeRequest { reason, ..revoke() })).await?, "reason");
    }
    invalid(&watch.refused(admin.revocation.revoke(RevokeRequest { target: None, ..revoke() })).await?, "target");
    let comment = "x".repeat(257);
    invalid(&watch.refused(admin.revocation.revoke(RevokeRequest { comment, ..revoke() })).await?, "comment");
    let future = Some(prost_types::Timestamp { seconds: 32_503_680_000, nanos: 0 });
    let request = RevokeRequest { invalidity_date: future, ..revoke() };
    invalid(&watch.refused(admin.revocation.revoke(request)).await?, "invalidity_date");
    let request = RevokeRequest { target: Some(Target::DeviceId("nobody".to_owned())), ..revoke() };
    assert_eq!(watch.refused(admin.revocation.revoke(request)).await?.code, Code::NotFound);
    assert_eq!(admin.status(&certificate).await?.status(), proto::v1::Status::Good, "none of it revoked anything");

    let confirm = ConfirmInstalledRequest {
        idempotency_key: fresh(),
        r#ref: Some(known.clone()),
        certificate_sha256: vec![0; 32],
    };
    invalid(&watch.refused(station.enrollment.confirm_installed(confirm)).await?, "certificate_sha256");

    let principal = |id: &str, role: i32| -> Result<CreatePrincipalRequest> {
        let csr = DeviceKey::new()?.csr("x")?;
        Ok(CreatePrincipalRequest { idempotency_key: fresh(), principal_id: id.to_owned(), role, csr })
    };
    for role in [0, Role::Device.into(), 99, -1] {
        invalid(&watch.refused(admin.access.create_principal(principal("new", role)?)).await?, "role");
    }
    for id in ["", "Upper", "a/b", "*", "%", "' OR 1=1", &"x".repeat(65)] {
        let refusal = watch.refused(admin.access.create_principal(principal(id, Role::Auditor.into())?)).await?;
        invalid(&refusal, "principal_id");
    }
    admin.access.create_principal(principal("new", Role::Auditor.into())?).await?;
    let refusal = watch.refused(admin.access.create_principal(principal("new", Role::Admin.into())?)).await?;
    assert_eq!(refusal.code, Code::AlreadyExists, "{refusal:?}");

    for seconds in [0, 59, -1, 30 * 86_400 + 1] {
        let time_to_live = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = CreateEnrollmentTokenRequest { idempotency_key: fresh(), time_to_live, ..Default::default() };
        invalid(&watch.refused(admin.access.create_enrollment_token(request)).await?, "time_to_live");
    }
    for page_size in [-1, 501] {
        let request = ListCertificatesRequest { page_size, ..Default::default() };
        invalid(&watch.refused(admin.certificates.list_certificates(request)).await?, "page_size");
    }
    let request = ListCertificatesRequest { state: 77, ..Default::default() };
    invalid(&watch.refused(admin.certificates.list_certificates(request)).await?, "state");
    let request = GetProfileRequest { name: "no-such-profile".to_owned() };
    let refusal = watch.refused(admin.authority.get_profile(request)).await?;
    assert!(matches!(refusal.code, Code::NotFound | Code::InvalidArgument), "{refusal:?}");
    watch.ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn enrollment_tokens() -> Result<()> {
    let mut watch = Watch::new(Options::default()).await?;
    let mut operator = watch.ca.role("operator").await?;
    let mut device = watch.ca.anonymous().await?;
    let with = |token: &str, serial: &str| -> Result<EnrollRequest> {
        Ok(EnrollRequest { enrollment_token: token.to_owned(), ..station_request(&DeviceKey::new()?, serial)? })
    };
    // Without any authorisation, and with tokens that nobody made.
    let refusal = watch.enroll(&mut device, with("", "SN-1")?).await?;
    assert!(matches!(refusal.code, Code::Unauthenticated | Code::PermissionDenied), "{refusal:?}");
    let unknown = format!("swt_{}", "0".repeat(64));
    for token in ["x", "*", unknown.as_str(), &"x".repeat(129)] {
        let refusal = watch.enroll(&mut device, with(token, "SN-1")?).await?;
        assert_eq!(refusal.field, "enrollment_token", "{token}: {refusal:?}");
        assert!(!refusal.message.contains(&unknown), "the token is repeated");
    }
    // Used up; the retry of the same request is no second use.
    let token = operator.token(None).await?;
    let request = with(&token, "SN-1")?;
    let first = issued(&device.enrollment.enroll(request.clone()).await?.into_inner())?;
    let retry = issued(&device.enrollment.enroll(request).await?.into_inner())?;
    assert_eq!(first.der, retry.der);
    let refusal = watch.enroll(&mut device, with(&token, "SN-2")?).await?;
    assert_eq!((refusal.reason.as_str(), refusal.field.as_str()), ("TOKEN_USED", "enrollment_token"));
    // Made for another profile.
    let profile = "idevid".to_owned();
    let request = CreateEnrollmentTokenRequest { idempotency_key: fresh(), profile, ..Default::default() };
    match operator.access.create_enrollment_token(request).await {
        Ok(answer) => {
            let token = answer.into_inner().enrollment_token;
            let refusal = watch.enroll(&mut device, with(&token, "SN-3")?).await?;
            assert!(!refusal.reason.is_empty());
        }
        Err(status) => ensure!(!api::refusal(&status).reason.is_empty(), "{status}"),
    }
    watch.ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates() -> Result<()> {
    let mut watch = Watch::new(Options::default()).await?;
    let (mut station, mut operator) = (watch.ca.role("station").await?, watch.ca.role("operator").await?);
    let key = DeviceKey::new()?;
    let enrolled = station.enroll(&key, "SN-1").await?;
    let certificate = issued(&enrolled)?;
    let held = credential(&enrolled.pem, &key);
    let list = ListCertificatesRequest::default;

    // The control: it may renew.
    watch.ca.holder(&held).await?.renew(&DeviceKey::new()?).await?;

    // Revoked, on a new connection.
    operator.revoke(&certificate, proto::v1::RevocationReason::KeyCompromise).await?;
    let mut device = watch.ca.holder(&held).await?;
    let request =
        proto::v1::RenewRequest { idempotency_key: fresh(), csr: DeviceKey::new()?.csr("x")?, evidence: None };
    let refusal = watch.refused(device.enrollment.renew(request)).await?;
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unauthenticated, "CLIENT_CERTIFICATE_REVOKED"));

    // Signed by themselves and by somebody else, with the names of an admin.
    let admin = watch.ca.credential(None, "admin")?;
    let subject = tools::pipe(
        "openssl",
        &["x509", "-noout", "-subject", "-nameopt", "multiline,-esc_msb"],
        admin.certificate.as_bytes(),
    )?;
    let subject = String::from_utf8(subject)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for line in subject.lines().skip(1) {
        let (name, value) = line.split_once('=').context("no name")?;
        let kind = match name.trim() {
            "commonName" => rcgen::DnType::CommonName,
            "organizationName" => rcgen::DnType::OrganizationName,
            "organizationalUnitName" => rcgen::DnType::OrganizationalUnitName,
            other => bail!("the admin's subject has {other}; this test has to learn it"),
        };
        params.distinguished_name.push(kind, value.trim());
    }
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let (own, issuer_key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut issuer = rcgen::CertificateParams::default();
    issuer.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(issuer, issuer_key);
    let forged = [params.self_signed(&own)?.pem(), params.signed_by(&own, &issuer)?.pem()];
    for certificate in forged {
        let mut forger = watch.ca.holder(&Credential { certificate, key: own.serialize_pem() }).await?;
        let refusal = watch.refused(forger.certificates.list_certificates(list())).await?;
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unauthenticated, "CLIENT_CERTIFICATE_UNKNOWN"));
    }
    // The admin's own certificate with one bit changed, and a key that is not its own: the handshake refuses.
    let stolen = Credential { certificate: admin.certificate.clone(), key: own.serialize_pem() };
    let outcome = match watch.ca.holder(&stolen).await {
        Ok(mut thief) => thief.certificates.list_certificates(list()).await.map(|_| ()).err().map(|s| s.code()),
        Err(_) => Some(Code::Unavailable),
    };
    assert!(outcome.is_some(), "a stolen certificate works without its key");
    watch.ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant() -> Result<()> {
    let mut watch = Watch::new(Options { other_tenant: true, ..Default::default() }).await?;
    let mut theirs = watch.ca.other("station").await?;
    let key = DeviceKey::new()?;
    let certificate = issued(&theirs.enroll(&key, "SN-THEIRS").await?)?;
    assert_eq!(
        watch.ca.other("auditor").await?.get(certificate.r#ref.clone()).await?.certificate.map(|c| c.der),
        Some(certificate.der.clone())
    );

    let (mut admin, mut station) = (watch.ca.role("admin").await?, watch.ca.role("station").await?);
    let known = certificate.r#ref.clone().context("no reference")?;
    let nobody = CertificateRef { serial_number: "0123456789abcdef".to_owned(), ..known.clone() };
    let get = |r: &CertificateRef| proto::v1::GetCertificateRequest { r#ref: Some(r.clone()) };
    let hidden = watch.refused(admin.certificates.get_certificate(get(&known))).await?;
    let absent = watch.refused(admin.certificates.get_certificate(get(&nobody))).await?;
    assert_eq!(hidden.code, Code::NotFound);
    assert_eq!(hidden, absent, "the answer must not tell the one from the other");

    for target in [Target::Ref(known), Target::DeviceId("SN-THEIRS".to_owned())] {
        let request = RevokeRequest { idempotency_key: fresh(), target: Some(target), ..Default::default() };
        assert_eq!(watch.refused(admin.revocation.revoke(request)).await?.code, Code::NotFound);
    }
    assert_eq!(watch.ca.other("auditor").await?.status(&certificate).await?.status(), proto::v1::Status::Good);

    let request = EnrollRequest { tenant: "other".to_owned(), ..station_request(&DeviceKey::new()?, "SN-1")? };
    let refusal = watch.enroll(&mut station, request).await?;
    assert!(matches!(refusal.code, Code::NotFound | Code::PermissionDenied), "{refusal:?}");
    // A token of this tenant opens nothing in the other.
    let token = watch.ca.role("operator").await?.token(None).await?;
    let request = EnrollRequest {
        tenant: "other".to_owned(),
        enrollment_token: token,
        ..station_request(&DeviceKey::new()?, "SN-1")?
    };
    let mut anonymous = watch.ca.anonymous().await?;
    assert_eq!(watch.enroll(&mut anonymous, request).await?.field, "enrollment_token");
    // The same serial number is another device there.
    station.enroll(&DeviceKey::new()?, "SN-THEIRS").await?;
    watch.ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn attestation() -> Result<()> {
    let tpm = SoftwareTpm::start()?;
    let options = Options { tpm_roots: Some(tpm.vendor()), ..Default::default() };
    let mut watch = Watch::new(options).await?;
    let mut device = watch.ca.anonymous().await?;
    let profile = attesting_profile(&mut watch).await?;
    let key = DeviceKey::new()?;
    let hello = TpmHello { ek_certificate: tpm.ek_certificate()?, ek_chain: Vec::new(), ak_public: tpm.ak_public()? };
    let begin = |hello: Option<TpmHello>| BeginAttestationRequest {
        idempotency_key: fresh(),
        profile: profile.clone(),
        csr_spki_sha256: key.spki_sha256(),
        hello: hello.map(Hello::Tpm2),
        ..Default::default()
    };
    let short = BeginAttestationRequest { csr_spki_sha256: vec![0; 31], ..begin(Some(hello.clone())) };
    let cases = [
        // What is wrong with evidence is for the service's log: an attacker learns only that it is refused.
        ("hello", begin(None)),
        ("csr_spki_sha256", short),
        ("hello", begin(Some(TpmHello { ek_certificate: vec![0x30; 64], ..hello.clone() }))),
        ("hello", begin(Some(TpmHello { ek_certificate: tampered(&hello.ek_certificate), ..hello.clone() }))),
        ("hello", begin(Some(TpmHello { ak_public: vec![0; 32], ..hello.clone() }))),
        ("hello", begin(Some(TpmHello { ak_public: vec![0; 4_096], ..hello.clone() }))),
    ];
    for (field, request) in cases {
        let refusal =
            watch.refused(device.enrollment.begin_attestation(request)).await.with_context(|| field.to_owned())?;
        assert!(refusal.field.ends_with(field), "{field}: {refusal:?}");
    }

    // A challenge is used up by the first answer, a wrong one too: repeating the request no longer gives it.
    let first = begin(Some(hello));
    let challenge = device.enrollment.begin_attestation(first.clone()).await?.into_inner();
    let again = device.enrollment.begin_attestation(first.clone()).await?.into_inner();
    assert_eq!((&challenge.session_id, &challenge.nonce), (&again.session_id, &again.nonce), "it lives");
    let answer = |session_id: Vec<u8>| -> Result<EnrollRequest> {
        let evidence = TpmEvidence { activation_mac: vec![0; 32], ..Default::default() };
        Ok(EnrollRequest {
            profile: profile.clone(),
            device: None,
            evidence: Some(Evidence { session_id, body: Some(Body::Tpm2(evidence)) }),
            ..station_request(&key, "SN-1")?
        })
    };
    for session in [challenge.session_id.clone(), challenge.session_id.clone(), vec![7; 16]] {
        let refusal = watch.enroll(&mut device, answer(session)?).await?;
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::PermissionDenied, "ATTESTATION_FAILED"));
    }
    let gone = device.enrollment.begin_attestation(first).await;
    assert_ne!(
        gone.ok().map(|answer| answer.into_inner().session_id),
        Some(challenge.session_id),
        "it was not used up"
    );
    let malformed = watch.enroll(&mut device, answer(vec![7; 15])?).await?;
    assert!(malformed.field.starts_with("evidence"), "{malformed:?}");
    watch.ca.finish()
}

async fn attesting_profile(watch: &mut Watch) -> Result<String> {
    let profiles = watch.auditor.authority.list_profiles(proto::v1::ListProfilesRequest::default()).await?.into_inner();
    let found = profiles.profiles.iter().find(|p| p.enroll_by.iter().any(|way| way == "attestation"));
    found.map(|p| p.name.clone()).context("no profile accepts attestation alone")
}
