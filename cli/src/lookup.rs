//! From a serial number to the certificate that it names.

use crate::error::{Exit, Problem};
use ca_core::serial::SerialNumber;
use proto::v1::{
    CertificateRef, GetCertificateRequest, Issuer, ListIssuersRequest,
    authority_service_client::AuthorityServiceClient, certificate_service_client::CertificateServiceClient,
};
use tonic::{Code, transport::Channel};

/// A certificate, as the command line names it.
#[derive(Clone, Debug, clap::Args)]
pub struct CertificateArgs {
    /// The serial number in hexadecimal, colons allowed
    #[arg(value_name = "SERIAL")]
    pub serial: SerialNumber,
    #[command(flatten)]
    pub issuer: IssuerArgs,
}

/// An issuer, as the command line names it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct IssuerArgs {
    /// The issuer's identifier; only needed when two issuers used the same serial number
    #[arg(long, value_name = "ID")]
    pub issuer: Option<String>,
}

/// Names the certificate in full: without an issuer, the tenant's issuers are asked who knows the serial number.
///
/// # Errors
/// A [`Problem`] when no issuer knows it or several do; the status of a request that failed.
pub async fn reference(
    channel: &Channel,
    serial: &SerialNumber,
    issuer: &IssuerArgs,
) -> anyhow::Result<CertificateRef> {
    let name = |issuer_id: String| CertificateRef { issuer_id, serial_number: serial.to_string() };
    if let Some(id) = &issuer.issuer {
        return Ok(name(id.clone()));
    }
    let issuers =
        AuthorityServiceClient::new(channel.clone()).list_issuers(ListIssuersRequest {}).await?.into_inner().issuers;
    if let [only] = issuers.as_slice() {
        return Ok(name(only.issuer_id.clone()));
    }
    let mut client = CertificateServiceClient::new(channel.clone());
    let mut found = Vec::new();
    for Issuer { issuer_id, .. } in issuers {
        let request = GetCertificateRequest { r#ref: Some(name(issuer_id.clone())) };
        match client.get_certificate(request).await {
            Ok(_) => found.push(issuer_id),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(status.into()),
        }
    }
    Ok(name(exactly_one(serial, found)?))
}

fn exactly_one(serial: &SerialNumber, mut found: Vec<String>) -> Result<String, Problem> {
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(Problem::new(
            Exit::NotFound,
            format!("no issuer of your tenant has a certificate {serial}"),
            "Check the serial number; `sealwright list certificates` shows those that exist.",
        )),
        (Some(only), true) => Ok(only),
        (Some(last), false) => Err(Problem::usage(
            format!("the issuers {} and {last} both have a certificate {serial}", found.join(", ")),
            "Say which one with --issuer.",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_must_lead_to_one_issuer() {
        let serial: SerialNumber = "4F:01".parse().unwrap();
        assert_eq!(exactly_one(&serial, vec![]).unwrap_err().exit, Exit::NotFound);
        assert_eq!(exactly_one(&serial, vec!["a".into()]).unwrap(), "a");
        let error = exactly_one(&serial, vec!["a".into(), "b".into()]).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(error.what, "the issuers a and b both have a certificate 4f01");
    }
}
