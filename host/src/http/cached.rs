//! What a region's cache holds, as a document, and the part of the admin plane that
//! shows it.

use http::{StatusCode, Uri};

use super::documents::{CacheList, CachedEntry, CachedKind};
use super::query::Query;
use super::region::Region;
use super::respond::{self, Answer, Kind, Problem};
use crate::cache::{Held, Holding, SHOWN_BYTES};
use crate::model::State;

/// Keys that are shown when nobody says how many.
pub const USUAL_KEYS: usize = 1000;

/// Most keys in one answer.
pub const MOST_KEYS: usize = 10_000;

/// `GET /v1/regions/{region}/cache`
pub(super) async fn list(region: &Region, uri: &Uri) -> Result<Answer, Problem> {
    let query = Query::of(uri, &["limit"])?;
    let limit = query.number("limit")?.unwrap_or(USUAL_KEYS);
    if !(1..=MOST_KEYS).contains(&limit) {
        let detail = format!("query parameter \"limit\": ask for 1 to {MOST_KEYS} keys");
        return Err(Problem::new(Kind::BadRequest, detail));
    }
    let holdings = region.backends.cache.holdings(limit + 1).await;
    let holdings = holdings.map_err(|error| Problem::new(Kind::Unavailable, error.to_string()))?;
    let list = list_of(&region.name, holdings, limit);
    Ok(respond::json(StatusCode::OK, &list))
}

/// The document of what a cache holds. With one more than `limit` it says that there
/// are more.
pub fn list_of(of: &str, mut holdings: Vec<Holding>, limit: usize) -> CacheList {
    let more = holdings.len() > limit;
    holdings.truncate(limit);
    holdings.sort_by(|one, other| one.key.cmp(&other.key));
    // A scan of Redis may meet a key twice.
    holdings.dedup_by(|one, other| one.key == other.key);
    CacheList {
        cache: of.to_owned(),
        entries: holdings.into_iter().map(entry).collect(),
        more,
    }
}

fn entry(holding: Holding) -> CachedEntry {
    let mut entry = CachedEntry {
        key: holding.key,
        kind: CachedKind::Damaged,
        version: None,
        content_type: None,
        value: None,
        cut: false,
        left_ms: holding
            .left
            .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
    };
    match holding.held {
        None => {}
        Some(Held::Lease) => entry.kind = CachedKind::Lease,
        Some(Held::State(State::Absent)) => entry.kind = CachedKind::Absent,
        Some(Held::State(State::Deleted { version })) => {
            entry.kind = CachedKind::Tombstone;
            entry.version = Some(version.0);
        }
        Some(Held::State(State::Live { version, value })) => {
            let shown = value.bytes.len().min(SHOWN_BYTES);
            entry.kind = CachedKind::Value;
            entry.version = Some(version.0);
            entry.content_type = value.content_type.as_deref().map(str::to_owned);
            entry.value = Some(String::from_utf8_lossy(&value.bytes[..shown]).into_owned());
            entry.cut = value.bytes.len() > shown;
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Value, Version};

    fn holding(key: &str, held: Option<Held>) -> Holding {
        Holding {
            key: key.to_owned(),
            held,
            left: Some(Duration::from_micros(1_500)),
        }
    }

    fn live(length: usize) -> Option<Held> {
        Some(Held::State(State::Live {
            version: Version(7),
            value: Value {
                bytes: vec![b'x'; length].into(),
                content_type: Some("text/plain".into()),
                expires_at: None,
            },
        }))
    }

    #[test]
    fn every_kind_has_its_name_and_values_are_cut() {
        let version = Version(9);
        let holdings = vec![
            holding("c", live(SHOWN_BYTES + 1)),
            holding("b", live(SHOWN_BYTES)),
            holding("d", Some(Held::State(State::Deleted { version }))),
            holding("a", Some(Held::State(State::Absent))),
            holding("e", Some(Held::Lease)),
            holding("f", None),
        ];
        let list = list_of("eu", holdings.clone(), holdings.len());
        let shown: Vec<_> = list
            .entries
            .iter()
            .map(|it| (it.key.as_str(), it.kind, it.version, it.cut))
            .collect();
        assert_eq!(
            shown,
            [
                ("a", CachedKind::Absent, None, false),
                ("b", CachedKind::Value, Some(7), false),
                ("c", CachedKind::Value, Some(7), true),
                ("d", CachedKind::Tombstone, Some(9), false),
                ("e", CachedKind::Lease, None, false),
                ("f", CachedKind::Damaged, None, false),
            ]
        );
        assert_eq!(list.entries[2].value.as_ref().unwrap().len(), SHOWN_BYTES);
        assert_eq!(list.entries[0].left_ms, Some(1));
        assert!(!list.more);
        assert!(list_of("eu", holdings, 5).more);
    }
}
