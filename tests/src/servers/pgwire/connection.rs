//! One connection of the stand-in: the protocol, and the answers of the script. It
//! must not know what a test is about.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{State, Step};

/// Types of columns, by their OID.
const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const INT8: u32 = 20;
const TEXT: u32 = 25;

pub(super) struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    /// Statements by their names.
    prepared: HashMap<String, String>,
    state: Arc<State>,
}

/// A bound statement: its text and its parameters.
#[derive(Default)]
struct Bound {
    text: String,
    parameters: Vec<Bytes>,
}

impl Connection {
    pub fn new(stream: TcpStream, state: Arc<State>) -> Connection {
        Connection {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            prepared: HashMap::new(),
            state,
        }
    }

    /// Serves it to its end.
    pub async fn serve(mut self) -> std::io::Result<()> {
        if !self.greet().await? {
            return Ok(());
        }
        let mut bound = Bound::default();
        let mut failed = false;
        loop {
            let Some((kind, mut body)) = self.message().await? else {
                return Ok(());
            };
            match kind {
                b'X' => return Ok(()),
                b'S' => {
                    failed = false;
                    self.ready().await?;
                }
                _ if failed => {}
                b'Q' => {
                    let text = string(&mut body);
                    self.state.statements.lock().unwrap().push(text.clone());
                    self.simple(&text);
                    self.ready().await?;
                }
                b'P' => {
                    let (name, text) = (string(&mut body), string(&mut body));
                    self.state.statements.lock().unwrap().push(text.clone());
                    let refusal = self.refusal(&text);
                    failed = refusal.is_some();
                    match refusal {
                        Some((code, message)) => self.error(&code, &message),
                        None => self.put(b'1', |_| {}),
                    }
                    self.prepared.insert(name, text);
                }
                b'D' => {
                    body.advance(1);
                    let text = self.prepared[&string(&mut body)].clone();
                    self.describe(&text);
                }
                b'B' => {
                    let _portal = string(&mut body);
                    bound = Bound {
                        text: self.prepared[&string(&mut body)].clone(),
                        parameters: parameters(&mut body),
                    };
                    self.put(b'2', |_| {});
                }
                b'E' if bound.text.contains("CHANGEFEED FOR") => {
                    if !self.play().await? {
                        return Ok(());
                    }
                    failed = true;
                }
                b'E' => self.execute(&bound),
                b'C' => self.put(b'3', |_| {}),
                b'H' => {}
                other => panic!("the stand-in does not know {:?}", char::from(other)),
            }
        }
    }

    /// The start of a connection; `false` when it was none.
    async fn greet(&mut self) -> std::io::Result<bool> {
        loop {
            while self.input.len() < 8 {
                if self.stream.read_buf(&mut self.input).await? == 0 {
                    return Ok(false);
                }
            }
            let length = usize::try_from(self.input.get_u32()).unwrap() - 4;
            while self.input.len() < length {
                if self.stream.read_buf(&mut self.input).await? == 0 {
                    return Ok(false);
                }
            }
            let code = self.input.split_to(length).get_u32();
            match code {
                // Asked for TLS: there is none.
                80_877_103 => self.stream.write_all(b"N").await?,
                196_608 => break,
                _ => return Ok(false),
            }
        }
        if self.state.script.lock().unwrap().draining {
            self.error("57P01", "server is shutting down");
            self.flush().await?;
            return Ok(false);
        }
        self.put(b'R', |body| body.put_u32(0));
        for (name, value) in [("client_encoding", "UTF8"), ("server_version", "13.0.0")] {
            self.put(b'S', |body| {
                put_string(body, name);
                put_string(body, value);
            });
        }
        self.put(b'K', |body| body.put_u64(0));
        self.ready().await?;
        Ok(true)
    }

    /// The next message; `None` at the end of the stream.
    async fn message(&mut self) -> std::io::Result<Option<(u8, Bytes)>> {
        loop {
            if let Some(header) = self.input.get(..5) {
                let length = u32::from_be_bytes(header[1..].try_into().unwrap());
                let whole = usize::try_from(length).unwrap() + 1;
                if self.input.len() >= whole {
                    let mut message = self.input.split_to(whole).freeze();
                    let kind = message.get_u8();
                    message.advance(4);
                    return Ok(Some((kind, message)));
                }
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Answers a simple query, in text.
    fn simple(&mut self, text: &str) {
        if let Some((code, message)) = self.refusal(text) {
            return self.error(&code, &message);
        }
        let answers = self.state.script.lock().unwrap().answers.clone();
        let rows = answers.into_iter().find(|(part, _)| text.contains(part));
        let rows = match rows {
            Some((_, rows)) => rows,
            // Of several servers, one that can be written is taken.
            None if text.contains("transaction_read_only") => vec![vec![Some("off".into())]],
            None => return self.complete("SET"),
        };
        let columns = rows.first().map_or(1, Vec::len);
        self.columns(&vec![("text", TEXT); columns]);
        for row in rows {
            let columns = row.iter().map(|text| text.as_deref().map(str::as_bytes));
            self.row(&columns.collect::<Vec<_>>());
        }
        self.complete("SELECT");
    }

    fn refusal(&self, text: &str) -> Option<(String, String)> {
        let script = self.state.script.lock().unwrap();
        let mut refusals = script.refusals.iter();
        let found = refusals.find(|(part, _, _)| text.contains(part));
        found.map(|(_, code, message)| (code.clone(), message.clone()))
    }

    fn key_type(&self) -> u32 {
        match self.state.script.lock().unwrap().binary_keys {
            true => BYTEA,
            false => TEXT,
        }
    }

    fn describe(&mut self, text: &str) {
        let key = self.key_type();
        let scan = text.starts_with("SELECT DISTINCT ON (key)");
        let columns: &[(&str, u32)] = if scan {
            &[
                ("key", key),
                ("version", INT8),
                ("deleted", BOOL),
                ("content_type", TEXT),
                ("expires_at", INT8),
                ("value", BYTEA),
            ]
        } else if text.starts_with("SELECT key FROM kv_log") {
            &[("key", key)]
        } else if text.contains("CHANGEFEED FOR") {
            &[("table", TEXT), ("key", BYTEA), ("value", BYTEA)]
        } else if text.contains("SHOW STATISTICS") {
            &[("distinct_count", INT8)]
        } else {
            &[("text", TEXT)]
        };
        self.put(b't', |body| {
            body.put_u16(u16::from(scan));
            if scan {
                body.put_u32(key);
            }
        });
        self.columns(columns);
    }

    fn columns(&mut self, columns: &[(&str, u32)]) {
        self.put(b'T', |body| {
            body.put_u16(u16::try_from(columns.len()).unwrap());
            for (name, kind) in columns {
                put_string(body, name);
                body.put_u32(0);
                body.put_u16(0);
                body.put_u32(*kind);
                body.put_i16(-1);
                body.put_i32(-1);
                body.put_u16(0);
            }
        });
    }

    fn execute(&mut self, bound: &Bound) {
        let script = self.state.script.lock().unwrap().clone();
        let text = &bound.text;
        if text.starts_with("SELECT DISTINCT ON (key)") {
            let after = &bound.parameters[0];
            let limit = text.rsplit("LIMIT ").next().unwrap().parse().unwrap();
            let rows = script.snapshot.iter();
            let rows = rows.filter(|row| row.key.as_bytes() > &after[..]);
            for row in rows.take(limit) {
                self.row(&[
                    Some(row.key.as_bytes()),
                    Some(&row.version.to_be_bytes()),
                    Some(&[u8::from(row.value.is_none())]),
                    None,
                    None,
                    row.value.as_deref(),
                ]);
            }
        } else if text == "SELECT version()" {
            self.row(&[Some(script.version.as_bytes())]);
        } else if text.contains("cluster_logical_timestamp()") {
            self.row(&[Some(script.moment.as_bytes())]);
        } else if text.contains("SHOW STATISTICS") {
            if let Some(keys) = script.keys {
                self.row(&[Some(&keys.to_be_bytes())]);
            }
        } else {
            panic!("the stand-in has no answer to {text}");
        }
        self.complete("SELECT");
    }

    /// Plays the next conversation; `false` when the connection has ended.
    async fn play(&mut self) -> std::io::Result<bool> {
        let steps = self.state.script.lock().unwrap().feeds.pop_front();
        for step in steps.unwrap_or_default() {
            match step {
                Step::Row(table, key, value) => {
                    let table = table.as_deref().map(str::as_bytes);
                    let key = key.as_deref().map(str::as_bytes);
                    self.row(&[table, key, Some(value.as_bytes())]);
                }
                Step::Notice(text) => self.put(b'N', |body| report(body, "NOTICE", "00000", &text)),
                Step::Error(code, message) => self.error(&code, &message),
                // It is, once the client has asked for it.
                Step::Ready => return Ok(true),
                Step::End => return Ok(false),
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Torn => {
                    self.row(&[None, None, Some(&[b'{'; 100])]);
                    self.output.truncate(self.output.len() - 50);
                    self.flush().await?;
                    return Ok(false);
                }
            }
            // Every message is sent by itself, as the server does.
            let bytes = self.output.len();
            self.flush().await?;
            self.state.sent.fetch_add(bytes, Ordering::SeqCst);
        }
        // Silence, until the client has had enough of it.
        while self.stream.read_buf(&mut self.input).await? > 0 {}
        Ok(false)
    }

    fn row(&mut self, columns: &[Option<&[u8]>]) {
        self.put(b'D', |body| {
            body.put_u16(u16::try_from(columns.len()).unwrap());
            for column in columns {
                match column {
                    Some(bytes) => {
                        body.put_u32(u32::try_from(bytes.len()).unwrap());
                        body.put_slice(bytes);
                    }
                    None => body.put_i32(-1),
                }
            }
        });
    }

    fn error(&mut self, code: &str, message: &str) {
        self.put(b'E', |body| report(body, "ERROR", code, message));
    }

    fn complete(&mut self, tag: &str) {
        self.put(b'C', |body| put_string(body, tag));
    }

    async fn ready(&mut self) -> std::io::Result<()> {
        self.put(b'Z', |body| body.put_u8(b'I'));
        self.flush().await
    }

    fn put(&mut self, kind: u8, write: impl FnOnce(&mut BytesMut)) {
        let mut body = BytesMut::new();
        write(&mut body);
        self.output.put_u8(kind);
        self.output.put_u32(u32::try_from(body.len() + 4).unwrap());
        self.output.put_slice(&body);
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        let bytes = self.output.split();
        self.stream.write_all(&bytes).await
    }
}

/// The body of an error or a notice.
fn report(body: &mut BytesMut, severity: &str, code: &str, message: &str) {
    for (field, text) in [
        (b'S', severity),
        (b'V', severity),
        (b'C', code),
        (b'M', message),
    ] {
        body.put_u8(field);
        put_string(body, text);
    }
    body.put_u8(0);
}

fn put_string(body: &mut BytesMut, text: &str) {
    body.put_slice(text.as_bytes());
    body.put_u8(0);
}

/// A text up to its zero byte.
fn string(body: &mut Bytes) -> String {
    let end = body.iter().position(|byte| *byte == 0).unwrap();
    let text = String::from_utf8(body.split_to(end).to_vec()).unwrap();
    body.advance(1);
    text
}

/// The parameters of a Bind message, after its names.
fn parameters(body: &mut Bytes) -> Vec<Bytes> {
    for _ in 0..body.get_u16() {
        body.advance(2);
    }
    let parameters = (0..body.get_u16()).map(|_| {
        let length = usize::try_from(body.get_i32()).unwrap_or(0);
        body.split_to(length)
    });
    parameters.collect()
}
