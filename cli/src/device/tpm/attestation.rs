//! The device's half of TPM attestation: who the TPM is, and the proof that a key lives in it.

use super::{
    TpmAddress, TpmError, TpmKey,
    commands::{Hierarchy, Tpm},
    endorsement::Endorsement,
};
use enrollment::{
    attestation::binding::{Binding, SessionId, activation_mac},
    tpm2::templates::Template,
};
use proto::v1::{TpmCredentialChallenge, TpmEvidence, TpmHello};
use zeroize::Zeroizing;

/// An attestation between hello and proof.
pub struct Attestation {
    address: TpmAddress,
    endorsement: Endorsement,
    ak_public: Vec<u8>,
}

impl Attestation {
    /// Reads the endorsement certificate and makes the attestation key, which is the same each time.
    ///
    /// # Errors
    /// Those of the TPM.
    pub fn begin(address: &TpmAddress) -> Result<Self, TpmError> {
        let mut tpm = Tpm::open(address)?;
        let endorsement = Endorsement::find(&mut tpm)?;
        Self::with_endorsement(address, &mut tpm, endorsement)
    }

    /// The same with an endorsement key that was found already.
    pub(super) fn with_endorsement(
        address: &TpmAddress,
        tpm: &mut Tpm,
        endorsement: Endorsement,
    ) -> Result<Self, TpmError> {
        let template = Template::ATTESTATION_P256.in_public();
        let ak_public = tpm.with_primary(Hierarchy::Endorsement, &template, |_, _, public| Ok(public.to_vec()))?;
        Ok(Self { address: address.clone(), endorsement, ak_public })
    }

    /// What BeginAttestation sends.
    pub fn hello(&self) -> TpmHello {
        TpmHello {
            ek_certificate: self.endorsement.certificate.clone(),
            ek_chain: self.endorsement.chain.clone(),
            ak_public: self.ak_public.clone(),
        }
    }

    /// Answers the challenge: the secret is opened, used once for the activation code, and forgotten; the attestation
    /// key certifies `subject` with `binding`, which the caller has computed itself.
    ///
    /// # Errors
    /// Those of the TPM; [`TpmError::Answer`] for a secret that has not 32 octets.
    pub fn prove(
        &self,
        challenge: &TpmCredentialChallenge,
        session: &SessionId,
        binding: &Binding,
        subject: &TpmKey,
    ) -> Result<TpmEvidence, TpmError> {
        let mut tpm = Tpm::open(&self.address)?;
        let template = Template::ATTESTATION_P256.in_public();
        tpm.with_primary(Hierarchy::Endorsement, &template, |tpm, ak, _| {
            let secret = self.endorsement.with_key(tpm, |tpm, ek, policy| {
                tpm.activate_credential(ak, ek, policy, &challenge.id_object, &challenge.encrypted_secret)
            })?;
            let secret: Zeroizing<[u8; 32]> = Zeroizing::new(
                secret.as_slice().try_into().map_err(|_| TpmError::Answer("the activated secret has not 32 octets"))?,
            );
            let activation_mac = activation_mac(&secret, session, binding).to_vec();
            subject.with_loaded(tpm, |tpm, handle, public| {
                let certified = tpm.certify(handle, ak, &binding.0)?;
                Ok(TpmEvidence {
                    activation_mac,
                    subject_public: public.to_vec(),
                    certify_attest: certified.attest,
                    certify_signature: certified.signature,
                })
            })
        })
    }
}
