//! `ambuild` and `ambuildempty`: a new index.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::sync::{Arc, LazyLock};

use ann::ivf::kmeans::{Centroids, ROUNDS, Sample, cluster};
use ann::ivf::layout::default_lists;
use ann::ivf::{Builder, Codec, Options, index::create};
use ann::quantize::extended::Bits;
use ann::{HeapTid, Metric};
use pgrx::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{given, index as open_index, options};
use crate::allocator;
use crate::am::open::{self, Reader, RowContext};
use crate::am::progress::{
    SUBPHASE, TUPLES_DONE, TUPLES_TOTAL, Workers, budget, report, worker_count,
};
use crate::am::sample::rows_of_pages;
use crate::errors::{notice, raise, raise_with_hint, unwrap_index};
use crate::raised::unchanged;
use crate::storage::RelationPages;

/// Rows of the sample for each list.
const SAMPLE_PER_LIST: usize = 200;
/// And at least so many.
const LEAST_SAMPLE: usize = 10_000;
/// Rows of a page: the server stores values elsewhere until so many fit (heaptoast.h).
const ROWS_OF_PAGE: usize = 4;

/// An indexed bit string has at most so many bits, as in pgvector.
const MOST_BITS: u32 = 64_000;

/// Subphases of our own, named by `ambuildphasename`; a round of k-means is a
/// phase of its own.
mod phase {
    pub const SAMPLING: i64 = 2;
    pub const ASSIGNING: i64 = 3;
    pub const WRITING: i64 = 4;
    pub const CLUSTERING: i64 = 5;
}

/// The names of the rounds of k-means, the first one that of its beginning.
static ROUND_NAMES: LazyLock<Vec<CString>> = LazyLock::new(|| {
    let named = |round| match round {
        0 => "performing k-means".to_owned(),
        _ => format!("performing k-means, iteration {round}"),
    };
    let names = (0..=ROUNDS).map(|round| CString::new(named(round)));
    names.map(Result::unwrap_or_default).collect()
});

/// The name of a subphase.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuildphasename(phase: i64) -> *mut core::ffi::c_char {
    let round = usize::try_from(phase - phase::CLUSTERING).ok();
    let name = match phase {
        1 => c"initializing",
        phase::SAMPLING => c"sampling table",
        phase::ASSIGNING => c"assigning tuples",
        phase::WRITING => c"loading tuples",
        _ => match round.and_then(|round| ROUND_NAMES.get(round)) {
            Some(name) => name,
            None => return std::ptr::null_mut(),
        },
    };
    name.as_ptr().cast_mut()
}

/// Everything that is known of an index before its rows are read.
pub(super) struct Plan {
    method: String,
    name: String,
    pub(super) codec: Codec,
    options: Options,
    pub(super) reader: Reader,
    /// Lists, if the creator said how many.
    lists: Option<u32>,
    centroids: Option<String>,
}

/// The plan of an index that is to be built, or an ERROR.
///
/// # Safety
///
/// `index` is open.
unsafe fn plan(index: pg_sys::Relation) -> Plan {
    // SAFETY: the caller gives an open index of this access method.
    unsafe {
        let method = open::method(index);
        let Some(dimension) = open::dimension(index) else {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "column does not have dimensions",
            );
        };
        let chosen = options::of_index(index, &method);
        let metric = open::metric(index);
        if metric == Metric::Hamming && dimension > MOST_BITS {
            raise(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("column cannot have more than {MOST_BITS} dimensions for {method} index"),
            );
        }
        let with_bits = |bits, seed| Options {
            dimension,
            metric,
            bits,
            seed,
        };
        let seed = pg_sys::pg_prng_uint64(&raw mut pg_sys::pg_global_prng_state);
        let eight = chosen.bits.unwrap_or(Bits::Eight);
        let mut options = with_bits(eight, seed);
        let mut found = Codec::new(&options);
        if found.is_none() && chosen.bits.is_none() {
            options = with_bits(Bits::Four, seed);
            found = Codec::new(&options);
        }
        let Some(codec) = found else {
            if matches!(metric, Metric::L1 | Metric::Jaccard) {
                raise(
                    PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                    format!(
                        "the distance of the operator class is not supported for {method} index"
                    ),
                );
            }
            raise_with_hint(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!(
                    "a vector of {dimension} dimensions does not fit into a page with bits = 8"
                ),
                "Use bits = 4.",
            );
        };
        let reader = Reader::new(index, dimension);
        if reader.is_sparse() {
            raise(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("type not supported for {method} index"),
            );
        }
        Plan {
            name: open::name(index),
            method,
            codec,
            options,
            reader,
            lists: chosen.lists,
            centroids: chosen.centroids,
        }
    }
}

/// A random choice of at most `capacity` rows, from so many random pages, and the
/// share of the table's pages that these are.
///
/// # Safety
///
/// An open index and its table.
unsafe fn sample(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    index_info: *mut pg_sys::IndexInfo,
    plan: &Plan,
    (capacity, pages): (usize, usize),
) -> (Sample, f64) {
    // SAFETY: the state belongs to this backend.
    let seed = unsafe { pg_sys::pg_prng_uint64(&raw mut pg_sys::pg_global_prng_state) };
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut of_rows = SmallRng::seed_from_u64(rng.random());
    let mut sample = Sample::new(plan.codec.padded(), capacity);
    // The last vector that was loaded.
    let mut loaded = vec![0.0; plan.codec.padded()];
    let mut show = |datum| {
        // SAFETY: the values are those of the index's one column, and not null.
        let value = unsafe { plan.reader.read(datum) };
        if plan.codec.load(value.as_vector(), &mut loaded).is_some() {
            allocator::unwrap(sample.show(&loaded, &mut of_rows));
        }
    };
    // SAFETY: passed on.
    let share = unsafe { rows_of_pages(heap, index, index_info, pages, &mut rng, &mut show) };
    (sample, share)
}

/// How many rows the sample for so many lists should have.
fn sample_len(lists: u32) -> usize {
    (lists as usize * SAMPLE_PER_LIST).max(LEAST_SAMPLE)
}

/// The number of rows that the server expects in a table.
///
/// # Safety
///
/// `heap` is open.
unsafe fn expected_rows(heap: pg_sys::Relation) -> f64 {
    let (mut pages, mut rows, mut visible) = (0, 0.0, 0.0);
    // SAFETY: the caller gives an open table.
    unsafe {
        pg_sys::estimate_rel_size(
            heap,
            std::ptr::null_mut(),
            &raw mut pages,
            &raw mut rows,
            &raw mut visible,
        );
    }
    rows
}

/// Bytes of the centroids of so many lists: they are held as they move, as they are
/// coded, and as rows are assigned to them.
fn size_of_centroids(lists: usize, plan: &Plan) -> usize {
    3 * lists * plan.codec.padded() * size_of::<f32>()
}

/// What the centroids of so many lists would take and may take, in MB, if
/// `maintenance_work_mem` has no room for them.
fn missing_budget(lists: usize, plan: &Plan) -> Option<(usize, usize)> {
    let size = size_of_centroids(lists, plan);
    (lists > 1 && size > budget()).then(|| (size.div_ceil(1 << 20), budget() >> 20))
}

/// Raises an ERROR if there is no room for so many lists.
pub(super) fn check_budget(lists: usize, plan: &Plan) {
    if let Some((size, room)) = missing_budget(lists, plan) {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("memory required is {size} MB, maintenance_work_mem is {room} MB"),
            "Increase maintenance_work_mem, or use fewer lists.",
        );
    }
}

/// So many lists, or fewer and a NOTICE if there is no room for them.
fn affordable(lists: usize, plan: &Plan) -> usize {
    let Some((size, room)) = missing_budget(lists, plan) else {
        return lists;
    };
    let fewer = (budget() / size_of_centroids(1, plan)).max(1);
    notice(
        format!(
            "{} index gets {fewer} lists instead of {lists}",
            plan.method
        ),
        Some(format!(
            "Their centroids would take {size} MB, maintenance_work_mem is {room} MB."
        )),
        Some("Searches are slower with fewer lists. Increase maintenance_work_mem."),
    );
    fewer
}

/// The centroids of an index: those of its table of centroids if there is one, or of a
/// sample. Their
/// mean, or that of the sample, becomes that of the plan's codec.
///
/// # Safety
///
/// An open index and its table.
unsafe fn centroids(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    index_info: *mut pg_sys::IndexInfo,
    plan: &mut Plan,
    team: &Workers,
) -> Centroids {
    let padded = plan.codec.padded();
    // SAFETY: passed on.
    let (mut vectors, lists) = unsafe {
        let table = plan.centroids.as_ref();
        match table.and_then(|table| given::centroids(heap, index, plan, table)) {
            Some(vectors) => (vectors, None),
            None => {
                given::forget(index);
                let (vectors, lists) = sampled(heap, index, index_info, plan);
                (vectors, Some(lists))
            }
        }
    };
    if vectors.is_empty() {
        return Centroids::new(vec![0.0; padded], padded);
    }
    let mut pause = || {
        pgrx::check_for_interrupts!();
        allocator::check();
    };
    plan.codec.set_mean_of(&vectors, &mut pause);
    for part in vectors.chunks_mut(1024 * padded) {
        pause();
        plan.codec.prepare_loaded(part);
    }
    // SAFETY: the state belongs to this backend.
    let seed = unsafe { pg_sys::pg_prng_uint64(&raw mut pg_sys::pg_global_prng_state) };
    let mut rng = SmallRng::seed_from_u64(seed);
    let Some(lists) = lists else {
        let given = Centroids::new(vectors, padded);
        return allocator::unwrap(given.arranged(team, &mut rng));
    };
    report(SUBPHASE, phase::CLUSTERING);
    let metric = plan.codec.options().metric;
    let clustered = cluster(
        team,
        &vectors,
        padded,
        lists,
        metric,
        &mut rng,
        &mut |round| {
            report(SUBPHASE, phase::CLUSTERING + round as i64);
        },
    );
    allocator::unwrap(clustered)
}

/// A sample of the rows, loaded, and how many lists there are to be.
///
/// # Safety
///
/// An open index and its table.
unsafe fn sampled(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    index_info: *mut pg_sys::IndexInfo,
    plan: &Plan,
) -> (Vec<f32>, usize) {
    let row_len = plan.codec.padded() * size_of::<f32>();
    // SAFETY: passed on.
    unsafe {
        // A part of the memory is for the centroids.
        let most = (budget() / 2 / row_len).max(1);
        report(SUBPHASE, phase::SAMPLING);
        let lists_for = |rows: f64| plan.lists.unwrap_or_else(|| default_lists(rows));
        let capacity = sample_len(lists_for(expected_rows(heap))).min(most);
        let mut pages = capacity.div_ceil(ROWS_OF_PAGE);
        let (sample, rows) = loop {
            let (sample, share) = sample(heap, index, index_info, plan, (capacity, pages));
            // Of a partial index, or where many vectors are NULL, the index has fewer
            // rows than the table: then more pages are looked at.
            let seen = sample.seen() as f64;
            let rows = seen / share;
            let missing = sample_len(lists_for(rows)).min(capacity) as f64 / seen;
            if share == 1.0 || missing <= 1.0 {
                break (sample, rows);
            }
            pages = (pages as f64 * missing.max(2.0)) as usize;
        };
        // Few rows have few lists, so that most of them are compared.
        let lists = match plan.lists {
            Some(lists) => {
                let mut lists = lists;
                if rows == 0.0 {
                    notice(
                        format!(
                            "index \"{}\" has one list, as there are no rows yet",
                            plan.name
                        ),
                        None,
                        Some("REINDEX it when the table has rows."),
                    );
                    lists = 1;
                } else if rows < f64::from(lists) {
                    notice(
                        format!("{} index created with little data", plan.method),
                        Some("This will cause low recall.".to_owned()),
                        Some("Drop the index until the table has more data."),
                    );
                    lists = lists.min(default_lists(rows));
                }
                check_budget(lists as usize, plan);
                lists as usize
            }
            None => affordable(default_lists(rows) as usize, plan),
        };
        (sample.into_vectors(), lists)
    }
}

/// What the scan of the table adds rows to.
struct Build<'b, 'i, 's, 'r> {
    plan: &'b Plan,
    builder: Builder<'i, 's, RelationPages<'r>, Arc<Codec>>,
    row_context: RowContext,
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
        let (datum, tid): (_, HeapTid) = (*values, open::heap_tid(*tid));
        build.row_context.run_and_reset(|| {
            let value = build.plan.reader.read(datum);
            let before = build.builder.rows();
            let added = build.builder.add(value.as_vector(), tid);
            unwrap_index(added, &build.plan.name);
            if build.builder.rows() != before {
                report(TUPLES_DONE, build.builder.rows() as i64);
            }
        });
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
        let mut plan = plan(index);
        let pages = RelationPages::for_build(index);
        let team = Workers(worker_count());
        let centroids = centroids(heap, index, index_info, &mut plan, &team);
        let created = create(&pages, &plan.options, &plan.codec, &centroids);
        unwrap_index(created, &plan.name);
        let held = 2 * centroids.values.len() * size_of::<f32>();
        drop(centroids);

        let opened = open_index(&pages, &plan.name);
        let builder = Builder::new(&opened, &team, budget().saturating_sub(held));
        let mut build = Build {
            plan: &plan,
            builder: unwrap_index(builder, &plan.name),
            row_context: RowContext::new(),
        };
        report(SUBPHASE, phase::ASSIGNING);
        let estimate = (*(*heap).rd_rel).reltuples;
        report(TUPLES_TOTAL, estimate.max(0.0) as i64);
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
        let indexed = unwrap_index(build.builder.close(), &plan.name);
        report(TUPLES_TOTAL, indexed as i64);
        report(TUPLES_DONE, indexed as i64);
        report(SUBPHASE, phase::WRITING);
        unwrap_index(build.builder.finish(), &plan.name);
        pages.log_all();
        (rows, indexed)
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
        let plan = plan(index);
        let pages = RelationPages::for_init_fork(index);
        let padded = plan.codec.padded();
        let origin = Centroids::new(vec![0.0; padded], padded);
        let created = create(&pages, &plan.options, &plan.codec, &origin);
        unwrap_index(created, &plan.name);
        pages.log_all();
    }
}
