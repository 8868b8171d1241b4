//! Threads that work together, as the caller provides them: this crate starts
//! none.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use memory::{OutOfMemory, check_short};

/// Threads that do work together.
pub trait Team {
    /// Does all parts of a piece of work, numbered from 0, and returns when they
    /// are done.
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync));
}

/// Lets a team do work that may fail. After an error, and where memory has run out, no
/// further part is begun.
pub(crate) fn try_run(
    team: &dyn Team,
    parts: usize,
    work: &(dyn Fn(usize) -> Result<(), OutOfMemory> + Sync),
) -> Result<(), OutOfMemory> {
    let failed = OnceLock::new();
    team.run(parts, &|part| {
        if failed.get().is_none()
            && let Err(error) = check_short("the parts of a work").and_then(|()| work(part))
        {
            // One error is enough.
            let _ = failed.set(error);
        }
    });
    failed.into_inner().map_or(Ok(()), Err)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_begun_after_an_error() {
        let error = OutOfMemory::of::<u8>(7, "a test");
        let done = AtomicUsize::new(0);
        let result = try_run(&Alone, 10, &|part| {
            done.fetch_add(1, Ordering::Relaxed);
            if part == 3 { Err(error) } else { Ok(()) }
        });
        assert_eq!((result, done.into_inner()), (Err(error), 4));
        assert_eq!(try_run(&Pair, 10, &|_| Ok(())), Ok(()));
    }
}
