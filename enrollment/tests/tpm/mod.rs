//! A TPM in software, started from a copy of a manufactured state, and the few commands that a device needs.

use enrollment::tpm2::{Reader, Writer};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub const OWNER: u32 = 0x4000_0001;
pub const ENDORSEMENT: u32 = 0x4000_000b;
const NULL: u32 = 0x4000_0007;
const PASSWORD: u32 = 0x4000_0009;
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// TPM_RC_RETRY, TPM_RC_TESTING and TPM_RC_YIELDED: to be sent again.
const AGAIN: [u32; 3] = [0x922, 0x90a, 0x908];

/// The process; it ends when the value is dropped.
pub struct Swtpm {
    process: Child,
    folder: tempfile::TempDir,
}

impl Swtpm {
    /// `None`, with a message, where swtpm is not installed.
    pub fn start() -> Option<Self> {
        if Command::new("swtpm").arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: swtpm is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let state = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/pristine-tpm-state.tgz");
        let unpacked = Command::new("tar").arg("xzf").arg(state).arg("-C").arg(folder.path()).status().unwrap();
        assert!(unpacked.success());
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
            .arg(format!("dir={}", folder.path().join("state").display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", folder.path().join("tpm").display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { process, folder })
    }

    pub fn connect(&self) -> Tpm {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(stream) = UnixStream::connect(self.folder.path().join("tpm")) {
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                return Tpm(stream);
            }
            assert!(Instant::now() < deadline, "swtpm does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Clone, Copy)]
pub enum Authorisation {
    Password,
    Policy(u32),
}

/// A connection to the TPM. Errors are its response codes.
pub struct Tpm(UnixStream);

impl Tpm {
    fn transmit(&mut self, tag: u16, code: u32, body: &[u8]) -> Result<Vec<u8>, u32> {
        let size = u32::try_from(10 + body.len()).unwrap();
        let command = Writer::new().u16(tag).u32(size).u32(code).bytes(body).finish();
        loop {
            self.0.write_all(&command).unwrap();
            let mut header = [0; 10];
            self.0.read_exact(&mut header).unwrap();
            let mut r = Reader::new(&header);
            let (_, size, response) = (r.u16().unwrap(), r.u32().unwrap(), r.u32().unwrap());
            let mut body = vec![0; size as usize - 10];
            self.0.read_exact(&mut body).unwrap();
            match response {
                0 => return Ok(body),
                again if AGAIN.contains(&again) => std::thread::sleep(Duration::from_millis(5)),
                other => return Err(other),
            }
        }
    }

    fn authorised(
        &mut self,
        code: u32,
        handles: &[u32],
        auths: &[Authorisation],
        parameters: &[u8],
    ) -> Result<Vec<u8>, u32> {
        let area = auths.iter().fold(Writer::new(), |w, auth| {
            let (session, attributes) = match auth {
                Authorisation::Password => (PASSWORD, 1),
                Authorisation::Policy(session) => (*session, 0),
            };
            w.u32(session).sized(&[]).u8(attributes).sized(&[])
        });
        let area = area.finish();
        let body = handles.iter().fold(Writer::new(), |w, h| w.u32(*h));
        let body = body.u32(u32::try_from(area.len()).unwrap()).bytes(&area).bytes(parameters).finish();
        self.transmit(SESSIONS, code, &body)
    }

    fn parameters(response: &[u8]) -> Vec<u8> {
        let mut r = Reader::new(response);
        let size = r.u32().unwrap();
        r.take(size as usize).unwrap().to_vec()
    }

    fn sized(bytes: &[u8]) -> Vec<u8> {
        Reader::new(bytes).sized().unwrap().to_vec()
    }

    /// Handle and TPMT_PUBLIC.
    pub fn create_primary(&mut self, hierarchy: u32, template: &[u8]) -> Result<(u32, Vec<u8>), u32> {
        let parameters = Writer::new().sized(&[0; 4]).sized(template).sized(&[]).u32(0).finish();
        let response = self.authorised(0x131, &[hierarchy], &[Authorisation::Password], &parameters)?;
        let mut r = Reader::new(&response);
        let handle = r.u32().unwrap();
        Ok((handle, Self::sized(&Self::parameters(r.rest()))))
    }

    pub fn read_public(&mut self, handle: u32) -> Result<Vec<u8>, u32> {
        Ok(Self::sized(&self.transmit(NO_SESSIONS, 0x173, &handle.to_be_bytes())?))
    }

    pub fn flush(&mut self, handle: u32) {
        self.transmit(NO_SESSIONS, 0x165, &handle.to_be_bytes()).unwrap();
    }

    pub fn nv_read(&mut self, index: u32) -> Result<Vec<u8>, u32> {
        let public = Self::sized(&self.transmit(NO_SESSIONS, 0x169, &index.to_be_bytes())?);
        let size = u16::from_be_bytes(*public.last_chunk().unwrap());
        let mut out = Vec::new();
        while out.len() < usize::from(size) {
            let offset = u16::try_from(out.len()).unwrap();
            let parameters = Writer::new().u16((size - offset).min(512)).u16(offset).finish();
            let response = self.authorised(0x14e, &[index, index], &[Authorisation::Password], &parameters)?;
            out.extend(Self::sized(&Self::parameters(&response)));
        }
        Ok(out)
    }

    /// A session with TPM2_PolicySecret(TPM_RH_ENDORSEMENT); used up by the command that it authorises.
    pub fn endorsement_policy(&mut self) -> Result<u32, u32> {
        // A policy session without encryption, SHA-256.
        let start = Writer::new().u32(NULL).u32(NULL).sized(&[7; 16]).sized(&[]).u8(1).u16(0x10).u16(0x0b).finish();
        let response = self.transmit(NO_SESSIONS, 0x176, &start)?;
        let session = Reader::new(&response).u32().unwrap();
        let parameters = Writer::new().sized(&[]).sized(&[]).sized(&[]).u32(0).finish();
        self.authorised(0x151, &[ENDORSEMENT, session], &[Authorisation::Password], &parameters)?;
        Ok(session)
    }

    pub fn activate_credential(
        &mut self,
        ak: u32,
        ek: u32,
        ek_auth: Authorisation,
        id_object: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Vec<u8>, u32> {
        let parameters = Writer::new().sized(id_object).sized(encrypted_secret).finish();
        let auths = [Authorisation::Password, ek_auth];
        Ok(Self::sized(&Self::parameters(&self.authorised(0x147, &[ak, ek], &auths, &parameters)?)))
    }

    /// TPMS_ATTEST and TPMT_SIGNATURE.
    pub fn certify(&mut self, object: u32, signer: u32, qualifying: &[u8]) -> Result<(Vec<u8>, Vec<u8>), u32> {
        let parameters = Writer::new().sized(qualifying).u16(0x10).finish();
        let auths = [Authorisation::Password; 2];
        let response = Self::parameters(&self.authorised(0x148, &[object, signer], &auths, &parameters)?);
        let mut r = Reader::new(&response);
        let attest = r.sized().unwrap().to_vec();
        Ok((attest, r.rest().to_vec()))
    }

    /// TPMT_SIGNATURE with ECDSA and SHA-256 over a digest made outside the TPM.
    pub fn sign(&mut self, key: u32, digest: &[u8]) -> Result<Vec<u8>, u32> {
        // The ticket is the null ticket of TPM_ST_HASHCHECK: the key is not restricted.
        let ticket = Writer::new().u16(0x8024).u32(NULL).sized(&[]).finish();
        let parameters = Writer::new().sized(digest).u16(0x18).u16(0x0b).bytes(&ticket).finish();
        Ok(Self::parameters(&self.authorised(0x15d, &[key], &[Authorisation::Password], &parameters)?))
    }
}
