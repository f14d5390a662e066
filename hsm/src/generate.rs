//! Making a key pair: the strictest template that the token takes, and a look at what it made of it.

use crate::ckr::FailureClass;
use crate::error::Trouble;
use crate::keys::{Pair, absent, describe};
use crate::public::{ED25519_PARAMS, P256_PARAMS, P384_PARAMS, P521_PARAMS};
use crate::{Failure, HsmError, KeyRequest, TokenKey};
use ca_core::key::KeyAlgorithm;
use cryptoki::error::{Error as Cryptoki, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, MlDsaParameterSetType};
use cryptoki::session::Session;

/// Makes the pair, reads back what it became, and destroys it when that is not what was asked for.
pub(crate) fn generate(session: &Session, request: &KeyRequest) -> Result<TokenKey, Trouble> {
    let pair = make(session, request)?;
    let checked = describe(session, &request.id, pair).and_then(|key| {
        let flaw = match key.attributes.flaw_when_made(request.extractable_under.is_some()) {
            None if key.public_key.algorithm() == request.algorithm => return Ok(key),
            None => "the token made a key of another algorithm",
            Some(flaw) => flaw,
        };
        Err(HsmError::KeyUnsuitable { id: request.id, reason: flaw.into() }.into())
    });
    if checked.is_err() {
        for handle in [pair.private, pair.public] {
            if let Err(error) = session.destroy_object(handle) {
                tracing::error!(id = %request.id, failure = %Failure::from(error),
                    "an unsuitable new key could not be destroyed; destroy it by hand");
            }
        }
    }
    checked
}

fn make(session: &Session, request: &KeyRequest) -> Result<Pair, Trouble> {
    let common = [
        Attribute::Token(true),
        Attribute::Label(request.label.clone().into_bytes()),
        Attribute::Id(request.id.as_bytes().to_vec()),
    ];
    let mut public = common.to_vec();
    let mechanism = match request.algorithm {
        KeyAlgorithm::EcP256 => ec(&mut public, P256_PARAMS),
        KeyAlgorithm::EcP384 => ec(&mut public, P384_PARAMS),
        KeyAlgorithm::EcP521 => ec(&mut public, P521_PARAMS),
        KeyAlgorithm::Ed25519 => {
            public.push(Attribute::EcParams(ED25519_PARAMS.to_vec()));
            Mechanism::EccEdwardsKeyPairGen
        }
        KeyAlgorithm::Rsa(bits) => {
            public.push(Attribute::ModulusBits(u64::from(bits).into()));
            public.push(Attribute::PublicExponent(vec![1, 0, 1]));
            Mechanism::RsaPkcsKeyPairGen
        }
        KeyAlgorithm::MlDsa44 => ml_dsa(&mut public, MlDsaParameterSetType::ML_DSA_44),
        KeyAlgorithm::MlDsa65 => ml_dsa(&mut public, MlDsaParameterSetType::ML_DSA_65),
        KeyAlgorithm::MlDsa87 => ml_dsa(&mut public, MlDsaParameterSetType::ML_DSA_87),
    };
    let mut private = common.to_vec();
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(request.extractable_under.is_some()),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Derive(false),
        Attribute::Unwrap(false),
    ]);
    if request.extractable_under.is_some() {
        private.push(Attribute::WrapWithTrusted(true));
    }
    let mut last = None;
    for dialect in DIALECTS {
        let (mut public, mut private) = (public.clone(), private.clone());
        dialect.speak(&mut public, &mut private);
        let failure = match session.generate_key_pair(&mechanism, &public, &private) {
            Ok((public, private)) => return Ok(Pair { private, public }),
            Err(Cryptoki::Pkcs11(
                RvError::AttributeTypeInvalid
                | RvError::AttributeValueInvalid
                | RvError::AttributeReadOnly
                | RvError::TemplateInconsistent
                | RvError::TemplateIncomplete
                | RvError::ArgumentsBad,
                cryptoki::context::Function::GenerateKeyPair,
            )) => Failure::ours("C_GenerateKeyPair", "the token takes no template of ours", FailureClass::Refused),
            Err(error @ Cryptoki::Pkcs11(RvError::GeneralError | RvError::FunctionFailed, _)) => {
                // Some say this of a template, too; nobody says what was made before it.
                absent(session, request)?;
                error.into()
            }
            Err(error) => return Err(error.into()),
        };
        last = Some(failure);
    }
    Err(last.map_or_else(|| HsmError::Closed.into(), Trouble::from))
}

/// What a token is told beside the attributes that matter. What it made is read back in any case.
#[derive(Clone, Copy)]
struct Dialect {
    /// CKA_MODIFIABLE and CKA_COPYABLE false: not every token knows them.
    modifiable: bool,
    copyable: bool,
    /// CKA_SIGN_RECOVER false: not every token knows it.
    recover: bool,
    /// CKA_PRIVATE of the public half: some tokens keep no public objects.
    hidden: bool,
    /// CKA_VERIFY, CKA_ENCRYPT and CKA_WRAP of the public half: a TPM's module ties them to the key's own rights.
    uses: bool,
}

/// The strictest first.
const DIALECTS: [Dialect; 5] = {
    let full = Dialect { modifiable: true, copyable: true, recover: true, hidden: false, uses: true };
    [
        full,
        Dialect { copyable: false, ..full },
        Dialect { copyable: false, modifiable: false, ..full },
        Dialect { copyable: false, modifiable: false, recover: false, hidden: true, uses: true },
        Dialect { uses: false, ..full },
    ]
};

impl Dialect {
    fn speak(self, public: &mut Vec<Attribute>, private: &mut Vec<Attribute>) {
        public.push(Attribute::Private(self.hidden));
        if self.uses {
            public.extend([Attribute::Verify(true), Attribute::Encrypt(false), Attribute::Wrap(false)]);
        }
        if self.recover {
            private.push(Attribute::SignRecover(false));
        }
        if self.modifiable {
            private.push(Attribute::Modifiable(false));
        }
        if self.copyable {
            private.push(Attribute::Copyable(false));
        }
    }
}

fn ec(public: &mut Vec<Attribute>, parameters: &[u8]) -> Mechanism<'static> {
    public.push(Attribute::EcParams(parameters.to_vec()));
    Mechanism::EccKeyPairGen
}

fn ml_dsa(public: &mut Vec<Attribute>, set: MlDsaParameterSetType) -> Mechanism<'static> {
    public.push(Attribute::ParameterSet(set.into()));
    Mechanism::MlDsaKeyPairGen
}
