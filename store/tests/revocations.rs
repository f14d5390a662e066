//! Revocations: whom they reach, who is told, and what a CRL is made from.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fixture;

use fixture::*;
use std::sync::{Arc, Mutex};
use store::*;

fn new_principal(n: u64, name: &str, role: u32) -> Intend {
    Intend { new_principal: true, ..intend(n, principal(name, role)) }
}

#[test]
fn the_services_own_certificates_are_out_of_reach() {
    let (_dir, store) = fresh();
    enroll(&store, new_principal(1, "service.tls", ROLE_SERVICE)).unwrap();
    assert_eq!(store.commit(revoke_one(1, 5), NOW), Err(StoreError::ServiceCertificate));
    assert_eq!(store.commit(disable("service.tls"), NOW), Err(StoreError::NotFound("principal")));
    // Another tenant does not learn that it is one.
    let foreign = Revoke { tenant: other_tenant(), ..revoke_one(1, 5) };
    assert_eq!(store.commit(foreign, NOW), Err(StoreError::NotFound("certificate")));
    // An open intent of the service is one of its certificates already.
    store.commit(intend(2, principal("service.tls", ROLE_SERVICE)), NOW).unwrap();
    assert_eq!(store.commit(revoke_one(2, 5), NOW), Err(StoreError::ServiceCertificate));
    assert_eq!(store.certificate(&issuer(), &serial(1)).unwrap().unwrap().state(), CertificateState::Issued);
    // Nobody else looks like the service, and nobody else has its role.
    for (n, name, role) in [(3, "service.fake", 1), (4, "service.", 2), (5, "boss", ROLE_SERVICE)] {
        assert_eq!(store.commit(new_principal(n, name, role), NOW), Err(StoreError::ReservedName), "{name}");
    }
    assert_eq!(store.commit(intend(6, principal("service.tls", 1)), NOW), Err(StoreError::OtherHolder));
    assert!(enroll(&store, new_principal(7, "services", 2)).is_ok());
    assert!(store.commit(revoke_one(7, 5), NOW).is_ok());
}

#[test]
fn the_newest_revocation_of_an_issuer_is_known_and_told() {
    let (dir, store) = fresh();
    let told = Arc::new(Mutex::new(Vec::new()));
    let (seen, reader) = (told.clone(), store.clone());
    let hook = move |issuer: &ca_core::id::IssuerId| {
        // Whoever is told sees it.
        seen.lock().unwrap().push((issuer.to_string(), reader.revoked_sequence(issuer).unwrap()));
    };
    assert!(store.on_revocation(Box::new(hook)));
    assert!(!store.on_revocation(Box::new(|_| panic!("a second hook"))));
    let newest = || store.revoked_sequence(&issuer()).unwrap();
    let records = || store.statistics().records;
    let calls = || std::mem::take(&mut *told.lock().unwrap());
    enroll(&store, intend(1, device("d-1"))).unwrap();
    enroll(&store, intend(2, device("d-2"))).unwrap();
    assert_eq!((newest(), calls()), (0, vec![]));
    store.commit(revoke_one(1, 4), NOW).unwrap();
    // The last record answers the request.
    let first = records() - 1;
    assert_eq!((newest(), calls()), (first, vec![("issuing-1".to_owned(), first)]));
    // The same again, or a reason that does not rise, is nothing new.
    store.commit(revoke_one(1, 4), NOW).unwrap();
    store.commit(revoke_one(1, 5), NOW).unwrap();
    assert_eq!((newest(), calls()), (first, vec![]));
    store.commit(revoke_one(1, 1), NOW).unwrap();
    let raised = records() - 1;
    assert_eq!((newest(), calls()), (raised, vec![("issuing-1".to_owned(), raised)]));
    // Not only a request to revoke does it.
    enroll(&store, Intend { replaces: Some((issuer(), serial(2))), ..intend(3, device("d-2")) }).unwrap();
    assert_eq!(calls(), vec![]);
    store.commit(confirm(3), NOW).unwrap();
    let superseded = records() - 1;
    assert_eq!((newest(), calls()), (superseded, vec![("issuing-1".to_owned(), superseded)]));
    assert_eq!(store.revoked_sequence(&"issuing-2".parse().unwrap()), Ok(0));
    let mut listed = 0;
    assert!(store.revoked(&issuer(), &mut |_| listed += 1).unwrap() >= superseded);
    assert_eq!(listed, 2);
    // A revoked intent has no certificate: nothing that a CRL would list.
    store.commit(intend(4, device("d-4")), NOW).unwrap();
    store.commit(revoke_one(4, 1), NOW).unwrap();
    let entry = store.certificate(&issuer(), &serial(4)).unwrap().unwrap();
    assert_eq!((entry.state(), entry.signature), (CertificateState::Revoked, None));
    assert_eq!(newest(), superseded);
    store.revoked(&issuer(), &mut |entry| assert_ne!(entry.serial, serial(4))).unwrap();
    store.close();
    drop(calls());
    rebuilt_alike(dir, |store| assert_eq!(store.revoked_sequence(&issuer()), Ok(superseded)));
}

#[test]
fn a_hook_that_panics_takes_nothing_with_it() {
    let (_dir, store) = fresh();
    assert!(store.on_revocation(Box::new(|_| panic!("a test"))));
    for n in 1..=2 {
        enroll(&store, intend(n, device("d-1"))).unwrap();
        assert!(store.commit(revoke_one(n, 4), NOW).is_ok());
    }
}

#[test]
fn a_clock_that_was_wrong_once_does_not_stop_crls() {
    let (_dir, store) = fresh();
    let publish = |this_update| {
        let number = store.commit(ReserveCrlNumber { issuer: issuer() }, NOW).unwrap();
        let next_update = LATER;
        store.commit(
            PublishCrl { issuer: issuer(), number, this_update, next_update, sha256: hash(1), sequence: 2 },
            NOW,
        )
    };
    assert_eq!(publish(LATER), Ok(()));
    assert_eq!(publish(NOW), Ok(()));
    let published = store.crl(&issuer()).unwrap().map(|crl| (crl.number, crl.this_update));
    assert_eq!(published, Some((NOW.as_secs() + 1, NOW)));
}

#[test]
fn a_compromised_key_gets_no_certificate_from_its_tenant() {
    let (dir, store) = fresh();
    let theirs = AddIssuer { tenant: other_tenant(), issuer: "theirs".parse().unwrap(), ..add_issuer() };
    store.commit(theirs, NOW).unwrap();
    let with_key_of =
        |n, key: u64, name: &str| Intend { spki_sha256: hash(1_000_000 + key), ..intend(n, device(name)) };
    enroll(&store, intend(1, device("d-1"))).unwrap();
    enroll(&store, intend(2, device("d-2"))).unwrap();
    // Another reason says nothing about the key.
    store.commit(revoke_one(1, 4), NOW).unwrap();
    store.commit(revoke_one(2, 1), NOW).unwrap();
    assert_eq!(store.commit(with_key_of(3, 1, "d-1"), NOW), Ok(Intended::New));
    assert_eq!(store.commit(with_key_of(4, 2, "d-2"), NOW), Err(StoreError::KeyCompromised));
    store.commit(revoke_one(1, 1), NOW).unwrap();
    assert_eq!(store.commit(with_key_of(5, 1, "d-1"), NOW), Err(StoreError::KeyCompromised));
    // Nor does what was begun before that become a certificate.
    assert_eq!(store.commit(issue(3), NOW), Err(StoreError::Revoked));
    assert_eq!(store.open_intents().unwrap().len(), 0);
    store.close();
    rebuilt_alike(dir, |store| {
        let abroad = Intend { tenant: other_tenant(), issuer: "theirs".parse().unwrap(), ..with_key_of(6, 1, "d-9") };
        // A request is no secret: what one tenant says of a key must not bar another's device.
        assert_eq!(store.commit(abroad, NOW), Ok(Intended::New));
        assert_eq!(store.commit(intend(7, device("d-1")), NOW), Ok(Intended::New));
    });
}

#[test]
fn a_compromised_key_takes_the_successors_that_nobody_has_confirmed_with_it() {
    let (_dir, store) = fresh();
    let renew = |n, of| Intend { replaces: Some((issuer(), serial(of))), ..intend(n, device("d-1")) };
    let state = |n| store.certificate(&issuer(), &serial(n)).unwrap().unwrap().state();
    enroll(&store, intend(1, device("d-1"))).unwrap();
    enroll(&store, renew(2, 1)).unwrap();
    enroll(&store, renew(3, 2)).unwrap();
    store.commit(renew(4, 3), NOW).unwrap();
    enroll(&store, intend(5, device("d-1"))).unwrap();
    let revoked = store.commit(revoke_one(1, 1), NOW).unwrap();
    let serials: Vec<_> = revoked.iter().map(|entry| entry.serial.clone()).collect();
    assert_eq!(serials, [1, 2, 3, 4].map(serial));
    assert!(revoked.iter().all(|entry| entry.revocation.as_ref().is_some_and(|r| r.reason == 1)));
    assert_eq!(store.commit(revoke_one(1, 1), NOW), Ok(revoked));
    assert_eq!(store.commit(issue(4), NOW), Err(StoreError::Revoked));
    assert_eq!(state(5), CertificateState::Issued, "it renews nothing");
    // An installed successor has proved itself, and another reason says nothing about the successor.
    enroll(&store, intend(6, device("d-1"))).unwrap();
    enroll(&store, renew(7, 6)).unwrap();
    store.commit(revoke_one(6, 4), NOW).unwrap();
    assert_eq!(state(7), CertificateState::Issued);
    store.commit(confirm(7), NOW).unwrap();
    store.commit(revoke_one(6, 1), NOW).unwrap();
    assert_eq!(state(7), CertificateState::Installed);
}

#[test]
fn a_device_with_3000_certificates_is_revoked_by_one_request() {
    let (dir, store) = fresh();
    let count = 3_000;
    // Each renews the one before, and none is ever confirmed.
    for chunk in (1..=count).collect::<Vec<u64>>().chunks(250) {
        let (tell, told) = std::sync::mpsc::channel();
        for n in chunk {
            let (intended, issued) = (tell.clone(), tell.clone());
            let replaces = (*n > 1).then(|| (issuer(), serial(n - 1)));
            let intent = Intend { replaces, ..intend(*n, device("d-1")) };
            store.submit(intent, NOW, move |r| intended.send(r.is_ok()).unwrap());
            store.submit(issue(*n), NOW, move |r| issued.send(r.is_ok()).unwrap());
        }
        drop(tell);
        assert!(told.iter().all(|ok| ok));
    }
    let all = revoke("all", RevokeTarget::Device("d-1".parse().unwrap()), 5);
    let revoked = store.commit(all.clone(), NOW).unwrap();
    let serials: Vec<_> = revoked.iter().map(|entry| entry.serial.clone()).collect();
    assert_eq!(serials, (1..=count).map(serial).collect::<Vec<_>>());
    assert!(revoked.iter().all(|entry| entry.state() == CertificateState::Revoked));
    let records = store.statistics().records;
    assert_eq!(store.commit(all.clone(), NOW), Ok(revoked.clone()));
    assert_eq!(store.statistics().records, records, "a repetition is no record");
    let request = store.request(&tenant(), "principal:boss", &key("all")).unwrap().unwrap();
    let references = revoked.iter().map(|entry| (entry.issuer.clone(), entry.serial.clone())).collect();
    assert_eq!(request.outcome, RequestOutcome::Revocation(references));
    store.close();
    assert!(store::verify::verify(dir.path(), &mut |_| ()).is_ok());
    rebuilt_alike(dir, |store| assert_eq!(store.commit(all, NOW), Ok(revoked)));
}

#[test]
fn the_last_certificate_of_the_last_admin_stays() {
    let (_dir, store) = fresh();
    enroll(&store, new_principal(1, "boss", ROLE_ADMIN)).unwrap();
    assert_eq!(store.commit(revoke_one(1, 1), NOW), Err(StoreError::LastAdmin));
    // Neither an intent nor what has expired nor another role's certificate keeps a tenant going.
    store.commit(intend(2, principal("boss", ROLE_ADMIN)), NOW).unwrap();
    enroll(&store, Intend { not_after: NOW, ..new_principal(3, "deputy", ROLE_ADMIN) }).unwrap();
    enroll(&store, new_principal(4, "line", 2)).unwrap();
    let later = NOW.plus(std::time::Duration::from_secs(1));
    assert_eq!(store.commit(revoke_one(1, 5), later), Err(StoreError::LastAdmin));
    assert_eq!(store.commit(disable("boss"), later), Err(StoreError::LastAdmin));
    // What does not work may go at any time.
    assert!(store.commit(revoke_one(2, 5), later).is_ok());
    assert!(store.commit(revoke_one(3, 5), later).is_ok());
    assert!(store.commit(revoke_one(4, 5), later).is_ok());
    // A second certificate of the same admin is enough, but not one that goes with the first.
    let renewal = Intend { replaces: Some((issuer(), serial(1))), ..intend(5, principal("boss", ROLE_ADMIN)) };
    enroll(&store, renewal).unwrap();
    assert_eq!(store.commit(revoke_one(1, 1), later), Err(StoreError::LastAdmin));
    assert!(store.commit(revoke_one(1, 5), later).is_ok());
    assert_eq!(store.commit(revoke_one(5, 5), later), Err(StoreError::LastAdmin));
    enroll(&store, intend(6, principal("deputy", ROLE_ADMIN))).unwrap();
    assert!(store.commit(revoke_one(5, 5), later).is_ok());
    assert_eq!(store.commit(disable("deputy"), later), Err(StoreError::LastAdmin));
    assert!(store.commit(disable("boss"), later).is_ok());
}
