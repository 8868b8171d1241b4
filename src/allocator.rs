//! What happens when memory runs out: an ERROR, or the end of the session, but not of
//! all sessions, which is what the server makes of a process that aborts.
//!
//! Sizes that come from data are asked for with the functions of `memory::vec`, and
//! their errors end in [`raise`]. What is left gets its memory from a reserve for a
//! while, and [`check`] raises the ERROR then: it stands wherever interrupts are served.
//! If the reserve does not do either, the session ends with a FATAL error, which gives
//! back all that it holds of the server. Only the backend's own thread can do that. Every
//! other one that lacks memory stops where it is, for good, and the backend's own ends the
//! session as soon as it looks: so wherever that one waits for others, it waits for a while
//! and calls [`end_for_others`], and ONNX Runtime, which does not, waits for threads of its
//! own on the thread for work aside only.
//!
//! Where it is the server that has no memory, it raises an ERROR, and so that this is all,
//! there is a ballast, which goes when that happens.

#![allow(unsafe_code)]

use core::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
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
    end_for_others();
    if is_short()
        && let Some(bytes) = memory::refused()
    {
        raise(OutOfMemory {
            bytes: Some(bytes),
            what: "the work of this statement",
        });
    }
    // An error may have taken it.
    set_ballast();
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
    fn proc_exit(code: c_int) -> !;
}

/// Bytes that a thread beside the backend's own lacks; 0 if none.
static LACKING: AtomicUsize = AtomicUsize::new(0);

/// Ends this session if another thread cannot go on. To be called by threads that wait for
/// others; those beside the backend's own stop for good then.
pub fn end_for_others() {
    let bytes = LACKING.load(Ordering::Acquire);
    if bytes != 0 {
        end_session(bytes);
    }
}

/// To be called when the library is loaded.
pub fn init() {
    memory::on_wait(end_for_others);
    set_ballast();
    watch_server();
}

/// Bytes of the ballast.
///
/// glibc takes 1 MiB at least where its heap has no room to grow (`MMAP_AS_MORECORE_SIZE` in
/// its malloc.c); what is asked for after an error are some messages.
const BALLAST: usize = 2 << 20;

/// Memory that nobody uses, so that there is some for an error about memory; null if there
/// is none.
///
/// An error takes memory of the server's own: for copies of its message, which pgrx makes
/// where the error goes through Rust, for the message to the client, and the line of the
/// log. Where there is none, that is another error, which is copied too: at the fifth, the
/// server ends *all* sessions (`ERRORDATA_STACK_SIZE` in elog.c).
///
/// The pages are writable and private, so they count for every limit, of addresses and of
/// promised memory (`vm.overcommit_memory = 2`), and what they counted for is free when
/// they go. None of them is ever touched.
static BALLAST_AT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Sets memory aside for errors, if there is none and the system has some. Only the
/// backend's own thread calls this.
fn set_ballast() {
    if !BALLAST_AT.load(Ordering::Relaxed).is_null() {
        return;
    }
    // SAFETY: new pages, of which nobody knows.
    let pages = unsafe {
        libc::mmap(
            ptr::null_mut(),
            BALLAST,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if pages != libc::MAP_FAILED {
        BALLAST_AT.store(pages, Ordering::Relaxed);
    }
}

fn drop_ballast() {
    let pages = BALLAST_AT.swap(ptr::null_mut(), Ordering::Relaxed);
    if !pages.is_null() {
        // SAFETY: the pages of `set_ballast`, which nobody uses, and which are given back
        // once.
        unsafe { libc::munmap(pages, BALLAST) };
    }
}

type Stats = unsafe extern "C-unwind" fn(
    pg_sys::MemoryContext,
    pg_sys::MemoryStatsPrintFunc,
    *mut c_void,
    *mut pg_sys::MemoryContextCounters,
    bool,
);

/// The server's own function for [`on_stats`].
static STATS: OnceLock<Stats> = OnceLock::new();

/// Has the server tell when it is about to raise an error because it has no memory.
///
/// It has no hook for that, but the first thing it does then is to write into the log what
/// each of its memory contexts has (`MemoryContextStats` of `TopMemoryContext` in mcxt.c),
/// for which each context has a function. So there is a context of ours, which holds
/// nothing, and has another such function. (From version 17 on, the server adds contexts
/// up, and says so, beyond the hundred that were made last; there are some twenty.)
fn watch_server() {
    // SAFETY: called by the server when it loads the library, on its own thread. The context
    // lasts as long as the process, and so do its functions, which are those that the server
    // gave it but for one.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"insitu".as_ptr(),
            0,
            1024,
            1024,
        );
        let mut methods = *(*context).methods;
        if let Some(stats) = methods.stats
            && STATS.set(stats).is_ok()
        {
            methods.stats = Some(on_stats);
            (*context).methods = Box::leak(Box::new(methods));
        }
    }
}

/// Called by the server for what our context has. It writes that to standard error where it
/// lacks memory, and only then.
unsafe extern "C-unwind" fn on_stats(
    context: pg_sys::MemoryContext,
    print: pg_sys::MemoryStatsPrintFunc,
    argument: *mut c_void,
    totals: *mut pg_sys::MemoryContextCounters,
    to_stderr: bool,
) {
    if to_stderr {
        drop_ballast();
    }
    if let Some(stats) = STATS.get() {
        // SAFETY: the server's arguments for its own function.
        unsafe { stats(context, print, argument, totals, to_stderr) }
    }
}

/// Ends this session where neither the system nor the reserve has so many bytes for a
/// thread of it; returns only where there is none.
fn end_session(bytes: usize) {
    const MESSAGE: &CStr = c"out of memory: %zu bytes";
    // SAFETY: on the backend's own thread, which may call the server. Nothing returns
    // to the frames below, so that they may be in the middle of anything: a FATAL error
    // ends the transaction and the process. What is dropped with the transaction's memory
    // is sound without them, as it would be if they had been forgotten.
    unsafe {
        if !pg_sys::IsUnderPostmaster || libc::getpid() != pg_sys::MyProcPid {
            return;
        }
        if libc::gettid() != pg_sys::MyProcPid {
            LACKING.store(bytes.max(1), Ordering::Release);
            loop {
                // The backend's own thread ends the process.
                std::thread::sleep(Duration::from_secs(60));
            }
        }
        drop_ballast();
        let is_first = !IS_ENDING.swap(true, Ordering::Relaxed);
        if is_first {
            on_proc_exit(leave, pg_sys::Datum::from(0_usize));
        }
        if !is_first || pg_sys::proc_exit_inprogress {
            // What the server called on the way out lacks memory: the next that is to be
            // done at the end, which the server has crossed this one off its list for.
            proc_exit(1);
        }
        // An ERROR on the way is FATAL as well.
        pg_sys::PG_exception_stack = ptr::null_mut();
        pg_sys::error_context_stack = ptr::null_mut();
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
