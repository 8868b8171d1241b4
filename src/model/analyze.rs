//! No model runs in ANALYZE.
//!
//! ANALYZE computes what it makes statistics of for up to 30,000 rows: expressions of
//! indexes, conditions of partial ones, and expressions of `CREATE STATISTICS`. What the
//! planner could learn about vectors that way is worth nothing, the model would run for
//! minutes, and after `drop_model` ANALYZE would fail for good. So the embedding functions
//! give NULL there, whatever calls them.

#![allow(unsafe_code)]

use std::ffi::CStr;

use pgrx::prelude::*;

/// Whether this session is in ANALYZE, its own or autovacuum's.
pub fn is_running() -> bool {
    // SAFETY: reads the state of the session.
    unsafe {
        let place = pg_sys::MyBEEntry;
        if pg_sys::pgstat_track_activities && !place.is_null() {
            let command = (*place).st_progress_command;
            return command == pg_sys::ProgressCommandType::PROGRESS_COMMAND_ANALYZE;
        }
        // Commands tell nothing about themselves. What ANALYZE computes, it computes in memory
        // of this name (analyze.c), which is there for as long as it works on a table,
        // wherever the functions that it calls have theirs.
        has_memory(c"Analyze")
    }
}

/// Whether the session has a memory context of this name, other than of what is cached.
///
/// # Safety
///
/// On the session's main thread.
unsafe fn has_memory(name: &CStr) -> bool {
    // SAFETY: contexts have names, are linked as a tree, and none comes or goes meanwhile.
    // The walk needs no memory: from a context to its first child, or else to the next
    // sibling of it or of the nearest parent that has one.
    unsafe {
        let top = pg_sys::TopMemoryContext;
        let mut memory = top;
        loop {
            if !(*memory).name.is_null() && CStr::from_ptr((*memory).name) == name {
                return true;
            }
            // Every relation, plan and query in the cache has one; none is of work.
            let child = match memory == pg_sys::CacheMemoryContext {
                true => std::ptr::null_mut(),
                false => (*memory).firstchild,
            };
            if !child.is_null() {
                memory = child;
                continue;
            }
            while memory != top && (*memory).nextchild.is_null() {
                memory = (*memory).parent;
            }
            if memory == top {
                return false;
            }
            memory = (*memory).nextchild;
        }
    }
}
