//! Key pairs on a token: making them, finding them by CKA_ID, reading what the token says about them.

use crate::ckr::FailureClass;
use crate::error::Trouble;
use crate::public::{self, ED25519_PARAMS, P256_PARAMS, P384_PARAMS, P521_PARAMS};
use crate::{Failure, HsmError};
use ca_core::key::{KeyAlgorithm, PublicKey};
use cryptoki::error::{Error as Cryptoki, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, MlDsaParameterSetType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// A key pair's CKA_ID: 16 octets, random, given by the caller and recorded with the key's purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// From 16 octets that must come from a random generator.
    pub fn from_bytes(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// The octets.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = HsmError;

    fn from_str(text: &str) -> Result<Self, HsmError> {
        let mut octets = [0; 16];
        hex::decode_to_slice(text, &mut octets).map_err(|_| HsmError::Configuration {
            field: "key id".into(),
            reason: "must be 32 hexadecimal digits".into(),
        })?;
        Ok(Self(octets))
    }
}

/// A key pair to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// CKA_LABEL of both halves, for people: 1 to 64 octets, no control characters.
    pub label: String,
    /// CKA_ID of both halves.
    pub id: KeyId,
    /// What to make.
    pub algorithm: KeyAlgorithm,
    /// The one exception: it may leave the token wrapped under the trusted key with this CKA_ID, which must be there
    /// already. [`crate::TokensConfig::exceptions`] must name the new key. None for every other key.
    pub extractable_under: Option<KeyId>,
}

impl KeyRequest {
    pub(crate) fn check(&self) -> Result<(), HsmError> {
        let refuse = |field: &'static str, reason: &'static str| {
            Err(HsmError::Configuration { field: field.into(), reason: reason.into() })
        };
        if !(1..=64).contains(&self.label.len()) || self.label.chars().any(char::is_control) {
            return refuse("label", "must have 1 to 64 octets and no control characters");
        }
        if let KeyAlgorithm::Rsa(bits) = self.algorithm
            && !(2048..=4096).contains(&bits)
        {
            return refuse("algorithm", "RSA keys have 2048 to 4096 bits");
        }
        Ok(())
    }
}

/// What the token asserts about a private key. Assertions of the token, no proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeyAttributes {
    /// CKA_SENSITIVE: cannot be read in the clear.
    pub sensitive: bool,
    /// CKA_EXTRACTABLE: can be wrapped out.
    pub extractable: bool,
    /// CKA_ALWAYS_SENSITIVE.
    pub always_sensitive: bool,
    /// CKA_NEVER_EXTRACTABLE.
    pub never_extractable: bool,
    /// CKA_LOCAL: made on the token.
    pub local: bool,
    /// CKA_SIGN.
    pub sign: bool,
    /// CKA_DECRYPT, CKA_UNWRAP, CKA_DERIVE or CKA_SIGN_RECOVER: usable for more than signing.
    pub other_use: bool,
    /// CKA_MODIFIABLE.
    pub modifiable: bool,
    /// CKA_COPYABLE; tokens older than PKCS#11 2.30 do not say and count as true.
    pub copyable: bool,
    /// CKA_WRAP_WITH_TRUSTED: wrapped out only under a key that the security officer trusts.
    pub wrap_with_trusted: bool,
}

impl KeyAttributes {
    /// The first thing that keeps this from being a key which was made on the token, never left it and only signs.
    pub fn flaw(&self) -> Option<&'static str> {
        let rules = [
            (self.sensitive, "CKA_SENSITIVE is false"),
            (!self.extractable, "CKA_EXTRACTABLE is true"),
            (self.always_sensitive, "CKA_ALWAYS_SENSITIVE is false"),
            (self.never_extractable, "CKA_NEVER_EXTRACTABLE is false"),
            (self.local, "CKA_LOCAL is false: it was not made on this token"),
            (self.sign, "CKA_SIGN is false"),
            (!self.other_use, "it may decrypt, unwrap, derive or sign with recovery"),
        ];
        first_broken(&rules)
    }

    /// As [`KeyAttributes::flaw`], for a key of which it is recorded (`exception`) that it may leave its token wrapped
    /// under a trusted key.
    ///
    /// Such a key may be the original or a copy that was unwrapped from its backup. A copy cannot be CKA_LOCAL,
    /// CKA_ALWAYS_SENSITIVE or CKA_NEVER_EXTRACTABLE: no token can know what became of a key before it came. To refuse
    /// it would make the backup worthless, and protect nothing: only who has the private key can put an object with
    /// this public key there. What those three prove of other keys, the record proves of this one: who decided it, and
    /// to whose wrapping key it was entrusted. From here on a copy is held to the same as the original. One that can
    /// leave no more at all is better, and is taken too.
    pub fn flaw_under(&self, exception: bool) -> Option<&'static str> {
        if !exception {
            return self.flaw();
        }
        first_broken(&[
            (self.sensitive, "CKA_SENSITIVE is false"),
            (
                !self.extractable || self.wrap_with_trusted,
                "CKA_EXTRACTABLE is true and CKA_WRAP_WITH_TRUSTED is false: it could leave under any wrapping key",
            ),
            (self.sign, "CKA_SIGN is false"),
            (!self.other_use, "it may decrypt, unwrap, derive or sign with recovery"),
        ])
    }

    /// What keeps this from being the new key that was asked for: it never was anywhere else.
    fn flaw_when_made(&self, exception: bool) -> Option<&'static str> {
        let rules = [
            (self.extractable, "CKA_EXTRACTABLE is false, though a backup was asked for"),
            (self.wrap_with_trusted, "CKA_WRAP_WITH_TRUSTED is false: this token cannot bind a backup to trusted keys"),
            (self.always_sensitive, "CKA_ALWAYS_SENSITIVE is false"),
            (self.local, "CKA_LOCAL is false: it was not made on this token"),
        ];
        self.flaw_under(exception).or_else(|| first_broken(&rules).filter(|_| exception))
    }
}

fn first_broken(rules: &[(bool, &'static str)]) -> Option<&'static str> {
    rules.iter().find(|(holds, _)| !holds).map(|(_, flaw)| *flaw)
}

/// A key pair on the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKey {
    /// CKA_ID of both halves.
    pub id: KeyId,
    /// CKA_LABEL of the private key.
    pub label: String,
    /// The public half, checked.
    pub public_key: PublicKey,
    /// What the token says about the private half.
    pub attributes: KeyAttributes,
}

/// The two halves of a pair, as handles good for one connection.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub private: ObjectHandle,
    public: ObjectHandle,
}

/// Exactly one private and one public key with this id.
pub(crate) fn pair(session: &Session, id: &KeyId) -> Result<Pair, Trouble> {
    let find = |class| session.find_objects(&[Attribute::Class(class), Attribute::Id(id.0.to_vec())]);
    let private = find(ObjectClass::PRIVATE_KEY)?;
    let public = find(ObjectClass::PUBLIC_KEY)?;
    match (&private[..], &public[..]) {
        ([private], [public]) => Ok(Pair { private: *private, public: *public }),
        ([], _) => {
            // A session that lost its login does not see private objects.
            if logged_out(session)? {
                return Err(Failure::ours("C_FindObjects", "not logged in", FailureClass::LoginAgain).into());
            }
            Err(HsmError::KeyMissing { id: *id }.into())
        }
        _ => Err(HsmError::KeyAmbiguous { id: *id, private: private.len(), public: public.len() }.into()),
    }
}

/// True when the session sees public objects only although its token has a login.
pub(crate) fn logged_out(session: &Session) -> Result<bool, Trouble> {
    let state = session.get_session_info()?.session_state();
    Ok(matches!(state, SessionState::RwPublic | SessionState::RoPublic))
}

pub(crate) fn describe(session: &Session, id: &KeyId, pair: Pair) -> Result<TokenKey, Trouble> {
    let public_key = public::read(session, id, pair.public)?;
    let (attributes, label) = private_attributes(session, pair.private)?;
    Ok(TokenKey { id: *id, label, public_key, attributes })
}

/// All pairs whose CKA_ID could be ours. Pairs of foreign algorithms are left out.
pub(crate) fn list(session: &Session) -> Result<Vec<TokenKey>, Trouble> {
    let mut keys: Vec<TokenKey> = Vec::new();
    for handle in session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)])? {
        let id = session.get_attributes(handle, &[AttributeType::Id])?.into_iter().find_map(|a| match a {
            Attribute::Id(id) => <[u8; 16]>::try_from(id).ok().map(KeyId),
            _ => None,
        });
        let Some(id) = id else { continue };
        match pair(session, &id).and_then(|pair| describe(session, &id, pair)) {
            Ok(key) => keys.push(key),
            Err(Trouble::Answer(HsmError::KeyUnsuitable { id, reason })) => {
                tracing::warn!(%id, %reason, "a key on the token is not used");
            }
            Err(trouble) => return Err(trouble),
        }
    }
    if logged_out(session)? {
        return Err(Failure::ours("C_FindObjects", "not logged in", FailureClass::LoginAgain).into());
    }
    keys.sort_by_key(|key| key.id);
    Ok(keys)
}

/// Refuses when an object of either class has the id or the label.
pub(crate) fn absent(session: &Session, request: &KeyRequest) -> Result<(), Trouble> {
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        for (attribute, what) in [
            (Attribute::Id(request.id.0.to_vec()), format!("id {}", request.id)),
            (Attribute::Label(request.label.clone().into_bytes()), format!("label '{}'", request.label)),
        ] {
            if !session.find_objects(&[Attribute::Class(class), attribute])?.is_empty() {
                return Err(HsmError::KeyExists { what }.into());
            }
        }
    }
    Ok(())
}

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
        Attribute::Id(request.id.0.to_vec()),
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

/// Destroys both halves of the pair, the private one first: what a cut between them leaves cannot sign. A half that is
/// gone already is fine.
pub(crate) fn destroy(session: &Session, id: &KeyId) -> Result<(), Trouble> {
    let mut found = false;
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        for handle in session.find_objects(&[Attribute::Class(class), Attribute::Id(id.0.to_vec())])? {
            session.destroy_object(handle)?;
            found = true;
        }
    }
    if found { Ok(()) } else { Err(HsmError::KeyMissing { id: *id }.into()) }
}

/// Tries to get the private key out, as a thief with the PIN would; says in words what came. A sound token gives nothing.
pub(crate) fn extract(session: &Session, id: &KeyId) -> Result<Vec<String>, Trouble> {
    let private = pair(session, id)?.private;
    let secrets = [
        AttributeType::Value,
        AttributeType::PrivateExponent,
        AttributeType::Prime1,
        AttributeType::Prime2,
        AttributeType::Coefficient,
        AttributeType::Seed,
    ];
    let mut leaks = Vec::new();
    for secret in secrets {
        // Refused by an error, by an empty value, or by leaving it out: all are good.
        for attribute in session.get_attributes(private, &[secret]).unwrap_or_default() {
            let octets = match attribute {
                Attribute::Value(v)
                | Attribute::PrivateExponent(v)
                | Attribute::Prime1(v)
                | Attribute::Prime2(v)
                | Attribute::Coefficient(v)
                | Attribute::Seed(v) => Zeroizing::new(v),
                _ => continue,
            };
            if !octets.is_empty() {
                leaks.push(format!("{secret:?} can be read"));
            }
        }
    }
    let (found, _) = private_attributes(session, private)?;
    if !found.extractable && session.update_attributes(private, &[Attribute::Extractable(true)]).is_ok() {
        leaks.push("CKA_EXTRACTABLE can be set to true afterwards".to_owned());
    }
    if found.wrap_with_trusted && session.update_attributes(private, &[Attribute::WrapWithTrusted(false)]).is_ok() {
        leaks.push("CKA_WRAP_WITH_TRUSTED can be set to false afterwards".to_owned());
    }
    if session.update_attributes(private, &[Attribute::Sensitive(false)]).is_ok() {
        leaks.push("CKA_SENSITIVE can be set to false afterwards".to_owned());
    }
    Ok(leaks)
}

fn ec(public: &mut Vec<Attribute>, parameters: &[u8]) -> Mechanism<'static> {
    public.push(Attribute::EcParams(parameters.to_vec()));
    Mechanism::EccKeyPairGen
}

fn ml_dsa(public: &mut Vec<Attribute>, set: MlDsaParameterSetType) -> Mechanism<'static> {
    public.push(Attribute::ParameterSet(set.into()));
    Mechanism::MlDsaKeyPairGen
}

fn private_attributes(session: &Session, handle: ObjectHandle) -> Result<(KeyAttributes, String), Trouble> {
    let wanted = [
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::AlwaysSensitive,
        AttributeType::NeverExtractable,
        AttributeType::Local,
        AttributeType::Sign,
        AttributeType::Decrypt,
        AttributeType::Unwrap,
        AttributeType::Derive,
        AttributeType::SignRecover,
        AttributeType::Modifiable,
        AttributeType::Copyable,
        AttributeType::WrapWithTrusted,
        AttributeType::Label,
    ];
    // An attribute that is absent must count as the bad value.
    let mut found = KeyAttributes { extractable: true, modifiable: true, copyable: true, ..KeyAttributes::default() };
    let mut label = String::new();
    for attribute in session.get_attributes(handle, &wanted)? {
        match attribute {
            Attribute::Sensitive(v) => found.sensitive = v,
            Attribute::Extractable(v) => found.extractable = v,
            Attribute::AlwaysSensitive(v) => found.always_sensitive = v,
            Attribute::NeverExtractable(v) => found.never_extractable = v,
            Attribute::Local(v) => found.local = v,
            Attribute::Sign(v) => found.sign = v,
            Attribute::Decrypt(v) | Attribute::Unwrap(v) | Attribute::Derive(v) | Attribute::SignRecover(v) => {
                found.other_use |= v;
            }
            Attribute::Modifiable(v) => found.modifiable = v,
            Attribute::Copyable(v) => found.copyable = v,
            Attribute::WrapWithTrusted(v) => found.wrap_with_trusted = v,
            Attribute::Label(v) => label = String::from_utf8_lossy(&v).into_owned(),
            _ => {}
        }
    }
    Ok((found, label))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const GOOD: KeyAttributes = KeyAttributes {
        sensitive: true,
        extractable: false,
        always_sensitive: true,
        never_extractable: true,
        local: true,
        sign: true,
        other_use: false,
        modifiable: false,
        copyable: false,
        wrap_with_trusted: false,
    };
    /// As it is made for a backup.
    const EXCEPTED: KeyAttributes =
        KeyAttributes { extractable: true, never_extractable: false, wrap_with_trusted: true, ..GOOD };

    #[test]
    fn each_missing_protection_is_a_flaw() {
        assert_eq!(GOOD.flaw(), None);
        for bad in [
            KeyAttributes { sensitive: false, ..GOOD },
            KeyAttributes { extractable: true, ..GOOD },
            KeyAttributes { always_sensitive: false, ..GOOD },
            KeyAttributes { never_extractable: false, ..GOOD },
            KeyAttributes { local: false, ..GOOD },
            KeyAttributes { sign: false, ..GOOD },
            KeyAttributes { other_use: true, ..GOOD },
        ] {
            assert!(bad.flaw().is_some(), "{bad:?}");
        }
    }

    #[test]
    fn an_exception_is_wrapping_under_a_trusted_key_and_nothing_else() {
        assert!(EXCEPTED.flaw().is_some() && EXCEPTED.flaw_under(false).is_some());
        assert_eq!((EXCEPTED.flaw_under(true), EXCEPTED.flaw_when_made(true)), (None, None));
        for bad in [
            KeyAttributes { wrap_with_trusted: false, ..EXCEPTED },
            KeyAttributes { sensitive: false, ..EXCEPTED },
            KeyAttributes { sign: false, ..EXCEPTED },
            KeyAttributes { other_use: true, ..EXCEPTED },
        ] {
            assert!(bad.flaw_under(true).is_some() && bad.flaw_when_made(true).is_some(), "{bad:?}");
        }
        // Copies from a backup: good enough to be used, not to be called new.
        let copy = KeyAttributes { local: false, always_sensitive: false, ..EXCEPTED };
        for copy in [copy, KeyAttributes { extractable: false, wrap_with_trusted: false, ..copy }] {
            assert_eq!(copy.flaw_under(true), None);
            assert!(copy.flaw_when_made(true).is_some() && copy.flaw_under(false).is_some());
        }
        // What can never leave is no key with a backup, and an ordinary new key is the strict one.
        assert!(GOOD.flaw_when_made(true).is_some());
        assert_eq!((GOOD.flaw_under(true), GOOD.flaw_when_made(false)), (None, None));
        assert!(EXCEPTED.flaw_when_made(false).is_some());
    }

    #[test]
    fn ids_are_hexadecimal_and_labels_limited() {
        let id: KeyId = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0e0f");
        assert!("00".parse::<KeyId>().is_err());
        let request = |label: &str| KeyRequest {
            label: label.into(),
            id,
            algorithm: KeyAlgorithm::EcP256,
            extractable_under: None,
        };
        assert!(request("ok").check().is_ok());
        assert!(request("").check().is_err());
        assert!(request("a\nb").check().is_err());
        assert!(request(&"x".repeat(65)).check().is_err());
    }
}
