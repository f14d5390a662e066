//! An authority in production's way for each way of signing that is not the default: `init`, `serve`, a device's
//! certificate, CRL and OCSP, all judged by OpenSSL. ML-DSA needs kryoptic and its OpenSSL (`scripts/kryoptic`).

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use softhsm::{Kind, ThrowawayToken};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tests::{
    ca::sealwright_bin,
    http,
    judge::{pem, tampered},
    tools,
};

const PIN: &str = "throw-away-1234";
/// Keys are generated in the token, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// An authority that runs; killed when dropped.
struct Authority {
    folder: TempDir,
    token: ThrowawayToken,
    openssl: PathBuf,
    grpc: String,
    http: String,
    service: Option<Child>,
}

impl Drop for Authority {
    fn drop(&mut self) {
        if let Some(service) = &mut self.service {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

impl Authority {
    fn start(kind: Kind, root_key: &str, issuing_key: &str, device_key: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let place = folder.path().join("token");
        let (token, openssl) = match kind {
            Kind::SoftHsm => (ThrowawayToken::create(&place, "authority", PIN)?, PathBuf::from("openssl")),
            Kind::Kryoptic => (ThrowawayToken::create_kryoptic(&place, "authority", PIN)?, softhsm::find_openssl()?),
        };
        let (grpc, http) = (free_address()?, free_address()?);
        let mut authority = Self { folder, token, openssl, grpc, http, service: None };
        let pin = authority.write("pin", PIN.as_bytes())?;
        fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        authority.write("sealwright.toml", authority.configuration(root_key, issuing_key, device_key)?.as_bytes())?;
        authority.run(&["init", "--out-dir"], |c| c.arg(authority.path("admin")))?;
        authority.serve()?;
        Ok(authority)
    }

    fn configuration(&self, root_key: &str, issuing_key: &str, device_key: &str) -> Result<String> {
        let profile = tools::run(Command::new(sealwright_bin()?).args(["config", "example"]))?;
        ensure!(String::from_utf8(profile)?.contains("ML-DSA-65"), "the example does not name what there is");
        let (data, module, pin) = (self.path("data"), self.token.module.display(), self.path("pin"));
        let (grpc, http) = (&self.grpc, &self.http);
        Ok(format!(
            "data_dir = '{}'\n[token]\nmodule = '{module}'\nuri = 'pkcs11:token=authority'\npin = {{ file = '{}' }}\n\
             [grpc]\nlisten = '{grpc}'\nnames = ['127.0.0.1']\n\
             [http]\nlisten = '{http}'\nbase_url = 'http://{http}'\n\
             [[tenants]]\nname = 'default'\nroot_key = '{root_key}'\nissuing_key = '{issuing_key}'\n\
             [profiles.device]\nkey_algorithms = ['{device_key}']\nvalidity = '90d'\n\
             key_usage = ['digitalSignature']\nenroll_by = ['token']\ndevice_id_from = ['request']\n\
             [[profiles.device.subject]]\ntype = 'commonName'\nfrom = 'device.id'\n",
            data.display(),
            pin.display(),
        ))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let (variable, conf) = self.token.environment();
        let mut command = Command::new(sealwright_bin()?);
        command.args(words).env(variable, conf).env("SEALWRIGHT_CONFIG", self.path("sealwright.toml"));
        Ok(command)
    }

    /// A command that needs the token.
    fn run(&self, words: &[&str], more: impl FnOnce(&mut Command) -> &mut Command) -> Result<Vec<u8>> {
        let mut command = self.command(words)?;
        tools::run(more(&mut command).arg("--config").arg(self.path("sealwright.toml")))
    }

    /// A command of the admin's, over the network.
    fn admin(&self, words: &[&str]) -> Result<Vec<u8>> {
        let mut command = self.command(words)?;
        let folder = self.path("admin");
        command.arg("--server").arg(&self.grpc).arg("--trust").arg(folder.join("trust.pem"));
        tools::run(command.arg("--cert").arg(folder.join("admin.pem")).arg("--key").arg(folder.join("admin.key")))
    }

    fn serve(&mut self) -> Result<()> {
        let log = fs::File::create(self.path("log"))?;
        let mut command = self.command(&["serve", "--config"])?;
        command.arg(self.path("sealwright.toml")).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut service = command.spawn()?;
        let end = Instant::now() + START;
        while !http::get(&self.http, "/readyz").is_ok_and(|answer| answer.status == 200) {
            let ended = service.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let _ = service.kill();
                bail!("not ready ({ended:?}):\n{}", fs::read_to_string(self.path("log"))?);
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.service = Some(service);
        Ok(())
    }

    fn judge(&self, words: &str, files: &[(&str, &Path)]) -> Result<tools::Verdict> {
        let mut command = Command::new(&self.openssl);
        command.args(words.split_whitespace());
        for (option, path) in files {
            if !option.is_empty() {
                command.arg(option);
            }
            command.arg(path);
        }
        tools::ask(&mut command)
    }
}

/// A device's certificate: its own file, and one of those above it.
struct Device {
    leaf: PathBuf,
    above: PathBuf,
    serial: String,
}

fn enroll(authority: &Authority, key_kind: &str) -> Result<Device> {
    let (key, csr) = (authority.path("device.key"), authority.path("device.csr"));
    let made = authority.judge(&format!("genpkey -algorithm {key_kind}"), &[("-out", &key)])?;
    ensure!(made.accepted, "{}", made.text);
    let made = authority.judge("req -new -subj /CN=SN-1", &[("-key", &key), ("-out", &csr)])?;
    ensure!(made.accepted, "{}", made.text);
    certify(authority, &csr)
}

fn certify(authority: &Authority, csr: &Path) -> Result<Device> {
    let out = authority.path("device.pem");
    let created =
        authority.admin(&["token", "create", "--profile", "device", "--serial-number", "SN-1", "--output", "json"])?;
    let created: Value = serde_json::from_slice(&created)?;
    let token = created.get("enrollment_token").and_then(Value::as_str).context("no token")?;
    let mut command =
        authority.command(&["enroll", "--profile", "device", "--serial-number", "SN-1", "--output", "json"])?;
    command.env("SEALWRIGHT_TOKEN", token).arg("--csr").arg(csr).arg("--out").arg(&out);
    command.arg("--server").arg(&authority.grpc).arg("--trust").arg(authority.path("admin/trust.pem"));
    tools::run(&mut command)?;
    let text = fs::read_to_string(&out)?;
    let end = text.find("-----END CERTIFICATE-----\n").context("no certificate")? + "-----END CERTIFICATE-----\n".len();
    let (leaf, above) = text.split_at_checked(end).context("no chain")?;
    let leaf = authority.write("leaf.pem", leaf.as_bytes())?;
    let shown = authority.judge("x509 -noout -serial", &[("-in", &leaf)])?;
    let serial = shown.text.trim().trim_start_matches("serial=").to_owned();
    Ok(Device { leaf, above: authority.write("above.pem", above.as_bytes())?, serial })
}

fn whole_life(authority: &Authority, key_kind: &str, said: &str) -> Result<()> {
    let device = enroll(authority, key_kind)?;
    let root = authority.path("admin/trust.pem");
    let verify = |leaf: &Path, more: &str| {
        let files = [("-CAfile", root.as_path()), ("-untrusted", &device.above), ("", leaf)];
        authority.judge(&format!("verify -x509_strict {more}"), &files)
    };
    let der = authority.path("leaf.der");
    authority.judge("x509 -outform DER", &[("-in", &device.leaf), ("-out", &der)])?;
    let control = authority.write("control.pem", pem("CERTIFICATE", &tampered(&fs::read(&der)?))?.as_bytes())?;
    ensure!(!verify(&control, "")?.accepted, "openssl accepts a tampered certificate");
    let verdict = verify(&device.leaf, "")?;
    ensure!(verdict.accepted, "{}", verdict.text);
    let text = authority.judge("x509 -noout -text", &[("-in", &device.leaf)])?.text;
    ensure!(text.contains(&format!("Signature Algorithm: {said}")), "not {said}: {text}");

    let field = |name: &str| -> Result<String> {
        let line = text.lines().find(|line| line.contains(name)).context("no such URL")?;
        Ok(line.rsplit("URI:").next().unwrap_or_default().trim().to_owned())
    };
    let (crl_url, ocsp_url) = (field("/crl/")?, field("OCSP - URI:")?);
    let ocsp = || {
        let words = format!("ocsp -no_nonce -resp_text -url {ocsp_url}");
        let files = [
            ("-issuer", device.above.as_path()),
            ("-cert", &device.leaf),
            ("-CAfile", &root),
            ("-verify_other", &device.above),
        ];
        authority.judge(&words, &files)
    };
    let answer = ocsp()?.text;
    ensure!(answer.contains("Response verify OK") && answer.contains("leaf.pem: good"), "{answer}");
    ensure!(answer.contains(&format!("Signature Algorithm: {said}")), "{answer}");

    authority.admin(&["revoke", &device.serial.to_lowercase(), "--reason", "key-compromise", "--yes"])?;
    let answer = ocsp()?.text;
    ensure!(answer.contains("Response verify OK") && answer.contains("leaf.pem: revoked"), "{answer}");
    let end = Instant::now() + Duration::from_secs(20);
    let crl_path = authority.path("crl.pem");
    loop {
        let crl = http::get(&authority.http, http::path_of(&crl_url)?)?.body;
        fs::write(&crl_path, pem("X509 CRL", &crl)?)?;
        let control = authority.write("control-crl.pem", pem("X509 CRL", &tampered(&crl))?.as_bytes())?;
        let judge =
            |crl: &Path| authority.judge("crl -noout -verify -text", &[("-in", crl), ("-CAfile", &device.above)]);
        ensure!(!judge(&control)?.text.contains("verify OK"), "openssl accepts a tampered CRL");
        let verdict = judge(&crl_path)?.text;
        ensure!(
            verdict.contains("verify OK") && verdict.contains(&format!("Signature Algorithm: {said}")),
            "{verdict}"
        );
        if verdict.contains(&device.serial) {
            break;
        }
        ensure!(Instant::now() < end, "no CRL within 20 s:\n{verdict}");
        thread::sleep(Duration::from_millis(200));
    }
    let verdict = verify(&device.leaf, &format!("-crl_check -CRLfile {}", crl_path.display()))?;
    ensure!(!verdict.accepted && verdict.text.contains("revoked"), "{}", verdict.text);
    Ok(())
}

/// A device opens its connection with an ML-DSA key and a certificate of 8 KiB, and reads that certificate.
fn called_with_an_ml_dsa_key(authority: &Authority) -> Result<()> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ML_DSA_87)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "SN-1");
    let csr = authority.write("called.csr", params.serialize_request(&key)?.der())?;
    let device = certify(authority, &csr)?;
    let key = authority.write("called.key", key.serialize_pem().as_bytes())?;
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let mut command = authority.command(&["show", "certificate", &device.serial.to_lowercase(), "--pem"])?;
    command.arg("--server").arg(&authority.grpc).arg("--trust").arg(authority.path("admin/trust.pem"));
    command.arg("--cert").arg(authority.path("device.pem")).arg("--key").arg(key);
    let shown = tools::run(&mut command)?;
    ensure!(shown == fs::read(authority.path("device.pem"))?, "another certificate");
    Ok(())
}

/// Again after a restart: what it signs with is in the journal, not only in the configuration.
fn restarted(authority: &mut Authority) -> Result<()> {
    if let Some(mut service) = authority.service.take() {
        service.kill()?;
        service.wait()?;
    }
    let configuration = fs::read_to_string(authority.path("sealwright.toml"))?;
    let lines = configuration.lines().filter(|line| !line.starts_with("root_key") && !line.starts_with("issuing_key"));
    let without: String = lines.flat_map(|line| [line, "\n"]).collect();
    authority.write("sealwright.toml", without.as_bytes())?;
    authority.serve()
}

#[test]
fn an_authority_that_signs_with_pss() -> Result<()> {
    let mut authority = Authority::start(Kind::SoftHsm, "RSA-3072-PSS", "RSA-2048-PSS", "P-256")?;
    whole_life(&authority, "EC -pkeyopt ec_paramgen_curve:P-256", "rsassaPss")?;
    restarted(&mut authority)?;
    whole_life(&authority, "EC -pkeyopt ec_paramgen_curve:P-256", "rsassaPss")
}

#[test]
fn an_authority_that_signs_with_ml_dsa() -> Result<()> {
    let mut authority = Authority::start(Kind::Kryoptic, "ML-DSA-87", "ML-DSA-87", "ML-DSA-87")?;
    called_with_an_ml_dsa_key(&authority)?;
    whole_life(&authority, "ML-DSA-87", "ML-DSA-87")?;
    restarted(&mut authority)?;
    whole_life(&authority, "ML-DSA-87", "ML-DSA-87")
}

#[test]
fn two_kinds_of_keys_in_one_authority() -> Result<()> {
    let authority = Authority::start(Kind::Kryoptic, "RSA-3072-PSS", "ML-DSA-44", "Ed25519")?;
    whole_life(&authority, "ED25519", "ML-DSA-44")
}
