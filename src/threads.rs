//! The one place that starts threads of the extension's own.
//!
//! A thread must never run a signal handler of the server: handlers touch the
//! state of the backend, which belongs to its main thread. So all signals are
//! blocked while threads are started, and they inherit that.
//!
//! There are two kinds: [`with_workers`] starts some for a build, and [`aside`] has
//! one that stays, for work that is long and calls nothing of the server, so that the
//! main thread can serve the server's interrupts meanwhile.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use memory::OutOfMemory;
use pgrx::prelude::*;

use crate::allocator;

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
/// does), `stop` is called so that the workers end, and the panic goes on. A worker for
/// which there is no memory never ends; then the session does.
pub fn with_workers<R>(
    workers: usize,
    worker: impl Fn() + Sync,
    stop: impl Fn(),
    main: impl FnOnce() -> R,
) -> R {
    /// Tells the workers to stop, and waits until so many have ended as have begun.
    struct Stop<'w, F: Fn()> {
        stop: F,
        begun: &'w AtomicUsize,
        ended: &'w AtomicUsize,
    }
    impl<F: Fn()> Drop for Stop<'_, F> {
        fn drop(&mut self) {
            (self.stop)();
            let is_done =
                || self.ended.load(Ordering::Acquire) == self.begun.load(Ordering::Acquire);
            for turn in 0_u32.. {
                if is_done() {
                    break;
                }
                match turn {
                    ..100 => std::thread::yield_now(),
                    _ => std::thread::sleep(Duration::from_micros(100)),
                }
                allocator::end_for_others();
            }
        }
    }
    /// Counts a worker that has ended, also if it panics.
    struct Ended<'w>(&'w AtomicUsize);
    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Release);
        }
    }
    // What was refused before is none of the workers' business.
    allocator::check();
    let (begun, ended) = (&AtomicUsize::new(0), &AtomicUsize::new(0));
    let worker = || {
        begun.fetch_add(1, Ordering::Release);
        let _ended = Ended(ended);
        worker();
    };
    std::thread::scope(|scope| {
        // Dropped at the end of `main` or when it panics, before the scope
        // waits for the workers.
        let _stop = Stop { stop, begun, ended };
        {
            let _blocked = BlockedSignals::new();
            for number in 0..workers {
                // A machine that has no thread to give just builds slower.
                if memory::check_thread().is_err() {
                    break;
                }
                let spawned = std::thread::Builder::new()
                    .name("insitu build".into())
                    .spawn_scoped(scope, worker);
                if spawned.is_err() {
                    break;
                }
                while begun.load(Ordering::Acquire) <= number {
                    std::thread::yield_now();
                    allocator::end_for_others();
                }
            }
        }
        main()
    })
}

/// How long an interrupt of the server may wait while work is done aside.
const PERIOD: Duration = Duration::from_millis(10);

/// Bytes of its stack.
const STACK: usize = 8 << 20;

/// Addresses that glibc sets aside for what a new thread allocates: twice as many as it
/// uses, to find some that are aligned (`HEAP_MAX_SIZE` in its arena.c). A thread that gets
/// none has a page of its own for each small allocation.
const ARENA: usize = 128 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// The thread for work aside.
enum Aside {
    /// It is not there yet.
    Absent,
    /// It waits for work.
    Idle,
    /// It has been given some.
    Given(Job),
    /// It is at work.
    Working,
}

static ASIDE: Mutex<Aside> = Mutex::new(Aside::Absent);
static ASIDE_CHANGED: Condvar = Condvar::new();
/// The work aside is to end.
static STOPPED: AtomicBool = AtomicBool::new(false);
/// There is work aside.
static AT_WORK: AtomicBool = AtomicBool::new(false);

fn lock() -> MutexGuard<'static, Aside> {
    // The value is only ever replaced as a whole.
    ASIDE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether work aside is to end, because its caller is going away. Any thread may ask.
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// Whether there is work aside, so that the main thread is free for interrupts.
pub fn is_at_work() -> bool {
    AT_WORK.load(Ordering::Relaxed)
}

/// Does `work` on another thread, while this one, the main thread, serves the server's
/// interrupts and calls `tick`, both about every 10 ms.
///
/// `work` must not call the server. An ERROR out of an interrupt or `tick` waits for it,
/// and so does the end of the process: it has to ask [`is_stopped`] now and then.
pub fn aside<R: Send>(work: impl FnOnce() -> R + Send, tick: impl FnMut()) -> R {
    /// Waits for the end of the work, also when an ERROR unwinds.
    struct Joined;
    impl Drop for Joined {
        fn drop(&mut self) {
            stop_and_wait();
            AT_WORK.store(false, Ordering::Relaxed);
        }
    }
    let result = Mutex::new(None);
    let job = || put(&result, work);
    {
        let job: Box<dyn FnOnce() + Send + '_> = Box::new(job);
        // SAFETY: only the lifetime changes. `Joined` waits until the job has been done
        // before anything that it borrows goes away.
        let job: Job = unsafe { std::mem::transmute(job) };
        serve_while(job, || Joined, tick);
    }
    taken(&result)
}

/// As [`aside`], for work that nothing can stop, and that borrows nothing: an ERROR out of
/// an interrupt does not wait for it. The thread goes on then, drops what comes of it, and
/// has no other work until that is done. The end of the process waits.
pub fn aside_or_left<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
    tick: impl FnMut(),
) -> R {
    /// Leaves the work if it is not done.
    struct Left;
    impl Drop for Left {
        fn drop(&mut self) {
            AT_WORK.store(false, Ordering::Relaxed);
        }
    }
    let result = Arc::new(Mutex::new(None));
    let of_job = Arc::clone(&result);
    let job: Job = Box::new(move || put(&of_job, work));
    serve_while(job, || Left, tick);
    taken(&result)
}

/// What work gave, or its panic.
type Given<R> = Mutex<Option<std::thread::Result<R>>>;

fn put<R>(result: &Given<R>, work: impl FnOnce() -> R) {
    let given = catch_unwind(AssertUnwindSafe(work));
    *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(given);
}

fn taken<R>(result: &Given<R>) -> R {
    let given = result.lock().unwrap_or_else(PoisonError::into_inner).take();
    match given {
        Some(Ok(result)) => result,
        Some(Err(panic)) => resume_unwind(panic),
        None => unreachable!("the work was not done"),
    }
}

/// Has a job done, on this thread if there is no other. What `guard` gives is dropped at
/// the end of the job, or when an ERROR unwinds before.
fn serve_while<G>(job: Job, guard: impl FnOnce() -> G, mut tick: impl FnMut()) {
    // There may be work that was left.
    while !is_done_soon() {
        tick();
        pgrx::check_for_interrupts!();
    }
    AT_WORK.store(true, Ordering::Relaxed);
    match give(job) {
        Ok(()) => {
            let _guard = guard();
            while !is_done_soon() {
                tick();
                pgrx::check_for_interrupts!();
            }
        }
        // A machine that has no thread to give lets interrupts wait.
        Err(job) => {
            AT_WORK.store(false, Ordering::Relaxed);
            job();
        }
    }
}

/// Has the thread for work aside do something short, if it is there and at rest.
pub fn at_rest(work: fn()) {
    if allocator::is_ending() {
        // What is under way may have the lock.
        return;
    }
    let mut state = lock();
    if matches!(*state, Aside::Idle) {
        *state = Aside::Given(Box::new(work));
        ASIDE_CHANGED.notify_all();
        drop(state);
        while !is_done_soon() {}
    }
}

/// Begins the thread for work aside, if it is not there; false if the machine has none to
/// give.
///
/// # Errors
/// [`OutOfMemory`] if there is no memory for one.
pub fn begin_aside() -> Result<bool, OutOfMemory> {
    begin(&mut lock())
}

fn begin(state: &mut Aside) -> Result<bool, OutOfMemory> {
    static HAS_BEGUN: AtomicBool = AtomicBool::new(false);
    if !matches!(state, Aside::Absent) {
        return Ok(true);
    }
    memory::check_available(STACK + ARENA, "a thread")?;
    memory::check_thread()?;
    let _blocked = BlockedSignals::new();
    let spawned = std::thread::Builder::new()
        .name("insitu model".into())
        // As much as the main thread has.
        .stack_size(STACK)
        .spawn(|| {
            // The system's allocator reserves addresses for a thread when it first asks:
            // now, and not after somebody has found that there are enough.
            drop(std::hint::black_box(Vec::<u8>::with_capacity(64)));
            HAS_BEGUN.store(true, Ordering::Release);
            work_aside();
        });
    if spawned.is_err() {
        return Ok(false);
    }
    while !HAS_BEGUN.load(Ordering::Acquire) {
        std::thread::yield_now();
        allocator::end_for_others();
    }
    *state = Aside::Idle;
    Ok(true)
}

/// Gives the thread work; gives it back if there is no such thread.
fn give(job: Job) -> Result<(), Job> {
    static REGISTERED: Once = Once::new();
    // The process must not end while libraries are at work: their destructors would meet it.
    // SAFETY: registered once, for as long as the process lives.
    REGISTERED.call_once(|| unsafe {
        pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0_usize));
    });
    let mut state = lock();
    let is_there = begin(&mut state).is_ok_and(|begun| begun);
    if !is_there || !matches!(*state, Aside::Idle) {
        return Err(job);
    }
    *state = Aside::Given(job);
    ASIDE_CHANGED.notify_all();
    Ok(())
}

fn work_aside() {
    let mut state = lock();
    loop {
        match std::mem::replace(&mut *state, Aside::Working) {
            Aside::Given(job) => {
                drop(state);
                job();
                state = lock();
                *state = Aside::Idle;
                ASIDE_CHANGED.notify_all();
            }
            other => {
                *state = other;
                state = ASIDE_CHANGED
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Waits for a while; tells whether the work is done.
fn is_done_soon() -> bool {
    let is_at_work = |state: &mut Aside| !matches!(state, Aside::Idle | Aside::Absent);
    let waited = ASIDE_CHANGED.wait_timeout_while(lock(), PERIOD, is_at_work);
    let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
    let is_done = !is_at_work(&mut state);
    drop(state);
    if !is_done {
        allocator::end_for_others();
    }
    is_done
}

fn stop_and_wait() {
    STOPPED.store(true, Ordering::Relaxed);
    while !is_done_soon() && !allocator::is_ending() {}
    STOPPED.store(false, Ordering::Relaxed);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _argument: pg_sys::Datum) {
    if allocator::is_ending() {
        // The thread may wait for ever, and this one may have its lock.
        return;
    }
    stop_and_wait();
}
