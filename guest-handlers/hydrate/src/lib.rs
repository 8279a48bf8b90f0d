//! The default hydrate handler: keeps everything. It never asks for a value,
//! so the bytes of a batch do not enter this component.
//!
//! A handler with a policy (large values, one prefix only) starts here: see
//! [`decide`].

// Brings in `Guest`, `Change`, `Decision` and `Failure`.
wit_bindgen::generate!({ path: "../../wit", world: "hydrate" });

struct Hydrate;

export!(Hydrate);

impl Guest for Hydrate {
    fn handle(changes: Vec<Change>) -> Result<Vec<Decision>, Failure> {
        Ok(changes.iter().map(decide).collect())
    }
}

/// What the cache does with one change. Tombstones are kept as well: a read
/// of a deleted key is then answered without asking the log. Versions and
/// expiry are the host's.
fn decide(_change: &Change) -> Decision {
    Decision::Store
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_kept_in_the_order_given() {
        let change = |key: &str, deleted| Change {
            key: key.to_owned(),
            version: 1,
            deleted,
            size: 0,
            content_type: None,
            expires_at: None,
        };
        let changes = [change("a", false), change("b", true)];
        let decisions: Vec<_> = changes.iter().map(decide).collect();
        assert_eq!(decisions, [Decision::Store, Decision::Store]);
    }
}
