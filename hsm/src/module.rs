//! The PKCS#11 library: loaded once per process and path, initialised while anybody uses it.
//!
//! C_Initialize and C_Finalize are process-wide and must not run beside any other call, so every call is made under a
//! [`Calls`] guard and initialising waits until there is none. Handles of sessions are small numbers that a new
//! initialisation hands out again: the generation tells whose they are.

use crate::HsmError;
use crate::error::{RECONNECT, Trouble};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as Cryptoki, RvError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// A lock whose data stays consistent even when a holder panicked: every change in it is a single assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Module {
    context: Pkcs11,
    gate: Mutex<Gate>,
    changed: Condvar,
    /// Tokens whose PIN was wrong once.
    locked_out: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct Gate {
    users: usize,
    calls: usize,
    exclusive: bool,
    initialised: bool,
    generation: u64,
    attempted: Option<Instant>,
}

/// Permission to call the library; C_Finalize waits for it to be dropped.
pub(crate) struct Calls<'a> {
    module: &'a Module,
    generation: u64,
}

impl Calls<'_> {
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn context(&self) -> &Pkcs11 {
        &self.module.context
    }
}

impl Drop for Calls<'_> {
    fn drop(&mut self) {
        let mut gate = lock(&self.module.gate);
        gate.calls -= 1;
        let wake = gate.calls == 0 && gate.exclusive;
        drop(gate);
        if wake {
            self.module.changed.notify_all();
        }
    }
}

/// Sole use of the library.
struct Exclusive<'a>(&'a Module);

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        lock(&self.0.gate).exclusive = false;
        self.0.changed.notify_all();
    }
}

impl Module {
    /// Loads the library, or finds it loaded.
    pub fn load(path: &Path) -> Result<Arc<Self>, HsmError> {
        let wrong = |reason| HsmError::Module { path: path.to_owned(), reason };
        // A bare name would be searched for along LD_LIBRARY_PATH, which whoever starts the process may set.
        if !path.is_absolute() {
            return Err(wrong("is not an absolute path"));
        }
        let real = path.canonicalize().map_err(|_| wrong("does not exist or is not readable"))?;
        let mut modules = lock(&MODULES);
        if let Some(module) = modules.get(&real) {
            return Ok(module.clone());
        }
        let context = Pkcs11::new(&real).map_err(|_| wrong("is not a PKCS#11 library"))?;
        let module =
            Arc::new(Self { context, gate: Mutex::default(), changed: Condvar::new(), locked_out: Mutex::default() });
        modules.insert(real, module.clone());
        Ok(module)
    }

    /// Begins a use; every success needs one [`Module::detach`].
    pub fn attach(&self, wait: Duration) -> Result<(), Trouble> {
        let exclusive = self.exclusive(wait)?;
        if !lock(&self.gate).initialised {
            self.initialise()?;
        }
        lock(&self.gate).users += 1;
        drop(exclusive);
        Ok(())
    }

    /// Ends a use; the last one finalises the library, unless a call is stuck in it.
    pub fn detach(&self, wait: Duration) {
        {
            let mut gate = lock(&self.gate);
            gate.users = gate.users.saturating_sub(1);
        }
        if let Ok(_exclusive) = self.exclusive(wait)
            && lock(&self.gate).users == 0
        {
            self.finalise();
        }
    }

    /// Waits at most `wait` for an initialisation that is under way.
    pub fn calls(&self, wait: Duration) -> Result<Calls<'_>, HsmError> {
        let until = Instant::now() + wait;
        let mut gate = lock(&self.gate);
        while gate.exclusive {
            gate = self.wait(gate, until)?;
        }
        gate.calls += 1;
        Ok(Calls { module: self, generation: gate.generation })
    }

    pub fn generation(&self) -> u64 {
        lock(&self.gate).generation
    }

    /// Finalises and initialises again, unless somebody did since `seen`. At most once per second.
    pub fn reinitialise(&self, seen: u64, wait: Duration) -> Result<bool, Trouble> {
        {
            let gate = lock(&self.gate);
            if gate.generation != seen && gate.initialised {
                return Ok(false);
            }
            let since = gate.attempted.map_or(RECONNECT, |at| at.elapsed());
            if let Some(left) = RECONNECT.checked_sub(since)
                && !left.is_zero()
            {
                return Err(HsmError::Unavailable { retry_after: left, failure: None }.into());
            }
        }
        let _exclusive = self.exclusive(wait)?;
        self.finalise();
        self.initialise()?;
        Ok(true)
    }

    /// Runs `body` with sole use of a library that is freshly initialised before and after.
    pub fn alone<T>(&self, wait: Duration, body: impl FnOnce(&Pkcs11) -> Result<T, Trouble>) -> Result<T, Trouble> {
        let _exclusive = self.exclusive(wait)?;
        self.finalise();
        self.initialise()?;
        let result = body(&self.context);
        self.finalise();
        if lock(&self.gate).users > 0 {
            self.initialise()?;
        }
        result
    }

    pub fn is_locked_out(&self, token: &str) -> bool {
        lock(&self.locked_out).contains(token)
    }

    pub fn lock_out(&self, token: String) {
        lock(&self.locked_out).insert(token);
    }

    fn exclusive(&self, wait: Duration) -> Result<Exclusive<'_>, HsmError> {
        let until = Instant::now() + wait;
        let mut gate = lock(&self.gate);
        while gate.exclusive {
            gate = self.wait(gate, until)?;
        }
        gate.exclusive = true;
        // From here on the flag is given back whatever happens.
        let exclusive = Exclusive(self);
        while gate.calls > 0 {
            match self.wait(gate, until) {
                Ok(again) => gate = again,
                Err(stuck) => return Err(stuck),
            }
        }
        drop(gate);
        Ok(exclusive)
    }

    fn wait<'a>(&self, gate: MutexGuard<'a, Gate>, until: Instant) -> Result<MutexGuard<'a, Gate>, HsmError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HsmError::away(None));
        }
        Ok(self.changed.wait_timeout(gate, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    fn initialise(&self) -> Result<(), Trouble> {
        lock(&self.gate).attempted = Some(Instant::now());
        match self.context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Cryptoki::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {
                let mut gate = lock(&self.gate);
                gate.initialised = true;
                gate.generation += 1;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn finalise(&self) {
        // The generation rises first: no handle from before may be used or closed from here on.
        {
            let mut gate = lock(&self.gate);
            gate.generation += 1;
            if !std::mem::take(&mut gate.initialised) {
                return;
            }
        }
        if let Err(error) = self.context.clone().finalize() {
            tracing::warn!(failure = %crate::Failure::from(error), "C_Finalize failed");
        }
    }
}
