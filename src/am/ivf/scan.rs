//! `ambeginscan`, `amrescan`, `amgettuple`, `amendscan`: rows in order of
//! their distance to a query.

#![allow(unsafe_code)]

use std::sync::Arc;

use ann::ivf::codec::Prepared;
use ann::ivf::layout::Meta;
use ann::ivf::{Codec, Index, Scan};
use pgrx::prelude::*;

use super::{index as open_index, reader};
use crate::am::counters::{Counters, Ended, Totals, Width};
use crate::am::open::{self, RowContext};
use crate::am::scan as common;
use crate::errors::unwrap_index;
use crate::settings::{IVF, IVFFLAT, IvfSettings};
use crate::storage::{RelationPages, RowsAhead};

/// A search under way.
pub struct Search {
    scan: Scan,
    /// The next rows, on their way into memory.
    ahead: RowsAhead,
    codec: Arc<Codec>,
    meta: Meta,
    /// Rows are returned in the order of a lower bound of their distance, and
    /// the executor puts them into the exact order.
    by_bound: bool,
    /// Lists that are taken at a time.
    width: Width,
    /// Lists that are taken in all.
    most_probes: u32,
    /// Times that lists were taken, and rows returned.
    rounds: u64,
    row_count: u64,
    /// There are no more rows, and more were asked for.
    is_used_up: bool,
}

/// The settings of an index's access method.
///
/// # Safety
///
/// `index` is open.
pub unsafe fn settings(index: pg_sys::Relation) -> &'static IvfSettings {
    // SAFETY: passed on.
    match unsafe { open::method(index) }.as_str() {
        "ivfflat" => &IVFFLAT,
        _ => &IVF,
    }
}

/// Begins a scan; the query comes with `amrescan`.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    keys: i32,
    order_bys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the caller gives an open index.
    unsafe { common::begin::<Search>(index, keys, order_bys) }
}

/// Begins the scan anew with another query.
#[pg_guard]
pub unsafe extern "C-unwind" fn amrescan(
    scan: pg_sys::IndexScanDesc,
    _keys: pg_sys::ScanKey,
    _key_count: i32,
    order_bys: pg_sys::ScanKey,
    order_by_count: i32,
) {
    // SAFETY: the arrays have the lengths that the scan was begun with.
    unsafe {
        common::rescan::<Search>(scan, order_bys, order_by_count);
    }
}

/// Ends the scan; the memory context frees the rest.
#[pg_guard]
pub unsafe extern "C-unwind" fn amendscan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: `ambeginscan` made the state.
    unsafe { common::end::<Search>(scan) }
}

/// The next row.
#[pg_guard]
pub unsafe extern "C-unwind" fn amgettuple(
    scan: pg_sys::IndexScanDesc,
    _direction: pg_sys::ScanDirection::Type,
) -> bool {
    // SAFETY: the executor gives a scan of this access method with its index
    // open; the state is not used by anybody else.
    unsafe {
        let relation = (*scan).indexRelation;
        let state = common::state::<Search>(scan);
        let name = open::name(relation);
        let pages = RelationPages::new(relation);
        let search = match &mut state.search {
            Some(search) => search,
            None => state.search.insert(begin(scan, &pages)),
        };
        let index = Index::open(&pages, search.codec.clone(), search.meta);
        loop {
            if let Some(row) = unwrap_index(search.scan.next_row(&index), &name) {
                common::return_row(scan, row.tid, row.distance, search.by_bound);
                search.row_count += 1;
                let upcoming = search.scan.upcoming();
                search.ahead.advance((*scan).heapRelation, upcoming);
                return true;
            }
            let left = search.most_probes.saturating_sub(search.scan.taken());
            let count = left.min(search.width.width) as usize;
            if count == 0 || !unwrap_index(search.take_lists(&index, count), &name) {
                search.is_used_up = true;
                return false;
            }
        }
    }
}

/// Reads the query of a scan. What the server allocates for that is freed at once:
/// a scan may begin anew for each row of another table.
unsafe fn begin(scan: pg_sys::IndexScanDesc, pages: &RelationPages<'_>) -> Search {
    // SAFETY: as in `amgettuple`.
    let work = || unsafe {
        let relation = (*scan).indexRelation;
        let query = common::query(scan);
        let name = open::name(relation);
        let index = open_index(pages, &name);
        let codec = index.codec();
        let prepared = query.and_then(|query| {
            let value = reader(relation, &index).read(query);
            codec.prepare(value.as_vector())
        });
        let by_bound = prepared.is_some() && common::has_cheap_key(relation);
        // Nothing is nearer than anything else to NULL, or by its angle to
        // zero: any query will do.
        let prepared = prepared.unwrap_or_else(|| Prepared {
            vector: vec![0.0; codec.padded()],
            is_exact: true,
        });
        let settings = settings(relation);
        let width = settings.width(index.meta().lists);
        Search {
            scan: Scan::new(codec.query(prepared), by_bound),
            ahead: RowsAhead::default(),
            codec: index.shared_codec().clone(),
            meta: *index.meta(),
            by_bound,
            width,
            most_probes: settings.most_probes(width.width),
            rounds: 0,
            row_count: 0,
            is_used_up: false,
        }
    };
    // SAFETY: a search has no reference into the context, which is used here alone.
    unsafe { RowContext::new().run(work) }
}

/// Begins the search of a scan and chooses the first lists; after each of the two,
/// `look` sees what the search did. The scan goes on from there as if it had done
/// so itself.
///
/// # Safety
///
/// `scan` is a scan of an ivf index, with its query.
pub unsafe fn enter(scan: pg_sys::IndexScanDesc, look: &mut dyn FnMut(Counters)) {
    // SAFETY: as in `amgettuple`.
    unsafe {
        let relation = (*scan).indexRelation;
        let name = open::name(relation);
        let pages = RelationPages::new(relation);
        let search = begin(scan, &pages);
        let search = common::state::<Search>(scan).search.insert(search);
        look(search.counters());
        let index = Index::open(&pages, search.codec.clone(), search.meta);
        let taken = search.take_lists(&index, search.width.width as usize);
        unwrap_index(taken, &name);
        look(search.counters());
    }
}

impl Search {
    fn take_lists(
        &mut self,
        index: &Index<'_, RelationPages<'_>, Arc<Codec>>,
        count: usize,
    ) -> Result<bool, ann::Error> {
        let taken = self.scan.take_lists(index, count)?;
        self.rounds += u64::from(taken);
        Ok(taken)
    }

    fn counters(&self) -> Counters {
        common::Search::totals(self).counters()
    }

    /// Why it ended.
    fn ended(&self) -> Ended {
        let taken = self.scan.taken();
        if !self.is_used_up {
            Ended::NotAsked
        } else if taken < self.most_probes || taken >= self.meta.lists {
            Ended::Everything
        } else if taken > self.width.width {
            Ended::Most
        } else {
            Ended::Width
        }
    }
}

impl common::Search for Search {
    fn totals(&self) -> Totals {
        let (centroids, rows) = self.scan.counters();
        let of = |counters: ann::ivf::stream::Counters| Counters {
            visited: counters.refined,
            estimated: counters.estimated,
        };
        Totals {
            rounds: self.rounds,
            lists: u64::from(self.scan.taken()),
            centroids: of(centroids),
            vertices: of(rows),
            rows: self.row_count,
            ..Totals::of_one(self.ended())
        }
    }

    fn width(&self) -> Width {
        self.width
    }
}
