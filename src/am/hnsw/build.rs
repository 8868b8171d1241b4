//! `ambuild` and `ambuildempty`: a new index.

#![allow(unsafe_code)]

use ann::hnsw::build::{Added, Builder, Linker};
use ann::hnsw::index::create;
use ann::hnsw::{AnyCodec, Code, Options};
use ann::{HeapTid, Metric};
use pgrx::prelude::*;

use super::{RelationIndex, codec, encode, index as open_index, options};
use crate::am::open::{self, Reader, RowContext, Value};
use crate::am::progress::{
    SUBPHASE, TUPLES_DONE, TUPLES_TOTAL, Workers, budget, report, worker_count,
};
use crate::errors::{notice, raise, unwrap_index};
use crate::raised::unchanged;
use crate::storage::RelationPages;
use crate::threads::with_workers;

/// Components that the code of a sparse vector has room for, where the table has
/// no rows that tell how many they have: with m = 16, four vertices share a page
/// then.
const COMPONENTS: u32 = 224;
/// Room is made for at least so many.
const LEAST_COMPONENTS: u32 = 64;
/// And for at most so many: of a vector with more, the largest are kept.
const MOST_COMPONENTS: u32 = 1000;

/// An indexed bit string has at most so many bits, as in pgvector.
const MOST_BITS: u32 = 64_000;

/// Subphases of our own, named by `ambuildphasename`.
mod phase {
    pub const LOADING: i64 = 2;
    pub const LINKING: i64 = 3;
    pub const WRITING: i64 = 4;
}

/// The name of a subphase.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuildphasename(phase: i64) -> *mut core::ffi::c_char {
    let name = match phase {
        1 => c"initializing",
        phase::LOADING => c"loading tuples",
        phase::LINKING => c"linking vertices",
        phase::WRITING => c"writing pages",
        _ => return std::ptr::null_mut(),
    };
    name.as_ptr().cast_mut()
}

/// The options of an index that is to be built, or an ERROR.
///
/// # Safety
///
/// `index` is open.
unsafe fn checked_options(index: pg_sys::Relation) -> Options {
    // SAFETY: the caller gives an open index of this access method.
    let (chosen, dimension, metric) = unsafe {
        (
            options::of_index(index),
            open::dimension(index),
            open::metric(index),
        )
    };
    let Some(dimension) = dimension else {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "column does not have dimensions",
        );
    };
    if matches!(metric, Metric::Hamming | Metric::Jaccard) && dimension > MOST_BITS {
        raise(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("column cannot have more than {MOST_BITS} dimensions for hnsw index"),
        );
    }
    // SAFETY: as above.
    let reader = unsafe { Reader::new(index, dimension) };
    chosen.check(metric, reader.is_sparse());
    let storage = chosen
        .storage
        .resolve(metric, dimension, reader.is_sparse());
    Options {
        dimension,
        m: chosen.m,
        ef_construction: chosen.ef_construction,
        metric,
        storage,
        // SAFETY: the state belongs to this backend.
        seed: unsafe { pg_sys::pg_prng_uint64(&raw mut pg_sys::pg_global_prng_state) },
        components: if reader.is_sparse() { COMPONENTS } else { 0 },
    }
}

/// What the scan of the table adds rows to.
struct Build<'b, 's, 'r> {
    index: &'b RelationIndex<'s, 'r>,
    builder: &'b Builder<AnyCodec>,
    linker: Linker<'b, AnyCodec>,
    workers: usize,
    row_context: RowContext,
    name: &'b str,
    reader: Reader,
    /// The graph did not fit into memory and was written to the pages.
    flushed: bool,
    indexed: u64,
}

impl Build<'_, '_, '_> {
    /// # Safety
    ///
    /// `datum` is of the index's type, and not null.
    unsafe fn add(&mut self, datum: pg_sys::Datum, tid: HeapTid) {
        // SAFETY: passed on.
        let code = unsafe { encode(self.reader, self.index.codec(), datum) };
        let Some(code) = code else {
            return;
        };
        self.indexed += 1;
        if self.flushed {
            self.insert(&code, tid);
            report(TUPLES_DONE, self.indexed as i64);
            return;
        }
        if self.builder.add(&code, tid) == Added::Full {
            self.flush();
            self.notice();
            self.insert(&code, tid);
            return;
        }
        // Without workers, this thread links everything; with them, it helps
        // when the table is read faster than they link.
        let backlog = 4096 * self.workers as u32;
        self.help(backlog);
        if self.indexed.is_multiple_of(64) {
            report(TUPLES_DONE, i64::from(self.builder.linked()));
        }
    }

    /// Links rows until no more than `backlog` wait for a worker.
    fn help(&mut self, backlog: u32) {
        while self.linker.help(backlog) {
            pgrx::check_for_interrupts!();
            report(TUPLES_DONE, i64::from(self.builder.linked()));
        }
    }

    fn insert(&self, code: &Code, tid: HeapTid) {
        // SAFETY: the state belongs to this backend.
        let uniform =
            unsafe { 1.0 - pg_sys::pg_prng_double(&raw mut pg_sys::pg_global_prng_state) };
        unwrap_index(self.index.insert(code, tid, uniform), self.name);
    }

    /// Links all rows added so far, and writes the graph.
    fn flush(&mut self) {
        report(SUBPHASE, phase::LINKING);
        self.builder.close();
        self.help(0);
        while !self.builder.is_complete() {
            std::thread::sleep(std::time::Duration::from_micros(200));
            pgrx::check_for_interrupts!();
        }
        report(TUPLES_DONE, self.indexed as i64);
        report(SUBPHASE, phase::WRITING);
        let team = Workers(self.workers);
        unwrap_index(self.builder.flush(self.index, &team), self.name);
        self.flushed = true;
    }

    fn notice(&self) {
        notice(
            format!(
                "hnsw graph no longer fits into maintenance_work_mem after {} tuples",
                self.indexed - 1
            ),
            Some("Building will take significantly more time.".to_owned()),
            Some("Increase maintenance_work_mem to speed up builds."),
        );
        report(SUBPHASE, phase::LOADING);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_row(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    _is_alive: bool,
    state: *mut core::ffi::c_void,
) {
    // SAFETY: `state` is the `Build` that `ambuild` gave to the scan, and the
    // values are those of the index's one column.
    unsafe {
        let build = &mut *state.cast::<Build>();
        if *is_null {
            return;
        }
        let (datum, tid) = (*values, open::heap_tid(*tid));
        let context = build.row_context;
        context.run_and_reset(|| build.add(datum, tid));
    }
}

/// The most components that are not zero in a row of the table; `None` if it has
/// no rows.
///
/// # Safety
///
/// An open index of sparse vectors and its table.
unsafe fn most_components(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    index_info: *mut pg_sys::IndexInfo,
    reader: Reader,
) -> Option<u32> {
    struct Most {
        reader: Reader,
        row_context: RowContext,
        most: Option<u32>,
    }
    #[pg_guard]
    unsafe extern "C-unwind" fn on_row(
        _index: pg_sys::Relation,
        _tid: pg_sys::ItemPointer,
        values: *mut pg_sys::Datum,
        is_null: *mut bool,
        _is_alive: bool,
        state: *mut core::ffi::c_void,
    ) {
        // SAFETY: `state` is the `Most` below; the values are of one column.
        unsafe {
            if *is_null {
                return;
            }
            let most = &mut *state.cast::<Most>();
            let context = most.row_context;
            context.run_and_reset(|| {
                if let Value::Sparse(vector) = most.reader.read(*values) {
                    most.most = most.most.max(Some(vector.values().len() as u32));
                }
            });
        }
    }
    // SAFETY: the caller gives open relations.
    unsafe {
        let mut most = Most {
            reader,
            row_context: RowContext::new(),
            most: None,
        };
        pg_sys::table_index_build_scan(
            heap,
            index,
            index_info,
            true,
            false,
            Some(on_row),
            (&raw mut most).cast(),
            std::ptr::null_mut(),
        );
        most.most
    }
}

/// Builds the index of a table.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuild(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    index_info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: the caller gives open relations, exclusively locked.
    let (rows, indexed) = unchanged(|| unsafe {
        let mut options = checked_options(index);
        let name = open::name(index);
        let pages = RelationPages::for_build(index);
        let reader = Reader::new(index, options.dimension);
        if reader.is_sparse() {
            let most = most_components(heap, index, index_info, reader);
            // Rows that come later may have more.
            let room = |most: u32| (most + most / 2).clamp(LEAST_COMPONENTS, MOST_COMPONENTS);
            options.components = most.map_or(COMPONENTS, room);
        }
        let codec = codec(&options, &name);
        unwrap_index(create(&pages, &options, &codec), &name);
        let graph = open_index(&pages, &name);

        let seed = pg_sys::pg_prng_uint64(&raw mut pg_sys::pg_global_prng_state);
        let builder = Builder::new(codec, options, budget(), seed);
        let workers = worker_count();
        let mut build = Build {
            index: &graph,
            builder: &builder,
            linker: builder.linker(),
            workers,
            row_context: RowContext::new(),
            name: &name,
            reader,
            flushed: false,
            indexed: 0,
        };
        report(SUBPHASE, phase::LOADING);
        let estimate = (*(*heap).rd_rel).reltuples;
        report(TUPLES_TOTAL, estimate.max(0.0) as i64);
        let rows = with_workers(
            workers,
            || builder.linker().work(),
            || builder.abandon(),
            || {
                let rows = pg_sys::table_index_build_scan(
                    heap,
                    index,
                    index_info,
                    true,
                    true,
                    Some(on_row),
                    (&raw mut build).cast(),
                    std::ptr::null_mut(),
                );
                report(TUPLES_TOTAL, build.indexed as i64);
                if !build.flushed {
                    build.flush();
                }
                rows
            },
        );
        pages.log_all();
        (rows, build.indexed)
    });
    // SAFETY: a plain struct, palloc'd.
    let mut result = unsafe { PgBox::<pg_sys::IndexBuildResult>::alloc0() };
    result.heap_tuples = rows;
    result.index_tuples = indexed as f64;
    result.into_pg()
}

/// Writes the empty index of an unlogged table, to which a crash resets it.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuildempty(index: pg_sys::Relation) {
    // SAFETY: the caller gives an open relation, exclusively locked.
    unsafe {
        let options = checked_options(index);
        let pages = RelationPages::for_init_fork(index);
        let name = open::name(index);
        let codec = codec(&options, &name);
        unwrap_index(create(&pages, &options, &codec), &name);
        pages.log_all();
    }
}
