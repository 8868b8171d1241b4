//! What the planner is told of all access methods: nearly all of the cost of
//! `ORDER BY … LIMIT k` is that of the search, before the first row.
//!
//! A search finds so many rows as its width says. Asked for more, it ends early, or goes
//! on at an effort that grows with every row. The planner takes the part of the total cost
//! that rows are asked for (of a cursor, a tenth). So the total is such that what is asked
//! for many more rows than a search finds, or for all of them, costs more than to sort the
//! table.

#![allow(unsafe_code)]

use pgrx::prelude::*;

use crate::versions;

/// What a search does.
pub struct Search {
    /// Index pages that it reads before it returns the first row.
    pub pages: f64,
    /// Rows and centroids that it compares before that.
    pub visits: f64,
    /// Rows that it compares until it has returned all.
    pub later_visits: f64,
    /// Rows that it returns at most.
    pub returned: f64,
}

/// What a callback returns through pointers.
pub struct Estimate {
    pub startup_cost: *mut pg_sys::Cost,
    pub total_cost: *mut pg_sys::Cost,
    pub selectivity: *mut pg_sys::Selectivity,
    pub correlation: *mut f64,
    pub pages: *mut f64,
}

/// Asked for so many times the rows that it returns, a search is as good as the sorted table.
const MANY_MORE: f64 = 16.0;

/// To return all rows costs so many times what sorting the table does: a tenth of them is
/// what a cursor is planned for.
const EVERYTHING: f64 = 15.0;

/// What a sequential scan and a sort of all rows cost, of which the pages cost so much.
fn cost_of_sorting(table: &pg_sys::RelOptInfo, rows: f64, pages: f64, random: f64) -> f64 {
    let rows = rows.max(2.0);
    // SAFETY: reads settings; the planner has worked out the width of a row.
    let (tuple, operator, work_mem, width) = unsafe {
        let width = table.reltarget.as_ref().map_or(0, |target| target.width);
        let work_mem = f64::from(pg_sys::work_mem) * 1024.0;
        (
            pg_sys::cpu_tuple_cost,
            pg_sys::cpu_operator_cost,
            work_mem,
            width,
        )
    };
    let scan = pages + rows * (tuple + operator);
    let comparisons = 2.0 * operator * rows * rows.log2();
    // Written once and read once, as costsize.c has it, where that is too much for memory.
    let bytes = rows * (f64::from(width) + 24.0);
    let spilled = if bytes > work_mem {
        2.0 * bytes / f64::from(pg_sys::BLCKSZ) * (0.75 + 0.25 * random)
    } else {
        0.0
    };
    scan + comparisons + spilled
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
            versions::disable(path);
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

        let sorted = cost_of_sorting(&*info.rel, info.tuples, heap_pages * sequential, random);
        let missing = info.tuples / (MANY_MORE * search.returned.max(1.0));
        let everything = sorted * missing.max(EVERYTHING);
        *out.startup_cost = first;
        *out.total_cost =
            first + (costs.indexTotalCost + search.later_visits * visit).max(everything);
        *out.selectivity = costs.indexSelectivity;
        *out.correlation = costs.indexCorrelation;
        *out.pages = costs.numIndexPages;
    }
}
