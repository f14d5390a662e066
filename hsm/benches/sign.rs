//! What the layer costs, in pairs in one run: a bare loop of C_Sign, and the same token through queues, processes and
//! the check of each signature. `cargo bench -p hsm` (a part of `make bench`)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a benchmark prints and may panic")]

use ca_core::key::{KeyAlgorithm, PublicKey};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use hsm::{KeyId, KeyRequest, PinSource, Program, SignRequest, Token, TokenConfig, TokenUri, TokensConfig};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// One measurement; each is made [`ROUNDS`] times, in turn with its partner, and the median is told.
const RUN: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;
const PIN: &str = "bench-1234";
const MESSAGE: [u8; 1000] = [0x5a; 1000];

fn main() {
    // SOFTHSM2_CONF must be there before the library is initialised, so the work is done in a child.
    let Some(dir) = std::env::var_os("SEALWRIGHT_BENCH_DIR").map(PathBuf::from) else {
        let dir = std::env::temp_dir().join(format!("sealwright-bench-{}", std::process::id()));
        let made = softhsm::ThrowawayToken::create(&dir, "bench", PIN).unwrap();
        std::fs::write(dir.join("pin"), PIN).unwrap();
        std::fs::set_permissions(dir.join("pin"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let (variable, conf) = made.environment();
        let mut child = Command::new(std::env::current_exe().unwrap());
        let status = child.env(variable, conf).env("SEALWRIGHT_BENCH_DIR", &dir).status().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(status.success());
        return;
    };
    let config = |workers, sessions| TokenConfig {
        workers,
        sessions,
        ..TokenConfig::new(
            softhsm::find_module().unwrap(),
            TokenUri::from_label("bench").unwrap(),
            PinSource::File(dir.join("pin")),
        )
    };
    let program = Program { path: env!("CARGO_BIN_EXE_hsm-signer").into(), arguments: Vec::new() };
    let with = |token, known| TokensConfig { program: program.clone(), known, ..TokensConfig::one(token) };
    let keys = [(1, KeyAlgorithm::EcP256), (2, KeyAlgorithm::Rsa(2048))];
    let (identity, public): (_, Vec<PublicKey>) = {
        let token = Token::open(with(config(Some(1), Some(1)), Vec::new())).unwrap();
        let make = |(n, algorithm): (u8, _)| {
            token
                .generate(&KeyRequest { label: format!("key {n}"), id: id(n), algorithm, extractable_under: None })
                .unwrap()
                .public_key
        };
        (token.enroll(0, id(9)).unwrap(), keys.into_iter().map(make).collect())
    };
    let token = Token::open(with(config(None, None), vec![identity])).unwrap();
    let shape = token.status().remove(0);
    println!(
        "SoftHSM, {} signer processes with {} sessions in all, found by measurement",
        shape.workers, shape.sessions
    );
    let library = Bare::open();
    for ((n, algorithm), public) in keys.into_iter().zip(public) {
        rates(&token, &library, n, algorithm, &public);
        latencies(&token, &library, n, algorithm, &public);
    }
}

fn id(n: u8) -> KeyId {
    KeyId::from_bytes([n; 16])
}

fn median<T: Copy + PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

/// Signatures per second, side by side.
fn rates(token: &Token, library: &Bare, n: u8, algorithm: KeyAlgorithm, public: &PublicKey) {
    let (mut one, mut two, mut layer) = (Vec::new(), Vec::new(), [const { Vec::new() }; 3]);
    let in_flight = [16, 64, 256];
    for _ in 0..ROUNDS {
        one.push(library.rate(n, algorithm, 1));
        two.push(library.rate(n, algorithm, 2));
        for (depth, found) in in_flight.into_iter().zip(&mut layer) {
            found.push(through(token, n, public, depth));
        }
    }
    let (one, two) = (median(one), median(two));
    let layer = layer.map(median);
    let (bare, best) = (f64::max(one, two), layer.into_iter().fold(0.0, f64::max));
    println!(
        "{algorithm:<9} signatures/s  bare, 1 thread {one:>7.0}, 2 threads {two:>7.0} | layer, 16/64/256 in flight \
         {:>7.0} {:>7.0} {:>7.0} | best / best {:.2}",
        layer[0],
        layer[1],
        layer[2],
        best / bare
    );
}

/// Medians of single calls, one in flight.
fn latencies(token: &Token, library: &Bare, n: u8, algorithm: KeyAlgorithm, public: &PublicKey) {
    let (mut bare, mut layer, mut told, mut check) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let call = library.call(n, algorithm);
    let request = || SignRequest {
        key: id(n),
        public_key: public.clone(),
        algorithm: algorithm.signature_algorithm(),
        message: MESSAGE.to_vec(),
    };
    for _ in 0..2000 {
        let begun = Instant::now();
        call.sign();
        bare.push(begun.elapsed());
        let begun = Instant::now();
        let signature = token.sign(request()).unwrap();
        layer.push(begun.elapsed());
        let (sender, receiver) = channel();
        let begun = Instant::now();
        token.submit(request(), Box::new(move |result| sender.send((begun.elapsed(), result.is_ok())).unwrap()));
        let (until_told, good) = receiver.recv().unwrap();
        assert!(good);
        told.push(until_told);
        let begun = Instant::now();
        public.verify(algorithm.signature_algorithm(), &MESSAGE, &signature).unwrap();
        check.push(begun.elapsed());
    }
    let (bare, layer, told, check) = (median(bare), median(layer), median(told), median(check));
    let hop = round_trip(bare);
    println!(
        "{algorithm:<9} one in flight  bare {bare:.1?} | through the layer {told:.1?} until its answer is told, {layer:.1?} \
         until sign() returns | added {:.1?} and {:.1?} | of which the check of the signature {check:.1?}, and a bare round \
         trip over a socket pair {hop:.1?}",
        told.saturating_sub(bare),
        layer.saturating_sub(bare),
    );
}

/// What it costs on this machine to ask another thread over a socket pair that is busy for so long, beyond that time:
/// the floor of every hop.
fn round_trip(work: Duration) -> Duration {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let other = thread::spawn(move || {
        let mut octets = [0; 64];
        while theirs.read(&mut octets).unwrap() > 0 {
            let begun = Instant::now();
            while begun.elapsed() < work {}
            theirs.write_all(&octets).unwrap();
        }
    });
    let mut octets = [0; 64];
    let mut times = Vec::new();
    for _ in 0..1000 {
        let begun = Instant::now();
        ours.write_all(&octets).unwrap();
        ours.read_exact(&mut octets).unwrap();
        times.push(begun.elapsed());
    }
    drop(ours);
    other.join().unwrap();
    median(times).saturating_sub(work)
}

/// A caller that keeps so many requests in flight.
fn through(token: &Token, n: u8, public: &PublicKey, in_flight: u64) -> f64 {
    let made = Arc::new(AtomicU64::new(0));
    let waiting = Arc::new((Mutex::new(0u64), Condvar::new()));
    let begun = Instant::now();
    while begun.elapsed() < RUN {
        {
            let mut count = waiting.0.lock().unwrap();
            while *count >= in_flight {
                count = waiting.1.wait(count).unwrap();
            }
            *count += 1;
        }
        let (made, waiting) = (made.clone(), waiting.clone());
        let algorithm = public.algorithm().signature_algorithm();
        let request = SignRequest { key: id(n), public_key: public.clone(), algorithm, message: MESSAGE.to_vec() };
        token.submit(
            request,
            Box::new(move |result| {
                result.unwrap();
                made.fetch_add(1, Relaxed);
                let mut count = waiting.0.lock().unwrap();
                *count -= 1;
                // Woken now and then, as a server's runtime is: not for each answer.
                if *count * 4 <= in_flight * 3 {
                    waiting.1.notify_one();
                }
            }),
        );
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = made.load(Relaxed) as f64 / begun.elapsed().as_secs_f64();
    let mut count = waiting.0.lock().unwrap();
    while *count > 0 {
        count = waiting.1.wait_timeout(count, Duration::from_millis(10)).unwrap().0;
    }
    rate
}

/// The library itself, in this process.
struct Bare {
    library: Pkcs11,
    /// Kept open: with the last session the login would end.
    _login: Mutex<Session>,
}

/// A session with its key held open. The digest of ECDSA is made beforehand.
struct Call {
    session: Session,
    key: ObjectHandle,
    mechanism: Mechanism<'static>,
    data: Vec<u8>,
}

impl Call {
    fn sign(&self) {
        drop(self.session.sign(&self.mechanism, self.key, &self.data).unwrap());
    }
}

impl Bare {
    fn open() -> Self {
        let library = Pkcs11::new(softhsm::find_module().unwrap()).unwrap();
        library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let slot = library.get_slots_with_initialized_token().unwrap()[0];
        let session = library.open_rw_session(slot).unwrap();
        session.login(UserType::User, Some(&AuthPin::new(PIN.into()))).unwrap();
        Self { library, _login: Mutex::new(session) }
    }

    fn call(&self, n: u8, algorithm: KeyAlgorithm) -> Call {
        let slot = self.library.get_slots_with_initialized_token().unwrap()[0];
        let session = self.library.open_rw_session(slot).unwrap();
        let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(id(n).as_bytes().to_vec())];
        let key = session.find_objects(&template).unwrap()[0];
        let (mechanism, data) = match algorithm {
            KeyAlgorithm::EcP256 => (Mechanism::Ecdsa, MESSAGE[..32].to_vec()),
            _ => (Mechanism::Sha256RsaPkcs, MESSAGE.to_vec()),
        };
        Call { session, key, mechanism, data }
    }

    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn rate(&self, n: u8, algorithm: KeyAlgorithm, threads: usize) -> f64 {
        let begun = Instant::now();
        let made: u64 = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(move || {
                        let (call, mut made) = (self.call(n, algorithm), 0);
                        while begun.elapsed() < RUN {
                            call.sign();
                            made += 1;
                        }
                        made
                    })
                })
                .collect();
            workers.into_iter().map(|w| w.join().unwrap()).sum()
        });
        made as f64 / begun.elapsed().as_secs_f64()
    }
}
