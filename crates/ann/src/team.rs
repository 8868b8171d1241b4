//! Threads that work together, as the caller provides them: this crate starts
//! none.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads that do work together.
pub trait Team {
    /// Does all parts of a piece of work, numbered from 0, and returns when they
    /// are done.
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync));
}

/// A team of one.
pub struct Alone;

impl Team for Alone {
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..parts).for_each(work);
    }
}

/// The parts of a piece of work, handed out one by one.
pub struct Parts {
    next: AtomicUsize,
    count: usize,
}

impl Parts {
    /// So many parts.
    pub fn new(count: usize) -> Self {
        Parts {
            next: AtomicUsize::new(0),
            count,
        }
    }

    /// A part that nobody has taken.
    pub fn take(&self) -> Option<usize> {
        let part = self.next.fetch_add(1, Ordering::Relaxed);
        (part < self.count).then_some(part)
    }

    /// No more parts are handed out.
    pub fn stop(&self) {
        self.next.store(usize::MAX / 2, Ordering::Relaxed);
    }
}

/// Two threads, for tests.
#[cfg(test)]
pub(crate) struct Pair;

#[cfg(test)]
impl Team for Pair {
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let parts = Parts::new(parts);
        let worker = || {
            while let Some(part) = parts.take() {
                work(part);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(worker);
            worker();
        });
    }
}
