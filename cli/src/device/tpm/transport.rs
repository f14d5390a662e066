//! The way to the TPM: one command, one answer.

use super::TpmError;
use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Read, Write},
    net::TcpStream,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

/// Making an RSA key takes a slow TPM tens of seconds.
const TIMEOUT: Duration = Duration::from_secs(120);
/// No TPM speaks longer answers (TPM_PT_MAX_RESPONSE_SIZE).
const MAX_ANSWER: usize = 4096;
/// Tag, size and code (Part 1, 18).
pub const HEADER: usize = 10;

/// Where a TPM is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TpmAddress {
    /// A character device: `/dev/tpmrm0` or `device:/dev/tpmrm0`.
    Device(PathBuf),
    /// The raw command port of swtpm on TCP: `swtpm:host=127.0.0.1,port=2321`.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// The raw command port of swtpm on a UNIX socket: `unix:/run/tpm.sock` or `swtpm:path=/run/tpm.sock`.
    Unix(PathBuf),
}

impl fmt::Display for TpmAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "{}", path.display()),
            Self::Tcp { host, port } => write!(f, "swtpm:host={host},port={port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for TpmAddress {
    type Err = TpmError;

    fn from_str(text: &str) -> Result<Self, TpmError> {
        let bad = || TpmError::Address(text.to_owned());
        let absolute = |path: &str| path.starts_with('/').then(|| PathBuf::from(path)).ok_or_else(bad);
        if let Some(path) = text.strip_prefix("unix:") {
            return absolute(path).map(Self::Unix);
        }
        let Some(options) = text.strip_prefix("swtpm:") else {
            return absolute(text.strip_prefix("device:").unwrap_or(text)).map(Self::Device);
        };
        // The defaults are those of the TSS's own swtpm transport.
        let (mut host, mut port, mut path) = ("localhost", 2321, None);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=').ok_or_else(bad)? {
                ("host", value) if !value.is_empty() => host = value,
                ("port", value) => port = value.parse().map_err(|_| bad())?,
                ("path", value) => path = Some(absolute(value)?),
                _ => return Err(bad()),
            }
        }
        Ok(path.map_or_else(|| Self::Tcp { host: host.to_owned(), port }, Self::Unix))
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// An open connection to a TPM.
pub struct Transport {
    address: TpmAddress,
    stream: Box<dyn Stream>,
}

impl Transport {
    /// Opens the device or socket.
    ///
    /// # Errors
    /// [`TpmError::Io`].
    pub fn open(address: &TpmAddress) -> Result<Self, TpmError> {
        let stream = open(address).map_err(|error| TpmError::Io(address.clone(), error))?;
        Ok(Self { address: address.clone(), stream })
    }

    /// Sends a whole command and reads the whole answer, of at least [`HEADER`] octets.
    ///
    /// # Errors
    /// [`TpmError::Io`], [`TpmError::Answer`].
    pub fn exchange(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        let io = |error| TpmError::Io(self.address.clone(), error);
        // The kernel takes a command in one write and gives its answer in one read.
        self.stream.write_all(command).map_err(io)?;
        self.stream.flush().map_err(io)?;
        let mut answer = vec![0; MAX_ANSWER];
        let mut filled = 0;
        loop {
            let room = answer.get_mut(filled..).filter(|room| !room.is_empty());
            let room = room.ok_or(TpmError::Answer("it is longer than 4096 octets"))?;
            match self.stream.read(room) {
                Ok(0) => return Err(io(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io(error)),
            }
            let Some([_, _, size @ ..]) = answer.first_chunk::<6>().filter(|_| filled >= 6) else { continue };
            let size = u32::from_be_bytes(*size) as usize;
            if size < HEADER || size < filled {
                return Err(TpmError::Answer("its size is wrong"));
            }
            if size == filled {
                answer.truncate(size);
                return Ok(answer);
            }
        }
    }
}

fn open(address: &TpmAddress) -> io::Result<Box<dyn Stream>> {
    Ok(match address {
        TpmAddress::Device(path) => Box::new(OpenOptions::new().read(true).write(true).open(path)?),
        TpmAddress::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            Box::new(stream)
        }
        #[cfg(unix)]
        TpmAddress::Unix(path) => {
            let stream = std::os::unix::net::UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            Box::new(stream)
        }
        #[cfg(not(unix))]
        TpmAddress::Unix(_) => return Err(io::ErrorKind::Unsupported.into()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let tcp = |host: &str, port| TpmAddress::Tcp { host: host.to_owned(), port };
        for (text, address) in [
            ("/dev/tpmrm0", TpmAddress::Device("/dev/tpmrm0".into())),
            ("device:/dev/tpmrm0", TpmAddress::Device("/dev/tpmrm0".into())),
            ("swtpm:host=127.0.0.1,port=22321", tcp("127.0.0.1", 22321)),
            ("swtpm:port=5", tcp("localhost", 5)),
            ("swtpm:", tcp("localhost", 2321)),
            ("swtpm:path=/run/tpm.sock", TpmAddress::Unix("/run/tpm.sock".into())),
            ("unix:/run/tpm.sock", TpmAddress::Unix("/run/tpm.sock".into())),
        ] {
            assert_eq!(text.parse::<TpmAddress>().unwrap(), address, "{text}");
            assert_eq!(address.to_string().parse::<TpmAddress>().unwrap(), address);
        }
        for bad in ["", "tpm", "unix:tpm", "swtpm:port=x", "swtpm:host", "swtpm:what=1", "swtpm:host=", "device:x"] {
            assert!(bad.parse::<TpmAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_may_come_in_pieces_and_must_fit_its_size() {
        struct Pieces(Vec<Vec<u8>>);
        impl Read for Pieces {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0.is_empty() {
                    return Ok(0);
                }
                let piece = self.0.remove(0);
                buffer[..piece.len()].copy_from_slice(&piece);
                Ok(piece.len())
            }
        }
        impl Write for Pieces {
            fn write(&mut self, command: &[u8]) -> io::Result<usize> {
                Ok(command.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let exchange = |pieces: &[&[u8]]| {
            let stream = Box::new(Pieces(pieces.iter().map(|piece| piece.to_vec()).collect()));
            Transport { address: TpmAddress::Device("/dev/null".into()), stream }.exchange(&[1])
        };
        let whole = [0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 7, 8];
        assert_eq!(exchange(&[&whole]).unwrap(), whole);
        assert_eq!(exchange(&[&whole[..3], &whole[3..11], &whole[11..]]).unwrap(), whole);
        assert!(exchange(&[&whole[..11]]).is_err());
        assert!(exchange(&[&[&whole[..], &[0]].concat()]).is_err());
        assert!(exchange(&[&[0x80, 1, 0, 0, 0, 9, 0, 0, 0]]).is_err());
        assert!(exchange(&[&[0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]]).is_err());
    }
}
