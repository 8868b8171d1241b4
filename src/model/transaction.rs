//! What models have to do when a transaction ends.

#![allow(unsafe_code)]

use pgrx::prelude::*;

/// Calls `work` at the end of this transaction and of each later one of this process,
/// those that a procedure commits among them. To be asked for once for each work.
pub fn at_each_end(work: fn()) {
    // SAFETY: the callback takes back what it is given; both last as long as the process.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_transaction_event), work as *mut core::ffi::c_void);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(
    event: pg_sys::XactEvent::Type,
    work: *mut core::ffi::c_void,
) {
    use pg_sys::XactEvent::*;
    let is_end = matches!(
        event,
        XACT_EVENT_COMMIT
            | XACT_EVENT_ABORT
            | XACT_EVENT_PARALLEL_COMMIT
            | XACT_EVENT_PARALLEL_ABORT
            | XACT_EVENT_PREPARE
    );
    if is_end {
        // SAFETY: it is the function that `at_each_end` was given.
        let work: fn() = unsafe { core::mem::transmute(work) };
        work();
    }
}
