//! Snapshots of PostgreSQL, and positions made of them. Pure.
//!
//! Transaction ids are those with 64 bits, which are never used again. A crash is
//! the exception: the server can forget that it gave an id, if nothing of that
//! transaction was on disk, and give it again. So a position never names an id above
//! the newest that was delivered, which was on disk before anybody saw it.

/// Which transactions had ended at some moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Snapshot {
    /// None from here on had begun.
    pub end: i64,
    /// Before `end` and still under way, ascending.
    pub open: Vec<i64>,
}

impl Snapshot {
    /// Reads the text of a `pg_snapshot`: `xmin:xmax:xip,xip,...`.
    pub fn parse(text: &str) -> Option<Snapshot> {
        let mut parts = text.split(':');
        let (_first, end, open) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        Snapshot::of(end, open)
    }

    fn of(end: &str, open: &str) -> Option<Snapshot> {
        let number = |text: &str| text.parse::<i64>().ok().filter(|id| *id >= 0);
        let end = number(end)?;
        let open = open.split(',').filter(|id| !id.is_empty());
        let open: Vec<i64> = open.map(number).collect::<Option<_>>()?;
        let well_formed = open.is_sorted_by(|a, b| a < b) && open.last().is_none_or(|id| *id < end);
        well_formed.then_some(Snapshot { end, open })
    }

    /// The transactions that were under way then and have ended by `later`.
    pub fn ended_by(&self, later: &Snapshot) -> Vec<i64> {
        let ended = self.open.iter().copied();
        ended
            .filter(|id| later.open.binary_search(id).is_err())
            .collect()
    }

    /// What it says of the transactions before `end`.
    pub fn before(&self, end: i64) -> Snapshot {
        let end = end.min(self.end);
        let open = self.open.iter().copied().filter(|id| *id < end);
        Snapshot {
            end,
            open: open.collect(),
        }
    }

    /// As a position of the log that `identity` names.
    pub fn encode(&self, identity: &str) -> String {
        let open: Vec<String> = self.open.iter().map(i64::to_string).collect();
        format!("{identity}:{}:{}", self.end, open.join(","))
    }

    /// The snapshot of a position; says why it is not one of this log.
    pub fn decode(position: &str, identity: &str) -> Result<Snapshot, String> {
        let mut parts = position.splitn(3, ':');
        let (Some(of), Some(end), Some(open)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("it is not a position of a log on PostgreSQL".into());
        };
        let snapshot =
            Snapshot::of(end, open).ok_or("it is not a position of a log on PostgreSQL")?;
        if of != identity {
            return Err(format!(
                "it is of the log {of} and this is {identity}: another database, one made anew, or a standby that has taken over"
            ));
        }
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot(text: &str) -> Snapshot {
        Snapshot::parse(text).unwrap()
    }

    #[test]
    fn what_is_under_way_is_kept_apart() {
        let before = snapshot("10:20:10,15,19");
        let after = snapshot("15:30:15,25");
        assert_eq!(before.ended_by(&after), [10, 19]);
        assert_eq!(after.before(20), snapshot("15:20:15"));
        assert_eq!(after.before(99), after);
    }

    #[test]
    fn a_position_reads_back_only_for_its_log() {
        let snapshot = snapshot("10:20:10,15");
        let text = snapshot.encode("me");
        assert_eq!(Snapshot::decode(&text, "me").unwrap(), snapshot);
        let error = Snapshot::decode(&text, "other").unwrap_err();
        assert!(error.contains("me") && error.contains("other"), "{error}");
    }

    #[test]
    fn what_is_not_a_snapshot_is_refused() {
        for text in [
            "", "1", "1:2", "1:2:3", "1:2:1,0", "1:2:0,0", "1:-2:", "1:x:", "1:2::",
        ] {
            assert_eq!(Snapshot::parse(text), None, "{text}");
        }
        for text in ["", "nonsense", "-1", "me:1", "me:x:", "me:1:1"] {
            assert!(Snapshot::decode(text, "me").is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = Snapshot::parse(&text);
            let _ = Snapshot::decode(&text, "me");
        }
    }
}
