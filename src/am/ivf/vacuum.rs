//! `ambulkdelete` and `amvacuumcleanup`.

#![allow(unsafe_code)]

use ann::page::PageStore;
use pgrx::prelude::*;

use super::index as open_index;
use crate::am::open;
use crate::errors::unwrap_index;
use crate::storage::RelationPages;

/// Removes the rows for which the callback says so.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambulkdelete(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    callback: pg_sys::IndexBulkDeleteCallback,
    callback_state: *mut core::ffi::c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: vacuum gives an open index, a callback, and statistics of
    // earlier passes, if any.
    unsafe {
        let relation = (*info).index;
        let name = open::name(relation);
        let pages = RelationPages::new(relation).throttled();
        let index = open_index(&pages, &name);
        let removed = index.remove(&mut |tid| match callback {
            Some(callback) => {
                let mut tid = open::item_pointer(tid);
                pg_sys::ffi::pg_guard_ffi_boundary(|| callback(&mut tid, callback_state))
            }
            None => false,
        });
        let removed = unwrap_index(removed, &name);
        let stats = if stats.is_null() {
            PgBox::<pg_sys::IndexBulkDeleteResult>::alloc0().into_pg()
        } else {
            stats
        };
        (*stats).tuples_removed += removed.removed as f64;
        (*stats).num_index_tuples = removed.remaining as f64;
        (*stats).pages_newly_deleted += removed.unlinked as pg_sys::BlockNumber;
        (*stats).pages_deleted = removed.unused as pg_sys::BlockNumber;
        (*stats).pages_free = removed.free as pg_sys::BlockNumber;
        // Now inserts find the free pages.
        pg_sys::IndexFreeSpaceMapVacuum(relation);
        stats
    }
}

/// Completes the statistics.
#[pg_guard]
pub unsafe extern "C-unwind" fn amvacuumcleanup(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: as in `ambulkdelete`. Without statistics nothing was deleted,
    // and what the server knows of the index stands.
    unsafe {
        if !(*info).analyze_only && !stats.is_null() {
            (*stats).num_pages = RelationPages::new((*info).index).block_count();
        }
    }
    stats
}
