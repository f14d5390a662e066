//! What the processes say to each other: postcard frames, both ends of one binary.
//!
//! A frame is its length (u32, little-endian) and a postcard body. The length is checked before anything is read for
//! it; postcard itself never takes more memory than the frame has octets.

use crate::error::Text;
use crate::mechanism::Prepared;
use crate::{HsmError, KeyAttributes, KeyId, KeyRequest, TokenKey};
use ca_core::key::{KeyAlgorithm, PublicKey, SignatureAlgorithm};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read};
use std::time::Duration;

/// The longest message that is signed, in octets. Whole CRLs of a million entries fit.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;
/// The longest frame: a message, its key and its algorithm.
const MAX_FRAME: usize = MAX_MESSAGE + 4096;
/// What one read takes at least: some hundred requests of a pipeline.
const READ: usize = 64 << 10;

/// To a signer, once: what it works on. The PIN is borrowed from a buffer that is wiped.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hello<'a> {
    pub module: &'a str,
    pub pin: &'a str,
    pub mode: Mode<'a>,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Mode<'a> {
    /// Log in and sign.
    Serve { uri: &'a str, sessions: u32, exceptions: Vec<KeyId> },
    /// Initialise the first free token with this label and security officer's PIN.
    Initialise { label: &'a str, so_pin: &'a str },
}

/// From the service to a signer.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToSigner {
    Work {
        id: u64,
        operation: Operation,
    },
    /// The answer to [`FromSigner::LoginWanted`]: one attempt, or why not.
    Login(Result<(), HsmError>),
    /// A signature was wrong: look up every key again before it is used.
    Doubt,
}

/// What a signer is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Operation {
    Sign(SignWork),
    Generate(Box<WireRequest>),
    Find(KeyId),
    List,
    /// Is the token there and logged in?
    Probe,
    Destroy(KeyId),
    /// Try to read or wrap the private key; a sound token refuses.
    Extract(KeyId),
    /// Is this a key under which others may leave?
    WrappingKey(KeyId),
    Mechanisms,
    ReadEpoch,
    WriteEpoch(u64),
}

impl Operation {
    /// Doing it twice is as good as once. (Two signatures over the same octets differ and are both right.)
    pub fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Generate(_) | Self::Destroy(_) | Self::WriteEpoch(_))
    }

    /// For metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sign(_) => "sign",
            Self::Generate(_) => "generate",
            Self::Find(_) => "find",
            Self::List => "list",
            Self::Probe => "probe",
            Self::Destroy(_) => "destroy",
            Self::Extract(_) => "extract",
            Self::WrappingKey(_) => "wrapping key",
            Self::Mechanisms => "mechanisms",
            Self::ReadEpoch | Self::WriteEpoch(_) => "epoch",
        }
    }
}

/// Input of one C_Sign. The algorithm is its place in [`SignatureAlgorithm::ALL`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignWork {
    pub key: KeyId,
    algorithm: u8,
    raw: bool,
    data: Vec<u8>,
}

impl std::fmt::Debug for SignWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignWork({}, {} octets)", self.key, self.data.len())
    }
}

impl SignWork {
    pub fn new(key: KeyId, prepared: Prepared) -> Self {
        let (algorithm, raw, data) = prepared.into_parts();
        Self { key, algorithm: signature_code(algorithm), raw, data }
    }

    pub fn into_prepared(self) -> Result<Prepared, HsmError> {
        let algorithm = signature_algorithm(self.algorithm)
            .ok_or_else(|| HsmError::Process("a request with an unknown algorithm".to_owned()))?;
        Ok(Prepared::from_parts(algorithm, self.raw, self.data))
    }
}

fn signature_code(algorithm: SignatureAlgorithm) -> u8 {
    let place = SignatureAlgorithm::ALL.iter().position(|a| *a == algorithm).unwrap_or(usize::from(u8::MAX));
    u8::try_from(place).unwrap_or(u8::MAX)
}

fn signature_algorithm(code: u8) -> Option<SignatureAlgorithm> {
    SignatureAlgorithm::ALL.get(usize::from(code)).copied()
}

/// A [`KeyRequest`] on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireRequest {
    label: String,
    id: KeyId,
    algorithm: u32,
    extractable_under: Option<KeyId>,
}

/// The sizes that RSA keys have here are below this.
const RSA: u32 = 1 << 16;

impl From<&KeyRequest> for WireRequest {
    fn from(request: &KeyRequest) -> Self {
        let KeyRequest { label, id, algorithm, extractable_under } = request;
        Self { label: label.clone(), id: *id, algorithm: key_code(*algorithm), extractable_under: *extractable_under }
    }
}

impl WireRequest {
    pub fn into_request(self) -> Result<KeyRequest, HsmError> {
        let algorithm = key_algorithm(self.algorithm)
            .ok_or_else(|| HsmError::Process("a request for an unknown key algorithm".to_owned()))?;
        let Self { label, id, extractable_under, .. } = self;
        Ok(KeyRequest { label, id, algorithm, extractable_under })
    }
}

/// Key algorithms without a size of their own; RSA comes beside.
pub(crate) const KEYS: [KeyAlgorithm; 7] = [
    KeyAlgorithm::EcP256,
    KeyAlgorithm::EcP384,
    KeyAlgorithm::EcP521,
    KeyAlgorithm::Ed25519,
    KeyAlgorithm::MlDsa44,
    KeyAlgorithm::MlDsa65,
    KeyAlgorithm::MlDsa87,
];

fn key_code(algorithm: KeyAlgorithm) -> u32 {
    match algorithm {
        KeyAlgorithm::Rsa(bits) => RSA + u32::from(bits),
        other => KEYS.iter().position(|a| *a == other).and_then(|i| u32::try_from(i).ok()).unwrap_or(u32::MAX),
    }
}

fn key_algorithm(code: u32) -> Option<KeyAlgorithm> {
    match code.checked_sub(RSA) {
        Some(bits) => u16::try_from(bits).ok().map(KeyAlgorithm::Rsa),
        None => KEYS.get(usize::try_from(code).ok()?).copied(),
    }
}

/// A [`TokenKey`] on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireKey {
    id: KeyId,
    label: String,
    spki: Vec<u8>,
    attributes: KeyAttributes,
}

impl From<TokenKey> for WireKey {
    fn from(key: TokenKey) -> Self {
        let TokenKey { id, label, public_key, attributes } = key;
        Self { id, label, spki: public_key.spki_der().to_vec(), attributes }
    }
}

impl WireKey {
    pub fn into_key(self) -> Result<TokenKey, HsmError> {
        let Self { id, label, spki, attributes } = self;
        let public_key = PublicKey::from_spki_der(&spki).map_err(|_| HsmError::KeyUnsuitable {
            id,
            reason: Text::from("its public key is not one that is accepted"),
        })?;
        Ok(TokenKey { id, label, public_key, attributes })
    }
}

/// From a signer to the service.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromSigner {
    /// Logged in; begins to work.
    Ready(Box<Facts>),
    /// Cannot begin, or cannot go on: the process ends.
    Failed(HsmError),
    Answer {
        id: u64,
        result: Result<Answer, HsmError>,
        /// Time inside the module.
        took: Duration,
    },
    /// The token says by CKF_USER_PIN_COUNT_LOW that a wrong PIN was tried since the last login.
    LoginWanted {
        low: bool,
    },
    LoginEnded(Result<(), HsmError>),
    /// Went on after a failed call, which says what it was.
    Recovered(String),
    /// Something for the log.
    Notice(String),
    /// The token of [`Mode::Initialise`] is made; its serial number.
    Initialised(String),
}

/// What a token says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub label: String,
    pub serial: String,
    pub manufacturer: String,
    pub model: String,
    pub library: String,
    /// CK_MECHANISM_TYPE values.
    pub mechanisms: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Signature(Vec<u8>),
    Key(Box<WireKey>),
    Keys(Vec<WireKey>),
    Mechanisms(Vec<Mechanism>),
    /// What [`Operation::Extract`] got out, in words; empty is as it must be.
    Leaks(Vec<String>),
    Epoch(Option<u64>),
    Done,
}

/// A mechanism of a token, from C_GetMechanismInfo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mechanism {
    /// Its name in the standard, or its number in hexadecimal.
    pub name: String,
    /// CK_MECHANISM_TYPE.
    pub number: u64,
    /// Smallest key, in the mechanism's own unit (bits for RSA and EC).
    pub min_key: u64,
    /// Largest key.
    pub max_key: u64,
    /// CKF_SIGN.
    pub signs: bool,
    /// CKF_GENERATE_KEY_PAIR.
    pub generates: bool,
    /// CKF_HW: done by hardware, says the token.
    pub hardware: bool,
}

/// Appends one frame.
pub(crate) fn put<T: Serialize>(out: &mut Vec<u8>, message: &T) -> Result<(), HsmError> {
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut whole = postcard::to_extend(message, std::mem::take(out))
        .map_err(|e| HsmError::Process(format!("a message cannot be encoded: {e}")))?;
    let body = whole.len() - begin - 4;
    let length = u32::try_from(body).ok().filter(|_| body <= MAX_FRAME);
    let Some(length) = length else {
        whole.truncate(begin);
        *out = whole;
        return Err(HsmError::MessageTooLong { octets: body, limit: MAX_MESSAGE });
    };
    if let Some(head) = whole.get_mut(begin..begin + 4) {
        head.copy_from_slice(&length.to_le_bytes());
    }
    *out = whole;
    Ok(())
}

/// The longest frame of a signer: the keys of a full token. Its module may be hostile.
pub(crate) const FROM_SIGNER: usize = 16 << 20;

/// Takes frames from a stream.
pub(crate) struct Frames {
    buffer: Vec<u8>,
    begin: usize,
    longest: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self::up_to(MAX_FRAME)
    }
}

impl Frames {
    /// Takes none that is longer.
    pub fn up_to(longest: usize) -> Self {
        Self { buffer: Vec::new(), begin: 0, longest }
    }

    /// The next whole frame's body that is here already.
    fn take(&mut self) -> io::Result<Option<std::ops::Range<usize>>> {
        let rest = self.buffer.get(self.begin..).unwrap_or_default();
        let Some((head, body)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
        if length > self.longest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame over the limit"));
        }
        if body.len() < length {
            return Ok(None);
        }
        let begin = self.begin + 4;
        self.begin = begin + length;
        Ok(Some(begin..begin + length))
    }

    /// The next message that is here already.
    pub fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(range) = self.take()? else { return Ok(None) };
        let body = self.buffer.get(range).unwrap_or_default();
        postcard::from_bytes(body).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
    }

    /// Reads once; `false` at the end of the stream.
    pub fn fill(&mut self, stream: &mut impl Read) -> io::Result<bool> {
        if self.begin == self.buffer.len() {
            self.buffer.clear();
        } else if self.begin > 0 {
            self.buffer.drain(..self.begin);
        }
        self.begin = 0;
        let had = self.buffer.len();
        // A large frame that has begun is read in large pieces.
        let wanted = READ.max(had.min(8 << 20));
        self.buffer.resize(had + wanted, 0);
        let got = loop {
            match stream.read(self.buffer.get_mut(had..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(had + *got.as_ref().unwrap_or(&0));
        got.map(|n| n > 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn algorithms_keep_their_codes() {
        for algorithm in SignatureAlgorithm::ALL {
            assert_eq!(signature_algorithm(signature_code(algorithm)), Some(algorithm));
        }
        for algorithm in KEYS.into_iter().chain([KeyAlgorithm::Rsa(2048), KeyAlgorithm::Rsa(4096)]) {
            assert_eq!(key_algorithm(key_code(algorithm)), Some(algorithm));
        }
        assert_eq!(key_algorithm(99), None);
        assert_eq!(signature_algorithm(200), None);
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut frames = Frames::default();
        let head = u32::try_from(MAX_FRAME + 1).unwrap().to_le_bytes();
        assert!(frames.fill(&mut &head[..]).unwrap());
        assert!(frames.next::<ToSigner>().is_err());
    }

    #[test]
    fn garbage_is_an_error_and_no_panic() {
        let mut frames = Frames::default();
        frames.fill(&mut &[4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff][..]).unwrap();
        assert!(frames.next::<ToSigner>().is_err());
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(sizes in proptest::collection::vec(0usize..3000, 1..20), cut in 1usize..700) {
            let mut stream = Vec::new();
            let message = |n: usize| Answer::Signature(vec![7; n]);
            for size in &sizes {
                put(&mut stream, &message(*size)).unwrap();
            }
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in stream.chunks(cut) {
                prop_assert!(frames.fill(&mut &piece[..]).unwrap());
                while let Some(answer) = frames.next::<Answer>().unwrap() {
                    let Answer::Signature(octets) = answer else { panic!() };
                    found.push(octets.len());
                }
            }
            prop_assert_eq!(found, sizes);
        }

        #[test]
        fn any_octets_decode_or_are_refused(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = postcard::from_bytes::<ToSigner>(&octets);
            let _ = postcard::from_bytes::<FromSigner>(&octets);
        }
    }
}
