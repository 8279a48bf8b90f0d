//! Tests of `server`, over real sockets on free ports. They wait for what the
//! server does, never for a time to pass.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::super::body::{BodyError, read_body};
use super::super::linger::LINGER_TIME;
use super::super::respond;
use super::*;

/// Longer than any of these tests may take.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

const PATIENT: ConnectionLimits = ConnectionLimits {
    max_connections: 100,
    header_timeout: LONG,
    idle_timeout: LONG,
    drain_timeout: LONG,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n";

/// What the service of these tests meets.
#[derive(Default)]
struct Shared {
    /// A request for `/slow` has begun.
    begun: Notify,
    /// It may end.
    go: Notify,
    bodies: Mutex<Vec<Result<Bytes, BodyError>>>,
    read: Notify,
}

struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    server: JoinHandle<usize>,
}

fn start(limits: ConnectionLimits) -> Running {
    let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = server.local_addr();
    let shared = Arc::new(Shared::default());
    let (stop, stopped) = watch::channel(false);
    let for_service = Arc::clone(&shared);
    let service = move |request: Request<Incoming>, _: SocketAddr| {
        let shared = Arc::clone(&for_service);
        async move {
            match request.uri().path() {
                "/slow" => {
                    shared.begun.notify_one();
                    shared.go.notified().await;
                }
                path @ ("/body" | "/stalled") => {
                    let timeout = if path == "/stalled" { SHORT } else { LONG };
                    let body = read_body(request.into_body(), 10, timeout).await;
                    shared.bodies.lock().push(body);
                    shared.read.notify_one();
                }
                _ => {}
            }
            respond::answer(
                StatusCode::OK,
                HeaderValue::from_static("text/plain"),
                "done".into(),
            )
        }
    };
    let server = tokio::spawn(server.run(service, limits, stopped));
    Running {
        address,
        shared,
        stop,
        server,
    }
}

async fn connect(running: &Running) -> TcpStream {
    TcpStream::connect(running.address).await.unwrap()
}

/// Reads until the answer to one request is complete.
async fn answer(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"done") {
        assert_ne!(
            client.read_buf(&mut text).await.unwrap(),
            0,
            "closed after {text:?}"
        );
    }
    String::from_utf8(text).unwrap()
}

/// Reads until the server closes; a reset is a close, too.
async fn closed(client: &mut TcpStream) -> Vec<u8> {
    let mut text = Vec::new();
    let _ = tokio::time::timeout(LONG, client.read_to_end(&mut text))
        .await
        .expect("still open");
    text
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let running = start(PATIENT);
    let mut client = connect(&running).await;
    for _ in 0..3 {
        client.write_all(GET).await.unwrap();
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200 OK"));
    }
}

#[tokio::test]
async fn http2_is_served_at_the_same_address() {
    let running = start(PATIENT);
    let (mut send, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
        TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(connect(&running).await),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{}/", running.address))
        .body(Full::default())
        .unwrap();
    let response = send.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_LENGTH], "4");
    running.stop.send(true).unwrap();
    assert_eq!(running.server.await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_says_nothing_or_half_a_head_is_cut_off() {
    let running = start(ConnectionLimits {
        header_timeout: SHORT,
        ..PATIENT
    });
    let mut silent = connect(&running).await;
    assert!(closed(&mut silent).await.is_empty());
    let mut half = connect(&running).await;
    half.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    assert!(closed(&mut half).await.is_empty());
}

#[tokio::test]
async fn half_a_head_after_a_good_request_is_cut_off_too() {
    // Long enough for a loaded machine to send the first request.
    let running = start(ConnectionLimits {
        header_timeout: Duration::from_secs(1),
        ..PATIENT
    });
    let mut second = connect(&running).await;
    second.write_all(GET).await.unwrap();
    answer(&mut second).await;
    second.write_all(b"GET").await.unwrap();
    assert!(closed(&mut second).await.is_empty());
}

#[tokio::test]
async fn an_idle_client_is_cut_off_and_a_busy_one_is_not() {
    let running = start(ConnectionLimits {
        idle_timeout: SHORT,
        ..PATIENT
    });
    let mut idle = connect(&running).await;
    let mut busy = connect(&running).await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        .await
        .unwrap();
    running.shared.begun.notified().await;
    idle.write_all(GET).await.unwrap();
    answer(&mut idle).await;
    assert!(closed(&mut idle).await.is_empty());
    running.shared.go.notify_one();
    assert!(answer(&mut busy).await.contains("200 OK"));
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
    bytes.extend(payload);
    bytes
}

/// Opens HTTP/2 with these settings, sends the head of a PUT to a path, and then a
/// frame again and again until the server closes; what came until then.
async fn closed_while_sending(
    running: &Running,
    settings: &[u8],
    path: &str,
    again: &[u8],
) -> Vec<u8> {
    const END_HEADERS: u8 = 4;
    // Literals without an index (RFC 7541, section 6.2.2), but for the scheme.
    let literal = |name: u8, text: &str| {
        let mut bytes = vec![name, u8::try_from(text.len()).unwrap()];
        bytes.extend(text.as_bytes());
        bytes
    };
    let head = [
        literal(2, "PUT"),
        literal(4, path),
        literal(1, "t"),
        vec![0x86],
    ]
    .concat();
    let begin = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, settings),
        frame(1, END_HEADERS, 1, &head),
    ];
    let mut client = connect(running).await;
    client.write_all(&begin.concat()).await.unwrap();
    let (mut read, mut write) = client.split();
    let mut said = Vec::new();
    let sending = async { while write.write_all(again).await.is_ok() {} };
    let both = async { tokio::join!(sending, read.read_to_end(&mut said)) };
    // A reset is an end, too.
    let _ = tokio::time::timeout(LONG, both).await.expect("still open");
    said
}

#[tokio::test]
async fn an_idle_client_of_http2_is_cut_off_whatever_it_sends_but_requests() {
    let running = start(ConnectionLimits {
        header_timeout: 10 * LONG,
        idle_timeout: SHORT,
        ..PATIENT
    });
    let done = |said: &[u8]| said.windows(4).any(|part| part == b"done");
    let ping = frame(6, 0, 0, &[0; 8]);
    let said = closed_while_sending(&running, &[], "/", &ping).await;
    assert!(done(&said), "{} bytes", said.len());
    // Nor does it help to ask for replies to settings, ...
    let settings = frame(4, 0, 0, &[]);
    let said = closed_while_sending(&running, &[], "/", &settings).await;
    assert!(done(&said), "{} bytes", said.len());
    // ... to take no byte of the answer: windows of 0, ...
    let no_window = [0, 4, 0, 0, 0, 0];
    let said = closed_while_sending(&running, &no_window, "/", &ping).await;
    assert!(!done(&said), "{} bytes", said.len());
    // ... or to send a body that is given up, byte by byte.
    let byte = frame(0, 0, 1, b"x");
    closed_while_sending(&running, &[], "/stalled", &byte).await;
    running.shared.read.notified().await;
}

#[tokio::test]
async fn no_more_connections_than_allowed_are_served_at_once() {
    let running = start(ConnectionLimits {
        max_connections: 2,
        ..PATIENT
    });
    let mut clients = [connect(&running).await, connect(&running).await];
    for client in &mut clients {
        client.write_all(GET).await.unwrap();
        answer(client).await;
    }
    // Connected by the system, and not served until another one goes.
    let mut third = connect(&running).await;
    third.write_all(GET).await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(SHORT, third.peek(&mut byte)).await;
    assert!(early.is_err(), "served too early");
    let [first, _second] = clients;
    drop(first);
    answer(&mut third).await;
}

#[tokio::test]
async fn a_stop_answers_what_is_in_flight_and_closes_what_is_idle() {
    let running = start(PATIENT);
    let mut idle = connect(&running).await;
    idle.write_all(GET).await.unwrap();
    answer(&mut idle).await;
    let mut busy = connect(&running).await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        .await
        .unwrap();
    running.shared.begun.notified().await;
    running.stop.send(true).unwrap();
    assert!(closed(&mut idle).await.is_empty());
    assert!(
        TcpStream::connect(running.address).await.is_err(),
        "still listening"
    );
    running.shared.go.notify_one();
    let text = String::from_utf8(closed(&mut busy).await).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200 OK") && text.ends_with("done"),
        "{text}"
    );
    assert_eq!(running.server.await.unwrap(), 0);
}

#[tokio::test]
async fn a_drain_has_a_bound() {
    let running = start(ConnectionLimits {
        drain_timeout: SHORT,
        ..PATIENT
    });
    let mut busy = connect(&running).await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        .await
        .unwrap();
    running.shared.begun.notified().await;
    drop(running.stop);
    assert_eq!(running.server.await.unwrap(), 1);
    assert!(closed(&mut busy).await.is_empty());
}

#[tokio::test]
async fn a_dropped_server_takes_its_connections_along() {
    let running = start(PATIENT);
    let mut client = connect(&running).await;
    client.write_all(GET).await.unwrap();
    answer(&mut client).await;
    running.server.abort();
    assert!(closed(&mut client).await.is_empty());
}

#[tokio::test]
async fn a_body_that_lies_stalls_or_is_too_long_is_told_apart() {
    let running = start(PATIENT);
    let put = |path: &str, length: usize, sent: &str| {
        format!("PUT {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n{sent}")
    };

    let mut cut = connect(&running).await;
    cut.write_all(put("/body", 8, "four").as_bytes())
        .await
        .unwrap();
    cut.shutdown().await.unwrap();
    running.shared.read.notified().await;

    let mut stalled = connect(&running).await;
    stalled
        .write_all(put("/stalled", 8, "four").as_bytes())
        .await
        .unwrap();
    running.shared.read.notified().await;

    let mut long = connect(&running).await;
    long.write_all(put("/body", 11, "").as_bytes())
        .await
        .unwrap();
    running.shared.read.notified().await;

    let mut chunked = connect(&running).await;
    let head = "PUT /body HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    chunked
        .write_all(format!("{head}6\r\nsixsix\r\n6\r\nsixsix\r\n0\r\n\r\n").as_bytes())
        .await
        .unwrap();
    running.shared.read.notified().await;

    let mut fine = connect(&running).await;
    fine.write_all(put("/body", 10, "0123456789").as_bytes())
        .await
        .unwrap();
    running.shared.read.notified().await;

    let bodies = running.shared.bodies.lock();
    assert!(
        matches!(bodies[0], Err(BodyError::Cut { .. })),
        "{:?}",
        bodies[0]
    );
    assert_eq!(bodies[1], Err(BodyError::Timeout { after: SHORT }));
    assert_eq!(bodies[2], Err(BodyError::TooLarge { limit: 10 }));
    assert_eq!(bodies[3], Err(BodyError::TooLarge { limit: 10 }));
    assert_eq!(bodies[4], Ok(Bytes::from_static(b"0123456789")));
}

#[tokio::test]
async fn an_answer_reaches_a_client_that_sends_its_whole_body_first() {
    let running = start(PATIENT);
    // Not read at all, refused for its length, and read until it is too long.
    for (path, framing) in [
        ("/", "Content-Length: 31457280"),
        ("/body", "Content-Length: 31457280"),
        ("/body", "Transfer-Encoding: chunked"),
    ] {
        let mut client = connect(&running).await;
        let head = format!("PUT {path} HTTP/1.1\r\nHost: t\r\n{framing}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let mut body = vec![b'x'; 30 << 20];
        if framing.ends_with("chunked") {
            body[..9].copy_from_slice(b"1dffff7\r\n");
        }
        client.write_all(&body).await.unwrap();
        let text = answer(&mut client).await;
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        assert!(closed(&mut client).await.is_empty());
    }
}

#[tokio::test]
async fn a_client_that_sends_on_after_its_answer_is_cut_off() {
    let running = start(PATIENT);
    let mut client = connect(&running).await;
    let head = "PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999999\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    answer(&mut client).await;
    let piece = vec![0; 1 << 20];
    let endless = async { while client.write_all(&piece).await.is_ok() {} };
    tokio::time::timeout(LONG, endless)
        .await
        .expect("still read");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_client_that_has_its_answer() {
    let running = start(ConnectionLimits {
        drain_timeout: LINGER_TIME / 2,
        ..PATIENT
    });
    let mut client = connect(&running).await;
    let head = "PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999999\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    answer(&mut client).await;
    // It is waited for from here on.
    assert!(closed(&mut client).await.is_empty());
    running.stop.send(true).unwrap();
    assert_eq!(running.server.await.unwrap(), 0);
    drop(client);
}

#[tokio::test]
async fn an_address_in_use_is_named_with_what_to_do() {
    let running = start(PATIENT);
    let error = Server::bind(running.address).unwrap_err().to_string();
    assert!(error.contains(&running.address.to_string()), "{error}");
    assert!(
        error.contains("choose another port") && !error.contains('\n'),
        "{error}"
    );
}
