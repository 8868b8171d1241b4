//! `aminsert`: a new row.

#![allow(unsafe_code)]

use pgrx::prelude::*;

use super::{index as open_index, reader};
use crate::am::open::{self, RowContext};
use crate::errors::unwrap_index;
use crate::storage::RelationPages;

/// Adds a row to the index. It never asks for a recheck of uniqueness.
#[pg_guard]
#[allow(clippy::too_many_arguments)] // PostgreSQL's signature
pub unsafe extern "C-unwind" fn aminsert(
    relation: pg_sys::Relation,
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
            let name = open::name(relation);
            let pages = RelationPages::new(relation);
            let index = open_index(&pages, &name);
            let value = reader(relation, &index).read(*values);
            let inserted = index.insert(value.as_vector(), open::heap_tid(*heap_tid));
            unwrap_index(inserted, &name);
        });
    }
    false
}
