//! Appends that wait, by key, and which of them can go together. Pure but for the
//! clock that is passed in; it must not speak to the database.
//!
//! Rules of a batch:
//! - the appends of a key go in the order in which they came;
//! - no key is in two batches at once: the second would only wait for the first;
//! - a condition is decided against the state before the batch, and an id is looked
//!   for in it, so an append that has one is the first of its key in the batch.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::log::{AppendError, Change, Receipt};
use crate::model::{Condition, Key};

/// An append on its way.
#[derive(Debug)]
pub(super) struct Append {
    pub key: Key,
    pub change: Change,
    pub condition: Condition,
    /// Which row of the key is ours. Below 0 the client's, who may send it again and
    /// so find out whether it was written; else random, for us to look up.
    pub write_id: i64,
    /// When it came.
    pub since: Instant,
    /// Until when it may wait to be sent.
    pub deadline: Instant,
    /// It was sent before, and why it is not known what became of that.
    pub unclear: Option<String>,
    pub reply: oneshot::Sender<Result<Receipt, AppendError>>,
}

impl Append {
    /// Whether the client gave it an id.
    pub fn has_id(&self) -> bool {
        self.write_id < 0
    }

    fn bytes(&self) -> usize {
        let value = match &self.change {
            Change::Put { value, .. } => value.len(),
            Change::Delete => 0,
        };
        std::mem::size_of::<Append>() + self.key.as_str().len() + value
    }
}

/// Bounds of a queue and its batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds {
    /// Most appends that wait.
    pub queue: usize,
    /// Most bytes that wait. One append is let in whatever its size.
    pub queue_bytes: usize,
    /// Most appends in a batch.
    pub batch: usize,
    /// Bytes after which a batch takes no more.
    pub batch_bytes: usize,
    /// Most keys in a batch.
    pub batch_keys: usize,
    /// How long an append waits while a batch is under way, unless there are enough
    /// for a full one.
    pub beside: Duration,
}

/// What an overloaded queue says.
const OVERLOADED: &str = "too many writes are waiting for the database; try again later";

/// What an append in a queue is called: two can have the same id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket(u64);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Queue {
    bounds: Bounds,
    waiting: HashMap<Key, VecDeque<(Ticket, Append)>>,
    next_ticket: u64,
    /// Keys with something waiting and nothing under way, in their turn.
    ready: VecDeque<Key>,
    busy: HashSet<Key>,
    count: usize,
    bytes: usize,
    /// Batches taken and not done.
    under_way: usize,
}

impl Queue {
    pub fn new(bounds: Bounds) -> Queue {
        Queue {
            bounds,
            waiting: HashMap::new(),
            next_ticket: 0,
            ready: VecDeque::new(),
            busy: HashSet::new(),
            count: 0,
            bytes: 0,
            under_way: 0,
        }
    }

    /// Takes an append in, or says why not.
    pub fn push(&mut self, append: Append) -> Result<Ticket, String> {
        let bytes = append.bytes();
        let full = self.count >= self.bounds.queue
            || (self.count > 0 && self.bytes + bytes > self.bounds.queue_bytes);
        if full {
            return Err(OVERLOADED.into());
        }
        self.count += 1;
        self.bytes += bytes;
        let key = append.key.clone();
        let waiting = self.waiting.entry(key.clone()).or_default();
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        waiting.push_back((ticket, append));
        if waiting.len() == 1 && !self.busy.contains(&key) {
            self.ready.push_back(key);
        }
        Ok(ticket)
    }

    /// When there is something to take; it may have passed.
    pub fn due(&self) -> Option<Instant> {
        let mut ready = self.ready.iter();
        let (_, first) = ready.find_map(|key| self.waiting.get(key)?.front())?;
        let full = self.count >= self.bounds.batch || self.bytes >= self.bounds.batch_bytes;
        Some(match full || self.under_way == 0 {
            true => first.since,
            false => first.since + self.bounds.beside,
        })
    }

    /// The next batch, if one is due. Whoever takes it says [`Queue::done`] for it.
    /// What has waited too long by `now` is put into `late`, and not in the batch.
    pub fn take(&mut self, now: Instant, late: &mut Vec<Append>) -> Option<Vec<Append>> {
        self.due().filter(|due| *due <= now)?;
        let mut batch: Vec<Append> = Vec::new();
        let mut bytes = 0;
        let mut keys = 0;
        while keys < self.bounds.batch_keys
            && batch.len() < self.bounds.batch
            && (batch.is_empty() || bytes < self.bounds.batch_bytes)
        {
            let Some(key) = self.ready.pop_front() else {
                break;
            };
            let Some(waiting) = self.waiting.get_mut(&key) else {
                continue;
            };
            let mut first = true;
            while let Some((_, append)) = waiting.front() {
                if append.deadline <= now {
                    if let Some((_, append)) = waiting.pop_front() {
                        self.count -= 1;
                        self.bytes -= append.bytes();
                        late.push(append);
                    }
                    continue;
                }
                let alone = append.condition != Condition::None || append.has_id();
                let full = batch.len() >= self.bounds.batch
                    || (!batch.is_empty() && bytes >= self.bounds.batch_bytes);
                if (alone && !first) || full {
                    break;
                }
                let Some((_, append)) = waiting.pop_front() else {
                    break;
                };
                self.count -= 1;
                self.bytes -= append.bytes();
                bytes += append.bytes();
                batch.push(append);
                first = false;
            }
            if waiting.is_empty() {
                self.waiting.remove(&key);
            } else if first {
                // Nothing of it has fitted.
                self.ready.push_front(key.clone());
                break;
            }
            if !first {
                keys += 1;
                self.busy.insert(key);
            }
        }
        if batch.is_empty() {
            return None;
        }
        self.under_way += 1;
        Some(batch)
    }

    /// A batch with these keys has ended.
    pub fn done<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>) {
        self.under_way = self.under_way.saturating_sub(1);
        for key in keys {
            if self.busy.remove(key) && self.waiting.contains_key(key) {
                self.ready.push_back(key.clone());
            }
        }
    }

    /// Takes an append back that still waits; `false` when it does not.
    pub fn take_back(&mut self, key: &Key, ticket: Ticket) -> bool {
        let Some(waiting) = self.waiting.get_mut(key) else {
            return false;
        };
        let Some(place) = waiting.iter().position(|(has, _)| *has == ticket) else {
            return false;
        };
        if let Some((_, append)) = waiting.remove(place) {
            self.count -= 1;
            self.bytes -= append.bytes();
        }
        if waiting.is_empty() {
            self.waiting.remove(key);
            self.ready.retain(|ready| ready != key);
        }
        true
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
