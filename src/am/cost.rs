//! What the planner is told of all access methods: nearly all of the cost of
//! `ORDER BY … LIMIT k` is that of the search, before the first row.

#![allow(unsafe_code)]

use pgrx::prelude::*;

/// What a search does.
pub struct Search {
    /// Index pages that it reads before it returns the first row.
    pub pages: f64,
    /// Rows and centroids that it compares before that.
    pub visits: f64,
    /// Rows that it compares until it has returned all.
    pub later_visits: f64,
}

/// What a callback returns through pointers.
pub struct Estimate {
    pub startup_cost: *mut pg_sys::Cost,
    pub total_cost: *mut pg_sys::Cost,
    pub selectivity: *mut pg_sys::Selectivity,
    pub correlation: *mut f64,
    pub pages: *mut f64,
}

/// Estimates a scan. `search` is given the index, its rows and its pages.
///
/// # Safety
///
/// The planner gave the path, over an index that it has locked, and the pointers.
pub unsafe fn estimate(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    loop_count: f64,
    out: &Estimate,
    search: impl FnOnce(pg_sys::Relation, f64, f64) -> Search,
) {
    // SAFETY: as the caller says.
    unsafe {
        let info = &*(*path).indexinfo;
        // Only the order of one distance can come out of the index.
        let order_bys = (*path).indexorderbys;
        if order_bys.is_null() || (*order_bys).length != 1 {
            *out.startup_cost = f64::INFINITY;
            *out.total_cost = f64::INFINITY;
            *out.selectivity = 0.0;
            *out.correlation = 0.0;
            *out.pages = 0.0;
            #[cfg(feature = "pg18")]
            {
                (*path).path.disabled_nodes = 2;
            }
            return;
        }

        let mut costs = pg_sys::GenericCosts {
            numIndexTuples: info.tuples,
            ..Default::default()
        };
        pg_sys::genericcostestimate(root, path, loop_count, &mut costs);

        let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        let index = pg_sys::index_open(info.indexoid, lock);
        let search = search(index, info.tuples, costs.numIndexPages);
        pg_sys::index_close(index, lock);

        let (mut random, mut sequential) = (0.0, 0.0);
        pg_sys::get_tablespace_page_costs(info.reltablespace, &mut random, &mut sequential);
        // A sequential scan is not charged for the TOAST pages of wide
        // vectors, so a search is not charged for more pages than the table
        // has. All searches read much the same pages, which stay in memory: a
        // page costs what the next one of a sequential scan does.
        let heap_pages = f64::from((*info.rel).pages).max(1.0);
        let pages = search.pages.min(heap_pages);
        let visit = pg_sys::cpu_tuple_cost + pg_sys::cpu_operator_cost;
        let first = pages * sequential + search.visits * visit;

        *out.startup_cost = first;
        *out.total_cost = first.max(costs.indexTotalCost) + search.later_visits * visit;
        *out.selectivity = costs.indexSelectivity;
        *out.correlation = costs.indexCorrelation;
        *out.pages = costs.numIndexPages;
    }
}
