//! Who may call what: every method of the contract, every role, own and others' objects, against a table.
//!
//! The calls are made from the descriptors: a new method is called without a line of code here, and fails until
//! `matrix.txt` has its rows.

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto, field_descriptor_proto::Type,
};
use proto::v1::{Certificate, CertificateRef, DeviceIdentity, ListCertificatesRequest, Role};
use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::atomic::{AtomicU32, Ordering},
};
use tests::{
    api::{self, Api, Credential, credential, fresh, issued},
    ca::{Ca, Options},
    device::DeviceKey,
};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};

const ROLES: [&str; 6] = ["anonymous", "admin", "operator", "station", "device", "auditor"];

/// Whose objects a request names.
const OWN: &str = "own";
const PEER: &str = "peer";
const OTHER: &str = "other";

// ---- a client that knows nothing but bytes

#[derive(Clone, Debug, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = prost::bytes::Buf::remaining(buffer);
        Ok(Some(prost::bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }
}

async fn call(api: &Api, path: &str, request: Vec<u8>) -> Result<Result<Vec<u8>, Status>> {
    let mut client = Grpc::new(api.channel.clone());
    client.ready().await?;
    let path = PathAndQuery::try_from(path.to_owned())?;
    Ok(client.unary(Request::new(request), path, Bytes).await.map(tonic::Response::into_inner))
}

// ---- the contract

struct Contract {
    messages: BTreeMap<String, DescriptorProto>,
    methods: Vec<(String, MethodDescriptorProto)>,
}

impl Contract {
    fn read() -> Result<Self> {
        let set = FileDescriptorSet::decode(proto::DESCRIPTORS)?;
        let mut contract = Self { messages: BTreeMap::new(), methods: Vec::new() };
        for file in set.file {
            let package = file.package().to_owned();
            for message in file.message_type {
                contract.messages.insert(format!(".{package}.{}", message.name()), message);
            }
            for service in file.service {
                for method in service.method.clone() {
                    ensure!(!method.client_streaming() && !method.server_streaming(), "{} streams", method.name());
                    contract.methods.push((format!("{package}.{}", service.name()), method));
                }
            }
        }
        ensure!(contract.methods.len() >= 18, "only {} methods", contract.methods.len());
        Ok(contract)
    }

    fn input(&self, method: &MethodDescriptorProto) -> Result<&DescriptorProto> {
        self.messages.get(method.input_type()).with_context(|| format!("no {}", method.input_type()))
    }

    /// Whether the request names an object that belongs to somebody.
    fn names_objects(&self, method: &MethodDescriptorProto) -> Result<bool> {
        Ok(self.input(method)?.field.iter().any(|field| {
            field.type_name() == ".sealwright.v1.CertificateRef"
                || ["device_id", "principal_id"].contains(&field.name())
        }) && !method.name().starts_with("Create"))
    }

    fn names_tenant(&self, method: &MethodDescriptorProto) -> Result<bool> {
        Ok(self.input(method)?.field.iter().any(|field| field.name() == "tenant"))
    }
}

// ---- requests

/// What a request is filled with.
#[derive(Clone, Debug, Default)]
struct Fill {
    certificate: CertificateRef,
    device: String,
    principal: String,
    tenant: String,
    token: String,
}

fn put(out: &mut Vec<u8>, field: &FieldDescriptorProto, bytes: &[u8]) {
    prost::encoding::encode_key(
        u32::try_from(field.number()).unwrap_or_default(),
        prost::encoding::WireType::LengthDelimited,
        out,
    );
    prost::encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Fills what a request needs to reach its object: by the names and types of its fields, first of each oneof.
fn request(input: &DescriptorProto, fill: &Fill) -> Result<Vec<u8>> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut out = Vec::new();
    let mut arms = Vec::new();
    for field in &input.field {
        if let Some(arm) = field.oneof_index {
            if arms.contains(&arm) {
                continue;
            }
            arms.push(arm);
        }
        let unique = || format!("MATRIX-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        match (field.name(), field.r#type(), field.type_name()) {
            (_, Type::Message, ".sealwright.v1.CertificateRef") => {
                put(&mut out, field, &fill.certificate.encode_to_vec())
            }
            (_, Type::Message, ".sealwright.v1.DeviceIdentity") => {
                let device = DeviceIdentity { serial_number: unique(), ..Default::default() };
                put(&mut out, field, &device.encode_to_vec());
            }
            ("idempotency_key", ..) => put(&mut out, field, fresh().as_bytes()),
            ("csr", ..) => put(&mut out, field, &DeviceKey::new()?.csr("matrix")?),
            ("tenant", ..) => put(&mut out, field, fill.tenant.as_bytes()),
            ("device_id", ..) => put(&mut out, field, fill.device.as_bytes()),
            ("principal_id", ..) => put(&mut out, field, fill.principal.as_bytes()),
            ("enrollment_token", ..) => put(&mut out, field, fill.token.as_bytes()),
            _ => {}
        }
    }
    Ok(out)
}

// ---- the world

/// One tenant's objects.
struct Tenant {
    issuer: String,
    apis: BTreeMap<&'static str, Api>,
    own: BTreeMap<&'static str, Certificate>,
    peer: Certificate,
    enrolled: Certificate,
    named: Vec<String>,
}

async fn tenant(ca: &Ca, name: Option<&'static str>) -> Result<Tenant> {
    let mark = name.unwrap_or("home").to_uppercase();
    let held = |role: &str| ca.credential(name, role);
    let mut apis = BTreeMap::from([("anonymous", ca.anonymous().await?)]);
    for role in ["admin", "operator", "station", "auditor"] {
        apis.insert(role, ca.holder(&held(role)?).await?);
    }
    let mut admin = ca.holder(&held("admin")?).await?;
    let mut station = ca.holder(&held("station")?).await?;
    let key = DeviceKey::new()?;
    let enrolled = station.enroll(&key, &format!("SN-{mark}-DEVICE")).await?;
    let device_credential: Credential = credential(&enrolled.pem, &key);
    apis.insert("device", ca.holder(&device_credential).await?);
    let enrolled = issued(&enrolled)?;

    // Of the same tenant, but neither the device's own nor enrolled by the station.
    let (second, _) = admin.principal(&format!("second-{}", mark.to_lowercase()), Role::Station).await?;
    let peer = issued(&ca.holder(&second).await?.enroll(&DeviceKey::new()?, &format!("SN-{mark}-PEER")).await?)?;

    let mut own = BTreeMap::from([("device", enrolled.clone()), ("anonymous", enrolled.clone())]);
    for certificate in admin.all_certificates().await? {
        for role in ["admin", "operator", "station", "auditor"] {
            let pem = held(role)?.certificate;
            let leaf = tests::judge::pem("CERTIFICATE", &certificate.der)?;
            if pem.replace(['\n', '\r'], "").starts_with(&leaf.replace('\n', "")) {
                own.insert(role, certificate.clone());
            }
        }
    }
    ensure!(own.len() == 6, "not every role's own certificate was found: {:?}", own.keys());
    let issuer = ca.issuer_id(name)?;
    let named = vec![format!("SN-{mark}-"), format!("second-{}", mark.to_lowercase())];
    Ok(Tenant { issuer, apis, own, peer, enrolled, named })
}

impl Tenant {
    /// Objects for one call; calls that destroy get their own victims.
    async fn fill(&self, ca: &Ca, name: Option<&'static str>, method: &str, role: &str, peer: bool) -> Result<Fill> {
        let mut fill = Fill { tenant: name.unwrap_or_default().to_owned(), ..Default::default() };
        let certificate = match (method, role) {
            _ if peer => self.peer.clone(),
            ("Revoke", _) => {
                let mut station = ca.holder(&ca.credential(name, "station")?).await?;
                issued(&station.enroll(&DeviceKey::new()?, &format!("VICTIM-{}", fresh())).await?)?
            }
            ("ConfirmInstalled", role) => self.own.get(role).context("no certificate of its own")?.clone(),
            _ => self.enrolled.clone(),
        };
        fill.certificate = certificate.r#ref.clone().context("no reference")?;
        fill.device = certificate.device_id;
        fill.principal = format!("victim-{}", &fresh()[..12]);
        if method == "DisablePrincipal" {
            ca.holder(&ca.credential(name, "admin")?).await?.principal(&fill.principal, Role::Auditor).await?;
        }
        if method == "Enroll" && role == "anonymous" {
            fill.token = ca.holder(&ca.credential(name, "operator")?).await?.token(None).await?;
        }
        Ok(fill)
    }
}

// ---- the table

/// What an answer means.
fn verdict(answer: &Result<Vec<u8>, Status>) -> Result<&'static str> {
    Ok(match answer.as_ref().map_err(Status::code) {
        Err(Code::PermissionDenied | Code::Unauthenticated) => "refused",
        Err(Code::NotFound) => "hidden",
        Ok(_) => "allowed",
        // Past the gate, and told what is wrong with the request.
        Err(Code::InvalidArgument | Code::FailedPrecondition | Code::AlreadyExists) => "allowed",
        Err(code) => bail!("an answer that no client should get: {code:?} {answer:?}"),
    })
}

fn table() -> Result<BTreeMap<(String, String), Vec<String>>> {
    let mut rows = BTreeMap::new();
    for line in include_str!("matrix.txt").lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, whose) = (words.next().context("no method")?, words.next().context("no object")?);
        let cells: Vec<_> = words.collect();
        ensure!(cells.len() == ROLES.len(), "{line}");
        ensure!(rows.insert((method, whose), cells).is_none(), "twice: {line}");
    }
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_for_every_role_is_as_the_table_says() -> Result<()> {
    let ca = Ca::start_with(Options { other_tenant: true, ..Default::default() })?;
    let (home, other) = (tenant(&ca, None).await?, tenant(&ca, Some("other")).await?);
    ensure!(home.issuer != other.issuer);
    let contract = Contract::read()?;
    let mut expected = table()?;
    let (mut observed, mut wrong) = (String::new(), String::new());
    for (service, method) in &contract.methods {
        let name = format!("{}.{}", service.trim_start_matches("sealwright.v1."), method.name());
        let mut rows = vec![OWN];
        if contract.names_objects(method)? {
            rows.extend([PEER, OTHER]);
        } else if contract.names_tenant(method)? {
            rows.push(OTHER);
        }
        for whose in rows {
            let mut cells = Vec::new();
            for role in ROLES {
                let api = home.apis.get(role).context("no such role")?;
                let fill = match whose {
                    OTHER => other.fill(&ca, Some("other"), method.name(), role, false).await?,
                    _ => home.fill(&ca, None, method.name(), role, whose == PEER).await?,
                };
                let request = request(contract.input(method)?, &fill)?;
                let answer = call(api, &format!("/{service}/{}", method.name()), request).await?;
                cells.push(verdict(&answer).with_context(|| format!("{name} {whose} {role}"))?);
                // Whatever was asked: nothing of another tenant is in the answer, unless the caller is nobody and named it.
                if let (Ok(bytes), false) = (&answer, role == "anonymous" && whose == OTHER) {
                    for foreign in other.named.iter().chain([&other.issuer]) {
                        let found = bytes.windows(foreign.len()).any(|part| part == foreign.as_bytes());
                        ensure!(!found, "{name} {whose} {role}: the answer contains {foreign} of another tenant");
                    }
                }
            }
            writeln!(
                observed,
                "{name:40} {whose:6} {}",
                cells.iter().map(|c| format!("{c:9} ")).collect::<String>().trim_end()
            )?;
            match expected.remove(&(name.clone(), whose.to_owned())) {
                Some(row) if row == cells => {}
                Some(row) => writeln!(wrong, "{name} {whose}: the table says {row:?}, the service {cells:?}")?,
                None => writeln!(wrong, "{name} {whose}: no row in matrix.txt; the service says {cells:?}")?,
            }
        }
    }
    for (row, _) in expected {
        writeln!(wrong, "{row:?} is in the table, not in the contract")?;
    }
    ensure!(wrong.is_empty(), "{wrong}\nWhat the service does:\n{observed}");
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_empty_or_garbage_is_answered_by_the_gate_first() -> Result<()> {
    let ca = Ca::start()?;
    let contract = Contract::read()?;
    let anonymous = ca.anonymous().await?;
    let rows = table()?;
    for (service, method) in &contract.methods {
        let path = format!("/{service}/{}", method.name());
        let name = format!("{}.{}", service.trim_start_matches("sealwright.v1."), method.name());
        let closed = rows.get(&(name.clone(), OWN.to_owned())).and_then(|r| r.first()).is_some_and(|c| c == "refused");
        for garbage in [Vec::new(), vec![0xff; 9], vec![0x08, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
            let answer = call(&anonymous, &path, garbage.clone()).await?;
            let code = answer.as_ref().err().map(Status::code);
            if closed {
                ensure!(code == Some(Code::Unauthenticated), "{name} {garbage:x?}: {answer:?}");
            } else {
                ensure!(!matches!(code, Some(Code::Unknown | Code::Unavailable)), "{name} {garbage:x?}: {answer:?}");
            }
        }
    }
    for path in ["/sealwright.v1.AccessService/Nothing", "/sealwright.v2.AccessService/CreatePrincipal", "/x/y"] {
        let code = call(&anonymous, path, Vec::new()).await?.err().map(|status| status.code());
        assert!(matches!(code, Some(Code::Unimplemented | Code::Unauthenticated)), "{path}: {code:?}");
    }
    let mut auditor = ca.role("auditor").await?;
    auditor.certificates.list_certificates(ListCertificatesRequest::default()).await?;
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_refused_as_bad_input() -> Result<()> {
    let ca = Ca::start()?;
    let station = ca.role("station").await?;
    for (method, request) in [
        ("/sealwright.v1.EnrollmentService/Enroll", vec![0xff; 40]),
        ("/sealwright.v1.EnrollmentService/Enroll", vec![0x12, 0x7f, 0]),
        ("/sealwright.v1.CertificateService/GetCertificate", vec![0x0a, 2, 0xff, 0xff]),
    ] {
        let refused = call(&station, method, request).await?.err().context("it was taken")?;
        let refusal = api::refusal(&refused);
        ensure!((refusal.code, refusal.reason.as_str()) == (Code::InvalidArgument, "MALFORMED_REQUEST"), "{refusal:?}");
    }
    ensure!(ca.refusals("MALFORMED_REQUEST")? == 3.0, "not counted");
    ca.finish()
}
