//! A connection to the admin plane: over TLS for https, in clear for http. It
//! knows nothing of what is asked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::CliError;
use crate::http::socket::Socket;

/// How long the admin plane may take to accept a connection, and after that for
/// the handshake of TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to where `uri` points; `admin` is how the user wrote it. `ca_file`
/// has the authorities to trust, in place of the system's.
pub(super) async fn connect(
    admin: &str,
    uri: &Uri,
    ca_file: Option<&Path>,
) -> Result<Socket, CliError> {
    let secure = uri.scheme() == Some(&Scheme::HTTPS);
    // What the command line has wrong is said before anybody is asked.
    let tls = match secure {
        true => Some(TlsConnector::from(client_config(ca_file)?)),
        false => None,
    };
    let host = uri.host().unwrap_or_default();
    let host = host.strip_prefix('[').unwrap_or(host);
    let host = host.strip_suffix(']').unwrap_or(host);
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let unreachable = |cause: String| {
        CliError::Unreachable(format!(
            "cannot reach the admin plane at {admin}: {cause}; start `tidepool dev`, or name another with --admin"
        ))
    };
    let opened = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await;
    let socket = match opened {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        Err(_) => return Err(unreachable("it did not accept in time".to_owned())),
    };
    let Some(tls) = tls else {
        return Ok(Socket::Plain(socket));
    };
    let insecure = |cause: String, advice: &str| {
        CliError::Unreachable(format!(
            "no secure connection to the admin plane at {admin}: {cause}; {advice}"
        ))
    };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| CliError::Usage(format!("{admin}: {error}; name a host or an address")))?;
    match tokio::time::timeout(CONNECT_TIMEOUT, tls.connect(name, socket)).await {
        Ok(Ok(stream)) => Ok(Socket::Tls(Box::new(TlsStream::Client(stream)))),
        Ok(Err(error)) => Err(insecure(error.to_string(), advice(&error))),
        Err(_) => Err(insecure(
            "it did not shake hands in time".to_owned(),
            "is it an admin plane?",
        )),
    }
}

fn advice(error: &std::io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "name the file of its authority with --ca-file, and the host as its certificate does"
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "if the admin plane has no certificate, write http://"
        }
        _ => "see the log of the admin plane",
    }
}

fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, CliError> {
    let roots = match ca_file {
        Some(file) => roots_of(file).map_err(|why| {
            let file = file.display();
            CliError::Failed(format!(
                "--ca-file {file}: {why}; name a PEM file with the certificate of an authority"
            ))
        })?,
        None => system_roots()?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| CliError::Failed(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn roots_of(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for found in CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())? {
        let found = found.map_err(|error| error.to_string())?;
        roots.add(found).map_err(|error| error.to_string())?;
    }
    match roots.is_empty() {
        true => Err("no certificate in PEM is in it".to_owned()),
        false => Ok(roots),
    }
}

fn system_roots() -> Result<RootCertStore, CliError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err(CliError::Failed(
            "the system has no certificates of authorities; install ca-certificates, or name a file with --ca-file".to_owned(),
        )),
        false => Ok(roots),
    }
}
