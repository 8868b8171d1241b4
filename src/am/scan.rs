//! `ambeginscan`, `amrescan`, `amgettuple`, `amendscan`: rows in order of
//! their distance to a query.

#![allow(unsafe_code)]

use ann::hnsw::beam::Counters;
use ann::HeapTid;
use ann::hnsw::{AnyQuery, Code, Codec, Scan, Storage};
use pgrx::prelude::*;

use super::open::{self, Reader};
use crate::errors::{raise, unwrap_index};
use crate::settings::{
    EF_SEARCH, ITERATIVE_SCAN, IterativeScan, MAX_SCAN_TUPLES, SCAN_MEM_MULTIPLIER,
};
use crate::storage::{RelationPages, RowsAhead};

/// A scan under way: what `opaque` points to. It belongs to the memory context
/// of the scan and is dropped with it.
#[derive(Default)]
struct State {
    search: Option<Search>,
}

struct Search {
    scan: Scan<AnyQuery>,
    /// Rows are returned in the order of a lower bound of their distance, and
    /// the executor puts them into the exact order.
    by_bound: bool,
    mode: IterativeScan,
    ef: usize,
    /// Rows of the present round that were not returned yet, the next one last,
    /// each with what it is ordered by.
    rows: Vec<(f64, HeapTid)>,
    /// The first of them, on their way into memory.
    ahead: RowsAhead,
    /// Rows returned since their visibility was last looked at; not kept by an
    /// iterative scan, which does not ask.
    returned: Vec<HeapTid>,
    /// Rows returned before, and visible.
    visible: usize,
    /// Rows that a later round may have to put others before, nearest first.
    waiting: Vec<(f64, HeapTid)>,
    /// The most by which a row's bound was below the distance of its code.
    slack: f64,
    /// What the last row is ordered by, for strict order.
    last: f64,
    finished: bool,
}

/// Begins a scan; the query comes with `amrescan`.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    keys: i32,
    order_bys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the caller gives an open index. The state is dropped with the
    // memory context that also holds the scan.
    unsafe {
        let scan = pg_sys::RelationGetIndexScan(index, keys, order_bys);
        // What the executor reads the bounds from.
        (*scan).xs_orderbyvals = pg_sys::palloc0(size_of::<pg_sys::Datum>()).cast();
        (*scan).xs_orderbynulls = pg_sys::palloc0(size_of::<bool>()).cast();
        let mut context = pgrx::PgMemoryContexts::CurrentMemoryContext;
        (*scan).opaque = context.leak_and_drop_on_delete(State::default()).cast();
        scan
    }
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
        (*(*scan).opaque.cast::<State>()).search = None;
        if !order_bys.is_null() && order_by_count > 0 {
            std::ptr::copy(order_bys, (*scan).orderByData, order_by_count as usize);
        }
    }
}

/// Ends the scan; the memory context frees the rest.
#[pg_guard]
pub unsafe extern "C-unwind" fn amendscan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: `ambeginscan` made the state.
    unsafe { (*(*scan).opaque.cast::<State>()).search = None }
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
        let index = (*scan).indexRelation;
        let state = &mut *(*scan).opaque.cast::<State>();
        let search = match &mut state.search {
            Some(search) => search,
            None => state.search.insert(begin(scan)),
        };
        if search.rows.is_empty() && !search.finished {
            search.finished = !search.may_go_on(scan);
        }
        if search.rows.is_empty() && !search.finished {
            let name = open::name(index);
            let pages = RelationPages::new(index);
            search.fill(&pages, &name);
        }
        let rows = search.rows.iter().rev().map(|&(_, tid)| tid);
        search.ahead.look((*scan).heapRelation, rows);
        let Some((bound, tid)) = search.rows.pop() else {
            return false;
        };
        search.ahead.advance();
        if search.mode == IterativeScan::Off {
            search.returned.push(tid);
        }
        (*scan).xs_heaptid = open::item_pointer(tid);
        (*scan).xs_recheck = false;
        (*scan).xs_recheckorderby = search.by_bound;
        *(*scan).xs_orderbyvals = pg_sys::Float8GetDatum(bound);
        true
    }
}

/// Reads the query of a scan.
unsafe fn begin(scan: pg_sys::IndexScanDesc) -> Search {
    // SAFETY: as in `amgettuple`.
    unsafe {
        let index = (*scan).indexRelation;
        if (*scan).orderByData.is_null() || (*scan).numberOfOrderBys != 1 {
            raise(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "cannot scan hnsw index without order",
            );
        }
        // Between the index and the table, vacuum may give a row's place to
        // another row; only the snapshot then tells that it is not ours.
        let snapshot = (*scan).xs_snapshot;
        let is_mvcc = !snapshot.is_null()
            && matches!(
                (*snapshot).snapshot_type,
                pg_sys::SnapshotType::SNAPSHOT_MVCC | pg_sys::SnapshotType::SNAPSHOT_HISTORIC_MVCC
            );
        if !is_mvcc {
            raise(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "non-MVCC snapshots are not supported with hnsw",
            );
        }
        count_scan(scan);

        let pages = RelationPages::new(index);
        let graph = open::index(&pages, &open::name(index));
        let key = &*(*scan).orderByData;
        let query = if key.sk_flags & pg_sys::SK_ISNULL as i32 != 0 {
            None
        } else {
            let reader = Reader::of(index, &graph);
            graph
                .codec()
                .query(reader.read(key.sk_argument).as_vector())
        };
        let by_bound =
            query.is_some() && graph.options().storage != Storage::Plain && has_cheap_key(index);
        // Nothing is nearer than anything else to NULL, or by its angle to
        // zero: any query will do.
        let query = query.unwrap_or_else(|| {
            let nothing = Code::zeroed(graph.codec().code_len());
            graph.codec().query_of_code(nothing.bytes())
        });
        Search {
            scan: Scan::new(query),
            by_bound,
            mode: ITERATIVE_SCAN.get(),
            ef: EF_SEARCH.get() as usize,
            rows: Vec::new(),
            ahead: RowsAhead::default(),
            returned: Vec::new(),
            visible: 0,
            waiting: Vec::new(),
            slack: 0.0,
            last: f64::NEG_INFINITY,
            finished: false,
        }
    }
}

/// Whether the executor may compute what is indexed for each row that it
/// compares: a column, or an expression that costs little. One that runs a
/// model is left alone; its rows come in the order of their codes.
///
/// # Safety
///
/// `index` is an open index.
unsafe fn has_cheap_key(index: pg_sys::Relation) -> bool {
    const DEAR: f64 = 100.0;
    // SAFETY: the index has one column, and an expression where it names none.
    unsafe {
        if *(*(*index).rd_index).indkey.values.as_slice(1).as_ptr() != 0 {
            return true;
        }
        let mut cost = pg_sys::QualCost::default();
        let expressions = pg_sys::RelationGetIndexExpressions(index);
        pg_sys::cost_qual_eval(&mut cost, expressions, std::ptr::null_mut());
        cost.startup + cost.per_tuple < DEAR * pg_sys::cpu_operator_cost
    }
}

/// Counts the scan in the statistics of the index.
unsafe fn count_scan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: the macro pgstat_count_index_scan, in its own words; the entry
    // may be absent, or still to be made.
    unsafe {
        let index = (*scan).indexRelation;
        if (*index).pgstat_info.is_null() && (*index).pgstat_enabled {
            pg_sys::pgstat_assoc_relation(index);
        }
        if let Some(info) = (*index).pgstat_info.as_mut() {
            #[cfg(feature = "pg15")]
            {
                info.t_counts.t_numscans += 1;
            }
            #[cfg(not(feature = "pg15"))]
            {
                info.counts.numscans += 1;
            }
        }
        #[cfg(feature = "pg18")]
        if let Some(instrument) = (*scan).instrument.as_mut() {
            instrument.nsearches += 1;
        }
    }
}

/// Begins the search of a scan and walks down to level 0 of the graph; after
/// each of the two, `look` sees what the search did. The scan goes on from there
/// as if it had done so itself.
///
/// # Safety
///
/// `scan` is a scan of an hnsw index, with its query.
pub unsafe fn enter(scan: pg_sys::IndexScanDesc, look: &mut dyn FnMut(Counters)) {
    // SAFETY: as in `amgettuple`.
    unsafe {
        let search = begin(scan);
        let search = (*(*scan).opaque.cast::<State>()).search.insert(search);
        look(search.scan.counters());
        let pages = RelationPages::new((*scan).indexRelation);
        let name = open::name((*scan).indexRelation);
        let graph = open::index(&pages, &name);
        unwrap_index(search.scan.enter(&graph), &name);
        look(search.scan.counters());
    }
}

/// What the search of a scan did so far.
///
/// # Safety
///
/// As for [`enter`].
pub unsafe fn counters(scan: pg_sys::IndexScanDesc) -> Counters {
    // SAFETY: as in `amgettuple`.
    let state = unsafe { &*(*scan).opaque.cast::<State>() };
    let search = state.search.as_ref();
    search.map_or_else(Counters::default, |search| search.scan.counters())
}

impl Search {
    /// Searches until there is a row to return, or there are no more.
    fn fill(&mut self, pages: &RelationPages<'_>, name: &str) {
        let graph = open::index(pages, name);
        let metric = graph.options().metric;
        while self.rows.is_empty() && !self.finished {
            let found = unwrap_index(self.scan.next_round(&graph, self.ef), name);
            self.finished = found.is_empty() || !self.is_within_limits();
            let mut farthest = f64::NEG_INFINITY;
            for found in &found {
                let distance = metric.distance(found.distance);
                let rank = if self.by_bound { found.bound } else { distance };
                farthest = farthest.max(distance);
                self.slack = self.slack.max(distance - rank);
                let tids = self.scan.heap_tids(found).iter();
                self.waiting.extend(tids.map(|&tid| (rank, tid)));
            }
            self.waiting.sort_by(|a, b| a.0.total_cmp(&b.0));
            // Rows of later rounds are hardly nearer than the farthest of this
            // one, and their bounds hardly lower than that by more than any so
            // far. A scan that will go on keeps back what may come after them.
            let may_be_followed = self.mode == IterativeScan::StrictOrder && !self.finished;
            let sure = if may_be_followed {
                let limit = farthest - self.slack;
                self.waiting.partition_point(|&(rank, _)| rank <= limit)
            } else {
                self.waiting.len()
            };
            let mut rows: Vec<_> = self.waiting.drain(..sure).collect();
            // An order that was promised stays one when a scan goes on.
            if self.mode != IterativeScan::RelaxedOrder {
                rows.retain(|&(rank, _)| rank >= self.last);
            }
            if let Some(&(rank, _)) = rows.last() {
                self.last = rank;
            }
            self.rows = rows;
        }
        self.rows.reverse();
    }

    /// Whether the scan may begin one more round: its first one; if it is
    /// iterative, any; if not, one to make up for rows that this snapshot does
    /// not see, so that deleted rows never crowd out others.
    unsafe fn may_go_on(&mut self, scan: pg_sys::IndexScanDesc) -> bool {
        if self.scan.is_new() || self.mode != IterativeScan::Off {
            return true;
        }
        let before = self.returned.len();
        // SAFETY: the executor gives the table of the index, and a snapshot.
        let is_visible = |tid: &HeapTid| unsafe {
            pg_sys::table_index_fetch_tuple_check(
                (*scan).heapRelation,
                &mut open::item_pointer(*tid),
                (*scan).xs_snapshot,
                std::ptr::null_mut(),
            )
        };
        let visible = self.returned.drain(..).filter(is_visible).count();
        self.visible += visible;
        visible < before && self.visible < self.ef
    }

    fn is_within_limits(&self) -> bool {
        // SAFETY: reads a setting.
        let work_mem = unsafe { pg_sys::work_mem } as f64 * 1024.0;
        self.scan.counters().visited < MAX_SCAN_TUPLES.get() as u64
            && (self.scan.memory() as f64) < work_mem * SCAN_MEM_MULTIPLIER.get()
    }
}
