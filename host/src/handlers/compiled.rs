//! Compiled components on disk, so that a restart or a rollback compiles
//! nothing. What is read will be run, so each file ends with a proof
//! (HMAC-SHA256) by a key of this folder that it is what this host has written
//! for this component and this engine. One without it is not used.
//!
//! Nothing depends on it: whatever goes wrong here costs a compilation and is
//! logged.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::hash::{Hash as _, Hasher};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;

use crate::deployments::Digest;

/// The folder, in the data folder.
const FOLDER: &str = "compiled";

/// The key, in the folder.
const KEY: &str = "key";

/// What the names of compiled components end with.
const EXTENSION: &str = "cwasm";

/// Bytes of the key, and of a proof.
const PROOF: usize = 32;

/// Sets these proofs apart from any other that a key might be used for.
const PURPOSE: &[u8] = b"tidepool compiled component 1\0";

/// See the head of this file.
pub struct CompiledCache {
    folder: PathBuf,
    key: [u8; PROOF],
    /// The version of the engine and all of its configuration.
    engine: [u8; 32],
    max_bytes: u64,
    /// Bytes in the folder, or more. Held while it changes.
    used: Mutex<u64>,
}

/// A compiled component in the folder.
struct Entry {
    path: PathBuf,
    bytes: u64,
    used_at: SystemTime,
}

impl CompiledCache {
    /// Opens the folder in `data` for what `engine` loads, with at most
    /// `max_bytes` (`handlers.compiled_cache_bytes`). `None` when it cannot be
    /// used, which is logged, or is not wanted.
    pub fn open(data: &Path, engine: &Engine, max_bytes: usize) -> Option<CompiledCache> {
        if max_bytes == 0 {
            return None;
        }
        let folder = data.join(FOLDER);
        let cache = CompiledCache::prepare(folder.clone(), engine, max_bytes as u64);
        cache
            .inspect_err(|error| {
                tracing::warn!(
                    folder = %folder.display(), %error,
                    "compiled components cannot be kept; each start will compile what is deployed"
                );
            })
            .ok()
    }

    fn prepare(folder: PathBuf, engine: &Engine, max_bytes: u64) -> io::Result<CompiledCache> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        if is_open_to_others(&folder.metadata()?) {
            std::fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        }
        let key = key(&folder)?;
        let used = entries(&folder)?.iter().map(|entry| entry.bytes).sum();
        let mut hashed = Hashed(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hashed);
        Ok(CompiledCache {
            folder,
            key,
            engine: hashed.0.finalize().into(),
            max_bytes,
            used: Mutex::new(used),
        })
    }

    /// What a component was compiled to, if that is there and can be trusted.
    pub fn get(&self, digest: Digest) -> Option<Vec<u8>> {
        let path = self.path(digest);
        match self.read(digest, &path) {
            Ok(Some(compiled)) => Some(compiled),
            Ok(None) => {
                tracing::warn!(
                    %digest, file = %path.display(),
                    "a compiled component is damaged, or not from this host; compiling it again"
                );
                None
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(
                    %digest, file = %path.display(), %error,
                    "a compiled component cannot be read; compiling it again"
                );
                None
            }
        }
    }

    fn read(&self, digest: Digest, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let file = File::open(path)?;
        let mut bytes = Vec::new();
        // No more than may be there, whatever is.
        (&file).take(self.max_bytes).read_to_end(&mut bytes)?;
        let Some((compiled, proof)) = bytes.split_last_chunk::<PROOF>() else {
            return Ok(None);
        };
        let Some(mac) = self.mac(digest, compiled) else {
            return Ok(None);
        };
        if mac.verify_slice(proof).is_err() {
            return Ok(None);
        }
        // What is used is kept. If that cannot be noted, so be it.
        let _ = file.set_modified(SystemTime::now());
        bytes.truncate(bytes.len() - PROOF);
        Ok(Some(bytes))
    }

    /// Keeps what a component was compiled to, in place of what there was.
    pub fn put(&self, digest: Digest, compiled: &[u8]) {
        if let Err(error) = self.write(digest, compiled) {
            tracing::warn!(
                %digest, folder = %self.folder.display(), %error,
                "a compiled component cannot be kept; the next start will compile it again"
            );
        }
    }

    fn write(&self, digest: Digest, compiled: &[u8]) -> io::Result<()> {
        let bytes = (compiled.len() + PROOF) as u64;
        let Some(mac) = self.mac(digest, compiled) else {
            return Ok(());
        };
        if bytes > self.max_bytes {
            return Ok(());
        }
        let mut used = self.used.lock();
        if *used + bytes > self.max_bytes {
            *used = self.make_room(bytes)?;
        }
        let proof = mac.finalize().into_bytes();
        replace(&self.path(digest), &[compiled, &proof], false)?;
        *used += bytes;
        Ok(())
    }

    /// Removes what has not been used for the longest time, until there is room
    /// for `bytes`. Answers what is left.
    fn make_room(&self, bytes: u64) -> io::Result<u64> {
        let mut entries = entries(&self.folder)?;
        entries.sort_by_key(|entry| entry.used_at);
        let mut used: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if used + bytes <= self.max_bytes {
                break;
            }
            std::fs::remove_file(&entry.path)?;
            used -= entry.bytes;
        }
        Ok(used)
    }

    /// One file for each component and engine: two versions of the host take
    /// turns without compiling.
    fn path(&self, digest: Digest) -> PathBuf {
        let [component, engine] = [&digest.as_bytes()[..], &self.engine]
            .map(|bytes| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>());
        self.folder
            .join(format!("{component}-{engine:.16}.{EXTENSION}"))
    }

    /// The proof for a component, its compiled code and this engine.
    fn mac(&self, digest: Digest, compiled: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        for part in [PURPOSE, digest.as_bytes(), &self.engine, compiled] {
            mac.update(part);
        }
        Some(mac)
    }
}

/// The compiled components in the folder.
fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for file in folder.read_dir()? {
        let path = file?.path();
        if path.extension().is_some_and(|it| it == EXTENSION) {
            let about = path.symlink_metadata()?;
            entries.push(Entry {
                bytes: about.len(),
                used_at: about.modified()?,
                path,
            });
        }
    }
    Ok(entries)
}

/// The key of the folder: the one that is there, or a new one when it is not
/// one or others could have read it. What was kept under another is not
/// trusted any more.
fn key(folder: &Path) -> io::Result<[u8; PROOF]> {
    let path = folder.join(KEY);
    match File::open(&path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            (&file).take(PROOF as u64 + 1).read_to_end(&mut bytes)?;
            match <[u8; PROOF]>::try_from(bytes) {
                Ok(key) if !is_open_to_others(&file.metadata()?) => return Ok(key),
                _ => tracing::warn!(
                    key = %path.display(),
                    "the key of the compiled components is damaged, or others can read it; making a new one and compiling again"
                ),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let key: [u8; PROOF] = rand::random();
    // A key that a power failure has emptied would be one that everybody knows.
    replace(&path, &[&key], true)?;
    Ok(key)
}

fn is_open_to_others(about: &std::fs::Metadata) -> bool {
    about.permissions().mode() & 0o077 != 0
}

/// Puts a file in place in one step, whole or not at all, readable by its owner
/// only. One at a time in a folder. Without `sync` a power failure may leave it
/// damaged.
fn replace(path: &Path, parts: &[&[u8]], sync: bool) -> io::Result<()> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        if sync {
            file.sync_all()?;
        }
        std::fs::rename(&new, path)
    };
    // Left by a process that was killed.
    let _ = std::fs::remove_file(&new);
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&new);
    })
}

/// A hash of whatever is hashed that stays the same from one start to the next.
struct Hashed(Sha256);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Not what it is used for: all 32 bytes are taken.
    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
#[path = "compiled_tests.rs"]
mod tests;
