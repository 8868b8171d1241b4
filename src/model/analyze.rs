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
    // SAFETY: reads the state of the session. Memory contexts have names, and end in one
    // without a parent.
    unsafe {
        let place = pg_sys::MyBEEntry;
        if pg_sys::pgstat_track_activities && !place.is_null() {
            let command = (*place).st_progress_command;
            return command == pg_sys::ProgressCommandType::PROGRESS_COMMAND_ANALYZE;
        }
        // Commands tell nothing about themselves: what ANALYZE computes is computed in
        // memory of this name (analyze.c).
        let mut memory = pg_sys::CurrentMemoryContext;
        while !memory.is_null() {
            if !(*memory).name.is_null() && CStr::from_ptr((*memory).name) == c"Analyze" {
                return true;
            }
            memory = (*memory).parent;
        }
        false
    }
}
