//! A server that is stopped and started again while hosts append.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tidepool::deployments::{AppendError, Ledger};
use tokio::task::JoinHandle;

use super::{heard_soon, last, new_entry, read};
use crate::within;

/// What became of the appends of a writer: ids, and numbers where they are known.
#[derive(Default)]
struct Outcomes {
    acknowledged: BTreeMap<i64, u64>,
    refused: BTreeSet<i64>,
    unknown: BTreeSet<i64>,
}

/// While hosts append, `restart` stops the server in the middle and starts it again:
/// what was acknowledged is there, what was refused is not, what is not known is there
/// once or not at all, and `changed` works again.
pub async fn a_restart_loses_nothing(
    ledgers: [Arc<dyn Ledger>; 2],
    mut restart: impl AsyncFnMut(),
) {
    let before = last(&*ledgers[0]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let writers: Vec<JoinHandle<Outcomes>> = (0..8)
        .map(|writer| {
            let ledger = ledgers[writer % 2].clone();
            tokio::spawn(append_until(ledger, stop.clone(), done.clone()))
        })
        .collect();
    for _ in 0..3 {
        more(&done).await;
        restart().await;
    }
    more(&done).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Outcomes::default();
    for writer in writers {
        let outcomes = within("a writer to stop", writer).await.unwrap();
        all.acknowledged.extend(outcomes.acknowledged);
        all.refused.extend(outcomes.refused);
        all.unknown.extend(outcomes.unknown);
    }
    let found = read(&*ledgers[1], before).await;
    for (entry, seq) in found.iter().zip(before + 1..) {
        assert_eq!(entry.seq, seq, "a gap");
    }
    let there: BTreeMap<i64, u64> = found.iter().map(|entry| (entry.id, entry.seq)).collect();
    assert_eq!(there.len(), found.len(), "an entry is there twice");
    for (id, seq) in &all.acknowledged {
        assert_eq!(there.get(id), Some(seq), "an acknowledged entry is gone");
    }
    for id in there.keys() {
        assert!(!all.refused.contains(id), "a refused entry is there");
        assert!(all.acknowledged.contains_key(id) || all.unknown.contains(id));
    }
    heard_soon(&*ledgers[0], &*ledgers[1]).await;
}

/// Waits for some more appends.
async fn more(done: &AtomicU64) {
    let enough = done.load(Ordering::Relaxed) + 30;
    within("appends", async {
        while done.load(Ordering::Relaxed) < enough {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn append_until(
    ledger: Arc<dyn Ledger>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let mut last = 0;
    while !stop.load(Ordering::Relaxed) {
        while let Ok(page) = ledger.after(last).await
            && let Some(newest) = page.last()
        {
            last = newest.seq;
        }
        let entry = new_entry("restart");
        let id = entry.id;
        match ledger.append(last + 1, entry).await {
            Ok(()) => {
                outcomes.acknowledged.insert(id, last + 1);
                done.fetch_add(1, Ordering::Relaxed);
            }
            // Nothing was written by this one.
            Err(AppendError::Taken | AppendError::Unavailable(_)) => {
                outcomes.refused.insert(id);
            }
            Err(AppendError::OutcomeUnknown(_)) => {
                outcomes.unknown.insert(id);
            }
        }
    }
    outcomes
}
