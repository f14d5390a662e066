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
    let publish = |number, this_update| {
        store.commit(ReserveCrlNumber { issuer: issuer() }, NOW).unwrap();
        let next_update = LATER;
        store.commit(
            PublishCrl { issuer: issuer(), number, this_update, next_update, sha256: hash(1), sequence: 2 },
            NOW,
        )
    };
    assert_eq!(publish(1, LATER), Ok(()));
    assert_eq!(publish(2, NOW), Ok(()));
    assert_eq!(store.crl(&issuer()).unwrap().map(|crl| (crl.number, crl.this_update)), Some((2, NOW)));
}
