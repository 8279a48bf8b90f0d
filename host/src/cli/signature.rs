//! The signature that goes with a component: the .sig file of `ssh-keygen -Y
//! sign`, sent as it is. Whether it is good is for the host to say.

use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderName, HeaderValue};

use super::CliError;
use crate::http::signed::SIGNATURE;
use crate::trust::signature::MAX_SIGNATURE_BYTES;

/// The header with the signature in this file, or in the one that stands beside
/// the component, if there is one.
pub(super) fn header(
    given: Option<&Path>,
    component: &Path,
) -> Result<Option<(HeaderName, HeaderValue)>, CliError> {
    let beside = PathBuf::from({
        let mut name = component.as_os_str().to_owned();
        name.push(".sig");
        name
    });
    let file = given.unwrap_or(&beside);
    let failed = |why: String| {
        CliError::Failed(format!(
            "signature {}: {why}; name the .sig file that `ssh-keygen -Y sign` wrote",
            file.display()
        ))
    };
    let opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if given.is_none() && error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    let mut signature = Vec::new();
    opened
        .take(MAX_SIGNATURE_BYTES as u64 + 1)
        .read_to_end(&mut signature)
        .map_err(|error| failed(error.to_string()))?;
    if signature.len() > MAX_SIGNATURE_BYTES {
        return Err(failed(format!("more than {MAX_SIGNATURE_BYTES} bytes")));
    }
    let value = HeaderValue::try_from(BASE64.encode(signature))
        .map_err(|error| failed(error.to_string()))?;
    Ok(Some((SIGNATURE, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_beside_the_component_is_sent_unless_another_is_named() {
        let folder = tempfile::TempDir::new().unwrap();
        let component = folder.path().join("get.wasm");
        let sent = |given| {
            let header = header(given, &component).unwrap();
            header.map(|(_, value)| BASE64.decode(value).unwrap())
        };
        assert_eq!(sent(None), None);
        std::fs::write(folder.path().join("get.wasm.sig"), "beside").unwrap();
        assert_eq!(sent(None).unwrap(), b"beside");
        let other = folder.path().join("other");
        assert!(header(Some(&other), &component).is_err());
        std::fs::write(&other, "other").unwrap();
        assert_eq!(sent(Some(&other)).unwrap(), b"other");
        std::fs::write(&other, vec![0; MAX_SIGNATURE_BYTES + 1]).unwrap();
        let error = header(Some(&other), &component).unwrap_err().to_string();
        assert!(error.contains("more than 3072 bytes"), "{error}");
    }
}
