//! What every quarantine has to do. Two handles on one database show what only hosts
//! beside each other can.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidepool::model::{Key, Version};
use tidepool::quarantine::{Entry, MAX_WHY_BYTES, MOST_PER_REGION, Quarantine};

/// Runs all of it, on an empty one.
pub async fn run(a: Arc<dyn Quarantine>, b: Arc<dyn Quarantine>) {
    nothing_is_in_a_new_one(&*a).await;
    entries_come_back(&*a, &*b).await;
    a_key_has_one_entry_and_the_newest_version_wins(&*a, &*b).await;
    regions_are_apart(&*a).await;
    what_is_removed_is_gone_unless_it_is_newer(&*a, &*b).await;
    the_oldest_go(&*a, &*b).await;
    many_at_once_lose_nothing(&a, &b).await;
}

/// An entry.
pub fn entry(key: &str, version: i64, at: i64) -> Entry {
    let key = Key::new(key).unwrap();
    Entry::new(key, Version(version), at, &format!("trapped at {at}"))
}

async fn put(quarantine: &dyn Quarantine, region: &str, entries: &[Entry]) {
    let gone = quarantine.put(region, entries.to_vec()).await.unwrap();
    assert_eq!(gone, 0);
}

async fn nothing_is_in_a_new_one(quarantine: &dyn Quarantine) {
    assert_eq!(quarantine.counts().await.unwrap(), BTreeMap::new());
    assert_eq!(quarantine.list("eu").await.unwrap(), []);
    quarantine.remove("eu", Vec::new()).await.unwrap();
    put(quarantine, "eu", &[]).await;
    assert_eq!(quarantine.counts().await.unwrap(), BTreeMap::new());
}

async fn entries_come_back(a: &dyn Quarantine, b: &dyn Quarantine) {
    let key = |text: &str| Key::new(text).unwrap();
    let odd = Entry::new(key("\0 \"ü\"\n'"), Version(i64::MAX), 3, "\0 \"ü\" '\n");
    let long = "k".repeat(1024);
    let long = Entry::new(key(&long), Version(1), 2, &"w".repeat(MAX_WHY_BYTES));
    let plain = entry("plain", 7, 1);
    put(a, "back", &[plain.clone(), odd.clone(), long.clone()]).await;
    // The newest first.
    assert_eq!(b.list("back").await.unwrap(), [odd, long, plain]);
    assert_eq!(b.counts().await.unwrap()["back"], 3);
}

async fn a_key_has_one_entry_and_the_newest_version_wins(a: &dyn Quarantine, b: &dyn Quarantine) {
    put(a, "wins", &[entry("k", 5, 10)]).await;
    put(b, "wins", &[entry("k", 4, 11)]).await;
    assert_eq!(a.list("wins").await.unwrap(), [entry("k", 5, 10)]);
    // Of two for one version, the later one.
    put(b, "wins", &[entry("k", 5, 12)]).await;
    assert_eq!(a.list("wins").await.unwrap(), [entry("k", 5, 12)]);
    put(a, "wins", &[entry("k", 6, 9)]).await;
    assert_eq!(b.list("wins").await.unwrap(), [entry("k", 6, 9)]);
}

async fn regions_are_apart(quarantine: &dyn Quarantine) {
    put(quarantine, "one", &[entry("k", 1, 1), entry("l", 1, 1)]).await;
    put(quarantine, "two", &[entry("k", 2, 2)]).await;
    assert_eq!(quarantine.list("two").await.unwrap(), [entry("k", 2, 2)]);
    let counts = quarantine.counts().await.unwrap();
    assert_eq!((counts["one"], counts["two"]), (2, 1));
    let all = vec![(Key::new("k").unwrap(), Version(9))];
    quarantine.remove("one", all).await.unwrap();
    assert_eq!(quarantine.list("one").await.unwrap(), [entry("l", 1, 1)]);
    assert_eq!(quarantine.list("two").await.unwrap(), [entry("k", 2, 2)]);
}

async fn what_is_removed_is_gone_unless_it_is_newer(a: &dyn Quarantine, b: &dyn Quarantine) {
    let entries = [entry("a", 4, 3), entry("b", 5, 2), entry("c", 6, 1)];
    put(a, "gone", &entries).await;
    let keys = ["a", "b", "c", "d"].map(|key| (Key::new(key).unwrap(), Version(5)));
    for quarantine in [b, a] {
        quarantine.remove("gone", keys.to_vec()).await.unwrap();
        assert_eq!(a.list("gone").await.unwrap(), [entry("c", 6, 1)]);
    }
    let last = vec![(Key::new("c").unwrap(), Version(6))];
    a.remove("gone", last).await.unwrap();
    assert!(!b.counts().await.unwrap().contains_key("gone"));
}

async fn the_oldest_go(a: &dyn Quarantine, b: &dyn Quarantine) {
    let most = i64::try_from(MOST_PER_REGION).unwrap();
    let entries = |range: std::ops::Range<i64>| -> Vec<Entry> {
        range.map(|n| entry(&format!("k{n:05}"), 1, n)).collect()
    };
    put(a, "full", &entries(0..most)).await;
    let gone = b.put("full", entries(most..most + 5)).await.unwrap();
    assert_eq!(gone, 5);
    let kept = a.list("full").await.unwrap();
    assert_eq!(kept.len(), MOST_PER_REGION);
    assert_eq!(kept.first().unwrap().at, most + 4);
    assert_eq!(kept.last().unwrap().at, 5);
    // One that is there already takes no other's place.
    put(a, "full", &[entry("k00005", 2, most + 9)]).await;
    assert_eq!(b.counts().await.unwrap()["full"], MOST_PER_REGION as u64);
    // More at once than are kept.
    let gone = a.put("more", entries(0..most + 7)).await.unwrap();
    assert_eq!(gone, 7);
    assert_eq!(b.counts().await.unwrap()["more"], MOST_PER_REGION as u64);
}

async fn many_at_once_lose_nothing(a: &Arc<dyn Quarantine>, b: &Arc<dyn Quarantine>) {
    const WRITERS: i64 = 8;
    const KEYS: i64 = 20;
    let writers = (0..WRITERS).map(|writer| {
        let quarantine = if writer % 2 == 0 {
            a.clone()
        } else {
            b.clone()
        };
        tokio::spawn(async move {
            let entries = (0..KEYS).map(|key| entry(&format!("k{key}"), writer, writer));
            let mut entries: Vec<Entry> = entries.collect();
            // In opposite orders, as nobody should.
            if writer % 4 < 2 {
                entries.reverse();
            }
            quarantine.put("many", entries).await.unwrap();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let kept = a.list("many").await.unwrap();
    assert_eq!(kept.len() as i64, KEYS);
    assert!(kept.iter().all(|entry| entry.version.0 == WRITERS - 1));
}
