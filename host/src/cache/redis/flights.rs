//! One reader of this process for each key that is missing: the others wait for
//! what it does. It must not speak to Redis.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use crate::model::Key;

/// Keys that are being filled, at most `most` at a time.
#[derive(Debug)]
pub(super) struct Flights {
    flights: Mutex<HashMap<Key, Flight>>,
    most: usize,
    /// After this time one that was abandoned is taken over.
    lasts: Duration,
}

#[derive(Debug)]
struct Flight {
    id: u64,
    until: Instant,
    ended: Arc<Notify>,
}

/// What somebody who misses is to do.
pub(super) enum Turn {
    /// Fill the key.
    Yours(Ticket),
    /// Somebody does; this resolves when that has ended.
    Wait(OwnedNotified),
    /// Nothing: too many keys are being filled.
    Crowded,
}

/// The right to be the one. Dropping it lets the others on.
pub(super) struct Ticket {
    flights: Arc<Flights>,
    key: Key,
    id: u64,
    kept: bool,
}

impl Flights {
    pub fn new(most: usize, lasts: Duration) -> Arc<Flights> {
        Arc::new(Flights {
            flights: Mutex::new(HashMap::new()),
            most,
            lasts,
        })
    }

    /// Whose turn it is. `id` is random.
    pub fn enter(self: &Arc<Self>, key: &Key, id: u64) -> Turn {
        let now = Instant::now();
        let mut flights = self.flights.lock();
        match flights.get(key) {
            Some(flight) if flight.until > now => {
                return Turn::Wait(flight.ended.clone().notified_owned());
            }
            Some(_) => {}
            None if flights.len() >= self.most => {
                flights.retain(|_, flight| flight.until > now);
                if flights.len() >= self.most {
                    return Turn::Crowded;
                }
            }
            None => {}
        }
        let flight = Flight {
            id,
            until: now + self.lasts,
            ended: Arc::new(Notify::new()),
        };
        if let Some(abandoned) = flights.insert(key.clone(), flight) {
            abandoned.ended.notify_waiters();
        }
        Turn::Yours(Ticket {
            flights: Arc::clone(self),
            key: key.clone(),
            id,
            kept: false,
        })
    }

    /// The end of a flight, if it still is that one.
    pub fn end(&self, key: &Key, id: u64) {
        let mut flights = self.flights.lock();
        if flights.get(key).is_some_and(|flight| flight.id == id)
            && let Some(flight) = flights.remove(key)
        {
            flight.ended.notify_waiters();
        }
    }

    /// The end of the flights to these keys, whoever is on them.
    pub fn end_all<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        let mut flights = self.flights.lock();
        for key in keys {
            if flights.is_empty() {
                return;
            }
            if let Some(flight) = flights.remove(key) {
                flight.ended.notify_waiters();
            }
        }
    }
}

impl Ticket {
    /// Which flight it is.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Goes on beyond the ticket, until [`Flights::end`].
    pub fn keep(mut self) -> u64 {
        self.kept = true;
        self.id
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.kept {
            self.flights.end(&self.key, self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_the_others_wait_for_its_end() {
        let flights = Flights::new(2, Duration::from_secs(2));
        let Turn::Yours(ticket) = flights.enter(&key("a"), 1) else {
            panic!("nobody else is there")
        };
        let Turn::Wait(dropped) = flights.enter(&key("a"), 2) else {
            panic!("it was given twice")
        };
        drop(ticket);
        dropped.await;

        let Turn::Yours(ticket) = flights.enter(&key("a"), 3) else {
            panic!("it had ended")
        };
        let kept = ticket.keep();
        let Turn::Wait(ended) = flights.enter(&key("a"), 4) else {
            panic!("it was kept")
        };
        flights.end(&key("a"), 1);
        assert!(matches!(flights.enter(&key("a"), 5), Turn::Wait(_)));
        flights.end(&key("a"), kept);
        ended.await;
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_bounded_and_what_was_abandoned_is_taken_over() {
        let flights = Flights::new(2, Duration::from_secs(2));
        for name in ["a", "b"] {
            let Turn::Yours(ticket) = flights.enter(&key(name), 1) else {
                panic!("nobody else is there")
            };
            ticket.keep();
        }
        assert!(matches!(flights.enter(&key("c"), 2), Turn::Crowded));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(matches!(flights.enter(&key("c"), 3), Turn::Yours(_)));
        assert!(matches!(flights.enter(&key("a"), 4), Turn::Yours(_)));
        assert!(flights.flights.lock().is_empty());
    }
}
