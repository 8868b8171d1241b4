//! A sample of the rows of a table that is to be indexed.

#![allow(unsafe_code)]

use pgrx::prelude::*;
use rand::Rng;
use rand::rngs::SmallRng;

use super::open::RowContext;
use crate::allocator;

/// What is done with a row.
struct Sampling<'f> {
    show: &'f mut dyn FnMut(pg_sys::Datum),
    row_context: RowContext,
}

#[pg_guard]
unsafe extern "C-unwind" fn on_row(
    _index: pg_sys::Relation,
    _tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    _is_alive: bool,
    state: *mut core::ffi::c_void,
) {
    // SAFETY: `state` is the `Sampling` that was given to the scan, and the values
    // are those of the index's one column.
    unsafe {
        let sampling = &mut *state.cast::<Sampling>();
        if *is_null {
            return;
        }
        let datum = *values;
        let Sampling { show, row_context } = sampling;
        row_context.run_and_reset(|| show(datum));
    }
}

/// Shows what is indexed of the rows on so many random pages of a table, where it is not
/// NULL. Returns the share of the table's pages that these are.
///
/// # Safety
///
/// An open index and its table.
pub unsafe fn rows_of_pages(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    index_info: *mut pg_sys::IndexInfo,
    pages: usize,
    rng: &mut SmallRng,
    show: &mut dyn FnMut(pg_sys::Datum),
) -> f64 {
    let mut sampling = Sampling {
        show,
        // SAFETY: used for as long as this function, whose caller has the current context.
        row_context: unsafe { RowContext::new() },
    };
    // SAFETY: the caller gives open relations.
    unsafe {
        let main = pg_sys::ForkNumber::MAIN_FORKNUM;
        let blocks = pg_sys::RelationGetNumberOfBlocksInFork(heap, main);
        let mut wanted = (pages as u64).min(u64::from(blocks));
        let share = wanted as f64 / f64::from(blocks.max(1));
        // Each page is as likely as every other (Knuth, The Art of Computer
        // Programming, volume 2, 3.4.2, algorithm S).
        for block in 0..blocks {
            let left = u64::from(blocks - block);
            if rng.random_range(0..left) >= wanted {
                continue;
            }
            wanted -= 1;
            pgrx::check_for_interrupts!();
            allocator::check();
            pg_sys::table_index_build_range_scan(
                heap,
                index,
                index_info,
                false,
                true,
                false,
                block,
                1,
                Some(on_row),
                (&raw mut sampling).cast(),
                std::ptr::null_mut(),
            );
        }
        if blocks == 0 { 1.0 } else { share }
    }
}
