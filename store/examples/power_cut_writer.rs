//! Writes under load until it is killed, and prints what was acknowledged; then says whether all of it is there.
//!
//! `power_cut_writer write DIR` prints `acknowledged N` for each certificate once it is durable.
//! `power_cut_writer check DIR < acknowledgements` opens the store, looks every one up, verifies the chain, and fails
//! when one is missing. Between the two a script freezes the writer and copies the disk as it is without power.
#![allow(clippy::print_stdout, reason = "the output is the interface")]

use ca_core::{
    id::{DeviceId, IdempotencyKey, IssuerId, ProfileName, TenantId},
    key::SignatureAlgorithm,
    serial::SerialNumber,
    time::UnixTime,
};
use std::{
    error::Error,
    io::{BufRead, Write},
    path::Path,
    process::ExitCode,
};
use store::{
    AddIssuer, ExistingDevice, Holder, Intend, Issue, IssuerState, IssuerUrls, OpenOptions, Store, verify::verify,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const WRITERS: u64 = 8;

fn serial(n: u64) -> Outcome<SerialNumber> {
    Ok(SerialNumber::from_be_bytes(&(u128::from(n) + (1 << 126)).to_be_bytes())?)
}

fn hash(n: u64) -> [u8; 32] {
    let mut hash = [1; 32];
    for (to, from) in hash.iter_mut().zip(n.to_be_bytes()) {
        *to = from;
    }
    hash
}

fn certify(store: &Store, issuer: &IssuerId, n: u64) -> Outcome<()> {
    let id = format!("device-{n}");
    let intent = Intend {
        tenant: TenantId::default_tenant(),
        issuer: issuer.clone(),
        serial: serial(n)?,
        tbs: vec![n as u8; 600],
        algorithm: SignatureAlgorithm::EcdsaSha256,
        profile: ProfileName::new("tls-client")?,
        profile_sha256: hash(0),
        holder: Holder::Device {
            id: DeviceId::new(&id)?,
            manufacturer: String::new(),
            model: String::new(),
            serial_number: id,
        },
        new_principal: false,
        existing: ExistingDevice::Refuse,
        requester: "principal:line-1".to_owned(),
        idempotency_key: IdempotencyKey::new(format!("request-{n}"))?,
        request_sha256: hash(n),
        spki_sha256: hash(n),
        token_id: None,
        anchor_sha256: None,
        attestation: None,
        replaces: None,
        not_before: NOW,
        not_after: UnixTime::INFINITY,
    };
    store.commit(intent, NOW)?;
    store.commit(Issue { issuer: issuer.clone(), serial: serial(n)?, signature: vec![n as u8; 71] }, NOW)?;
    Ok(())
}

fn write(dir: &Path) -> Outcome<()> {
    let (store, report) = Store::open(dir, OpenOptions { create: true, ..OpenOptions::default() })?;
    let issuer = IssuerId::new("issuing-1")?;
    if report.records == 0 {
        let add = AddIssuer {
            tenant: TenantId::default_tenant(),
            issuer: issuer.clone(),
            certificate: vec![0x30; 500],
            chain: Vec::new(),
            key_id: vec![1; 16],
            signature_algorithm: None,
            ocsp_certificate: Vec::new(),
            ocsp_key_id: Vec::new(),
            urls: IssuerUrls::default(),
            state: IssuerState::Active,
        };
        store.commit(add, NOW)?;
    }
    let threads: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, issuer) = (store.clone(), issuer.clone());
            std::thread::spawn(move || -> Outcome<()> {
                for round in 0.. {
                    let n = report.records * 1_000_000 + round * WRITERS + writer;
                    certify(&store, &issuer, n)?;
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acknowledged {n}")?;
                    out.flush()?;
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a writer panicked")??;
    }
    Ok(())
}

fn check(dir: &Path) -> Outcome<()> {
    let (store, report) = Store::open(dir, OpenOptions::default())?;
    println!("{report:?}");
    let issuer = IssuerId::new("issuing-1")?;
    let (mut found, mut missing) = (0, Vec::new());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let Some(Ok(n)) = line.strip_prefix("acknowledged ").map(str::parse::<u64>) else { continue };
        match store.certificate(&issuer, &serial(n)?)? {
            Some(entry) if entry.signature.is_some() => found += 1,
            _ => missing.push(n),
        }
    }
    store.close();
    let verified = verify(dir, &mut |_| ())?;
    println!("{} records verify, {found} acknowledged certificates found, missing: {missing:?}", verified.records);
    if missing.is_empty() { Ok(()) } else { Err("acknowledged certificates are missing".into()) }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["write", dir] => write(Path::new(dir)),
        ["check", dir] => check(Path::new(dir)),
        _ => Err("usage: power_cut_writer write DIR | power_cut_writer check DIR < acknowledgements".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
