//! Memory that models and long calls leave behind.
//!
//! glibc keeps freed memory for the next call, tens of megabytes after a model was
//! loaded or many texts were embedded. It goes back to the system when the
//! transaction ends: then what the executor kept for the call is free, too.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::prelude::*;

static TO_DO: AtomicBool = AtomicBool::new(false);

/// Gives freed memory back to the system at the end of this transaction.
pub fn give_back_at_end() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: registered once in a process, for as long as it lives.
        unsafe {
            pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut());
        }
    }
    TO_DO.store(true, Ordering::Relaxed);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(
    event: pg_sys::XactEvent::Type,
    _argument: *mut core::ffi::c_void,
) {
    use pg_sys::XactEvent::*;
    let is_end = matches!(
        event,
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE
    );
    // A procedure that commits goes on: `embed_table` would ask the system for the same
    // memory again for each batch.
    // SAFETY: looks at the server's stack of connections to SPI.
    let goes_on = unsafe { pg_sys::SPI_inside_nonatomic_context() };
    if is_end && !goes_on && TO_DO.swap(false, Ordering::Relaxed) {
        // SAFETY: the allocator's own function, which frees nothing that is in use.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
