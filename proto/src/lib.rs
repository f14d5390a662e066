//! The wire contract of Sealwright: the generated code of the `sealwright.v1` proto files beside this crate.
//!
//! The proto files are the documentation; what is generated here carries their comments.

/// Package `sealwright.v1`.
#[allow(missing_docs, clippy::all, reason = "generated code; the proto files document every field")]
pub mod v1 {
    tonic::include_proto!("sealwright.v1");
}

/// The encoded `FileDescriptorSet` of the package, for gRPC reflection and for tests that walk every method.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sealwright.v1.descriptors"));
