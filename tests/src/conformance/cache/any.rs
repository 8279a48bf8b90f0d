//! Any bytes, any order, any decision.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tidepool::cache::{Cache, Decision};
use tidepool::clock::{Entropy, SeededEntropy};
use tidepool::model::{Key, MAX_KEY_BYTES, Row, Value, Version};

use super::{find, row, state, store};

/// Orders tried where any has to do.
const SEEDS: u64 = 8;

pub async fn keys_and_values_are_any_bytes(cache: &dyn Cache) {
    let longest = [
        "k".repeat(MAX_KEY_BYTES),
        "\u{10ffff}".repeat(MAX_KEY_BYTES / 4),
        "\0".repeat(MAX_KEY_BYTES),
    ];
    let corners = [
        "\0",
        "a\0b",
        "\u{10ffff}",
        "é",
        "e\u{301}",
        " ",
        "%2F/..",
        "\r\n",
        "*",
        "{a}b",
        "\u{feff}",
        "\u{202e}x",
        "\u{7f}",
        "meta",
        "lead",
    ];
    let keys = corners
        .into_iter()
        .chain(longest.iter().map(String::as_str));
    for (index, key) in keys.enumerate() {
        let values = [
            (
                Bytes::from_iter(0..=255u8),
                Some("text/plain; charset=\"x\""),
            ),
            (Bytes::new(), None),
            (Bytes::from_static(b"---"), Some("")),
        ];
        let (bytes, content_type) = values[index % values.len()].clone();
        let value = Value {
            bytes,
            content_type: content_type.map(Arc::from),
            expires_at: (index % 2 == 0).then_some(i64::MAX),
        };
        let row = Row {
            key: Key::new(key).unwrap(),
            version: Version(90 + index as i64),
            value: Some(value),
        };
        store(cache, &row).await;
        assert_eq!(find(cache, key).await, Some(state(&row)), "{key:?}");
    }
}

/// Rows of six keys in an order of their own: each once at least.
fn shuffled(entropy: &dyn Entropy, seed: u64, base: i64) -> Vec<Row> {
    let mut rows: Vec<Row> = (0..30)
        .map(|index| {
            let value = (!entropy.next_u64().is_multiple_of(4)).then_some("value");
            row(&format!("any{seed}.{}", index % 6), base + index, value)
        })
        .collect();
    for _ in 0..10 {
        let again = rows[(entropy.next_u64() % 30) as usize].clone();
        rows.push(again);
    }
    for last in (1..rows.len()).rev() {
        rows.swap(last, (entropy.next_u64() % (last as u64 + 1)) as usize);
    }
    rows
}

pub async fn rows_in_any_order_converge(cache: &dyn Cache) {
    for seed in 0..SEEDS {
        let entropy = SeededEntropy::new(seed);
        let rows = shuffled(&entropy, seed, 1_000 * (seed as i64 + 1));
        let mut newest: HashMap<Key, Row> = HashMap::new();
        for row in &rows {
            let held = newest.entry(row.key.clone()).or_insert_with(|| row.clone());
            if held.version < row.version {
                *held = row.clone();
            }
        }
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let size = (entropy.next_u64() as usize % 9 + 1).min(rest.len());
            let (batch, after) = rest.split_at(size);
            cache
                .apply(batch, &vec![Decision::Store; size])
                .await
                .unwrap();
            rest = after;
        }
        for row in newest.values() {
            let found = find(cache, row.key.as_str()).await;
            assert_eq!(found, Some(state(row)), "seed {seed}");
        }
    }
}

pub async fn no_order_and_no_decision_makes_a_key_go_back(cache: &dyn Cache) {
    for seed in 0..SEEDS {
        let entropy = SeededEntropy::new(100 + seed);
        let rows = shuffled(&entropy, seed, 100_000 * (seed as i64 + 1));
        let mut applied: HashMap<Key, Version> = HashMap::new();
        for row in &rows {
            let decision = match entropy.next_u64() % 3 {
                0 => Decision::Store,
                1 => Decision::Refresh,
                _ => Decision::Evict,
            };
            cache
                .apply(std::slice::from_ref(row), &[decision])
                .await
                .unwrap();
            let newest = applied.entry(row.key.clone()).or_insert(row.version);
            *newest = (*newest).max(row.version);
            if let Some(found) = find(cache, row.key.as_str()).await {
                assert_eq!(found.version(), Some(*newest), "seed {seed}, {row:?}");
            }
        }
    }
}
