//! Keys: any UTF-8 of 1 to 1024 bytes, percent-encoded in the path.

use tidepool_tests::wire::Wire;

use crate::one;

#[tokio::test]
async fn a_key_is_any_utf8_and_comes_back_decoded() {
    let (_server, here) = one().await;
    let keys = [
        ("plain", "plain"),
        ("%00", "\0"),
        ("a%2Fb", "a/b"),
        ("/", "/"),
        ("..", ".."),
        ("../%2e%2e/etc", "../../etc"),
        ("%F0%9F%8C%8A", "🌊"),
        ("%25", "%"),
        ("%2525", "%25"),
        ("%20x%20", " x "),
        ("+", "+"),
        ("a%3Fb%23c", "a?b#c"),
        ("%0d%0a%7F", "\r\n\u{7f}"),
        ("%EF%BF%BF%F4%8F%BF%BF", "\u{ffff}\u{10ffff}"),
        ("%22%5C", "\"\\"),
    ];
    // All are written first: no two of them are the same key.
    let mut versions = Vec::new();
    for (encoded, key) in keys {
        let put = here.put(&format!("/kv/{encoded}")).value(key);
        let answer = put.send().await.expect(201);
        assert_eq!(answer.json()["key"], key, "{encoded}");
        versions.push(answer.version());
    }
    for ((encoded, key), version) in keys.into_iter().zip(versions) {
        let get = here.get(&format!("/kv/{encoded}"));
        let get = get.header("tidepool-consistency", "log");
        let answer = get.send().await.expect(200);
        assert_eq!(answer.version(), version, "{encoded}");
        assert_eq!(
            answer.json(),
            serde_json::json!({"key": key, "value": key}),
            "{encoded}"
        );
    }
}

#[tokio::test]
async fn two_spellings_are_one_key() {
    let (_server, here) = one().await;
    for (written, read) in [
        ("abc", "%61%62%63"),
        ("a/b", "a%2fb"),
        ("%c3%a9", "%C3%A9"),
        ("~", "%7E"),
        ("q?ignored=1", "q"),
    ] {
        let version = here.write(written, "v").await;
        let get = here.get(&format!("/kv/{read}"));
        let answer = get.header("tidepool-consistency", "log").send().await;
        assert_eq!(answer.expect(200).version(), version, "{written}");
    }
    // And differences that look small are not.
    for other in ["ABC", "abc/", "abc%20", "e%CC%81"] {
        let get = here.get(&format!("/kv/{other}"));
        get.send().await.problem(404, "not-found");
    }
}

#[tokio::test]
async fn utf8_that_is_not_encoded_is_the_key_that_it_spells() {
    let (_server, here) = one().await;
    let version = here.write("%C3%A9", "v").await;
    let mut wire = Wire::connect(here.address()).await;
    let get = "GET /kv/é HTTP/1.1\r\nHost: t\r\nTidepool-Consistency: log\r\n\r\n";
    wire.send(get).await;
    let answer = wire.answer().await.expect(200);
    assert_eq!(answer.version(), version);
}

#[tokio::test]
async fn a_key_has_at_most_1024_bytes() {
    let (_server, here) = one().await;
    let longest = [
        "k".repeat(1024),
        "%6B".repeat(1024),
        "%C3%A9".repeat(512),
        format!("{}%6B", "k".repeat(1023)),
    ];
    for key in &longest {
        let version = here.write(key, "v").await;
        let get = here.get(&format!("/kv/{key}"));
        let get = get.header("tidepool-consistency", "log");
        assert_eq!(get.send().await.expect(200).version(), version);
        here.remove(key).await;
    }
    let too_long = [
        "k".repeat(1025),
        "%6B".repeat(1025),
        "%C3%A9".repeat(513),
        format!("{}%6B", "k".repeat(1024)),
        "k".repeat(20_000),
    ];
    for key in &too_long {
        for method in ["GET", "PUT", "DELETE"] {
            let call = here.call(method, &format!("/kv/{key}")).value("v");
            call.send().await.problem(414, "key-too-long");
        }
        let head = here.head(&format!("/kv/{key}")).send().await;
        assert!(head.expect(414).body.is_empty());
    }
}

#[tokio::test]
async fn an_empty_or_malformed_key_is_400() {
    let (_server, here) = one().await;
    for key in [
        "",
        "%",
        "%2",
        "a%",
        "%zz",
        "%2z",
        "%-1",
        "%ff",
        "%c3",
        "%c3%28",
        "%ed%a0%80",
        "%c0%80",
        "%f4%90%80%80",
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let call = here.call(method, &format!("/kv/{key}")).value("v");
            call.send().await.problem(400, "bad-request");
        }
    }
    here.get("/kv/?raw")
        .send()
        .await
        .problem(400, "bad-request");
}
