//! `insitu.index_stats`: how rows are spread over the lists of an index.

#![allow(unsafe_code)]

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::index as open_index;
use crate::am::open;
use crate::am::verify::check_owner;
use crate::errors::unwrap_index;
use crate::storage::RelationPages;

/// How rows are spread over the lists of an index. `drift` is the mean squared
/// distance of rows from the centroids of their lists, as a multiple of what it
/// was when the index was built: much more than 1 says that later rows are unlike
/// the earlier ones, and that REINDEX will make searches better.
#[pg_extern(schema = "insitu", strict, volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn index_stats(
    index: pgrx::PgRelation,
) -> TableIterator<
    'static,
    (
        name!(lists, i64),
        name!(empty_lists, i64),
        name!(longest_list, i64),
        name!(rows, i64),
        name!(rows_when_built, i64),
        name!(drift, Option<f64>),
    ),
> {
    let oid = index.oid();
    drop(index);
    // SAFETY: the relations stay open until the end.
    let statistics = unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let wanted = ("insitu.index_stats", &["ivf", "ivfflat"][..]);
        let (heap, relation) = open::table_and_index(oid, lock, wanted, check_owner);
        let name = open::name(relation);
        let pages = RelationPages::new(relation);
        let statistics = open_index(&pages, &name).statistics();
        let statistics = unwrap_index(statistics, &name);
        open::close(heap, relation);
        statistics
    };
    let has_drift = statistics.built_rows > 0 && statistics.built_spread > 0.0;
    TableIterator::once((
        statistics.lists as i64,
        statistics.empty_lists as i64,
        statistics.longest_list as i64,
        statistics.rows as i64,
        statistics.built_rows as i64,
        has_drift.then(|| statistics.spread / statistics.built_spread),
    ))
}
