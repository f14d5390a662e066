//! The whole way from a request to a certificate, judged by openssl.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use ca_core::{
    authority::{self, AuthorityError, ParentUrls},
    certificate::{Certificate, assemble},
    csr::CertificationRequest,
    id::{IssuerId, TenantId},
    issue::{Facts, IssuanceRequest, IssueError, Names, PreparedCertificate, SelectionError, prepare, select_names},
    issuer::{ChainError, Issuer, IssuerError, IssuerState},
    key::SignatureAlgorithm,
    name::DistinguishedName,
    profile::{AltNameKind, AltNameSpec, CertificateProfile, PastIssuer, ProfileSpec, Source},
    time::UnixTime,
};
use rcgen::SanType;
use std::{path::Path, time::Duration};
use support::{
    DAY, Hierarchy, Key, NOW, compile, facts, name, openssl, openssl_ok, serial, subject, urls, write, write_pem,
};

fn request<'a>(
    profile: &'a CertificateProfile,
    issuer: &'a Issuer,
    key: &'a Key,
    names: &'a Names,
) -> IssuanceRequest<'a> {
    IssuanceRequest { profile, issuer, public_key: &key.public, names, serial: serial(9), now: NOW }
}

fn issue(hierarchy: &Hierarchy, profile: &CertificateProfile, key: &Key, names: &Names) -> Certificate {
    let prepared = prepare(request(profile, &hierarchy.issuer, key, names)).unwrap();
    prepared.finish(&hierarchy.issuer, &hierarchy.sign(prepared.tbs())).unwrap()
}

fn refused(hierarchy: &Hierarchy, profile: &CertificateProfile, key: &Key, names: &Names) -> IssueError {
    prepare(request(profile, &hierarchy.issuer, key, names)).expect_err("must be refused")
}

/// `openssl verify -x509_strict` at [`NOW`], or a given moment.
fn verify(
    dir: &Path,
    root: &Certificate,
    issuing: &Certificate,
    leaf: &Certificate,
    more: &[&str],
) -> Option<(bool, String)> {
    let root = write_pem(dir, "root.pem", root.der());
    let issuing = write_pem(dir, "issuing.pem", issuing.der());
    let leaf = write_pem(dir, "leaf.pem", leaf.der());
    let at = NOW.as_secs().to_string();
    let mut args = vec!["verify", "-x509_strict", "-attime", &at, "-CAfile", &root, "-untrusted", &issuing];
    args.extend(more);
    args.push(&leaf);
    openssl(&args)
}

#[test]
fn openssl_accepts_every_kind_of_chain() {
    let dir = tempfile::tempdir().unwrap();
    let tls = compile(ProfileSpec::tls_client());
    let names = Names::from_facts(facts());
    for hierarchy in [
        Hierarchy::p256(),
        Hierarchy::new(Key::p384(), Key::p384()),
        Hierarchy::new(Key::p521(), Key::rsa2048()),
        Hierarchy::new(Key::rsa2048(), Key::ed25519(2)),
    ] {
        for key in [Key::p256(), Key::p384(), Key::ed25519(5), Key::rsa2048()] {
            let leaf = issue(&hierarchy, &tls, &key, &names);
            let issuing = hierarchy.issuer.certificate();
            let Some((ok, said)) = verify(dir.path(), &hierarchy.root, issuing, &leaf, &["-purpose", "sslclient"])
            else {
                return;
            };
            assert!(ok, "{said}");
            // The judge must be able to say no: another root of the same name, a wrong purpose, the wrong year.
            let other = Hierarchy::new(Key::p256(), Key::p256());
            let (ok, _) = verify(dir.path(), &other.root, issuing, &leaf, &[]).unwrap();
            assert!(!ok);
            let (ok, _) = verify(dir.path(), &hierarchy.root, issuing, &leaf, &["-purpose", "sslserver"]).unwrap();
            assert!(!ok);
        }
    }
}

#[test]
fn a_tls_client_certificate_says_what_its_profile_says() {
    let hierarchy = Hierarchy::p256();
    let key = Key::p256();
    let csr = key.request("ignored");
    let profile = compile(ProfileSpec::tls_client());
    let names = select_names(&profile, &csr, facts()).unwrap();
    let leaf = issue(&hierarchy, &profile, &key, &names);
    assert_eq!(leaf.subject(), "CN=dev-1,SERIALNUMBER=SN0001,O=default");
    assert_eq!((leaf.not_before(), leaf.not_after()), (NOW.minus(Duration::from_secs(3600)), NOW.plus(DAY * 365)));
    assert_eq!(leaf.issuer_der(), hierarchy.issuer.name_der());
    assert_eq!(leaf.subject_key_identifier(), Some(key.public.key_identifier().as_slice()));
    assert!(!leaf.is_ca());
    leaf.verify_signature(hierarchy.issuer.public_key()).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "leaf.der", leaf.der());
    let Some(text) = openssl_ok(&["x509", "-in", &path, "-noout", "-text"]) else { return };
    for expected in [
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "X509v3 Extended Key Usage: \n                TLS Web Client Authentication\n",
        "URI:http://pki.example.com/crl/1.crl",
        "OCSP - URI:http://pki.example.com/ocsp/1",
        "CA Issuers - URI:http://pki.example.com/ca/1.cer",
        "Version: 3",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
    }
}

#[test]
fn an_idevid_has_a_hardware_module_name_and_no_end() {
    let hierarchy = Hierarchy::p256();
    let profile = compile(ProfileSpec::idevid());
    let key = Key::p256();
    let leaf = issue(&hierarchy, &profile, &key, &Names::from_facts(facts()));
    assert_eq!(leaf.not_after(), UnixTime::INFINITY);
    assert_eq!(leaf.subject(), "SERIALNUMBER=SN0001,O=ACME\\, O=evil");
    assert!(leaf.extended_key_usage().is_empty());
    let der = leaf.der();
    assert!(der.windows(15).any(|w| w == b"99991231235959Z"));

    let dir = tempfile::tempdir().unwrap();
    let Some((ok, said)) = verify(dir.path(), &hierarchy.root, hierarchy.issuer.certificate(), &leaf, &[]) else {
        return;
    };
    assert!(ok, "{said}");
    let path = write(dir.path(), "leaf.der", der);
    let text = openssl_ok(&["x509", "-in", &path, "-noout", "-text"]).unwrap();
    assert!(text.contains("othername"), "{text}");
    assert!(text.contains("Not After : Dec 31 23:59:59 9999 GMT"), "{text}");
    // id-on-hardwareModuleName, then [0] { SEQUENCE { hwType, OCTET STRING "SN0001" } } (RFC 4108 5).
    let dump = openssl_ok(&["asn1parse", "-inform", "DER", "-in", &path]).unwrap();
    let at = dump.find("X509v3 Subject Alternative Name").unwrap();
    let value = dump[at..].lines().nth(1).unwrap().rsplit(':').next().unwrap();
    assert!(value.contains("2B06010505070804"), "{value}");
    assert!(value.ends_with("0406534E30303031"), "{value}");
}

#[test]
fn a_principal_is_no_device() {
    let hierarchy = Hierarchy::p256();
    let leaf = issue(&hierarchy, &compile(ProfileSpec::principal()), &Key::p256(), &Names::from_facts(facts()));
    assert_eq!(leaf.subject(), "CN=alice,O=default");
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let hierarchy = Hierarchy::new(Key::ed25519(1), Key::ed25519(2));
    for (name, mut spec) in [("tls_client", ProfileSpec::tls_client()), ("idevid", ProfileSpec::idevid())] {
        spec.key_algorithms = vec!["Ed25519".to_owned()];
        let leaf = issue(&hierarchy, &compile(spec), &Key::ed25519(3), &Names::from_facts(facts()));
        let hex = hex::encode(leaf.der());
        let lines = hex.as_bytes().chunks(100).map(|line| format!("{}\n", String::from_utf8_lossy(line)));
        let now = lines.collect::<String>();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.hex"));
        // BLESS=1 writes the file anew after an intended change.
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        assert_eq!(now, std::fs::read_to_string(&path).unwrap(), "{name}");
    }
}

#[test]
fn what_a_csr_must_not_ask_for() {
    let mut spec = ProfileSpec::tls_client();
    spec.san = vec![AltNameSpec {
        allow: vec!["*.example.com".to_owned()],
        max: 2,
        ..AltNameSpec::from_source(AltNameKind::Dns, Source::Csr)
    }];
    let profile = compile(spec);
    let key = Key::p256();
    let select = |edit: &dyn Fn(&mut rcgen::CertificateParams)| {
        let csr = CertificationRequest::parse(&key.csr("x", edit)).unwrap();
        select_names(&profile, &csr, facts())
    };
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let names = select(&|p| p.subject_alt_names = vec![dns("a.example.com"), dns("b.example.com")]).unwrap();
    assert_eq!(names.csr_sans().len(), 2);
    assert!(select(&|p| p.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature]).is_ok());

    let field = |edit: &dyn Fn(&mut rcgen::CertificateParams)| select(edit).expect_err("must be refused").field();
    let ca = |p: &mut rcgen::CertificateParams| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    assert_eq!(field(&ca), "csr.extension_request.basic_constraints");
    for usage in [rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign] {
        assert_eq!(field(&|p| p.key_usages = vec![usage]), "csr.extension_request.key_usage");
    }
    for bad in [
        dns("a.b.example.com"),
        dns("example.com"),
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
        SanType::Rfc822Name("a@example.com".try_into().unwrap()),
    ] {
        assert_eq!(
            field(&|p| p.subject_alt_names = vec![dns("a.example.com"), bad.clone()]),
            "csr.extension_request.subject_alt_name"
        );
    }
    let three = [dns("a.example.com"), dns("b.example.com"), dns("c.example.com")];
    assert_eq!(field(&|p| p.subject_alt_names = three.to_vec()), "csr.extension_request.subject_alt_name");
    let custom = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    let error = select(&|p| p.custom_extensions = vec![custom.clone()]).expect_err("unknown extension");
    assert!(matches!(error, SelectionError::Extension(_)), "{error}");

    // Accepted names arrive in the certificate, and nothing else of the CSR does.
    let hierarchy = Hierarchy::p256();
    let leaf = issue(&hierarchy, &profile, &key, &names);
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "leaf.der", leaf.der());
    let Some(text) = openssl_ok(&["x509", "-in", &path, "-noout", "-ext", "subjectAltName"]) else { return };
    assert!(text.contains("DNS:a.example.com, DNS:b.example.com"), "{text}");
}

#[test]
fn ca_requests_are_refused_even_by_a_profile_that_ignores_the_extension() {
    let mut spec = ProfileSpec::tls_client();
    spec.csr_extensions.ignore = vec!["basicConstraints".to_owned(), "keyUsage".to_owned()];
    let der = Key::p256().csr("x", |p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0)));
    let csr = CertificationRequest::parse(&der).unwrap();
    assert_eq!(select_names(&compile(spec), &csr, facts()), Err(SelectionError::AsksForCa));
}

#[test]
fn an_absent_source_is_named_unless_optional() {
    let hierarchy = Hierarchy::p256();
    let key = Key::p256();
    let mut known = facts();
    known.device_manufacturer = None;
    let idevid = compile(ProfileSpec::idevid());
    let leaf = issue(&hierarchy, &idevid, &key, &Names::from_facts(known.clone()));
    assert_eq!(leaf.subject(), "SERIALNUMBER=SN0001");
    for absent in [None, Some(String::new())] {
        known.device_serial_number = absent;
        let error = refused(&hierarchy, &idevid, &key, &Names::from_facts(known.clone()));
        assert_eq!(error.field(), "device.serial_number");
    }
    known.device_serial_number = Some("bad_alphabet".to_owned());
    assert_eq!(refused(&hierarchy, &idevid, &key, &Names::from_facts(known)).field(), "subject.serialNumber");

    let mut spec = ProfileSpec::tls_client();
    spec.subject.clear();
    spec.san = vec![AltNameSpec {
        suffix: ".example.com".to_owned(),
        ..AltNameSpec::from_source(AltNameKind::Dns, Source::DeviceId)
    }];
    let profile = compile(spec);
    // An empty subject makes the subjectAltName critical.
    let leaf = issue(&hierarchy, &profile, &key, &Names::from_facts(facts()));
    assert_eq!(leaf.subject_der(), DistinguishedName::empty().der());
    let dir = tempfile::tempdir().unwrap();
    if let Some((ok, said)) = verify(dir.path(), &hierarchy.root, hierarchy.issuer.certificate(), &leaf, &[]) {
        assert!(ok, "{said}");
    }
    let mut odd = facts();
    odd.device_id = Some(ca_core::id::DeviceId::new("a b").unwrap());
    let error = refused(&hierarchy, &profile, &key, &Names::from_facts(odd));
    assert_eq!(error.field(), "device.id");
    assert!(matches!(error, IssueError::Selection(SelectionError::InvalidAltName { .. })));
}

#[test]
fn validity_meets_the_issuers_end() {
    let hierarchy = Hierarchy::p256();
    let key = Key::p256();
    let names = Names::from_facts(facts());
    let last = hierarchy.issuer.certificate().not_after();
    let with = |policy, validity: &str| {
        let mut spec = ProfileSpec::tls_client();
        spec.validity_past_issuer = policy;
        spec.validity = validity.to_owned();
        spec.backdate = "48h".to_owned();
        compile(spec)
    };
    let leaf = issue(&hierarchy, &with(PastIssuer::Truncate, "20y"), &key, &names);
    assert_eq!((leaf.not_before(), leaf.not_after()), (hierarchy.issuer.certificate().not_before(), last));
    assert_eq!(issue(&hierarchy, &with(PastIssuer::Truncate, "infinite"), &key, &names).not_after(), last);
    assert_eq!(issue(&hierarchy, &with(PastIssuer::Allow, "20y"), &key, &names).not_after(), NOW.plus(DAY * 7300));
    let error = refused(&hierarchy, &with(PastIssuer::Refuse, "20y"), &key, &names);
    assert_eq!(error, IssueError::PastIssuer { wanted: NOW.plus(DAY * 7300), issuer: last });
    assert_eq!(issue(&hierarchy, &with(PastIssuer::Refuse, "1y"), &key, &names).not_after(), NOW.plus(DAY * 365));
}

#[test]
fn only_a_fit_issuer_issues_to_a_fit_key() {
    let hierarchy = Hierarchy::p256();
    let profile = compile(ProfileSpec::tls_client());
    let names = Names::from_facts(facts());
    let key = Key::p256();
    for state in [IssuerState::Staged, IssuerState::Draining, IssuerState::Retired] {
        let issuer = hierarchy.issuer.clone().with_state(state);
        let error = prepare(request(&profile, &issuer, &key, &names)).expect_err("not active");
        assert!(matches!(error, IssueError::IssuerState { .. }));
    }
    let other = Names::from_facts(Facts { tenant: TenantId::new("other").unwrap(), ..facts() });
    assert_eq!(refused(&hierarchy, &profile, &key, &other), IssueError::OtherTenant);
    for now in [NOW.minus(DAY * 2), NOW.plus(DAY * 4000)] {
        let late = IssuanceRequest { now, ..request(&profile, &hierarchy.issuer, &key, &names) };
        assert!(matches!(prepare(late), Err(IssueError::IssuerNotValid(_))));
    }
    for own in [&hierarchy.issuing_key, &hierarchy.root_key] {
        assert_eq!(refused(&hierarchy, &profile, own, &names), IssueError::IssuersOwnKey);
    }
    let error = refused(&hierarchy, &profile, &Key::p521(), &names);
    assert_eq!(error.field(), "csr.subject_public_key");
}

#[test]
fn a_certificate_is_finished_only_with_the_issuers_signature() {
    let hierarchy = Hierarchy::p256();
    let profile = compile(ProfileSpec::tls_client());
    let names = Names::from_facts(facts());
    let key = Key::p256();
    let prepared = prepare(request(&profile, &hierarchy.issuer, &key, &names)).unwrap();
    let good = hierarchy.sign(prepared.tbs());
    for bad in [Vec::new(), vec![0; 70], Key::p256().sign(prepared.tbs()), hierarchy.sign(b"something else")] {
        assert_eq!(prepared.finish(&hierarchy.issuer, &bad), Err(IssueError::Signature));
    }
    let certificate = prepared.finish(&hierarchy.issuer, &good).unwrap();
    assert_eq!(certificate.tbs(), prepared.tbs());
    assert_eq!(certificate.der(), assemble(prepared.tbs(), prepared.algorithm(), &good));
    assert_eq!(certificate.serial(), prepared.serial());

    // After a crash, from the recorded bytes alone, whatever the issuer's state has become.
    let draining = hierarchy.issuer.clone().with_state(IssuerState::Draining);
    let recovered = PreparedCertificate::recover(prepared.tbs().to_vec(), &draining).unwrap();
    assert_eq!(recovered, prepared);
    assert_eq!(recovered.finish(&draining, &good).unwrap(), certificate);
    let other = Hierarchy::new(Key::p256(), Key::p256());
    assert!(PreparedCertificate::recover(prepared.tbs().to_vec(), &other.issuer).is_err());
    assert_eq!(PreparedCertificate::recover(prepared.tbs()[1..].to_vec(), &draining), Err(IssueError::Recorded));
    assert!(PreparedCertificate::recover(hierarchy.issuer.certificate().tbs().to_vec(), &draining).is_err());
}

#[test]
fn the_services_own_certificates() {
    let hierarchy = Hierarchy::p256();
    let issuer = &hierarchy.issuer;
    let key = Key::p256();
    let server_name = name("service");
    let dns = ["ca.example.com".to_owned(), "localhost".to_owned()];
    let ips = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let prepared = authority::tls_server(subject(&server_name, &key, 5, 30), &dns, &ips, issuer).unwrap();
    let server = prepared.finish(&hierarchy.sign(prepared.tbs())).unwrap();
    let prepared = authority::ocsp_responder(subject(&server_name, &key, 6, 7), issuer).unwrap();
    let responder = prepared.finish(&hierarchy.sign(prepared.tbs())).unwrap();
    assert_eq!(prepared.finish(&[1, 2, 3]), Err(AuthorityError::Signature));

    let bad = authority::tls_server(subject(&server_name, &key, 5, 30), &["*.x".to_owned()], &[], issuer);
    assert!(matches!(bad, Err(AuthorityError::ServerName(_))));
    assert!(matches!(
        authority::tls_server(subject(&server_name, &key, 5, 30), &[], &[], issuer),
        Err(AuthorityError::ServerName(_))
    ));
    let too_long = authority::ocsp_responder(subject(&server_name, &key, 6, 9000), issuer);
    assert!(matches!(too_long, Err(AuthorityError::Lint(_))));
    let draining = issuer.clone().with_state(IssuerState::Draining);
    assert!(authority::ocsp_responder(subject(&server_name, &key, 6, 7), &draining).is_ok());
    assert!(authority::tls_server(subject(&server_name, &key, 5, 30), &dns, &ips, &draining).is_err());

    let dir = tempfile::tempdir().unwrap();
    let checks: &[&[&str]] =
        &[&["-purpose", "sslserver", "-verify_hostname", "ca.example.com"], &["-verify_ip", "::1"]];
    for more in checks {
        let Some((ok, said)) = verify(dir.path(), &hierarchy.root, issuer.certificate(), &server, more) else { return };
        assert!(ok, "{said}");
    }
    let (ok, _) =
        verify(dir.path(), &hierarchy.root, issuer.certificate(), &server, &["-verify_hostname", "x.example.com"])
            .unwrap();
    assert!(!ok);
    let (ok, said) =
        verify(dir.path(), &hierarchy.root, issuer.certificate(), &responder, &["-purpose", "ocsphelper"]).unwrap();
    assert!(ok, "{said}");
    let path = write(dir.path(), "responder.der", responder.der());
    let text = openssl_ok(&["x509", "-in", &path, "-noout", "-text"]).unwrap();
    assert!(text.contains("OCSP Signing") && text.contains("OCSP No Check"), "{text}");
}

#[test]
fn an_issuing_ca_under_a_foreign_root() {
    let key = Key::p256();
    let ca_name = name("Issuing CA 2");
    let info = authority::certification_request(&ca_name, &key.public).unwrap();
    let algorithm = SignatureAlgorithm::EcdsaSha256;
    assert_eq!(authority::finish_csr(&info, algorithm, &[1]), Err(AuthorityError::Signature));
    let csr = authority::finish_csr(&info, algorithm, &key.sign(&info)).unwrap();
    assert_eq!(CertificationRequest::parse(&csr).unwrap().public_key(), &key.public);

    // A root made by openssl.
    let dir = tempfile::tempdir().unwrap();
    let path = |file: &str| dir.path().join(file).to_str().unwrap().to_owned();
    let (root_key, root, csr_file, ca, ext) =
        (path("k.pem"), path("r.der"), write(dir.path(), "c.der", &csr), path("ca.der"), path("ext"));
    std::fs::write(
        &ext,
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
         subjectKeyIdentifier=hash\n",
    )
    .unwrap();
    if openssl_ok(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &root_key]).is_none() {
        return;
    }
    openssl_ok(&[
        "req",
        "-x509",
        "-new",
        "-key",
        &root_key,
        "-subj",
        "/O=Foreign/CN=Root",
        "-days",
        "10",
        "-outform",
        "DER",
        "-out",
        &root,
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    ]);
    openssl_ok(&[
        "x509",
        "-req",
        "-inform",
        "DER",
        "-in",
        &csr_file,
        "-CA",
        &root,
        "-CAkey",
        &root_key,
        "-CAform",
        "DER",
        "-days",
        "5",
        "-extfile",
        &ext,
        "-outform",
        "DER",
        "-out",
        &ca,
        "-set_serial",
        "77",
    ]);
    let read = |file: &str| Certificate::from_der(&std::fs::read(file).unwrap()).unwrap();
    let (ca, root) = (read(&ca), read(&root));
    let now = ca.not_before();
    let chain = [ca.clone(), root.clone()];
    authority::check_imported_chain(&key.public, &chain, now).unwrap();

    assert_eq!(authority::check_imported_chain(&Key::p256().public, &chain, now), Err(ChainError::OtherKey));
    assert_eq!(authority::check_imported_chain(&key.public, &[], now), Err(ChainError::Empty));
    assert_eq!(authority::check_imported_chain(&key.public, &chain[..1], now), Err(ChainError::NoRoot));
    assert_eq!(authority::check_imported_chain(&key.public, &chain, now.plus(DAY * 6)), Err(ChainError::Validity(0)));
    let impostor = Hierarchy::p256().root;
    assert_eq!(authority::check_imported_chain(&key.public, &[ca.clone(), impostor], now), Err(ChainError::Name(0)));
    let twice = [ca.clone(), root.clone(), root.clone()];
    assert_eq!(authority::check_imported_chain(&key.public, &twice, now), Err(ChainError::SelfSigned(1)));

    // Its certificates carry the key identifier that openssl gave it, not one of our making.
    let issuer = Issuer::new(
        IssuerId::new("foreign").unwrap(),
        TenantId::default_tenant(),
        IssuerState::Active,
        ca,
        vec![root],
        urls(),
    )
    .unwrap();
    assert_ne!(issuer.key_identifier(), key.public.key_identifier());
    let profile = compile(ProfileSpec::tls_client());
    let names = Names::from_facts(facts());
    let leaf_key = Key::p256();
    let at = now.plus(Duration::from_secs(60));
    let prepared = prepare(IssuanceRequest { now: at, ..request(&profile, &issuer, &leaf_key, &names) }).unwrap();
    let leaf = prepared.finish(&issuer, &key.sign(prepared.tbs())).unwrap();
    let (ok, said) =
        verify(dir.path(), issuer.root(), issuer.certificate(), &leaf, &["-attime", &at.as_secs().to_string()])
            .unwrap();
    assert!(ok, "{said}");
}

#[test]
fn the_hierarchy_refuses_what_would_break_it() {
    let hierarchy = Hierarchy::p256();
    let key = Key::p256();
    let (empty, root_name, ca_name) = (DistinguishedName::empty(), name("Root"), name("Issuing CA 3"));
    assert_eq!(authority::root(subject(&empty, &key, 1, 1), key.algorithm), Err(AuthorityError::EmptySubject));
    let ca = |s, parent, urls| authority::issuing_ca(s, parent, SignatureAlgorithm::EcdsaSha256, urls);
    let none = ParentUrls::default();
    assert_eq!(
        ca(subject(&root_name, &key, 1, 1), &hierarchy.root, none),
        Err(AuthorityError::SameAsIssuer("subject"))
    );
    assert_eq!(
        ca(subject(&ca_name, &hierarchy.root_key, 1, 1), &hierarchy.root, none),
        Err(AuthorityError::SameAsIssuer("public key"))
    );
    // pathLenConstraint 0 has no CA below it.
    assert_eq!(ca(subject(&ca_name, &key, 1, 1), hierarchy.issuer.certificate(), none), Err(AuthorityError::Parent));
    let https = ParentUrls { crl: Some("https://x/"), ..none };
    assert_eq!(ca(subject(&ca_name, &key, 1, 1), &hierarchy.root, https), Err(AuthorityError::Url("crl")));
    assert!(matches!(ca(subject(&ca_name, &key, 1, 9000), &hierarchy.root, none), Err(AuthorityError::Lint(_))));

    let issuer = |certificate: &Certificate, chain: &[&Certificate]| {
        let chain = chain.iter().map(|&c| c.clone()).collect();
        Issuer::new(
            IssuerId::new("x").unwrap(),
            TenantId::default_tenant(),
            IssuerState::Active,
            certificate.clone(),
            chain,
            urls(),
        )
    };
    let profile = compile(ProfileSpec::tls_client());
    let leaf = issue(&hierarchy, &profile, &key, &Names::from_facts(facts()));
    let issuing = hierarchy.issuer.certificate();
    assert_eq!(issuer(&leaf, &[issuing, &hierarchy.root]), Err(IssuerError::NotCa));
    assert_eq!(issuer(issuing, &[]), Err(IssuerError::Chain(ChainError::NoRoot)));
    let stranger = Hierarchy::p256();
    assert_eq!(issuer(issuing, &[&stranger.root]), Err(IssuerError::Chain(ChainError::Signature(0))));
    assert!(issuer(&hierarchy.root, &[]).is_ok());
}
