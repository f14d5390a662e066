//! Compiles the proto files without protoc, and keeps the descriptors for reflection.

use prost::Message;
use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 6] = [
    "sealwright/v1/common.proto",
    "sealwright/v1/enrollment.proto",
    "sealwright/v1/certificate.proto",
    "sealwright/v1/revocation.proto",
    "sealwright/v1/authority.proto",
    "sealwright/v1/access.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=sealwright");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("sealwright.v1.descriptors"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
