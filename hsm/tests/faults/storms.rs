//! Many faults of one kind under load.

use crate::load::{Load, Tally};
use crate::rig::{BACK, Rig, alone, figure, rounds, wait};
use hsm::{Token, TokenConfig, TokensConfig};
use std::thread;
use std::time::{Duration, Instant};

const CALLERS: usize = 8;
/// Short, so that many hangs fit into a run.
const DEADLINE: Duration = Duration::from_secs(1);
/// From a crash, or from the end of the deadline, to the next signature.
const RECOVERY: Duration = Duration::from_secs(2);

#[test]
fn lost_sessions_are_noticed_by_nobody() {
    let _alone = alone();
    let losses = rounds(100, 1000);
    for (workers, sessions, every) in [(1, 1, 21), (2, 4, 61)] {
        let rig = Rig::new();
        let (token, key) = rig.open(rig.with(rig.shaped(workers, sessions)));
        let load = Load::start(CALLERS, &token, &key);
        let begun = Instant::now();
        // Two calls of C_Sign are one signature; each loss is one for all sessions of a process.
        rig.plan(&format!("C_Sign every={every} forget-sessions\n"));
        wait(Duration::from_secs(600), "enough losses", || {
            thread::sleep(Duration::from_millis(50));
            rig.faults().len() >= losses / 2
        });
        rig.plan("");
        let took = begun.elapsed();
        let tally = load.stop();
        tally.assert_all_served();
        // Where four sessions share what one loses, one request in some thousand may have to come again.
        let most = if sessions == 1 { 0 } else { 1 + tally.signed / 5000 };
        assert!(tally.asked_again <= most, "{tally:?}");
        let statistics = token.statistics();
        assert_eq!((statistics.crashes, statistics.hangs), (0, 0));
        assert!(statistics.recoveries >= u64::try_from(losses / 2).unwrap());
        figure(&format!(
            "lost sessions, {workers}x{sessions}: {} in {took:?}, {} signatures, {} recoveries, {} handed on, {} asked again, 0 failed",
            rig.faults().len(),
            tally.signed,
            statistics.recoveries,
            statistics.repeated,
            tally.asked_again,
        ));
    }
}

/// `count` times, under load: `action` once, and how long until the next signature.
fn strike(rig: &Rig, token: &Token, load: &Load, action: &str, count: usize, ended: impl Fn() -> u64) -> Vec<Duration> {
    let mut times = Vec::new();
    for n in 0..count {
        let (met, before) = (rig.path(&format!("{action}-{n}")), ended());
        rig.plan(&format!("C_Sign once-file={} {action}\n", met.display()));
        wait(BACK, "the fault is met", || met.exists());
        let begun = Instant::now();
        wait(DEADLINE + RECOVERY, "the signer's end is seen", || ended() > before);
        let signed = load.signed();
        wait(DEADLINE + RECOVERY, "it signs", || load.signed() > signed);
        times.push(begun.elapsed());
        // The load goes on for a moment between two faults.
        let signed = load.signed() + 20;
        wait(BACK, "the load goes on", || load.signed() > signed);
    }
    assert_eq!(rig.faults().iter().filter(|f| f.action.to_string() == action).count(), count);
    assert!(token.health().is_ok());
    times
}

fn sum_up(what: &str, shape: (u32, u32), mut times: Vec<Duration>, tally: &Tally) {
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    figure(&format!(
        "{what}, {}x{}: {} times, recovery median {median:?}, worst {worst:?}; {} signatures, {} asked again, longest {:?}",
        shape.0,
        shape.1,
        times.len(),
        tally.signed,
        tally.asked_again,
        tally.longest_cure
    ));
}

fn under_load(rig: &Rig, shape: TokenConfig) -> (Token, Load) {
    let (token, key) = rig.open(TokensConfig { deadline: DEADLINE, ..rig.with(shape) });
    let load = Load::start(CALLERS, &token, &key);
    (token, load)
}

#[test]
fn a_hung_module_is_killed_and_replaced() {
    let _alone = alone();
    // With several sessions the others go on; the hung one is still found.
    for (workers, sessions) in [(1, 1), (1, 4)] {
        let rig = Rig::new();
        let (token, load) = under_load(&rig, rig.shaped(workers, sessions));
        let count = rounds(5, 50);
        let times = strike(&rig, &token, &load, "hang", count, || token.statistics().hangs);
        let tally = load.stop();
        tally.assert_all_served();
        assert_eq!(token.statistics().hangs, u64::try_from(count).unwrap());
        assert!(times.iter().all(|time| *time < DEADLINE + RECOVERY), "{times:?}");
        sum_up("hangs (deadline 1 s)", (workers, sessions), times, &tally);
    }
}

#[test]
fn a_crashed_module_is_replaced() {
    let _alone = alone();
    for (workers, sessions) in [(1, 1), (2, 2)] {
        let rig = Rig::new();
        let (token, load) = under_load(&rig, rig.shaped(workers, sessions));
        let count = rounds(10, 50);
        let times = strike(&rig, &token, &load, "crash", count, || token.statistics().crashes);
        let tally = load.stop();
        tally.assert_all_served();
        assert_eq!(token.statistics().crashes, u64::try_from(count).unwrap());
        assert!(times.iter().all(|time| *time < RECOVERY), "{times:?}");
        sum_up("crashes", (workers, sessions), times, &tally);
    }
}

#[test]
fn no_wrong_signature_is_let_go() {
    let _alone = alone();
    for action in ["wrong-signature", "truncated-signature", "garbage-signature"] {
        let rig = Rig::new();
        let (token, key) = rig.open(rig.with(rig.one()));
        let load = Load::start(CALLERS, &token, &key);
        rig.plan(&format!("C_Sign chance=50 {action}\n"));
        wait(Duration::from_secs(120), "enough of them", || {
            thread::sleep(Duration::from_millis(50));
            rig.faults().len() >= rounds(40, 400)
        });
        rig.plan("");
        // Each signature is verified by the callers once more; one that was let go ends this test.
        let tally = load.stop();
        let spoilt = u64::try_from(rig.faults().len()).unwrap();
        assert_eq!(token.statistics().wrong_signatures, spoilt, "{action}: all are counted");
        // A caller hears of it only after three in a row: one request in 8,000.
        assert!(tally.failed.values().sum::<u64>() <= 1 + tally.signed / 500, "{tally:?}");
        assert!(
            tally.failed.keys().all(|error| error.contains("withheld") || error.contains("malformed")),
            "{tally:?}"
        );
        figure(&format!(
            "{action}: {spoilt} of {} withheld, {} requests told so, all others got a right one",
            tally.signed + spoilt,
            tally.failed.values().sum::<u64>()
        ));
    }
}
