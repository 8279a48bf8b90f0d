//! Whose components are taken: detached signatures as `ssh-keygen -Y sign` makes
//! them (OpenSSH's PROTOCOL.sshsig), with ed25519 keys that the settings trust.
//!
//! ```sh
//! ssh-keygen -Y sign -f ~/.ssh/id_ed25519 -n tidepool component.wasm
//! ```
//!
//! It reads the file of keys and nothing else. A signature is good or it is an
//! error with a name; nothing in between must be let through.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ssh_key::public::KeyData;
use ssh_key::{Algorithm, Error, HashAlg, PublicKey, SshSig};

use crate::config::Trust;

/// What a signature must be for. Signatures of the same key for other things,
/// such as commits or logins, say something else there.
pub const NAMESPACE: &str = "tidepool";

/// Longest signature, in bytes: one has about 300.
pub const MAX_SIGNATURE_BYTES: usize = 3 * 1024;

/// Largest file of keys, in bytes.
const MAX_KEYS_BYTES: u64 = 256 * 1024;

/// Who signed a component.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signer {
    /// Of the key, as `ssh-keygen -l` shows it: `SHA256:...`.
    pub fingerprint: String,
    /// What stands behind the key where it is trusted.
    pub comment: String,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint)?;
        if !self.comment.is_empty() {
            write!(f, " ({})", self.comment)?;
        }
        Ok(())
    }
}

/// Why a component is refused.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// There is none, and one is required.
    #[error(
        "this host takes only signed components (trust.require_signature); sign it with `ssh-keygen -Y sign -f KEY -n {NAMESPACE} component.wasm`, and deploy again"
    )]
    Missing,
    /// It cannot be read.
    #[error(
        "the signature cannot be read: {0}; send the .sig file that `ssh-keygen -Y sign` wrote"
    )]
    Malformed(String),
    /// Of a key of another kind.
    #[error(
        "the signature is by a key of the kind {algorithm}; sign with an ed25519 key, which `ssh-keygen -t ed25519` makes"
    )]
    NotEd25519 {
        /// The kind.
        algorithm: String,
    },
    /// Made for something else.
    #[error(
        "the signature was made for `{namespace}`; sign with `ssh-keygen -Y sign -n {NAMESPACE}`"
    )]
    WrongNamespace {
        /// For what.
        namespace: String,
    },
    /// By a key that nobody trusts.
    #[error(
        "the signature is by the key {fingerprint}, which is not trusted here; sign with another key, or add this one to trust.keys or the file trust.keys_file"
    )]
    UnknownKey {
        /// Of the key.
        fingerprint: String,
    },
    /// For other bytes, or made up.
    #[error(
        "the signature by {signer} is not for these bytes; sign the component again after it was built, and deploy both"
    )]
    OtherBytes {
        /// Whose it says it is.
        signer: Signer,
    },
    /// The trusted keys cannot be read, so nobody is trusted.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// Why there are no trusted keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A line that is no key.
    #[error(
        "{place}: {why}; write a line `ssh-ed25519 AAAA... comment`, as in the .pub file of the key"
    )]
    Line {
        /// Where it stands.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// The file cannot be read.
    #[error("trust.keys_file = {}: {source}; name a file of lines `ssh-ed25519 AAAA... comment`", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("trust.keys_file = {}: more than {MAX_KEYS_BYTES} bytes; is it the right file?", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
}

/// The keys that are trusted, and whether a signature is required.
#[derive(Debug)]
pub struct TrustedKeys {
    listed: Vec<PublicKey>,
    file: Option<PathBuf>,
    required: bool,
}

impl TrustedKeys {
    /// Those of the settings. The file is read now, to refuse a bad one, and
    /// again for every signature: who is taken out of it is trusted no more.
    ///
    /// # Errors
    ///
    /// See [`KeysError`].
    pub fn open(settings: &Trust) -> Result<TrustedKeys, KeysError> {
        let listed = settings.keys.iter().enumerate();
        let listed = listed.map(|(n, line)| key(line, || format!("trust.keys, key {}", n + 1)));
        let trusted = TrustedKeys {
            listed: listed.collect::<Result<_, _>>()?,
            file: settings.keys_file.clone(),
            required: settings.require_signature,
        };
        trusted.in_file()?;
        Ok(trusted)
    }

    /// Whether a component without a signature is refused.
    pub fn required(&self) -> bool {
        self.required
    }

    /// Who signed a component; nobody, when it has no signature and needs none.
    /// A host that trusts no key at all does not look at signatures. It reads a
    /// file and hashes the component: not for a thread that serves.
    ///
    /// # Errors
    ///
    /// See [`SignatureError`].
    pub fn verify(
        &self,
        component: &[u8],
        signature: Option<&[u8]>,
    ) -> Result<Option<Signer>, SignatureError> {
        if !self.required && self.listed.is_empty() && self.file.is_none() {
            return Ok(None);
        }
        let Some(signature) = signature else {
            return match self.required {
                true => Err(SignatureError::Missing),
                false => Ok(None),
            };
        };
        let signature = parse(signature)?;
        let in_file = self.in_file()?;
        let mut keys = self.listed.iter().chain(&in_file);
        let Some(key) = keys.find(|key| key.key_data() == signature.public_key()) else {
            let fingerprint = signature.public_key().fingerprint(HashAlg::Sha256);
            return Err(SignatureError::UnknownKey {
                fingerprint: fingerprint.to_string(),
            });
        };
        let signer = Signer {
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            comment: key.comment().to_owned(),
        };
        match key.verify(NAMESPACE, component, &signature) {
            Ok(()) => Ok(Some(signer)),
            Err(_) => Err(SignatureError::OtherBytes { signer }),
        }
    }

    fn in_file(&self) -> Result<Vec<PublicKey>, KeysError> {
        let Some(file) = &self.file else {
            return Ok(Vec::new());
        };
        let text = read(file)?;
        let lines = text.lines().enumerate();
        lines
            .map(|(n, line)| (n, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(n, line)| key(line, || format!("{}, line {}", file.display(), n + 1)))
            .collect()
    }
}

fn read(file: &Path) -> Result<String, KeysError> {
    let unreadable = |source| KeysError::Unreadable {
        file: file.to_owned(),
        source,
    };
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_KEYS_BYTES + 1).read_to_string(&mut text))
        .map_err(unreadable)?;
    match text.len() as u64 > MAX_KEYS_BYTES {
        true => Err(KeysError::TooLarge {
            file: file.to_owned(),
        }),
        false => Ok(text),
    }
}

/// The key of a line. One with options before it is refused: they would be
/// restrictions that nobody keeps.
fn key(line: &str, place: impl FnOnce() -> String) -> Result<PublicKey, KeysError> {
    let why = match PublicKey::from_openssh(line) {
        Ok(key) if matches!(key.key_data(), KeyData::Ed25519(_)) => return Ok(key),
        Ok(key) => format!("a key of the kind {}", key.algorithm()),
        Err(error) => format!("not a public key ({error})"),
    };
    Err(KeysError::Line {
        place: place(),
        why,
    })
}

/// A signature that may be good: by an ed25519 key, for us.
fn parse(bytes: &[u8]) -> Result<SshSig, SignatureError> {
    if bytes.len() > MAX_SIGNATURE_BYTES {
        let why = format!("it has more than {MAX_SIGNATURE_BYTES} bytes");
        return Err(SignatureError::Malformed(why));
    }
    let signature = match SshSig::from_pem(bytes) {
        Ok(signature) => signature,
        Err(Error::AlgorithmUnknown | Error::AlgorithmUnsupported { .. }) => {
            return Err(SignatureError::NotEd25519 {
                algorithm: "unknown".to_owned(),
            });
        }
        Err(error) => return Err(SignatureError::Malformed(error.to_string())),
    };
    for algorithm in [
        signature.public_key().algorithm(),
        signature.signature().algorithm(),
    ] {
        if algorithm != Algorithm::Ed25519 {
            return Err(SignatureError::NotEd25519 {
                algorithm: algorithm.to_string(),
            });
        }
    }
    if signature.namespace() != NAMESPACE {
        // What comes from outside is not repeated without end.
        let namespace = signature.namespace().chars().take(64);
        return Err(SignatureError::WrongNamespace {
            namespace: namespace.filter(|c| !c.is_control()).collect(),
        });
    }
    Ok(signature)
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
