//! Two tokens with the same keys: both sign, one is enough, and each gets what it can do.

use crate::load::{CELL, Load};
use crate::rig::{BACK, Rig, alone, figure, rounds, wait};
use ca_core::key::PublicKey;
use hsm::{Token, TokensConfig};
use std::fs;
use std::thread;
use std::time::Duration;

const CALLERS: usize = 32;
/// Makes the token the bottleneck and not this machine: about 150 signatures a second in one session.
const PACE: &str = "C_SignInit always delay=5\n";
/// What one token does is reached again after this.
const RECOVERY: Duration = Duration::from_secs(2);

struct Pair {
    first: Rig,
    second: Rig,
    token: Token,
    key: PublicKey,
}

fn pair(first_pace: &str, second_pace: &str) -> Pair {
    let first = Rig::new();
    // The key is there before the copy.
    let key = first.open(first.with(first.one())).1;
    let second = first.copy();
    first.plan(first_pace);
    second.plan(second_pace);
    let config = first.with(first.one());
    let (token, _) = first.open(TokensConfig { tokens: vec![first.one(), second.one()], ..config });
    Pair { first, second, token, key }
}

fn signed(token: &Token) -> [u64; 2] {
    let status = token.status();
    [status[0].statistics.signatures, status[1].statistics.signatures]
}

/// Signatures of each over the next `time`.
fn shares(token: &Token, time: Duration) -> [u64; 2] {
    let before = signed(token);
    thread::sleep(time);
    let after = signed(token);
    [after[0] - before[0], after[1] - before[1]]
}

fn is_balanced([a, b]: [u64; 2]) -> bool {
    a.min(b) * 2 >= a.max(b) && a.min(b) > 0
}

/// Takes the second away by `take` under load and gives it back by `give`, some times.
fn one_is_enough(what: &str, take: impl Fn(&Rig, usize), give: impl Fn(&Rig)) {
    let _alone = alone();
    let Pair { first, second, token, key } = pair(PACE, PACE);
    let alone_rate = {
        let (single, key) = first.open(first.with(first.one()));
        let load = Load::start(CALLERS, &single, &key);
        let rate = load.rate(Duration::from_secs(1));
        drop(load.stop());
        rate
    };
    let load = Load::start(CALLERS, &token, &key);
    thread::sleep(Duration::from_millis(300));
    let both = load.rate(Duration::from_secs(1));
    let share = shares(&token, Duration::from_secs(1));
    assert!(is_balanced(share), "{share:?}");
    let mut worst = Duration::ZERO;
    for round in 0..rounds(2, 10) {
        take(&second, round);
        let from = load.now();
        thread::sleep(RECOVERY + CELL * 10);
        let cells = load.cells(from);
        // From the end of the last 300 ms with less than most of what one token does, it is back for good.
        let poor = |three: &[u64]| (three.iter().sum::<u64>() as f64) < alone_rate * 0.3 * 0.7;
        let last = cells.windows(3).rposition(poor).map_or(0, |window| window + 3);
        assert!(last < cells.len(), "{alone_rate:.0}/s alone, {cells:?}");
        let took = CELL * u32::try_from(last).unwrap();
        assert!(took <= RECOVERY, "{alone_rate:.0}/s alone, {cells:?}");
        worst = worst.max(took);
        give(&second);
        wait(BACK, "both sign alike", || is_balanced(shares(&token, Duration::from_millis(500))));
    }
    let tally = load.stop();
    tally.assert_all_served();
    let starts = token.status()[1].statistics.starts;
    assert!(starts <= 20 * u64::try_from(rounds(2, 10)).unwrap(), "{starts} signers were started");
    figure(&format!(
        "two tokens, {what}: {alone_rate:.0}/s by one, {both:.0}/s by both ({share:?}); one token's rate again after \
         {worst:?} at worst; {starts} starts, {} signatures, {} asked again, longest {:?}",
        tally.signed, tally.asked_again, tally.longest_cure
    ));
}

#[test]
fn one_of_two_goes_away() {
    one_is_enough(
        "one moved away",
        |rig, _| {
            fs::rename(rig.path("tokens"), rig.path("away")).unwrap();
            fs::create_dir(rig.path("tokens")).unwrap();
        },
        |rig| {
            fs::remove_dir(rig.path("tokens")).unwrap();
            fs::rename(rig.path("away"), rig.path("tokens")).unwrap();
        },
    );
}

#[test]
fn one_of_two_is_unplugged() {
    one_is_enough("one unplugged", |rig, _| rig.plan("* always gone\n"), |rig| rig.plan(PACE));
}

#[test]
fn one_of_two_crashes_whenever_it_signs() {
    one_is_enough("one crashes always", |rig, _| rig.plan("C_Sign always crash\n"), |rig| rig.plan(PACE));
}

#[test]
fn one_of_two_hangs() {
    one_is_enough("one hangs always", |rig, _| rig.plan("C_Sign always hang\n"), |rig| rig.plan(PACE));
}

#[test]
fn a_slow_token_gets_what_it_can_do() {
    let _alone = alone();
    let Pair { first, second, token, key } = pair(PACE, "C_SignInit always delay=25\n");
    let load = Load::start(CALLERS, &token, &key);
    thread::sleep(Duration::from_secs(1));
    let share = shares(&token, Duration::from_secs(2));
    assert!(share[1] > 0 && share[1] * 2 < share[0], "{share:?}");
    // And more when it is faster.
    second.plan(PACE);
    first.plan("C_SignInit always delay=25\n");
    wait(BACK, "the load follows", || {
        let share = shares(&token, Duration::from_millis(500));
        share[0] > 0 && share[0] * 2 < share[1]
    });
    load.stop().assert_all_served();
    figure(&format!("two tokens of 5 and 25 ms: {share:?} signatures in 2 s"));
}
