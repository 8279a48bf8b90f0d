//! The signature that comes with a deployment, in a header of its own:
//! `Tidepool-Signature`, the .sig file of `ssh-keygen -Y sign` in base64. It
//! reads the header and has it judged; whose keys are good is said in `trust`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::HeaderMap;

use super::respond::{Kind, Problem};
use crate::trust::signature::{SignatureError, Signer, TrustedKeys};

/// The header; its value has at most 4 KiB.
pub(crate) const SIGNATURE: http::HeaderName = http::HeaderName::from_static("tidepool-signature");
const MAX_HEADER_BYTES: usize = 4 * 1024;

/// The signature of a deployment, before its component is read: one that is
/// missing is refused without reading the component.
pub(super) fn of(
    headers: &HeaderMap,
    trusted: &TrustedKeys,
) -> Result<Option<Vec<u8>>, SignatureError> {
    let malformed = |why: &str| SignatureError::Malformed(why.to_owned());
    let mut values = headers.get_all(SIGNATURE).iter();
    match (values.next(), values.next()) {
        (None, _) if trusted.required() => Err(SignatureError::Missing),
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(malformed("the header Tidepool-Signature is there twice")),
        (Some(value), None) if value.len() > MAX_HEADER_BYTES => Err(malformed(
            "the header Tidepool-Signature has more than 4 KiB",
        )),
        (Some(value), None) => match BASE64.decode(value.as_bytes()) {
            Ok(signature) => Ok(Some(signature)),
            Err(_) => Err(malformed("the header Tidepool-Signature is not base64")),
        },
    }
}

/// Who signed a component, away from the threads that serve.
pub(super) async fn verify(
    trusted: &Arc<TrustedKeys>,
    component: Bytes,
    signature: Option<Vec<u8>>,
) -> Result<Option<Signer>, Problem> {
    let trusted = Arc::clone(trusted);
    let judged =
        tokio::task::spawn_blocking(move || trusted.verify(&component, signature.as_deref()));
    match judged.await {
        Ok(judged) => Ok(judged?),
        Err(error) => {
            tracing::error!(%error, "a signature could not be judged");
            let detail = "the signature could not be judged; nothing has changed, try again";
            Err(Problem::new(Kind::Internal, detail))
        }
    }
}

impl From<SignatureError> for Problem {
    fn from(error: SignatureError) -> Problem {
        Problem::new(Kind::Forbidden, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Trust;

    fn trusted(require_signature: bool) -> TrustedKeys {
        let settings = Trust {
            require_signature,
            ..Trust::default()
        };
        TrustedKeys::open(&settings).unwrap()
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let values = values.iter().map(|value| value.parse().unwrap());
        values.map(|value| (SIGNATURE, value)).collect()
    }

    #[test]
    fn a_signature_is_one_header_of_base64_with_a_bound() {
        let of = |values: &[&str]| of(&headers(values), &trusted(false));
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&["aGk="]).unwrap(), Some(b"hi".to_vec()));
        let long = "AAAA".repeat(1025);
        for wrong in [&["a GK"][..], &["aGk=", "aGk="], &[&long]] {
            let error = of(wrong).unwrap_err();
            assert!(matches!(error, SignatureError::Malformed(_)), "{error}");
        }
    }

    #[test]
    fn a_missing_one_is_refused_where_one_is_required() {
        let error = of(&HeaderMap::new(), &trusted(true)).unwrap_err();
        let problem = Problem::from(error);
        assert_eq!(problem.status(), http::StatusCode::FORBIDDEN);
        assert!(problem.detail().contains("ssh-keygen -Y sign"));
    }
}
