//! What the changes promise, seen through the public interface.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fixture;

use ca_core::key::SignatureAlgorithm;
use fixture::*;
use std::sync::{Arc, Barrier};
use store::*;

#[test]
fn an_intent_becomes_a_certificate_once() {
    let (_dir, store) = fresh();
    assert_eq!(store.commit(intend(1, device("d-1")), NOW), Ok(Intended::New));
    assert_eq!(store.open_intents().unwrap().len(), 1);
    // A retry finds the open intent with its bytes.
    let again = Intend { serial: serial(99), tbs: vec![9; 10], ..intend(1, device("d-1")) };
    let Ok(Intended::Replay(open)) = store.commit(again, NOW) else { panic!("no replay") };
    assert_eq!(
        (open.serial.clone(), open.tbs.clone(), open.state()),
        (serial(1), vec![1; 120], CertificateState::Intended)
    );
    let issued = store.commit(issue(1), NOW).unwrap();
    assert_eq!(issued.state(), CertificateState::Issued);
    assert_eq!(issued.signature.as_deref(), Some([1; 71].as_slice()));
    assert_eq!(issued.issued_at, Some(NOW));
    assert_eq!(store.commit(issue(1), NOW), Ok(issued.clone()));
    let other = Issue { signature: vec![8; 71], ..issue(1) };
    assert_eq!(store.commit(other, NOW), Err(StoreError::WrongState("an open intent")));
    let abort = Abort { issuer: issuer(), serial: serial(1), reason: String::new() };
    assert_eq!(store.commit(abort, NOW), Err(StoreError::WrongState("an open intent")));
    assert_eq!(store.certificate(&issuer(), &serial(1)), Ok(Some(issued)));
    assert_eq!(store.certificate(&issuer(), &serial(2)), Ok(None));
    assert!(store.open_intents().unwrap().is_empty());
    assert_eq!(store.commit(issue(2), NOW), Err(StoreError::NotFound("certificate")));
}

#[test]
fn every_field_of_an_intent_comes_back() {
    let (_dir, store) = fresh();
    let attestation = AttestationRecord {
        format: "tpm2".into(),
        claims: [("key.hardware_bound".to_owned(), "yes".to_owned())].into(),
        evidence_sha256: hash(77),
        trust_anchor: "CN=Vendor".into(),
    };
    let intent =
        Intend { attestation: Some(attestation.clone()), anchor_sha256: Some(hash(78)), ..intend(1, device("d-1")) };
    let entry = enroll(&store, intent.clone()).unwrap();
    assert_eq!(entry.attestation, Some(attestation));
    assert_eq!(entry.anchor_sha256, Some(hash(78)));
    assert_eq!((entry.tenant, entry.issuer, entry.serial), (intent.tenant, intent.issuer, intent.serial));
    assert_eq!((entry.tbs, entry.algorithm, entry.profile), (intent.tbs, intent.algorithm, intent.profile));
    assert_eq!((entry.holder, entry.requester), (intent.holder, intent.requester));
    assert_eq!((entry.not_before, entry.not_after), (intent.not_before, intent.not_after));
    assert_eq!((entry.request_sha256, entry.spki_sha256), (intent.request_sha256, intent.spki_sha256));
    let known = store.device(&tenant(), &"d-1".parse().unwrap()).unwrap().unwrap();
    assert_eq!((known.model.as_str(), known.certificate_count), ("M-1", 1));
    assert_eq!((known.anchor_sha256, known.current), (Some(hash(78)), (issuer(), serial(1))));
}

#[test]
fn idempotency_is_scoped_and_conflicts_are_typed() {
    let (_dir, store) = fresh();
    enroll(&store, intend(1, device("d-1"))).unwrap();
    let changed = Intend { request_sha256: hash(5), serial: serial(2), ..intend(1, device("d-1")) };
    assert_eq!(store.commit(changed, NOW), Err(StoreError::IdempotencyConflict));
    // Another requester's key is another key.
    let other =
        Intend { idempotency_key: key("k-1"), requester: "principal:line-2".into(), ..intend(2, device("d-2")) };
    assert_eq!(store.commit(other, NOW), Ok(Intended::New));
    let request = store.request(&tenant(), "principal:line-1", &key("k-1")).unwrap().unwrap();
    assert_eq!(request.outcome, RequestOutcome::Issuance(issuer(), serial(1)));
    assert_eq!(request.request_sha256, hash(1));
    assert_eq!(store.request(&other_tenant(), "principal:line-1", &key("k-1")), Ok(None));
    let reused = Intend { serial: serial(1), ..intend(3, device("d-3")) };
    assert_eq!(store.commit(reused, NOW), Err(StoreError::SerialInUse));
    let foreign = Intend { tenant: other_tenant(), ..intend(4, device("d-4")) };
    assert_eq!(store.commit(foreign, NOW), Err(StoreError::NotFound("issuer")));
    // The key of one kind of request used for another, with the same hash by accident.
    let token = CreateToken { by: "principal:line-1".into(), idempotency_key: key("k-1"), ..token(1) };
    assert_eq!(store.commit(token, NOW).unwrap_err(), StoreError::IdempotencyConflict);
}

#[test]
fn a_key_has_one_holder() {
    let (_dir, store) = fresh();
    enroll(&store, intend(1, device("d-1"))).unwrap();
    let stolen = Intend { spki_sha256: hash(1_000_001), ..intend(2, device("d-2")) };
    assert_eq!(store.commit(stolen.clone(), NOW), Err(StoreError::KeyInUse));
    assert_eq!(store.commit(Intend { holder: device("d-1"), ..stolen }, NOW), Ok(Intended::New));
}

#[test]
fn a_device_has_one_anchor_and_an_anchor_one_device() {
    let (_dir, store) = fresh();
    enroll(&store, Intend { anchor_sha256: Some(hash(9)), ..intend(1, device("d-1")) }).unwrap();
    let other_anchor = Intend { anchor_sha256: Some(hash(8)), ..intend(2, device("d-1")) };
    assert_eq!(store.commit(other_anchor, NOW), Err(StoreError::DeviceConflict(DeviceConflict::OtherAnchor)));
    let other_device = Intend { anchor_sha256: Some(hash(9)), ..intend(3, device("d-2")) };
    assert_eq!(store.commit(other_device, NOW), Err(StoreError::DeviceConflict(DeviceConflict::AnchorInUse)));
    assert!(enroll(&store, Intend { anchor_sha256: Some(hash(9)), ..intend(4, device("d-1")) }).is_ok());
    // What is bound to hardware gets nothing without it.
    assert_eq!(
        store.commit(intend(5, device("d-1")), NOW),
        Err(StoreError::DeviceConflict(DeviceConflict::OtherAnchor))
    );
    let bound = Intend { anchor_sha256: Some(hash(8)), ..intend(6, device("d-1")) };
    assert_eq!(store.commit(bound, NOW), Err(StoreError::DeviceConflict(DeviceConflict::OtherAnchor)));
}

#[test]
fn an_existing_device_is_refused_where_that_is_asked_for() {
    let (_dir, store) = fresh();
    let refuse = |n, name| Intend { existing: ExistingDevice::Refuse, ..intend(n, device(name)) };
    enroll(&store, refuse(1, "d-1")).unwrap();
    let exists = Err(StoreError::DeviceConflict(DeviceConflict::DeviceExists));
    assert_eq!(store.commit(refuse(2, "d-1"), NOW), exists);
    // An open intent may become a certificate, so it counts.
    store.commit(refuse(3, "d-2"), NOW).unwrap();
    assert_eq!(store.commit(refuse(4, "d-2"), NOW), exists);
    store.commit(revoke_one(1, 5), NOW).unwrap();
    assert_eq!(store.commit(refuse(5, "d-1"), NOW), Ok(Intended::New));
    // What has expired does not count either.
    let after = LATER.plus(std::time::Duration::from_secs(1));
    assert_eq!(store.commit(refuse(6, "d-2"), after), Ok(Intended::New));
}

#[test]
fn a_token_opens_once_in_its_time_and_for_its_profile() {
    let (_dir, store) = fresh();
    let (entry, replayed) = store.commit(token(1), NOW).unwrap();
    assert!(!replayed && entry.used_by.is_none());
    assert_eq!(store.commit(token(1), NOW), Ok((entry.clone(), true)));
    assert_eq!(
        store.commit(CreateToken { request_sha256: hash(2), ..token(1) }, NOW),
        Err(StoreError::IdempotencyConflict)
    );
    assert_eq!(store.token_by_secret(&token(1).secret_sha256), Ok(Some(entry)));
    assert_eq!(store.token_by_secret(&hash(3)), Ok(None));
    let with = |n, name: &str| Intend { token_id: Some(name.into()), ..intend(n, device("d-1")) };
    assert_eq!(store.commit(with(1, "t-9"), NOW), Err(StoreError::TokenUnknown));
    let other_profile = Intend { profile: "code-signing".parse().unwrap(), ..with(2, "t-1") };
    assert_eq!(store.commit(other_profile, NOW), Err(StoreError::TokenUnknown));
    assert_eq!(store.commit(with(3, "t-1"), NOW), Ok(Intended::New));
    assert_eq!(store.commit(with(4, "t-1"), NOW), Err(StoreError::TokenUsed));
    // Its own retry is no second use.
    assert!(matches!(store.commit(with(3, "t-1"), NOW), Ok(Intended::Replay(_))));
    let used = store.token_by_secret(&token(1).secret_sha256).unwrap().unwrap();
    assert_eq!(used.used_by, Some((issuer(), serial(3))));
    let expiring = token(2);
    let end = expiring.expires_at;
    store.commit(expiring, NOW).unwrap();
    assert_eq!(store.commit(with(5, "t-2"), end), Err(StoreError::TokenExpired));
    // A clock that is put back does not revive it once a record has the later time.
    store.commit(intend(6, device("d-2")), end).unwrap();
    assert_eq!(store.commit(with(7, "t-2"), NOW), Err(StoreError::TokenExpired));
    assert_eq!(store.high_water(), end);
}

#[test]
fn of_64_racers_for_a_token_one_wins() {
    let (_dir, store) = fresh();
    for round in 0..10 {
        store.commit(token(round), NOW).unwrap();
        let start = Arc::new(Barrier::new(64));
        let racers: Vec<_> = (0..64)
            .map(|n| {
                let (store, start) = (store.clone(), start.clone());
                let n = round * 64 + n;
                let intent = Intend { token_id: Some(format!("t-{round}")), ..intend(n, device(&format!("d-{n}"))) };
                std::thread::spawn(move || {
                    start.wait();
                    store.commit(intent, NOW)
                })
            })
            .collect();
        let results: Vec<_> = racers.into_iter().map(|racer| racer.join().unwrap()).collect();
        assert_eq!(results.iter().filter(|r| **r == Ok(Intended::New)).count(), 1);
        assert_eq!(results.iter().filter(|r| **r == Err(StoreError::TokenUsed)).count(), 63);
    }
    assert_eq!(store.open_intents().unwrap().len(), 10);
}

#[test]
fn a_certificate_has_one_live_successor() {
    let (_dir, store) = fresh();
    let renew = |n| Intend { replaces: Some((issuer(), serial(1))), ..intend(n, device("d-1")) };
    enroll(&store, intend(1, device("d-1"))).unwrap();
    enroll(&store, renew(2)).unwrap();
    assert_eq!(store.certificate(&issuer(), &serial(1)).unwrap().unwrap().replaced_by, Some((issuer(), serial(2))));
    // Renewed again before the first one was confirmed.
    enroll(&store, renew(3)).unwrap();
    let second = store.certificate(&issuer(), &serial(2)).unwrap().unwrap();
    assert_eq!(second.revocation.map(|r| r.reason), Some(4));
    assert_eq!(store.commit(confirm(2), NOW), Err(StoreError::Revoked));
    // Both live until the successor is confirmed; then the first one is superseded.
    assert_eq!(store.certificate(&issuer(), &serial(1)).unwrap().unwrap().state(), CertificateState::Issued);
    let third = store.commit(confirm(3), NOW).unwrap();
    assert_eq!((third.state(), third.installed_at), (CertificateState::Installed, Some(NOW)));
    let first = store.certificate(&issuer(), &serial(1)).unwrap().unwrap();
    assert_eq!(first.revocation.map(|r| r.reason), Some(4));
    assert_eq!(store.commit(confirm(3), NOW), Ok(third.clone()));
    let records = store.statistics().records;
    assert_eq!(store.commit(Confirm { idempotency_key: None, ..confirm(3) }, NOW), Ok(third));
    assert_eq!(store.statistics().records, records, "a repetition is no record");
    assert_eq!(store.commit(renew(4), NOW), Err(StoreError::Revoked));
    let other = Intend { replaces: Some((issuer(), serial(3))), ..intend(5, device("d-2")) };
    assert_eq!(store.commit(other, NOW), Err(StoreError::OtherHolder));
    let request = store.request(&tenant(), "principal:line-1", &key("confirm-3")).unwrap().unwrap();
    assert_eq!(request.outcome, RequestOutcome::Confirmation(issuer(), serial(3)));
}

#[test]
fn an_aborted_renewal_leaves_its_predecessor_alone() {
    let (_dir, store) = fresh();
    enroll(&store, intend(1, device("d-1"))).unwrap();
    let renewal = Intend { replaces: Some((issuer(), serial(1))), ..intend(2, device("d-1")) };
    store.commit(renewal, NOW).unwrap();
    let reason = "é".repeat(200);
    let aborted = store.commit(Abort { issuer: issuer(), serial: serial(2), reason }, NOW).unwrap();
    assert_eq!(aborted.aborted.map(|r| r.len()), Some(256));
    assert_eq!(store.commit(issue(2), NOW), Err(StoreError::WrongState("an open intent")));
    let first = store.certificate(&issuer(), &serial(1)).unwrap().unwrap();
    assert_eq!((first.state(), first.replaced_by), (CertificateState::Issued, None));
    assert!(store.open_intents().unwrap().is_empty());
    assert_eq!(store.commit(revoke_one(2, 1), NOW), Err(StoreError::WrongState("issued")));
}

#[test]
fn revocation_keeps_its_first_date_and_rises_only_to_key_compromise() {
    let (_dir, store) = fresh();
    enroll(&store, intend(1, device("d-1"))).unwrap();
    let later = NOW.plus(std::time::Duration::from_secs(60));
    let first = store.commit(revoke_one(1, 4), NOW).unwrap().remove(0).revocation.unwrap();
    assert_eq!((first.at, first.reason, first.by.as_str()), (NOW, 4, "principal:boss"));
    let same = store.commit(revoke_one(1, 5), later).unwrap().remove(0).revocation.unwrap();
    assert_eq!(same, first);
    let invalidity_date = Some(UnixTime::from_secs(1_700_000_000));
    let raise = Revoke { invalidity_date, ..revoke_one(1, 1) };
    let raised = store.commit(raise, later).unwrap().remove(0).revocation.unwrap();
    assert_eq!((raised.at, raised.reason, raised.invalidity_date), (NOW, 1, invalidity_date));
    let lowered = store.commit(revoke_one(1, 9), later).unwrap().remove(0).revocation.unwrap();
    assert_eq!(lowered.reason, 1);
    let mut listed = Vec::new();
    let sequence = store.revoked(&issuer(), &mut |entry| listed.push(entry)).unwrap();
    assert_eq!(sequence, store.statistics().records);
    let expected = RevokedEntry { serial: serial(1), at: NOW, reason: 1, invalidity_date, not_after: LATER };
    assert_eq!(listed, [expected]);
    assert_eq!(store.revoked(&"issuing-2".parse().unwrap(), &mut |_| panic!("another issuer's")), Ok(sequence));
    let foreign = Revoke { tenant: other_tenant(), ..revoke_one(1, 1) };
    assert_eq!(store.commit(foreign, NOW), Err(StoreError::NotFound("certificate")));
    let conflict = Revoke { request_sha256: hash(50), ..revoke_one(1, 4) };
    assert_eq!(store.commit(conflict, NOW), Err(StoreError::IdempotencyConflict));
}

use ca_core::time::UnixTime;

#[test]
fn revoking_a_device_takes_what_lives_and_what_may_live() {
    let (_dir, store) = fresh();
    for n in 1..=3 {
        enroll(&store, intend(n, device("d-1"))).unwrap();
    }
    enroll(&store, Intend { not_after: NOW, ..intend(4, device("d-1")) }).unwrap();
    store.commit(intend(5, device("d-1")), NOW).unwrap();
    enroll(&store, intend(6, device("d-2"))).unwrap();
    store.commit(revoke_one(3, 4), NOW).unwrap();
    let now = NOW.plus(std::time::Duration::from_secs(1));
    let target = || RevokeTarget::Device("d-1".parse().unwrap());
    let revoked = store.commit(revoke("all", target(), 5), now).unwrap();
    let serials: Vec<_> = revoked.iter().map(|entry| entry.serial.clone()).collect();
    assert_eq!(serials, [serial(1), serial(2), serial(5)]);
    assert!(revoked.iter().all(|entry| entry.state() == CertificateState::Revoked));
    assert_eq!(store.commit(revoke("all", target(), 5), now), Ok(revoked));
    // The revoked intent cannot become a certificate any more.
    assert_eq!(store.commit(issue(5), now), Err(StoreError::Revoked));
    assert!(store.open_intents().unwrap().is_empty());
    assert_eq!(store.certificate(&issuer(), &serial(6)).unwrap().unwrap().state(), CertificateState::Issued);
    let unknown = RevokeTarget::Device("d-9".parse().unwrap());
    assert_eq!(store.commit(revoke("x", unknown, 5), now), Err(StoreError::NotFound("device")));
}

#[test]
fn principals_come_with_their_first_certificate_and_one_admin_stays() {
    let (_dir, store) = fresh();
    let new = |n, name: &str, role| Intend { new_principal: true, ..intend(n, principal(name, role)) };
    assert_eq!(store.commit(intend(1, principal("boss", 1)), NOW), Err(StoreError::NotFound("principal")));
    // One that is given up leaves its name free.
    store.commit(new(2, "boss", 1), NOW).unwrap();
    assert_eq!(store.commit(new(3, "boss", 1), NOW), Err(StoreError::AlreadyExists("principal")));
    store.commit(Abort { issuer: issuer(), serial: serial(2), reason: "test".into() }, NOW).unwrap();
    enroll(&store, new(4, "boss", 1)).unwrap();
    assert_eq!(store.commit(disable("boss"), NOW), Err(StoreError::LastAdmin));
    // An admin without a certificate cannot take over.
    store.commit(new(5, "deputy", 1), NOW).unwrap();
    assert_eq!(store.commit(disable("boss"), NOW), Err(StoreError::LastAdmin));
    store.commit(issue(5), NOW).unwrap();
    let disabled = store.commit(disable("boss"), NOW).unwrap();
    assert_eq!(disabled.disabled_at, Some(NOW));
    assert_eq!(store.commit(disable("boss"), NOW), Ok(disabled));
    let own = store.certificate(&issuer(), &serial(4)).unwrap().unwrap();
    assert_eq!(own.revocation.map(|r| r.reason), Some(5));
    assert_eq!(store.commit(intend(6, principal("boss", 1)), NOW), Err(StoreError::PrincipalDisabled));
    assert_eq!(store.commit(intend(7, principal("deputy", 2)), NOW), Err(StoreError::OtherHolder));
    assert_eq!(store.commit(disable("deputy"), NOW), Err(StoreError::LastAdmin));
    let all = store.principals(&tenant(), None, 10).unwrap().items;
    let names: Vec<_> = all.iter().map(|p| (p.id.as_str(), p.enrolled, p.disabled_at.is_some())).collect();
    assert_eq!(names, [("boss", true, true), ("deputy", true, false)]);
    assert!(store.principals(&other_tenant(), None, 10).unwrap().items.is_empty());
}

#[test]
fn crl_numbers_rise_and_an_older_crl_is_refused() {
    let (dir, store) = fresh();
    let reserve = || ReserveCrlNumber { issuer: issuer() };
    let publish = |number, sequence| PublishCrl {
        issuer: issuer(),
        number,
        this_update: NOW,
        next_update: LATER,
        sha256: hash(number),
        sequence,
    };
    let first = NOW.as_secs();
    assert_eq!(store.commit(publish(first, 1), NOW), Err(StoreError::NotRising("a CRL number")));
    for number in first..first + 3 {
        assert_eq!(store.commit(reserve(), NOW), Ok(number));
    }
    assert_eq!(store.commit(publish(first + 1, 5), NOW), Ok(()));
    assert_eq!(store.commit(publish(first, 5), NOW), Err(StoreError::NotRising("a CRL number")));
    assert_eq!(store.commit(publish(first + 2, 4), NOW), Err(StoreError::NotRising("a CRL's content")));
    assert_eq!(store.crl(&issuer()).unwrap().map(|crl| (crl.number, crl.sequence)), Some((first + 1, 5)));
    store.close();
    let (store, _) = open(dir.path());
    // A clock that went back changes nothing; one that went on carries the number over whatever a backup forgot.
    assert_eq!(store.commit(reserve(), UnixTime::from_secs(1)), Ok(first + 3));
    assert_eq!(store.commit(reserve(), LATER), Ok(LATER.as_secs()));
    let unknown = ReserveCrlNumber { issuer: "issuing-2".parse().unwrap() };
    assert_eq!(store.commit(unknown, NOW), Err(StoreError::NotFound("issuer")));
    assert_eq!(store.commit(add_issuer(), NOW).unwrap_err(), StoreError::AlreadyExists("issuer"));
}

#[test]
fn racing_crl_reservations_never_give_a_number_twice() {
    let (_dir, store) = fresh();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || {
                (0..20).map(|_| store.commit(ReserveCrlNumber { issuer: issuer() }, NOW).unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut numbers: Vec<u64> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
    numbers.sort_unstable();
    let first = NOW.as_secs();
    assert_eq!(numbers, (first..first + 160).collect::<Vec<_>>());
}

#[test]
fn listings_page_in_order_and_filter() {
    let (_dir, store) = fresh();
    for n in 1..=25 {
        enroll(&store, intend(n, device(&format!("d-{}", n % 5)))).unwrap();
    }
    store.commit(intend(26, device("d-1")), NOW).unwrap();
    store.commit(revoke_one(7, 1), NOW).unwrap();
    let all = |filter: &CertificateFilter, limit, scan| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.certificates(&tenant(), filter, after, limit, scan).unwrap();
            assert!(page.items.len() <= limit);
            found.extend(page.items.iter().map(|entry| entry.serial.clone()));
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    };
    let none = CertificateFilter::default();
    let expected: Vec<_> = (1..=25).map(serial).collect();
    for (limit, scan) in [(1, 1000), (4, 1000), (25, 1000), (500, 1000), (10, 3)] {
        assert_eq!(all(&none, limit, scan), expected);
    }
    let device_1 = CertificateFilter { device: Some("d-1".parse().unwrap()), ..none.clone() };
    assert_eq!(all(&device_1, 2, 100), [1, 6, 11, 16, 21].map(serial));
    let revoked = CertificateFilter { state: Some(CertificateState::Revoked), ..none.clone() };
    assert_eq!(all(&revoked, 10, 4), [serial(7)]);
    let other = CertificateFilter { issuer: Some("issuing-2".parse().unwrap()), ..none.clone() };
    assert!(all(&other, 10, 100).is_empty());
    assert!(store.certificates(&other_tenant(), &none, None, 10, 100).unwrap().items.is_empty());
    let devices = store.devices(&tenant(), &DeviceFilter::default(), None, 3, 100).unwrap();
    let names: Vec<_> = devices.items.iter().map(|d| d.id.as_str().to_owned()).collect();
    assert_eq!(names, ["d-1", "d-2", "d-3"]);
    let rest = store.devices(&tenant(), &DeviceFilter::default(), devices.next, 3, 100).unwrap();
    assert_eq!((rest.items.len(), rest.next), (2, None));
    let filter = DeviceFilter { prefix: Some("d-4".into()), model: Some("M-1".into()) };
    assert_eq!(store.devices(&tenant(), &filter, None, 10, 100).unwrap().items.len(), 1);
    let filter = DeviceFilter { prefix: None, model: Some("M-2".into()) };
    assert!(store.devices(&tenant(), &filter, None, 10, 100).unwrap().items.is_empty());
}

#[test]
fn limits_are_typed() {
    let (_dir, store) = fresh();
    let too_large = |field, limit| Err(StoreError::TooLarge { field, limit });
    let tbs = Intend { tbs: vec![0; 40_000], ..intend(1, device("d-1")) };
    assert_eq!(store.commit(tbs, NOW), too_large("tbs", 32 * 1024));
    let requester = Intend { requester: "x".repeat(201), ..intend(1, device("d-1")) };
    assert_eq!(store.commit(requester, NOW), too_large("requester", 200));
    let attestation = AttestationRecord { trust_anchor: "x".repeat(70_000), ..AttestationRecord::default() };
    let payload = Intend { attestation: Some(attestation), ..intend(1, device("d-1")) };
    assert_eq!(store.commit(payload, NOW), too_large("payload", 64 * 1024));
    // Nothing of it stayed.
    assert_eq!(store.certificate(&issuer(), &serial(1)), Ok(None));
    assert_eq!(store.commit(intend(1, device("d-1")), NOW), Ok(Intended::New));
}

#[test]
fn a_closed_store_refuses_and_its_clones_still_read() {
    let (_dir, store) = fresh();
    enroll(&store, intend(1, device("d-1"))).unwrap();
    let clone = store.clone();
    store.close();
    assert_eq!(clone.commit(intend(2, device("d-2")), NOW), Err(StoreError::Closed));
    assert!(clone.certificate(&issuer(), &serial(1)).unwrap().is_some());
}

#[test]
fn a_full_queue_is_busy_with_a_hint() {
    let (_dir, store) = fresh();
    let (block, blocked) = std::sync::mpsc::channel::<()>();
    store.submit(ReserveCrlNumber { issuer: issuer() }, NOW, move |_| {
        let _ = blocked.recv();
    });
    let (tell, told) = std::sync::mpsc::channel();
    for _ in 0..3_000 {
        let tell = tell.clone();
        store.submit(ReserveCrlNumber { issuer: issuer() }, NOW, move |result| tell.send(result).unwrap());
    }
    block.send(()).unwrap();
    drop(tell);
    let results: Vec<_> = told.iter().collect();
    assert_eq!(results.len(), 3_000);
    let busy = results.iter().filter(|r| matches!(r, Err(e) if e.retry_after().is_some())).count();
    let kept = results.iter().filter(|r| r.is_ok()).count();
    assert_eq!(busy + kept, 3_000);
    // The first one is in the queue itself until it is taken.
    assert!(busy > 1_000 && kept >= 1_023, "{busy} busy, {kept} kept");
    assert_eq!(store.statistics().refused_busy, busy as u64);
}

#[test]
fn a_callback_that_panics_takes_nothing_with_it() {
    let (_dir, store) = fresh();
    store.submit(ReserveCrlNumber { issuer: issuer() }, NOW, |_| panic!("a test"));
    assert_eq!(store.commit(ReserveCrlNumber { issuer: issuer() }, NOW), Ok(NOW.as_secs() + 1));
}

#[test]
fn an_issuer_keeps_the_algorithm_that_it_signs_with() {
    let (_dir, store) = fresh();
    assert_eq!(store.issuers().unwrap()[0].signature_algorithm, None);
    for (n, algorithm) in SignatureAlgorithm::ALL.into_iter().enumerate() {
        let id: ca_core::id::IssuerId = format!("issuer-{n}").parse().unwrap();
        let add = AddIssuer { issuer: id.clone(), signature_algorithm: Some(algorithm), ..add_issuer() };
        assert_eq!(store.commit(add, NOW).unwrap().signature_algorithm, Some(algorithm));
        let found = store.issuers().unwrap().into_iter().find(|issuer| issuer.id == id).unwrap();
        assert_eq!(found.signature_algorithm, Some(algorithm));
    }
}

#[test]
fn the_longest_signature_is_taken() {
    let (_dir, store) = fresh();
    let intent = Intend { algorithm: SignatureAlgorithm::MlDsa87, ..intend(1, device("d-1")) };
    assert_eq!(store.commit(intent, NOW), Ok(Intended::New));
    let issue = Issue { issuer: issuer(), serial: serial(1), signature: vec![7; 4627] };
    let entry = store.commit(issue, NOW).unwrap();
    assert_eq!((entry.algorithm, entry.signature.map(|s| s.len())), (SignatureAlgorithm::MlDsa87, Some(4627)));
}
