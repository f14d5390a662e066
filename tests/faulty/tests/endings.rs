//! What ends or stops the process that loaded the module, seen from outside through a foreign program.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::{faults, with_plan};

const SIGABRT: i32 = 6;
const SIGSEGV: i32 = 11;

/// pkcs11-tool on the module, in this child's environment.
fn tool(arguments: &[&str]) -> Command {
    let mut tool = Command::new("pkcs11-tool");
    tool.arg("--module").arg(faulty_pkcs11::library().unwrap()).args(arguments);
    tool.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    tool
}

fn list_slots() -> Output {
    tool(&["--list-slots"]).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn write_plan(text: &str) {
    fs::write(env::var_os("FAULTY_PKCS11_PLAN").unwrap(), text).unwrap();
}

#[test]
fn a_foreign_program_works_through_it() {
    with_plan("a_foreign_program_works_through_it", "", || {
        let listed = list_slots();
        assert!(listed.status.success(), "{}", text(&listed));
        assert!(text(&listed).contains(softhsm::test::LABEL), "{}", text(&listed));
        let pin = ["--login", "--pin", softhsm::test::PIN];
        let made = tool(&pin).args(["--keypairgen", "--key-type", "EC:prime256v1", "--id", "01"]).output().unwrap();
        assert!(made.status.success(), "{}", text(&made));
        let objects = tool(&pin).args(["--list-objects", "--type", "privkey"]).output().unwrap();
        assert!(text(&objects).contains("Private Key Object; EC"), "{}", text(&objects));
    });
}

#[test]
fn it_crashes_and_exits_once_over_all_processes() {
    with_plan("it_crashes_and_exits_once_over_all_processes", "", || {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().display();
        write_plan(&format!(
            "C_GetSlotList once-file={dir}/crashed crash\nC_GetSlotList once-file={dir}/exited exit\n"
        ));
        assert_eq!(list_slots().status.signal(), Some(SIGSEGV));
        assert_eq!(list_slots().status.code(), Some(3));
        assert!(list_slots().status.success());
        assert_eq!(faults(), ["C_GetSlotList crash", "C_GetSlotList exit"]);
    });
}

#[test]
fn a_rust_program_crashes_too() {
    // Rust's own handler for SIGSEGV is in the way.
    with_plan("a_rust_program_crashes_too", "C_GetInfo always crash\n", || {
        let victim = Command::new(env::current_exe().unwrap())
            .args(["the_victim", "--exact", "--ignored"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(victim.signal(), Some(SIGSEGV));
        assert_eq!(faults(), ["C_GetInfo crash"]);
    });
}

#[test]
#[ignore = "the inner half of another test"]
fn the_victim() {
    if env::var_os("FAULTY_PKCS11_PLAN").is_some() {
        let _ = support::module().0.get_library_info();
    }
}

#[test]
fn it_hangs() {
    with_plan("it_hangs", "C_GetSlotList always hang\n", || {
        let mut hung = tool(&["--list-slots"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while faults().is_empty() {
            assert!(Instant::now() < deadline, "it does not come to C_GetSlotList");
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(500));
        assert!(hung.try_wait().unwrap().is_none(), "it is still there");
        hung.kill().unwrap();
        hung.wait().unwrap();
    });
}

#[test]
fn a_malformed_plan_is_fatal() {
    with_plan("a_malformed_plan_is_fatal", "C_Sign once explode\n", || {
        let aborted = list_slots();
        assert_eq!(aborted.status.signal(), Some(SIGABRT));
        assert!(text(&aborted).contains("line 1 of the plan, `C_Sign once explode`"), "{}", text(&aborted));
        write_plan(&"# long\n".repeat(10_000));
        let aborted = list_slots();
        assert_eq!(aborted.status.signal(), Some(SIGABRT));
        assert!(text(&aborted).contains("larger than"), "{}", text(&aborted));
        fs::remove_file(env::var_os("FAULTY_PKCS11_PLAN").unwrap()).unwrap();
        assert!(list_slots().status.success(), "no file is no faults");
    });
}

#[test]
fn a_plan_that_becomes_malformed_is_fatal() {
    with_plan("a_plan_that_becomes_malformed_is_fatal", "C_GetSlotList always delay=1500\n", || {
        let running = tool(&["--list-slots"]).spawn().unwrap();
        while faults().is_empty() {
            thread::sleep(Duration::from_millis(20));
        }
        write_plan("nonsense\n");
        assert_eq!(running.wait_with_output().unwrap().status.signal(), Some(SIGABRT));
    });
}

#[test]
fn a_log_that_cannot_be_written_is_fatal() {
    with_plan("a_log_that_cannot_be_written_is_fatal", "C_GetSlotList once delay=1\n", || {
        let aborted = tool(&["--list-slots"]).env("FAULTY_PKCS11_LOG", "/absent/log").output().unwrap();
        assert_eq!(aborted.status.signal(), Some(SIGABRT));
        assert!(text(&aborted).contains("/absent/log"), "{}", text(&aborted));
    });
}

#[test]
fn without_a_module_to_wrap_there_is_no_list() {
    with_plan("without_a_module_to_wrap_there_is_no_list", "", || {
        let relative = PathBuf::from("libsofthsm2.so");
        for (module, said) in [(None, "is not set"), (Some(&relative), "must be absolute")] {
            let mut tool = tool(&["--list-slots"]);
            match module {
                None => tool.env_remove("FAULTY_PKCS11_MODULE"),
                Some(path) => tool.env("FAULTY_PKCS11_MODULE", path),
            };
            let refused = tool.output().unwrap();
            assert!(!refused.status.success() && text(&refused).contains(said), "{}", text(&refused));
        }
    });
}
