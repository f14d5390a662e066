use super::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SigningKey};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

struct Root {
    key: KeyPair,
    certificate: Vec<u8>,
}

fn root() -> Root {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Example Root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).unwrap().der().to_vec();
    Root { key, certificate }
}

fn attributes(extractable: bool) -> Value {
    json!({ "sensitive": true, "extractable": extractable, "always_sensitive": true, "never_extractable": true,
            "local": true, "sign": true, "other_use": false })
}

fn begin(answers: &str) -> (&'static str, Facts) {
    (BEGIN, facts([("answers", json!(answers))]))
}

fn key(root: &Root, extractable: bool) -> (&'static str, Facts) {
    let spki_sha256 = hex::encode(Sha256::digest(root.key.subject_public_key_info()));
    (KEY, facts([("spki_sha256", json!(spki_sha256)), ("attributes", attributes(extractable))]))
}

fn certificate(step: &'static str, der: &[u8]) -> (&'static str, Facts) {
    (step, facts([("certificate", json!(hex::encode(der)))]))
}

fn close() -> (&'static str, Facts) {
    (CLOSE, Facts::new())
}

fn whole(root: &Root) -> Vec<(&'static str, Facts)> {
    let file = facts([("name", json!("root.pem")), ("sha256", json!("00")), ("direction", json!("out"))]);
    let root_line = certificate(ROOT, &root.certificate);
    vec![begin("typed"), key(root, false), root_line, (FILE, file), close()]
}

/// Lines, and the seal by `by`.
fn written(lines: Vec<(&str, Facts)>, by: Option<&Root>) -> String {
    let mut transcript = Transcript::new();
    let mut text = String::new();
    for (step, facts) in lines {
        text.push_str(&transcript.line(NOW, step, facts).unwrap());
    }
    if let Some(root) = by {
        let signature = root.key.sign(&transcript.seal_message()).unwrap();
        let facts = seal_facts(SignatureAlgorithm::EcdsaSha256, &signature).unwrap();
        text.push_str(&transcript.line(NOW, SEAL, facts).unwrap());
    }
    text
}

#[test]
fn a_whole_ceremony_verifies() {
    let root = root();
    let verified = verify(&written(whole(&root), Some(&root))).unwrap();
    assert_eq!(verified.outcome, Outcome::Sealed);
    assert_eq!((verified.lines, verified.scripted), (6, false));
    assert_eq!(verified.root.unwrap().der(), root.certificate);
    assert_eq!(verified.files, [FileFact { name: "root.pem".into(), sha256: "00".into(), made: true }]);
    assert!(verified.began.starts_with("2027-"));
}

#[test]
fn whatever_is_changed_taken_out_or_put_in_is_found() {
    let root = root();
    let text = written(whole(&root), Some(&root));
    let lines: Vec<&str> = text.lines().collect();
    for at in 0..lines.len() {
        let mut less = lines.clone();
        less.remove(at);
        let refused = verify(&less.join("\n"));
        // Without its seal alone it is a transcript that ends too early, and is not taken for more.
        let cut = refused.as_ref().is_ok_and(|v| v.outcome == Outcome::Incomplete);
        assert!(refused.is_err() || (cut && at == lines.len() - 1), "without line {at}");
        let mut more = lines.clone();
        more.insert(at, lines[at]);
        assert!(verify(&more.join("\n")).is_err(), "line {at} twice");
        let mut changed = lines.clone();
        let line = lines[at].replacen("2027-", "2028-", 1);
        changed[at] = &line;
        // The time of the seal is under no signature, and nobody reads it.
        assert!(at == lines.len() - 1 || verify(&changed.join("\n")).is_err(), "line {at} changed");
    }
    assert_eq!(verify("").unwrap_err(), TranscriptError::Size);
    assert!(matches!(verify("{}").unwrap_err(), TranscriptError::Syntax { line: 1, .. }));
}

#[test]
fn whoever_computes_all_hashes_anew_has_no_seal() {
    let (root, other) = (self::root(), self::root());
    // Another key's seal, and the seal of another transcript.
    assert_eq!(verify(&written(whole(&root), Some(&other))).unwrap_err(), TranscriptError::Seal);
    let mut lines = whole(&root);
    lines[0] = begin("file");
    let scripted = written(lines, Some(&root));
    assert!(verify(&scripted).unwrap().scripted);
    let mut forged = Transcript::new();
    let mut text: String =
        whole(&root).into_iter().map(|(step, facts)| forged.line(NOW, step, facts).unwrap()).collect();
    let seal: Value = serde_json::from_str(scripted.lines().last().unwrap()).unwrap();
    let facts = seal["facts"].as_object().unwrap().clone();
    text.push_str(&forged.line(NOW, SEAL, facts).unwrap());
    assert_eq!(verify(&text).unwrap_err(), TranscriptError::Seal);
}

#[test]
fn a_seal_over_the_wrong_thing_is_refused() {
    let (root, other) = (self::root(), self::root());
    let with = |at: usize, line: (&'static str, Facts)| {
        let mut lines = whole(&root);
        lines[at] = line;
        verify(&written(lines, Some(&root))).unwrap_err()
    };
    assert_eq!(with(1, key(&root, true)), TranscriptError::Attribute("extractable"));
    assert!(matches!(with(1, key(&other, false)), TranscriptError::Root(_)));
    assert!(matches!(with(2, certificate(ROOT, &other.certificate)), TranscriptError::Root(_)));
    assert_eq!(with(1, ("note", Facts::new())), TranscriptError::Missing(KEY));
    assert_eq!(with(2, ("note", Facts::new())), TranscriptError::Missing(ROOT));
    assert_eq!(with(3, certificate(ISSUED, &other.certificate)), TranscriptError::Issued { line: 4 });
    assert!(matches!(with(3, key(&root, false)), TranscriptError::Order { line: 4, .. }));
    assert!(matches!(with(4, ("note", Facts::new())), TranscriptError::Order { line: 6, .. }));
    assert!(matches!(with(0, ("note", Facts::new())), TranscriptError::Order { line: 1, .. }));
    assert!(matches!(with(3, (FILE, Facts::new())), TranscriptError::Fact { line: 4, field: "name" }));
}

#[test]
fn an_interrupted_ceremony_says_so_and_a_cut_one_is_incomplete() {
    let root = root();
    let mut lines = whole(&root);
    lines.pop();
    assert_eq!(verify(&written(lines.clone(), None)).unwrap().outcome, Outcome::Incomplete);
    assert_eq!(verify(&written(whole(&root), None)).unwrap().outcome, Outcome::Incomplete);
    let stop = (INTERRUPTED, facts([("reason", json!("the witness fell ill"))]));
    lines.push(stop.clone());
    let outcome = Outcome::Interrupted("the witness fell ill".into());
    assert_eq!(verify(&written(lines.clone(), None)).unwrap().outcome, outcome);
    lines.push(close());
    assert!(matches!(verify(&written(lines, None)).unwrap_err(), TranscriptError::Order { line: 6, .. }));
    // Also between the closing line and the seal, and then no seal makes it whole.
    let mut closed = whole(&root);
    closed.push(stop);
    assert_eq!(verify(&written(closed.clone(), None)).unwrap().outcome, outcome);
    assert!(verify(&written(closed, Some(&root))).is_err());
}

#[test]
fn fingerprints_are_compared_as_people_write() {
    let text = fingerprint(&[0xab; 32]);
    assert_eq!(text, "abab abab abab abab abab abab abab abab abab abab");
    assert!(same_fingerprint(&text, &text.to_uppercase().replace(' ', "-")));
    assert!(!same_fingerprint(&text, &text[5..]));
}
