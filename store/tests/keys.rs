//! What the journal promises about the token and the keys in it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fixture;

use fixture::*;
use std::collections::BTreeMap;
use store::*;

fn id(n: u8) -> TokenKeyId {
    [n; 16]
}

fn made(n: u8) -> RecordKey {
    RecordKey {
        tenant: Some(tenant()),
        id: id(n),
        label: format!("spare {n}"),
        algorithm: "P-256".into(),
        spki: vec![n; 91],
        purpose: "the next issuing CA".into(),
        by: "m.keller".into(),
        attributes: BTreeMap::from([("CKA_SENSITIVE".to_owned(), true), ("CKA_EXTRACTABLE".to_owned(), false)]),
        token_serial: "0123456789abcdef".into(),
        token_label: "ca".into(),
    }
}

fn retired(n: u8, destroyed: bool) -> RetireKey {
    RetireKey { id: id(n), why: "never used".into(), by: "m.keller".into(), destroyed }
}

fn identity(n: u8, accepted: Option<Acceptance>) -> SetTokenIdentity {
    SetTokenIdentity {
        serial: "0123456789abcdef".into(),
        label: "ca".into(),
        manufacturer: "Example HSM".into(),
        key_id: id(n),
        spki: vec![n; 91],
        accepted,
    }
}

fn accepted() -> Option<Acceptance> {
    Some(Acceptance { by: "m.keller".into(), why: "the old one burnt; restored from its backup".into() })
}

#[test]
fn a_key_is_made_once_retired_once_and_may_then_be_destroyed() {
    let (dir, store) = fresh();
    assert_eq!(store.key(&id(9)), Ok(None));
    let entry = store.commit(made(9), NOW).unwrap();
    let making = entry.made.clone().unwrap();
    assert_eq!((making.label.as_str(), making.by.as_str(), making.at), ("spare 9", "m.keller", NOW));
    assert_eq!((making.tenant, making.attributes), (Some(tenant()), made(9).attributes));
    assert_eq!((entry.retired, entry.exception), (None, None));
    assert_eq!(store.commit(made(9), NOW), Err(StoreError::AlreadyExists("key")));

    let entry = store.commit(retired(9, false), LATER).unwrap();
    assert_eq!(entry.retired.as_ref().map(|r| (r.destroyed, r.at)), Some((false, LATER)));
    let records = store.statistics().records;
    store.commit(retired(9, false), LATER).unwrap();
    assert_eq!(store.statistics().records, records, "a repetition records nothing");
    let entry = store.commit(retired(9, true), LATER).unwrap();
    assert!(entry.retired.unwrap().destroyed);
    store.commit(retired(9, false), LATER).unwrap();
    assert!(store.key(&id(9)).unwrap().unwrap().retired.unwrap().destroyed, "what is destroyed stays so");
    // A retired id never comes back.
    assert_eq!(store.commit(made(9), LATER), Err(StoreError::AlreadyExists("key")));

    // One that the journal did not see made can be retired, too, and belongs to nobody.
    let none = store.commit(RecordKey { tenant: None, ..made(8) }, LATER).unwrap();
    assert_eq!(none.made.unwrap().tenant, None);
    assert_eq!(store.commit(retired(7, false), LATER).unwrap().made, None);
    let order: Vec<_> = store.keys().unwrap().iter().map(|entry| entry.id).collect();
    assert_eq!(order, [id(9), id(8), id(7)]);
    store.close();
    rebuilt_alike(dir, |store| assert_eq!(store.keys().unwrap().len(), 3));
}

#[test]
fn a_key_that_serves_is_not_retired() {
    let (_dir, store) = fresh();
    // The issuer's key, its responder's and the server's; see the fixture.
    store.commit(SetServerIdentity { chain: vec![vec![0x30; 90]], key_id: id(3).to_vec() }, NOW).unwrap();
    store.commit(identity(4, None), NOW).unwrap();
    for n in 1..=4 {
        assert_eq!(store.commit(retired(n, false), NOW), Err(StoreError::KeyServes), "{n}");
    }
    store.commit(SetIssuerState { issuer: issuer(), state: IssuerState::Draining }, NOW).unwrap();
    assert_eq!(store.commit(retired(1, true), NOW), Err(StoreError::KeyServes), "it still signs status");
    store.commit(SetIssuerState { issuer: issuer(), state: IssuerState::Retired }, NOW).unwrap();
    store.commit(retired(1, true), NOW).unwrap();
    store.commit(retired(2, true), NOW).unwrap();
    assert_eq!(store.commit(retired(3, true), NOW), Err(StoreError::KeyServes));
}

#[test]
fn an_exception_comes_before_its_key_and_never_after() {
    let (dir, store) = fresh();
    let allow = |n| AllowWrappedBackup {
        id: id(n),
        wrapping_key: id(200),
        reason: "the token has no backup of its own".into(),
        by: "m.keller".into(),
    };
    let entry = store.commit(allow(9), NOW).unwrap();
    assert_eq!(entry.exception.map(|e| (e.wrapping_key_id, e.by)), Some((id(200), "m.keller".to_owned())));
    assert_eq!(entry.made, None);
    let entry = store.commit(made(9), NOW).unwrap();
    assert!(entry.exception.is_some() && entry.made.is_some());
    store.commit(made(8), NOW).unwrap();
    for n in [9, 8, 1] {
        assert_eq!(store.commit(allow(n), NOW), Err(StoreError::AlreadyExists("key")), "{n}");
    }
    store.close();
    rebuilt_alike(dir, |store| assert!(store.key(&id(9)).unwrap().unwrap().exception.is_some()));
}

#[test]
fn another_token_identity_needs_somebody_who_accepts_it() {
    let (dir, store) = fresh();
    // Nobody accepts a first one.
    assert_eq!(store.commit(identity(4, accepted()), NOW).unwrap().accepted, None);
    let records = store.statistics().records;
    store.commit(identity(4, None), NOW).unwrap();
    assert_eq!(store.statistics().records, records, "the same again records nothing");
    assert_eq!(store.commit(identity(5, None), NOW), Err(StoreError::AlreadyExists("token identity")));
    let silent = Some(Acceptance { by: "m.keller".into(), why: " ".into() });
    assert_eq!(store.commit(identity(5, silent), NOW), Err(StoreError::Missing("why")));
    assert_eq!(store.commit(identity(5, accepted()), LATER).unwrap().accepted, accepted());
    let other = SetTokenIdentity { label: "other".into(), ..identity(6, None) };
    store.commit(other, LATER).unwrap();
    store.close();
    rebuilt_alike(dir, |store| {
        let live: Vec<_> = store.token_identities().unwrap().iter().map(|i| (i.label.clone(), i.key_id)).collect();
        assert_eq!(live, [("ca".to_owned(), id(5)), ("other".to_owned(), id(6))]);
    });
}

#[test]
fn what_is_missing_or_too_long_is_named() {
    let (_dir, store) = fresh();
    let refused = |change: RecordKey| store.commit(change, NOW).unwrap_err();
    assert_eq!(refused(RecordKey { by: " ".into(), ..made(9) }), StoreError::Missing("by"));
    assert_eq!(refused(RecordKey { purpose: String::new(), ..made(9) }), StoreError::Missing("purpose"));
    let long = RecordKey { label: "x".repeat(65), ..made(9) };
    assert_eq!(refused(long), StoreError::TooLarge { field: "label", limit: 64 });
    let long = RecordKey { spki: vec![0; 4097], ..made(9) };
    assert_eq!(refused(long), StoreError::TooLarge { field: "spki", limit: 4096 });
    let many = (0..65).map(|n| (n.to_string(), true)).collect();
    assert_eq!(
        refused(RecordKey { attributes: many, ..made(9) }),
        StoreError::TooLarge { field: "attributes", limit: 64 }
    );
    let why = RetireKey { why: String::new(), ..retired(9, false) };
    assert_eq!(store.commit(why, NOW).unwrap_err(), StoreError::Missing("why"));
}

#[test]
fn the_records_are_shown_and_verified() {
    let (dir, store) = fresh();
    store.commit(made(9), NOW).unwrap();
    store.commit(retired(9, true), NOW).unwrap();
    let allow = AllowWrappedBackup { id: id(8), wrapping_key: id(200), reason: "r".into(), by: "b".into() };
    store.commit(allow, NOW).unwrap();
    store.commit(identity(4, None), NOW).unwrap();
    store.close();
    let shown: Vec<_> = read_records(dir.path(), 2).unwrap().collect::<Result<_, _>>().unwrap();
    let kinds: Vec<_> = shown.iter().map(|record| record.kind).collect();
    assert_eq!(kinds, ["key made", "key retired", "key exception made", "token identity set"]);
    let has = |at: usize, name: &str, value: &str| {
        assert!(shown[at].fields.iter().any(|(n, v)| *n == name && v == value), "{name} in {:?}", shown[at].fields);
    };
    has(0, "key_id", &hex::encode(id(9)));
    has(0, "attribute", "CKA_EXTRACTABLE = false");
    has(0, "by", "m.keller");
    has(1, "destroyed", "yes");
    has(2, "exception", "wrapped-backup");
    has(3, "manufacturer", "Example HSM");
    assert_eq!(shown[0].tenant, tenant().as_str());
    let verified = verify::verify(dir.path(), &mut |_| ());
    assert!(verified.is_ok(), "{:?}", verified.err());
}
