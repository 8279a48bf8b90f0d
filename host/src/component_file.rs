//! A component's file, read by whoever deploys or checks it: a regular file only, and
//! never more of it than may be used. Anything else may have no end, or wait for one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system does not give it.
    #[error("cannot be read ({0}); name a component (.wasm)")]
    Unreadable(#[from] io::Error),
    /// A folder, a device, a pipe.
    #[error("is no regular file; name a component (.wasm)")]
    NoFile,
    /// More than may be used.
    #[error("has {size} bytes, and at most {most} are allowed (handlers.max_component_bytes)")]
    TooLarge {
        /// Its length.
        size: u64,
        /// The bound.
        most: usize,
    },
}

/// Reads a component of at most `most` bytes.
///
/// # Errors
///
/// See [`FileError`].
pub fn read(path: &Path, most: usize) -> Result<Vec<u8>, FileError> {
    // To open a pipe that nobody writes to must not wait for somebody.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    read_open(file, most)
}

fn read_open(file: File, most: usize) -> Result<Vec<u8>, FileError> {
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(FileError::NoFile);
    }
    let bound = most as u64;
    let too_large = |size| FileError::TooLarge { size, most };
    if about.len() > bound {
        return Err(too_large(about.len()));
    }
    let mut bytes = Vec::new();
    // It may be growing: one byte more tells.
    file.take(bound.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        size if size > bound => Err(too_large(size)),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_within_the_bound_is_read() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("get.wasm");
        assert!(matches!(read(&path, 3), Err(FileError::Unreadable(_))));
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"abc");
        let too_large = read(&path, 2).unwrap_err();
        assert!(matches!(
            too_large,
            FileError::TooLarge { size: 3, most: 2 }
        ));
        for endless in [folder.path(), Path::new("/dev/zero")] {
            assert!(matches!(read(endless, 3), Err(FileError::NoFile)));
        }
    }
}
