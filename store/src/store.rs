//! The store: one writer, many readers.

use crate::{change::Change, entry::*, error::{OpenError, StoreError}, report::{OpenReport, Statistics}};
use ca_core::{id::*, serial::SerialNumber, time::UnixTime};
use std::path::Path;

/// How to open a store.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Make the directory and an empty journal where there is none.
    pub create: bool,
}

/// The journal and its index. Clones share them; the last one to go closes them.
#[derive(Clone, Debug)]
pub struct Store;

impl Store {
    pub fn open(dir: &Path, options: OpenOptions) -> Result<(Store, OpenReport), OpenError> { todo!() }
    pub fn submit<C: Change>(&self, change: C, now: UnixTime, done: impl FnOnce(Result<C::Outcome, StoreError>) + Send + 'static) { todo!() }
    pub fn commit<C: Change>(&self, change: C, now: UnixTime) -> Result<C::Outcome, StoreError> { todo!() }
    pub fn high_water(&self) -> UnixTime { todo!() }
    pub fn close(self) { todo!() }
    pub fn statistics(&self) -> Statistics { todo!() }
    pub fn certificate(&self, issuer: &IssuerId, serial: &SerialNumber) -> Result<Option<CertificateEntry>, StoreError> { todo!() }
    pub fn request(&self, tenant: &TenantId, requester: &str, key: &IdempotencyKey) -> Result<Option<RecordedRequest>, StoreError> { todo!() }
    pub fn certificates(&self, tenant: &TenantId, filter: &CertificateFilter, after: Option<u64>, limit: usize, scan_limit: usize) -> Result<Page<CertificateEntry>, StoreError> { todo!() }
    pub fn device(&self, tenant: &TenantId, device: &DeviceId) -> Result<Option<DeviceEntry>, StoreError> { todo!() }
    pub fn devices(&self, tenant: &TenantId, filter: &DeviceFilter, after: Option<u64>, limit: usize, scan_limit: usize) -> Result<Page<DeviceEntry>, StoreError> { todo!() }
    pub fn principal(&self, tenant: &TenantId, principal: &PrincipalId) -> Result<Option<PrincipalEntry>, StoreError> { todo!() }
    pub fn principals(&self, tenant: &TenantId, after: Option<u64>, limit: usize) -> Result<Page<PrincipalEntry>, StoreError> { todo!() }
    pub fn token_by_secret(&self, secret_sha256: &[u8; 32]) -> Result<Option<TokenEntry>, StoreError> { todo!() }
    pub fn issuers(&self) -> Result<Vec<IssuerEntry>, StoreError> { todo!() }
    pub fn server_identity(&self) -> Result<Option<ServerIdentityEntry>, StoreError> { todo!() }
    pub fn open_intents(&self) -> Result<Vec<CertificateEntry>, StoreError> { todo!() }
    pub fn revoked(&self, issuer: &IssuerId, visit: &mut dyn FnMut(RevokedEntry)) -> Result<u64, StoreError> { todo!() }
    pub fn crl(&self, issuer: &IssuerId) -> Result<Option<CrlEntry>, StoreError> { todo!() }
}
