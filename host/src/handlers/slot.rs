//! A slot's door: how many calls of one operation in one region run at a
//! time, and how many may wait. What its revisions say is kept here too.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::error::CallError;
use super::logs::HandlerLog;
use crate::config::Handlers;

/// The door of one (region, operation). It outlives revisions: a swap does
/// not double what may run.
///
/// Every request goes through, so the open door costs one atomic step each
/// way; tokio's semaphore takes a lock to leave.
#[derive(Debug)]
pub struct Slot {
    running: AtomicUsize,
    waiting: AtomicUsize,
    left: Notify,
    settings: Handlers,
    log: HandlerLog,
}

impl Slot {
    /// A slot with nobody in it.
    pub fn new(settings: Handlers) -> Slot {
        Slot {
            running: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            left: Notify::new(),
            settings,
            log: HandlerLog::default(),
        }
    }

    /// What its revisions print, and how they fail.
    pub fn log(&self) -> &HandlerLog {
        &self.log
    }

    /// The bounds of the slot.
    pub fn settings(&self) -> &Handlers {
        &self.settings
    }

    /// Enters; the permit is given back when it is dropped.
    ///
    /// # Errors
    ///
    /// [`CallError::Overloaded`]: too many wait, or the wait was too long.
    pub async fn enter(&self) -> Result<Permit<'_>, CallError> {
        // Those who wait come first.
        if self.waiting.load(Ordering::SeqCst) == 0
            && let Some(permit) = self.try_enter()
        {
            return Ok(permit);
        }
        // Counted before the next try: whoever leaves after that try has
        // failed sees it and calls. Sequential consistency makes it so.
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        if waiting >= self.settings.queue {
            return Err(CallError::Overloaded);
        }
        let turn = async {
            loop {
                let mut left = pin!(self.left.notified());
                left.as_mut().enable();
                if let Some(permit) = self.try_enter() {
                    return permit;
                }
                left.await;
            }
        };
        tokio::time::timeout(self.settings.queue_wait, turn)
            .await
            .map_err(|_| CallError::Overloaded)
    }

    fn try_enter(&self) -> Option<Permit<'_>> {
        let most = self.settings.concurrency;
        let enter = |running| (running < most).then_some(running + 1);
        self.running
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter)
            .ok()
            .map(|_| Permit(self))
    }
}

/// The right to run one call in a slot.
#[derive(Debug)]
pub struct Permit<'a>(&'a Slot);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            self.0.left.notify_one();
        }
    }
}

/// Counts one who waits, also when the wait is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn those_over_the_bound_are_told_at_once_and_those_within_it_wait() {
        let settings = Handlers {
            concurrency: 1,
            queue: 1,
            queue_wait: Duration::from_secs(1),
            ..Default::default()
        };
        let slot = Slot::new(settings);
        let inside = slot.enter().await.unwrap();
        let mut first = Box::pin(slot.enter());
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(matches!(slot.enter().await, Err(CallError::Overloaded)));
        drop(inside);
        let inside = first.await.unwrap();
        // The place in the queue is free again, but the wait is bounded.
        assert!(matches!(slot.enter().await, Err(CallError::Overloaded)));
        drop(inside);
        assert!(slot.enter().await.is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_more_run_than_may_and_everyone_gets_a_turn() {
        let settings = Handlers {
            concurrency: 3,
            queue: 64,
            queue_wait: Duration::from_secs(60),
            ..Default::default()
        };
        let slot = std::sync::Arc::new(Slot::new(settings));
        let inside = std::sync::Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..32)
            .map(|_| {
                let (slot, inside) = (slot.clone(), inside.clone());
                tokio::spawn(async move {
                    for _ in 0..1_000 {
                        let _permit = slot.enter().await.unwrap();
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(slot.running.load(Ordering::SeqCst), 0);
        assert_eq!(slot.waiting.load(Ordering::SeqCst), 0);
    }
}
