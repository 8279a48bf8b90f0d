//! What libpq's `sslmode` means, in terms of rustls:
//!
//! | mode | encrypted | whose certificate | for our host |
//! |---|---|---|---|
//! | `disable` | no | | |
//! | `prefer` | if the server can | anybody's | |
//! | `require` | yes | anybody's; with `sslrootcert` as `verify-ca` | |
//! | `verify-ca` | yes | of an authority in `sslrootcert` | |
//! | `verify-full` | yes | the same; without `sslrootcert`, of the system's | yes |
//!
//! The files are read once, at the start. It must not read any other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// How much of TLS is asked for, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Mode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    pub fn parse(text: &str) -> Option<Mode> {
        Some(match text {
            "disable" => Mode::Disable,
            "prefer" => Mode::Prefer,
            "require" => Mode::Require,
            "verify-ca" => Mode::VerifyCa,
            "verify-full" => Mode::VerifyFull,
            _ => return None,
        })
    }
}

/// What the URL says about TLS.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Tls {
    pub mode: Mode,
    /// Authorities; the word `system` means the system's.
    pub root_cert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Why TLS cannot be set up.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("{parameter}={}: {why}", file.display())]
    File {
        /// The parameter of the URL.
        parameter: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// `verify-ca` without an authority.
    #[error(
        "sslmode=verify-ca needs sslrootcert, the file of your authority: any public authority signs for anybody. Use sslmode=verify-full to trust the system's"
    )]
    NoAuthority,
    /// Half of a client's certificate.
    #[error("sslcert and sslkey go together; give both or neither")]
    HalfACertificate,
    /// The system has none.
    #[error(
        "the system has no certificates of authorities; install ca-certificates, or name a file with sslrootcert"
    )]
    NoSystemRoots,
    /// rustls refuses.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// The client side of TLS for these wishes.
pub(super) fn client_config(tls: &Tls) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let setup = |error: Error| TlsError::Setup(error.to_string());
    let verifier: Arc<dyn ServerCertVerifier> = match checks(tls) {
        Checks::Nothing => Arc::new(AnyCertificate(Arc::clone(&provider))),
        checks => {
            let roots = match &tls.root_cert {
                Some(file) if file.as_os_str() != "system" => roots_of(file)?,
                _ if tls.mode == Mode::VerifyFull => system_roots()?,
                _ => return Err(TlsError::NoAuthority),
            };
            let trusted =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .build()
                    .map_err(|error| TlsError::Setup(error.to_string()))?;
            match checks {
                Checks::AuthorityAndName => trusted,
                _ => Arc::new(AnyName(trusted)),
            }
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&tls.cert, &tls.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates("sslcert", cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
                parameter: "sslkey",
                file: key.clone(),
                why: format!("not a private key in PEM without a passphrase ({error})"),
            })?;
            builder.with_client_auth_cert(chain, key).map_err(setup)?
        }
        _ => return Err(TlsError::HalfACertificate),
    };
    // Asked for by servers that start with TLS at once (sslnegotiation=direct).
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Checks {
    Nothing,
    Authority,
    AuthorityAndName,
}

fn checks(tls: &Tls) -> Checks {
    match tls.mode {
        Mode::Disable | Mode::Prefer => Checks::Nothing,
        // As libpq does it: who names an authority wants it to be checked.
        Mode::Require if tls.root_cert.is_none() => Checks::Nothing,
        Mode::Require | Mode::VerifyCa => Checks::Authority,
        Mode::VerifyFull => Checks::AuthorityAndName,
    }
}

fn certificates(
    parameter: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |why: String| TlsError::File {
        parameter,
        file: file.to_owned(),
        why,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file)
        .map_err(|error| bad(error.to_string()))?
        .collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad("no certificate in PEM is in it".into())),
        Ok(found) => Ok(found),
        Err(error) => Err(bad(error.to_string())),
    }
}

fn roots_of(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("sslrootcert", file)? {
        roots.add(certificate).map_err(|error| TlsError::File {
            parameter: "sslrootcert",
            file: file.to_owned(),
            why: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoSystemRoots);
    }
    Ok(roots)
}

/// Encrypts to whoever answers.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Trusts the authorities, whatever name they have signed.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        // The name comes last: with this error, all the rest was right.
        match self
            .0
            .verify_server_cert(end_entity, intermediates, name, ocsp, now)
        {
            Err(Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_makes_require_check_it() {
        let tls = |mode, root: Option<&str>| Tls {
            mode,
            root_cert: root.map(PathBuf::from),
            ..Tls::default()
        };
        assert_eq!(checks(&tls(Mode::Require, None)), Checks::Nothing);
        assert_eq!(
            checks(&tls(Mode::Require, Some("ca.pem"))),
            Checks::Authority
        );
        assert_eq!(checks(&tls(Mode::Prefer, Some("ca.pem"))), Checks::Nothing);
        assert_eq!(
            checks(&tls(Mode::VerifyFull, None)),
            Checks::AuthorityAndName
        );
        let error = client_config(&tls(Mode::VerifyCa, None)).unwrap_err();
        assert_eq!(error, TlsError::NoAuthority);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let folder = tempfile::TempDir::new().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        for file in [folder.path().join("missing.pem"), empty] {
            let tls = Tls {
                mode: Mode::VerifyFull,
                root_cert: Some(file.clone()),
                ..Tls::default()
            };
            let error = client_config(&tls).unwrap_err().to_string();
            assert!(
                error.contains("sslrootcert") && error.contains(&*file.to_string_lossy()),
                "{error}"
            );
        }
        let half = Tls {
            mode: Mode::Require,
            cert: Some("x".into()),
            ..Tls::default()
        };
        assert_eq!(
            client_config(&half).unwrap_err(),
            TlsError::HalfACertificate
        );
    }
}
