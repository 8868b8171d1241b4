//! `insitu.verify_index`: the checker of `crates/ann`, and a comparison of the
//! index with its table.

#![allow(unsafe_code)]

use ann::HeapTid;
use ann::hnsw::AnyCodec;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use std::collections::HashMap;

use super::open::{self, Reader, RowContext};
use crate::errors::{raise, raise_index, unwrap_index};
use crate::security::run_as;
use crate::storage::RelationPages;

/// What the index holds for each row: a hash of its code.
type Held = HashMap<HeapTid, u64>;

fn hash(code: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(code);
    hasher.finish()
}

/// The comparison of a table with what its index holds.
struct Comparison<'a> {
    held: &'a Held,
    codec: &'a AnyCodec,
    reader: Reader,
    row_context: RowContext,
    problem: Option<String>,
}

#[pg_guard]
unsafe extern "C-unwind" fn on_row(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    is_alive: bool,
    state: *mut core::ffi::c_void,
) {
    // SAFETY: `state` is the `Comparison` that was given to the scan.
    unsafe {
        let comparison = &mut *state.cast::<Comparison>();
        if *is_null || !is_alive || comparison.problem.is_some() {
            return;
        }
        let (datum, tid) = (*values, open::heap_tid(*tid));
        let context = comparison.row_context;
        context.run_and_reset(|| {
            let Some(code) = comparison.reader.encode(comparison.codec, datum) else {
                return;
            };
            let row = format!("({},{})", tid.0 >> 16, tid.0 & 0xffff);
            match comparison.held.get(&tid) {
                None => comparison.problem = Some(format!("the index lacks row {row}")),
                Some(&held) if held != hash(code.bytes()) => {
                    let problem = format!("the index holds another vector for row {row}");
                    comparison.problem = Some(problem);
                }
                Some(_) => {}
            }
        });
    }
}

/// Checks an index: that it is a valid graph, and that it holds every live row
/// of its table with the row's own vector. Raises an ERROR if it does not;
/// else returns what was counted.
///
/// Writes to the table wait meanwhile.
#[pg_extern(schema = "insitu", parallel_unsafe, strict)]
#[allow(clippy::type_complexity)]
fn verify_index(
    index: pgrx::PgRelation,
) -> TableIterator<
    'static,
    (
        name!(vertices, i64),
        name!(heap_tids, i64),
        name!(levels, i32),
        name!(free_slots, i64),
        name!(unreachable, i64),
    ),
> {
    let oid = index.oid();
    drop(index);
    // SAFETY: relations are opened with locks that keep writers away, and
    // closed by the server if an ERROR comes.
    let report = unsafe {
        // A standby grants no stronger lock; there, nobody writes but replay.
        let lock = if pg_sys::RecoveryInProgress() {
            pg_sys::AccessShareLock
        } else {
            pg_sys::ShareLock
        } as pg_sys::LOCKMODE;
        let (heap, relation) =
            open::table_and_index(oid, lock, "insitu.verify_index", check_privilege);

        let name = open::name(relation);
        let pages = RelationPages::new(relation);
        let graph = open::index(&pages, &name);
        let mut held = Held::new();
        let report = graph.check(&mut |tid, code| {
            held.insert(tid, hash(code));
        });
        let mut report = unwrap_index(report, &name);
        if !report.problems.is_empty() {
            raise_index(report.problems.swap_remove(0), &name);
        }

        let mut comparison = Comparison {
            held: &held,
            codec: graph.codec(),
            reader: Reader::of(relation, &graph),
            row_context: RowContext::new(),
            problem: None,
        };
        // A scan with the server's own snapshot rules, as for a build with
        // concurrent writers: only rows that are visible now count.
        let info = pg_sys::BuildIndexInfo(relation);
        (*info).ii_Concurrent = true;
        (*info).ii_Unique = false;
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let table_scan =
            pg_sys::table_beginscan_strat(heap, snapshot, 0, std::ptr::null_mut(), true, true);
        // The index may have expressions and a predicate of its owner's.
        run_as((*(*heap).rd_rel).relowner, || {
            pg_sys::table_index_build_scan(
                heap,
                relation,
                info,
                true,
                false,
                Some(on_row),
                (&raw mut comparison).cast(),
                table_scan,
            );
        });
        pg_sys::UnregisterSnapshot(snapshot);
        if let Some(reason) = comparison.problem {
            raise_index(ann::Error::Corrupted { block: 0, reason }, &name);
        }
        open::close(heap, relation);
        report
    };
    TableIterator::once((
        report.elements as i64,
        report.heap_tids as i64,
        report.levels as i32,
        report.free_slots as i64,
        report.unreachable as i64,
    ))
}

/// Only who owns the table may make its writers wait.
unsafe fn check_privilege(heap: pg_sys::Oid) {
    // SAFETY: reads the catalog.
    unsafe {
        #[cfg(feature = "pg15")]
        let is_owner = pg_sys::pg_class_ownercheck(heap, pg_sys::GetUserId());
        #[cfg(not(feature = "pg15"))]
        let is_owner =
            pg_sys::object_ownercheck(pg_sys::RelationRelationId, heap, pg_sys::GetUserId());
        if !is_owner {
            let name = pg_sys::get_rel_name(heap);
            let name = if name.is_null() {
                c"?"
            } else {
                core::ffi::CStr::from_ptr(name)
            };
            raise(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("must be owner of table {}", name.to_string_lossy()),
            );
        }
    }
}
