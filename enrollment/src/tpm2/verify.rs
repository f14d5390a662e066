//! The verifier for TPM 2.0 evidence: endorsement key, attestation key, TPM2_Certify of the request's key.

use super::{
    attest::{Attest, Attested, Signature, verify_signature},
    attributes::Attributes,
    credential::make_credential,
    ek::EndorsementKey,
    structures::{HashAlgorithm, MAX_STRUCTURE, Public, Scheme, TpmError},
};
use crate::attestation::{
    AttestationResult, ChallengeBody, ChallengeContext, Evidence, EvidenceError, EvidenceVerifier, Format, FormatState,
    Hello, VerifyContext,
    binding::{activation_mac_matches, length},
    claims::{ClaimName, ClaimValue, Claims, Ternary},
    session::Session,
    trust::TrustPath,
};
use sha2::{Digest, Sha256};
use std::fmt;
use zeroize::Zeroizing;

/// What a TPM 2.0 says before the challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tpm2Hello {
    /// The endorsement key certificate, DER, at most 16 KiB, with or without NV padding.
    pub ek_certificate: Vec<u8>,
    /// Intermediate certificates, DER, at most 8 of 16 KiB.
    pub ek_chain: Vec<Vec<u8>>,
    /// The attestation key's TPMT_PUBLIC, at most 1 KiB.
    pub ak_public: Vec<u8>,
}

impl Tpm2Hello {
    /// SHA-256 over all fields: tells a repetition from another hello.
    pub fn sha256(&self) -> [u8; 32] {
        let mut fields: Vec<&[u8]> = vec![&self.ek_certificate, &self.ak_public];
        fields.extend(self.ek_chain.iter().map(Vec::as_slice));
        digest_of(&fields)
    }
}

/// TPM 2.0 evidence as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tpm2Evidence {
    /// HMAC-SHA256 under the activated secret, 32 octets.
    pub activation_mac: Vec<u8>,
    /// TPMT_PUBLIC of the request's key, at most 1 KiB.
    pub subject_public: Vec<u8>,
    /// TPMS_ATTEST of TPM2_Certify, at most 1 KiB.
    pub certify_attest: Vec<u8>,
    /// TPMT_SIGNATURE over it by the attestation key, at most 1 KiB.
    pub certify_signature: Vec<u8>,
}

impl Tpm2Evidence {
    fn check_lengths(&self) -> Result<(), EvidenceError> {
        for (field, value, limit) in [
            ("activation_mac", &self.activation_mac, 32),
            ("subject_public", &self.subject_public, MAX_STRUCTURE),
            ("certify_attest", &self.certify_attest, MAX_STRUCTURE),
            ("certify_signature", &self.certify_signature, MAX_STRUCTURE),
        ] {
            if value.len() > limit {
                return Err(EvidenceError::TooLong(field));
            }
        }
        Ok(())
    }

    fn sha256(&self) -> [u8; 32] {
        digest_of(&[&self.activation_mac, &self.subject_public, &self.certify_attest, &self.certify_signature])
    }
}

fn digest_of(fields: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for field in fields {
        digest.update(length(field));
        digest.update(field);
    }
    digest.finalize().into()
}

/// What is kept between challenge and evidence. The secret is erased on drop and never shown.
pub struct Tpm2State {
    secret: Zeroizing<[u8; 32]>,
    ak: Public,
    ek_sha256: [u8; 32],
    trust: Vec<TrustPath>,
    vendor: Option<String>,
    model: Option<String>,
    version: Option<String>,
}

#[cfg(test)]
impl Tpm2State {
    /// Without a trust path, so that no evidence passes.
    pub(crate) fn new(secret: [u8; 32], ak: Public, ek_sha256: [u8; 32]) -> Self {
        let secret = Zeroizing::new(secret);
        Self { secret, ak, ek_sha256, trust: Vec::new(), vendor: None, model: None, version: None }
    }
}

impl fmt::Debug for Tpm2State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tpm2State").field("ek_sha256", &hex::encode(self.ek_sha256)).finish_non_exhaustive()
    }
}

/// Whether a key is fit to attest: made by its TPM, never leaving it, and signing only what the TPM states.
///
/// Activation alone does not show this: a key that signs anything can be activated too, and then signs a forged
/// TPMS_ATTEST for any key.
///
/// # Errors
/// [`TpmError::Invalid`] names the rule that does not hold.
pub fn check_attestation_key(ak: &Public) -> Result<(), TpmError> {
    let wanted = Attributes::FIXED_TPM
        .with(Attributes::FIXED_PARENT)
        .with(Attributes::SENSITIVE_DATA_ORIGIN)
        .with(Attributes::RESTRICTED)
        .with(Attributes::SIGN);
    let refused = Attributes::DECRYPT.with(Attributes::ENCRYPTED_DUPLICATION).with(Attributes::X509_SIGN);
    if !ak.attributes().has_all(wanted) {
        let rule = "an attestation key must be fixedTPM, fixedParent, sensitiveDataOrigin, restricted and sign";
        return Err(TpmError::Invalid(rule));
    }
    if ak.attributes().has_any(refused) {
        return Err(TpmError::Invalid("an attestation key must not be decrypt, encryptedDuplication or x509sign"));
    }
    if ak.symmetric_bits().is_some() {
        return Err(TpmError::Invalid("an attestation key has no symmetric algorithm"));
    }
    match ak.scheme() {
        Some(Scheme::Ecdsa(HashAlgorithm::Sha256 | HashAlgorithm::Sha384)) => Ok(()),
        Some(Scheme::RsaSsa(HashAlgorithm::Sha256 | HashAlgorithm::Sha384)) => Ok(()),
        Some(Scheme::RsaPss(_)) => {
            Err(TpmError::Invalid("RSAPSS attestation keys are not supported; use RSASSA or ECDSA"))
        }
        Some(_) => Err(TpmError::Invalid("an attestation key signs with SHA-256 or SHA-384")),
        None => Err(TpmError::Invalid("an attestation key must have a fixed signing scheme")),
    }
}

/// Whether a key is fit for a certificate: made by its TPM, never leaving it, and signing what its owner gives it.
///
/// # Errors
/// [`TpmError::Invalid`] names the rule that does not hold.
pub fn check_subject_key(subject: &Public) -> Result<(), TpmError> {
    let wanted = Attributes::FIXED_TPM
        .with(Attributes::FIXED_PARENT)
        .with(Attributes::SENSITIVE_DATA_ORIGIN)
        .with(Attributes::SIGN);
    if !subject.attributes().has_all(wanted) {
        let rule = "the key must be fixedTPM, fixedParent, sensitiveDataOrigin and sign";
        return Err(TpmError::Invalid(rule));
    }
    if subject.attributes().has_any(Attributes::RESTRICTED.with(Attributes::ENCRYPTED_DUPLICATION)) {
        return Err(TpmError::Invalid("the key must not be restricted or encryptedDuplication"));
    }
    Ok(())
}

/// Verifies a TPM2_Certify of `subject_public` by `ak` over `binding`, and gives the certified key.
///
/// # Errors
/// [`EvidenceError`] names the field and the rule.
pub fn verify_certify(
    ak: &Public,
    subject_public: &[u8],
    attest: &[u8],
    signature: &[u8],
    binding: &[u8; 32],
) -> Result<Public, EvidenceError> {
    let at = |field| move |error| EvidenceError::Structure { field, error };
    check_attestation_key(ak).map_err(at("ak_public"))?;
    let signature = Signature::parse(signature).map_err(at("certify_signature"))?;
    verify_signature(ak, attest, &signature).map_err(at("certify_signature"))?;
    let attest = Attest::parse(attest).map_err(at("certify_attest"))?;
    if attest.extra_data != binding {
        return Err(EvidenceError::NotFresh);
    }
    let subject = Public::parse(subject_public).map_err(at("subject_public"))?;
    let Attested::Certify { name, qualified_name } = attest.attested;
    if name != subject.name() || name == qualified_name {
        return Err(EvidenceError::OtherObject);
    }
    check_subject_key(&subject).map_err(at("subject_public"))?;
    Ok(subject)
}

/// The verifier for [`Format::Tpm2`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Tpm2Verifier;

impl EvidenceVerifier for Tpm2Verifier {
    fn format(&self) -> Format {
        Format::Tpm2
    }

    fn challenge(
        &self,
        hello: &Hello,
        ctx: &mut ChallengeContext<'_>,
    ) -> Result<(ChallengeBody, FormatState), EvidenceError> {
        let Hello::Tpm2(hello) = hello;
        let at_ak = |error| EvidenceError::Structure { field: "ak_public", error };
        let ak = Public::parse(&hello.ak_public).map_err(at_ak)?;
        check_attestation_key(&ak).map_err(at_ak)?;
        let ek = EndorsementKey::verify(&hello.ek_certificate, &hello.ek_chain, ctx.stores, ctx.now)?;
        let mut secret = Zeroizing::new([0; 32]);
        (ctx.random)(secret.as_mut_slice());
        let blob = make_credential(ek.public(), &ak.name(), secret.as_slice(), ctx.random)
            .map_err(|error| EvidenceError::Structure { field: "ek_certificate", error })?;
        let state = Tpm2State {
            secret,
            ak,
            ek_sha256: ek.spki_sha256(),
            trust: ek.trust().to_vec(),
            vendor: ek.vendor().map(str::to_owned),
            model: ek.model().map(str::to_owned),
            version: ek.version().map(str::to_owned),
        };
        Ok((ChallengeBody::Tpm2(blob), FormatState::Tpm2(state)))
    }

    fn verify(
        &self,
        evidence: &Evidence,
        session: &Session,
        ctx: &VerifyContext<'_>,
    ) -> Result<AttestationResult, EvidenceError> {
        let (Evidence::Tpm2(evidence), FormatState::Tpm2(state)) = (evidence, session.state());
        evidence.check_lengths()?;
        if !activation_mac_matches(&evidence.activation_mac, &state.secret, session.id(), session.binding()) {
            return Err(EvidenceError::NotActivated);
        }
        let subject = verify_certify(
            &state.ak,
            &evidence.subject_public,
            &evidence.certify_attest,
            &evidence.certify_signature,
            &session.binding().0,
        )?;
        if subject.key().spki_sha256() != *session.csr_spki_sha256() {
            return Err(EvidenceError::OtherKey);
        }
        // An anchor that was removed since the challenge vouches for nothing any more.
        let trust: Vec<TrustPath> = state.trust.iter().filter(|t| ctx.stores.holds(t)).cloned().collect();
        let first = trust.first().ok_or(EvidenceError::AnchorRemoved)?;
        let claims = Claims::new()
            .with(ClaimName::KeyAttested, ClaimValue::Ternary(Ternary::Yes))
            .with(ClaimName::KeyHardwareBound, ClaimValue::Ternary(Ternary::Yes))
            .with(ClaimName::KeyExportable, ClaimValue::Ternary(Ternary::No))
            .with(ClaimName::DeviceEkSha256, ClaimValue::Digest(state.ek_sha256))
            .with_text(ClaimName::HwVendor, state.vendor.as_deref())
            .with_text(ClaimName::HwModel, state.model.as_deref())
            .with_text(ClaimName::HwFirmware, state.version.as_deref())
            .with_text(ClaimName::FreshKind, Some("nonce"))
            .with(ClaimName::TrustAnchor, ClaimValue::Digest(first.anchor_sha256));
        Ok(AttestationResult {
            format: Format::Tpm2,
            attested_key: subject.key().clone(),
            claims,
            evidence_sha256: evidence.sha256(),
            device_anchor: state.ek_sha256,
            trust,
        })
    }
}
