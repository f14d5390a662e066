//! The one kind of key that may leave the token: allowed in the configuration, recorded in the journal, wrapped under a
//! key that the security officer trusts. Everything else that could leave is refused.

use anyhow::{Context, Result, ensure};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData};
use serde_json::Value;
use std::fs;
use tests::installation::{Installation, PIN, text};

/// Wraps, and the security officer said that it is trusted.
const TRUSTED: u8 = 0xa0;
/// The same octets, to unwrap.
const UNWRAPPING: u8 = 0xa1;
/// Wraps, and is not trusted.
const UNTRUSTED: u8 = 0xa2;

fn id(n: u8) -> String {
    hex::encode([n; 16])
}

/// What an administrator's own tools do with the installation's token. It runs in a child of its own, whose SoftHSM
/// configuration becomes the installation's.
struct Officer(Pkcs11);

impl Officer {
    fn new(at: &Installation) -> Result<Self> {
        let own = softhsm::test::token();
        fs::copy(at.path("softhsm2.conf"), &own.conf)?;
        let context = Pkcs11::new(&own.module)?;
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        let officer = Self(context);
        for (n, wraps, user) in
            [(TRUSTED, true, UserType::So), (UNWRAPPING, false, UserType::User), (UNTRUSTED, true, UserType::User)]
        {
            let session = officer.session(user)?;
            session.create_object(&[
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Token(true),
                // The security officer sees no private objects.
                Attribute::Private(false),
                Attribute::Id(vec![n; 16]),
                Attribute::Value(vec![0x5a; 32]),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Encrypt(false),
                Attribute::Decrypt(false),
                Attribute::Wrap(wraps),
                Attribute::Unwrap(!wraps),
                Attribute::Trusted(n == TRUSTED),
            ])?;
            session.logout()?;
        }
        Ok(officer)
    }

    fn session(&self, user: UserType) -> Result<Session> {
        let mut slots = self.0.get_slots_with_token()?.into_iter();
        let ours = |slot: &_| self.0.get_token_info(*slot).is_ok_and(|info| info.label() == "ca");
        let session = self.0.open_rw_session(slots.find(ours).context("no token")?)?;
        session.login(user, Some(&AuthPin::new(PIN.into())))?;
        Ok(session)
    }

    /// Wraps a key, destroys it, and restores it with `more` in its template.
    fn restore(&self, key: &str, more: &[Attribute]) -> Result<()> {
        let key = hex::decode(key)?;
        let session = self.session(UserType::User)?;
        let find = |class, id: Vec<u8>| -> Result<ObjectHandle> {
            let found = session.find_objects(&[Attribute::Class(class), Attribute::Id(id)])?;
            found.first().copied().context("no such object")
        };
        let private = find(ObjectClass::PRIVATE_KEY, key.clone())?;
        let (wrapping, unwrapping) =
            (find(ObjectClass::SECRET_KEY, vec![TRUSTED; 16])?, find(ObjectClass::SECRET_KEY, vec![UNWRAPPING; 16])?);
        let wrapped = session.wrap_key(&Mechanism::AesKeyWrapPad, wrapping, private)?;
        session.destroy_object(private)?;
        let template = [
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::KeyType(KeyType::EC),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Id(key),
            Attribute::Sensitive(true),
            Attribute::Extractable(true),
            Attribute::Sign(true),
            Attribute::Decrypt(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
            Attribute::SignRecover(false),
        ];
        session.unwrap_key(&Mechanism::AesKeyWrapPad, unwrapping, &wrapped, &[&template, more].concat())?;
        session.logout()?;
        Ok(())
    }
}

fn allow(at: &Installation, tenant: &str) -> Result<()> {
    let config = text(&at.path("sealwright.toml"))?.replace("[token]\n", "[token]\nallow_wrapped_backup = true\n");
    fs::write(at.path("sealwright.toml"), format!("{config}{tenant}"))?;
    Ok(())
}

fn field(value: &Value, name: &str) -> Result<String> {
    Ok(value[name].as_str().with_context(|| format!("no {name} in {value}"))?.to_owned())
}

fn generate<'a>(algorithm: &'a str, label: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let words = ["key", "generate", "--algorithm", algorithm, "--label", label, "--purpose", "a test", "--by", "a.b"];
    [&words[..], more].concat()
}

fn from_policy_to_restore() -> Result<()> {
    let ca = Installation::new("token")?;
    ca.run(&["init", "--out-dir", "admin"])?.good()?;
    let officer = Officer::new(&ca)?;
    let (trusted, untrusted, nobodys) = (id(TRUSTED), id(UNTRUSTED), id(9));
    let under = |key| ["--extractable-under", key, "--reason", "a second site", "--output", "json"];

    // Refused, and nothing is recorded or made: not allowed, no reason, not trusted, not there, label taken.
    ca.run(&generate("P-384", "second root", &under(&trusted)))?.refused(4, "token.allow_wrapped_backup = true")?;
    allow(&ca, "[[tenants]]\nname = 'second'\n")?;
    ca.run(&generate("P-384", "second root", &["--extractable-under", &trusted]))?.refused(2, "--reason")?;
    ca.run(&generate("P-384", "second root", &under(&untrusted)))?.refused(1, "CKA_TRUSTED is false")?;
    ca.run(&generate("P-384", "second root", &under(&nobodys)))?.refused(1, "no secret or public key")?;
    ca.run(&generate("P-384", "default root", &under(&trusted)))?.refused(1, "label 'default root'")?;
    let shown = || ca.run(&["journal", "show", "--dir", "data", "--all", "--output", "json"])?.good();
    ensure!(!shown()?.out.contains("key exception made"), "a refusal was recorded");

    // The policy first, then the key, then its record; and both of the new tenant's keys are taken for its issuers.
    let root = field(&ca.run(&generate("P-384", "second root", &under(&trusted)))?.json()?, "key_id")?;
    let issuing = field(&ca.run(&generate("P-256", "second issuing", &under(&trusted)))?.json()?, "key_id")?;
    let journal = shown()?.out;
    let place = |what: &str| journal.find(what).with_context(|| format!("no {what} in {journal}"));
    ensure!(place("key exception made")? < place("key made")?, "{journal}");
    ca.run(&["init", "--tenant", "second", "--out-dir", "second"])?.good()?;
    for (key, user) in [(&root, "issuer second-root-"), (&issuing, "issuer second-ca-")] {
        let key = ca.run(&["key", "inspect", key, "--output", "json"])?.json()?;
        ensure!(key["use"][0].as_str().is_some_and(|text| text.starts_with(user)) && key["flaw"].is_null(), "{key}");
        ensure!(key["exception"]["wrapped_backup_under"] == trusted.as_str(), "{key}");
        let attributes = &key["attributes"];
        ensure!(attributes["extractable"] == true && attributes["wrap_with_trusted"] == true, "{key}");
        ensure!(attributes["local"] == true && attributes["always_sensitive"] == true, "{key}");
    }
    ensure!(ca.run(&["key", "list"])?.good()?.out.contains("wrapped backup allowed"), "the list does not tell");
    let service = ca.serve()?;
    let beside = ca.run(&["key", "inspect", &root])?.good()?.out;
    ensure!(beside.contains("unless the journal allows it a backup"), "{beside}");
    drop(service);

    // Lost, and back from the backup: the copy signs, though it was not made here.
    officer.restore(&issuing, &[Attribute::WrapWithTrusted(true)])?;
    drop(ca.serve()?);
    let copy = ca.run(&["key", "inspect", &issuing, "--output", "json"])?.json()?;
    ensure!(copy["flaw"].is_null() && copy["attributes"]["local"] == false, "{copy}");

    // One that was restored carelessly could leave under any key: refused, though the journal names it.
    officer.restore(&issuing, &[])?;
    ca.run(&["serve"])?.refused(1, "it could leave under any wrapping key")?;
    ensure!(ca.run(&["doctor"])?.out.contains("it could leave under any wrapping key"), "the doctor sees nothing");
    Ok(())
}

/// A run that was cut off between policy and key leaves a policy, which is shown and can be ended.
fn a_policy_without_a_key() -> Result<()> {
    let ca = Installation::new("token")?;
    ca.run(&["init", "--out-dir", "admin"])?.good()?;
    let _officer = Officer::new(&ca)?;
    allow(&ca, "")?;
    let trusted = id(TRUSTED);
    let under = ["--extractable-under", &trusted, "--reason", "a test", "--output", "json"];
    let key = field(&ca.run(&generate("P-256", "spare", &under))?.json()?, "key_id")?;
    for kind in ["privkey", "pubkey"] {
        ca.pkcs11_tool(&["--delete-object", "--type", kind, "--id", &key])?;
    }
    let words = format!("EXCEPTION WITHOUT A KEY: {key}");
    ensure!(ca.run(&["key", "list"])?.good()?.err.contains(&words), "the list does not tell");
    ca.run(&["key", "retire", &key, "--why", "cut off", "--yes"])?.good()?;
    ensure!(!ca.run(&["key", "list"])?.good()?.err.contains(&words), "it did not end");
    Ok(())
}

/// The uncompressed point of a key that another tool made.
struct Foreign(Vec<u8>);

impl PublicKeyData for Foreign {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

fn authority(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// An issuer whose key could leave, and of which the journal says nothing: somebody put another key in the place of the
/// one that waits for its chain.
fn an_extractable_key_without_a_policy() -> Result<()> {
    let ca = Installation::new("external")?;
    ca.run(&["init", "--out-dir", "admin"])?.good()?;
    let pending: Value = serde_json::from_str(&text(&ca.path("data/pending-default.json"))?)?;
    let key = field(&pending, "key")?;
    for kind in ["privkey", "pubkey"] {
        ca.pkcs11_tool(&["--delete-object", "--type", kind, "--id", &key])?;
    }
    let pair = ["--keypairgen", "--key-type", "EC:prime256v1", "--id", &key, "--extractable", "--usage-sign"];
    ca.pkcs11_tool(&pair)?;
    let spki = ca.pkcs11_tool(&["--read-object", "--type", "pubkey", "--id", &key])?;
    let point = spki.get(spki.len() - 65..).context("no point")?.to_vec();

    let (root_key, root) = (KeyPair::generate()?, authority("a root")?);
    let root_pem = root.self_signed(&root_key)?.pem();
    let issuer = rcgen::Issuer::new(root, root_key);
    let issuing = authority("an issuing CA")?.signed_by(&Foreign(point), &issuer)?;
    fs::write(ca.path("chain.pem"), issuing.pem() + &root_pem)?;
    let import = ["init", "--import-chain", "chain.pem", "--tenant", "default", "--out-dir", "admin"];
    ca.run(&import)?.refused(1, "CKA_EXTRACTABLE is true")?;
    ca.run(&["serve"])?.refused(1, "may not sign here: CKA_EXTRACTABLE is true")?;
    // That the configuration allows backups is no policy for this key.
    allow(&ca, "")?;
    ca.run(&["serve"])?.refused(1, "may not sign here: CKA_EXTRACTABLE is true")?;
    Ok(())
}

#[test]
fn a_key_with_a_backup_is_made_serves_and_comes_back() {
    softhsm::test::in_child("a_key_with_a_backup_is_made_serves_and_comes_back", || {
        assert_eq!(from_policy_to_restore().map_err(|e| format!("{e:#}")), Ok(()));
    });
}

#[test]
fn a_policy_without_a_key_is_shown_until_it_is_ended() {
    softhsm::test::in_child("a_policy_without_a_key_is_shown_until_it_is_ended", || {
        assert_eq!(a_policy_without_a_key().map_err(|e| format!("{e:#}")), Ok(()));
    });
}

#[test]
fn an_extractable_key_that_the_journal_does_not_name_keeps_the_service_from_starting() -> Result<()> {
    an_extractable_key_without_a_policy()
}
