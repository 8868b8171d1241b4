//! Memory that may run out.
//!
//! Rust ends the process where an allocation fails, and in a server that ends every
//! session. So what grows with data or settings grows by the functions of [`vec`](mod@vec),
//! which give an [`OutOfMemory`] instead. For what is left, such as small pieces, and
//! allocations in other libraries, there is [`Allocator`]: it serves them from a reserve
//! for a while, and [`refused`] tells that it did.
//!
//! What other languages allocate is out of reach of all that. [`check_available`] asks
//! beforehand whether there is enough.

mod allocator;
mod reserve;
pub mod vec;
mod wait;

use std::cell::Cell;

pub use allocator::{Allocator, check_short, is_short, last_refused, refused};
pub use wait::{on_wait, wait_for};

/// An allocation that the system refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct OutOfMemory {
    /// Bytes that were asked for; `None` if more than a machine can address.
    pub bytes: Option<usize>,
    /// What for, as a noun.
    pub what: &'static str,
}

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bytes {
            Some(bytes) => write!(f, "out of memory: {bytes} bytes for {}", self.what),
            None => write!(f, "out of memory: more than any address for {}", self.what),
        }
    }
}

impl OutOfMemory {
    /// The error of `len` values that were to be added to others.
    pub fn of<T>(len: usize, what: &'static str) -> Self {
        OutOfMemory {
            bytes: len.checked_mul(size_of::<T>()),
            what,
        }
    }
}

thread_local! {
    /// The thread takes it as an answer that there is no memory.
    static IS_ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which handles allocations that fail.
///
/// Nothing else may allocate in it: that would end the process where it fails.
pub fn asking<R>(work: impl FnOnce() -> R) -> R {
    struct Asked(bool);
    impl Drop for Asked {
        fn drop(&mut self) {
            IS_ASKING.set(self.0);
        }
    }
    let _asked = Asked(IS_ASKING.replace(true));
    work()
}

fn is_asking() -> bool {
    IS_ASKING.get()
}

/// Whether the system has so much more memory for the process, at this moment.
///
/// # Errors
/// [`OutOfMemory`] if not.
pub fn check_available(bytes: usize, what: &'static str) -> Result<(), OutOfMemory> {
    match memmap2::MmapMut::map_anon(bytes.max(1)) {
        Ok(_) => Ok(()),
        Err(_) => Err(OutOfMemory {
            bytes: Some(bytes),
            what,
        }),
    }
}

/// Whether the system has the memory that a new thread takes before it does anything: its
/// stack, and what each library keeps for a thread. Where there is none for the latter, the
/// process ends (glibc, `__tls_get_addr`). So who begins a thread asks this before, and
/// takes no memory until the thread has begun.
///
/// # Errors
/// [`OutOfMemory`] if not.
pub fn check_thread() -> Result<(), OutOfMemory> {
    const NEEDED: usize = 4 << 20;
    check_available(NEEDED, "a thread")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_not_available() {
        assert_eq!(check_available(1 << 20, "a test"), Ok(()));
        let error = check_available(1 << 60, "a test").unwrap_err();
        let message = "out of memory: 1152921504606846976 bytes for a test";
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn asking_ends_with_the_work() {
        assert!(!is_asking());
        asking(|| {
            asking(|| assert!(is_asking()));
            assert!(is_asking());
        });
        let panic = std::panic::catch_unwind(|| asking(|| panic!("on purpose")));
        assert!(panic.is_err() && !is_asking());
    }
}
