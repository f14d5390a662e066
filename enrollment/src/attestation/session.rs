//! Challenges that are out: bounded, short-lived, used up by the first answer.

use super::{
    ChallengeBody, FormatState,
    binding::{Binding, SessionId},
};
use ca_core::{
    id::{IdempotencyKey, ProfileName, TenantId},
    time::UnixTime,
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt, time::Duration};

/// How long a session lives.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(120);
/// The most sessions at a time.
pub const MAX_SESSIONS: usize = 4096;
/// The most sessions of one caller at a time.
pub const MAX_PER_CALLER: usize = 64;

/// Stands for a caller: the digest of what identifies it, for example its certificate or its address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerKey([u8; 32]);

impl CallerKey {
    /// From what identifies the caller, for example `principal:station-7` or `address:2001:db8::1`.
    pub fn new(identity: &str) -> Self {
        Self(Sha256::digest(identity.as_bytes()).into())
    }
}

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallerKey({})", hex::encode(self.0.first_chunk::<4>().unwrap_or(&[0; 4])))
    }
}

/// What a challenge is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeginRequest {
    /// Who asks.
    pub caller: CallerKey,
    /// The tenant.
    pub tenant: TenantId,
    /// The profile that the enrollment will name.
    pub profile: ProfileName,
    /// SHA-256 of the DER SubjectPublicKeyInfo of the CSR to come.
    pub csr_spki_sha256: [u8; 32],
    /// The caller's name for this request.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the hello, so that a repetition can be told from another request.
    pub hello_sha256: [u8; 32],
}

/// The randomness of a new session.
#[derive(Clone, Copy)]
pub struct Fresh {
    /// 16 random octets.
    pub session_id: [u8; 16],
    /// 32 random octets.
    pub nonce: [u8; 32],
}

/// A challenge as the caller gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Names the session.
    pub session_id: SessionId,
    /// The verifier's nonce.
    pub nonce: [u8; 32],
    /// What the evidence must carry.
    pub binding: Binding,
    /// When the session ends; at this second it has ended.
    pub expires_at: UnixTime,
    /// The format's own part.
    pub body: ChallengeBody,
}

/// A session that was taken out of the table: it can be answered once, by whoever holds this value.
#[derive(Debug)]
pub struct Session {
    request: BeginRequest,
    challenge: Challenge,
    state: FormatState,
}

impl Session {
    /// Names the session.
    pub fn id(&self) -> &SessionId {
        &self.challenge.session_id
    }
    /// What the evidence must carry.
    pub fn binding(&self) -> &Binding {
        &self.challenge.binding
    }
    /// SHA-256 of the SubjectPublicKeyInfo that the challenge was asked for.
    pub fn csr_spki_sha256(&self) -> &[u8; 32] {
        &self.request.csr_spki_sha256
    }
    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.request.tenant
    }
    /// The profile.
    pub fn profile(&self) -> &ProfileName {
        &self.request.profile
    }
    /// What the format's verifier kept.
    pub fn state(&self) -> &FormatState {
        &self.state
    }
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// [`MAX_SESSIONS`] are alive.
    #[error("too many challenges are out")]
    Full {
        /// When the first of them ends.
        retry_after: Duration,
    },
    /// [`MAX_PER_CALLER`] of this caller are alive.
    #[error("too many challenges of this caller are out")]
    CallerFull {
        /// When the first of them ends.
        retry_after: Duration,
    },
    /// The idempotency key is in use for another request.
    #[error("the idempotency key was used for another challenge")]
    Conflict,
    /// The session identifier is in use: the source of randomness is broken.
    #[error("the session identifier is in use")]
    Repeated,
    /// Never begun, already used, or swept away after its end.
    #[error("there is no such session, or it was used already")]
    Unknown,
    /// Too late. The session is gone.
    #[error("the session has ended")]
    Expired,
    /// Begun by another caller. The session is gone.
    #[error("the session was begun by another caller")]
    OtherCaller,
    /// Begun in another tenant. The session is gone.
    #[error("the session was begun in another tenant")]
    OtherTenant,
    /// Begun for another profile. The session is gone.
    #[error("the session was begun for another profile")]
    OtherProfile,
}

impl SessionError {
    /// When the same call may succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Full { retry_after } | Self::CallerFull { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// The request field that is at fault.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Conflict => "idempotency_key",
            _ => "evidence.session_id",
        }
    }
}

/// The challenges that are out. It lives in memory only: after a restart every device begins again.
#[derive(Debug, Default)]
pub struct ChallengeTable {
    sessions: BTreeMap<SessionId, Session>,
    by_caller: BTreeMap<CallerKey, BTreeMap<IdempotencyKey, SessionId>>,
}

impl ChallengeTable {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many sessions are held, ended ones that were not swept yet included.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The challenge that this very request was given before, so that no second one need be computed; and whether
    /// there is room for a new one.
    ///
    /// # Errors
    /// [`SessionError::Conflict`], [`SessionError::Full`] and [`SessionError::CallerFull`].
    pub fn existing(&mut self, request: &BeginRequest, now: UnixTime) -> Result<Option<Challenge>, SessionError> {
        self.sweep(now);
        let own = self.by_caller.get(&request.caller);
        let known = own.and_then(|own| own.get(&request.idempotency_key)).and_then(|id| self.sessions.get(id));
        if let Some(session) = known {
            return if session.request == *request {
                Ok(Some(session.challenge.clone()))
            } else {
                Err(SessionError::Conflict)
            };
        }
        let first_end = |sessions: &mut dyn Iterator<Item = &Session>| {
            now.until(sessions.map(|s| s.challenge.expires_at).min().unwrap_or(now)).max(Duration::from_secs(1))
        };
        if let Some(own) = own.filter(|own| own.len() >= MAX_PER_CALLER) {
            let retry_after = first_end(&mut own.values().filter_map(|id| self.sessions.get(id)));
            return Err(SessionError::CallerFull { retry_after });
        }
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(SessionError::Full { retry_after: first_end(&mut self.sessions.values()) });
        }
        Ok(None)
    }

    /// Opens a session, or gives the challenge again that the same request was given while its session lives.
    ///
    /// # Errors
    /// As [`Self::existing`], and [`SessionError::Repeated`].
    pub fn begin(
        &mut self,
        request: BeginRequest,
        fresh: Fresh,
        body: ChallengeBody,
        state: FormatState,
        now: UnixTime,
    ) -> Result<Challenge, SessionError> {
        if let Some(challenge) = self.existing(&request, now)? {
            return Ok(challenge);
        }
        let session_id = SessionId(fresh.session_id);
        if self.sessions.contains_key(&session_id) {
            return Err(SessionError::Repeated);
        }
        let binding =
            Binding::new(&fresh.nonce, &session_id, &request.csr_spki_sha256, &request.profile, &request.tenant);
        let challenge = Challenge { session_id, nonce: fresh.nonce, binding, expires_at: now.plus(TIME_TO_LIVE), body };
        self.by_caller.entry(request.caller).or_default().insert(request.idempotency_key.clone(), session_id);
        self.sessions.insert(session_id, Session { request, challenge: challenge.clone(), state });
        Ok(challenge)
    }

    /// Takes a session out for good, whatever comes after, and only then checks that it is alive and the caller's.
    ///
    /// # Errors
    /// [`SessionError`]; but for [`SessionError::Unknown`] the session is gone.
    pub fn consume(
        &mut self,
        session_id: &SessionId,
        caller: &CallerKey,
        tenant: &TenantId,
        profile: &ProfileName,
        now: UnixTime,
    ) -> Result<Session, SessionError> {
        let session = self.remove(session_id).ok_or(SessionError::Unknown)?;
        if session.challenge.expires_at <= now {
            return Err(SessionError::Expired);
        }
        if session.request.caller != *caller {
            return Err(SessionError::OtherCaller);
        }
        if session.request.tenant != *tenant {
            return Err(SessionError::OtherTenant);
        }
        if session.request.profile != *profile {
            return Err(SessionError::OtherProfile);
        }
        Ok(session)
    }

    fn sweep(&mut self, now: UnixTime) {
        let ended: Vec<SessionId> =
            self.sessions.iter().filter(|(_, s)| s.challenge.expires_at <= now).map(|(id, _)| *id).collect();
        for id in ended {
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &SessionId) -> Option<Session> {
        let session = self.sessions.remove(id)?;
        if let Some(own) = self.by_caller.get_mut(&session.request.caller) {
            own.remove(&session.request.idempotency_key);
            if own.is_empty() {
                self.by_caller.remove(&session.request.caller);
            }
        }
        Some(session)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::tpm2::{CredentialBlob, Public, verify::Tpm2State};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn request(caller: &str, key: &str) -> BeginRequest {
        BeginRequest {
            caller: CallerKey::new(caller),
            tenant: TenantId::default_tenant(),
            profile: ProfileName::new("tls-client").unwrap(),
            csr_spki_sha256: [3; 32],
            idempotency_key: IdempotencyKey::new(key).unwrap(),
            hello_sha256: [4; 32],
        }
    }

    fn state() -> FormatState {
        let public = Public::parse(include_bytes!("../../tests/vectors/rsa_ak_pub.bin")).unwrap();
        FormatState::Tpm2(Tpm2State::new([5; 32], public, [6; 32]))
    }

    fn begin(table: &mut ChallengeTable, r: BeginRequest, n: u32, now: UnixTime) -> Result<Challenge, SessionError> {
        let mut session_id = [0; 16];
        session_id[..4].copy_from_slice(&n.to_be_bytes());
        let body = ChallengeBody::Tpm2(CredentialBlob { id_object: vec![1], encrypted_secret: vec![2] });
        table.begin(r, Fresh { session_id, nonce: [n as u8; 32] }, body, state(), now)
    }

    fn consume(
        table: &mut ChallengeTable,
        id: &SessionId,
        r: &BeginRequest,
        now: UnixTime,
    ) -> Result<(), SessionError> {
        table.consume(id, &r.caller, &r.tenant, &r.profile, now).map(drop)
    }

    #[test]
    fn a_session_is_used_once() {
        let mut table = ChallengeTable::new();
        let r = request("a", "k");
        let challenge = begin(&mut table, r.clone(), 1, NOW).unwrap();
        assert_eq!(consume(&mut table, &challenge.session_id, &r, NOW), Ok(()));
        assert_eq!(consume(&mut table, &challenge.session_id, &r, NOW), Err(SessionError::Unknown));
        assert!(table.is_empty() && table.by_caller.is_empty());
        // The idempotency key does not bring a used challenge back.
        assert_ne!(begin(&mut table, r, 2, NOW).unwrap(), challenge);
    }

    #[test]
    fn a_repeated_begin_gets_the_same_challenge_and_another_request_a_conflict() {
        let mut table = ChallengeTable::new();
        let first = begin(&mut table, request("a", "k"), 1, NOW).unwrap();
        assert_eq!(begin(&mut table, request("a", "k"), 2, NOW.plus(Duration::from_secs(119))).unwrap(), first);
        let other = BeginRequest { csr_spki_sha256: [9; 32], ..request("a", "k") };
        assert_eq!(begin(&mut table, other, 3, NOW), Err(SessionError::Conflict));
        let other = BeginRequest { hello_sha256: [9; 32], ..request("a", "k") };
        assert_eq!(table.existing(&other, NOW), Err(SessionError::Conflict));
        assert_ne!(begin(&mut table, request("b", "k"), 4, NOW).unwrap(), first);
        assert_eq!(begin(&mut table, request("c", "k"), 4, NOW), Err(SessionError::Repeated));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn sessions_end_after_two_minutes() {
        let mut table = ChallengeTable::new();
        let r = request("a", "k");
        let id = begin(&mut table, r.clone(), 1, NOW).unwrap().session_id;
        assert_eq!(consume(&mut table, &id, &r, NOW.plus(TIME_TO_LIVE)), Err(SessionError::Expired));
        assert_eq!(consume(&mut table, &id, &r, NOW), Err(SessionError::Unknown));
        begin(&mut table, r, 2, NOW).unwrap();
        begin(&mut table, request("a", "l"), 3, NOW.plus(TIME_TO_LIVE)).unwrap();
        assert_eq!(table.len(), 1, "ended sessions are swept on insert");
    }

    #[test]
    fn a_wrong_caller_tenant_or_profile_burns_the_session() {
        let mut table = ChallengeTable::new();
        let r = request("a", "k");
        for (n, wrong, error) in [
            (1, request("b", "k"), SessionError::OtherCaller),
            (2, BeginRequest { tenant: TenantId::new("other").unwrap(), ..r.clone() }, SessionError::OtherTenant),
            (3, BeginRequest { profile: ProfileName::new("other").unwrap(), ..r.clone() }, SessionError::OtherProfile),
        ] {
            let id = begin(&mut table, r.clone(), n, NOW).unwrap().session_id;
            assert_eq!(consume(&mut table, &id, &wrong, NOW), Err(error));
            assert_eq!(consume(&mut table, &id, &r, NOW), Err(SessionError::Unknown));
        }
    }

    #[test]
    fn bounds_hold_and_say_when_to_come_back() {
        let mut table = ChallengeTable::new();
        let mut n = 0;
        for key in 0..MAX_PER_CALLER {
            n += 1;
            begin(&mut table, request("greedy", &format!("k{key}")), n, NOW).unwrap();
        }
        let later = NOW.plus(Duration::from_secs(100));
        let refused = begin(&mut table, request("greedy", "one-more"), 9999, later);
        assert_eq!(refused, Err(SessionError::CallerFull { retry_after: Duration::from_secs(20) }));
        while table.len() < MAX_SESSIONS {
            n += 1;
            begin(&mut table, request(&format!("c{n}"), "k"), n, later).unwrap();
        }
        let refused = begin(&mut table, request("newcomer", "k"), 9999, later);
        assert_eq!(refused, Err(SessionError::Full { retry_after: Duration::from_secs(20) }));
        begin(&mut table, request("newcomer", "k"), 9999, NOW.plus(TIME_TO_LIVE)).unwrap();
        assert_eq!(table.len(), MAX_SESSIONS - MAX_PER_CALLER + 1);
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut table = ChallengeTable::new();
        begin(&mut table, request("a", "k"), 1, NOW).unwrap();
        let shown = format!("{table:?}");
        assert!(!shown.contains("5, 5, 5") && !shown.contains("0505"), "{shown}");
    }
}
