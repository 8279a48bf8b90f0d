//! Tests of `route`: the table of paths and methods, keys, and the headers.

use std::time::Duration;

use http::HeaderValue;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::*;

fn with(method: Method, path: &str, lines: &[(&str, &str)]) -> Result<Route, RouteError> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    parse(&method, &path.parse().unwrap(), &headers)
}

fn kv(method: Method, lines: &[(&str, &str)]) -> Result<KvRequest, RouteError> {
    with(method, "/kv/k", lines).map(|route| match route {
        Route::Kv(request) => request,
        other => panic!("{other:?}"),
    })
}

fn key_of(path: &str) -> Result<String, RouteError> {
    match with(Method::GET, path, &[])? {
        Route::Kv(request) => Ok(request.key.as_str().to_owned()),
        other => panic!("{other:?}"),
    }
}

fn condition(lines: &[(&str, &str)]) -> Result<Condition, RouteError> {
    kv(Method::PUT, lines).map(|request| request.condition)
}

fn versions(list: &[i64]) -> Tags {
    Tags::Versions(list.iter().map(|v| Version(*v)).collect())
}

#[test]
fn a_method_of_a_key_is_an_operation() {
    for (method, operation, head) in [
        (Method::GET, Operation::Get, false),
        (Method::HEAD, Operation::Get, true),
        (Method::PUT, Operation::Put, false),
        (Method::DELETE, Operation::Delete, false),
    ] {
        let request = kv(method, &[]).unwrap();
        assert_eq!((request.operation, request.head), (operation, head));
        assert_eq!(request.consistency, Consistency::Cached);
        assert_eq!(request.condition, Condition::None);
        assert_eq!(request.accept, None);
    }
}

#[test]
fn any_other_method_is_refused_with_those_that_are_allowed() {
    for method in [
        "POST", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "BREW",
    ] {
        let method: Method = method.parse().unwrap();
        let allow = |path| with(method.clone(), path, &[]);
        assert_eq!(
            allow("/kv/k"),
            Err(RouteError::MethodNotAllowed { allow: KV_METHODS })
        );
        assert_eq!(
            allow("/kv/"),
            Err(RouteError::MethodNotAllowed { allow: KV_METHODS })
        );
        assert_eq!(
            allow("/healthz"),
            Err(RouteError::MethodNotAllowed {
                allow: PROBE_METHODS
            })
        );
        assert_eq!(allow("/nowhere"), Err(RouteError::NotFound));
    }
    assert_eq!(
        with(Method::PUT, "/readyz", &[]),
        Err(RouteError::MethodNotAllowed {
            allow: PROBE_METHODS
        })
    );
}

#[test]
fn paths_are_matched_whole() {
    assert_eq!(with(Method::GET, "/healthz?x", &[]), Ok(Route::Healthz));
    assert_eq!(with(Method::HEAD, "/readyz", &[]), Ok(Route::Readyz));
    for path in ["/", "/kv", "/KV/k", "/kvs/k", "/healthz/", "//kv/k", "*"] {
        assert_eq!(
            with(Method::GET, path, &[]),
            Err(RouteError::NotFound),
            "{path}"
        );
    }
}

#[test]
fn the_rest_of_the_path_is_the_key() {
    for (path, key) in [
        ("/kv/user:1", "user:1"),
        ("/kv/a/b//c/", "a/b//c/"),
        ("/kv//", "/"),
        ("/kv/../x", "../x"),
        ("/kv/a+b", "a+b"),
        ("/kv/a%20b%2Fc%2fd", "a b/c/d"),
        ("/kv/%25", "%"),
        ("/kv/100%2525", "100%25"),
        ("/kv/%C3%A9", "é"),
        ("/kv/%00", "\0"),
        ("/kv/k?ttl=5", "k"),
        ("http://other.host/kv/k", "k"),
    ] {
        assert_eq!(key_of(path).as_deref(), Ok(key), "{path}");
    }
}

#[test]
fn empty_malformed_and_overlong_keys_are_refused() {
    assert_eq!(key_of("/kv/"), Err(RouteError::EmptyKey));
    assert_eq!(key_of("/kv/?x"), Err(RouteError::EmptyKey));
    for path in [
        "/kv/%",
        "/kv/a%2",
        "/kv/%zz",
        "/kv/%+1",
        "/kv/%%41",
        "/kv/%FF",
        "/kv/%C3",
        "/kv/%ED%A0%80",
        "/kv/%C0%80",
    ] {
        assert_eq!(key_of(path), Err(RouteError::MalformedKey), "{path}");
    }
    let path = |n: usize, unit: &str| format!("/kv/{}", unit.repeat(n));
    assert_eq!(key_of(&path(1024, "k")).unwrap().len(), 1024);
    assert_eq!(key_of(&path(1025, "k")), Err(RouteError::KeyTooLong));
    assert_eq!(key_of(&path(1024, "%6b")).unwrap().len(), 1024);
    assert_eq!(key_of(&path(1025, "%6b")), Err(RouteError::KeyTooLong));
    assert_eq!(key_of(&path(512, "%C3%A9")).unwrap().len(), 1024);
    assert_eq!(key_of(&path(513, "%C3%A9")), Err(RouteError::KeyTooLong));
}

#[test]
fn staleness_is_1_second_to_a_day_and_the_caches_to_answer() {
    let of = |text: &str| {
        let request = kv(Method::GET, &[("tidepool-consistency", text)]).unwrap();
        (request.consistency, request.max_staleness)
    };
    for seconds in [1, 5, 86_400] {
        let staleness = Some(Duration::from_secs(seconds));
        let text = format!("max-staleness={seconds}");
        assert_eq!(of(&text), (Consistency::Cached, staleness));
    }
    for text in ["cached", "log", "at-least=1"] {
        assert_eq!(of(text).1, None);
    }
}

#[test]
fn consistency_is_read_for_reads_only() {
    let of = |method, text: &str| {
        kv(method, &[("tidepool-consistency", text)]).map(|request| request.consistency)
    };
    assert_eq!(of(Method::GET, "cached"), Ok(Consistency::Cached));
    assert_eq!(of(Method::HEAD, " log "), Ok(Consistency::Log));
    assert_eq!(
        of(Method::GET, "at-least=17"),
        Ok(Consistency::AtLeast(Version(17)))
    );
    let most = i64::MAX.to_string();
    assert_eq!(
        of(Method::GET, &format!("at-least={most}")),
        Ok(Consistency::AtLeast(Version(i64::MAX)))
    );
    for text in [
        "",
        "Log",
        "strong",
        "at-least",
        "at-least=",
        "at-least=0",
        "at-least=-1",
        "at-least=+1",
        "at-least=\"1\"",
        "at-least=9223372036854775808",
        "max-staleness",
        "max-staleness=",
        "max-staleness=0",
        "max-staleness=01",
        "max-staleness=1.5",
        "max-staleness=86401",
        "max-staleness=9223372036854775808",
    ] {
        let error = of(Method::GET, text).unwrap_err();
        assert!(
            matches!(
                error,
                RouteError::BadHeader {
                    name: "Tidepool-Consistency",
                    ..
                }
            ),
            "{text}"
        );
    }
    assert!(of(Method::PUT, "log").is_err());
    assert!(of(Method::DELETE, "cached").is_err());
    assert!(
        kv(
            Method::GET,
            &[
                ("tidepool-consistency", "log"),
                ("tidepool-consistency", "log")
            ]
        )
        .is_err()
    );
}

#[test]
fn an_idempotency_key_is_read_on_writes_only() {
    let of = |method, lines: &[(&str, &str)]| kv(method, lines).map(|_| ());
    for method in [Method::PUT, Method::DELETE] {
        for text in ["a-1", "\"a-1\"", " \"a\\\\b\" "] {
            assert_eq!(of(method.clone(), &[("idempotency-key", text)]), Ok(()));
        }
        for lines in [
            &[("idempotency-key", "")][..],
            &[("idempotency-key", "a b")],
            &[("idempotency-key", "\"a")],
            &[("idempotency-key", "a"), ("idempotency-key", "a")],
        ] {
            let error = of(method.clone(), lines).unwrap_err().to_string();
            assert!(error.contains("header Idempotency-Key: send "), "{error}");
        }
    }
    assert_eq!(of(Method::GET, &[("idempotency-key", "a b")]), Ok(()));
}

#[test]
fn conditions_are_read_as_the_rfc_says() {
    let of = |text: &str| condition(&[("if-match", text)]).unwrap();
    assert_eq!(of("*"), Condition::IfMatch(Tags::Any));
    assert_eq!(of("\"7\""), Condition::IfMatch(versions(&[7])));
    assert_eq!(
        of(" , \"7\" ,\t\"8\",, "),
        Condition::IfMatch(versions(&[7, 8]))
    );
    // Not numbers of ours: well formed, and match nothing.
    assert_eq!(
        of("\"\", \"a,b\", \"07\", \"-7\", \"7x\""),
        Condition::IfMatch(versions(&[]))
    );
    assert_eq!(
        of("\"99999999999999999999\""),
        Condition::IfMatch(versions(&[]))
    );
    // Weak tags match only If-None-Match.
    assert_eq!(of("W/\"7\", \"8\""), Condition::IfMatch(versions(&[8])));
    let none = |lines| condition(lines).unwrap();
    assert_eq!(
        none(&[("if-none-match", "W/\"7\"")]),
        Condition::IfNoneMatch(versions(&[7]))
    );
    assert_eq!(
        none(&[("if-none-match", "*")]),
        Condition::IfNoneMatch(Tags::Any)
    );
    assert_eq!(
        none(&[("if-none-match", "\"7\""), ("if-none-match", "\"8\"")]),
        Condition::IfNoneMatch(versions(&[7, 8]))
    );
}

#[test]
fn malformed_conditions_are_refused() {
    for text in [
        "",
        ",",
        "7",
        "\"7",
        "7\"",
        "\"7\" \"8\"",
        "\"7\"x",
        "*, \"7\"",
        "**",
        "*,*",
        "w/\"7\"",
        "W/7",
        "\"a b\"",
        "W/",
    ] {
        for name in ["if-match", "if-none-match"] {
            assert!(
                matches!(
                    condition(&[(name, text)]),
                    Err(RouteError::BadHeader { .. })
                ),
                "{name}: {text}"
            );
        }
    }
    assert!(condition(&[("if-match", "*"), ("if-match", "\"7\"")]).is_err());
    let both = condition(&[("if-match", "\"7\""), ("if-none-match", "*")]);
    assert!(
        matches!(both, Err(RouteError::BadHeader { advice, .. }) if advice.contains("not both"))
    );
    let list = |n| vec!["\"7\""; n].join(",");
    assert_eq!(
        condition(&[("if-match", &list(MAX_TAGS))]),
        Ok(Condition::IfMatch(versions(&[7; MAX_TAGS])))
    );
    assert!(condition(&[("if-match", &list(MAX_TAGS + 1))]).is_err());
}

#[test]
fn accept_is_joined_and_the_usual_one_is_none() {
    let of = |lines: &[(&str, &str)]| kv(Method::GET, lines).map(|request| request.accept);
    assert_eq!(of(&[("accept", "*/*")]), Ok(None));
    assert_eq!(of(&[("accept", "")]), Ok(None));
    assert_eq!(
        of(&[("accept", "text/plain")]),
        Ok(Some("text/plain".to_owned()))
    );
    assert_eq!(
        of(&[("accept", "text/plain"), ("accept", "*/*;q=0.1")]),
        Ok(Some("text/plain, */*;q=0.1".to_owned()))
    );
    assert!(of(&[("accept", "é")]).is_err());
    assert_eq!(
        of(&[("accept", &"a".repeat(4096))]).unwrap().unwrap().len(),
        4096
    );
    assert!(of(&[("accept", &"a".repeat(4097))]).is_err());
}

#[test]
fn a_header_of_a_write_that_is_no_text_is_refused_by_its_name() {
    let uri: Uri = "/kv/k".parse().unwrap();
    let parsed = |method: &Method, value: &[u8]| {
        let mut headers = HeaderMap::new();
        headers.append("tidepool-ttl", HeaderValue::from_static("5"));
        headers.append("tidepool-ttl", HeaderValue::from_bytes(value).unwrap());
        parse(method, &uri, &headers)
    };
    for method in [Method::PUT, Method::DELETE] {
        let error = parsed(&method, b"\xe9").unwrap_err();
        assert!(matches!(error, RouteError::NotText { .. }), "{error:?}");
        assert!(error.to_string().contains("tidepool-ttl"), "{error}");
        assert!(parsed(&method, "é".as_bytes()).is_ok());
    }
    // A read does not look.
    assert!(parsed(&Method::GET, b"\xe9").is_ok());
}

proptest! {
    #[test]
    fn an_encoded_key_reads_back(key in "\\PC{1,200}") {
        let path = format!("/kv/{}", utf8_percent_encode(&key, NON_ALPHANUMERIC));
        prop_assert_eq!(key_of(&path), Ok(key));
    }

    #[test]
    fn a_key_of_any_bytes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 1..300)) {
        let path = format!("/kv/{}", percent_encoding::percent_encode(&bytes, NON_ALPHANUMERIC));
        match String::from_utf8(bytes) {
            Ok(text) => prop_assert_eq!(key_of(&path), Ok(text)),
            Err(_) => prop_assert_eq!(key_of(&path), Err(RouteError::MalformedKey)),
        }
    }

    #[test]
    fn no_path_and_no_header_make_it_panic(
        path in "/(kv/)?[!-~]{0,40}",
        name in prop::sample::select(vec!["if-match", "if-none-match", "accept", "tidepool-consistency", "idempotency-key"]),
        value in prop::collection::vec(prop::sample::select(b"\"W/*, 17\xffat-least=".to_vec()), 0..20),
    ) {
        if let (Ok(uri), Ok(value)) = (path.parse::<Uri>(), HeaderValue::from_bytes(&value)) {
            let mut headers = HeaderMap::new();
            headers.append(name, value);
            for method in [Method::GET, Method::PUT, Method::POST] {
                let _ = parse(&method, &uri, &headers);
            }
        }
    }
}
