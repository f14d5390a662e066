//! Issuers, their responders, and the server's own identity.

use super::{Change, Decided, sealed::Decide};
use crate::{
    entry::{IssuerEntry, IssuerState, IssuerUrls},
    error::StoreError,
    event::{IssuerAdded, IssuerStateSet, OcspResponderSet, ServerIdentitySet},
    index::{key, row::IssuerRow},
    read::{algorithm_number, state_number},
    view::View,
};
use ca_core::{
    id::{IssuerId, TenantId},
    key::SignatureAlgorithm,
    time::UnixTime,
};

/// Adds an issuer. Refused with `AlreadyExists` when the name was ever used.
#[derive(Clone, Debug)]
pub struct AddIssuer {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name.
    pub issuer: IssuerId,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// The certificates above it, DER, nearest first, root last.
    pub chain: Vec<Vec<u8>>,
    /// `CKA_ID` of its key.
    pub key_id: Vec<u8>,
    /// What it signs with; `None`: its key's usual algorithm.
    pub signature_algorithm: Option<SignatureAlgorithm>,
    /// Its OCSP responder's certificate, DER.
    pub ocsp_certificate: Vec<u8>,
    /// `CKA_ID` of that responder's key.
    pub ocsp_key_id: Vec<u8>,
    /// Where its products are published.
    pub urls: IssuerUrls,
    /// Its place in its life.
    pub state: IssuerState,
}

/// Gives an issuer a new OCSP responder certificate.
#[derive(Clone, Debug)]
pub struct SetOcspResponder {
    /// The issuer.
    pub issuer: IssuerId,
    /// The responder's certificate, DER.
    pub certificate: Vec<u8>,
    /// `CKA_ID` of its key.
    pub key_id: Vec<u8>,
}

/// Moves an issuer on in its life. Never back: `NotRising`.
#[derive(Clone, Debug)]
pub struct SetIssuerState {
    /// The issuer.
    pub issuer: IssuerId,
    /// Its new place.
    pub state: IssuerState,
}

/// Records the server's own TLS certificate.
#[derive(Clone, Debug)]
pub struct SetServerIdentity {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// `CKA_ID` of its key.
    pub key_id: Vec<u8>,
}

fn row(view: &View<'_>, issuer: &IssuerId) -> Result<IssuerRow, StoreError> {
    view.row(&key::issuer(issuer.as_str()))?.ok_or(StoreError::NotFound("issuer"))
}

fn entry(view: &View<'_>, issuer: &IssuerId) -> Result<IssuerEntry, StoreError> {
    view.issuer(issuer.as_str())?.ok_or(StoreError::NotFound("issuer"))
}

impl Change for AddIssuer {
    type Outcome = IssuerEntry;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<IssuerEntry, StoreError> {
        entry(view, &self.issuer)
    }
}

impl Decide for AddIssuer {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        if view.has(&key::issuer(self.issuer.as_str()))? {
            return Err(StoreError::AlreadyExists("issuer"));
        }
        let event = IssuerAdded {
            issuer: self.issuer.as_str().to_owned(),
            certificate: self.certificate.clone(),
            chain: self.chain.clone(),
            key_id: self.key_id.clone(),
            ocsp_certificate: self.ocsp_certificate.clone(),
            ocsp_key_id: self.ocsp_key_id.clone(),
            crl_url: self.urls.crl.clone(),
            ocsp_url: self.urls.ocsp.clone(),
            ca_issuers_url: self.urls.ca_issuers.clone(),
            state: state_number(self.state),
            signature_algorithm: self.signature_algorithm.map(algorithm_number).unwrap_or_default(),
        };
        Ok(Decided { tenant: self.tenant.as_str().to_owned(), events: vec![event.into()] })
    }
}

impl Change for SetOcspResponder {
    type Outcome = IssuerEntry;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<IssuerEntry, StoreError> {
        entry(view, &self.issuer)
    }
}

impl Decide for SetOcspResponder {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        let tenant = row(view, &self.issuer)?.tenant;
        let event = OcspResponderSet {
            issuer: self.issuer.as_str().to_owned(),
            certificate: self.certificate.clone(),
            key_id: self.key_id.clone(),
        };
        Ok(Decided { tenant, events: vec![event.into()] })
    }
}

impl Change for SetIssuerState {
    type Outcome = IssuerEntry;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<IssuerEntry, StoreError> {
        entry(view, &self.issuer)
    }
}

impl Decide for SetIssuerState {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        let row = row(view, &self.issuer)?;
        let state = state_number(self.state);
        if state < row.state {
            return Err(StoreError::NotRising("an issuer's state"));
        }
        if state == row.state {
            return Ok(Decided::default());
        }
        let event = IssuerStateSet { issuer: self.issuer.as_str().to_owned(), state };
        Ok(Decided { tenant: row.tenant, events: vec![event.into()] })
    }
}

impl Change for SetServerIdentity {
    type Outcome = ();

    fn outcome(&self, _: &View<'_>, _: bool) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Decide for SetServerIdentity {
    fn decide(&self, _: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        let event = ServerIdentitySet { chain: self.chain.clone(), key_id: self.key_id.clone() };
        Ok(Decided { tenant: String::new(), events: vec![event.into()] })
    }
}
