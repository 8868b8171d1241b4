//! Waiting for a thread that may never go on, because there is no memory for it.

use std::sync::OnceLock;
use std::time::Duration;

static HOOK: OnceLock<fn()> = OnceLock::new();

/// How long a thread waits at a time.
const PERIOD: Duration = Duration::from_millis(10);

/// Says what is to be called now and then by threads that wait for others. The first call
/// of this function holds.
pub fn on_wait(hook: fn()) {
    _ = HOOK.set(hook);
}

/// Waits for what another thread gives, such as a lock: `attempt` waits for so long at most.
#[inline]
pub fn wait_for<T>(attempt: impl Fn(Duration) -> Option<T>) -> T {
    loop {
        if let Some(given) = attempt(PERIOD) {
            return given;
        }
        if let Some(hook) = HOOK.get() {
            hook();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn who_waits_looks_around() {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        on_wait(|| _ = CALLS.fetch_add(1, Ordering::Relaxed));
        let attempts = Cell::new(0);
        let given = wait_for(|_| {
            attempts.set(attempts.get() + 1);
            (attempts.get() == 4).then_some(7)
        });
        assert_eq!((given, CALLS.load(Ordering::Relaxed)), (7, 3));
    }
}
