//! `aminsert`: a new row.

#![allow(unsafe_code)]

use pgrx::prelude::*;

use super::{encode, index as open_index, reader, warn_if_blurred};
use crate::am::open::{self, RowContext};
use crate::errors::unwrap_index;
use crate::storage::RelationPages;

/// The lock that inserts share and vacuum takes for a moment, so that it can
/// wait for the inserts under way: that of a page which nobody locks otherwise.
pub const BARRIER: pg_sys::BlockNumber = 0;

/// Counts of rows at which an insert says so if their codes are blurred.
const SAID_AT: [u16; 3] = [512, 4096, 32768];

/// Adds a row to the index. It never asks for a recheck of uniqueness.
#[pg_guard]
#[allow(clippy::too_many_arguments)] // PostgreSQL's signature
pub unsafe extern "C-unwind" fn aminsert(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    heap_tid: pg_sys::ItemPointer,
    _heap: pg_sys::Relation,
    _check_unique: pg_sys::IndexUniqueCheck::Type,
    _index_unchanged: bool,
    _index_info: *mut pg_sys::IndexInfo,
) -> bool {
    // SAFETY: the executor gives an open index and the values of its one column.
    unsafe {
        if *is_null {
            return false;
        }
        RowContext::new().run(|| {
            let name = open::name(index);
            let pages = RelationPages::new(index);
            let graph = open_index(&pages, &name);
            let reader = reader(index, &graph);
            let Some(code) = encode(reader, graph.codec(), *values) else {
                return;
            };
            let share = pg_sys::ShareLock as pg_sys::LOCKMODE;
            pg_sys::LockPage(index, BARRIER, share);
            let uniform = 1.0 - pg_sys::pg_prng_double(&raw mut pg_sys::pg_global_prng_state);
            let inserted = graph.insert(&code, open::heap_tid(*heap_tid), uniform);
            let counts = unwrap_index(inserted, &name);
            pg_sys::UnlockPage(index, BARRIER, share);
            // Now and then is enough.
            if let Some(counts) = counts.filter(|counts| SAID_AT.contains(&counts.of)) {
                warn_if_blurred(counts, &name);
            }
        });
    }
    false
}
