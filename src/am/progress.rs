//! What builds of all access methods have alike: progress reports and threads.

#![allow(unsafe_code)]

use ann::team::{Parts, Team};
use pgrx::prelude::*;

use crate::allocator;
use crate::threads::with_workers;

/// Numbers of `pg_stat_progress_create_index` (commands/progress.h).
pub const SUBPHASE: i32 = 10;
/// As above.
pub const TUPLES_TOTAL: i32 = 11;
/// As above.
pub const TUPLES_DONE: i32 = 12;

/// Reports a number.
pub fn report(what: i32, value: i64) {
    // SAFETY: writes to this backend's own entry.
    unsafe { pg_sys::pgstat_progress_update_param(what, value) }
}

/// Threads beside the backend's own that a build may use.
pub fn worker_count() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // SAFETY: reads a setting.
    let allowed = unsafe { pg_sys::max_parallel_maintenance_workers };
    (allowed.max(0) as usize).min(cores - 1)
}

/// `maintenance_work_mem` in bytes.
pub fn budget() -> usize {
    // SAFETY: reads a setting.
    (unsafe { pg_sys::maintenance_work_mem }).max(0) as usize * 1024
}

/// This thread and so many others, which work together.
pub struct Workers(pub usize);

impl Team for Workers {
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let helpers = self.0.min(parts.saturating_sub(1));
        let parts = Parts::new(parts);
        let worker = || {
            while let Some(part) = parts.take() {
                work(part);
            }
        };
        with_workers(
            helpers,
            worker,
            || parts.stop(),
            || {
                while let Some(part) = parts.take() {
                    pgrx::check_for_interrupts!();
                    allocator::check();
                    work(part);
                }
            },
        );
    }
}
