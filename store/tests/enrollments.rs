//! What an intent is refused for: other people's keys, too many certificates, too many renewals, disabled token makers.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fixture;

use ca_core::time::UnixTime;
use fixture::*;
use std::time::Duration;
use store::*;

fn after(secs: u64) -> UnixTime {
    NOW.plus(Duration::from_secs(secs))
}

fn abort(n: u64) -> Abort {
    Abort { issuer: issuer(), serial: serial(n), reason: "a test".into() }
}

#[test]
fn a_tenant_does_not_learn_another_ones_keys() {
    let (dir, store) = fresh();
    let theirs = || "theirs".parse().unwrap();
    store.commit(AddIssuer { tenant: other_tenant(), issuer: theirs(), ..add_issuer() }, NOW).unwrap();
    let same_key = |n, name: &str| Intend { spki_sha256: hash(77), ..intend(n, device(name)) };
    let abroad = |n, name: &str| Intend { tenant: other_tenant(), issuer: theirs(), ..same_key(n, name) };
    enroll(&store, same_key(1, "d-1")).unwrap();
    assert_eq!(store.commit(same_key(2, "d-2"), NOW), Err(StoreError::KeyInUse));
    assert!(enroll(&store, abroad(3, "d-2")).is_ok());
    assert_eq!(store.commit(abroad(4, "d-1"), NOW), Err(StoreError::KeyInUse));
    store.close();
    rebuilt_alike(dir, |store| assert_eq!(store.commit(same_key(5, "d-2"), NOW), Err(StoreError::KeyInUse)));
}

#[test]
fn a_key_is_free_when_every_intent_with_it_was_given_up() {
    let (dir, store) = fresh();
    let same_key = |n, name: &str| Intend { spki_sha256: hash(77), ..intend(n, device(name)) };
    store.commit(same_key(1, "d-1"), NOW).unwrap();
    store.commit(same_key(2, "d-1"), NOW).unwrap();
    store.commit(abort(1), NOW).unwrap();
    store.commit(abort(1), NOW).unwrap();
    assert_eq!(store.commit(same_key(3, "d-2"), NOW), Err(StoreError::KeyInUse));
    store.commit(abort(2), NOW).unwrap();
    assert!(enroll(&store, same_key(4, "d-2")).is_ok());
    assert_eq!(store.commit(same_key(5, "d-1"), NOW), Err(StoreError::KeyInUse));
    // Its certificate keeps it, revoked or not.
    store.commit(revoke_one(4, 4), NOW).unwrap();
    store.commit(same_key(6, "d-2"), NOW).unwrap();
    store.commit(abort(6), NOW).unwrap();
    store.close();
    rebuilt_alike(dir, |store| assert_eq!(store.commit(same_key(7, "d-1"), NOW), Err(StoreError::KeyInUse)));
}

#[test]
fn a_device_has_sixteen_live_certificates_of_a_profile_at_most() {
    let (_dir, store) = fresh();
    for n in 1..=15 {
        enroll(&store, intend(n, device("d-1"))).unwrap();
    }
    store.commit(intend(16, device("d-1")), NOW).unwrap();
    assert_eq!(store.commit(intend(17, device("d-1")), NOW), Err(StoreError::DeviceFull));
    // Its retry is no new one; a renewal, another profile and another device are none of these.
    assert!(matches!(store.commit(intend(3, device("d-1")), NOW), Ok(Intended::Replay(_))));
    assert!(enroll(&store, Intend { replaces: Some((issuer(), serial(1))), ..intend(18, device("d-1")) }).is_ok());
    assert!(enroll(&store, Intend { profile: "other".parse().unwrap(), ..intend(19, device("d-1")) }).is_ok());
    assert!(enroll(&store, intend(20, device("d-2"))).is_ok());
    // 17 live ones now; two must go.
    store.commit(revoke_one(2, 4), NOW).unwrap();
    assert_eq!(store.commit(intend(21, device("d-1")), NOW), Err(StoreError::DeviceFull));
    store.commit(abort(16), NOW).unwrap();
    assert_eq!(store.commit(intend(21, device("d-1")), NOW), Ok(Intended::New));
    assert_eq!(store.commit(intend(22, device("d-1")), LATER.plus(Duration::from_secs(1))), Ok(Intended::New));
}

#[test]
fn an_unfinished_renewal_is_waited_for_and_then_given_up() {
    let (_dir, store) = fresh();
    let renew = |n| Intend { replaces: Some((issuer(), serial(1))), ..intend(n, device("d-1")) };
    enroll(&store, intend(1, device("d-1"))).unwrap();
    store.commit(renew(2), NOW).unwrap();
    let refused = store.commit(renew(3), after(119)).unwrap_err();
    assert_eq!((refused.clone(), refused.retry_after()), (StoreError::InProgress, Some(Duration::from_secs(1))));
    assert!(matches!(store.commit(renew(2), after(119)), Ok(Intended::Replay(_))));
    assert_eq!(store.commit(renew(3), after(120)), Ok(Intended::New));
    let second = store.certificate(&issuer(), &serial(2)).unwrap().unwrap();
    assert_eq!((second.state(), second.revocation), (CertificateState::Aborted, None));
    assert_eq!(store.commit(issue(2), after(120)), Err(StoreError::WrongState("an open intent")));
    let first = store.certificate(&issuer(), &serial(1)).unwrap().unwrap();
    assert_eq!(first.replaced_by, Some((issuer(), serial(3))));
    // What was signed is revoked, and is on the CRL; what was not is nowhere.
    store.commit(issue(3), after(121)).unwrap();
    store.commit(renew(4), after(122)).unwrap();
    let mut listed = Vec::new();
    store.revoked(&issuer(), &mut |entry| listed.push((entry.serial, entry.reason))).unwrap();
    assert_eq!(listed, [(serial(3), 4)]);
    assert_eq!(store.open_intents().unwrap().len(), 1);
}

#[test]
fn a_certificate_has_eight_successors_in_a_day_at_most() {
    let (dir, store) = fresh();
    let renew = |n| Intend { replaces: Some((issuer(), serial(1))), ..intend(n, device("d-1")) };
    enroll(&store, intend(1, device("d-1"))).unwrap();
    // One that came to nothing does not count.
    store.commit(renew(2), NOW).unwrap();
    store.commit(abort(2), NOW).unwrap();
    for n in 0..8 {
        store.commit(renew(10 + n), after(n * 100)).unwrap();
        store.commit(issue(10 + n), after(n * 100)).unwrap();
    }
    let day = 24 * 3600;
    let refused = |wait| Err(StoreError::TooManySuccessors { retry_after: Duration::from_secs(wait) });
    assert_eq!(store.commit(renew(20), after(700)), refused(day - 700));
    assert_eq!(store.commit(renew(20), after(day - 1)), refused(1));
    // The eighth is still there, and can be confirmed.
    assert_eq!(store.certificate(&issuer(), &serial(17)).unwrap().unwrap().state(), CertificateState::Issued);
    store.close();
    rebuilt_alike(dir, |store| {
        assert_eq!(store.commit(renew(20), after(day - 1)), refused(1));
        assert_eq!(store.commit(renew(20), after(day)), Ok(Intended::New));
        store.commit(issue(20), after(day)).unwrap();
        assert_eq!(store.commit(renew(21), after(day)), refused(100));
        assert!(store.commit(confirm(20), after(day)).is_ok());
    });
}

#[test]
fn a_token_is_worth_as_much_as_who_made_it() {
    let (_dir, store) = fresh();
    let admin = |n, name: &str| Intend { new_principal: true, ..intend(n, principal(name, ROLE_ADMIN)) };
    enroll(&store, admin(1, "boss")).unwrap();
    enroll(&store, admin(2, "deputy")).unwrap();
    for (n, by) in [(1, "principal:deputy"), (2, "principal:deputy"), (3, "principal:nobody"), (4, "dev")] {
        store.commit(CreateToken { by: by.into(), ..token(n) }, NOW).unwrap();
    }
    let with = |n, name: &str| Intend { token_id: Some(name.into()), ..intend(n, device("d-1")) };
    assert_eq!(store.commit(with(11, "t-1"), NOW), Ok(Intended::New));
    assert_eq!(store.commit(with(12, "t-3"), NOW), Err(StoreError::TokenUnknown));
    assert_eq!(store.commit(with(13, "t-4"), NOW), Ok(Intended::New));
    store.commit(disable("deputy"), NOW).unwrap();
    assert_eq!(store.commit(with(14, "t-2"), NOW), Err(StoreError::TokenUnknown));
    // What was begun in time is a repetition, not a use.
    assert!(matches!(store.commit(with(11, "t-1"), NOW), Ok(Intended::Replay(_))));
}
