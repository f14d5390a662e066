//! The whole service over a token that is broken on purpose: what was acknowledged is there once, and status goes on.

use anyhow::{Context, Result, ensure};
use faulty_pkcs11::Plan;
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};
use tests::{
    api::{Credential, issued},
    ca::Ca,
    device::DeviceKey,
    http,
    judge::Case,
    load::{self, History},
};

/// One in so many thousand calls; a signature is two calls of C_Sign.
const STORM: &str = "\
C_Sign chance=5 crash
C_Sign chance=1 hang
C_Sign chance=10 forget-sessions
C_Sign chance=10 logout
C_Sign chance=10 ckr=CKR_DEVICE_ERROR
C_Sign chance=20 wrong-signature
C_Sign chance=10 truncated-signature
C_SignInit chance=10 ckr=CKR_KEY_HANDLE_INVALID
C_OpenSession chance=20 ckr=CKR_SESSION_COUNT
C_FindObjects chance=20 ckr=CKR_FUNCTION_FAILED
C_Initialize chance=100 ckr=CKR_GENERAL_ERROR
";
/// From the token's return to a ready service.
const BACK: Duration = Duration::from_secs(5);

fn storm_for() -> Duration {
    let is_full = std::env::var_os("SEALWRIGHT_FAULTS").is_some_and(|value| value == "full");
    Duration::from_secs(if is_full { 180 } else { 6 })
}

/// A service on a token behind the module that injects faults.
struct Broken {
    ca: Ca,
    stations: Vec<Credential>,
}

impl Broken {
    async fn start(workers: u32) -> Result<Self> {
        let mut ca = Ca::start()?;
        let stations = load::stations(&ca, 4).await?;
        ensure!(ca.stop()?.success());
        let this = |name: &str| ca.directory().join(name).display().to_string();
        let file = ca.directory().join("sealwright.toml");
        let text = fs::read_to_string(&file)?;
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).context("no such line");
        let (module, environment) = (line("module = ")?, line("environment = ")?);
        let real = module.trim_start_matches("module = ");
        let more = format!(
            ", FAULTY_PKCS11_MODULE = {real}, FAULTY_PKCS11_PLAN = \"{}\", FAULTY_PKCS11_LOG = \"{}\", \
             SEALWRIGHT_ALLOW_FAULT_INJECTION = \"1\" }}\ndeadline = \"2s\"\nworkers = {workers}\nsessions = 1",
            this("plan"),
            this("faults.log")
        );
        let faulty = format!("module = \"{}\"", faulty_pkcs11::library()?.display());
        let changed = environment.trim_end_matches('}').trim_end().to_owned() + &more;
        fs::write(&file, text.replace(module, &faulty).replace(environment, &changed))?;
        ca.serve(&[])?;
        let broken = Self { ca, stations };
        broken.until_ready(Duration::from_secs(20))?;
        Ok(broken)
    }

    fn plan(&self, text: &str) -> Result<()> {
        Ok(text.parse::<Plan>()?.write(&self.ca.directory().join("plan"))?)
    }

    /// What was injected, by kind.
    fn faults(&self) -> Result<BTreeMap<String, usize>> {
        let path: PathBuf = self.ca.directory().join("faults.log");
        let mut count = BTreeMap::new();
        for fault in faulty_pkcs11::faults(&fs::read_to_string(path).unwrap_or_default()) {
            *count.entry(format!("{} {}", fault.function, fault.action)).or_default() += 1;
        }
        Ok(count)
    }

    fn ready(&self) -> Result<u16> {
        Ok(http::get(&self.ca.http()?, "/readyz")?.status)
    }

    fn until(&self, within: Duration, what: &str, is_so: impl Fn() -> Result<bool>) -> Result<Duration> {
        let begun = Instant::now();
        while !is_so()? {
            ensure!(begun.elapsed() < within, "not within {within:?}: {what}\n{}", self.ca.log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(begun.elapsed())
    }

    fn until_ready(&self, within: Duration) -> Result<Duration> {
        self.until(within, "it is ready", || Ok(self.ready()? == 200))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_faults_loses_and_doubles_nothing() -> Result<()> {
    let mut broken = Broken::start(2).await?;
    let history = History::default();
    let load = history.persistent(&broken.ca, &broken.stations).await?;
    broken.plan(STORM)?;
    tokio::time::sleep(storm_for()).await;
    let figures = |what: &str| broken.ca.metric("sealwright_token_events_total", &format!("\"{what}\""));
    let (crashes, hangs, wrong) = (figures("crash")?, figures("hang")?, figures("wrong-signature")?);
    // Killed in the middle of it.
    broken.ca.kill()?;
    load.stop().await;
    let (code, text) = broken.ca.verify_journal()?;
    ensure!(code == 0, "journal verify says {code}:\n{text}");
    let faults = broken.faults()?;
    let refusals = history.refusals();
    let told: Vec<_> = refusals.hopeless.iter().filter(|text| !is_the_end(text)).collect();
    let mut reasons = broken.ca.log_lines("the token did not sign");
    reasons.retain(|line| !line.contains("try again in"));
    ensure!(told.is_empty(), "{} without a cure: {told:#?}\n{}", told.len(), reasons.join("\n"));
    for kind in ["C_Sign crash", "C_Sign forget-sessions", "C_Sign wrong-signature", "C_Sign logout"] {
        ensure!(faults.contains_key(kind), "{kind} was not met: {faults:?}");
    }
    // With the real module again, as `dev` writes it.
    broken.ca.restart()?;
    history.check(&broken.ca, &broken.stations).await?;
    history.check_all(&broken.ca).await?;
    history.check_retries(&broken.ca, &broken.stations, 20).await?;
    let count = history.counts().0;
    ensure!(count > 20, "too little load to say anything: {count}");
    eprintln!(
        "figure: {} faults in {:?} ({faults:?}); {count} certificates acknowledged, none lost or doubled; {} refusals \
         with a hint, longest cure {:?}; metrics: {crashes} crashes, {hangs} hangs, {wrong} wrong signatures",
        faults.values().sum::<usize>(),
        storm_for(),
        refusals.hinted,
        refusals.longest
    );
    broken.ca.finish()
}

/// The kill of the service itself: connections end.
fn is_the_end(refusal: &str) -> bool {
    ["transport error", "connection", "Connect", "h2 protocol"].iter().any(|word| refusal.contains(word))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_goes_on_while_the_token_is_away() -> Result<()> {
    let mut broken = Broken::start(1).await?;
    let answer = broken.ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-1").await?;
    let case = Case::new(&broken.ca, &issued(&answer)?.der, &answer.chain)?;
    let request = case.ocsp_request(false)?;
    let path = case.urls()?.1;
    let address = broken.ca.http()?;
    let ask = || http::post(&address, http::path_of(&path)?, "application/ocsp-request", &request);
    ensure!(case.ocsp_says(&ask()?.body)? == Some("good".to_owned()));

    let history = History::default();
    let load = history.persistent(&broken.ca, &broken.stations).await?;
    let mut worst = Duration::ZERO;
    for away in ["* always gone\n", "C_Sign always crash\n", "* always ckr=CKR_DEVICE_ERROR\n"] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        broken.plan(away)?;
        broken.until(BACK, "readyz says so", || Ok(broken.ready()? == 503))?;
        broken.until(BACK, "the metric says so", || Ok(broken.ca.metric("sealwright_token_up", "")? == 0.0))?;
        for _ in 0..10 {
            let kept = ask()?;
            ensure!(kept.status == 200, "OCSP while the token is away: {}", kept.status);
            ensure!(case.ocsp_says(&kept.body)? == Some("good".to_owned()), "another answer while the token is away");
            case.fetch_crl(&broken.ca)?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        broken.plan("")?;
        let begun = Instant::now();
        let acknowledged = history.counts().0;
        broken.until(BACK, "it signs", || Ok(history.counts().0 > acknowledged))?;
        broken.until_ready(BACK)?;
        broken.until(BACK, "the metric says so", || Ok(broken.ca.metric("sealwright_token_up", "")? == 1.0))?;
        ensure!(begun.elapsed() < BACK, "{away}: {:?}", begun.elapsed());
        worst = worst.max(begun.elapsed());
    }
    load.stop().await;
    let refusals = history.refusals();
    ensure!(refusals.hopeless.is_empty(), "{:#?}", refusals.hopeless);
    ensure!(refusals.hinted > 0, "nobody noticed");
    ensure!(broken.ca.stop()?.success());
    broken.ca.restart()?;
    history.check(&broken.ca, &broken.stations).await?;
    history.check_all(&broken.ca).await?;
    eprintln!(
        "figure: token away 3 times under load: signing, /readyz and the metric are back {worst:?} after its return at \
         worst; {} refusals with a hint, none without",
        refusals.hinted
    );
    broken.ca.finish()
}
