//! The keeper's and signer's program for this crate's own tests and benchmarks; in the product it is `sealwright signer`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("keeper") => hsm::keeper::run(|_| Err("no shares here".to_owned())),
        Some("worker") => hsm::signer::run(),
        _ => ExitCode::from(2),
    }
}
