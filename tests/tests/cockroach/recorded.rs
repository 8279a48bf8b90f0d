//! Every recorded conversation, played as it was.

use std::collections::BTreeSet;

use serde_json::Value;
use tidepool::feed::{FeedError, FeedSource};
use tidepool_tests::servers::pgwire::{Conversation, Script, StandIn, Step};

use super::{Delivered, PATIENT, follow, source};

/// Plays a fixture to a feed that starts where the recorded one did, and reads all
/// of it.
async fn play(name: &str) -> Delivered {
    let recorded = Conversation::recorded(name);
    let (cursor, last) = (cursor(&recorded), positions(&recorded).pop());
    let ends = recorded
        .steps
        .iter()
        .any(|step| matches!(step, Step::Error(..)));
    let server = StandIn::start(Script {
        feeds: [recorded.steps.clone()].into(),
        ..Script::default()
    })
    .await;
    let source = source(&[&server], PATIENT);
    let until = last.filter(|_| !ends);
    let mut delivered = follow(&source, cursor.as_deref(), until.as_deref()).await;
    assert_eq!(source.counts().skipped, 0, "{name}");
    assert_eq!(source.counts().late, 0, "{name}");
    if cursor.is_none() {
        // Where the scan, of nothing, was; the feed starts there.
        assert_eq!(delivered.resolved.remove(0), Script::default().moment);
    }
    let sent = server.changefeeds();
    let [sent] = &sent[..] else {
        panic!("{name}: {sent:?}")
    };
    assert_same_request(sent, &recorded.statement);
    assert_eq!(delivered.resolved, positions(&recorded), "{name}");
    assert_rows(&delivered, &recorded);
    delivered
}

/// The cursor of the recorded statement.
fn cursor(recorded: &Conversation) -> Option<String> {
    let (_, rest) = recorded.statement.split_once("cursor='")?;
    Some(rest.split('\'').next().unwrap().to_owned())
}

/// The recorded values, as JSON.
fn values(recorded: &Conversation) -> Vec<Value> {
    let steps = recorded.steps.iter();
    let values = steps.filter_map(|step| match step {
        Step::Row(_, _, value) => Some(serde_json::from_str(value).unwrap()),
        _ => None,
    });
    values.collect()
}

fn positions(recorded: &Conversation) -> Vec<String> {
    let values = values(recorded);
    let positions = values.iter().filter_map(|value| value["resolved"].as_str());
    positions.map(str::to_owned).collect()
}

/// What was asked is what was recorded, but for where it starts: ours always has a
/// cursor, which implies that nothing is scanned; and but for what spares it every
/// row again when a column is added.
fn assert_same_request(sent: &str, recorded: &str) {
    let options = |text: &str| -> (String, BTreeSet<String>) {
        let (verb, options) = text.split_once(" WITH ").unwrap();
        let options = options.split(", ").map(str::to_owned);
        (verb.replace("nosuch", "kv_log"), options.collect())
    };
    let start = |option: &String| option.contains("initial_scan") || option.starts_with("cursor=");
    let ((sent_verb, mut sent), (verb, mut recorded)) = (options(sent), options(recorded));
    assert_eq!(sent_verb, verb);
    assert!(sent.remove("schema_change_policy='nobackfill'"));
    // One fixture was recorded without it, to show what the default does.
    recorded.insert("min_checkpoint_frequency='1s'".into());
    let sent_cursor: Vec<_> = sent.iter().filter(|o| start(o)).cloned().collect();
    assert!(sent_cursor[0].starts_with("cursor="), "{sent_cursor:?}");
    if let Some(cursor) = recorded.iter().find(|o| o.starts_with("cursor=")) {
        assert_eq!(sent_cursor, std::slice::from_ref(cursor));
    }
    sent.retain(|option| !start(option));
    recorded.retain(|option| !start(option));
    assert_eq!(sent, recorded);
}

/// The rows that were recorded, all and in their order, byte for byte.
fn assert_rows(delivered: &Delivered, recorded: &Conversation) {
    let values = values(recorded);
    let expected: Vec<_> = values
        .iter()
        .filter_map(|value| value.get("after").filter(|after| !after.is_null()))
        .collect();
    assert_eq!(delivered.rows.len(), expected.len());
    for (row, expected) in delivered.rows.iter().zip(expected) {
        assert_eq!(expected["key"], row.key.as_str());
        assert_eq!(expected["version"], row.version.0);
        assert_eq!(expected["deleted"], row.value.is_none());
        if let Some(value) = &row.value {
            let digits: String = value.bytes.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(expected["value"], format!("\\x{digits}"));
            let content_type = expected.get("content_type").and_then(Value::as_str);
            assert_eq!(value.content_type.as_deref(), content_type);
        }
    }
}

#[tokio::test]
async fn live_rows_come_between_what_is_resolved() {
    let delivered = play("live").await;
    assert!(delivered.error.is_none());
    assert_eq!(delivered.resolved.len(), 6);
    let key = "ключ/ \"q\" \\ 键";
    // One was removed again: that is no row.
    assert_eq!(
        delivered.versions(),
        [("a", 1), ("a", 2), ("b", 1), (key, 1), ("a", 3), ("c", 1)]
    );
}

#[tokio::test]
async fn a_resumed_feed_gives_the_newest_version_first() {
    let delivered = play("resume-from-resolved").await;
    assert_eq!(delivered.versions()[..3], [("a", 3), ("a", 2), ("a", 1)]);
    assert_eq!(delivered.rows.len(), 6);
}

#[tokio::test]
async fn rows_that_a_scan_of_the_server_sends_are_rows() {
    assert_eq!(play("initial-scan").await.rows.len(), 5);
}

#[tokio::test]
async fn a_column_that_is_added_sends_every_row_again() {
    let delivered = play("add-column").await;
    assert_eq!(delivered.rows.len(), 10);
    assert_eq!(delivered.resolved.len(), 7);
}

#[tokio::test]
async fn an_idle_table_goes_on_resolving() {
    let delivered = play("idle-first-answer").await;
    assert!(delivered.rows.is_empty());
    assert_eq!(delivered.resolved.len(), 2);
}

#[tokio::test]
async fn a_cancelled_query_is_an_interruption() {
    let delivered = play("cancelled").await;
    let error = delivered.error();
    assert!(matches!(error, FeedError::Interrupted(_)), "{error}");
    assert!(
        error
            .to_string()
            .contains("query execution canceled (57014)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_that_drains_is_an_interruption() {
    let delivered = play("drain").await;
    assert_eq!(delivered.resolved.len(), 12);
    let error = delivered.error();
    assert!(matches!(error, FeedError::Interrupted(_)), "{error}");
    assert!(error.to_string().contains("57014"), "{error}");
}

#[tokio::test]
async fn a_cursor_that_is_too_old_is_a_lost_position() {
    let delivered = play("cursor-too-old").await;
    let error = delivered.error();
    assert!(matches!(error, FeedError::PositionLost(_)), "{error}");
    assert!(
        error.to_string().contains("replica GC threshold"),
        "{error}"
    );
}

#[tokio::test]
async fn what_an_operator_has_to_repair_says_what_to_do() {
    for (name, parts) in [
        (
            "truncated",
            [
                "\"kv_log\" was truncated",
                "flush the cache of every region",
            ],
        ),
        ("dropped", ["\"kv_log\" was dropped", "restore it"]),
        (
            "rangefeed-disabled",
            [
                "rangefeeds require",
                "SET CLUSTER SETTING kv.rangefeed.enabled = true;",
            ],
        ),
        (
            "no-privilege",
            [
                "CONTROLCHANGEFEED (42501)",
                "ALTER USER \"feed\" WITH CONTROLCHANGEFEED;",
            ],
        ),
        (
            "no-such-table",
            ["does not exist", "restart Tidepool to create it"],
        ),
    ] {
        let delivered = play(name).await;
        let error = delivered.error();
        assert!(matches!(error, FeedError::Repair(_)), "{name}: {error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{name}: {error}");
        }
    }
}

#[test]
fn every_fixture_is_played() {
    let code = include_str!("recorded.rs");
    let folder = tidepool_tests::built::repository().join("tests/fixtures/cockroach");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let name = name.strip_suffix(".jsonl").unwrap();
        assert!(
            code.contains(&format!("\"{name}\"")),
            "{name} is not played"
        );
        seen += 1;
    }
    assert_eq!(seen, 13);
}
