//! The one kind of key that may leave a token: wrapped, under a key that the security officer trusts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use ca_core::key::KeyAlgorithm;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use hsm::{HsmError, KeyId, KeyRequest, Token, TokenConfig, TokenUri, TokensConfig};
use softhsm::{Kind, ThrowawayToken, test::PIN};
use support::{config, id, one, request, signing, with};

/// The AES key that both tokens have, as after a ceremony in which custodians entered its components.
const SECRET: [u8; 32] = [0x5a; 32];
/// The label of the token that restores.
const SECOND: &str = "second";
/// On the first token: it wraps and does nothing else.
const WRAPPING: u8 = 0xa0;
/// On the token that restores: it unwraps.
const UNWRAPPING: u8 = 0xa1;
/// Wraps, and the security officer knows nothing of it.
const UNTRUSTED: u8 = 0xa2;

/// This process's own use of the library, as an administrator's tool: the layer's is in processes of its own.
struct Tool(Pkcs11);

impl Tool {
    fn new() -> Self {
        let context = Pkcs11::new(softhsm::test::token().module).unwrap();
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        Self(context)
    }

    fn login(&self, label: &str, user: UserType) -> Session {
        let mut slots = self.0.get_slots_with_token().unwrap().into_iter();
        let slot = slots.find(|slot| self.0.get_token_info(*slot).unwrap().label() == label).unwrap();
        let session = self.0.open_rw_session(slot).unwrap();
        session.login(user, Some(&AuthPin::new(PIN.into()))).unwrap();
        session
    }
}

/// The user makes it. It is not CKA_PRIVATE: the security officer sees no private objects, and has to say of this one
/// that it is trusted.
fn create(session: &Session, n: u8, more: &[Attribute]) -> Result<ObjectHandle, Error> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Id(vec![n; 16]),
        Attribute::Label(format!("wrapping {n:x}").into_bytes()),
        Attribute::Value(SECRET.to_vec()),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(false),
    ];
    let defaults = [Attribute::Wrap(true), Attribute::Unwrap(false), Attribute::Decrypt(false)];
    let left = |default: &&Attribute| !more.iter().any(|a| a.attribute_type() == default.attribute_type());
    template.extend(defaults.iter().filter(left).cloned());
    template.extend_from_slice(more);
    session.create_object(&template)
}

fn object(session: &Session, class: ObjectClass, n: u8) -> ObjectHandle {
    let found = session.find_objects(&[Attribute::Class(class), Attribute::Id(vec![n; 16])]).unwrap();
    let [one] = found[..] else { panic!("{found:?}") };
    one
}

/// What the user cannot and the security officer can. SoftHSM lets him say it when he makes the key; the standard also
/// of a key that is there.
fn trusted_key(tool: &Tool, label: &str, n: u8, more: &[Attribute]) {
    let template = [more, &[Attribute::Trusted(true)]].concat();
    let user = tool.login(label, UserType::User);
    let refused = create(&user, n, &template).unwrap_err();
    assert!(matches!(refused, Error::Pkcs11(..)), "{refused}");
    user.logout().unwrap();
    drop(user);
    let officer = tool.login(label, UserType::So);
    create(&officer, n, &template).unwrap();
    officer.logout().unwrap();
}

fn excepted(n: u8, under: u8) -> KeyRequest {
    KeyRequest { extractable_under: Some(id(under)), ..request(n, KeyAlgorithm::EcP256) }
}

fn excepting(token: TokenConfig, exceptions: Vec<KeyId>) -> Token {
    Token::open(TokensConfig { exceptions, ..with(token) }).unwrap()
}

fn code(result: Result<Vec<u8>, Error>) -> RvError {
    match result {
        Err(Error::Pkcs11(code, _)) => code,
        other => panic!("{other:?}"),
    }
}

/// A wrapping key that is not fit for it is refused before a key is made.
fn unfit_wrapping_keys_are_refused() {
    let (tool, label) = (Tool::new(), softhsm::test::token().label);
    let session = tool.login(&label, UserType::User);
    create(&session, UNTRUSTED, &[]).unwrap();
    session.logout().unwrap();
    drop(session);
    trusted_key(&tool, &label, 0xb1, &[Attribute::Decrypt(true)]);
    trusted_key(&tool, &label, 0xb2, &[Attribute::Unwrap(true)]);
    trusted_key(&tool, &label, 0xb3, &[Attribute::Wrap(false), Attribute::Unwrap(true)]);
    trusted_key(&tool, &label, 0xb4, &[]);
    trusted_key(&tool, &label, 0xb4, &[]);
    let token = excepting(one(), vec![id(1)]);
    for (wrapping, words) in [
        (UNTRUSTED, "CKA_TRUSTED is false; have the security officer set it"),
        (0xb1, "CKA_DECRYPT is true"),
        (0xb2, "CKA_UNWRAP is true"),
        (0xb3, "no secret or public key"),
        (0xb4, "several objects"),
        (0xb5, "no secret or public key"),
    ] {
        for refused in [token.check_wrapping_key(&id(wrapping)), token.generate(&excepted(1, wrapping)).map(|_| ())] {
            let error = refused.unwrap_err();
            assert!(matches!(&error, HsmError::WrappingKey { .. }) && error.to_string().contains(words), "{error}");
        }
    }
    assert!(token.list().unwrap().is_empty(), "a refusal made a key");
}

/// From the making of a key to its signature from another token.
fn a_key_is_made_wrapped_and_restored() {
    ThrowawayToken::create(&softhsm::test::token().dir, SECOND, PIN).unwrap();
    let (tool, label) = (Tool::new(), softhsm::test::token().label);
    let user = tool.login(&label, UserType::User);
    create(&user, UNTRUSTED, &[]).unwrap();
    user.logout().unwrap();
    drop(user);
    trusted_key(&tool, &label, WRAPPING, &[]);

    let token = Token::open(config()).unwrap();
    token.check_wrapping_key(&id(WRAPPING)).unwrap();
    assert_eq!(token.generate(&excepted(1, WRAPPING)).unwrap_err(), HsmError::NoException { id: id(1) });
    assert_eq!(token.find(&id(1)).unwrap_err(), HsmError::KeyMissing { id: id(1) });
    drop(token);
    let token = excepting(one(), vec![id(1)]);
    let key = token.generate(&excepted(1, WRAPPING)).unwrap();
    let found = key.attributes;
    assert!(found.extractable && found.wrap_with_trusted && !found.never_extractable);
    assert!(found.sensitive && found.always_sensitive && found.local && found.sign && !found.other_use);
    assert!(found.flaw().is_some() && token.flaw(&key).is_none());
    token.prove(&id(1), &key.public_key).unwrap();
    assert_eq!(token.extract(&id(1)).unwrap(), Vec::<String>::new());
    // An ordinary key beside it is as strict as ever.
    let ordinary = token.generate(&request(2, KeyAlgorithm::EcP256)).unwrap();
    assert_eq!(ordinary.attributes.flaw(), None);
    drop(token);

    // Where nobody names it, it does not sign.
    let strict = Token::open(config()).unwrap();
    assert!(strict.flaw(&key).is_some());
    let refused = strict.sign(signing(1, &key.public_key)).unwrap_err();
    assert!(matches!(refused, HsmError::KeyUnsuitable { .. }), "{refused}");
    drop(strict);

    let user = tool.login(&label, UserType::User);
    let private = object(&user, ObjectClass::PRIVATE_KEY, 1);
    let under = |n| user.wrap_key(&Mechanism::AesKeyWrapPad, object(&user, ObjectClass::SECRET_KEY, n), private);
    let refused = code(under(UNTRUSTED));
    assert!(matches!(refused, RvError::KeyNotWrappable | RvError::WrappingKeyHandleInvalid), "{refused:?}");
    let wrapped = under(WRAPPING).unwrap();
    assert!(wrapped.len() > 32);
    let ordinary = object(&user, ObjectClass::PRIVATE_KEY, 2);
    let trusted = object(&user, ObjectClass::SECRET_KEY, WRAPPING);
    let refused = code(user.wrap_key(&Mechanism::AesKeyWrapPad, trusted, ordinary));
    assert!(matches!(refused, RvError::KeyUnextractable | RvError::KeyNotWrappable), "{refused:?}");
    let public = object(&user, ObjectClass::PUBLIC_KEY, 1);
    let wanted = [AttributeType::EcParams, AttributeType::EcPoint];
    let public = user.get_attributes(public, &wanted).unwrap();
    user.logout().unwrap();
    drop(user);

    restore(&tool, SECOND, &wrapped, &public);
    let strict = Token::open(with(second())).unwrap();
    let refused = strict.sign(signing(1, &key.public_key)).unwrap_err();
    assert!(matches!(refused, HsmError::KeyUnsuitable { .. }), "{refused}");
    drop(strict);
    let second = excepting(second(), vec![id(1)]);
    let copy = second.find(&id(1)).unwrap();
    assert_eq!(copy.public_key, key.public_key);
    assert!(!copy.attributes.local && !copy.attributes.always_sensitive, "{:?}", copy.attributes);
    assert!(copy.attributes.wrap_with_trusted && second.flaw(&copy).is_none(), "{:?}", copy.attributes);
    // The layer checks the signature with the public key of the original.
    second.prove(&id(1), &key.public_key).unwrap();
    second.sign(signing(1, &key.public_key)).unwrap();
}

/// As an administrator restores: unwraps it as strictly as it was, and puts the public half beside it.
fn restore(tool: &Tool, label: &str, wrapped: &[u8], public: &[Attribute]) {
    let user = tool.login(label, UserType::User);
    let unwrapping = create(&user, UNWRAPPING, &[Attribute::Wrap(false), Attribute::Unwrap(true)]).unwrap();
    let common = [
        Attribute::KeyType(KeyType::EC),
        Attribute::Token(true),
        Attribute::Id(vec![1; 16]),
        Attribute::Label(b"key 1".to_vec()),
    ];
    let private = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::WrapWithTrusted(true),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::SignRecover(false),
    ];
    let private = [&common[..], &private].concat();
    user.unwrap_key(&Mechanism::AesKeyWrapPad, unwrapping, wrapped, &private).unwrap();
    let half = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Private(false), Attribute::Verify(true)];
    user.create_object(&[&common[..], &half, public].concat()).unwrap();
    user.logout().unwrap();
}

fn second() -> TokenConfig {
    TokenConfig { uri: TokenUri::from_label(SECOND).unwrap(), ..one() }
}

#[test]
fn a_wrapping_key_must_be_fit_for_it() {
    softhsm::test::in_child("a_wrapping_key_must_be_fit_for_it", unfit_wrapping_keys_are_refused);
}

#[test]
fn a_backup_goes_to_another_token_and_signs_there() {
    softhsm::test::in_child("a_backup_goes_to_another_token_and_signs_there", a_key_is_made_wrapped_and_restored);
}

/// Nobody can call a key trusted on kryoptic, so no key of it may leave.
#[test]
fn a_token_that_trusts_no_key_makes_none_that_leaves() {
    softhsm::test::in_child_on(Kind::Kryoptic, "a_token_that_trusts_no_key_makes_none_that_leaves", || {
        let (tool, label) = (Tool::new(), softhsm::test::token().label);
        for who in [UserType::So, UserType::User] {
            let session = tool.login(&label, who);
            assert!(create(&session, WRAPPING, &[Attribute::Trusted(true)]).is_err());
            if matches!(who, UserType::User) {
                create(&session, UNTRUSTED, &[]).unwrap();
            }
            session.logout().unwrap();
        }
        let token = excepting(one(), vec![id(1)]);
        let refused = token.generate(&excepted(1, UNTRUSTED)).unwrap_err();
        assert!(refused.to_string().contains("CKA_TRUSTED is false"), "{refused}");
        assert!(token.list().unwrap().is_empty());
    });
}
