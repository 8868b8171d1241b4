//! What scans of all access methods have alike.

#![allow(unsafe_code)]

use ann::HeapTid;
use pgrx::prelude::*;

use super::counters::{Totals, Width};
use super::open;
use crate::errors::raise;
use crate::versions;

/// A search of an access method.
pub trait Search {
    /// What it did so far, and why it ended: for the executor wants no more, unless there
    /// were no more.
    fn totals(&self) -> Totals;

    /// How far it goes.
    fn width(&self) -> Width;
}

/// The state of a scan, what `opaque` points to: the search under way, and what the ones
/// before it did.
pub struct State<S> {
    /// `None` until the first row is asked for.
    pub search: Option<S>,
    past: Totals,
    last_width: Option<Width>,
}

impl<S> Default for State<S> {
    fn default() -> Self {
        State {
            search: None,
            past: Totals::default(),
            last_width: None,
        }
    }
}

impl<S: Search> State<S> {
    /// Ends the search under way.
    fn end(&mut self) {
        (self.past, self.last_width) = self.done();
        self.search = None;
    }

    /// What all searches did so far, and how far the last one went.
    pub fn done(&self) -> (Totals, Option<Width>) {
        let mut totals = self.past;
        match &self.search {
            Some(search) => {
                totals += search.totals();
                (totals, Some(search.width()))
            }
            None => (totals, self.last_width),
        }
    }
}

/// `ambeginscan`: makes the descriptor of a scan, with a [`State`] that belongs to the
/// memory context of the scan and is dropped with it. The query comes with [`rescan`].
///
/// # Safety
///
/// `index` is open.
pub unsafe fn begin<S>(
    index: pg_sys::Relation,
    keys: i32,
    order_bys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the caller gives an open index.
    unsafe {
        let scan = pg_sys::RelationGetIndexScan(index, keys, order_bys);
        // What the executor reads distances from.
        (*scan).xs_orderbyvals = pg_sys::palloc0(size_of::<pg_sys::Datum>()).cast();
        (*scan).xs_orderbynulls = pg_sys::palloc0(size_of::<bool>()).cast();
        let mut context = pgrx::PgMemoryContexts::CurrentMemoryContext;
        (*scan).opaque = context
            .leak_and_drop_on_delete(State::<S>::default())
            .cast();
        scan
    }
}

/// The state of a scan.
///
/// # Safety
///
/// [`begin`] made the scan, with a search of this type, and nobody else uses it.
pub unsafe fn state<'a, S>(scan: pg_sys::IndexScanDesc) -> &'a mut State<S> {
    // SAFETY: as the caller says.
    unsafe { &mut *(*scan).opaque.cast::<State<S>>() }
}

/// `amendscan`: ends the search; the memory context frees the rest.
///
/// # Safety
///
/// As for [`state`].
pub unsafe fn end<S: Search>(scan: pg_sys::IndexScanDesc) {
    // SAFETY: passed on.
    unsafe { state::<S>(scan).end() }
}

/// `amrescan`: begins the scan anew with another query.
///
/// # Safety
///
/// As for [`state`]; `order_bys` are as many as the scan was begun with.
pub unsafe fn rescan<S: Search>(
    scan: pg_sys::IndexScanDesc,
    order_bys: pg_sys::ScanKey,
    order_by_count: i32,
) {
    // SAFETY: passed on.
    unsafe { end::<S>(scan) }
    if !order_bys.is_null() && order_by_count > 0 {
        // SAFETY: as the caller says.
        unsafe { std::ptr::copy(order_bys, (*scan).orderByData, order_by_count as usize) }
    }
}

/// Begins to search: the query of a scan, `None` for NULL. Raises an ERROR for a
/// scan that an index cannot serve.
///
/// # Safety
///
/// `scan` is a scan of an index of this extension's, which is open.
pub unsafe fn query(scan: pg_sys::IndexScanDesc) -> Option<pg_sys::Datum> {
    // SAFETY: as the caller says.
    unsafe {
        let index = (*scan).indexRelation;
        if (*scan).orderByData.is_null() || (*scan).numberOfOrderBys != 1 {
            raise(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("cannot scan {} index without order", open::method(index)),
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
                format!(
                    "non-MVCC snapshots are not supported with {}",
                    open::method(index)
                ),
            );
        }
        versions::count_scan(scan);
        let key = &*(*scan).orderByData;
        (key.sk_flags & pg_sys::SK_ISNULL as i32 == 0).then_some(key.sk_argument)
    }
}

/// Whether the executor may compute what is indexed for each row that it
/// compares: a column, or an expression that costs little. One that runs a
/// model is left alone; its rows come in the order of their codes.
///
/// # Safety
///
/// `index` is an open index.
pub unsafe fn has_cheap_key(index: pg_sys::Relation) -> bool {
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

/// Returns a row to the executor. `by_bound`: its distance is a lower bound, and
/// the executor puts rows into the exact order.
///
/// # Safety
///
/// [`begin`] made the scan.
pub unsafe fn return_row(scan: pg_sys::IndexScanDesc, tid: HeapTid, distance: f64, by_bound: bool) {
    // SAFETY: as the caller says.
    unsafe {
        (*scan).xs_heaptid = open::item_pointer(tid);
        (*scan).xs_recheck = false;
        (*scan).xs_recheckorderby = by_bound;
        *(*scan).xs_orderbyvals = pg_sys::Float8GetDatum(distance);
    }
}
