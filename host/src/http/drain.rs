//! How a server tells its connections to stop. A connection looks at one
//! atomic when it is polled anyway; the usual channels would take a lock then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;

/// What a server wants of its connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// Go on.
    Serve = 0,
    /// Finish what is in flight.
    Drain = 1,
    /// End now.
    Abort = 2,
}

/// The server's end.
#[derive(Debug, Default)]
pub(super) struct Drain {
    wanted: AtomicU8,
    next: AtomicU64,
    wakers: Mutex<HashMap<u64, Waker>>,
}

impl Drain {
    /// Tells all connections, those to come too.
    pub(super) fn want(&self, wanted: Wanted) {
        self.wanted.store(wanted as u8, Ordering::SeqCst);
        let wakers: Vec<Waker> = self.wakers.lock().values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A connection's end.
    pub(super) fn member(&self) -> Member<'_> {
        Member {
            drain: self,
            number: None,
        }
    }
}

/// One connection's end. Is to be polled by one task only, whose waker it
/// keeps.
pub(super) struct Member<'a> {
    drain: &'a Drain,
    number: Option<u64>,
}

impl Member<'_> {
    /// What is wanted now; the task is woken when that changes.
    pub(super) fn wanted(&mut self, cx: &mut Context<'_>) -> Wanted {
        if self.number.is_none() {
            let number = self.drain.next.fetch_add(1, Ordering::Relaxed);
            self.drain.wakers.lock().insert(number, cx.waker().clone());
            self.number = Some(number);
        }
        // Read after the waker is in: a change in between is not missed.
        match self.drain.wanted.load(Ordering::SeqCst) {
            0 => Wanted::Serve,
            1 => Wanted::Drain,
            _ => Wanted::Abort,
        }
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.drain.wakers.lock().remove(&number);
        }
    }
}

/// Ends all connections when it goes.
pub(super) struct AbortOnDrop(pub(super) Arc<Drain>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.want(Wanted::Abort);
    }
}
