//! What the vectors of an index have in common, kept out of their codes.
//!
//! A code is off by some part of what it stands for. Where vectors share a large
//! mean, or one direction has nearly all of their spread, that is more than what
//! tells neighbours apart. So a vector is taken apart into *origin* + along·*axis* +
//! rest, of which `along` is a number of its own beside the code of the rest:
//!
//! * squared L2: ‖q − o‖² = (along(q) − along(o))² + ‖rest(q) − rest(o)‖²,
//! * inner product: ⟨q, o⟩ = along(q)·along(o) + ⟨rest(q), rest(o)⟩.
//!
//! The axis is the direction in which a sample of the vectors has most of its
//! squares. The origin is the middle of the sample under L2, and zero under inner
//! product and cosine, where a mean that all vectors share is along the axis.

use memory::OutOfMemory;
use memory::vec::{collect, copied, filled, reserve};

use crate::Metric;
use crate::metric;

/// What memory is asked for.
const SAMPLE: &str = "what a sample of vectors has in common";

/// An origin and an axis; the axis may be zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    dimension: usize,
    /// The origin, then the axis.
    numbers: Vec<f32>,
}

/// Of each component, so large a part of the sample on either side does not
/// count for the origin: the mean of the others stays where it is whatever few
/// far vectors there are.
const TRIMMED: f64 = 0.1;

/// Rounds of the power iteration. Directions between which that cannot decide
/// are as good as each other.
const ROUNDS: usize = 16;

impl Frame {
    /// The frame of vectors of which nothing is known: no origin, and the axis along which
    /// all components are alike, as in measurements of one kind.
    pub fn unlearned(dimension: usize) -> Self {
        let mut numbers = vec![0.0; 2 * dimension];
        numbers[dimension..].fill(1.0 / (dimension as f32).sqrt());
        Frame { dimension, numbers }
    }

    /// So many numbers does the frame of vectors of a dimension have.
    pub fn len_of(dimension: usize) -> usize {
        2 * dimension
    }

    /// A frame of its [`numbers`](Frame::numbers); `None` if it can't be one.
    pub fn from_numbers(numbers: Vec<f32>) -> Option<Self> {
        let is_frame = numbers.len().is_multiple_of(2) && numbers.iter().all(|x| x.is_finite());
        is_frame.then_some(Frame {
            dimension: numbers.len() / 2,
            numbers,
        })
    }

    /// The origin, then the axis.
    pub fn numbers(&self) -> &[f32] {
        &self.numbers
    }

    fn origin(&self) -> &[f32] {
        &self.numbers[..self.dimension]
    }

    fn axis(&self) -> &[f32] {
        &self.numbers[self.dimension..]
    }

    /// The frame of a sample of vectors, one after the other, which are normalized
    /// under cosine. `pause` is called now and then.
    ///
    /// # Errors
    /// [`OutOfMemory`]: this takes two to three times the bytes of the sample.
    pub fn of_sample(
        metric: Metric,
        sample: &[f32],
        dimension: usize,
        pause: &mut dyn FnMut(),
    ) -> Result<Self, OutOfMemory> {
        let mut frame = Frame::unlearned(dimension);
        let rows = || sample.chunks_exact(dimension);
        if rows().len() == 0 {
            return Ok(frame);
        }
        if metric == Metric::L2 {
            let mut column = Vec::new();
            reserve(&mut column, rows().len(), SAMPLE)?;
            for i in 0..dimension {
                if i % 64 == 0 {
                    pause();
                }
                column.clear();
                column.extend(rows().map(|row| row[i]));
                frame.numbers[i] = trimmed_mean(&mut column);
            }
        }
        let mut rests: Vec<f64> = Vec::new();
        reserve(&mut rests, sample.len(), SAMPLE)?;
        for row in rows() {
            let pairs = row.iter().zip(frame.origin());
            rests.extend(pairs.map(|(&x, &c)| f64::from(x) - f64::from(c)));
        }
        let axis = principal(&rests, dimension, pause)?;
        for (number, x) in frame.numbers[dimension..].iter_mut().zip(axis) {
            *number = x as f32;
        }
        Ok(frame)
    }

    /// Takes a vector apart: leaves the rest in its place, and returns how far it
    /// goes along the axis.
    pub fn split(&self, vector: &mut [f32]) -> f32 {
        debug_assert_eq!(vector.len(), self.dimension);
        for (x, &c) in vector.iter_mut().zip(self.origin()) {
            *x -= c;
        }
        let axis = self.axis();
        let squares = metric::squares(axis);
        if squares == 0.0 {
            vector.iter_mut().for_each(|x| *x = finite(*x));
            return 0.0;
        }
        let pairs = vector.iter().zip(axis);
        let product: f64 = pairs.map(|(&x, &u)| f64::from(x) * f64::from(u)).sum();
        let along = finite((product / squares) as f32);
        for (x, &u) in vector.iter_mut().zip(axis) {
            *x = finite((f64::from(*x) - f64::from(along) * f64::from(u)) as f32);
        }
        along
    }

    /// By how much a distance of vectors may be off that is computed of their parts,
    /// of which the norms are given: the axis has not quite the length 1, the rest is
    /// not quite at a right angle to it, and all of them are rounded.
    pub fn rounding(norms: [f32; 2]) -> f32 {
        (norms[0] + norms[1]) / (1 << 20) as f32
    }
}

/// The nearest number that is finite. Codes of vectors that are too long for
/// numbers tell nothing, but they are numbers.
fn finite(x: f32) -> f32 {
    if x.is_nan() {
        return 0.0;
    }
    x.clamp(f32::MIN, f32::MAX)
}

fn trimmed_mean(column: &mut [f32]) -> f32 {
    column.sort_unstable_by(f32::total_cmp);
    let trimmed = (column.len() as f64 * TRIMMED) as usize;
    let middle = &column[trimmed..column.len() - trimmed];
    let sum: f64 = middle.iter().map(|&x| f64::from(x)).sum();
    finite((sum / middle.len() as f64) as f32)
}

/// The direction in which vectors have most of their squares, of length 1; zeros if
/// they have none. No vector counts for more than the median one: few long ones say
/// nothing of the others.
fn principal(
    vectors: &[f64],
    dimension: usize,
    pause: &mut dyn FnMut(),
) -> Result<Vec<f64>, OutOfMemory> {
    let rows = || vectors.chunks_exact(dimension);
    let squares = rows().map(|row| row.iter().map(|x| x * x).sum::<f64>());
    let squares: Vec<f64> = collect(squares, SAMPLE)?;
    let mut ordered = copied(&squares, SAMPLE)?;
    ordered.sort_unstable_by(f64::total_cmp);
    let median = ordered[ordered.len() / 2];
    let weight = |squares: f64| match squares {
        _ if squares <= 0.0 => 0.0,
        _ if median <= 0.0 => 1.0 / squares,
        _ => (median / squares).min(1.0) / median,
    };
    let weights = collect(squares.into_iter().map(weight), SAMPLE)?;

    let mut diagonal = filled(0.0, dimension, SAMPLE)?;
    for (row, weight) in rows().zip(&weights) {
        for (sum, x) in diagonal.iter_mut().zip(row) {
            *sum += weight * x * x;
        }
    }
    let mut axis = filled(0.0, dimension, SAMPLE)?;
    let mut next = filled(0.0, dimension, SAMPLE)?;
    let largest = (0..dimension).max_by(|&a, &b| diagonal[a].total_cmp(&diagonal[b]));
    if let Some(largest) = largest {
        axis[largest] = 1.0;
    }
    for _ in 0..ROUNDS {
        pause();
        next.fill(0.0);
        for (row, weight) in rows().zip(&weights) {
            let product: f64 = row.iter().zip(&axis).map(|(x, u)| x * u).sum();
            for (sum, x) in next.iter_mut().zip(row) {
                *sum += weight * product * x;
            }
        }
        let norm = next.iter().map(|x| x * x).sum::<f64>().sqrt();
        if !(norm > 0.0 && norm.is_finite()) {
            axis.fill(0.0);
            break;
        }
        for (to, x) in axis.iter_mut().zip(&next) {
            *to = x / norm;
        }
    }
    Ok(axis)
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn rows(count: usize, row: impl Fn(&mut SmallRng) -> Vec<f32>) -> Vec<f32> {
        let mut rng = SmallRng::seed_from_u64(3);
        (0..count).flat_map(|_| row(&mut rng)).collect()
    }

    #[test]
    fn the_origin_is_the_middle_whatever_few_vectors_are_far() {
        let sample = rows(200, |rng| match rng.random_range(0..20) {
            0 => vec![1e30, -1e30],
            _ => vec![288.0 + rng.random_range(-1.0..1.0), 7.0],
        });
        let frame = Frame::of_sample(Metric::L2, &sample, 2, &mut || ()).unwrap();
        assert!((frame.origin()[0] - 288.0).abs() < 0.5, "{frame:?}");
        assert_eq!(frame.origin()[1], 7.0);
    }

    #[test]
    fn the_axis_is_the_mean_where_that_is_large_or_what_varies_most() {
        let warm = rows(100, |rng| vec![rng.random_range(280.0..300.0); 4]);
        let frame = Frame::of_sample(Metric::InnerProduct, &warm, 4, &mut || ()).unwrap();
        assert!(frame.axis().iter().all(|x| (x.abs() - 0.5).abs() < 0.01));
        assert!(frame.origin().iter().all(|&x| x == 0.0));
        let years = rows(100, |rng| {
            vec![rng.random_range(-1.0..1.0), rng.random_range(1.0..9e6)]
        });
        let frame = Frame::of_sample(Metric::L2, &years, 2, &mut || ()).unwrap();
        assert!(frame.axis()[1].abs() > 0.999_999, "{frame:?}");
    }

    #[test]
    fn parts_make_up_the_vector() {
        let sample = rows(50, |rng| {
            (0..9)
                .map(|i| 1000.0 * i as f32 + rng.random::<f32>())
                .collect()
        });
        for metric in [Metric::L2, Metric::InnerProduct] {
            let frame = Frame::of_sample(metric, &sample, 9, &mut || ()).unwrap();
            for row in sample.chunks_exact(9) {
                let mut rest = row.to_vec();
                let along = frame.split(&mut rest);
                for (i, &x) in row.iter().enumerate() {
                    let sum = frame.origin()[i] + along * frame.axis()[i] + rest[i];
                    assert!((sum - x).abs() <= 1e-6 * (1.0 + x), "{sum} {x}");
                }
                let product: f32 = rest.iter().zip(frame.axis()).map(|(x, u)| x * u).sum();
                assert!(product.abs() < 1e-3, "{product}");
            }
        }
    }

    #[test]
    fn vectors_that_are_too_long_have_finite_parts() {
        let sample = rows(9, |_| vec![-3e38, 3e38, 3e38]);
        let frame = Frame::of_sample(Metric::L2, &sample, 3, &mut || ()).unwrap();
        let mut rest = vec![3e38, -3e38, f32::MAX];
        assert!(frame.split(&mut rest).is_finite());
        assert!(rest.iter().all(|x| x.is_finite()));
        assert!(Frame::from_numbers(vec![f32::NAN, 0.0]).is_none());
    }

    #[test]
    fn alike_vectors_and_none_have_no_axis() {
        let alike = rows(9, |_| vec![5.0, 1.0]);
        let frame = Frame::of_sample(Metric::L2, &alike, 2, &mut || ()).unwrap();
        assert_eq!(frame.numbers(), [5.0, 1.0, 0.0, 0.0]);
        let none = Frame::of_sample(Metric::L2, &[], 2, &mut || ()).unwrap();
        assert_eq!(none, Frame::unlearned(2));
        let mut rest = vec![7.0; 2];
        assert!((none.split(&mut rest) - 98.0_f32.sqrt()).abs() < 1e-5);
        assert!(rest.iter().all(|x| x.abs() < 1e-5));
    }
}
