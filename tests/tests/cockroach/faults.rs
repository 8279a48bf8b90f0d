//! Conversations with faults put in, and what the feed makes of them.

use std::time::Duration;

use tidepool::feed::{Event, FeedError, FeedSource, Position};
use tidepool_tests::servers::pgwire::{Conversation, Script, StandIn, Step};
use tidepool_tests::within;

use super::{CockroachFeedSettings, PATIENT, follow, playing, resolved, row, source};

const AFTER: &str = "1795431440000000000.0000000000";
const THEN: &str = "1795431450000000000.0000000000";
const END: &str = "1795431600000000000.0000000000";

#[tokio::test]
async fn silence_is_an_interruption_before_and_after_the_first_answer() {
    let impatient = CockroachFeedSettings {
        answer_wait: Duration::from_secs(3),
        silence: Duration::from_secs(2),
        ..PATIENT
    };
    for (steps, says) in [
        (vec![], "silent for 3s"),
        (vec![resolved(END)], "silent for 2s"),
    ] {
        let server = playing(steps).await;
        let delivered = follow(&source(&[&server], impatient), Some(AFTER), None).await;
        let error = delivered.error();
        assert!(matches!(error, FeedError::Interrupted(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        server.deserted().await;
    }
}

#[tokio::test]
async fn a_position_that_goes_nowhere_is_an_interruption() {
    let mut steps = vec![row("a", 1, "x"), resolved(END)];
    for _ in 0..200 {
        steps.push(Step::Wait(Duration::from_millis(20)));
        steps.push(resolved(END));
    }
    let server = playing(steps).await;
    let settings = CockroachFeedSettings {
        silence: Duration::from_secs(2),
        ..PATIENT
    };
    let delivered = follow(&source(&[&server], settings), Some(AFTER), None).await;
    let error = delivered.error();
    assert!(matches!(error, FeedError::Interrupted(_)), "{error}");
    assert!(error.to_string().contains("no later position"), "{error}");
    assert!(delivered.resolved.iter().all(|position| position == END));
}

#[tokio::test]
async fn a_connection_that_breaks_in_a_row_loses_nothing_before_it() {
    let server = playing(vec![
        row("a", 1, "x"),
        resolved(THEN),
        row("a", 2, "y"),
        Step::Torn,
    ])
    .await;
    let delivered = follow(&source(&[&server], PATIENT), Some(AFTER), None).await;
    assert_eq!(delivered.versions(), [("a", 1), ("a", 2)]);
    assert_eq!(delivered.resolved, [THEN]);
    let error = delivered.error();
    assert!(matches!(error, FeedError::Interrupted(_)), "{error}");
}

#[tokio::test]
async fn duplicates_and_any_order_are_passed_on() {
    let rows = [("a", 3), ("a", 1), ("a", 3), ("b", 1), ("a", 2)];
    let mut steps: Vec<_> = rows
        .iter()
        .map(|(key, version)| row(key, *version, "x"))
        .collect();
    steps.push(resolved(END));
    let server = playing(steps).await;
    let delivered = follow(&source(&[&server], PATIENT), Some(AFTER), Some(END)).await;
    assert_eq!(delivered.versions(), rows);
}

#[tokio::test]
async fn what_is_not_understood_is_counted_and_left_out() {
    let garbage = |value: &str| Step::Row(Some("kv_log".into()), Some("[]".into()), value.into());
    let server = playing(vec![
        row("a", 1, "x"),
        garbage("not JSON"),
        garbage(r#"{"after": {"key": "b", "version": "soon", "deleted": false}}"#),
        garbage(r#"{"after": {"key": "b", "version": 1, "deleted": false, "value": "\\xzz"}}"#),
        garbage(r#"{"after": null}"#),
        Step::Notice("something to know".into()),
        row("c", 1, "x"),
        resolved(END),
    ])
    .await;
    let source = source(&[&server], PATIENT);
    let delivered = follow(&source, Some(AFTER), Some(END)).await;
    assert_eq!(delivered.versions(), [("a", 1), ("c", 1)]);
    assert_eq!(source.counts().skipped, 3);
    assert_eq!(source.counts().removed, 1);
}

#[tokio::test]
async fn a_position_never_goes_back_and_a_late_row_is_noticed() {
    let server = playing(vec![resolved(THEN), resolved(AFTER), late(), resolved(END)]).await;
    let source = source(&[&server], PATIENT);
    let delivered = follow(&source, Some(AFTER), Some(END)).await;
    assert_eq!(delivered.resolved, [THEN, THEN, END]);
    // It is delivered all the same.
    assert_eq!(delivered.versions(), [("a", 1)]);
    assert_eq!(source.counts().late, 1);
}

/// A row from before `THEN`.
fn late() -> Step {
    let value = r#"{"after": {"key": "a", "version": 1, "deleted": true}, "updated": "1795431449000000000.0000000000"}"#;
    Step::Row(Some("kv_log".into()), Some("[]".into()), value.into())
}

#[tokio::test]
async fn what_a_release_does_not_know_is_asked_otherwise() {
    let server = StandIn::start(Script {
        refusals: vec![
            (
                "schema_change_policy".into(),
                "XXUUU".into(),
                "invalid option \"schema_change_policy\"".into(),
            ),
            (
                "CREATE CHANGEFEED".into(),
                "42601".into(),
                "at or near \"changefeed\": syntax error".into(),
            ),
        ],
        feeds: [vec![resolved(END)]].into(),
        ..Script::default()
    })
    .await;
    let delivered = follow(&source(&[&server], PATIENT), Some(AFTER), Some(END)).await;
    assert_eq!(delivered.resolved, [END]);
    let asked = server.changefeeds();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(
        asked[2].starts_with("EXPERIMENTAL CHANGEFEED FOR kv_log WITH updated"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_server_that_understands_nothing_waits_for_an_operator() {
    let server = StandIn::start(Script {
        refusals: vec![("CHANGEFEED".into(), "42601".into(), "syntax error".into())],
        ..Script::default()
    })
    .await;
    let delivered = follow(&source(&[&server], PATIENT), Some(AFTER), None).await;
    let error = delivered.error();
    assert!(matches!(error, FeedError::Repair(_)), "{error}");
    assert!(
        error
            .to_string()
            .contains("CockroachDB v22.1 does not understand"),
        "{error}"
    );
}

#[tokio::test]
async fn a_table_that_was_not_there_at_the_position_is_scanned_again() {
    let recorded = Conversation::recorded("no-such-table");
    let server = playing(recorded.steps).await;
    let delivered = follow(&source(&[&server], PATIENT), Some(AFTER), None).await;
    let error = delivered.error();
    assert!(matches!(error, FeedError::PositionLost(_)), "{error}");
    // And one that is not there now waits for an operator.
    server.change(|script| {
        script.refusals = vec![(
            "SELECT key FROM kv_log".into(),
            "42P01".into(),
            "relation \"kv_log\" does not exist".into(),
        )];
    });
    let delivered = follow(&source(&[&server], PATIENT), Some(AFTER), None).await;
    let error = delivered.error();
    assert!(matches!(error, FeedError::Repair(_)), "{error}");
}

#[tokio::test]
async fn another_server_than_cockroach_waits_for_an_operator() {
    for (version, says) in [
        ("PostgreSQL 15.3 on x86_64", "not CockroachDB"),
        ("CockroachDB CCL v21.2.17 (x86_64)", "v22.1 or newer"),
    ] {
        let server = StandIn::start(Script {
            version: version.into(),
            ..Script::default()
        })
        .await;
        let delivered = follow(&source(&[&server], PATIENT), None, None).await;
        let error = delivered.error();
        assert!(matches!(error, FeedError::Repair(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_node_that_lets_nobody_in_is_passed_over() {
    let draining = StandIn::start(Script {
        draining: true,
        ..Script::default()
    })
    .await;
    let other = playing(vec![resolved(END)]).await;
    let delivered = follow(
        &source(&[&draining, &other], PATIENT),
        Some(AFTER),
        Some(END),
    )
    .await;
    assert_eq!(delivered.resolved, [END]);
    let alone = follow(&source(&[&draining], PATIENT), Some(AFTER), None).await;
    let error = alone.error();
    assert!(matches!(error, FeedError::Interrupted(_)), "{error}");
}

#[tokio::test]
async fn a_position_that_is_none_is_lost_before_anything_is_asked() {
    let server = playing(vec![]).await;
    for text in ["", "nonsense", "-1", "17'; DROP TABLE kv_log; --"] {
        let delivered = follow(&source(&[&server], PATIENT), Some(text), None).await;
        let error = delivered.error();
        assert!(matches!(error, FeedError::PositionLost(_)), "{error}");
    }
    assert!(server.statements().is_empty());
}

#[tokio::test]
async fn a_dropped_feed_ends_its_connection() {
    let server = playing(vec![resolved(THEN)]).await;
    let source = source(&[&server], PATIENT);
    let mut feed = source.open(Some(Position(AFTER.into()))).await.unwrap();
    within("an event", feed.next()).await.unwrap();
    drop(feed);
    server.deserted().await;
}

#[tokio::test]
async fn a_dropped_call_loses_nothing() {
    let recorded = Conversation::recorded("live");
    let expected = recorded.steps.len() - 1;
    let mut steps = Vec::new();
    for step in recorded.steps {
        steps.push(step);
        steps.push(Step::Wait(Duration::from_millis(2)));
    }
    let server = playing(steps).await;
    let source = source(&[&server], PATIENT);
    let mut feed = source.open(Some(Position(AFTER.into()))).await.unwrap();
    let mut seen = 0;
    let mut dropped = 0;
    let all = async {
        // One of the messages is a removal.
        while seen < expected {
            let patience = Duration::from_micros(100 * (dropped % 7));
            match tokio::time::timeout(patience, feed.next()).await {
                Ok(event) => match event.unwrap() {
                    Event::Rows(rows) => seen += rows.len(),
                    Event::Scanned { .. } | Event::Resolved { .. } => seen += 1,
                },
                Err(_) => dropped += 1,
            }
        }
    };
    within("all messages", all).await;
    assert!(dropped > 0);
}

#[tokio::test]
async fn a_slow_reader_holds_the_server_back() {
    const ROWS: usize = 300;
    /// What sockets and one chunk of messages may hold on a machine with large
    /// buffers, in bytes.
    const UNDER_WAY: usize = 24 * 1024 * 1024;
    let value = "x".repeat(100_000);
    let mut steps: Vec<_> = (0..ROWS)
        .map(|i| row(&format!("k{i}"), 1, &value))
        .collect();
    steps.push(resolved(END));
    let whole: usize = 200_000 * ROWS;
    assert!(whole > 2 * UNDER_WAY);
    let server = playing(steps).await;
    let source = source(&[&server], PATIENT);
    let mut feed = source.open(Some(Position(AFTER.into()))).await.unwrap();
    let mut taken = 0;
    loop {
        match within("an event", feed.next()).await.unwrap() {
            Event::Rows(rows) => {
                assert!(rows.len() <= 11, "{}", rows.len());
                taken += rows.len();
            }
            Event::Scanned { .. } | Event::Resolved { .. } => break,
        }
        let ahead = server.sent().saturating_sub(taken * 200_000);
        assert!(
            ahead <= UNDER_WAY,
            "{ahead} bytes were taken from the server ahead of the reader"
        );
    }
    assert_eq!(taken, ROWS);
}
