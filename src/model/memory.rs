//! Memory that models and long calls leave behind.
//!
//! glibc keeps freed memory for the next call, tens of megabytes after a model was
//! loaded or many texts were embedded. It goes back to the system after the transaction
//! has ended, when the server turns to the client's next message: then what the executor
//! kept for the call is free, too, also after an ERROR, and a procedure that commits has
//! done all its batches.

#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;

use super::transaction;
#[cfg(target_env = "gnu")]
use crate::threads;

/// Memory was used, so there is some to give back.
static TO_DO: AtomicBool = AtomicBool::new(false);
/// [`CALLBACK`] is registered.
static IS_WAITING: AtomicBool = AtomicBool::new(false);

/// What the server calls before it frees the memory of a message.
static mut CALLBACK: pg_sys::MemoryContextCallback = pg_sys::MemoryContextCallback {
    func: Some(on_end_of_message),
    arg: ptr::null_mut(),
    next: ptr::null_mut(),
};

/// Gives freed memory back to the system after the end of this transaction.
pub fn give_back_at_end() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        transaction::at_each_end(on_end_of_transaction);
    }
    TO_DO.store(true, Ordering::Relaxed);
}

fn on_end_of_transaction() {
    if !TO_DO.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: the context of messages lives as long as the process. The server frees what
    // it holds before it reads the next message (PostgresMain in postgres.c), calls what
    // is registered once, and forgets it, so the callback is in one list at most.
    unsafe {
        if pg_sys::MessageContext.is_null() {
            // A worker without a client. In a procedure that commits, it goes on.
            if pg_sys::SPI_inside_nonatomic_context() {
                return;
            }
            give_back();
        } else if !IS_WAITING.swap(true, Ordering::Relaxed) {
            let callback = &raw mut CALLBACK;
            pg_sys::MemoryContextRegisterResetCallback(pg_sys::MessageContext, callback);
        }
    }
    TO_DO.store(false, Ordering::Relaxed);
}

unsafe extern "C-unwind" fn on_end_of_message(_: *mut core::ffi::c_void) {
    IS_WAITING.store(false, Ordering::Relaxed);
    give_back();
}

fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        threads::at_rest(give_end_back);
        // SAFETY: the allocator's own function, which frees nothing that is in use.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Gives back the free end of the memory that the calling thread allocates from, if it is
/// not the main thread: `malloc_trim` leaves that alone. glibc looks at it when something
/// larger is freed, and takes it back if it is longer than a threshold.
#[cfg(target_env = "gnu")]
fn give_end_back() {
    /// Larger than what glibc keeps for itself without a look at its neighbours
    /// (FASTBIN_CONSOLIDATION_THRESHOLD), smaller than what gets memory of its own.
    const LARGER: usize = 100_000;
    /// glibc comes to some such by itself in a process that frees megabytes.
    const THRESHOLD: i32 = 16 << 20;
    // SAFETY: a threshold changes nothing but what is kept; a piece is freed once.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 0);
        libc::free(std::hint::black_box(libc::malloc(LARGER)));
        libc::mallopt(libc::M_TRIM_THRESHOLD, THRESHOLD);
    }
}
