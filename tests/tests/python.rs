//! A client in another language, from the proto files alone.

use anyhow::{Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use tests::{ca::Ca, tools};

/// A Python with grpcio and grpcio-tools, or why there is none. Kept beside the build for the next run.
fn python() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-client");
    let python = folder.join("bin/python");
    let usable = |python: &Path| {
        tools::ask(Command::new(python).args(["-c", "import grpc, grpc_tools.protoc"])).is_ok_and(|v| v.accepted)
    };
    if usable(&python) {
        return Ok(python);
    }
    let steps = [
        tools::run(Command::new("python3").args(["-m", "venv"]).arg(&folder)),
        tools::run(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--retries",
            "1",
            "--timeout",
            "15",
            "grpcio",
            "grpcio-tools",
        ])),
    ];
    for step in steps {
        step.map_err(|error| format!("{error:#}"))?;
    }
    if usable(&python) { Ok(python) } else { Err("grpcio does not load".to_owned()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_enrolls_a_device() -> Result<()> {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            eprintln!("skipped: no Python with grpcio: {why}");
            return Ok(());
        }
    };
    let ca = Ca::start()?;
    let folder = tempfile::tempdir()?;
    let example = tools::repository().join("docs/examples/enroll.py");
    let output =
        tools::run(Command::new(python).arg(example).arg(ca.directory()).arg("SN-PYTHON").current_dir(folder.path()))?;
    let output = String::from_utf8(output)?;
    ensure!(output.contains("serial number"), "{output}");
    let all = ca.role("auditor").await?.all_certificates().await?;
    let found: Vec<_> = all.iter().filter(|c| c.device_id == "SN-PYTHON").collect();
    assert_eq!(found.len(), 1);
    let verdict = tools::ask(
        Command::new("openssl")
            .args(["verify", "-x509_strict", "-CAfile"])
            .arg(ca.roots(None)?.1)
            .arg("-untrusted")
            .arg(folder.path().join("SN-PYTHON.pem"))
            .arg(folder.path().join("SN-PYTHON.pem")),
    )?;
    ensure!(verdict.accepted, "{}", verdict.text);
    ca.finish()
}
