//! `amcostestimate`: what the planner is told.
//!
//! A scan first visits a part of the graph, whose size depends on the beam and
//! hardly on the table, and then returns rows at little cost.

#![allow(unsafe_code)]

use ann::hnsw::Storage;
use ann::hnsw::index::read_meta;
use pgrx::prelude::*;

use super::options;
use crate::am::cost::{Estimate, Search, estimate};
use crate::settings::{EF_SEARCH, ITERATIVE_SCAN, IterativeScan, MAX_SCAN_TUPLES};
use crate::storage::RelationPages;

/// Pages of vertices that a search reads in an index of `rows` elements.
///
/// A search over fused vertices of 200,000 sentences (m = 16) visits 25, 49 and 100
/// for ef = 10, 20 and 40, of 300,000 synthetic vectors 21, 35 and 62, and before that
/// three or four a level on the way down: `2 ef` is between the two.
///
/// Over plain ones, each of about `ef` expansions looks at 2m neighbours, of
/// which the more were visited before the larger the beam is. The numbers were
/// fitted to what EXPLAIN (BUFFERS) counted for 20,000 rows of 384 dimensions
/// with m = 16: 456, 1159, 2432 and 6515 pages for ef = 10, 40, 100 and 400, of
/// which about 3m a level are for the way down.
fn visits(storage: Storage, rows: f64, m: f64, ef: usize) -> f64 {
    let levels = (rows.max(1.0).ln() / m.ln()).floor();
    let visits = match storage {
        Storage::Fused => levels * 3.5 + 2.0 * ef as f64,
        Storage::Plain | Storage::Sparse => levels * 3.0 * m + 2.9 * m * (ef as f64).powf(0.815),
    };
    visits.min(rows)
}

/// The cost of a scan.
#[pg_guard]
#[allow(clippy::too_many_arguments)] // PostgreSQL's signature
pub unsafe extern "C-unwind" fn amcostestimate(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    loop_count: f64,
    startup_cost: *mut pg_sys::Cost,
    total_cost: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    let out = Estimate {
        startup_cost,
        total_cost,
        selectivity,
        correlation,
        pages,
    };
    // SAFETY: the planner gives a path over an index of this access method,
    // which it has locked.
    unsafe {
        estimate(root, path, loop_count, &out, |index, rows, index_pages| {
            let chosen = options::of_index(index);
            let m = f64::from(chosen.m);
            let ef = EF_SEARCH.get();
            // What the builder has decided on. An index that can't be read is told of when
            // it is used.
            let storage = (read_meta(&RelationPages::new(index)).and_then(|meta| meta.options()))
                .map_or(Storage::Plain, |options| options.storage);
            let visits = visits(storage, rows, m, ef as usize);
            let part = (visits / rows.max(1.0)).min(1.0);
            Search {
                pages: part * index_pages,
                visits,
                // All rows come only out of a visit to each vertex.
                later_visits: (rows - visits).max(0.0),
                returned: match ITERATIVE_SCAN.get() {
                    IterativeScan::Off => f64::from(ef),
                    _ => f64::from(MAX_SCAN_TUPLES.get().max(ef)),
                },
            }
        });
    }
}
