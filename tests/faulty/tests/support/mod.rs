//! A process over SoftHSM through the faulty module, with a plan, a token and a log of its own.
#![allow(dead_code, reason = "each test binary uses its part")]

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use faulty_pkcs11::{Fault, Login, Plan};
use std::env;
use std::fs;
use std::path::PathBuf;

/// OID prime256v1.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// What a digest looks like.
pub const DIGEST: [u8; 32] = [0x5a; 32];

/// Runs `body` in a child whose faulty module follows `plan`.
pub fn with_plan(test_name: &str, plan: &str, body: fn()) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("plan"), plan).unwrap();
    let variables = [
        ("FAULTY_PKCS11_MODULE", softhsm::find_module().unwrap().to_str().unwrap().to_owned()),
        ("FAULTY_PKCS11_PLAN", path("plan")),
        ("FAULTY_PKCS11_LOG", path("log")),
    ];
    softhsm::test::in_child_with(test_name, &variables, body);
}

pub fn plan(text: &str) {
    let path = PathBuf::from(env::var_os("FAULTY_PKCS11_PLAN").unwrap());
    text.parse::<Plan>().unwrap().write(&path).unwrap();
}

pub fn log() -> String {
    fs::read_to_string(env::var_os("FAULTY_PKCS11_LOG").unwrap()).unwrap_or_default()
}

/// Each fault so far as `C_Function action`.
pub fn faults() -> Vec<String> {
    let text = |fault: Fault| format!("{} {}", fault.function, fault.action);
    faulty_pkcs11::faults(&log()).into_iter().map(text).collect()
}

pub fn logins() -> Vec<Login> {
    faulty_pkcs11::logins(&log())
}

/// The module, initialised, and the token's slot.
pub fn module() -> (Pkcs11, Slot) {
    let module = Pkcs11::new(faulty_pkcs11::library().unwrap()).unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    (module, slot)
}

pub fn pin() -> AuthPin {
    AuthPin::new(softhsm::test::PIN.into())
}

pub fn log_in(module: &Pkcs11, slot: Slot) -> Session {
    let session = module.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&pin())).unwrap();
    session
}

/// A pair of keys in the token: public, private.
pub fn make_key(session: &Session, id: u8) -> (ObjectHandle, ObjectHandle) {
    let public = [Attribute::Token(true), Attribute::EcParams(P256.to_vec()), Attribute::Id(vec![id])];
    let private =
        [Attribute::Token(true), Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Id(vec![id])];
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap()
}

pub fn sign(session: &Session, key: ObjectHandle) -> Result<Vec<u8>, cryptoki::error::Error> {
    session.sign(&Mechanism::Ecdsa, key, &DIGEST)
}

pub fn verifies(session: &Session, key: ObjectHandle, signature: &[u8]) -> bool {
    session.verify(&Mechanism::Ecdsa, key, &DIGEST, signature).is_ok()
}

pub fn private_keys(session: &Session, id: u8) -> Vec<ObjectHandle> {
    session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(vec![id])]).unwrap()
}

pub fn id_of(session: &Session, key: ObjectHandle) -> u8 {
    match &session.get_attributes(key, &[AttributeType::Id]).unwrap()[..] {
        [Attribute::Id(id)] => id[0],
        other => panic!("{other:?}"),
    }
}

/// The return code in an error, by its name in cryptoki.
pub fn code<T>(result: Result<T, cryptoki::error::Error>) -> String {
    match result {
        Err(cryptoki::error::Error::Pkcs11(code, _)) => format!("{code:?}"),
        Err(other) => panic!("{other}"),
        Ok(_) => "Ok".to_owned(),
    }
}
