//! The plan in force: read again when its file changes, with a count of calls for each rule.

use crate::plan::{MAX_PLAN, Plan};
use crate::random::Random;
use crate::rule::{Rule, Trigger};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How long a file's time of change does not tell two changes apart: a tick of the kernel's clock is up to 10 ms.
const TICK: Duration = Duration::from_millis(20);

/// A rule, and how many calls have reached it since it was read.
pub(crate) struct Armed {
    pub(crate) rule: Rule,
    calls: AtomicU64,
}

/// Which state of which file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

struct Seen {
    stamp: Option<Stamp>,
    text: String,
    rules: Arc<[Armed]>,
}

/// Looks after the plan's file. A file that is not there is a plan without rules.
pub(crate) struct Watch {
    path: Option<PathBuf>,
    seen: Mutex<Seen>,
}

impl Watch {
    /// Reads the plan for the first time.
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        let seen = Mutex::new(Seen { stamp: None, text: String::new(), rules: Arc::new([]) });
        let watch = Self { path, seen };
        watch.rules();
        watch
    }

    /// The rules as the file has them now. One `stat` a call is cheap beside any PKCS#11 call, and leaves no moment in
    /// which a changed plan is not in force yet.
    pub(crate) fn rules(&self) -> Arc<[Armed]> {
        let Some(path) = &self.path else { return Arc::new([]) };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (stamp, fresh) = look(path);
        if stamp == seen.stamp && !fresh {
            return Arc::clone(&seen.rules);
        }
        let (stamp, text) = read(path);
        if stamp != seen.stamp || text != seen.text {
            *seen = Seen { stamp, rules: arm(path, &text), text };
        }
        Arc::clone(&seen.rules)
    }
}

impl Armed {
    /// Counts a call, and says whether the rule takes it.
    pub(crate) fn fires(&self, random: &Random) -> bool {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        match self.rule.trigger() {
            Trigger::Always => true,
            Trigger::Nth(n) => call == n.get(),
            Trigger::Every(n) => call % *n == 0,
            Trigger::From(n) => call >= n.get(),
            Trigger::Once => call == 1,
            Trigger::OnceFile(path) => first(path),
            Trigger::Chance(permille) => random.below(1000) < u64::from(*permille),
        }
    }
}

/// True for the one caller, over all processes, that makes the file.
fn first(path: &Path) -> bool {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => fatal(&format!("{}: {error}", path.display())),
    }
}

/// The file's stamp, and whether it is so young that another change could hide behind it.
fn look(path: &Path) -> (Option<Stamp>, bool) {
    match fs::metadata(path) {
        Ok(metadata) => {
            let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
            (Some(Stamp::of(&metadata)), age.is_none_or(|age| age < TICK))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, false),
        Err(error) => fatal(&format!("{}: {error}", path.display())),
    }
}

fn read(path: &Path) -> (Option<Stamp>, String) {
    let contents = || -> io::Result<(Option<Stamp>, String)> {
        let file = File::open(path)?;
        let stamp = Stamp::of(&file.metadata()?);
        let mut text = String::new();
        file.take(MAX_PLAN + 1).read_to_string(&mut text)?;
        Ok((Some(stamp), text))
    };
    match contents() {
        Ok((_, text)) if text.len() as u64 > MAX_PLAN => {
            fatal(&format!("{}: larger than {MAX_PLAN} octets", path.display()))
        }
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, String::new()),
        Err(error) => fatal(&format!("{}: {error}", path.display())),
    }
}

fn arm(path: &Path, text: &str) -> Arc<[Armed]> {
    match text.parse::<Plan>() {
        Ok(plan) => plan.rules.into_iter().map(|rule| Armed { rule, calls: AtomicU64::new(0) }).collect(),
        Err(error) => fatal(&format!("{}: {error}", path.display())),
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        }
    }
}

/// Ends the process: a test must not pass because its plan was not carried out.
pub(crate) fn fatal(reason: &str) -> ! {
    eprintln!("faulty-pkcs11: {reason}");
    std::process::abort()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn fired(rule: &str, calls: u64) -> Vec<u64> {
        let armed = Armed { rule: rule.parse().unwrap(), calls: AtomicU64::new(0) };
        let random = Random::new();
        (1..=calls).filter(|_| armed.fires(&random)).collect()
    }

    #[test]
    fn triggers_take_their_calls() {
        assert_eq!(fired("C_Sign always hang", 3), [1, 2, 3]);
        assert_eq!(fired("C_Sign once hang", 3), [1]);
        assert_eq!(fired("C_Sign nth=2 hang", 5), [2]);
        assert_eq!(fired("C_Sign every=2 hang", 5), [2, 4]);
        assert_eq!(fired("C_Sign from=4 hang", 5), [4, 5]);
        assert_eq!(fired("C_Sign chance=0 hang", 1000), []);
        assert_eq!(fired("C_Sign chance=1000 hang", 1000).len(), 1000);
        // 250 expected with a deviation of 14: outside 12 deviations something is broken.
        let quarter = fired("C_Sign chance=250 hang", 1000).len();
        assert!((80..420).contains(&quarter), "{quarter}");
    }

    #[test]
    fn a_file_gives_one_first_over_all_rules() {
        let dir = tempfile::tempdir().unwrap();
        let rule = format!("C_Sign once-file={} hang", dir.path().join("first").display());
        assert_eq!(fired(&rule, 3), [1]);
        assert_eq!(fired(&rule, 3), []);
    }

    #[test]
    fn every_rewriting_is_seen_at_once_and_counts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan");
        let watch = Watch::new(Some(path.clone()));
        let random = Random::new();
        assert!(watch.rules().is_empty());
        // Two texts of one size, changed much faster than a tick.
        for n in 0..200 {
            let code = if n % 2 == 0 { "0x30" } else { "0x31" };
            let line = format!("C_Sign once ckr={code}");
            line.parse::<Plan>().unwrap().write(&path).unwrap();
            let rules = watch.rules();
            assert_eq!(rules[0].rule, line.parse().unwrap());
            assert!(rules[0].fires(&random) && !rules[0].fires(&random));
            assert!(!watch.rules()[0].fires(&random), "an unchanged plan keeps its counts");
        }
        fs::remove_file(&path).unwrap();
        assert!(watch.rules().is_empty());
    }
}
