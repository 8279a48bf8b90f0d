//! Tests of `respond`: the shape of problems, and what each status comes with.

use super::*;
use http_body_util::BodyExt;

async fn document(answer: Answer) -> Value {
    serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn a_problem_is_what_rfc_9457_says() {
    let answer = Problem::new(Kind::PreconditionFailed, "the key has version 17")
        .version(Some(Version(17)))
        .with("operation", "put")
        .with("status", "cannot be replaced")
        .into_answer();
    assert_eq!(answer.status(), 412);
    assert_eq!(answer.headers()[ETAG], "\"17\"");
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
    let expected = serde_json::json!({
        "type": "/problems/precondition-failed",
        "title": "The precondition does not hold",
        "status": 412,
        "detail": "the key has version 17",
        "version": 17,
        "operation": "put",
    });
    assert_eq!(document(answer).await, expected);
}

#[test]
fn kinds_are_named_apart_and_are_errors() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    for kind in Kind::ALL {
        assert!(kind.status().is_client_error() || kind.status().is_server_error());
        assert!(
            kind.name()
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'-')
        );
    }
    let statuses: Vec<_> = Kind::ALL
        .iter()
        .map(|kind| kind.status().as_u16())
        .collect();
    assert!(statuses.is_sorted(), "{statuses:?}");
}

#[test]
fn what_a_status_must_come_with_is_there() {
    let headers = |problem: Problem| problem.into_answer().headers().clone();
    let refused = headers(RouteError::MethodNotAllowed { allow: "GET" }.into());
    assert_eq!(refused[ALLOW], "GET");
    assert_eq!(
        headers(Problem::new(Kind::Unauthorized, ""))[WWW_AUTHENTICATE],
        "Bearer"
    );
    assert_eq!(
        headers(Problem::new(Kind::Overloaded, ""))[RETRY_AFTER],
        "1"
    );
    let later = Problem::new(Kind::Unavailable, "").retry_after(Duration::from_millis(2001));
    assert_eq!(headers(later)[RETRY_AFTER], "3");
    let soon = Problem::new(Kind::Unavailable, "").retry_after(Duration::ZERO);
    assert_eq!(headers(soon)[RETRY_AFTER], "1");
    assert!(!headers(Problem::new(Kind::OutcomeUnknown, "")).contains_key(RETRY_AFTER));
}

#[test]
fn errors_of_routes_and_bodies_have_their_status() {
    let status = |problem: Problem| problem.status().as_u16();
    assert_eq!(status(RouteError::NotFound.into()), 404);
    assert_eq!(status(RouteError::EmptyKey.into()), 400);
    assert_eq!(status(RouteError::MalformedKey.into()), 400);
    assert_eq!(status(RouteError::KeyTooLong.into()), 414);
    assert_eq!(
        status(
            RouteError::BadHeader {
                name: "Accept",
                advice: ""
            }
            .into()
        ),
        400
    );
    assert_eq!(status(BodyError::TooLarge { limit: 1 }.into()), 413);
    assert_eq!(status(BodyError::Timeout { after: RETRY }.into()), 408);
    assert_eq!(
        status(
            BodyError::Cut {
                reason: String::new()
            }
            .into()
        ),
        400
    );
}

#[test]
fn an_entity_tag_is_the_version_in_quotes() {
    for version in [1, 17, i64::MAX, i64::MIN, -1, 0] {
        assert_eq!(etag(Version(version)), format!("\"{version}\""));
    }
}

#[tokio::test]
async fn head_has_the_length_and_not_the_body() {
    let answer = without_body(json_bytes(StatusCode::OK, Bytes::from_static(b"{}")));
    assert_eq!(answer.headers()[CONTENT_LENGTH], "2");
    assert!(
        answer
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}
