//! `enrollment.json`: what the device knows about itself and what is going on.

use super::key::KeyKind;
use ca_core::id::{ProfileName, TenantId};
use proto::v1::DeviceIdentity;
use serde::{Deserialize, Serialize};

/// Which request is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestKind {
    /// The first certificate.
    Enroll,
    /// A successor.
    Renew,
}

/// Who the device says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Serial number.
    pub serial_number: String,
    /// Manufacturer; may be empty.
    pub manufacturer: String,
    /// Model; may be empty.
    pub model: String,
}

impl From<DeviceIdentity> for Identity {
    fn from(device: DeviceIdentity) -> Self {
        Self { serial_number: device.serial_number, manufacturer: device.manufacturer, model: device.model }
    }
}

impl From<Identity> for DeviceIdentity {
    fn from(device: Identity) -> Self {
        Self { serial_number: device.serial_number, manufacturer: device.manufacturer, model: device.model }
    }
}

/// A request that is repeated until it is answered: same key, same CSR, same idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingRequest {
    /// Which.
    pub kind: RequestKind,
    /// Its idempotency key.
    pub idempotency_key: String,
    /// Where the new key is.
    pub key: KeyKind,
    /// The PKCS#10 request, DER, hexadecimal.
    #[serde(with = "super::octets")]
    pub csr: Vec<u8>,
}

/// The certificate that is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installed {
    /// The issuer's identifier at the server.
    pub issuer_id: String,
    /// The serial number, hexadecimal.
    pub serial_number: String,
    /// Where its key is.
    pub key: KeyKind,
}

/// `enrollment.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The layout's version: 1.
    pub version: u32,
    /// `host:port`.
    pub server: String,
    /// The tenant.
    pub tenant: TenantId,
    /// The profile.
    pub profile: ProfileName,
    /// Who the device says it is.
    pub device: Option<Identity>,
    /// Whether enrollment was by attestation, so that renewal attests too.
    pub attested: bool,
    /// The certificate in use.
    pub installed: Option<Installed>,
    /// The request on its way.
    pub request: Option<PendingRequest>,
    /// Whether the files of `installed` are being moved to their places.
    pub installing: bool,
    /// The idempotency key of a confirmation that has not been answered.
    pub confirmation: Option<String>,
}

impl Record {
    /// For a device that has nothing yet.
    pub fn new(
        server: String,
        tenant: TenantId,
        profile: ProfileName,
        device: Option<Identity>,
        attested: bool,
    ) -> Self {
        Self {
            version: 1,
            server,
            tenant,
            profile,
            device,
            attested,
            installed: None,
            request: None,
            installing: false,
            confirmation: None,
        }
    }
}
