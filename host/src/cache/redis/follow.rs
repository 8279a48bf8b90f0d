//! What a hydrator asks of Redis: applying rows, and the position that goes with
//! them.

use redis::Value as Reply;

use super::connection::LinkError;
use super::error::RedisCacheError;
use super::info::Info;
use super::{RedisCache, Session, entry, millis, scripts};
use crate::cache::{Applied, CacheError, Decision};
use crate::feed::Position;
use crate::model::{Row, State};

/// Rows in one run of the script: others have to wait for its end.
const ROWS_IN_A_SCRIPT: usize = 128;

/// Keys looked at in one step of removing what an earlier epoch has left.
pub(super) const KEYS_IN_A_SCAN: usize = 1000;

/// The arguments of a script that has none.
const NOTHING: &[&str] = &[];

impl RedisCache {
    /// Applies rows in one round trip.
    pub(super) async fn apply_rows(
        &self,
        rows: &[Row],
        decisions: &[Decision],
    ) -> Result<Applied, CacheError> {
        if rows.is_empty() {
            return Ok(Applied::default());
        }
        let session = self.session.lock().clone().ok_or(CacheError::Moved)?;
        let bound = self.settings.batch_timeout;
        let batch = self.batch(&session, rows, decisions, false);
        let outcome = match self.links.pipeline(bound, &batch).await {
            Err(LinkError::NoScript) => {
                let batch = self.batch(&session, rows, decisions, true);
                self.links.pipeline(bound, &batch).await
            }
            outcome => outcome,
        };
        let outcome: Vec<(i64, i64)> = outcome?;
        if outcome.iter().any(|(stored, _)| *stored < 0) {
            *self.session.lock() = None;
            return Err(CacheError::Moved);
        }
        self.flights.end_all(rows.iter().map(|row| &row.key));
        let stored = outcome
            .iter()
            .map(|(stored, _)| stored.unsigned_abs())
            .sum();
        let skipped = (rows.len() as u64).saturating_sub(stored);
        let full = outcome.iter().any(|(_, full)| *full != 0);
        self.note_memory(if full { skipped } else { 0 });
        Ok(Applied { stored, skipped })
    }

    /// The position; what rows are applied to from now on is what is there now.
    pub(super) async fn read_position(&self) -> Result<Option<Position>, CacheError> {
        // The run first: what restarts in between is then noticed.
        let run = self.run().await?;
        let mut hmget = redis::cmd("HMGET");
        hmget.arg(&self.meta).arg("epoch").arg("position");
        let bound = self.settings.command_timeout;
        let kept: (Option<String>, Option<String>) = self.links.query(bound, &hmget).await?;
        let (session, position) = match kept {
            (Some(epoch), Some(position)) => (Some(Session { epoch, run }), Some(position)),
            _ => (None, None),
        };
        *self.session.lock() = session;
        Ok(position.map(Position))
    }

    /// Saves the position, and begins an epoch where there is none.
    pub(super) async fn save_or_begin(
        &self,
        previous: Option<&Position>,
        position: &Position,
    ) -> Result<bool, CacheError> {
        let (status, _) = self.save(previous, position, "").await?;
        if status != 2 {
            return Ok(status == 1);
        }
        self.clear().await?;
        let epoch = format!("{:016x}", self.entropy.next_u64());
        let (status, run) = self.save(previous, position, &epoch).await?;
        let begun = status == 3;
        if begun {
            *self.session.lock() = Some(Session { epoch, run });
        }
        Ok(begun)
    }

    /// The commands that apply rows, to be sent together.
    fn batch(
        &self,
        session: &Session,
        rows: &[Row],
        decisions: &[Decision],
        whole: bool,
    ) -> redis::Pipeline {
        let now = self.clock.now_micros();
        let mut pipeline = redis::pipe();
        for (index, chunk) in rows.chunks(ROWS_IN_A_SCRIPT).enumerate() {
            let decisions = decisions.iter().skip(index * ROWS_IN_A_SCRIPT).copied();
            let decisions = decisions.chain(std::iter::repeat(Decision::Evict));
            let mut command = scripts::APPLY.call(whole, chunk.len() + 1);
            command.arg(&self.meta);
            for row in chunk {
                command.arg(self.entry(row.key.as_str()));
            }
            command.arg(&session.epoch).arg(&session.run);
            command.arg(millis(self.settings.tombstone_ttl));
            command.arg(millis(self.settings.entry_ttl));
            for (row, decision) in chunk.iter().zip(decisions) {
                let op = match decision {
                    Decision::Store => "s",
                    Decision::Refresh => "r",
                    Decision::Evict => "e",
                };
                let state = match decision {
                    Decision::Evict => State::Deleted {
                        version: row.version,
                    },
                    Decision::Store | Decision::Refresh => {
                        State::of(row.version, row.value.clone(), now)
                    }
                };
                let (class, ttl) = self.kept(&state, now);
                command.arg(op).arg(class).arg(entry::digits(row.version.0));
                command.arg(ttl).arg(entry::encode(&state));
            }
            pipeline.add_command(command);
        }
        pipeline
    }

    /// The run of the server; nothing when it may not be asked.
    async fn run(&self) -> Result<String, CacheError> {
        let bound = self.settings.command_timeout;
        match self
            .links
            .query::<String>(bound, redis::cmd("INFO").arg("server"))
            .await
        {
            Ok(text) => Ok(Info(&text).get("run_id").unwrap_or_default().to_owned()),
            Err(LinkError::Redis(RedisCacheError::Permission { .. })) => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what an earlier epoch has left, unless a new one has begun.
    async fn clear(&self) -> Result<(), CacheError> {
        let bound = self.settings.batch_timeout;
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(self.entry("*"));
            scan.arg("COUNT").arg(KEYS_IN_A_SCAN);
            let (next, found): (String, Vec<Vec<u8>>) = self.links.query(bound, &scan).await?;
            let mut keys = vec![self.meta.as_bytes()];
            keys.extend(found.iter().map(Vec::as_slice));
            if scripts::CLEAR
                .run::<i64>(&self.links, bound, &keys, NOTHING)
                .await?
                < 0
            {
                return Ok(());
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    async fn save(
        &self,
        previous: Option<&Position>,
        position: &Position,
        epoch: &str,
    ) -> Result<(i64, String), CacheError> {
        let ttls = [self.settings.tombstone_ttl, self.settings.entry_ttl];
        let [tombstones, values] = ttls.map(|ttl| millis(ttl).to_string());
        let arguments = [
            if previous.is_some() { "1" } else { "0" },
            previous.map_or("", |previous| &previous.0),
            &position.0,
            epoch,
            &tombstones,
            &values,
        ];
        let bound = self.settings.command_timeout;
        let keys = [self.meta.as_str()];
        let answer: Vec<Reply> = scripts::SAVE
            .run(&self.links, bound, &keys, &arguments)
            .await?;
        let status = answer.first().and_then(integer).unwrap_or(0);
        let run = match answer.get(1) {
            Some(Reply::BulkString(run)) => String::from_utf8_lossy(run).into_owned(),
            _ => String::new(),
        };
        Ok((status, run))
    }
}

fn integer(reply: &Reply) -> Option<i64> {
    match reply {
        Reply::Int(number) => Some(*number),
        _ => None,
    }
}
