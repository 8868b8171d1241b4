//! `amcostestimate`: what the planner is told.
//!
//! A scan compares the query with the short codes of all centroids and of all rows
//! of some lists, and looks up the few of them that may be near.

#![allow(unsafe_code)]

use ann::ivf::lists::compared;
use pgrx::prelude::*;

use super::index as open_index;
use super::scan::settings;
use crate::am::cost::{Estimate, Search, estimate};
use crate::am::open;
use crate::storage::RelationPages;

/// Rows whose short codes are compared at the cost of one operator.
const AT_ONCE: f64 = 32.0;

/// The part of an index's pages that short codes are on.
const LIST_PAGES: f64 = 0.15;

/// Rows that are looked up before the first ones are returned.
const LOOKED_UP: f64 = 100.0;

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
        estimate(
            root,
            path,
            loop_count,
            &out,
            |relation, rows, index_pages| {
                let pages = RelationPages::new(relation);
                let name = open::name(relation);
                let meta = *open_index(&pages, &name).meta();
                let settings = settings(relation);
                let lists = f64::from(meta.lists);
                let probes = settings.probes(meta.lists);
                let centroids = f64::from(compared(meta.lists, meta.branches, probes));
                let most = f64::from(settings.most_probes(probes)).min(lists);
                let part = f64::from(probes).min(lists) / lists;
                let looked_up = LOOKED_UP.min(part * rows);
                Search {
                    pages: part * LIST_PAGES * index_pages + looked_up,
                    visits: (part * rows + centroids) / AT_ONCE + looked_up,
                    later_visits: most / lists * rows,
                    returned: most / lists * rows,
                }
            },
        );
    }
}
