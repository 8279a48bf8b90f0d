//! The text of the statement that starts a changefeed, as each release of
//! CockroachDB spells it. Pure.
//!
//! It always has a cursor, and a cursor implies that nothing is scanned first: the
//! option that says so, whose spelling changed between releases, is not needed.

use std::fmt;
use std::time::Duration;

use super::hlc::Hlc;

/// The table of the log.
pub(super) const TABLE: &str = "kv_log";

/// Shortest interval that is asked for: zero is refused by some releases.
const SHORTEST: Duration = Duration::from_millis(10);

/// How the statement begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verb {
    /// As every release that is served should know it.
    Create,
    /// Before v22.1; deprecated since v25.2.
    Experimental,
}

/// A statement that starts a changefeed, and what can be said otherwise when a
/// server does not understand it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    verb: Verb,
    /// With commas between them.
    tables: &'static str,
    /// Options that can be done without, in the order in which they are sent.
    spare: Vec<(&'static str, String)>,
    /// Options without which the feed would be wrong.
    needed: Vec<(&'static str, String)>,
}

impl Statement {
    /// The feed of all rows of the log committed after `cursor`, which says how far
    /// it is at every interval.
    pub fn new(cursor: Hlc, resolved_every: Duration) -> Statement {
        Statement::of(TABLE, cursor, resolved_every)
    }

    /// The same of other tables, with commas between them.
    pub fn of(tables: &'static str, cursor: Hlc, resolved_every: Duration) -> Statement {
        let every = interval(resolved_every.max(SHORTEST));
        Statement {
            verb: Verb::Create,
            tables,
            spare: vec![
                ("updated", String::new()),
                ("mvcc_timestamp", String::new()),
                // Without it every row is sent again when a column is added.
                ("schema_change_policy", "nobackfill".into()),
                // It bounds the intervals of `resolved`, and is 30 s by default.
                ("min_checkpoint_frequency", every.clone()),
            ],
            needed: vec![
                ("resolved", every),
                ("envelope", "wrapped".into()),
                ("cursor", cursor.to_string()),
            ],
        }
    }

    /// Another way to say it, after the server has refused this one with a syntax
    /// error or because of an option; `None` when there is none.
    pub fn otherwise(&self, refusal: &str) -> Option<Statement> {
        let mut other = self.clone();
        // The server quotes the option that it does not know.
        let known = self.spare.len();
        other
            .spare
            .retain(|(name, _)| !refusal.contains(&format!("\"{name}\"")));
        if other.spare.len() < known {
            return Some(other);
        }
        other.verb = Verb::Experimental;
        (other != *self).then_some(other)
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.tables;
        match self.verb {
            Verb::Create => write!(f, "CREATE CHANGEFEED FOR TABLE {tables} WITH ")?,
            Verb::Experimental => write!(f, "EXPERIMENTAL CHANGEFEED FOR {tables} WITH ")?,
        }
        // Nothing comes from outside: names are ours, a position is digits.
        let options = self.spare.iter().chain(&self.needed);
        let options = options.map(|(name, value)| match value.as_str() {
            "" => (*name).to_owned(),
            value => format!("{name}='{value}'"),
        });
        f.write_str(&options.collect::<Vec<_>>().join(", "))
    }
}

/// A duration as the server reads it.
pub(crate) fn interval(time: Duration) -> String {
    let millis = time.as_millis();
    match millis.is_multiple_of(1000) {
        true => format!("{}s", millis / 1000),
        false => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursor() -> Hlc {
        Hlc::parse("1795431443931920227.0000000000").unwrap()
    }

    fn statement() -> Statement {
        Statement::new(cursor(), Duration::from_secs(1))
    }

    #[test]
    fn it_has_what_a_feed_needs() {
        assert_eq!(
            statement().to_string(),
            "CREATE CHANGEFEED FOR TABLE kv_log WITH updated, mvcc_timestamp, \
             schema_change_policy='nobackfill', min_checkpoint_frequency='1s', resolved='1s', \
             envelope='wrapped', cursor='1795431443931920227.0000000000'"
        );
        let fast = Statement::new(cursor(), Duration::from_millis(100)).to_string();
        assert!(fast.contains("resolved='100ms'"), "{fast}");
        let zero = Statement::new(cursor(), Duration::ZERO).to_string();
        assert!(zero.contains("resolved='10ms'"), "{zero}");
    }

    #[test]
    fn what_a_server_does_not_know_is_left_out() {
        let first = statement();
        let second = first
            .otherwise("invalid option \"schema_change_policy\"")
            .unwrap();
        assert!(
            !second.to_string().contains("schema_change_policy"),
            "{second}"
        );
        let third = second
            .otherwise("at or near \"changefeed\": syntax error")
            .unwrap();
        assert!(third.to_string().starts_with("EXPERIMENTAL"), "{third}");
        assert_eq!(
            third.otherwise("at or near \"experimental\": syntax error"),
            None
        );
        // What is needed is never left out.
        assert_eq!(third.otherwise("invalid option \"resolved\""), None);
    }

    proptest! {
        #[test]
        fn there_is_always_an_end_to_other_ways(refusals in prop::collection::vec(".*", 20)) {
            let mut current = Some(statement());
            for refusal in refusals {
                current = current.and_then(|statement| statement.otherwise(&refusal));
            }
            prop_assert_eq!(current, None);
        }
    }
}
