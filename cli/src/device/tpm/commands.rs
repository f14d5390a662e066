//! The commands (Part 3). Whatever is loaded or started is flushed again, on the way of an error too.

use super::{
    TpmAddress, TpmError,
    transport::{HEADER, Transport},
};
use enrollment::tpm2::{Reader, Writer};
use std::{thread, time::Duration};
use zeroize::Zeroizing;

const ST_NO_SESSIONS: u16 = 0x8001;
const ST_SESSIONS: u16 = 0x8002;
const RS_PW: u32 = 0x4000_0009;
const RH_NULL: u32 = 0x4000_0007;
const RH_OWNER: u32 = 0x4000_0001;
const RH_ENDORSEMENT: u32 = 0x4000_000b;
const ALG_NULL: u16 = 0x0010;
const ALG_SHA256: u16 = 0x000b;
const ALG_ECDSA: u16 = 0x0018;
const ST_HASHCHECK: u16 = 0x8024;
const SE_POLICY: u8 = 1;
/// TPM_RC_RETRY, TPM_RC_TESTING and TPM_RC_YIELDED: the same command succeeds later.
const RETRY: [u32; 3] = [0x922, 0x90a, 0x908];
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);
/// TPMA_NV bits (Part 2, 13.4).
const NV_OWNERREAD: u32 = 1 << 17;
const NV_AUTHREAD: u32 = 1 << 18;
/// A chunk that every TPM reads at once; TPM_PT_NV_BUFFER_MAX is at least as large.
const NV_CHUNK: u16 = 512;
/// Certificates are the largest thing that is read.
const NV_MAX: u16 = 16 * 1024;

/// A command's name for messages, and its TPM_CC.
type Command = (&'static str, u32);
const NV_READ: Command = ("TPM2_NV_Read", 0x14e);
const CREATE_PRIMARY: Command = ("TPM2_CreatePrimary", 0x131);
const ACTIVATE_CREDENTIAL: Command = ("TPM2_ActivateCredential", 0x147);
const CERTIFY: Command = ("TPM2_Certify", 0x148);
const POLICY_SECRET: Command = ("TPM2_PolicySecret", 0x151);
const SIGN: Command = ("TPM2_Sign", 0x15d);
const FLUSH_CONTEXT: Command = ("TPM2_FlushContext", 0x165);
const NV_READ_PUBLIC: Command = ("TPM2_NV_ReadPublic", 0x169);
const READ_PUBLIC: Command = ("TPM2_ReadPublic", 0x173);
const START_AUTH_SESSION: Command = ("TPM2_StartAuthSession", 0x176);

/// TPM_RC_HANDLE for handle 1: nothing is there.
const RC_HANDLE_1: u32 = 0x18b;

/// A TPM object, session or hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(pub u32);

/// The hierarchy that a primary key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// The owner's: gone after TPM2_Clear.
    Owner,
    /// The endorsement hierarchy: the same keys until the manufacturer's seed changes.
    Endorsement,
}

/// How the use of a key is authorised.
#[derive(Clone, Copy, Debug)]
enum Auth {
    EmptyPassword,
    /// Ends with the command.
    Session(Handle),
}

/// What TPM2_Certify gives.
#[derive(Clone, Debug)]
pub struct Certified {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
}

/// A TPM to talk to.
pub struct Tpm(Transport);

impl Tpm {
    /// Opens the TPM.
    ///
    /// # Errors
    /// [`TpmError::Io`].
    pub fn open(address: &TpmAddress) -> Result<Self, TpmError> {
        Transport::open(address).map(Self)
    }

    /// Makes the primary key of a template (TPMT_PUBLIC), lets `f` use it with its TPMT_PUBLIC, and flushes it.
    ///
    /// # Errors
    /// Those of the TPM and of `f`.
    pub fn with_primary<T>(
        &mut self,
        hierarchy: Hierarchy,
        template: &[u8],
        f: impl FnOnce(&mut Self, Handle, &[u8]) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let hierarchy = match hierarchy {
            Hierarchy::Owner => RH_OWNER,
            Hierarchy::Endorsement => RH_ENDORSEMENT,
        };
        // inSensitive with empty userAuth and data, inPublic, no outsideInfo, no PCRs.
        let parameters = Writer::new().sized(&[0; 4]).sized(template).sized(&[]).u32(0).finish();
        let (handle, answer) =
            self.authorised(CREATE_PRIMARY, &[Handle(hierarchy)], &[Auth::EmptyPassword], &parameters, true)?;
        let result = match Reader::new(&answer).sized() {
            Ok(public) => f(self, handle, public),
            Err(error) => Err(error.into()),
        };
        self.flushed(handle, result)
    }

    /// The TPMT_PUBLIC of a loaded or persistent object; `None` when there is none.
    ///
    /// # Errors
    /// Those of the TPM.
    pub fn read_public(&mut self, handle: Handle) -> Result<Option<Vec<u8>>, TpmError> {
        let Some(answer) = absent(self.plain(READ_PUBLIC, &Writer::new().u32(handle.0).finish()))? else {
            return Ok(None);
        };
        Ok(Some(Reader::new(&answer).sized()?.to_vec()))
    }

    /// The contents of an NV index; `None` when it is not defined.
    ///
    /// # Errors
    /// Those of the TPM; [`TpmError::Answer`] for more than 16 KiB.
    pub fn nv_read(&mut self, index: u32) -> Result<Option<Vec<u8>>, TpmError> {
        let Some(answer) = absent(self.plain(NV_READ_PUBLIC, &Writer::new().u32(index).finish()))? else {
            return Ok(None);
        };
        // TPMS_NV_PUBLIC: index, nameAlg, attributes, policy, size.
        let mut public = Reader::new(Reader::new(&answer).sized()?);
        public.u32()?;
        public.u16()?;
        let attributes = public.u32()?;
        public.sized()?;
        let size = public.u16()?;
        if size > NV_MAX {
            return Err(TpmError::Answer("an NV index is larger than 16 KiB"));
        }
        let by_owner = attributes & NV_AUTHREAD == 0 && attributes & NV_OWNERREAD != 0;
        let handles = [Handle(if by_owner { RH_OWNER } else { index }), Handle(index)];
        let mut contents = Vec::with_capacity(usize::from(size));
        let mut offset = 0;
        while offset < size {
            let length = NV_CHUNK.min(size - offset);
            let parameters = Writer::new().u16(length).u16(offset).finish();
            let (_, answer) = self.authorised(NV_READ, &handles, &[Auth::EmptyPassword], &parameters, false)?;
            let chunk = Reader::new(&answer).sized()?.to_vec();
            if chunk.len() != usize::from(length) {
                return Err(TpmError::Answer("TPM2_NV_Read gave another length than asked for"));
            }
            contents.extend(chunk);
            offset += length;
        }
        Ok(Some(contents))
    }

    /// Opens a credential: `ek` decrypts, and `ak` must be the object that it was made for. `policy` says that `ek`
    /// is used with TPM2_PolicySecret(TPM_RH_ENDORSEMENT) rather than with its empty password.
    ///
    /// # Errors
    /// Those of the TPM.
    pub fn activate_credential(
        &mut self,
        ak: Handle,
        ek: Handle,
        policy: bool,
        id_object: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let session = if policy { Some(self.endorsement_session()?) } else { None };
        let auth = session.map_or(Auth::EmptyPassword, Auth::Session);
        let parameters = Writer::new().sized(id_object).sized(encrypted_secret).finish();
        let result = self.authorised(ACTIVATE_CREDENTIAL, &[ak, ek], &[Auth::EmptyPassword, auth], &parameters, false);
        match (result, session) {
            (Ok((_, answer)), _) => {
                let answer = Zeroizing::new(answer);
                Ok(Zeroizing::new(Reader::new(&answer).sized()?.to_vec()))
            }
            // A session ends with a command that succeeds, and only then.
            (Err(error), Some(session)) => self.flushed(session, Err(error)),
            (Err(error), None) => Err(error),
        }
    }

    /// Has `signer` state that `object` is loaded in this TPM, with `qualifying` in the statement.
    ///
    /// # Errors
    /// Those of the TPM.
    pub fn certify(&mut self, object: Handle, signer: Handle, qualifying: &[u8]) -> Result<Certified, TpmError> {
        // The signer's own scheme.
        let parameters = Writer::new().sized(qualifying).u16(ALG_NULL).finish();
        let auths = [Auth::EmptyPassword, Auth::EmptyPassword];
        let (_, answer) = self.authorised(CERTIFY, &[object, signer], &auths, &parameters, false)?;
        let mut answer = Reader::new(&answer);
        Ok(Certified { attest: answer.sized()?.to_vec(), signature: answer.rest().to_vec() })
    }

    /// Signs a SHA-256 digest with ECDSA; gives the TPMT_SIGNATURE. The key must not be restricted.
    ///
    /// # Errors
    /// Those of the TPM.
    pub fn sign(&mut self, key: Handle, digest: &[u8; 32]) -> Result<Vec<u8>, TpmError> {
        let parameters = Writer::new()
            .sized(digest)
            .u16(ALG_ECDSA)
            .u16(ALG_SHA256)
            // No ticket: the digest was made outside.
            .u16(ST_HASHCHECK)
            .u32(RH_NULL)
            .sized(&[])
            .finish();
        Ok(self.authorised(SIGN, &[key], &[Auth::EmptyPassword], &parameters, false)?.1)
    }

    /// The handles of a range that are in use, at most 64 (TPM2_GetCapability).
    #[cfg(test)]
    pub(super) fn handles(&mut self, first: u32) -> Result<Vec<u32>, TpmError> {
        const CAP_HANDLES: u32 = 1;
        let body = Writer::new().u32(CAP_HANDLES).u32(first).u32(64).finish();
        let answer = self.plain(("TPM2_GetCapability", 0x17a), &body)?;
        let mut answer = Reader::new(&answer);
        answer.u8()?;
        answer.u32()?;
        let count = answer.u32()?;
        let handles: Result<Vec<u32>, _> = (0..count).map(|_| answer.u32()).collect();
        Ok(handles?.into_iter().filter(|handle| handle >> 24 == first >> 24).collect())
    }

    /// A policy session that fulfils PolicyA: TPM2_PolicySecret(TPM_RH_ENDORSEMENT), SHA-256.
    fn endorsement_session(&mut self) -> Result<Handle, TpmError> {
        let mut nonce = [0; 16];
        rand::fill(&mut nonce);
        let parameters = Writer::new()
            .u32(RH_NULL)
            .u32(RH_NULL)
            .sized(&nonce)
            .sized(&[])
            .u8(SE_POLICY)
            .u16(ALG_NULL)
            .u16(ALG_SHA256)
            .finish();
        let answer = self.plain(START_AUTH_SESSION, &parameters)?;
        let session = Handle(Reader::new(&answer).u32()?);
        // No nonce, cpHash or policyRef; no expiration.
        let parameters = Writer::new().sized(&[]).sized(&[]).sized(&[]).u32(0).finish();
        let handles = [Handle(RH_ENDORSEMENT), session];
        match self.authorised(POLICY_SECRET, &handles, &[Auth::EmptyPassword], &parameters, false) {
            Ok(_) => Ok(session),
            Err(error) => self.flushed(session, Err(error)),
        }
    }

    /// Flushes, and gives `result`: an error in it tells more than one of the flush.
    fn flushed<T>(&mut self, handle: Handle, result: Result<T, TpmError>) -> Result<T, TpmError> {
        let flush = self.plain(FLUSH_CONTEXT, &Writer::new().u32(handle.0).finish());
        result.and_then(|value| flush.map(|_| value))
    }

    /// A command without authorisations; `body` holds handles and parameters.
    fn plain(&mut self, command: Command, body: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.run(ST_NO_SESSIONS, command, body)
    }

    /// A command with one authorisation for each of the first handles; gives the handle of the answer, if
    /// `gives_handle`, and its parameters.
    fn authorised(
        &mut self,
        command: Command,
        handles: &[Handle],
        auths: &[Auth],
        parameters: &[u8],
        gives_handle: bool,
    ) -> Result<(Handle, Vec<u8>), TpmError> {
        let area = auths.iter().fold(Writer::new(), |area, auth| {
            let (handle, attributes) = match auth {
                // continueSession has no meaning for a password but must be set (Part 1, 19.4).
                Auth::EmptyPassword => (RS_PW, 1),
                Auth::Session(session) => (session.0, 0),
            };
            area.u32(handle).sized(&[]).u8(attributes).sized(&[])
        });
        let area = area.finish();
        let size = u32::try_from(area.len()).map_err(|_| TpmError::Answer("too many authorisations"))?;
        let body = handles.iter().fold(Writer::new(), |body, handle| body.u32(handle.0));
        let body = body.u32(size).bytes(&area).bytes(parameters).finish();
        let answer = Zeroizing::new(self.run(ST_SESSIONS, command, &body)?);
        let mut answer = Reader::new(&answer);
        let handle = Handle(if gives_handle { answer.u32()? } else { RH_NULL });
        let size = answer.u32()? as usize;
        Ok((handle, answer.take(size)?.to_vec()))
    }

    fn run(&mut self, tag: u16, (name, code): Command, body: &[u8]) -> Result<Vec<u8>, TpmError> {
        let size = u32::try_from(HEADER + body.len()).map_err(|_| TpmError::Answer("the command is too long"))?;
        let command = Writer::new().u16(tag).u32(size).u32(code).bytes(body).finish();
        for attempt in 1.. {
            let answer = Zeroizing::new(self.0.exchange(&command)?);
            let mut reader = Reader::new(&answer);
            reader.u16()?;
            reader.u32()?;
            match reader.u32()? {
                0 => return Ok(reader.rest().to_vec()),
                code if RETRY.contains(&code) && attempt < ATTEMPTS => thread::sleep(PAUSE),
                code => return Err(TpmError::Refused { command: name, code }),
            }
        }
        Err(TpmError::Answer("the TPM is busy for ever"))
    }
}

/// Turns "there is nothing at this handle" into `None`.
fn absent<T>(result: Result<T, TpmError>) -> Result<Option<T>, TpmError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(TpmError::Refused { code: RC_HANDLE_1, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
