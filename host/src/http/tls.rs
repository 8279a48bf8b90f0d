//! The server's side of TLS: a certificate and its key in two PEM files, which
//! may be replaced while it serves. A new connection gets what the files have; a
//! pair that does not fit, as between the replacing of one and the other, is
//! passed over and the last good one stays.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::socket::Socket;

/// How often the files are looked at, at most; only when somebody connects.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a certificate cannot be served.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("{setting} = {}: {why}", file.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The two do not fit.
    #[error(
        "admin.tls_cert = {} and admin.tls_key = {}: {why}; name a certificate and its own key, both in PEM",
        cert.display(), key.display()
    )]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What rustls says.
        why: String,
    },
}

/// A certificate that is kept up to date with its files.
#[derive(Debug)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<ServerConfig>,
    /// Of the files that `config` was made of.
    served: [Stamp; 2],
    /// Of files that were found bad, and said to be.
    refused: Option<[Stamp; 2]>,
    next_look: Instant,
}

/// What tells one state of a file from another; nothing when it is not there.
type Stamp = Option<(SystemTime, u64)>;

impl Tls {
    /// Reads the two files.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub fn open(cert: &Path, key: &Path) -> Result<Tls, TlsError> {
        // First what the files are, then what is in them: a change in between is
        // seen at the next look.
        let served = [stamp(cert), stamp(key)];
        let config = load(cert, key)?;
        Ok(Tls {
            cert: cert.to_owned(),
            key: key.to_owned(),
            state: Mutex::new(State {
                config,
                served,
                refused: None,
                next_look: Instant::now() + LOOK_EVERY,
            }),
        })
    }

    /// The handshake with a client.
    pub(super) async fn accept(self: &Arc<Tls>, socket: TcpStream) -> io::Result<Socket> {
        let config = self.current().await;
        let stream = TlsAcceptor::from(config).accept(socket).await?;
        Ok(Socket::Tls(Box::new(TlsStream::Server(stream))))
    }

    /// What is served now, after a look at the files if that is due.
    async fn current(self: &Arc<Tls>) -> Arc<ServerConfig> {
        {
            let mut state = self.state.lock();
            let now = Instant::now();
            if now < state.next_look {
                return Arc::clone(&state.config);
            }
            state.next_look = now + LOOK_EVERY;
        }
        let this = Arc::clone(self);
        // A look that fails as a task leaves what is served as it is.
        let _ = tokio::task::spawn_blocking(move || this.look()).await;
        Arc::clone(&self.state.lock().config)
    }

    /// Takes changed files over, if they are good.
    fn look(&self) {
        let found = [stamp(&self.cert), stamp(&self.key)];
        if self.state.lock().served == found {
            return;
        }
        // Outside the lock, which serving threads take.
        let loaded = load(&self.cert, &self.key);
        let mut state = self.state.lock();
        match loaded {
            Ok(config) => {
                tracing::info!(file = %self.cert.display(), "serving a new certificate on the admin plane");
                state.config = config;
                state.served = found;
                state.refused = None;
            }
            // Tried again at the next look, and said once.
            Err(error) if state.refused != Some(found) => {
                tracing::warn!("the admin plane keeps its old certificate: {error}");
                state.refused = Some(found);
            }
            Err(_) => {}
        }
    }
}

fn stamp(file: &Path) -> Stamp {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn load(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let bad = |setting, file: &Path, why: String| TlsError::File {
        setting,
        file: file.to_owned(),
        why,
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad("admin.tls_cert", cert, error.to_string()))?;
    if chain.is_empty() {
        let why = "no certificate in PEM is in it".to_owned();
        return Err(bad("admin.tls_cert", cert, why));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
        let why = format!("not a private key in PEM without a passphrase ({error})");
        bad("admin.tls_key", key, why)
    })?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, private)
        });
    let mut config = config.map_err(|error| TlsError::Pair {
        cert: cert.to_owned(),
        key: key.to_owned(),
        why: error.to_string(),
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
