//! The requests of the load and what is a right answer to them. Pure.

use crate::load::find;

/// The value that is read and written, in bytes.
pub const VALUE_BYTES: usize = 100;

/// Reads the key that every reader reads.
pub const GET: &[u8] = b"GET /kv/hit HTTP/1.1\r\nhost: bench\r\n\r\n";

/// That key.
pub const HIT: &str = "hit";

/// A write of the nth turn of a connection: a thousand keys for each.
pub fn put_of(connection: usize, turn: u64) -> Vec<u8> {
    put(&key_of(connection, turn), turn)
}

/// The key of that write.
pub fn key_of(connection: usize, turn: u64) -> String {
    format!("w{connection}-{}", turn % 1000)
}

/// The value of that write.
pub fn value_of(turn: u64) -> String {
    format!("{turn:0>VALUE_BYTES$}")
}

/// A write.
pub fn put(key: &str, turn: u64) -> Vec<u8> {
    let body = format!("{{\"value\":\"{}\"}}", value_of(turn));
    format!(
        "PUT /kv/{key} HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Whether a read was answered.
pub fn found(_: usize, answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 200")
}

/// Whether a write was done.
pub fn created(_: usize, answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 201")
}

/// The version that a write was given.
pub fn version(answer: &[u8]) -> Option<i64> {
    const NAME: &[u8] = b"\r\netag: \"";
    let at = find(answer, NAME)? + NAME.len();
    let digits = answer[at..].split(|byte| *byte == b'"').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
