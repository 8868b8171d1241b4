//! `insitu.index_stats`: how rows are spread over the lists of an index, and whether the
//! codes of a graph tell them apart.

#![allow(unsafe_code)]

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use ann::hnsw::Storage;

use super::method::storage_name;
use super::verify::check_owner;
use super::{hnsw, ivf, open};
use crate::errors::unwrap_index;
use crate::rounded::rounded;
use crate::storage::RelationPages;

/// What is counted in an index; `None` where its access method has no such thing.
#[derive(Default)]
struct Statistics {
    lists: Option<i64>,
    empty_lists: Option<i64>,
    longest_list: Option<i64>,
    rows: Option<i64>,
    rows_when_built: Option<i64>,
    drift: Option<f64>,
    storage: Option<&'static str>,
    blurred: Option<f64>,
}

/// How rows are spread over the lists of an index. `drift` is the mean squared
/// distance of rows from the centroids of their lists, as a multiple of what it
/// was when the index was built: much more than 1 says that later rows are unlike
/// the earlier ones, and that REINDEX will make searches better.
///
/// Of an hnsw index, what vertices hold, and if that is short codes, for which part of the
/// rows that came last codes are off by as much as what tells near rows apart: if that is
/// more than a few per cent, REINDEX will make searches better.
#[pg_extern(schema = "insitu", strict, volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn index_stats(
    index: pgrx::PgRelation,
) -> TableIterator<
    'static,
    (
        name!(lists, Option<i64>),
        name!(empty_lists, Option<i64>),
        name!(longest_list, Option<i64>),
        name!(rows, Option<i64>),
        name!(rows_when_built, Option<i64>),
        name!(drift, Option<f64>),
        name!(storage, Option<&'static str>),
        name!(blurred, Option<f64>),
    ),
> {
    let oid = index.oid();
    drop(index);
    // SAFETY: the relations stay open until the end.
    let statistics = unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let wanted = ("insitu.index_stats", &["hnsw", "ivf", "ivfflat"][..]);
        let (heap, relation) = open::table_and_index(oid, lock, wanted, check_owner);
        let pages = RelationPages::new(relation);
        let name = open::name(relation);
        let statistics = match &*open::method(relation) {
            "hnsw" => of_graph(&pages, &name),
            _ => of_lists(&pages, &name),
        };
        open::close(heap, relation);
        statistics
    };
    TableIterator::once((
        statistics.lists,
        statistics.empty_lists,
        statistics.longest_list,
        statistics.rows,
        statistics.rows_when_built,
        statistics.drift,
        statistics.storage,
        statistics.blurred,
    ))
}

fn of_graph(pages: &RelationPages<'_>, name: &str) -> Statistics {
    let graph = hnsw::index(pages, name);
    let meta = unwrap_index(graph.meta(), name);
    let storage = graph.options().storage;
    Statistics {
        storage: Some(storage_name(storage)),
        blurred: (storage == Storage::Fused).then(|| rounded(meta.blurred().share(), 3)),
        ..Statistics::default()
    }
}

fn of_lists(pages: &RelationPages<'_>, name: &str) -> Statistics {
    let statistics = unwrap_index(ivf::index(pages, name).statistics(), name);
    let has_drift = statistics.built_rows > 0 && statistics.built_spread > 0.0;
    Statistics {
        lists: Some(statistics.lists as i64),
        empty_lists: Some(statistics.empty_lists as i64),
        longest_list: Some(statistics.longest_list as i64),
        rows: Some(statistics.rows as i64),
        rows_when_built: Some(statistics.built_rows as i64),
        drift: has_drift.then(|| rounded(statistics.spread / statistics.built_spread, 3)),
        ..Statistics::default()
    }
}
