//! The start without a position: what was there, then what follows.

use tidepool::feed::FeedError;
use tidepool_tests::servers::pgwire::{Script, StandIn, Stored};

use super::{CockroachFeedSettings, PATIENT, follow, resolved, row, source};

/// A table of 25 keys, every third of them deleted.
fn snapshot() -> Vec<Stored> {
    let row = |index: i64| Stored {
        key: format!("k{index:02}-键"),
        version: 1000 + index,
        value: (index % 3 != 0).then(|| vec![0, 255, u8::try_from(index).unwrap()]),
    };
    (0..25).map(row).collect()
}

#[tokio::test]
async fn a_scan_gives_every_key_once_and_the_feed_follows_without_a_gap() {
    for binary_keys in [false, true] {
        let mut rows = snapshot();
        if binary_keys {
            rows[7].key = "k07-\0-\\x41".into();
        }
        let keys: Vec<_> = rows
            .iter()
            .map(|row| (row.key.clone(), row.version))
            .collect();
        let server = StandIn::start(Script {
            binary_keys,
            snapshot: rows,
            feeds: [vec![resolved("1795431444000000000.0000000000")]].into(),
            ..Script::default()
        })
        .await;
        let settings = CockroachFeedSettings {
            batch_rows: 4,
            ..PATIENT
        };
        let source = source(&[&server], settings);
        let end = "1795431444000000000.0000000000";
        let delivered = follow(&source, None, Some(end)).await;
        let found = delivered.versions().into_iter();
        let found: Vec<_> = found
            .map(|(key, version)| (key.to_owned(), version))
            .collect();
        assert_eq!(found, keys);
        let deleted = delivered.rows.iter().filter(|row| row.value.is_none());
        assert_eq!(deleted.count(), 9);
        assert!(delivered.batches.iter().all(|rows| *rows <= 4));
        // The scan is at one moment, and the feed starts at the same.
        let moment = Script::default().moment;
        assert_eq!(delivered.resolved, [moment.clone(), end.to_owned()]);
        let statements = server.statements();
        let pages = statements
            .iter()
            .filter(|text| text.contains("DISTINCT ON"));
        let pages: Vec<_> = pages.collect();
        assert_eq!(pages.len(), 7);
        assert!(
            pages
                .iter()
                .all(|page| page.contains(&format!("AS OF SYSTEM TIME '{moment}'")))
        );
        let feeds = server.changefeeds();
        assert!(
            feeds[0].contains(&format!("cursor='{moment}'")),
            "{feeds:?}"
        );
    }
}

#[tokio::test]
async fn a_full_last_page_is_followed_by_an_empty_one() {
    let server = StandIn::start(Script {
        snapshot: snapshot(),
        ..Script::default()
    })
    .await;
    let settings = CockroachFeedSettings {
        batch_rows: 5,
        ..PATIENT
    };
    let moment = Script::default().moment;
    let delivered = follow(&source(&[&server], settings), None, Some(&moment)).await;
    assert_eq!(delivered.rows.len(), 25);
}

#[tokio::test]
async fn batches_are_bounded_by_bytes_too() {
    let rows = (0..20).map(|index| row(&format!("k{index}"), 1, &"x".repeat(1000)));
    let mut steps: Vec<_> = rows.collect();
    let end = "1795431600000000000.0000000000";
    steps.push(resolved(end));
    let server = super::playing(steps).await;
    let settings = CockroachFeedSettings {
        batch_bytes: 3000,
        ..PATIENT
    };
    let delivered = follow(&source(&[&server], settings), None, Some(end)).await;
    assert_eq!(delivered.rows.len(), 20);
    assert!(
        delivered.batches.iter().all(|rows| *rows <= 3),
        "{:?}",
        delivered.batches
    );
}

#[tokio::test]
async fn an_interrupted_scan_goes_on_at_its_moment() {
    let begun = Script::default().moment;
    let end = "1795431700000000000.0000000000";
    let server = StandIn::start(Script {
        snapshot: snapshot(),
        keys: Some(20),
        feeds: [vec![resolved(end)]].into(),
        ..Script::default()
    })
    .await;
    let settings = CockroachFeedSettings {
        batch_rows: 4,
        ..PATIENT
    };
    let source = source(&[&server], settings);
    let first = follow(&source, None, Some(&begun)).await;
    // The last page ends the scan, and the estimate is dropped when it was passed.
    let rows = first.scanned.iter().map(|(_, rows, total)| (*rows, *total));
    let rows: Vec<_> = rows.collect();
    let known = |rows| (rows, Some(20));
    let expected: Vec<_> = [4, 8, 12, 16, 20].map(known).into_iter().collect();
    assert_eq!(rows[..5], expected);
    assert_eq!(rows[5..], [(24, None)]);

    // It is later now, and the scan still shows the moment that it began at.
    let later = "1795431500000000000.0000000000";
    server.change(|script| {
        script.moment = later.into();
        script.feeds = [vec![resolved(end)]].into();
    });
    let sent = server.statements().len();
    let (third_page, ..) = &first.scanned[2];
    let resumed = follow(&source, Some(third_page), Some(end)).await;
    assert_eq!(resumed.versions(), first.versions()[12..]);
    assert_eq!(resumed.resolved, [begun.clone(), end.into()]);
    let pages: Vec<_> = server.statements().split_off(sent);
    let pages: Vec<_> = pages
        .iter()
        .filter(|text| text.contains("DISTINCT ON"))
        .collect();
    assert_eq!(pages.len(), 4);
    assert!(pages.iter().all(|page| page.contains(&begun)), "{pages:?}");
}

#[tokio::test]
async fn a_scan_whose_moment_is_no_longer_kept_is_lost() {
    let server = StandIn::start(Script {
        snapshot: snapshot(),
        ..Script::default()
    })
    .await;
    let source = source(&[&server], PATIENT);
    let position = format!("scan:0:7:6b3036:{}", Script::default().moment);
    for (code, message) in [
        (
            "XXUUU",
            "batch timestamp 1795431520.657337230,0 must be after replica GC threshold 1795431527.664569790,0",
        ),
        // It was made anew since.
        ("42P01", "relation \"kv_log\" does not exist"),
    ] {
        server.change(|script| {
            script.refusals = vec![("DISTINCT ON".into(), code.into(), message.into())];
        });
        let delivered = follow(&source, Some(&position), None).await;
        let error = delivered.error();
        assert!(matches!(error, FeedError::PositionLost(_)), "{error}");
    }
}
