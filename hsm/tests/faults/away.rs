//! Tokens that go away and come back: their files, their database, the server in between.

use crate::load::Load;
use crate::rig::{BACK, Rig, alone, figure, rounds, state, wait};
use ca_core::key::PublicKey;
use hsm::{PinSource, Token, TokenConfig, TokenState};
use softhsm::Kind;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// How long it is away, in turns; callers are told to come again, and get their signature when it is back.
const AWAY: [Duration; 2] = [Duration::from_millis(700), Duration::from_millis(2300)];

/// Takes the token away and gives it back, under load; every request is served in the end.
fn leaves(what: &str, token: &Token, key: &PublicKey, count: usize, mut away: impl FnMut(), mut back: impl FnMut()) {
    let load = Load::start(8, token, key);
    let mut worst = Duration::ZERO;
    for away_for in AWAY.iter().cycle().take(count) {
        let signed = load.signed() + 20;
        wait(BACK, "the load goes on", || load.signed() > signed);
        // So that each caller has come again: nobody is refused twice over two absences.
        thread::sleep(Duration::from_millis(300));
        away();
        wait(BACK, "its absence is seen", || state(token) != TokenState::Up);
        thread::sleep(*away_for);
        assert!(token.health().is_err());
        let signed = load.signed();
        back();
        worst = worst.max(wait(BACK, "it signs again", || load.signed() > signed));
    }
    let tally = load.stop();
    tally.assert_all_served();
    figure(&format!(
        "{what}: away and back {count} times, worst return {worst:?}; {} signatures, {} asked again, longest {:?}",
        tally.signed, tally.asked_again, tally.longest_cure
    ));
}

#[test]
fn a_token_directory_that_was_moved() {
    let _alone = alone();
    let rig = Rig::new();
    let (token, key) = rig.open(rig.with(rig.shaped(2, 1)));
    let (here, away) = (rig.path("tokens"), rig.path("away"));
    let take = || {
        fs::rename(&here, &away).unwrap();
        fs::create_dir(&here).unwrap();
    };
    let give = || {
        fs::remove_dir(&here).unwrap();
        fs::rename(&away, &here).unwrap();
    };
    leaves("SoftHSM's directory moved", &token, &key, rounds(4, 20), take, give);
}

#[test]
fn a_kryoptic_database_that_was_emptied() {
    let _alone = alone();
    let rig = Rig::on(Kind::Kryoptic);
    let (token, key) = rig.open(rig.with(rig.one()));
    let file = rig.path("token.sql");
    let whole = fs::read(&file).unwrap();
    let take = || fs::write(&file, b"").unwrap();
    let give = || fs::write(&file, &whole).unwrap();
    leaves("kryoptic's database emptied", &token, &key, rounds(3, 20), take, give);
}

/// `p11-kit server` with its processes.
struct Server {
    child: Option<Child>,
    socket: PathBuf,
    rig: Rig,
}

impl Server {
    fn start(&mut self) {
        let _ = fs::remove_file(&self.socket);
        let (variable, conf) = self.rig.token.environment();
        let mut command = Command::new("p11-kit");
        command.args(["server", "-f", "-n"]).arg(&self.socket).arg("--provider").arg(&self.rig.token.module);
        command.arg("pkcs11:").env(variable, conf).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Each client has a process of its own in there; they end with their group.
        self.child = Some(command.process_group(0).spawn().expect("p11-kit is needed: apt install p11-kit"));
        wait(BACK, "the server listens", || self.socket.exists());
    }

    fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let group = format!("-{}", child.id());
        assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
        child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn p11_kit_client() -> PathBuf {
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
        .iter()
        .map(|dir| PathBuf::from(dir).join("pkcs11/p11-kit-client.so"))
        .find(|path| path.is_file())
        .expect("p11-kit-client.so is needed: apt install p11-kit-modules")
}

#[test]
fn a_p11_kit_server_that_was_killed() {
    let _alone = alone();
    let rig = Rig::new();
    let mut server = Server { child: None, socket: rig.path("p11"), rig };
    server.start();
    let config = {
        let address = format!("unix:path={}", server.socket.display());
        let pin = PinSource::File(server.rig.path("pin"));
        let client = TokenConfig {
            environment: vec![("P11_KIT_SERVER_ADDRESS".to_owned(), address)],
            workers: Some(1),
            sessions: Some(2),
            ..TokenConfig::new(p11_kit_client(), server.rig.uri(), pin)
        };
        server.rig.with(client)
    };
    let (token, key) = server.rig.open(config);
    let server = std::cell::RefCell::new(server);
    let (take, give) = (|| server.borrow_mut().end(), || server.borrow_mut().start());
    leaves("p11-kit server killed", &token, &key, rounds(3, 20), take, give);
}
