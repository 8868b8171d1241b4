//! Whether short codes can tell the vectors of a table apart.
//!
//! Some rows are watched while an index is built: of each, the nearest others are kept,
//! by the vectors themselves and by their codes. In the end it is known which part of
//! the truly nearest is among those that codes take for near. Where vectors differ by
//! less than what codes are off by, that is little, and no search can make it more.

use memory::vec::try_collect;
use memory::{OutOfMemory, check_short};

use super::build::Builder;
use super::codec::{AnyCodec, AnyQuery, Code, Codec, Plain, PlainQuery};
use super::layout::{Blurred, Options};
use crate::{AnyVector, Error, Metric};

/// What memory is asked for.
const ROWS: &str = "the rows that are watched";

/// So many of the nearest rows are sought.
const NEAREST: usize = 10;
/// Among so many that are the nearest by their codes.
const AMONG: usize = 40;

/// So large a part of what tells the nearest rows from the next ones may codes be off by.
const BLUR: f32 = 0.2;
/// So many rows of a hundred may be blurred for an index to be as good as with whole
/// vectors.
const MOST_BLURRED: f64 = 0.05;
/// So large a part of the nearest rows must codes find.
const LEAST_RECALL: f64 = 0.99;

/// Whether a code is off by more than what tells vectors near it apart. Takes
/// [`Codec::blur`] of the code, and keys of the nearest vectors, ascending; `None` if
/// these are too few to tell.
pub fn is_blurred(
    blur: impl FnOnce(f32) -> f32,
    keys: impl ExactSizeIterator<Item = f32>,
) -> Option<bool> {
    let among = keys.len().min(AMONG);
    let nearest = among * NEAREST / AMONG;
    if among < FEWEST {
        return None;
    }
    let mut keys = keys.skip(nearest - 1);
    let (near, far) = (keys.next()?, keys.nth(among - nearest - 1)?);
    let gap = far - near;
    Some(gap > 0.0 && blur(near) > BLUR * gap)
}

/// So large a part of the nearest may searches miss that whole vectors would find.
const MOST_MISSED: f64 = 0.01;
/// Of fewer near vectors, nothing is said.
const FEWEST: usize = 16;

/// A row that is watched.
struct Watched {
    code: Code,
    exact: PlainQuery,
    query: AnyQuery,
    /// Keys of the nearest rows by the vectors, the farthest last.
    nearest: Vec<f32>,
    /// Of the nearest rows by codes, the key of the code and that of the vector.
    by_code: Vec<(f32, f32)>,
}

/// The rows that are watched.
pub struct Witness {
    plain: Plain,
    rows: Vec<Watched>,
    /// See [`Witness::missed`].
    missed: f64,
    code: Code,
}

impl Witness {
    /// Watches rows with these vectors, of an index with these options; `None` where
    /// codes are the vectors themselves.
    ///
    /// # Errors
    /// [`OutOfMemory`]: a row takes some twenty bytes for each dimension, in pieces.
    pub fn new<'v>(
        options: &Options,
        codec: &AnyCodec,
        vectors: impl Iterator<Item = &'v [f32]>,
    ) -> Result<Option<Self>, OutOfMemory> {
        let AnyCodec::Fused(_) = codec else {
            return Ok(None);
        };
        let Some(plain) = Plain::new(options.metric, options.dimension as usize) else {
            return Ok(None);
        };
        let watched = |vector: &'v [f32]| {
            let mut code = Code::zeroed(codec.code_len());
            if !codec.encode(AnyVector::Components(vector), code.bytes_mut()) {
                return None;
            }
            Some(Watched {
                code,
                exact: plain.query(vector)?,
                query: codec.query(AnyVector::Components(vector))?,
                nearest: Vec::with_capacity(NEAREST + 1),
                by_code: Vec::with_capacity(AMONG + 1),
            })
        };
        let rows = vectors.filter_map(|vector| match check_short(ROWS) {
            Ok(()) => watched(vector).map(Ok),
            Err(error) => Some(Err(error)),
        });
        Ok(Some(Witness {
            rows: try_collect(rows, ROWS)?,
            missed: 0.0,
            code: Code::zeroed(plain.code_len()),
            plain,
        }))
    }

    /// Shows a row of the table, with its code.
    pub fn show(&mut self, codec: &AnyCodec, vector: &[f32], code: &Code) {
        if !self.plain.encode(vector, self.code.bytes_mut()) {
            return;
        }
        for row in &mut self.rows {
            let exact = self.plain.key(&row.exact, self.code.bytes());
            let key = codec.key(&row.query, code.bytes());
            if row.nearest.len() < NEAREST || row.nearest.last().is_some_and(|&k| exact < k) {
                let at = row.nearest.partition_point(|&k| k <= exact);
                row.nearest.insert(at, exact);
                row.nearest.truncate(NEAREST);
            }
            if row.by_code.len() < AMONG || row.by_code.last().is_some_and(|&(k, _)| key < k) {
                let at = row.by_code.partition_point(|&(k, _)| k <= key);
                row.by_code.insert(at, (key, exact));
                row.by_code.truncate(AMONG);
            }
        }
    }

    /// The part of the nearest rows that codes take for near; 1 if none was watched.
    pub fn recall(&self) -> f64 {
        let (mut found, mut of) = (0, 0);
        for row in &self.rows {
            let Some(&last) = row.nearest.last() else {
                continue;
            };
            let near = row.by_code.iter().filter(|(_, exact)| *exact <= last);
            found += near.count().min(row.nearest.len());
            of += row.nearest.len();
        }
        if of == 0 {
            1.0
        } else {
            f64::from(found as u32) / f64::from(of as u32)
        }
    }

    /// How many of the rows that were watched have blurred codes.
    pub fn blurred(&self, codec: &AnyCodec) -> Blurred {
        let mut counts = Blurred::default();
        for row in &self.rows {
            let mut exact: Vec<f32> = row.by_code.iter().map(|&(_, exact)| exact).collect();
            exact.sort_unstable_by(f32::total_cmp);
            let blur = |key| codec.blur(row.code.bytes(), key);
            if let Some(is_blurred) = is_blurred(blur, exact.into_iter()) {
                counts = counts.and(is_blurred);
            }
        }
        counts
    }

    /// Whether codes tell near vectors apart.
    pub fn is_satisfied(&self, codec: &AnyCodec) -> bool {
        self.recall() >= LEAST_RECALL
            && self.blurred(codec).share() <= MOST_BLURRED
            && self.missed <= MOST_MISSED
    }

    /// Searches the complete graph for the rows that are watched: by the codes of all
    /// neighbours, and by what links hold. Only under inner product do the latter find less,
    /// so only there is it done. `pause` is called between searches.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn search(
        &mut self,
        builder: &Builder<AnyCodec>,
        pause: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        if self.plain.metric() != Metric::InnerProduct {
            return Ok(());
        }
        let mut found = [0_u32; 2];
        let mut of = 0;
        for row in &self.rows {
            pause();
            let Some(&(last, _)) = row.by_code.get(NEAREST - 1) else {
                continue;
            };
            // The same sums, but for their rounding.
            let last = last + 1e-5 * last.abs();
            of += NEAREST as u32;
            for (found, keys) in found
                .iter_mut()
                .zip(builder.trial(row.code.bytes(), AMONG)?)
            {
                let near = keys.into_iter().filter(|&key| key <= last).count();
                *found += near.min(NEAREST) as u32;
            }
        }
        if of > 0 {
            let [exact, estimated] = found.map(|found| f64::from(found) / f64::from(of));
            self.missed = exact - estimated;
        }
        Ok(())
    }

    /// The part of the nearest rows that searches by what links hold were seen to miss.
    pub fn missed(&self) -> f64 {
        self.missed.max(0.0)
    }
}
