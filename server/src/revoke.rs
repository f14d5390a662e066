//! RevocationService: revokes, and tells the status that CRL and OCSP are made from.

use crate::{access::Role, ca::Ca, convert, error::Failure, identity::Peer, inventory::may_see, limits, request};
use proto::v1::{self, revocation_service_server::RevocationService, revoke_request::Target};
use std::sync::Arc;
use store::{CertificateEntry, Holder, Revoke, RevokeTarget};
use tonic::{Request, Response, Status};

/// The service.
pub struct Revoker {
    /// The authority.
    pub ca: Arc<Ca>,
}

impl Revoker {
    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<v1::RevokeResponse, Failure> {
        let peer = request::peer(&self.ca, &request)?;
        let tenant = request::own_tenant(&peer)?;
        let mut wanted = request.into_inner();
        let idempotency_key = request::idempotency_key(&std::mem::take(&mut wanted.idempotency_key))?;
        let target = match &wanted.target {
            Some(Target::Ref(reference)) => {
                let entry = request::certificate(&self.ca, &tenant, Some(reference))?;
                may_revoke(&peer, &entry)?;
                RevokeTarget::Certificate(entry.issuer, entry.serial)
            }
            Some(Target::DeviceId(id)) => RevokeTarget::Device(request::id("device_id", id)?),
            None => return Err(Failure::field("target", "MISSING_FIELD", "name a certificate or a device")),
        };
        let invalidity_date =
            wanted.invalidity_date.as_ref().map(|t| request::time("invalidity_date", t)).transpose()?;
        if invalidity_date.is_some_and(|t| t > self.ca.now()) {
            return Err(Failure::field("invalidity_date", "INVALID_FIELD", "invalidity_date lies in the future"));
        }
        let revoked = self
            .ca
            .commit(Revoke {
                tenant,
                target,
                reason: reason(wanted.reason)?,
                invalidity_date,
                by: peer.requester(),
                comment: request::text("comment", &wanted.comment, limits::COMMENT)?,
                idempotency_key,
                request_sha256: request::digest("Revoke", &wanted),
            })
            .await?;
        metrics::counter!("sealwright_revoked_total").increment(revoked.len() as u64);
        let certificates = revoked.iter().filter(|e| e.signature.is_some()).map(convert::certificate);
        Ok(v1::RevokeResponse { certificates: certificates.collect::<Result<_, _>>()? })
    }

    fn status(&self, request: Request<v1::GetStatusRequest>) -> Result<v1::GetStatusResponse, Failure> {
        let peer = request::peer(&self.ca, &request)?;
        let tenant = request::own_tenant(&peer)?;
        let entry = request::certificate(&self.ca, &tenant, request.get_ref().r#ref.as_ref())?;
        if !may_see(&peer, &entry) {
            return Err(Failure::not_found("certificate"));
        }
        let crl = self.ca.publisher.current(&entry.issuer);
        let (status, on_crl) = match &entry.revocation {
            None => (v1::Status::Good, crl.as_ref().is_some_and(|c| !c.lists(&entry.serial))),
            Some(_) => (v1::Status::Revoked, crl.as_ref().is_some_and(|c| c.lists(&entry.serial))),
        };
        Ok(v1::GetStatusResponse {
            status: status.into(),
            as_of: Some(convert::timestamp(self.ca.now())),
            revocation: entry.revocation.as_ref().map(convert::revocation),
            crl_number: crl.as_ref().map(|c| c.number).unwrap_or_default(),
            on_crl,
        })
    }
}

/// The authority's own certificates are replaced by its own procedures; revoking the issuing CA by a slip at 3 a.m.
/// would end every device at once. Principals are an admin's business, or an operator could lock the admins out.
fn may_revoke(peer: &Peer, entry: &CertificateEntry) -> Result<(), Failure> {
    match &entry.holder {
        Holder::Principal { role: 0, .. } => Err(Failure::denied(
            "SERVICE_CERTIFICATE",
            "this is a certificate of the service itself; it is not revoked here",
        )
        .at("ref")),
        Holder::Principal { .. } if peer.role() != Role::Admin => {
            Err(Failure::denied("ROLE_NOT_ALLOWED", "only an admin may revoke the certificate of a principal")
                .at("ref"))
        }
        Holder::Device { .. } | Holder::Principal { .. } => Ok(()),
    }
}

fn reason(code: i32) -> Result<u8, Failure> {
    use v1::RevocationReason as R;
    match R::try_from(code) {
        Ok(
            R::Unspecified
            | R::KeyCompromise
            | R::AffiliationChanged
            | R::Superseded
            | R::CessationOfOperation
            | R::PrivilegeWithdrawn,
        ) => Ok(code.try_into().unwrap_or_default()),
        Err(_) => Err(Failure::field("reason", "INVALID_FIELD", "this is no reason for an end entity's revocation")),
    }
}

#[tonic::async_trait]
impl RevocationService for Revoker {
    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        self.revoke(request).await.map(Response::new).map_err(|f| f.into_status("Revoke"))
    }
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        self.status(request).map(Response::new).map_err(|f| f.into_status("GetStatus"))
    }
}
