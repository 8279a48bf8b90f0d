//! Lanes: each takes a batch from the queue, has it written and answers it, while
//! the next batch gathers. It must not answer before it knows, and must answer
//! everything that it has taken.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::deadline;
use super::link::{Found, Link, Outcome};
use super::queue::{Append, Bounds, Queue, Ticket};
use crate::log::{AppendError, Receipt};
use crate::model::Key;
use crate::sql::{Backoff, SqlConfig};

/// What all lanes and those who append share.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
    /// Why the last try to connect failed.
    down: Mutex<Option<String>>,
}

impl Shared {
    pub fn new(bounds: Bounds) -> Shared {
        Shared {
            queue: Mutex::new(Queue::new(bounds)),
            wake: Notify::new(),
            down: Mutex::new(None),
        }
    }

    pub fn push(&self, append: Append) -> Result<Ticket, String> {
        let (ticket, due) = {
            let mut queue = self.queue.lock();
            let before = queue.due();
            let ticket = queue.push(append)?;
            (
                ticket,
                queue.due().filter(|due| before.is_none_or(|it| *due < it)),
            )
        };
        // Else whoever waits for that time has been told.
        if due.is_some() {
            self.wake.notify_one();
        }
        Ok(ticket)
    }

    pub fn take_back(&self, key: &Key, ticket: Ticket) -> bool {
        self.queue.lock().take_back(key, ticket)
    }

    /// Why something was not sent in time.
    pub fn why_late(&self) -> String {
        match &*self.down.lock() {
            Some(why) => why.clone(),
            None => "the database is too slow for the writes that wait (database.request_timeout); try again later".into(),
        }
    }

    /// Waits for a batch. Dropping the future takes none.
    async fn take(&self) -> Vec<Append> {
        loop {
            let wake = self.wake.notified();
            let mut late = Vec::new();
            let (batch, due) = {
                let mut queue = self.queue.lock();
                let batch = queue.take(Instant::now(), &mut late);
                (batch, queue.due())
            };
            for append in late {
                append.answer(Err(AppendError::Unavailable(self.why_late())));
            }
            if let Some(batch) = batch {
                // One wake can stand for many appends.
                if due.is_some() {
                    self.wake.notify_one();
                }
                return batch;
            }
            match due {
                // Cut short by whatever becomes due before.
                Some(due) => drop(timeout_at(due, wake).await),
                None => wake.await,
            }
        }
    }

    fn done<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) {
        let due = {
            let mut queue = self.queue.lock();
            queue.done(keys);
            queue.due()
        };
        if due.is_some() {
            self.wake.notify_one();
        }
    }
}

/// How often a batch that others have got in the way of is tried again.
const RETRIES: u32 = 10;

/// Works until it is dropped.
pub(super) async fn run(shared: Arc<Shared>, config: SqlConfig) {
    let mut backoff = Backoff::new(config.request_timeout);
    loop {
        let mut link = match Link::connect(&config).await {
            Ok(link) => link,
            Err(error) => {
                tracing::warn!(%error, "writes wait for the database");
                *shared.down.lock() = Some(error.to_string());
                backoff.wait().await;
                continue;
            }
        };
        *shared.down.lock() = None;
        backoff.reset();
        while link.is_up() {
            let batch = tokio::select! {
                batch = shared.take() => batch,
                () = link.closed() => break,
            };
            link = write(&shared, &config, link, batch).await;
        }
    }
}

/// Writes a batch and answers it. Gives back a link that may be down.
async fn write(shared: &Shared, config: &SqlConfig, mut link: Link, batch: Vec<Append>) -> Link {
    // All of them stay ours until the last is answered.
    let keys: HashSet<Key> = batch.iter().map(|append| append.key.clone()).collect();
    let until = deadline(config.request_timeout);
    let mut batches = vec![(batch, until)];
    while let Some((batch, until)) = batches.pop() {
        // Nothing of it has been sent, or it is known that nothing was written.
        if !link.is_up()
            && let Ok(Ok(next)) = timeout_at(until, Link::connect(config)).await
        {
            link = next;
        }
        if !link.is_up() || Instant::now() >= until {
            refuse(
                batch,
                "the connection to the database was lost, or is too slow; try again",
            );
            continue;
        }
        match link.append_patiently(&batch, until).await {
            Outcome::Decided(answers) => {
                for (append, answer) in batch.into_iter().zip(answers) {
                    append.answer(answer);
                }
            }
            Outcome::Unclear(why) => {
                let (next, found) = link.resolve(config, &batch, &why).await;
                link = next;
                let again = settle(batch, found);
                if !again.is_empty() {
                    batches.push((again, deadline(config.request_timeout)));
                }
            }
            // Each alone, in their order: the last is taken first.
            Outcome::Spoilt(_) if batch.len() > 1 => {
                let alone = batch.into_iter().rev().map(|append| (vec![append], until));
                batches.extend(alone);
            }
            Outcome::Refused(why) | Outcome::Spoilt(why) | Outcome::Busy(why) => {
                tracing::error!(why, appends = batch.len(), "writes have failed");
                refuse(batch, &why);
            }
        }
    }
    shared.done(&keys);
    link
}

fn refuse(batch: Vec<Append>, why: &str) {
    for mut append in batch {
        let error = match append.unclear.take() {
            None => AppendError::Unavailable(why.to_owned()),
            Some(before) => AppendError::OutcomeUnknown(format!("{before}; sent again: {why}")),
        };
        append.answer(Err(error));
    }
}

/// Answers what was found out; gives back what still has time and was not written,
/// or has an id by which the database knows whether it was.
fn settle(batch: Vec<Append>, found: Vec<Found>) -> Vec<Append> {
    let now = Instant::now();
    let mut again = Vec::new();
    for (mut append, found) in batch.into_iter().zip(found) {
        match found {
            Found::Written(receipt) => append.answer(Ok(receipt)),
            Found::Nothing(_) if append.deadline > now => again.push(append),
            Found::Nothing(why) => {
                let why = format!("{why}; nothing was written, try again");
                append.answer(Err(AppendError::Unavailable(why)));
            }
            Found::Unknown(why) if append.has_id() && append.deadline > now => {
                append.unclear = Some(why);
                again.push(append);
            }
            Found::Unknown(why) => append.answer(Err(AppendError::OutcomeUnknown(why))),
        }
    }
    again
}

impl Append {
    fn answer(self, answer: Result<Receipt, AppendError>) {
        // Nobody may be waiting any more; the row stays.
        let _ = self.reply.send(answer);
    }
}

impl Link {
    /// Tries a batch again that others have got in the way of.
    async fn append_patiently(&self, batch: &[Append], until: Instant) -> Outcome {
        let mut tries = 0;
        loop {
            match self.append(batch, until).await {
                Outcome::Busy(_) if tries < RETRIES && Instant::now() < until => {
                    tries += 1;
                    sleep(jitter(tries)).await;
                }
                outcome => return outcome,
            }
        }
    }
}

/// A random wait, longer with each try: at most 1 ms, then 2, and so on.
fn jitter(tries: u32) -> Duration {
    Duration::from_millis(1 << tries.min(9)).mul_f64(rand::random::<f64>())
}
