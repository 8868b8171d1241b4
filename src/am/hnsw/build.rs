//! `ambuild` and `ambuildempty`: a new index.

#![allow(unsafe_code)]

use ann::hnsw::build::{Added, Builder, Linker};
use ann::hnsw::index::create;
use ann::hnsw::layout::Blurred;
use ann::hnsw::witness::Witness;
use ann::hnsw::{AnyCodec, Code, Codec, Options};
use ann::{HeapTid, Metric};
use pgrx::prelude::*;

use super::fit::{self, Fit, fit};
use super::options::{self, StorageOption};
use super::{RelationIndex, index as open_index};
use crate::allocator;
use crate::am::open::{self, Reader, RowContext, Value};
use crate::am::progress::{
    SUBPHASE, TUPLES_DONE, TUPLES_TOTAL, Workers, budget, report, worker_count,
};
use crate::errors::{notice, raise, raise_index, unwrap_index};
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
unsafe fn checked_options(index: pg_sys::Relation) -> (Options, StorageOption) {
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
    let options = Options {
        dimension,
        m: chosen.m,
        ef_construction: chosen.ef_construction,
        metric,
        storage,
        // SAFETY: the state belongs to this backend.
        seed: unsafe { pg_sys::pg_prng_uint64(&raw mut pg_sys::pg_global_prng_state) },
        components: if reader.is_sparse() { COMPONENTS } else { 0 },
    };
    (options, chosen.storage)
}

/// What the scan of the table adds rows to.
struct Build<'b, 'r> {
    pages: &'b RelationPages<'r>,
    options: &'b Options,
    codec: &'b AnyCodec,
    /// What watches over the codes, if they are short, and whether the index may do
    /// without them.
    witness: Option<Witness>,
    may_be_plain: bool,
    builder: &'b Builder<AnyCodec>,
    linker: Linker<'b, AnyCodec>,
    workers: usize,
    name: &'b str,
    reader: Reader,
    /// The pages, once the graph was written to them.
    written: Option<RelationIndex<'b, 'r>>,
    /// Codes turned out not to be good enough: the build goes no further.
    unfit: bool,
    indexed: u64,
}

/// What the scan of the table is given.
struct Rows<'b, 'r> {
    build: Build<'b, 'r>,
    row_context: RowContext,
}

impl Build<'_, '_> {
    /// # Safety
    ///
    /// `datum` is of the index's type, and not null.
    unsafe fn add(&mut self, datum: pg_sys::Datum, tid: HeapTid) {
        if self.unfit {
            return;
        }
        // SAFETY: passed on.
        let value = unsafe { self.reader.read(datum) };
        let mut code = Code::zeroed(self.codec.code_len());
        if !self.codec.encode(value.as_vector(), code.bytes_mut()) {
            return;
        }
        self.indexed += 1;
        if let Some(index) = &self.written {
            self.insert(index, &code, tid);
            report(TUPLES_DONE, self.indexed as i64);
            return;
        }
        if let (Some(witness), Value::Components(vector)) = (&mut self.witness, &value) {
            witness.show(self.codec, vector, &code);
        }
        match self.builder.add(&code, tid) {
            Added::Yes => {}
            Added::NoMemory(error) => allocator::raise(error),
            Added::Full => {
                self.flush();
                if let Some(index) = &self.written {
                    self.notice();
                    self.insert(index, &code, tid);
                }
                return;
            }
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
            allocator::check();
            allocator::unwrap(self.builder.check());
            report(TUPLES_DONE, i64::from(self.builder.linked()));
        }
    }

    fn insert(&self, index: &RelationIndex<'_, '_>, code: &Code, tid: HeapTid) {
        // SAFETY: the state belongs to this backend.
        let uniform =
            unsafe { 1.0 - pg_sys::pg_prng_double(&raw mut pg_sys::pg_global_prng_state) };
        unwrap_index(index.insert(code, tid, uniform), self.name);
    }

    /// Links all rows added so far, and writes the graph; or nothing, if its codes are not
    /// good enough and it may do without them.
    fn flush(&mut self) {
        let mut blurred = Blurred::default();
        if let Some(witness) = &self.witness {
            blurred = witness.blurred(self.codec);
            if self.may_be_plain && !witness.is_satisfied(self.codec) {
                self.unfit = true;
                self.builder.abandon();
                return;
            }
        }
        report(SUBPHASE, phase::LINKING);
        self.builder.close();
        self.help(0);
        while !self.builder.is_complete() {
            std::thread::sleep(std::time::Duration::from_micros(200));
            pgrx::check_for_interrupts!();
            allocator::check();
        }
        allocator::unwrap(self.builder.check());
        report(TUPLES_DONE, self.indexed as i64);
        if let Some(witness) = &mut self.witness {
            let searched = witness.search(self.builder, &mut || {
                pgrx::check_for_interrupts!();
                allocator::check();
            });
            unwrap_index(searched, self.name);
            if !witness.is_satisfied(self.codec) {
                if self.may_be_plain {
                    self.unfit = true;
                    return;
                }
                fit::warn(witness, self.codec, self.name);
            }
        }
        report(SUBPHASE, phase::WRITING);
        let team = Workers(self.workers);
        unwrap_index(create(self.pages, self.options, self.codec), self.name);
        let index = open_index(self.pages, self.name);
        unwrap_index(self.builder.flush(&index, blurred, &team), self.name);
        self.written = Some(index);
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
    // SAFETY: `state` is the `Rows` that `ambuild` gave to the scan, and the
    // values are those of the index's one column.
    unsafe {
        let Rows { build, row_context } = &mut *state.cast::<Rows>();
        if *is_null {
            return;
        }
        let (datum, tid) = (*values, open::heap_tid(*tid));
        row_context.run_and_reset(|| build.add(datum, tid));
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
            most.row_context.run_and_reset(|| {
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

/// Raises an ERROR for an index whose options name no codec.
fn no_codec(name: &str) -> ! {
    let reason = "its storage cannot serve its metric".into();
    raise_index(ann::Error::Corrupted { block: 0, reason }, name)
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
        let (mut options, chosen) = checked_options(index);
        let name = open::name(index);
        let pages = RelationPages::for_build(index);
        let reader = Reader::new(index, options.dimension);
        if reader.is_sparse() {
            let most = most_components(heap, index, index_info, reader);
            // Rows that come later may have more.
            let room = |most: u32| (most + most / 2).clamp(LEAST_COMPONENTS, MOST_COMPONENTS);
            options.components = most.map_or(COMPONENTS, room);
        }
        let mut fitted = fit(
            heap,
            index,
            index_info,
            (reader, chosen),
            &mut options,
            &name,
        );
        let counts = loop {
            let Some(Fit { codec, witness }) = fitted.take() else {
                no_codec(&name);
            };
            let seed = pg_sys::pg_prng_uint64(&raw mut pg_sys::pg_global_prng_state);
            let builder = Builder::new(codec.clone(), options, budget(), seed);
            let builder = allocator::unwrap(builder);
            let workers = worker_count();
            let build = Build {
                pages: &pages,
                options: &options,
                codec: &codec,
                witness,
                may_be_plain: chosen == StorageOption::Auto,
                builder: &builder,
                linker: builder.linker(),
                workers,
                name: &name,
                reader,
                written: None,
                unfit: false,
                indexed: 0,
            };
            let mut rows = Rows {
                build,
                row_context: RowContext::new(),
            };
            report(SUBPHASE, phase::LOADING);
            let estimate = (*(*heap).rd_rel).reltuples;
            report(TUPLES_TOTAL, estimate.max(0.0) as i64);
            let heap_rows = with_workers(
                workers,
                || builder.linker().work(),
                || builder.abandon(),
                || {
                    let heap_rows = pg_sys::table_index_build_scan(
                        heap,
                        index,
                        index_info,
                        true,
                        true,
                        Some(on_row),
                        (&raw mut rows).cast(),
                        std::ptr::null_mut(),
                    );
                    let build = &mut rows.build;
                    report(TUPLES_TOTAL, build.indexed as i64);
                    if build.written.is_none() && !build.unfit {
                        build.flush();
                    }
                    heap_rows
                },
            );
            let build = &mut rows.build;
            if !build.unfit {
                break (heap_rows, build.indexed);
            }
            // Nothing was written yet.
            if let Some(witness) = build.witness.take() {
                fit::take_plain(&mut options, &witness, &codec, &name);
            }
            fitted = fit::unwatched(&options);
        };
        pages.log_all();
        counts
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
        let (options, _) = checked_options(index);
        let pages = RelationPages::for_init_fork(index);
        let name = open::name(index);
        let Some(Fit { codec, .. }) = fit::unwatched(&options) else {
            no_codec(&name);
        };
        unwrap_index(create(&pages, &options, &codec), &name);
        pages.log_all();
    }
}
