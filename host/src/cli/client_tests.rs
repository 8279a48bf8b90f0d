//! Tests of `client`, against a server of the real accept loop.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::http::respond::{self, Answer, Kind, Problem};
use crate::http::server::{ConnectionLimits, Server};

const LONG: Duration = Duration::from_secs(60);

pub(crate) fn args(admin: impl ToString) -> ClientArgs {
    ClientArgs {
        admin: admin.to_string(),
        token: Some(Token("open sesame 1234".replace(' ', "-"))),
        ca_file: None,
        json: false,
    }
}

pub(crate) fn call(body: Vec<u8>) -> Call {
    Call {
        method: Method::POST,
        path: "/v1/handlers/get?region=a".to_owned(),
        headers: vec![(
            HeaderName::from_static("tidepool-actor"),
            HeaderValue::from_static("a@b"),
        )],
        body: body.into(),
        timeout: LONG,
    }
}

/// Serves one kind of answer; what was asked is kept.
pub(crate) fn serve(
    answer: impl Fn() -> Answer + Clone + Send + Sync + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<Request<()>>>>) {
    let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = server.local_addr();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let service = move |request: Request<Incoming>, _: SocketAddr| {
        let (head, _) = request.into_parts();
        seen.lock().push(Request::from_parts(head, ()));
        let answer = answer();
        async move { answer }
    };
    let limits = ConnectionLimits {
        max_connections: 9,
        header_timeout: LONG,
        idle_timeout: LONG,
        drain_timeout: LONG,
    };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let _stop = stop;
        server.run(service, limits, stopped).await
    });
    (address, asked)
}

#[tokio::test]
async fn a_request_goes_where_it_should_with_its_token() {
    let (address, asked) = serve(|| respond::json(http::StatusCode::OK, &json!({"a": 1})));
    let body = send(&args(address), call(vec![1])).await.unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap(),
        json!({"a": 1})
    );
    let asked = asked.lock();
    assert_eq!(asked[0].uri(), "/v1/handlers/get?region=a");
    assert_eq!(asked[0].headers()["host"], address.to_string());
    assert_eq!(
        asked[0].headers()["authorization"],
        "Bearer open-sesame-1234"
    );
    assert_eq!(asked[0].headers()["tidepool-actor"], "a@b");
}

#[tokio::test]
async fn a_refusal_is_shown_as_title_and_detail() {
    let (address, _) =
        serve(|| Problem::new(Kind::Unprocessable, "it imports\n tidepool:kv/log").into_answer());
    let error = send(&args(address), call(Vec::new())).await.unwrap_err();
    assert_eq!(
        error,
        CliError::Failed(
            "The component cannot be deployed: it imports; tidepool:kv/log".to_owned()
        )
    );
    let (address, _) = serve(|| respond::empty(http::StatusCode::BAD_GATEWAY));
    let error = send(&args(address), call(Vec::new())).await.unwrap_err();
    assert_eq!(
        error,
        CliError::Failed("the admin plane answered 502 Bad Gateway".to_owned())
    );
}

#[tokio::test]
async fn an_upload_refused_before_it_is_read_shows_the_refusal() {
    let (address, _) = serve(|| Problem::new(Kind::TooLarge, "use a smaller one").into_answer());
    let error = send(&args(address), call(vec![0; 32 << 20]))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        CliError::Failed("The body is too large: use a smaller one".to_owned())
    );
}

#[tokio::test]
async fn a_refusal_is_shown_also_by_a_server_that_closes_on_what_is_sent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_exact(&mut [0; 100]).await.unwrap();
        let body = Problem::new(Kind::TooLarge, "use a smaller one").document();
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 413 Payload Too Large\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let answer = head + &body;
        socket.write_all(answer.as_bytes()).await.unwrap();
        // With bytes unread, this is a reset.
        drop(socket);
    });
    let error = send(&args(address), call(vec![0; 32 << 20]))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        CliError::Failed("The body is too large: use a smaller one".to_owned())
    );
}

#[tokio::test]
async fn nobody_there_is_an_error_of_its_own() {
    let address = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .unwrap()
        .local_addr();
    let error = send(&args(address), call(Vec::new())).await.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let text = error.to_string();
    assert!(
        text.contains(&address.to_string()) && text.contains("--admin"),
        "{text}"
    );
}

#[tokio::test]
async fn an_admin_plane_that_never_answers_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let call = Call {
        timeout: Duration::from_millis(50),
        ..call(Vec::new())
    };
    let error = send(&args(silent.local_addr().unwrap()), call)
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("50ms"), "{error}");
}

#[test]
fn an_address_is_http_or_https_and_nothing_but_an_address() {
    for admin in ["http://h:1", "http://h:1/", "h:1"] {
        assert_eq!(uri(admin, "/v1").unwrap(), "http://h:1/v1");
    }
    assert_eq!(uri("https://h/", "/v1").unwrap(), "https://h/v1");
    let user = uri("http://me:hidden@h", "/v1").unwrap_err().to_string();
    assert!(
        user.contains("--token") && !user.contains("hidden"),
        "{user}"
    );
    for admin in [
        "https://",
        "http://",
        "http://h:1/x",
        "http://h:1/?q",
        "",
        "ftp://h",
        "a b",
    ] {
        assert_eq!(uri(admin, "/v1").unwrap_err().exit_code(), 2, "{admin}");
    }
}

#[test]
fn a_token_is_not_shown() {
    assert!(!format!("{:?}", args("h")).contains("sesame"));
}
