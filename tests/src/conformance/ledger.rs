//! What every ledger of deployments has to do. What only hosts beside each other can
//! show has two ledgers on one database; what must be changed behind the ledger's
//! back is given by whoever runs it.

mod restart;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidepool::deployments::ledger::{LONGEST_WAIT, PAGE};
use tidepool::deployments::{
    AppendError, Digest, Entry, Event, HostProblem, HostReport, Ledger, NewEntry,
};
use tidepool::model::Operation;

use crate::within;

pub use restart::a_restart_loses_nothing;

/// Writers for one number.
const RIVALS: usize = 16;

/// How soon a hint is one: what comes later can be the end of a wait.
const SOON: Duration = LONGEST_WAIT.checked_div(2).unwrap();

/// Runs what one ledger can show, whatever is in it.
pub async fn run(ledger: Arc<dyn Ledger>) {
    numbers_have_no_gap(&*ledger).await;
    one_of_many_gets_a_number(std::slice::from_ref(&ledger)).await;
    all_is_read_in_order(&*ledger).await;
    components_come_back(&*ledger).await;
    a_component_that_is_not_there_is_refused(&*ledger).await;
    reports_replace_each_other(&*ledger).await;
    its_own_news_is_heard(&*ledger).await;
}

/// Runs what two ledgers on one database can show.
pub async fn run_two(a: Arc<dyn Ledger>, b: Arc<dyn Ledger>) {
    one_of_many_gets_a_number(&[a.clone(), b.clone()]).await;
    what_one_host_does_another_hears(&*a, &*b).await;
    hosts_see_each_other(&*a, &*b).await;
    a_component_put_twice_at_once_is_whole(&*a, &*b).await;
}

/// An id that no other entry of this process has.
fn id() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn event(text: &str) -> Event {
    Event::Joined {
        region: text.to_owned(),
    }
}

fn new_entry(text: &str) -> NewEntry {
    NewEntry {
        id: id(),
        actor: "somebody".to_owned(),
        source: "127.0.0.1".to_owned(),
        event: event(text),
    }
}

/// Everything after a number, page by page.
async fn read(ledger: &dyn Ledger, mut after: u64) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        let page = ledger.after(after).await.unwrap();
        assert!(page.len() <= PAGE);
        let Some(last) = page.last() else { return all };
        after = last.seq;
        all.extend(page);
    }
}

async fn last(ledger: &dyn Ledger) -> u64 {
    read(ledger, 0).await.last().map_or(0, |last| last.seq)
}

async fn numbers_have_no_gap(ledger: &dyn Ledger) {
    let before = last(ledger).await;
    for seq in before + 1..=before + 3 {
        // What is no plain text comes back too.
        let entry = new_entry(&format!("{seq} \"ü\"\n'"));
        ledger.append(seq, entry.clone()).await.unwrap();
        let taken = ledger.append(seq, new_entry("late")).await;
        assert_eq!(taken, Err(AppendError::Taken));
        let found = ledger.after(seq - 1).await.unwrap();
        let [found] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(found.seq, seq);
        assert_eq!(found.id, entry.id);
        assert_eq!(found.actor, entry.actor);
        assert_eq!(found.source, entry.source);
        assert_eq!(found.event(), Some(entry.event));
        assert!(found.at > 0);
    }
    assert_eq!(last(ledger).await, before + 3);
    assert!(ledger.after(u64::MAX).await.unwrap().is_empty());
}

async fn one_of_many_gets_a_number(ledgers: &[Arc<dyn Ledger>]) {
    for _ in 0..5 {
        let seq = last(&*ledgers[0]).await + 1;
        let rivals = (0..RIVALS).map(|rival| {
            let ledger = ledgers[rival % ledgers.len()].clone();
            tokio::spawn(async move {
                let entry = new_entry("rival");
                let id = entry.id;
                (ledger.append(seq, entry).await, id)
            })
        });
        let mut won = Vec::new();
        for rival in rivals.collect::<Vec<_>>() {
            match rival.await.unwrap() {
                (Ok(()), id) => won.push(id),
                (Err(error), _) => assert_eq!(error, AppendError::Taken),
            }
        }
        assert_eq!(won.len(), 1, "{won:?}");
        for ledger in ledgers {
            let found = ledger.after(seq - 1).await.unwrap();
            let ids: Vec<i64> = found.iter().map(|entry| entry.id).collect();
            assert_eq!(ids, won);
        }
    }
}

async fn all_is_read_in_order(ledger: &dyn Ledger) {
    let before = last(ledger).await;
    let count = PAGE as u64 + 7;
    let mut ids = Vec::new();
    for seq in before + 1..=before + count {
        let entry = new_entry("many");
        ids.push(entry.id);
        ledger.append(seq, entry).await.unwrap();
    }
    assert_eq!(ledger.after(before).await.unwrap().len(), PAGE);
    let found = read(ledger, before).await;
    let seqs: Vec<u64> = found.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (before + 1..=before + count).collect::<Vec<_>>());
    let found: Vec<i64> = found.iter().map(|entry| entry.id).collect();
    assert_eq!(found, ids);
    let tail = ledger.after(before + count - 1).await.unwrap();
    assert_eq!(tail.len(), 1);
}

/// A component of so many bytes, none like another.
fn component(size: usize, seed: u8) -> (Digest, Bytes) {
    let byte = |at: usize| ((at * 31) ^ (at >> 11)) as u8 ^ seed;
    let bytes: Bytes = (0..size).map(byte).collect();
    (Digest::of(&bytes), bytes)
}

async fn components_come_back(ledger: &dyn Ledger) {
    const CHUNK: usize = 512 * 1024;
    const LARGE: usize = 20 * 1024 * 1024;
    for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 8 * CHUNK, LARGE] {
        let (digest, bytes) = component(size, 0);
        ledger.put_component(digest, bytes.clone()).await.unwrap();
        // Once more changes nothing.
        if size < LARGE {
            ledger.put_component(digest, bytes.clone()).await.unwrap();
        }
        let found = ledger.component(digest).await.unwrap();
        assert!(found == bytes, "{size} bytes came back as {}", found.len());
    }
}

async fn a_component_that_is_not_there_is_refused(ledger: &dyn Ledger) {
    let (digest, _) = component(7, 99);
    let error = ledger.component(digest).await.unwrap_err();
    assert!(error.to_string().contains(&digest.to_string()), "{error}");
}

/// What is damaged behind the ledger's back is refused, and whole again once it is
/// put again. `damage` does something to the stored bytes of a component.
pub async fn a_damaged_component_is_refused(ledger: &dyn Ledger, damage: impl AsyncFn(Digest)) {
    for size in [1000, 3 * 512 * 1024] {
        let (digest, bytes) = component(size, 3);
        ledger.put_component(digest, bytes.clone()).await.unwrap();
        damage(digest).await;
        let error = ledger.component(digest).await.unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
        ledger.put_component(digest, bytes.clone()).await.unwrap();
        assert!(ledger.component(digest).await.unwrap() == bytes);
    }
}

/// Components that are used, or were put a moment ago, stay. `age` makes all that are
/// there as old as it takes to be forgotten.
pub async fn what_nobody_uses_is_forgotten(ledger: &dyn Ledger, age: impl AsyncFn()) {
    let [used, unused, again, fresh] = [10, 11, 12, 13].map(|seed| component(600_000, seed));
    for (digest, bytes) in [&used, &unused, &again] {
        ledger.put_component(*digest, bytes.clone()).await.unwrap();
    }
    // None is old.
    ledger.keep_components(Vec::new()).await.unwrap();
    for (digest, bytes) in [&used, &unused, &again] {
        assert!(ledger.component(*digest).await.unwrap() == *bytes);
    }
    age().await;
    for (digest, bytes) in [&again, &fresh] {
        ledger.put_component(*digest, bytes.clone()).await.unwrap();
    }
    ledger.keep_components(vec![used.0]).await.unwrap();
    for (digest, bytes) in [&used, &again, &fresh] {
        assert!(ledger.component(*digest).await.unwrap() == *bytes);
    }
    ledger.component(unused.0).await.unwrap_err();
    ledger.keep_components(Vec::new()).await.unwrap();
    ledger.component(used.0).await.unwrap_err();
    ledger.component(fresh.0).await.unwrap();
}

/// What a host would say.
pub fn report(host: &str, applied: u64) -> HostReport {
    HostReport {
        host: host.to_owned(),
        regions: vec!["us-east-1".to_owned(), "eu".to_owned()],
        applied,
        problems: vec![HostProblem {
            slot: Some(("eu".to_owned(), Operation::Get)),
            text: format!("\"{applied}\""),
        }],
    }
}

async fn reports_replace_each_other(ledger: &dyn Ledger) {
    let before = ledger.now_micros().await.unwrap();
    for applied in [1, 2] {
        ledger.report(report("one", applied)).await.unwrap();
        assert_eq!(ledger.hosts().await.unwrap(), [report("one", applied)]);
    }
    assert!(ledger.now_micros().await.unwrap() >= before);
}

async fn hosts_see_each_other(a: &dyn Ledger, b: &dyn Ledger) {
    a.report(report("one", 7)).await.unwrap();
    b.report(report("two", 8)).await.unwrap();
    a.report(report("one", 9)).await.unwrap();
    for ledger in [a, b] {
        let mut hosts = ledger.hosts().await.unwrap();
        hosts.sort_by(|a, b| a.host.cmp(&b.host));
        assert_eq!(hosts, [report("one", 9), report("two", 8)]);
    }
}

async fn a_component_put_twice_at_once_is_whole(a: &dyn Ledger, b: &dyn Ledger) {
    let (digest, bytes) = component(9 * 1024 * 1024 + 5, 40);
    let (one, two) = tokio::join!(
        a.put_component(digest, bytes.clone()),
        b.put_component(digest, bytes.clone()),
    );
    one.unwrap();
    two.unwrap();
    assert!(a.component(digest).await.unwrap() == bytes);
}

/// `changed` ends by itself, and at once for what happened before it was called.
async fn its_own_news_is_heard(ledger: &dyn Ledger) {
    within("the end of a wait", ledger.changed()).await;
    heard_soon(ledger, ledger).await;
}

async fn what_one_host_does_another_hears(a: &dyn Ledger, b: &dyn Ledger) {
    heard_soon(a, b).await;
    heard_soon(b, a).await;
}

/// What is done with `writer` is soon seen by who waits for `changed` of `reader`: in
/// most of some rounds, since a hint can be lost and a machine busy. Whoever is not
/// woken sees it [`LONGEST_WAIT`] later.
pub async fn heard_soon(writer: &dyn Ledger, reader: &dyn Ledger) {
    let rounds = async {
        let mut soon = 0;
        while soon < 5 {
            let waited = match soon % 2 {
                0 => until_appended(writer, reader).await,
                _ => until_reported(writer, reader).await,
            };
            soon = if waited < SOON { soon + 1 } else { 0 };
        }
    };
    within("what is new to be heard of soon", rounds).await;
}

async fn until_appended(writer: &dyn Ledger, reader: &dyn Ledger) -> Duration {
    let seq = last(reader).await + 1;
    let begun = Instant::now();
    let seen = async {
        while reader.after(seq - 1).await.unwrap().is_empty() {
            reader.changed().await;
        }
    };
    let (appended, ()) = tokio::join!(writer.append(seq, new_entry("heard")), seen);
    appended.unwrap();
    begun.elapsed()
}

async fn until_reported(writer: &dyn Ledger, reader: &dyn Ledger) -> Duration {
    let said = report("one", id().unsigned_abs());
    let begun = Instant::now();
    let seen = async {
        while !reader.hosts().await.unwrap().contains(&said) {
            reader.changed().await;
        }
    };
    let (reported, ()) = tokio::join!(writer.report(said.clone()), seen);
    reported.unwrap();
    begun.elapsed()
}
