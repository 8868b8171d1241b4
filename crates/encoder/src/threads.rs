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
    Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error: io::Error| Error::Resource {
            what: "a thread",
            reason: system_reason(&error),
        })
}

/// Calls `work` with 0, 1, … on as many threads, of which the caller's is the first, and
/// returns what it gave, in this order. Where the system has no more threads, the caller
/// does their part.
pub(crate) fn on_each<T: Send>(
    threads: usize,
    work: impl Fn(usize) -> T + Sync,
) -> Result<Vec<T>, Error> {
    let work = &work;
    thread::scope(|scope| {
        let others = {
            let _signals = SignalsBlocked::new()?;
            (1..threads)
                .map(|number| Builder::new().spawn_scoped(scope, move || work(number)))
                .collect::<Vec<io::Result<_>>>()
        };
        let mut given = vec![work(0)];
        for (number, other) in (1..).zip(others) {
            given.push(match other {
                Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(_) => work(number),
            });
        }
        Ok(given)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use nix::sys::signal::{SigSet, Signal};

    use super::{SignalsBlocked, on_each, spawn};

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
