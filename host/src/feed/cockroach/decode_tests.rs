//! Messages as they were recorded, as they may come, and as they never should.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn live(key: &str, version: i64, bytes: &[u8]) -> Message {
    Message::Row {
        row: Row {
            key: Key::new(key).unwrap(),
            version: Version(version),
            value: Some(Value {
                bytes: Bytes::copy_from_slice(bytes),
                content_type: None,
                expires_at: None,
            }),
        },
        updated: None,
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\\x{digits}")
}

fn text(value: serde_json::Value) -> Message {
    decode(value.to_string().as_bytes(), KeyColumn::Text)
}

#[test]
fn a_recorded_row() {
    let value = br#"{"after": {"deleted": false, "key": "\u043a/ \"q\" \\ \u952e", "timestamp": "2026-01-01T00:00:00Z", "value": "\\x00ff41", "version": 1}, "mvcc_timestamp": "1795431446807634462.0000000000", "updated": "1795431446807634462.0000000000"}"#;
    let Message::Row { row, updated } = decode(value, KeyColumn::Text) else {
        panic!("no row")
    };
    assert_eq!(row.key.as_str(), "к/ \"q\" \\ 键");
    assert_eq!(row.value.unwrap().bytes, &b"\x00\xffA"[..]);
    assert_eq!(updated, Hlc::parse("1795431446807634462.0000000000"));
}

#[test]
fn every_column_that_matters() {
    let message = text(json!({"after": {
        "key": "k", "version": 7, "deleted": false, "content_type": "text/plain",
        "expires_at": 99, "value": "\\x", "write_id": "6f0c", "timestamp": 5,
    }}));
    let Message::Row { row, .. } = message else {
        panic!("{message:?}")
    };
    let value = row.value.unwrap();
    assert_eq!(value.content_type.as_deref(), Some("text/plain"));
    assert_eq!(value.expires_at, Some(99));
    assert!(value.bytes.is_empty());
}

#[test]
fn a_tombstone_has_no_value_and_a_removal_is_none() {
    let message =
        text(json!({"after": {"key": "k", "version": 7, "deleted": true, "value": null}}));
    assert!(
        matches!(
            message,
            Message::Row {
                row: Row { value: None, .. },
                ..
            }
        ),
        "{message:?}"
    );
    assert_eq!(
        text(json!({"after": null, "updated": "1.0000000000"})),
        Message::Removed
    );
}

#[test]
fn a_resolved_position() {
    let message = text(json!({"resolved": "1701102296662969433.0000000000"}));
    assert_eq!(
        message,
        Message::Resolved(Hlc::parse("1701102296662969433").unwrap())
    );
}

#[test]
fn the_type_of_the_column_tells_keys_apart() {
    let after =
        json!({"after": {"key": "\\x41", "version": 1, "deleted": false, "value": "\\x01"}});
    let after = after.to_string();
    assert_eq!(
        decode(after.as_bytes(), KeyColumn::Text),
        live("\\x41", 1, &[1])
    );
    assert_eq!(
        decode(after.as_bytes(), KeyColumn::Bytes),
        live("A", 1, &[1])
    );
}

#[test]
fn what_is_not_understood_says_why() {
    let long = "k".repeat(2000);
    for (value, why) in [
        (json!({}), "neither"),
        (json!([]), "neither"),
        (json!({"resolved": "soon"}), "not a position"),
        (json!({"resolved": 17.5}), "invalid type"),
        (json!({"after": {"version": 1, "deleted": true}}), "key"),
        (json!({"after": {"key": "k", "deleted": true}}), "version"),
        (json!({"after": {"key": "k", "version": 1}}), "deleted"),
        (
            json!({"after": {"key": "k", "version": 1.5, "deleted": true}}),
            "1.5",
        ),
        (
            json!({"after": {"key": "k", "version": 0, "deleted": true}}),
            "not a version",
        ),
        (
            json!({"after": {"key": "", "version": 1, "deleted": true}}),
            "empty",
        ),
        (
            json!({"after": {"key": long, "version": 1, "deleted": true}}),
            "2000",
        ),
        (
            json!({"after": {"key": "k", "version": 1, "deleted": false}}),
            "no value",
        ),
        (
            json!({"after": {"key": "k", "version": 1, "deleted": false, "value": "\\x1"}}),
            "hexadecimal",
        ),
        (
            json!({"after": {"key": "k", "version": 1, "deleted": false, "value": "\\xé"}}),
            "hexadecimal",
        ),
        (
            json!({"after": {"key": "k", "version": 1, "deleted": false, "value": "61"}}),
            "hexadecimal",
        ),
    ] {
        let Message::Unknown(reason) = text(value.clone()) else {
            panic!("{value} was understood")
        };
        assert!(reason.contains(why), "{value}: {reason}");
    }
    for (key, why) in [("k", "hexadecimal"), ("\\xff", "UTF-8"), ("\\x", "empty")] {
        let value = json!({"after": {"key": key, "version": 1, "deleted": true}}).to_string();
        let Message::Unknown(reason) = decode(value.as_bytes(), KeyColumn::Bytes) else {
            panic!("{value} was understood")
        };
        assert!(reason.contains(why), "{value}: {reason}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), keys in any::<bool>()) {
        let keys = if keys { KeyColumn::Text } else { KeyColumn::Bytes };
        let _ = decode(&bytes, keys);
    }

    #[test]
    fn no_damage_makes_it_panic(cut in 0usize..200, at in 0usize..200, byte in any::<u8>()) {
        let mut value = br#"{"after": {"deleted": false, "key": "\\x00", "value": "\\x00ff41", "version": 1}, "updated": "1.0000000000"}"#.to_vec();
        if let Some(place) = value.get_mut(at) {
            *place = byte;
        }
        value.truncate(cut);
        let _ = decode(&value, KeyColumn::Bytes);
    }

    #[test]
    fn every_key_and_value_arrives_as_it_was_written(key in ".{1,60}", bytes in prop::collection::vec(any::<u8>(), 0..100), version in 1..i64::MAX) {
        for (column, written) in [(KeyColumn::Text, key.clone()), (KeyColumn::Bytes, hex(key.as_bytes()))] {
            let value = json!({"after": {"key": written, "version": version, "deleted": false, "value": hex(&bytes)}});
            prop_assert_eq!(decode(value.to_string().as_bytes(), column), live(&key, version, &bytes));
        }
    }
}
