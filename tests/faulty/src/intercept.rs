//! What happens to each call: rules before it, the wrapped module, rules on its answer.

use crate::codes::Code;
use crate::log::Log;
use crate::output::{Output, View};
use crate::random::Random;
use crate::real::{LoadError, Real};
use crate::rule::Action;
use crate::table::needs_token;
use crate::watch::{Armed, Watch, fatal};
use cryptoki_sys::*;
use rustix::process::{Signal, getpid, kill_process};
use std::collections::HashSet;
use std::env;
use std::path::Path;
use std::process;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

static MODULE: OnceLock<Option<Module>> = OnceLock::new();

/// Everything that one process has.
struct Module {
    real: Real,
    watch: Watch,
    log: Log,
    random: Random,
    /// Sessions whose search is for private keys.
    key_searches: Mutex<HashSet<CK_SESSION_HANDLE>>,
    /// Forwarded calls share it; a fault that takes sessions or the login away holds it alone. Modules are not made for
    /// sessions that end under a running call, and that is not the fault that was asked for.
    calls: RwLock<()>,
}

/// One call.
struct Call {
    function: &'static str,
    session: Option<CK_SESSION_HANDLE>,
    output: Output,
}

/// Carries out a call of `function`, which `forward` makes at the wrapped module.
///
/// # Safety
/// The pointers in `output` are those of this call, and the caller keeps the standard's rules for them.
pub(crate) unsafe fn intercept(
    function: &'static str,
    session: Option<CK_SESSION_HANDLE>,
    output: Output,
    forward: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV,
) -> CK_RV {
    let Some(module) = MODULE.get_or_init(load) else { return CKR_GENERAL_ERROR };
    let call = Call { function, session, output };
    let rules = module.watch.rules();
    let (token, answer) = match module.before(&rules, &call) {
        Some(answer) => (None, answer),
        None => {
            let token = module.forward(&call, forward);
            // SAFETY: as our caller promises; the wrapped module has answered `token`.
            (Some(token), unsafe { module.after(&rules, &call, token) })
        }
    };
    if let (Output::Login(user), Some(session)) = (&call.output, session) {
        module.log.login(session, *user, token.map(Code::from), answer.into());
    }
    answer
}

fn load() -> Option<Module> {
    let real =
        env::var_os("FAULTY_PKCS11_MODULE").ok_or(LoadError::Unset).and_then(|path| Real::load(Path::new(&path)));
    match real {
        Ok(real) => Some(Module {
            real,
            watch: Watch::new(env::var_os("FAULTY_PKCS11_PLAN").map(Into::into)),
            log: Log(env::var_os("FAULTY_PKCS11_LOG").map(Into::into)),
            random: Random::new(),
            key_searches: Mutex::default(),
            calls: RwLock::new(()),
        }),
        Err(error) => {
            eprintln!("faulty-pkcs11: {error}");
            None
        }
    }
}

impl Module {
    fn forward(&self, call: &Call, forward: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV) -> CK_RV {
        // It may wait for ever, and touches no session.
        let alone = call.function == "C_WaitForSlotEvent";
        let _shared = (!alone).then(|| self.calls.read().unwrap_or_else(PoisonError::into_inner));
        forward(&self.real.list)
    }

    /// The rules that come before the wrapped module is asked; an answer means that it is not asked.
    fn before(&self, rules: &[Armed], call: &Call) -> Option<CK_RV> {
        let reached =
            rules.iter().filter(|armed| !armed.rule.action().is_on_answer() && armed.rule.is_for(call.function));
        for armed in reached {
            if armed.fires(&self.random) {
                self.log.fault(call.function, &armed.rule);
                match armed.rule.action() {
                    Action::Delay(time) => thread::sleep(*time),
                    action => return self.strike(action, call),
                }
            }
        }
        None
    }

    fn strike(&self, action: &Action, call: &Call) -> Option<CK_RV> {
        match action {
            Action::Return(code) => Some(code.rv()),
            Action::Hang => hang(),
            Action::Crash => crash(),
            Action::Exit => process::exit(3),
            Action::ForgetSessions => {
                let _alone = self.calls.write().unwrap_or_else(PoisonError::into_inner);
                if let Err(rv) = self.real.close_all_sessions() {
                    fatal(&format!("forget-sessions: the wrapped module answered {}", Code::from(rv)));
                }
                call.session.map(|_| CKR_SESSION_HANDLE_INVALID)
            }
            Action::Logout => {
                let _alone = self.calls.write().unwrap_or_else(PoisonError::into_inner);
                call.session.and_then(|session| self.real.logout(session));
                None
            }
            Action::Gone => Some(gone(call)),
            // `before` leaves these to others.
            Action::Delay(_)
            | Action::After(_)
            | Action::WrongSignature
            | Action::TruncatedSignature
            | Action::GarbageSignature
            | Action::SwapKeys
            | Action::DoubleKey
            | Action::Extractable => None,
        }
    }

    /// The rules on the wrapped module's answer `rv`, of which the first that fires is the last. A rule counts the calls
    /// whose answer it can change.
    ///
    /// # Safety
    /// As [`intercept`], and the wrapped module has answered `rv`.
    unsafe fn after(&self, rules: &[Armed], call: &Call, rv: CK_RV) -> CK_RV {
        // SAFETY: as our caller promises.
        unsafe { self.follow(call, rv) };
        let mut answer = rv;
        for armed in rules.iter().filter(|armed| armed.rule.action().is_on_answer() && armed.rule.is_for(call.function))
        {
            let action = armed.rule.action();
            // SAFETY: as our caller promises; the view of the rule before this one is gone.
            let change = self.change(action, call, unsafe { call.output.view(rv) });
            let Some(change) = change else { continue };
            if armed.fires(&self.random) {
                self.log.fault(call.function, &armed.rule);
                answer = change(rv);
                break;
            }
        }
        answer
    }

    /// Notes what later calls need to know, and puts our name into the answers that have a name.
    ///
    /// # Safety
    /// As [`Module::after`].
    unsafe fn follow(&self, call: &Call, rv: CK_RV) {
        if rv != CKR_OK {
            return;
        }
        // SAFETY: as our caller promises, and the answer is CKR_OK.
        unsafe { call.output.announce() };
        let Some(session) = call.session else { return };
        match call.function {
            // SAFETY: as our caller promises.
            "C_FindObjectsInit" if unsafe { call.output.seeks_private_keys() } => {
                self.key_searches().insert(session);
            }
            "C_FindObjectsInit" | "C_FindObjectsFinal" | "C_CloseSession" => {
                self.key_searches().remove(&session);
            }
            _ => {}
        }
    }

    fn key_searches(&self) -> MutexGuard<'_, HashSet<CK_SESSION_HANDLE>> {
        self.key_searches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How `action` would change this answer; `None` if it cannot.
    fn change<'a>(
        &'a self,
        action: &Action,
        call: &Call,
        view: View<'a>,
    ) -> Option<Box<dyn FnOnce(CK_RV) -> CK_RV + 'a>> {
        Some(match (action, view) {
            (Action::After(code), _) => {
                let code = code.rv();
                Box::new(move |_| code)
            }
            (Action::WrongSignature, View::Signature { octets, .. }) => {
                let last = octets.last_mut()?;
                Box::new(move |rv| {
                    *last ^= 1;
                    rv
                })
            }
            (Action::TruncatedSignature, View::Signature { length, .. }) => Box::new(move |rv| {
                *length -= 1;
                rv
            }),
            (Action::GarbageSignature, View::Signature { octets, .. }) => Box::new(move |rv| {
                self.random.garble(octets);
                rv
            }),
            (Action::SwapKeys, View::Found { room, .. }) => {
                let session = call.session.filter(|session| self.key_searches().contains(session))?;
                let shared = self.calls.read().unwrap_or_else(PoisonError::into_inner);
                let other = self.real.other_private_key(session, *room.first()?)?;
                drop(shared);
                Box::new(move |rv| {
                    room[0] = other;
                    rv
                })
            }
            (Action::DoubleKey, View::Found { room, count }) if room.len() > 1 => Box::new(move |rv| {
                room.copy_within(..room.len() - 1, 1);
                *count = (*count + 1).min(room.len() as CK_ULONG);
                rv
            }),
            (Action::Extractable, View::Extractable(flag)) => Box::new(move |rv| {
                *flag = CK_TRUE;
                rv
            }),
            _ => return None,
        })
    }
}

/// What a caller hears when the token is away.
fn gone(call: &Call) -> CK_RV {
    // SAFETY: the call has not returned.
    if unsafe { call.output.empty_slots() } {
        return CKR_OK;
    }
    if needs_token(call.function) { CKR_TOKEN_NOT_PRESENT } else { CKR_SLOT_ID_INVALID }
}

fn hang() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn crash() -> ! {
    // The first one may only end in Rust's handler for stack overflows, which then restores the default.
    for _ in 0..100 {
        if let Err(error) = kill_process(getpid(), Signal::SEGV) {
            fatal(&format!("SIGSEGV: {error}"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    fatal("somebody ignores SIGSEGV")
}
