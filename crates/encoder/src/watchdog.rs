//! Stops a run of the model when the caller's process wants to stop.
//!
//! ONNX Runtime can't poll, but it looks at a flag between operators. One
//! thread per encoder asks [`crate::Options::interrupted`] every few
//! milliseconds while a run is in flight and raises that flag. Between runs it
//! sleeps.
//!
//! The thread is made for short runs: ending a run does not wake it. It finds
//! out at its next tick, and only then goes to sleep for good, so a caller that
//! embeds one text after the other pays for two uncontended locks a call.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Error;
use crate::threads;

/// How long a wish to stop may go unnoticed.
const PERIOD: Duration = Duration::from_millis(10);

pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    interrupted: fn() -> bool,
    /// Raises the flag that the run looks at.
    terminate: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// A run is in flight.
    running: bool,
    /// That run was told to stop.
    fired: bool,
    /// The thread waits without a time limit and needs to be woken.
    parked: bool,
    /// The encoder is going away.
    leaving: bool,
}

impl Shared {
    /// A panic elsewhere leaves four flags that are each valid on their own.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guard(&self) {
        let mut state = self.lock();
        while !state.leaving {
            if !state.running {
                state.parked = true;
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.parked = false;
                continue;
            }
            state = self
                .wake
                .wait_timeout(state, PERIOD)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            // Raised under the lock, so that it can't hit the next run instead.
            if state.running && !state.fired && (self.interrupted)() {
                state.fired = true;
                (self.terminate)();
            }
        }
    }
}

impl Watchdog {
    /// No thread is created before the first run.
    pub(crate) fn new(
        interrupted: fn() -> bool,
        terminate: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Watchdog {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                wake: Condvar::new(),
                interrupted,
                terminate: Box::new(terminate),
            }),
            thread: None,
        }
    }

    /// Does `run` under watch and returns its result, or [`Error::Interrupted`]
    /// when it was told to stop (whether or not it finished all the same).
    pub(crate) fn watch<T>(&mut self, run: impl FnOnce() -> T) -> Result<T, Error> {
        if self.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            self.thread = Some(threads::spawn("insitu-watchdog", move || shared.guard())?);
        }
        {
            let mut state = self.shared.lock();
            state.running = true;
            state.fired = false;
            if state.parked {
                self.shared.wake.notify_one();
            }
        }
        let ending = Ending(&self.shared);
        let result = run();
        drop(ending);
        if self.shared.lock().fired {
            return Err(Error::Interrupted);
        }
        Ok(result)
    }
}

/// Ends the watch also when the run panics.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.lock().running = false;
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.lock().leaving = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It panics only if the caller's `interrupted` does; then it is gone already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use super::Watchdog;
    use crate::error::Error;

    #[test]
    fn a_run_that_nobody_interrupts_returns_its_result() {
        let mut watchdog = Watchdog::new(|| false, || panic!("must not fire"));
        for i in 0..100 {
            assert_eq!(watchdog.watch(|| i).expect("watch"), i);
        }
        sleep(Duration::from_millis(30));
        assert_eq!(watchdog.watch(|| 7).expect("watch after a pause"), 7);
    }

    #[test]
    fn a_long_run_is_told_to_stop_and_the_next_one_is_not() {
        static WISH: AtomicBool = AtomicBool::new(false);
        let flag = Arc::new(AtomicBool::new(false));
        let raised = Arc::clone(&flag);
        let mut watchdog = Watchdog::new(
            || WISH.load(Ordering::SeqCst),
            move || raised.store(true, Ordering::SeqCst),
        );
        WISH.store(true, Ordering::SeqCst);
        let start = Instant::now();
        let result = watchdog.watch(|| {
            while !flag.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(10) {
                sleep(Duration::from_millis(1));
            }
        });
        assert!(matches!(result, Err(Error::Interrupted)));
        assert!(start.elapsed() < Duration::from_secs(5));
        WISH.store(false, Ordering::SeqCst);
        flag.store(false, Ordering::SeqCst);
        sleep(Duration::from_millis(30));
        assert!(watchdog.watch(|| ()).is_ok());
        assert!(!flag.load(Ordering::SeqCst));
    }
}
