//! `insitu.explain_search`: what a search of an index does, and how long each
//! step takes. Below it, what EXPLAIN tells of the searches of a query.

#![allow(unsafe_code)]

mod node;

pub use node::Node;

use std::collections::BinaryHeap;
use std::time::Instant;

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::counters::Counters;
use super::method::Method;
use super::open::{self, RowContext};
use crate::encoding::{Text, shown_name};
use crate::errors::{raise, raise_with_hint};
use crate::rounded::rounded;
use crate::security::run_as;
use crate::versions;

/// One line of the report.
type Line = (String, i64, i64, i64, i64, f64);

/// The lines of the report, and where the last one ended.
struct Report {
    lines: Vec<Line>,
    counters: Counters,
    pages: i64,
    started: Instant,
}

/// Pages that this backend has read so far, from buffers or not.
fn pages_read() -> i64 {
    // SAFETY: reads counters of this backend.
    unsafe {
        let usage = &raw const pg_sys::pgBufferUsage;
        (*usage).shared_blks_hit
            + (*usage).shared_blks_read
            + (*usage).local_blks_hit
            + (*usage).local_blks_read
    }
}

impl Report {
    fn new() -> Self {
        Report {
            lines: Vec::new(),
            counters: Counters::default(),
            pages: pages_read(),
            started: Instant::now(),
        }
    }

    /// Adds what was done since the last line to the line of a step.
    fn add(&mut self, step: &str, now: Counters, rows: i64) {
        let pages = pages_read();
        let elapsed = self.started.elapsed().as_secs_f64() * 1e6;
        let place = self.lines.iter().position(|line| line.0 == step);
        let place = place.unwrap_or_else(|| {
            self.lines.push((step.to_owned(), 0, 0, 0, 0, 0.0));
            self.lines.len() - 1
        });
        let line = &mut self.lines[place];
        line.1 += (now.visited - self.counters.visited) as i64;
        line.2 += (now.estimated - self.counters.estimated) as i64;
        line.3 += pages - self.pages;
        line.4 += rows;
        line.5 += elapsed;
        self.counters = now;
        self.pages = pages;
        self.started = Instant::now();
    }
}

/// A distance, by which rows that wait to be returned are ordered.
#[derive(PartialEq)]
struct Distance(f64);

impl Eq for Distance {}

impl Ord for Distance {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Distance {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Searches an index for the `k` rows nearest to a vector, with the present
/// settings, and tells what each step did: vertices visited, neighbours whose
/// distance was estimated or computed, pages read, rows, microseconds.
#[pg_extern(schema = "insitu", strict, volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn explain_search(
    index: pgrx::PgRelation,
    query: pgrx::AnyElement,
    k: default!(i32, 10),
) -> TableIterator<
    'static,
    (
        name!(step, String),
        name!(vertices, i64),
        name!(neighbours, i64),
        name!(pages, i64),
        name!(rows, i64),
        name!(microseconds, f64),
    ),
> {
    let oid = index.oid();
    drop(index);
    TableIterator::new(lines(oid, k, |index, wanted| {
        if query.oid() != wanted {
            raise_with_hint(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!(
                    "index \"{index}\" is not of the query's type {}",
                    type_name(query.oid())
                ),
                format!("Cast the query to {}.", type_name(wanted)),
            );
        }
        query.datum()
    }))
}

/// The same for a query that is written as a literal without a type, or as text.
#[pg_extern(
    schema = "insitu",
    name = "explain_search",
    strict,
    volatile,
    parallel_unsafe
)]
#[allow(clippy::type_complexity)]
fn explain_search_of_text(
    index: pgrx::PgRelation,
    query: Text<'_>,
    k: default!(i32, 10),
) -> TableIterator<
    'static,
    (
        name!(step, String),
        name!(vertices, i64),
        name!(neighbours, i64),
        name!(pages, i64),
        name!(rows, i64),
        name!(microseconds, f64),
    ),
> {
    let oid = index.oid();
    drop(index);
    TableIterator::new(lines(oid, k, |_, wanted| {
        let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        let text = query.to_c_string();
        // SAFETY: the input function of the type gets a string with a closing zero.
        unsafe {
            pg_sys::getTypeInputInfo(wanted, &mut function, &mut parameter);
            pg_sys::OidInputFunctionCall(function, text.as_ptr().cast_mut(), parameter, -1)
        }
    }))
}

/// What the steps of a search did. `query` gives the vector for an index of this name and
/// type.
fn lines(
    oid: pg_sys::Oid,
    k: i32,
    query: impl FnOnce(&str, pg_sys::Oid) -> pg_sys::Datum,
) -> Vec<Line> {
    if k < 1 {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("k must be at least 1, not {k}"),
        );
    }
    // SAFETY: the relations stay open until the end; the scan is the server's
    // own, of an index of this access method.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let wanted = ("insitu.explain_search", &["hnsw", "ivf", "ivfflat"][..]);
        let (heap, index) = open::table_and_index(oid, lock, wanted, check_privilege);
        let query = query(&open::name(index), *(*index).rd_opcintype);
        let mut lines = explain(heap, index, query, k as usize);
        for line in &mut lines {
            line.5 = rounded(line.5, 1);
        }
        open::close(heap, index);
        lines
    }
}

/// # Safety
///
/// An open index and its table.
unsafe fn explain(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    query: pg_sys::Datum,
    k: usize,
) -> Vec<Line> {
    // SAFETY: what the executor does for an index scan (nodeIndexscan.c).
    unsafe {
        let mut key = pg_sys::ScanKeyData {
            sk_attno: 1,
            sk_strategy: 1,
            sk_argument: query,
            ..Default::default()
        };
        let snapshot = pg_sys::GetActiveSnapshot();
        let scan = versions::begin_ordered_scan(heap, index, snapshot);
        pg_sys::index_rescan(scan, std::ptr::null_mut(), 0, &raw mut key, 1);
        let mut rows = Rows::new(heap, index, query);

        let Some(method) = Method::of(index) else {
            unreachable!("the index is of an access method of ours");
        };
        let counters = || (method.done)(scan).0.counters();
        let (first, search) = method.steps;
        let mut report = Report::new();
        let mut steps = first.into_iter();
        (method.enter)(scan, &mut |counters| {
            report.add(steps.next().unwrap_or_default(), counters, 0);
        });
        // Rows wait until no later one can be nearer, as in the executor.
        let mut waiting = BinaryHeap::new();
        let mut returned = 0;
        while returned < k {
            let tid = pg_sys::index_getnext_tid(scan, pg_sys::ScanDirection::ForwardScanDirection);
            let found = !tid.is_null();
            report.add(search, counters(), 0);
            let bound = match found {
                true => f64::from_bits((*(*scan).xs_orderbyvals).value() as u64),
                false => f64::INFINITY,
            };
            let sure = |next: &Distance| next.0 <= bound;
            while returned < k
                && let Some(std::cmp::Reverse(next)) = waiting.peek()
                && (!found || sure(next))
            {
                waiting.pop();
                returned += 1;
            }
            if !found || returned == k {
                break;
            }
            let visible = pg_sys::index_fetch_heap(scan, rows.slot);
            report.add("fetch rows", counters(), i64::from(visible));
            if visible {
                let distance = if (*scan).xs_recheckorderby {
                    let distance = rows.distance(heap);
                    report.add("compare rows", counters(), 1);
                    distance
                } else {
                    bound
                };
                waiting.push(std::cmp::Reverse(Distance(distance)));
            }
        }
        report.add("return rows", counters(), returned as i64);
        rows.end();
        pg_sys::index_endscan(scan);
        report.lines
    }
}

/// Rows of the table, and what is indexed of them.
struct Rows {
    query: pg_sys::Datum,
    /// The operator that the index orders by.
    operator: pg_sys::Oid,
    slot: *mut pg_sys::TupleTableSlot,
    info: *mut pg_sys::IndexInfo,
    state: *mut pg_sys::EState,
    /// Where expressions are evaluated.
    expressions: *mut pg_sys::ExprContext,
    context: RowContext,
}

impl Rows {
    /// # Safety
    ///
    /// As [`explain`].
    unsafe fn new(heap: pg_sys::Relation, index: pg_sys::Relation, query: pg_sys::Datum) -> Self {
        // SAFETY: open relations; the index has one column.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let slot = pg_sys::table_slot_create(heap, std::ptr::null_mut());
            let expressions = pg_sys::MakePerTupleExprContext(state);
            (*expressions).ecxt_scantuple = slot;
            let (family, kind) = (*(*index).rd_opfamily, *(*index).rd_opcintype);
            let operator = pg_sys::get_opfamily_member(family, kind, kind, 1);
            Rows {
                query,
                operator: pg_sys::get_opcode(operator),
                slot,
                info: pg_sys::BuildIndexInfo(index),
                state,
                expressions,
                context: RowContext::new(),
            }
        }
    }

    /// The distance of the row in the slot.
    ///
    /// # Safety
    ///
    /// The slot holds a row of the table.
    unsafe fn distance(&mut self, heap: pg_sys::Relation) -> f64 {
        let mut values = [pg_sys::Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
        // SAFETY: the arrays have room for the columns of any index; the
        // operator takes what is indexed. Nothing of the last row is in use.
        let work = || unsafe {
            pg_sys::MemoryContextReset((*self.expressions).ecxt_per_tuple_memory);
            let mut form = || {
                pg_sys::FormIndexDatum(
                    self.info,
                    self.slot,
                    self.state,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
            };
            if (*self.info).ii_Expressions.is_null() {
                form();
            } else {
                // They are those of the table's owner.
                run_as((*(*heap).rd_rel).relowner, form);
            }
            if nulls[0] {
                return f64::INFINITY;
            }
            let none = pg_sys::InvalidOid;
            let distance = pg_sys::OidFunctionCall2Coll(self.operator, none, values[0], self.query);
            let distance = f64::from_bits(distance.value() as u64);
            // As the server orders numbers, NaN comes last.
            if distance.is_nan() {
                f64::INFINITY
            } else {
                distance
            }
        };
        // SAFETY: a number has no reference into the context, which lives as long as the
        // rows.
        unsafe { self.context.run_and_reset(work) }
    }

    /// # Safety
    ///
    /// Nothing is used afterwards.
    unsafe fn end(self) {
        // SAFETY: made in `new`.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::FreeExecutorState(self.state);
        }
    }
}

/// The name of a type, as in SQL.
fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: the server returns a string for any number.
    unsafe { shown_name(pg_sys::format_type_be(oid)) }
}

/// Who may read the whole table may know how it is searched.
unsafe fn check_privilege(heap: pg_sys::Oid) {
    // SAFETY: reads the catalog.
    unsafe {
        let result = pg_sys::pg_class_aclcheck(
            heap,
            pg_sys::GetUserId(),
            pg_sys::ACL_SELECT as pg_sys::AclMode,
        );
        if result != pg_sys::AclResult::ACLCHECK_OK {
            pg_sys::aclcheck_error(
                result,
                pg_sys::ObjectType::OBJECT_TABLE,
                pg_sys::get_rel_name(heap),
            );
        }
        // What a search does depends on rows that a policy may hide.
        let policies = pg_sys::check_enable_rls(heap, pg_sys::InvalidOid, true);
        if policies == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32 {
            raise(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "insitu.explain_search is not for roles that row-level security applies to",
            );
        }
    }
}
