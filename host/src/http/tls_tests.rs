//! Tests of `tls`: through a server on a free port, with certificates made for
//! them.

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::super::respond;
use super::super::server::{ConnectionLimits, Server};
use super::*;

const LONG: Duration = Duration::from_secs(60);

/// An authority, and a certificate of it in two files.
struct Authority {
    folder: TempDir,
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Authority {
            folder: TempDir::new().unwrap(),
            params,
            key: KeyPair::generate().unwrap(),
        }
    }

    fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// A new pair for this name.
    fn write(&self, name: &str) {
        let (cert, key) = self.issue(name);
        std::fs::write(self.cert(), cert).unwrap();
        std::fs::write(self.key(), key).unwrap();
    }

    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    fn client(&self, alpn: &[&[u8]]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let cert = self.params.self_signed(&self.key).unwrap();
        roots.add(cert.der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

/// Whether a certificate is served for this name.
async fn serves(tls: &Arc<Tls>, authority: &Authority, name: &str) -> bool {
    let (client, server) = tokio::io::duplex(1 << 16);
    let config = tls.current().await;
    let accept = TlsAcceptor::from(config).accept(server);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connect = authority.client(&[]).connect(name, client);
    let (_, connected) = tokio::join!(accept, connect);
    connected.is_ok()
}

/// Makes the next look due.
fn due(tls: &Tls) {
    tls.state.lock().next_look = Instant::now();
}

#[tokio::test]
async fn new_files_are_served_and_bad_ones_are_passed_over() {
    let authority = Authority::new();
    authority.write("one.test");
    let tls = Arc::new(Tls::open(&authority.cert(), &authority.key()).unwrap());
    assert!(serves(&tls, &authority, "one.test").await);

    // Not looked at before it is due.
    tls.state.lock().next_look = Instant::now() + LONG;
    authority.write("two.test");
    assert!(serves(&tls, &authority, "one.test").await);
    due(&tls);
    assert!(serves(&tls, &authority, "two.test").await);
    assert!(!serves(&tls, &authority, "one.test").await);

    // One file without the other, then both.
    let (cert, key) = authority.issue("three.test");
    std::fs::write(authority.cert(), &cert).unwrap();
    due(&tls);
    assert!(serves(&tls, &authority, "two.test").await);
    let refused = tls.state.lock().refused;
    assert!(refused.is_some());
    std::fs::remove_file(authority.key()).unwrap();
    due(&tls);
    assert!(serves(&tls, &authority, "two.test").await);
    std::fs::write(authority.key(), key).unwrap();
    due(&tls);
    assert!(serves(&tls, &authority, "three.test").await);
    assert_eq!(tls.state.lock().refused, None);
}

#[test]
fn a_file_that_cannot_be_served_is_named_by_its_setting() {
    let authority = Authority::new();
    authority.write("one.test");
    let (cert, key) = (authority.cert(), authority.key());
    let refused = |cert: &Path, key: &Path| Tls::open(cert, key).unwrap_err().to_string();
    let missing = authority.folder.path().join("missing");
    assert!(refused(&missing, &key).starts_with("admin.tls_cert = "));
    assert!(refused(&key, &key).contains("no certificate"));
    assert!(refused(&cert, &missing).starts_with("admin.tls_key = "));
    assert!(refused(&cert, &cert).contains("not a private key"));
    let other = authority.issue("other.test").1;
    std::fs::write(&key, other).unwrap();
    let error = refused(&cert, &key);
    assert!(
        error.contains("admin.tls_key = ") && error.contains("its own key"),
        "{error}"
    );
}

struct Running {
    address: std::net::SocketAddr,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<usize>,
}

fn start(authority: &Authority, header_timeout: Duration) -> Running {
    let server = Server::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let tls = Tls::open(&authority.cert(), &authority.key()).unwrap();
    let server = server.with_tls(Arc::new(tls));
    let address = server.local_addr();
    let limits = ConnectionLimits {
        max_connections: 9,
        header_timeout,
        idle_timeout: LONG,
        drain_timeout: LONG,
    };
    let (stop, stopped) = watch::channel(false);
    let service = |request: http::Request<hyper::body::Incoming>, _| async move {
        let version = format!("{:?}", request.version());
        respond::json(http::StatusCode::OK, &version)
    };
    let server = tokio::spawn(server.run(service, limits, stopped));
    Running {
        address,
        stop,
        server,
    }
}

async fn shake_hands(
    authority: &Authority,
    running: &Running,
    alpn: &[&[u8]],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let socket = TcpStream::connect(running.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    authority.client(alpn).connect(name, socket).await.unwrap()
}

#[tokio::test]
async fn both_versions_of_http_are_offered() {
    let authority = Authority::new();
    authority.write("localhost");
    let running = start(&authority, LONG);
    let mut one = shake_hands(&authority, &running, &[b"http/1.1"]).await;
    assert_eq!(one.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    one.write_all(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    one.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\"HTTP/1.1\""),
        "{answer}"
    );

    let two = shake_hands(&authority, &running, &[b"h2", b"http/1.1"]).await;
    assert_eq!(two.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(two);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("https://localhost/")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
}

#[tokio::test]
async fn an_answer_reaches_a_client_that_sends_its_whole_body_first() {
    let authority = Authority::new();
    authority.write("localhost");
    let running = start(&authority, LONG);
    let mut client = shake_hands(&authority, &running, &[b"http/1.1"]).await;
    let body = vec![0; 8 << 20];
    let head = format!(
        "PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&body).await.unwrap();
    client.flush().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\"HTTP/1.1\""),
        "{answer}"
    );
}

#[tokio::test]
async fn a_handshake_that_stalls_is_cut_off() {
    let authority = Authority::new();
    authority.write("localhost");
    let running = start(&authority, Duration::from_millis(50));
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    // The head of a handshake's record, and no more.
    socket.write_all(&[22, 3, 1, 0, 200]).await.unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn http_in_clear_gets_no_answer_and_a_stop_waits_for_no_handshake() {
    let authority = Authority::new();
    authority.write("localhost");
    let running = start(&authority, LONG);
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    assert!(!answer.windows(4).any(|part| part == b"HTTP"), "{answer:?}");

    // Accepted in their order: when the second has shaken hands, the first is in.
    let silent = TcpStream::connect(running.address).await.unwrap();
    drop(shake_hands(&authority, &running, &[]).await);
    running.stop.send_replace(true);
    let stopped = tokio::time::timeout(LONG / 2, running.server).await;
    assert_eq!(stopped.unwrap().unwrap(), 0);
    drop(silent);
}
