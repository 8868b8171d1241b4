//! What an index learns of the vectors of its table before it is built, and whether short
//! codes are good enough for them.

#![allow(unsafe_code)]

use ann::Metric;
use ann::hnsw::witness::Witness;
use ann::hnsw::{AnyCodec, Code, Codec, Options, Storage};
use ann::metric::normalize;
use ann::quantize::frame::Frame;
use memory::vec::{copied, reserve};
use pgrx::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::options::StorageOption;
use crate::allocator;
use crate::am::open::{Reader, Value};
use crate::am::progress::budget;
use crate::am::sample::rows_of_pages;
use crate::errors::{notice, warning};

/// Rows of the sample.
const ROWS: usize = 1000;
/// Pages that these come from: more than are needed, so that they are from everywhere.
const PAGES: usize = 400;
/// Rows of the sample that are watched while the index is built.
const WATCHED: usize = 100;
/// The sample takes at most such a part of `maintenance_work_mem`.
const PART_OF_MEMORY: usize = 32;

/// What memory is asked for.
const SAMPLE: &str = "the sample of the vectors";

/// A codec that has seen a sample of the vectors, and what watches over it.
pub struct Fit {
    pub codec: AnyCodec,
    pub witness: Option<Witness>,
}

/// A random choice of the vectors of a table, one after the other.
///
/// # Safety
///
/// An open index of dense vectors and its table.
unsafe fn sample(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    index_info: *mut pg_sys::IndexInfo,
    reader: Reader,
    dimension: usize,
) -> Vec<f32> {
    let row_len = dimension * size_of::<f32>();
    let most = ROWS.min(budget() / PART_OF_MEMORY / row_len).max(1);
    // SAFETY: the state belongs to this backend.
    let seed = unsafe { pg_sys::pg_prng_uint64(&raw mut pg_sys::pg_global_prng_state) };
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut of_rows = SmallRng::seed_from_u64(rng.random());
    let mut pages = PAGES;
    loop {
        let mut rows: Vec<f32> = Vec::new();
        let mut seen = 0;
        let mut show = |datum| {
            // Each row is as likely as every other (algorithm R); the others are not read.
            let place = match seen {
                _ if seen < most => seen,
                _ => of_rows.random_range(0..=seen),
            };
            seen += 1;
            if place >= most {
                return;
            }
            // SAFETY: what the scan shows is of the index's type, and not null.
            if let Value::Components(values) = unsafe { reader.read(datum) } {
                let at = place * dimension;
                if at == rows.len() {
                    allocator::unwrap(reserve(&mut rows, dimension, SAMPLE));
                    rows.extend_from_slice(&values);
                } else {
                    rows[at..at + dimension].copy_from_slice(&values);
                }
            }
        };
        // SAFETY: passed on.
        let share = unsafe { rows_of_pages(heap, index, index_info, pages, &mut rng, &mut show) };
        if seen >= most || share >= 1.0 {
            return rows;
        }
        // Of a partial index, or where many vectors are NULL, more pages are looked at.
        pages *= 8;
    }
}

/// The codec of an index that is to be built with these options. Where codes can't tell
/// the vectors of a sample apart, `auto` takes whole vectors.
///
/// # Safety
///
/// An open index and its table.
pub unsafe fn fit(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    index_info: *mut pg_sys::IndexInfo,
    (reader, chosen): (Reader, StorageOption),
    options: &mut Options,
    name: &str,
) -> Option<Fit> {
    if options.storage != Storage::Fused {
        return unwatched(options);
    }
    let dimension = options.dimension as usize;
    // SAFETY: passed on.
    let rows = unsafe { sample(heap, index, index_info, reader, dimension) };
    let mut compared = allocator::unwrap(copied(&rows, SAMPLE));
    if options.metric == Metric::Cosine {
        // A zero vector stays one, and says nothing.
        compared.chunks_exact_mut(dimension).for_each(|row| {
            normalize(row);
        });
    }
    let frame = Frame::of_sample(options.metric, &compared, dimension, &mut || {
        pgrx::check_for_interrupts!();
        allocator::check();
    });
    let frame = allocator::unwrap(frame);
    drop(compared);
    let codec = AnyCodec::with_frame(options, frame)?;
    let watch = || {
        let watched = rows.chunks_exact(dimension).take(WATCHED);
        allocator::unwrap(Witness::new(options, &codec, watched))
    };
    let mut trial = watch();
    if let Some(trial) = &mut trial {
        let mut code = Code::zeroed(codec.code_len());
        for row in rows.chunks_exact(dimension) {
            pgrx::check_for_interrupts!();
            allocator::check();
            if codec.encode(row.into(), code.bytes_mut()) {
                trial.show(&codec, row, &code);
            }
        }
    }
    let witness = watch();
    if let Some(trial) = &trial
        && chosen == StorageOption::Auto
        && !trial.is_satisfied(&codec)
    {
        take_plain(options, trial, &codec, name);
        return unwatched(options);
    }
    Some(Fit { codec, witness })
}

/// The codec of an index whose codes nobody needs to watch.
pub fn unwatched(options: &Options) -> Option<Fit> {
    Some(Fit {
        codec: AnyCodec::new(options)?,
        witness: None,
    })
}

/// What the witness says of the codes.
fn testimony(witness: &Witness, codec: &AnyCodec) -> String {
    let counts = witness.blurred(codec);
    format!(
        "Codes are off by as much as what tells the nearest rows apart for {} of {} rows, find {:.1} % of the nearest, and searches by them miss {:.1} %.",
        counts.blurred,
        counts.of,
        100.0 * witness.recall(),
        100.0 * witness.missed()
    )
}

/// Makes whole vectors the storage, and says so.
pub fn take_plain(options: &mut Options, witness: &Witness, codec: &AnyCodec, name: &str) {
    options.storage = Storage::Plain;
    notice(
        format!(
            "index \"{name}\" stores whole vectors, because short codes cannot tell near ones apart"
        ),
        Some(testimony(witness, codec)),
        Some(
            "Set storage = plain to choose that at once, or storage = fused for codes all the same.",
        ),
    );
}

/// Says that the codes that were asked for are not good enough.
pub fn warn(witness: &Witness, codec: &AnyCodec, name: &str) {
    warning(
        format!("short codes in index \"{name}\" cannot tell near vectors apart"),
        Some(testimony(witness, codec)),
        Some(
            "Searches miss rows that are near. Leave storage = fused out, or use storage = plain.",
        ),
    );
}
