//! The idle instances of a revision. Each worker thread has a shelf of its own:
//! the instance that it ran last is the one whose memory is in its processor's
//! caches, and would have to be fetched from the other's. Counters stay with
//! the shelves for the same reason.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

/// What is kept for reuse. See the head of this file.
pub(super) struct Pool<T> {
    shelves: Box<[Shelf<T>]>,
    per_shelf: usize,
}

/// On cache lines of its own (two, as processors fetch them in pairs).
#[repr(align(128))]
struct Shelf<T> {
    /// Last in, first out.
    idle: Mutex<Vec<T>>,
    taken: AtomicU64,
}

impl<T> Pool<T> {
    /// A pool that keeps `idle` instances, rounded up to as many for each
    /// worker thread.
    pub fn new(idle: usize) -> Pool<T> {
        let shelves = std::thread::available_parallelism().map_or(1, usize::from);
        Pool {
            shelves: (0..shelves)
                .map(|_| Shelf {
                    idle: Mutex::default(),
                    taken: AtomicU64::new(0),
                })
                .collect(),
            per_shelf: idle.div_ceil(shelves),
        }
    }

    /// Counts a use and takes an idle instance: this thread's, or else any.
    pub fn take(&self) -> Option<T> {
        let own = self.own();
        let shelf = self.shelves.get(own)?;
        shelf.taken.fetch_add(1, Ordering::Relaxed);
        if let Some(instance) = shelf.idle.lock().pop() {
            return Some(instance);
        }
        let others = self.shelves.iter().enumerate().filter(|(at, _)| *at != own);
        // One that is locked is in use by its own thread: rather make a new one.
        others
            .filter_map(|(_, shelf)| shelf.idle.try_lock()?.pop())
            .next()
    }

    /// Keeps an instance, unless this thread has enough.
    pub fn give_back(&self, instance: T) {
        if let Some(shelf) = self.shelves.get(self.own()) {
            let mut idle = shelf.idle.lock();
            if idle.len() < self.per_shelf {
                idle.push(instance);
            }
        }
    }

    /// Uses by this thread so far: looking at those of the others would take the line
    /// from them with every request.
    pub fn own_uses(&self) -> u64 {
        let own = self.shelves.get(self.own());
        own.map_or(0, |shelf| shelf.taken.load(Ordering::Relaxed))
    }

    /// Uses so far.
    pub fn uses(&self) -> u64 {
        let taken = |shelf: &Shelf<T>| shelf.taken.load(Ordering::Relaxed);
        self.shelves.iter().map(taken).sum()
    }

    fn own(&self) -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed));
        }
        THREAD.get() % self.shelves.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_back_is_the_first_one_out() {
        let pool = Pool::new(64);
        pool.give_back(1);
        pool.give_back(2);
        assert_eq!(
            (pool.take(), pool.take(), pool.take()),
            (Some(2), Some(1), None)
        );
        assert_eq!(pool.uses(), 3);
    }

    #[test]
    fn a_thread_without_its_own_takes_anothers() {
        let pool = Pool::new(64);
        pool.give_back(1);
        let other = std::thread::scope(|scope| scope.spawn(|| pool.take()).join().unwrap());
        assert_eq!((other, pool.take()), (Some(1), None));
    }

    #[test]
    fn no_more_than_its_bound_is_kept() {
        let pool = Pool::new(1);
        (0..100).for_each(|i| pool.give_back(i));
        assert_eq!((pool.take(), pool.take()), (Some(0), None));
    }
}
