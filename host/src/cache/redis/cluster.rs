//! Which node of a Redis Cluster has a cache, by pure code: the hash slot of its
//! keys, and what a node answers to `CLUSTER SLOTS`. All keys of a cache share one
//! hash tag, and so one slot: its scripts need several of them in one step.

use redis::Value;

/// Slots of a cluster.
const SLOTS: u16 = 16384;

/// Who has a slot.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// This primary.
    At {
        /// Nothing: the host that was asked.
        host: Option<String>,
        /// Its port.
        port: u16,
    },
    /// No node.
    Nobody,
    /// The answer does not say it in a way that can be used.
    Unclear,
}

/// A prefix as the names of keys in a cluster begin with it: as it is when it has a
/// hash tag, else all of it is one. What a key adds comes after the tag, so braces
/// in it do not matter.
pub(super) fn tagged(prefix: &str) -> String {
    match tag(prefix) {
        Some(_) => prefix.to_owned(),
        None => format!("{{{prefix}}}"),
    }
}

/// The slot of a key.
pub(super) fn slot(key: &str) -> u16 {
    crc16(tag(key).unwrap_or(key).as_bytes()) % SLOTS
}

/// Who has a slot, of an answer to `CLUSTER SLOTS`: ranges, each with its first and
/// last slot, its primary, and its replicas.
pub(super) fn owner(answer: &Value, slot: u16) -> Owner {
    let Value::Array(ranges) = answer else {
        return Owner::Unclear;
    };
    let has_slot = |range: &&[Value]| {
        matches!(range, [Value::Int(first), Value::Int(last), ..]
            if (*first..=*last).contains(&i64::from(slot)))
    };
    let Some(range) = ranges.iter().filter_map(array).find(has_slot) else {
        return Owner::Nobody;
    };
    let Some([host, Value::Int(port), ..]) = range.get(2).and_then(array) else {
        return Owner::Unclear;
    };
    let host = match host {
        Value::Nil => None,
        Value::BulkString(host) => match std::str::from_utf8(host) {
            Ok("") => None,
            // A node that is to be called by a name, and has none.
            Ok("?") | Err(_) => return Owner::Unclear,
            Ok(host) => Some(host.to_owned()),
        },
        _ => return Owner::Unclear,
    };
    match u16::try_from(*port) {
        Ok(port) if port != 0 => Owner::At { host, port },
        _ => Owner::Unclear,
    }
}

fn array(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// What is hashed of a key instead of all of it: what its first braces hold, unless
/// that is nothing.
fn tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// The CRC16 of the cluster's specification (XMODEM).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn node(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), text("id")])
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        let mut range = vec![Value::Int(first), Value::Int(last)];
        range.extend(nodes);
        Value::Array(range)
    }

    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Okay),
            any::<i64>().prop_map(Value::Int),
            (-1..20_000i64).prop_map(Value::Int),
            any::<Vec<u8>>().prop_map(Value::BulkString),
            ".*".prop_map(Value::SimpleString),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop::collection::vec(inner, 0..6).prop_map(Value::Array)
        })
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in anything(), slot in 0..SLOTS) {
            let _ = owner(&answer, slot);
        }

        #[test]
        fn no_key_leaves_the_slot_of_its_prefix(
            prefix in "[a-z:._-]{0,4}[{]?[a-z]{1,4}[}]?[a-z:]{0,4}",
            key in ".*",
        ) {
            // What the settings refuse: `}` without a tag before it.
            prop_assume!(tag(&prefix).is_some() || !prefix.contains('}'));
            let prefix = tagged(&prefix);
            prop_assert_eq!(slot(&format!("{prefix}:e:{key}")), slot(&prefix));
        }
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b""), 0);
        for (key, expected) in [
            ("foo", 12182),
            ("bar", 5061),
            ("{foo}", 12182),
            ("x{foo}y{bar}", 12182),
            ("{user1000}.following", 3443),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}zap", 4015),
            ("foo{bar}{zap}", 5061),
        ] {
            assert_eq!(slot(key), expected, "{key}");
        }
    }

    #[test]
    fn a_prefix_becomes_a_hash_tag_unless_it_has_one() {
        for (prefix, expected) in [
            ("tidepool", "{tidepool}"),
            ("a:b", "{a:b}"),
            ("{a}", "{a}"),
            ("a:{b}:c", "a:{b}:c"),
        ] {
            assert_eq!(tagged(prefix), expected);
        }
    }

    #[test]
    fn the_primary_of_the_range_is_the_owner() {
        let answer = Value::Array(vec![
            range(0, 99, vec![node(text("a"), 1), node(text("b"), 2)]),
            range(100, 100, vec![node(text("::1"), 65535), node(text("d"), 4)]),
            range(101, 101, vec![node(text(""), 5)]),
            range(102, 102, vec![node(Value::Nil, 6)]),
        ]);
        let at = |host: Option<&str>, port| Owner::At {
            host: host.map(str::to_owned),
            port,
        };
        for (slot, expected) in [
            (0, at(Some("a"), 1)),
            (99, at(Some("a"), 1)),
            (100, at(Some("::1"), 65535)),
            (101, at(None, 5)),
            (102, at(None, 6)),
            (103, Owner::Nobody),
            (16383, Owner::Nobody),
        ] {
            assert_eq!(owner(&answer, slot), expected, "{slot}");
        }
    }

    #[test]
    fn an_answer_that_is_none_is_unclear() {
        assert_eq!(owner(&Value::Nil, 0), Owner::Unclear);
        assert_eq!(owner(&text("slots"), 0), Owner::Unclear);
        assert_eq!(owner(&Value::Array(Vec::new()), 0), Owner::Nobody);
        assert_eq!(owner(&Value::Array(vec![Value::Nil]), 0), Owner::Nobody);
        for nodes in [
            vec![],
            vec![Value::Nil],
            vec![Value::Array(Vec::new())],
            vec![Value::Array(vec![text("a")])],
            vec![Value::Array(vec![text("a"), text("1")])],
            vec![node(text("?"), 1)],
            vec![node(Value::BulkString(vec![0xff]), 1)],
            vec![node(Value::Int(1), 1)],
            vec![node(text("a"), 0)],
            vec![node(text("a"), 65536)],
            vec![node(text("a"), -1)],
        ] {
            let answer = Value::Array(vec![range(0, 5, nodes.clone())]);
            assert_eq!(owner(&answer, 3), Owner::Unclear, "{nodes:?}");
        }
    }
}
