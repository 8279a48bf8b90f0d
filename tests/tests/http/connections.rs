//! Connections: keep-alive, HTTP/2, and clients that stall or hang up.

use std::time::Duration;

use tidepool_tests::wire::Wire;
use tidepool_tests::{Setup, within};

use crate::{one, with};

const GET: &str = "GET /kv/k HTTP/1.1\r\nHost: t\r\n\r\n";

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let (server, here) = one().await;
    let version = here.write("k", "v").await;
    server.all_caught_up(version).await;
    let mut wire = Wire::connect(here.address()).await;
    for _ in 0..5 {
        wire.send(GET).await;
        assert_eq!(wire.answer().await.expect(200).version(), version);
    }
    // Also after errors that leave the connection as it should be.
    for path in ["/kv/%", "/nothing", "/kv/nothing"] {
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n"))
            .await;
        assert!(wire.answer().await.status >= 400);
    }
    // And without waiting for each answer.
    wire.send(GET.repeat(20)).await;
    for _ in 0..20 {
        assert_eq!(wire.answer().await.expect(200).version(), version);
    }
    let last = "GET /kv/k HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    wire.send(last).await;
    wire.answer().await.expect(200);
    assert!(wire.closed().await.is_empty());
}

#[tokio::test]
async fn http_2_is_spoken_at_the_same_address() {
    let (server, here) = one().await;
    let two = here.http2();
    let put = two.put("/kv/k").value("v").send().await.expect(201);
    assert_eq!(put.http, http::Version::HTTP_2);
    server.all_caught_up(put.version()).await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..100 {
        requests.spawn(two.get("/kv/k").send());
    }
    for answer in requests.join_all().await {
        assert_eq!(answer.http, http::Version::HTTP_2);
        assert_eq!(answer.expect(200).version(), put.version());
    }
    two.get("/kv/%").send().await.problem(400, "bad-request");
    let head = two.head("/kv/k").send().await.expect(200);
    assert!(head.body.is_empty());
    assert_eq!(here.get("/kv/k").send().await.http, http::Version::HTTP_11);
}

#[tokio::test]
async fn a_client_that_stalls_in_its_head_is_cut_off_and_others_are_not() {
    let setup = Setup::new().set("http.header_timeout=300ms");
    let (server, here) = with(setup).await;
    let version = here.write("k", "v").await;
    server.all_caught_up(version).await;
    for half in ["", "GET", "GET /kv/k HTTP/1.1\r\nHost: t\r\n"] {
        let mut stalling = Wire::connect(here.address()).await;
        stalling.send(half).await;
        let mut closed = Box::pin(stalling.closed());
        // Others are served for as long as that takes.
        let served = async {
            loop {
                here.get("/kv/k").send().await.expect(200);
                if let Ok(said) = tokio::time::timeout(Duration::from_millis(5), &mut closed).await
                {
                    return said;
                }
            }
        };
        let said = within("the end of a stalled connection", served).await;
        assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_its_time() {
    let setup = Setup::new().set("http.idle_timeout=200ms");
    let (server, here) = with(setup).await;
    let version = here.write("k", "v").await;
    server.all_caught_up(version).await;
    let mut wire = Wire::connect(here.address()).await;
    wire.send(GET).await;
    wire.answer().await.expect(200);
    assert!(wire.closed().await.is_empty());
}

#[tokio::test]
async fn a_connection_of_http_2_that_only_pings_is_idle() {
    // A request, by the indices of RFC 7541 and the path as a literal.
    const GET: &[u8] = b"\x82\x86\x04\x05/kv/k\x01\x01t";
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
        [&head, payload].concat()
    };
    let setup = Setup::new().set("http.idle_timeout=200ms");
    let (server, here) = with(setup).await;
    let version = here.write("k", "v").await;
    server.all_caught_up(version).await;
    // The answer is taken, or there is no room for a byte of it.
    for (window, taken) in [
        (&[0, 4, 0, 0, 255, 255], true),
        (&[0, 4, 0, 0, 0, 0], false),
    ] {
        let mut wire = Wire::connect(here.address()).await;
        let begin = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, window),
            frame(1, 5, 1, GET),
        ];
        assert!(wire.send(begin.concat()).await);
        let ping = frame(6, 0, 0, &[0; 8]);
        let pinging = async { while wire.exchange(&ping).await {} };
        within("the end of a connection that pings", pinging).await;
        let said = wire.closed().await;
        let value = br#""value":"v""#;
        let came = said.windows(value.len()).any(|part| part == value);
        assert_eq!(came, taken, "{} bytes", said.len());
    }
}

#[tokio::test]
async fn what_is_no_http_ends_the_connection() {
    let (server, here) = one().await;
    for noise in ["hello\r\n\r\n", "\0\0\0\0\0\0\0\0\r\n\r\n", "GET\r\n\r\n"] {
        let mut wire = Wire::connect(here.address()).await;
        wire.send(noise).await;
        let said = wire.closed().await;
        assert!(
            said.is_empty() || said.starts_with(b"HTTP/1.1 400 "),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
    let mut wire = Wire::connect(here.address()).await;
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(2000));
    wire.send(many).await;
    assert_eq!(wire.answer().await.status, 431);
    let version = here.write("k", "v").await;
    server.all_caught_up(version).await;
}

#[tokio::test]
async fn a_write_whose_client_hangs_up_is_done_or_not_but_never_half() {
    let (server, here) = one().await;
    let mut newest = 0;
    for n in 0..30 {
        let mut wire = Wire::connect(here.address()).await;
        let body = format!("{{\"value\":\"{n}\"}}");
        let put = format!(
            "PUT /kv/k{n} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        wire.send(put).await;
        drop(wire);
        newest = here.write("after", "v").await;
    }
    server.all_caught_up(newest).await;
    for n in 0..30 {
        let cached = here.get(&format!("/kv/k{n}")).send().await;
        let log = here
            .get(&format!("/kv/k{n}"))
            .header("tidepool-consistency", "log")
            .send()
            .await;
        match log.status {
            200 => assert_eq!(log.json()["value"], n.to_string()),
            _ => drop(log.problem(404, "not-found")),
        }
        // A write that came late may be in the log and not in the cache yet.
        assert!(cached.status == 404 || cached.body == log.body);
    }
}
