//! CertificateService: reads certificates and devices of the caller's tenant.

use crate::{access::Role, ca::Ca, convert, error::Failure, identity::Peer, limits, request, request::page_token};
use ca_core::id::DeviceId;
use proto::v1::{self, certificate_service_server::CertificateService};
use std::sync::Arc;
use store::{CertificateEntry, CertificateFilter, CertificateState, DeviceFilter, Holder};
use tonic::{Request, Response, Status};

/// The service.
pub struct Inventory {
    /// The authority.
    pub ca: Arc<Ca>,
}

/// Whether the peer may see this certificate: readers all of their tenant, a station what it enrolled, a device its own.
pub fn may_see(peer: &Peer, entry: &CertificateEntry) -> bool {
    match peer {
        Peer::Anonymous => false,
        Peer::Principal { role: Role::Station, .. } => entry.requester == peer.requester(),
        Peer::Principal { .. } => true,
        Peer::Device { id, .. } => matches!(&entry.holder, Holder::Device { id: holder, .. } if holder == id),
    }
}

impl Inventory {
    fn get(&self, request: Request<v1::GetCertificateRequest>) -> Result<v1::GetCertificateResponse, Failure> {
        let peer = request::peer(&self.ca, &request)?;
        let tenant = request::own_tenant(&peer)?;
        let entry = request::certificate(&self.ca, &tenant, request.get_ref().r#ref.as_ref())?;
        if !may_see(&peer, &entry) {
            return Err(Failure::not_found("certificate"));
        }
        let convert::WithChain { certificate, chain, pem } = convert::with_chain(&self.ca, &entry)?;
        Ok(v1::GetCertificateResponse { certificate: Some(certificate), chain, pem })
    }

    fn list(&self, request: Request<v1::ListCertificatesRequest>) -> Result<v1::ListCertificatesResponse, Failure> {
        let tenant = request::own_tenant(&request::peer(&self.ca, &request)?)?;
        let mut wanted = request.into_inner();
        let limit = request::page_size(wanted.page_size)?;
        let token = std::mem::take(&mut wanted.page_token);
        wanted.page_size = 0;
        let after = page_token::decode(&wanted, &token)?;
        let filter = CertificateFilter {
            device: request::optional_id("device_id", &wanted.device_id)?,
            profile: request::optional_id("profile", &wanted.profile)?,
            state: state_filter(wanted.state)?,
            issuer: request::optional_id("issuer_id", &wanted.issuer_id)?,
            principal: request::optional_id("principal_id", &wanted.principal_id)?,
        };
        let mut page = self.ca.store.certificates(&tenant, &filter, after, limit, limits::PAGE_SCAN)?;
        let fit = fitting(page.items.iter().map(octets), limits::PAGE_OCTETS);
        if fit < page.items.len() {
            page = self.ca.store.certificates(&tenant, &filter, after, fit, limits::PAGE_SCAN)?;
        }
        Ok(v1::ListCertificatesResponse {
            certificates: issued(&page.items)?,
            next_page_token: page_token::encode(&wanted, page.next),
        })
    }

    fn device(&self, request: Request<v1::GetDeviceRequest>) -> Result<v1::GetDeviceResponse, Failure> {
        let peer = request::peer(&self.ca, &request)?;
        let tenant = request::own_tenant(&peer)?;
        let id: DeviceId = request::id("device_id", &request.get_ref().device_id)?;
        if matches!(&peer, Peer::Device { id: own, .. } if *own != id) {
            return Err(Failure::not_found("device"));
        }
        let device = self.ca.store.device(&tenant, &id)?.ok_or_else(|| Failure::not_found("device"))?;
        let filter = CertificateFilter { device: Some(id), ..CertificateFilter::default() };
        let mut newest = Vec::new();
        let mut after = None;
        loop {
            let page = self.ca.store.certificates(&tenant, &filter, after, limits::PAGE_MAX, limits::PAGE_SCAN)?;
            newest.extend(page.items);
            let surplus = newest.len().saturating_sub(limits::DEVICE_CERTIFICATES);
            newest.drain(..surplus);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        newest.reverse();
        Ok(v1::GetDeviceResponse { device: Some(convert::device(&device)), certificates: issued(&newest)? })
    }

    fn devices(&self, request: Request<v1::ListDevicesRequest>) -> Result<v1::ListDevicesResponse, Failure> {
        let tenant = request::own_tenant(&request::peer(&self.ca, &request)?)?;
        let mut wanted = request.into_inner();
        let limit = request::page_size(wanted.page_size)?;
        let token = std::mem::take(&mut wanted.page_token);
        wanted.page_size = 0;
        let after = page_token::decode(&wanted, &token)?;
        let prefix = request::text("device_id_prefix", &wanted.device_id_prefix, DeviceId::MAX_LEN)?;
        let model = request::text("model", &wanted.model, 64)?;
        let some = |text: String| (!text.is_empty()).then_some(text);
        let filter = DeviceFilter { prefix: some(prefix), model: some(model) };
        let page = self.ca.store.devices(&tenant, &filter, after, limit, limits::PAGE_SCAN)?;
        Ok(v1::ListDevicesResponse {
            devices: page.items.iter().map(convert::device).collect(),
            next_page_token: page_token::encode(&wanted, page.next),
        })
    }
}

/// An intent without a certificate is nobody's business but the journal's.
fn issued(entries: &[CertificateEntry]) -> Result<Vec<v1::Certificate>, Failure> {
    entries.iter().filter(|e| e.signature.is_some()).map(convert::certificate).collect()
}

fn octets(entry: &CertificateEntry) -> usize {
    entry.tbs.len() + entry.signature.as_ref().map_or(0, Vec::len)
}

/// How many of the first of these lengths make at most `limit` together; at least one.
fn fitting(lengths: impl Iterator<Item = usize>, limit: usize) -> usize {
    let sums = lengths.scan(0usize, |sum, length| {
        *sum = sum.saturating_add(length);
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= limit).count().max(1)
}

fn state_filter(state: i32) -> Result<Option<CertificateState>, Failure> {
    match v1::CertificateState::try_from(state) {
        Ok(v1::CertificateState::Unspecified) => Ok(None),
        Ok(v1::CertificateState::Issued) => Ok(Some(CertificateState::Issued)),
        Ok(v1::CertificateState::Installed) => Ok(Some(CertificateState::Installed)),
        Ok(v1::CertificateState::Revoked) => Ok(Some(CertificateState::Revoked)),
        Err(_) => Err(Failure::field("state", "INVALID_FIELD", "this is no certificate state")),
    }
}

fn answer<T>(rpc: &'static str, result: Result<T, Failure>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|f| f.into_status(rpc))
}

#[tonic::async_trait]
impl CertificateService for Inventory {
    async fn get_certificate(
        &self,
        request: Request<v1::GetCertificateRequest>,
    ) -> Result<Response<v1::GetCertificateResponse>, Status> {
        answer("GetCertificate", self.get(request))
    }
    async fn list_certificates(
        &self,
        request: Request<v1::ListCertificatesRequest>,
    ) -> Result<Response<v1::ListCertificatesResponse>, Status> {
        // Up to 20,000 index entries: off the connection's thread.
        answer("ListCertificates", tokio::task::block_in_place(|| self.list(request)))
    }
    async fn get_device(
        &self,
        request: Request<v1::GetDeviceRequest>,
    ) -> Result<Response<v1::GetDeviceResponse>, Status> {
        answer("GetDevice", tokio::task::block_in_place(|| self.device(request)))
    }
    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Result<Response<v1::ListDevicesResponse>, Status> {
        answer("ListDevices", tokio::task::block_in_place(|| self.devices(request)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_before_it_is_too_long() {
        let fits = |lengths: &[usize]| fitting(lengths.iter().copied(), 10);
        assert_eq!(fits(&[4, 4, 4]), 2);
        assert_eq!(fits(&[5, 5, 1]), 2);
        assert_eq!(fits(&[5, 5]), 2);
        // One is always given, or nobody would ever get past it.
        assert_eq!(fits(&[11, 1]), 1);
        // A full page of the largest certificates with what is said about them stays within a message.
        let largest = fitting(std::iter::repeat_n(8_300, limits::PAGE_MAX), limits::PAGE_OCTETS);
        assert!(largest < limits::PAGE_MAX && largest * (8_300 + 4_096) < limits::RESPONSE_BYTES);
    }
}
