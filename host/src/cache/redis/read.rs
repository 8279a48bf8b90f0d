//! What readers ask of Redis: looking a key up, filling it, giving a lease back. A
//! lease stands in the place of the entry that it is for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use redis::Cmd;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connection::LinkError;
use super::entry;
use super::flights::{Ticket, Turn};
use super::{RedisCache, as_of, millis, scripts};
use crate::cache::{CacheError, Held, Lease, Lookup};
use crate::model::{Key, State, Version};

/// First and longest wait between two looks at what another process fills.
const POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// What a look at an entry says.
enum Seen {
    Found(State),
    /// Something that does not answer; it is not to be filled either.
    Other,
    Leased,
    Nothing,
}

impl RedisCache {
    /// Looks a key up, and waits for who fills it.
    pub(super) async fn find(
        &self,
        key: &Key,
        at_least: Option<Version>,
    ) -> Result<Lookup, CacheError> {
        let mut get = redis::cmd("GET");
        get.arg(self.entry(key.as_str()));
        let deadline = Instant::now() + self.settings.lease_wait;
        loop {
            // Without a look first: who comes here has had one, and the lease is
            // not given where there is an entry.
            match self.flights.enter(key, self.entropy.next_u64()) {
                Turn::Yours(ticket) => {
                    return self.take_turn(ticket, key, &get, at_least, deadline).await;
                }
                Turn::Wait(ended) => {
                    if timeout_at(deadline, ended).await.is_err() {
                        return Ok(Lookup::Miss(None));
                    }
                }
                Turn::Crowded => return Ok(Lookup::Miss(None)),
            }
            match self.look(&get, at_least).await? {
                Seen::Found(state) => return Ok(Lookup::Found(state)),
                Seen::Other => return Ok(Lookup::Miss(None)),
                Seen::Leased | Seen::Nothing => {}
            }
        }
    }

    /// A look that takes no lease.
    pub(super) async fn seen(
        &self,
        key: &Key,
        at_least: Option<Version>,
    ) -> Result<Option<State>, CacheError> {
        let mut get = redis::cmd("GET");
        get.arg(self.entry(key.as_str()));
        Ok(match self.look(&get, at_least).await? {
            Seen::Found(state) => Some(state),
            Seen::Other | Seen::Leased | Seen::Nothing => None,
        })
    }

    /// Puts a state in the place of its lease.
    pub(super) async fn put(&self, lease: Lease, state: &State) -> Result<bool, CacheError> {
        let now = self.clock.now_micros();
        let state = as_of(state.clone(), now);
        let (class, ttl) = self.kept(&state, now);
        let version = entry::digits(state.version().map_or(0, |version| version.0));
        let (token, ttl) = (entry::lease(lease.token), ttl.to_string());
        let bytes = entry::encode(&state);
        let arguments = [
            token.as_bytes(),
            class.as_bytes(),
            version.as_bytes(),
            ttl.as_bytes(),
            &bytes,
        ];
        let name = self.entry(lease.key.as_str());
        let keys = [self.meta.as_str(), &name];
        let bound = self.settings.command_timeout;
        let filled = scripts::FILL
            .run::<i64>(&self.links, bound, &keys, &arguments)
            .await;
        self.flights.end(&lease.key, lease.token);
        let filled = filled?;
        if filled == 2 {
            self.note_memory(1);
        }
        Ok(filled == 1)
    }

    /// Gives a lease back, in the background.
    pub(super) fn give_back(&self, lease: Lease) {
        let name = self.entry(lease.key.as_str());
        let (links, flights) = (Arc::clone(&self.links), Arc::clone(&self.flights));
        let bound = self.settings.command_timeout;
        self.runtime.spawn(async move {
            let token = entry::lease(lease.token);
            // What cannot be given back expires.
            let _ = scripts::RELEASE
                .run::<i64>(&links, bound, &[&name], &[token])
                .await;
            flights.end(&lease.key, lease.token);
        });
    }

    /// A look at the entry.
    async fn look(&self, get: &Cmd, at_least: Option<Version>) -> Result<Seen, CacheError> {
        let bound = self.settings.command_timeout;
        let bytes: Option<Bytes> = match self.links.query(bound, get).await {
            Ok(bytes) => bytes,
            Err(LinkError::WrongType) => Some(Bytes::new()),
            Err(error) => return Err(error.into()),
        };
        let Some(bytes) = bytes else {
            return Ok(Seen::Nothing);
        };
        let state = match entry::decode(&bytes) {
            Some(Held::State(state)) => state,
            Some(Held::Lease) => return Ok(Seen::Leased),
            None => {
                self.counts.damaged.fetch_add(1, Ordering::Relaxed);
                return Ok(Seen::Other);
            }
        };
        if at_least.is_some_and(|wanted| state.version().is_none_or(|version| version < wanted)) {
            return Ok(Seen::Other);
        }
        Ok(Seen::Found(as_of(state, self.clock.now_micros())))
    }

    /// Takes the lease, or waits for who has it in another process.
    async fn take_turn(
        &self,
        ticket: Ticket,
        key: &Key,
        get: &Cmd,
        at_least: Option<Version>,
        deadline: Instant,
    ) -> Result<Lookup, CacheError> {
        let mut set = redis::cmd("SET");
        set.arg(self.entry(key.as_str()))
            .arg(entry::lease(ticket.id()));
        set.arg("NX").arg("PX").arg(millis(self.settings.lease_ttl));
        let (mut wait, longest) = POLL;
        loop {
            let bound = self.settings.command_timeout;
            match self.links.query::<Option<String>>(bound, &set).await {
                Ok(Some(_)) => {
                    let key = key.clone();
                    let token = ticket.keep();
                    return Ok(Lookup::Miss(Some(Lease { key, token })));
                }
                Ok(None) if Instant::now() >= deadline => return Ok(Lookup::Miss(None)),
                Ok(None) => {}
                // No room for a lease says nothing about the entry.
                Err(LinkError::NoMemory) => {
                    return Ok(match self.look(get, at_least).await? {
                        Seen::Found(state) => Lookup::Found(state),
                        Seen::Other | Seen::Leased | Seen::Nothing => Lookup::Miss(None),
                    });
                }
                Err(error) => return Err(error.into()),
            }
            loop {
                match self.look(get, at_least).await? {
                    Seen::Found(state) => return Ok(Lookup::Found(state)),
                    Seen::Other => return Ok(Lookup::Miss(None)),
                    Seen::Nothing => break,
                    Seen::Leased if Instant::now() >= deadline => return Ok(Lookup::Miss(None)),
                    Seen::Leased => {
                        sleep_until(deadline.min(Instant::now() + wait)).await;
                        wait = (wait * 2).min(longest);
                    }
                }
            }
        }
    }
}
