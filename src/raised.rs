//! Errors of the server on their way through Rust.
//!
//! pgrx turns an ERROR of the server into a panic and, where the library returns to the
//! server, into an ERROR again. Between, its message is a string of Rust, into which bytes
//! of another encoding than UTF-8 do not go: a question mark stands for them. [`unchanged`]
//! keeps the bytes aside and puts them back.

#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::prelude::*;

use crate::encoding::Encoding;

/// The texts of an error, as the server has them.
struct Raised {
    message: Vec<u8>,
    detail: Option<Vec<u8>>,
    hint: Option<Vec<u8>>,
}

/// The last error that was raised within [`unchanged`].
static LAST: Mutex<Option<Raised>> = Mutex::new(None);

unsafe extern "C-unwind" {
    /// The code of the error that is being raised (elog.c).
    fn geterrcode() -> c_int;
}

/// Does work that may meet an ERROR of the server with a text that is not UTF-8, which then
/// goes on as it was raised. To be used around what runs statements, expressions or
/// functions of users.
pub fn unchanged<R>(work: impl FnOnce() -> R) -> R {
    if Encoding::of_database() == Encoding::Utf8 {
        return work();
    }
    // SAFETY: the entry is taken off the stack before it goes away, also after an ERROR,
    // which is a panic by then.
    let result = unsafe {
        let mut entry = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(keep_texts),
            arg: std::ptr::null_mut(),
        };
        pg_sys::error_context_stack = &raw mut entry;
        let result = catch_unwind(AssertUnwindSafe(work));
        pg_sys::error_context_stack = entry.previous;
        result
    };
    match result {
        Ok(value) => value,
        Err(panic) => raise_again(panic),
    }
}

/// Called by the server before an error or a notice goes its way.
#[pg_guard]
unsafe extern "C-unwind" fn keep_texts(_argument: *mut c_void) {
    // SAFETY: the server is about to raise something, and gives a copy of it.
    unsafe {
        let no_memory = PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as c_int;
        if geterrcode() == no_memory {
            return;
        }
        let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let error = pg_sys::CopyErrorData();
        if (*error).elevel == PgLogLevel::ERROR as c_int {
            let text =
                |text: *mut c_char| (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes());
            let message = text((*error).message).unwrap_or_default();
            let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
            // One that has come through Rust already has lost its bytes.
            let is_known = last
                .as_ref()
                .is_some_and(|last| String::from_utf8_lossy(&last.message).as_bytes() == message);
            if !is_known {
                *last = Some(Raised {
                    message: message.to_vec(),
                    detail: text((*error).detail).map(<[u8]>::to_vec),
                    hint: text((*error).hint).map(<[u8]>::to_vec),
                });
            }
        }
        pg_sys::FreeErrorData(error);
        pg_sys::MemoryContextSwitchTo(context);
    }
}

fn raise_again(panic: Box<dyn Any + Send>) -> ! {
    let raised = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(raised) = raised
        && let Some(CaughtError::PostgresError(report)) = panic.downcast_ref::<CaughtError>()
        && String::from_utf8_lossy(&raised.message) == report.message()
    {
        // SAFETY: as for `encoding::for_report`: pgrx only copies the bytes.
        let text = |bytes| unsafe { String::from_utf8_unchecked(bytes) };
        let mut again = ErrorReport::new(report.sql_error_code(), text(raised.message), "");
        if let Some(detail) = raised.detail {
            again = again.set_detail(text(detail));
        }
        if let Some(hint) = raised.hint {
            again = again.set_hint(text(hint));
        }
        again.report(PgLogLevel::ERROR);
    }
    resume_unwind(panic)
}
