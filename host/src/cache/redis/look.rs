//! What people see who look into the cache.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::entry::HEAD_BYTES;
use super::follow::KEYS_IN_A_SCAN;
use super::{RedisCache, entry, scripts};
use crate::cache::{CacheError, Holding, SHOWN_BYTES};

/// How long a scan may take: less than the command line waits for an answer.
const MOST_TIME: Duration = Duration::from_secs(15);

impl RedisCache {
    /// At most `most` keys, with the beginnings of their values. A scan meets what was
    /// there all the time at least once, among all else that is there: what it has
    /// found when its time is over is what is shown.
    pub(super) async fn shown(&self, most: usize) -> Result<Vec<Holding>, CacheError> {
        let bound = self.settings.batch_timeout;
        let (mut cursor, mut holdings) = ("0".to_owned(), Vec::new());
        let begins = self.entry("");
        let end = Instant::now() + MOST_TIME;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(self.entry("*"));
            scan.arg("COUNT").arg(KEYS_IN_A_SCAN);
            let (next, mut names): (String, Vec<Vec<u8>>) = self.links.query(bound, &scan).await?;
            names.truncate(most - holdings.len());
            // One more, to see that a value is longer.
            let bytes = [(HEAD_BYTES + SHOWN_BYTES + 1).to_string()];
            let found: Vec<(Bytes, i64)> = match names.is_empty() {
                true => Vec::new(),
                false => {
                    scripts::LOOK
                        .run(&self.links, bound, &names, &bytes)
                        .await?
                }
            };
            for (name, (bytes, left)) in names.iter().zip(found) {
                // -2: it has gone since.
                if left == -2 {
                    continue;
                }
                let key = name.strip_prefix(begins.as_bytes()).unwrap_or(name);
                holdings.push(Holding {
                    key: String::from_utf8_lossy(key).into_owned(),
                    held: entry::decode(&bytes),
                    left: u64::try_from(left).ok().map(Duration::from_millis),
                });
            }
            if next == "0" || holdings.len() >= most || Instant::now() >= end {
                return Ok(holdings);
            }
            cursor = next;
        }
    }
}
