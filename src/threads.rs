//! The one place that starts threads of the extension's own.
//!
//! A thread must never run a signal handler of the server: handlers touch the
//! state of the backend, which belongs to its main thread. So all signals are
//! blocked while threads are started, and they inherit that.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// Blocks all signals in this thread until it is dropped.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: both sets are written before they are read; blocking signals
        // cannot fail for a valid `how`.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            BlockedSignals(before.assume_init())
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: restores the set that `new` read.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut());
        }
    }
}

/// Runs `main` on this thread beside `workers` threads that run `worker`, and
/// returns when all have ended.
///
/// `worker` must not call the server. If `main` panics (which is what an ERROR
/// does), `stop` is called so that the workers end, and the panic goes on.
pub fn with_workers<R>(
    workers: usize,
    worker: impl Fn() + Sync,
    stop: impl Fn(),
    main: impl FnOnce() -> R,
) -> R {
    struct Stop<F: Fn()>(F);
    impl<F: Fn()> Drop for Stop<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    std::thread::scope(|scope| {
        // Dropped at the end of `main` or when it panics, before the scope
        // waits for the workers.
        let _stop = Stop(stop);
        {
            let _blocked = BlockedSignals::new();
            for _ in 0..workers {
                // A machine that has no thread to give just builds slower.
                let spawned = std::thread::Builder::new()
                    .name("insitu build".into())
                    .spawn_scoped(scope, &worker);
                if spawned.is_err() {
                    break;
                }
            }
        }
        main()
    })
}
