//! What happens when memory runs out: an ERROR, or the end of the session, but not of
//! all sessions, which is what the server makes of a process that aborts.
//!
//! Sizes that come from data are asked for with the functions of `memory::vec`, and
//! their errors end in [`raise`]. What is left gets its memory from a reserve for a
//! while, and [`check`] raises the ERROR then: it stands wherever interrupts are served.
//! If the reserve does not do either, the session ends with a FATAL error, which gives
//! back all that it holds of the server. The thread for work aside waits for the backend's
//! own to do that; on others it cannot be, and the process aborts.

#![allow(unsafe_code)]

use core::ffi::{CStr, c_char, c_int};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use memory::OutOfMemory;
pub use memory::is_short;
use pgrx::prelude::*;

use crate::errors;

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator {
    last_resort: end_session,
};

/// The session ends.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// Whether the session ends in the middle of something: what is locked stays locked.
pub fn is_ending() -> bool {
    IS_ENDING.load(Ordering::Relaxed)
}

/// Raises an ERROR if memory ran out since this was asked last. To be called where
/// interrupts are served.
pub fn check() {
    if is_short()
        && let Some(bytes) = memory::refused()
    {
        raise(OutOfMemory {
            bytes: Some(bytes),
            what: "the work of this statement",
        });
    }
}

/// Raises an ERROR if memory ran out, whether there is some now or not. To be called after
/// work that ended because of [`is_short`].
pub fn check_stopped() {
    if let Some(bytes) = memory::last_refused() {
        raise(OutOfMemory {
            bytes: Some(bytes),
            what: "the work of this statement",
        });
    }
}

/// Raises the ERROR of memory that the system refused.
#[track_caller]
pub fn raise(error: OutOfMemory) -> ! {
    errors::raise_with_hint(
        PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
        error.to_string(),
        "The system has no more memory for this session, or a limit was set for it.",
    )
}

/// What there is memory for, or an ERROR.
#[track_caller]
pub fn unwrap<T>(result: Result<T, OutOfMemory>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => raise(error),
    }
}

// Functions of the server, called as C calls them: there is nobody to catch an ERROR.
unsafe extern "C" {
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errcode(code: c_int) -> c_int;
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
    fn on_proc_exit(
        callback: unsafe extern "C" fn(code: c_int, argument: pg_sys::Datum),
        argument: pg_sys::Datum,
    );
}

thread_local! {
    /// This is the thread for work aside.
    static IS_ASIDE: Cell<bool> = const { Cell::new(false) };
}

/// Bytes that the thread for work aside lacks; 0 if none.
static LACKING: AtomicUsize = AtomicUsize::new(0);

/// To be called on the thread for work aside when it begins.
pub fn note_aside() {
    IS_ASIDE.set(true);
}

/// Ends this session if the thread for work aside cannot go on. To be called on the
/// backend's own thread while it waits for the other.
pub fn end_for_aside() {
    let bytes = LACKING.load(Ordering::Acquire);
    if bytes != 0 {
        end_session(bytes);
    }
}

/// Ends this session where neither the system nor the reserve has so many bytes for the
/// backend's own thread or the one for work aside; else returns.
fn end_session(bytes: usize) {
    // SAFETY: reads what is set once, when the process begins.
    if IS_ASIDE.get() && unsafe { pg_sys::IsUnderPostmaster } {
        LACKING.store(bytes.max(1), Ordering::Release);
        loop {
            // The backend's own thread ends the process.
            std::thread::sleep(Duration::from_secs(60));
        }
    }
    const MESSAGE: &CStr = c"out of memory: %zu bytes";
    // SAFETY: this is a backend's own thread, which may call the server. Nothing returns
    // to the frames below, so that they may be in the middle of anything: a FATAL error
    // ends the transaction and the process. What is dropped with the transaction's memory
    // is sound without them, as it would be if they had been forgotten.
    unsafe {
        let is_backend = pg_sys::IsUnderPostmaster && libc::getpid() == pg_sys::MyProcPid;
        if !is_backend || libc::gettid() != pg_sys::MyProcPid {
            return;
        }
        // Once: if that takes memory too, there is no other way.
        if IS_ENDING.swap(true, Ordering::Relaxed) {
            return;
        }
        if pg_sys::proc_exit_inprogress {
            // It goes on without the thread for work aside.
            if LACKING.load(Ordering::Acquire) != 0 {
                on_proc_exit(leave, pg_sys::Datum::from(0_usize));
            }
            return;
        }
        // An ERROR on the way is FATAL as well.
        pg_sys::PG_exception_stack = ptr::null_mut();
        pg_sys::error_context_stack = ptr::null_mut();
        on_proc_exit(leave, pg_sys::Datum::from(0_usize));
        if errstart(pg_sys::FATAL as c_int, ptr::null()) {
            errcode(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as c_int);
            errmsg_internal(MESSAGE.as_ptr(), bytes);
            errfinish(c"allocator.rs".as_ptr(), 0, c"end_session".as_ptr());
        }
    }
}

/// The server has done what it does when a process ends. What libraries would do wants
/// locks that this thread may hold.
unsafe extern "C" fn leave(code: c_int, _argument: pg_sys::Datum) {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}
