//! The one place where threads of this crate come into being.
//!
//! A database process steers itself with signals, and their handlers must run
//! on its main thread. A thread inherits the signal mask of its creator, so the
//! creator blocks everything first and restores its own mask afterwards. This
//! covers threads that a library creates on our behalf (ONNX Runtime's pool,
//! created with the session) as well as our own.

use std::io;
use std::marker::PhantomData;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Builder, JoinHandle};

use nix::sys::signal::{SigSet, SigmaskHow};

use crate::error::{Error, system_reason};

/// While it lives, threads created by the current thread never take a signal.
///
/// Signals that arrive meanwhile stay pending and are delivered when it drops.
pub(crate) struct SignalsBlocked {
    previous: SigSet,
    /// The mask is a property of the thread, so the guard must stay on it.
    stays_on_its_thread: PhantomData<*const ()>,
}

impl SignalsBlocked {
    pub(crate) fn new() -> Result<Self, Error> {
        let previous = SigSet::all()
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .map_err(|errno| Error::Resource {
                what: "a signal mask",
                reason: errno.desc().to_owned(),
            })?;
        Ok(SignalsBlocked {
            previous,
            stays_on_its_thread: PhantomData,
        })
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // Fails only for an invalid argument, and this mask came from the system.
        let _ = self.previous.thread_set_mask();
    }
}

/// Starts a thread that never takes a signal.
pub(crate) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let _signals = SignalsBlocked::new()?;
    memory::check_thread()?;
    let begun = Arc::new(AtomicUsize::new(0));
    let of_thread = Arc::clone(&begun);
    let spawned = Builder::new().name(name.to_owned()).spawn(move || {
        of_thread.fetch_add(1, Ordering::Release);
        work();
    });
    let thread = spawned.map_err(|error: io::Error| Error::Resource {
        what: "a thread",
        reason: system_reason(&error),
    })?;
    wait_for(&begun, 1);
    Ok(thread)
}

/// Waits until so many threads have begun, see [`memory::check_thread`].
fn wait_for(begun: &AtomicUsize, count: usize) {
    while begun.load(Ordering::Acquire) < count {
        thread::yield_now();
    }
}

/// Whether the system has so many threads, with stacks of the usual size. To be asked before
/// a library starts some that would not get out of having too few.
///
/// # Errors
/// [`Error::NoThreads`] if not.
pub(crate) fn check_available(count: usize, what: &'static str) -> Result<(), Error> {
    const STACK: usize = 8 << 20;
    let _signals = SignalsBlocked::new()?;
    let (gate, begun) = (Mutex::new(()), AtomicUsize::new(0));
    let waiting = || {
        begun.fetch_add(1, Ordering::Release);
        drop(gate.lock());
    };
    thread::scope(|scope| {
        // All are there at the same time.
        let _closed = gate.lock();
        for number in 1..=count {
            memory::check_thread()?;
            let builder = Builder::new().stack_size(STACK);
            let spawned = builder.spawn_scoped(scope, waiting);
            spawned.map_err(|error| Error::NoThreads {
                what,
                reason: system_reason(&error),
            })?;
            wait_for(&begun, number);
        }
        Ok(())
    })
}

/// Calls `work` with 0, 1, … on as many threads, of which the caller's is the first, and
/// returns what it gave, in this order. Where the system has no more threads, the caller
/// does their part.
pub(crate) fn on_each<T: Send>(
    threads: usize,
    work: impl Fn(usize) -> T + Sync,
) -> Result<Vec<T>, Error> {
    let (work, begun) = (&work, &AtomicUsize::new(0));
    thread::scope(|scope| {
        let mut others = Vec::with_capacity(threads);
        {
            let _signals = SignalsBlocked::new()?;
            for number in 1..threads {
                if memory::check_thread().is_err() {
                    break;
                }
                let spawned = Builder::new().spawn_scoped(scope, move || {
                    begun.fetch_add(1, Ordering::Release);
                    work(number)
                });
                let Ok(other) = spawned else { break };
                others.push(other);
                wait_for(begun, number);
            }
        }
        let mut given = vec![work(0)];
        for other in others {
            given.push(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        given.extend((given.len()..threads).map(work));
        Ok(given)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use nix::sys::signal::{SigSet, Signal};

    use super::{SignalsBlocked, check_available, on_each, spawn};

    #[test]
    fn the_guard_restores_the_mask() {
        let before = SigSet::thread_get_mask().expect("mask");
        {
            let _blocked = SignalsBlocked::new().expect("guard");
            let during = SigSet::thread_get_mask().expect("mask");
            assert!(during.contains(Signal::SIGTERM) && during.contains(Signal::SIGUSR1));
        }
        assert_eq!(SigSet::thread_get_mask().expect("mask"), before);
    }

    #[test]
    fn there_are_a_few_threads() {
        assert!(check_available(4, "a test").is_ok());
    }

    #[test]
    fn each_thread_gives_its_part_and_takes_no_signal() {
        let caller = std::thread::current().id();
        let given = on_each(3, |number| {
            let mask = SigSet::thread_get_mask().expect("mask");
            let is_caller = std::thread::current().id() == caller;
            (number, is_caller, mask.contains(Signal::SIGTERM))
        });
        let expected = [(0, true, false), (1, false, true), (2, false, true)];
        assert_eq!(given.expect("threads"), expected);
    }

    #[test]
    fn a_spawned_thread_takes_no_signal() {
        let (sender, receiver) = mpsc::channel();
        let thread = spawn("signal-test", move || {
            let mask = SigSet::thread_get_mask().expect("mask");
            let blocked = [
                Signal::SIGTERM,
                Signal::SIGINT,
                Signal::SIGUSR1,
                Signal::SIGALRM,
            ]
            .into_iter()
            .all(|signal| mask.contains(signal));
            sender.send(blocked).expect("send");
        })
        .expect("spawn");
        assert!(receiver.recv().expect("receive"));
        thread.join().expect("join");
        let own = SigSet::thread_get_mask().expect("mask");
        assert!(!own.contains(Signal::SIGTERM));
    }
}
