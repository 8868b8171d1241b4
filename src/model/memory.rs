//! Memory that models and long calls leave behind.
//!
//! glibc keeps freed memory for the next call, tens of megabytes after a model was
//! loaded or many texts were embedded. It goes back to the system when the
//! transaction ends: then what the executor kept for the call is free, too.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;

use super::transaction;

static TO_DO: AtomicBool = AtomicBool::new(false);

/// Gives freed memory back to the system at the end of this transaction.
pub fn give_back_at_end() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        transaction::at_each_end(give_back);
    }
    TO_DO.store(true, Ordering::Relaxed);
}

fn give_back() {
    // A procedure that commits goes on: `embed_table` would ask the system for the same
    // memory again for each batch.
    // SAFETY: looks at the server's stack of connections to SPI.
    let goes_on = unsafe { pg_sys::SPI_inside_nonatomic_context() };
    if !goes_on && TO_DO.swap(false, Ordering::Relaxed) {
        // SAFETY: the allocator's own function, which frees nothing that is in use.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
