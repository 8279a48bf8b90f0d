//! A slot's door: how many calls of one operation in one region run at a
//! time, and how many may wait.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::CallError;
use crate::config::Handlers;

/// The door of one (region, operation). It outlives revisions: a swap does
/// not double what may run.
#[derive(Debug)]
pub struct Slot {
    running: Semaphore,
    waiting: AtomicUsize,
    settings: Handlers,
}

impl Slot {
    /// A slot with nobody in it.
    pub fn new(settings: Handlers) -> Slot {
        Slot {
            running: Semaphore::new(settings.concurrency),
            waiting: AtomicUsize::new(0),
            settings,
        }
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
    pub async fn enter(&self) -> Result<SemaphorePermit<'_>, CallError> {
        if let Ok(permit) = self.running.try_acquire() {
            return Ok(permit);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.settings.queue {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(CallError::Overloaded);
        }
        let _waiting = Waiting(&self.waiting);
        match tokio::time::timeout(self.settings.queue_wait, self.running.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(CallError::Overloaded),
        }
    }
}

/// Counts one who waits, also when the wait is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
}
