//! `insitu.verify_index`: the checker of `crates/ann`, and a comparison of the
//! index with its table.

#![allow(unsafe_code)]

use std::collections::HashMap;

use ann::HeapTid;
use ann::ivf::index::List;
use memory::vec::{push, reserve_in_map};
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::open::{self, RowContext};
use super::progress::budget;
use super::{hnsw, ivf};
use crate::allocator;
use crate::encoding::shown_name;
use crate::errors::{raise, raise_index, raise_with_hint, unwrap_index};
use crate::security::run_as;
use crate::storage::RelationPages;
use crate::versions;

/// What the index holds for a row.
struct Held {
    /// Of its code.
    hash: u64,
    /// The number of its list.
    list: u32,
}

/// What the index holds for each row, as far as there is memory for it.
struct Rows<'a> {
    held: HashMap<HeapTid, Held>,
    /// Vertices of the graph, which the checker remembers.
    vertices: usize,
    index: &'a str,
}

/// Bytes of a hash table for so many entries: a power of two of places, an eighth of
/// them free, with a byte more for each.
fn size_of_table(entries: usize, size: usize) -> usize {
    (entries / 7).saturating_mul(8).next_power_of_two() * (size + 1)
}

impl<'a> Rows<'a> {
    /// What holds as many rows as the server expects in the table, or an ERROR if
    /// `maintenance_work_mem` has no room for these.
    ///
    /// # Safety
    ///
    /// An open table.
    unsafe fn new(heap: pg_sys::Relation, vertices: usize, index: &'a str) -> Self {
        // SAFETY: the caller gives an open table. A table that was never analyzed has -1.
        let expected = unsafe { (*(*heap).rd_rel).reltuples }.max(0.0) as usize;
        let mut rows = Rows {
            held: HashMap::new(),
            vertices,
            index,
        };
        rows.make_room(expected);
        rows
    }

    /// Makes room for so many rows in all, or raises an ERROR.
    fn make_room(&mut self, rows: usize) {
        /// What the checker remembers of a row, and of a vertex.
        const CHECKED: (usize, usize) = (size_of::<HeapTid>(), 18);
        let entry = size_of::<(HeapTid, Held)>();
        let size = size_of_table(rows, entry) + size_of_table(rows, CHECKED.0);
        let size = size + self.vertices * CHECKED.1;
        if size > budget() {
            raise_with_hint(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!(
                    "checking index \"{}\" with {rows} rows takes {} MB, maintenance_work_mem is {} MB",
                    self.index,
                    size.div_ceil(1 << 20),
                    budget() >> 20
                ),
                "Increase maintenance_work_mem.",
            );
        }
        let more = rows - self.held.len();
        allocator::unwrap(reserve_in_map(&mut self.held, more, "the rows of an index"));
    }

    fn insert(&mut self, tid: HeapTid, held: Held) {
        let len = self.held.len();
        if len == self.held.capacity() {
            self.make_room(2 * len + 1);
        }
        self.held.insert(tid, held);
    }
}

fn hash(code: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(code);
    hasher.finish()
}

/// The hash that the index must hold for a row, of what is indexed of it; `None`
/// if the index leaves it out.
type Expected<'a> = dyn FnMut(pg_sys::Datum, HeapTid) -> Option<u64> + 'a;

/// The comparison of a table with what its index holds.
struct Comparison<'a, 'e> {
    held: &'a HashMap<HeapTid, Held>,
    expected: &'a mut Expected<'e>,
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
        comparison.row_context.run_and_reset(|| {
            let Some(expected) = (comparison.expected)(datum, tid) else {
                return;
            };
            let row = format!("({},{})", tid.0 >> 16, tid.0 & 0xffff);
            match comparison.held.get(&tid) {
                None => comparison.problem = Some(format!("the index lacks row {row}")),
                Some(held) if held.hash != expected => {
                    let problem = format!("the index holds another vector for row {row}");
                    comparison.problem = Some(problem);
                }
                Some(_) => {}
            }
        });
    }
}

/// What is counted in an index; `None` where its access method has no such thing.
#[derive(Default)]
struct Counts {
    vertices: Option<i64>,
    heap_tids: i64,
    levels: Option<i32>,
    free_slots: i64,
    unreachable: Option<i64>,
    lists: Option<i64>,
}

/// Checks an index: that it is a valid graph or a valid set of lists, and that it
/// holds every live row of its table with the row's own vector. Raises an ERROR
/// if it does not; else returns what was counted.
///
/// Writes to the table wait meanwhile. It takes memory for each row, at most
/// `maintenance_work_mem`.
#[pg_extern(schema = "insitu", parallel_unsafe, strict)]
#[allow(clippy::type_complexity)]
fn verify_index(
    index: pgrx::PgRelation,
) -> TableIterator<
    'static,
    (
        name!(vertices, Option<i64>),
        name!(heap_tids, i64),
        name!(levels, Option<i32>),
        name!(free_slots, i64),
        name!(unreachable, Option<i64>),
        name!(lists, Option<i64>),
    ),
> {
    let oid = index.oid();
    drop(index);
    // SAFETY: relations are opened with locks that keep writers away, and
    // closed by the server if an ERROR comes.
    let counts = unsafe {
        // A standby grants no stronger lock; there, nobody writes but replay.
        let lock = if pg_sys::RecoveryInProgress() {
            pg_sys::AccessShareLock
        } else {
            pg_sys::ShareLock
        } as pg_sys::LOCKMODE;
        let wanted = ("insitu.verify_index", &["hnsw", "ivf", "ivfflat"][..]);
        let (heap, relation) = open::table_and_index(oid, lock, wanted, check_owner);
        let counts = match &*open::method(relation) {
            "hnsw" => verify_hnsw(heap, relation),
            _ => verify_ivf(heap, relation),
        };
        open::close(heap, relation);
        counts
    };
    TableIterator::once((
        counts.vertices,
        counts.heap_tids,
        counts.levels,
        counts.free_slots,
        counts.unreachable,
        counts.lists,
    ))
}

/// # Safety
///
/// An open hnsw index and its table.
unsafe fn verify_hnsw(heap: pg_sys::Relation, relation: pg_sys::Relation) -> Counts {
    // SAFETY: passed on.
    unsafe {
        let name = open::name(relation);
        let pages = RelationPages::new(relation);
        let graph = hnsw::index(&pages, &name);
        let vertices = unwrap_index(graph.meta(), &name).vertex_count;
        let mut rows = Rows::new(heap, vertices as usize, &name);
        let report = graph.check(&mut |tid, code| {
            let hash = hash(code);
            rows.insert(tid, Held { hash, list: 0 });
        });
        let mut report = unwrap_index(report, &name);
        if !report.problems.is_empty() {
            raise_index(report.problems.swap_remove(0), &name);
        }
        let reader = hnsw::reader(relation, &graph);
        compare(heap, relation, &rows.held, &mut |datum, _| {
            let code = hnsw::encode(reader, graph.codec(), datum);
            code.map(|code| hash(code.bytes()))
        });
        Counts {
            vertices: Some(report.elements as i64),
            heap_tids: report.heap_tids as i64,
            levels: Some(report.levels as i32),
            free_slots: report.free_slots as i64,
            unreachable: Some(report.unreachable as i64),
            lists: None,
        }
    }
}

/// # Safety
///
/// An open ivf index and its table.
unsafe fn verify_ivf(heap: pg_sys::Relation, relation: pg_sys::Relation) -> Counts {
    // SAFETY: passed on.
    unsafe {
        let name = open::name(relation);
        let pages = RelationPages::new(relation);
        let index = ivf::index(&pages, &name);
        let mut rows = Rows::new(heap, 0, &name);
        // They come one after the other.
        let mut lists: Vec<List> = Vec::new();
        let report = index.check(&mut |tid, list, entry| {
            if lists.last().is_none_or(|last| last.number != list.number) {
                allocator::unwrap(push(&mut lists, list, "the lists of an index"));
            }
            let (hash, list) = (hash(entry), lists.len() as u32 - 1);
            rows.insert(tid, Held { hash, list });
        });
        let mut report = unwrap_index(report, &name);
        if !report.problems.is_empty() {
            raise_index(report.problems.swap_remove(0), &name);
        }
        let reader = ivf::reader(relation, &index);
        compare(heap, relation, &rows.held, &mut |datum, tid| {
            let value = reader.read(datum);
            let entry = match rows.held.get(&tid) {
                Some(held) => index.encode_row(lists[held.list as usize], value.as_vector(), tid),
                // The index lacks the row, unless it leaves such ones out.
                None => return index.codec().prepare(value.as_vector()).map(|_| 0),
            };
            unwrap_index(entry, &name).map(|entry| hash(&entry))
        });
        Counts {
            heap_tids: report.rows as i64,
            free_slots: report.free as i64,
            lists: Some(report.lists as i64),
            ..Counts::default()
        }
    }
}

/// Raises an ERROR unless the index holds what is expected for each row that is
/// visible now.
///
/// # Safety
///
/// An open index and its table.
unsafe fn compare(
    heap: pg_sys::Relation,
    relation: pg_sys::Relation,
    held: &HashMap<HeapTid, Held>,
    expected: &mut Expected<'_>,
) {
    let mut comparison = Comparison {
        held,
        expected,
        // SAFETY: it is used until the end of this function.
        row_context: unsafe { RowContext::new() },
        problem: None,
    };
    // SAFETY: open relations. A scan with the server's own snapshot rules, as for
    // a build with concurrent writers.
    unsafe {
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
            raise_index(
                ann::Error::Corrupted { block: 0, reason },
                &open::name(relation),
            );
        }
    }
}

/// Only who owns the table may make its writers wait.
pub unsafe fn check_owner(heap: pg_sys::Oid) {
    // SAFETY: reads the catalog.
    unsafe {
        if !versions::is_owned(pg_sys::RelationRelationId, heap) {
            let name = pg_sys::get_rel_name(heap);
            raise(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("must be owner of table {}", shown_name(name)),
            );
        }
    }
}
