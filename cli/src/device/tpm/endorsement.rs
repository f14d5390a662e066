//! Finding the endorsement key and its certificate (TCG EK Credential Profile 2.2).

use super::{
    TpmError,
    commands::{Handle, Hierarchy, Tpm},
};
use enrollment::tpm2::{Public, templates::Template};

/// Where a certificate may be, which template makes its key, and where the key is kept if it is persistent.
struct Place {
    certificate: u32,
    template: &'static Template,
    persistent: Handle,
}

/// In the order of preference, which never changes: the key found first is the device's identity.
const PLACES: [Place; 3] = [
    Place { certificate: 0x01c0_0002, template: &Template::EK_RSA_2048, persistent: Handle(0x8101_0001) },
    Place { certificate: 0x01c0_000a, template: &Template::EK_P256, persistent: Handle(0x8101_0002) },
    Place { certificate: 0x01c0_0016, template: &Template::EK_P384, persistent: Handle(0x8101_0016) },
];
/// The certificates between the endorsement certificate and the vendor's root.
const CHAIN: std::ops::RangeInclusive<u32> = 0x01c0_0100..=0x01c0_01ff;
const MAX_CHAIN: usize = 8;

/// The endorsement key certificate, what is above it, and how to get at its key.
pub struct Endorsement {
    /// DER.
    pub certificate: Vec<u8>,
    /// DER, in the order of the TPM.
    pub chain: Vec<Vec<u8>>,
    place: &'static Place,
}

impl Endorsement {
    /// Looks for a certificate.
    ///
    /// # Errors
    /// [`TpmError::NoEndorsementCertificate`], and those of the TPM.
    pub fn find(tpm: &mut Tpm) -> Result<Self, TpmError> {
        for at in 0..PLACES.len() {
            if let Some(found) = Self::at(tpm, at)? {
                return Ok(found);
            }
        }
        Err(TpmError::NoEndorsementCertificate)
    }

    pub(super) fn at(tpm: &mut Tpm, place: usize) -> Result<Option<Self>, TpmError> {
        let Some(place) = PLACES.get(place) else { return Ok(None) };
        let Some(contents) = tpm.nv_read(place.certificate)? else { return Ok(None) };
        // What follows the certificate is padding.
        let Some((certificate, _)) = split_der(&contents) else { return Ok(None) };
        Ok(Some(Self { certificate: certificate.to_vec(), chain: chain(tpm)?, place }))
    }

    /// Lets `f` use the key; the flag says whether it wants a policy session.
    ///
    /// # Errors
    /// Those of the TPM and of `f`.
    pub fn with_key<T>(
        &self,
        tpm: &mut Tpm,
        f: impl FnOnce(&mut Tpm, Handle, bool) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let policy = self.place.template.needs_policy();
        // Making an RSA key takes long, so one that is there is used, if it is made from the template.
        if let Some(public) = tpm.read_public(self.place.persistent)?
            && Public::parse(&public)
                .is_ok_and(|public| self.place.template.public(public.key()).is_ok_and(|expected| expected == public))
        {
            return f(tpm, self.place.persistent, policy);
        }
        let template = self.place.template.in_public();
        tpm.with_primary(Hierarchy::Endorsement, &template, |tpm, handle, _| f(tpm, handle, policy))
    }
}

fn chain(tpm: &mut Tpm) -> Result<Vec<Vec<u8>>, TpmError> {
    // One sequence of certificates, cut into indices wherever one was full.
    let mut contents = Vec::new();
    for index in CHAIN {
        match tpm.nv_read(index)? {
            Some(part) => contents.extend(part),
            None => break,
        }
    }
    let mut certificates = Vec::new();
    let mut rest = contents.as_slice();
    while let Some((certificate, after)) = split_der(rest)
        && certificates.len() < MAX_CHAIN
    {
        certificates.push(certificate.to_vec());
        rest = after;
    }
    Ok(certificates)
}

/// The SEQUENCE at the front, and what follows it.
fn split_der(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = match bytes {
        [0x30, 0x82, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
        [0x30, 0x81, length, ..] => 3 + usize::from(*length),
        [0x30, length @ 0..=0x7f, ..] => 2 + usize::from(*length),
        _ => return None,
    };
    bytes.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_cut_off() {
        assert_eq!(split_der(&[0x30, 1, 7, 0xff, 0xff]), Some((&[0x30, 1, 7][..], &[0xff, 0xff][..])));
        let long = [&[0x30, 0x82, 1, 0][..], &[9; 256], &[0xff]].concat();
        assert_eq!(split_der(&long), Some((&long[..260], &[0xff][..])));
        for bad in [&[][..], &[0x30], &[0x30, 2, 0], &[0xff, 0xff], &[0x30, 0x83, 0, 0, 1, 5]] {
            assert_eq!(split_der(bad), None);
        }
    }
}
