//! `ambulkdelete` and `amvacuumcleanup`.

#![allow(unsafe_code)]

use ann::hnsw::index::read_meta;
use ann::page::PageStore;
use pgrx::prelude::*;

use super::insert::BARRIER;
use super::{index as open_index, warn_if_blurred};
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
        let index = (*info).index;
        let name = open::name(index);
        let pages = RelationPages::new(index).throttled();
        let graph = open_index(&pages, &name);
        let marked = graph.mark(&mut |tid| match callback {
            Some(callback) => {
                let mut tid = open::item_pointer(tid);
                pg_sys::ffi::pg_guard_ffi_boundary(|| callback(&mut tid, callback_state))
            }
            None => false,
        });
        let marked = unwrap_index(marked, &name);
        if marked.any() {
            let exclusive = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
            pg_sys::LockPage(index, BARRIER, exclusive);
            pg_sys::UnlockPage(index, BARRIER, exclusive);
            unwrap_index(graph.repair(&marked), &name);
            unwrap_index(graph.free(&marked), &name);
        }

        let stats = if stats.is_null() {
            PgBox::<pg_sys::IndexBulkDeleteResult>::alloc0().into_pg()
        } else {
            stats
        };
        (*stats).tuples_removed += marked.removed as f64;
        (*stats).num_index_tuples = marked.remaining as f64;
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
        if (*info).analyze_only {
            return stats;
        }
        let name = open::name((*info).index);
        let pages = RelationPages::new((*info).index);
        // An index of an older version is left to those who use it.
        if let Ok(meta) = read_meta(&pages) {
            warn_if_blurred(meta.blurred(), &name);
        }
        if !stats.is_null() {
            (*stats).num_pages = pages.block_count();
        }
    }
    stats
}
