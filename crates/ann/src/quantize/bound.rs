//! What an 8-bit code guarantees of the exact distance.
//!
//! Vectors may have two parts ([`super::frame`]), of which the code stands for one;
//! o and q are that part of them in what follows, but for the norms of the whole.
//! With ‖o − ô‖ ≤ e: | ‖q − o‖ − ‖q − ô‖ | ≤ e, and |⟨q, o⟩ − ⟨q, ô⟩| ≤ ‖q‖·e.
//! The executor compares a bound with what the operator computes in `f32` on
//! the vectors as they are, and raises an error if the bound is greater. So a
//! bound also allows for rounding: of the rotation (relative to the norms, a few
//! times log₂ D units of 2⁻²⁴), of the product with the code, and of the
//! operator's own sum over D terms in at least four accumulators (at most
//! D/4 + 8 units). What underflows is allowed for by [`UNDERFLOW`]; vectors so short or
//! so long that more than that is lost here have an infinite error ([`has_exact_products`]).

use crate::{Metric, metric};

/// More than the root of the sum of so many squares as a vector has
/// components, each too small to be told from zero.
const UNDERFLOW: f64 = 1e-18;

/// Whether products with the vector can be computed in `f32` without loss.
pub fn has_exact_norm(vector: &[f32]) -> bool {
    let squares = metric::squares(vector);
    squares == 0.0 || (1e-28..1e28).contains(&squares)
}

/// The norms of a vector, and of the part of it that its code stands for.
#[derive(Debug, Clone, Copy)]
pub struct Norms {
    /// Of the vector.
    pub whole: f32,
    /// Of the part.
    pub rest: f32,
}

impl Norms {
    /// Of a vector that has no parts.
    pub fn of_whole(norm: f32) -> Self {
        Norms {
            whole: norm,
            rest: norm,
        }
    }
}

/// Whether the code of a vector can tell of its distances under a metric. Under cosine it
/// can always: what is coded has length 1.
pub fn has_exact_products(metric: Metric, vector: &[f32]) -> bool {
    metric == Metric::Cosine || has_exact_norm(vector)
}

/// A lower bound, in the units of the metric's SQL operator, of a vector's
/// distance from a query. `key` is that of the vector's code
/// ([`Metric::key`]), `error` the code's, `norms` those of what it stands for.
/// Under [`Metric::Cosine`] query and vector were normalized when encoded.
#[inline]
pub fn lower_bound(
    metric: Metric,
    query: Norms,
    key: f32,
    error: f32,
    norms: Norms,
    dimension: usize,
) -> f64 {
    let [key, error] = [key, error].map(f64::from);
    let unit = f64::powi(2.0, -24);
    let units = (dimension as f64 / 4.0 + 8.0) + 128.0;
    let query_norm = f64::from(query.whole);
    let norm = f64::from(norms.whole) + error;
    let query_rest = f64::from(query.rest);
    let bound = match metric {
        Metric::L2 => {
            let rest = f64::from(norms.rest) + error;
            let squares = query_rest * query_rest + rest * rest;
            let squared = key - 2.0 * units * unit * squares;
            let distance = squared.max(0.0).sqrt() - error;
            // What the operator itself rounds is relative to its result.
            (distance * (1.0 - units * unit) - UNDERFLOW).max(0.0)
        }
        Metric::InnerProduct => {
            let rounding = 2.0 * units * unit * query_norm * norm;
            key - query_rest * error - rounding - UNDERFLOW * UNDERFLOW
        }
        Metric::Cosine => {
            let least = 1.0 + key - error * query_rest - 2.0 * units * unit;
            least.max(0.0)
        }
        // All terms are positive, so that rounding is relative to the sum.
        Metric::L1 => (key * (1.0 - 2.0 * units * unit) - error - UNDERFLOW).max(0.0),
        Metric::Hamming | Metric::Jaccard => f64::NAN,
    };
    if bound.is_finite() {
        bound
    } else {
        f64::NEG_INFINITY
    }
}

/// A lower bound of the cosine distance of two vectors of so many components, from one of
/// how far they are from each other when they are normalized.
#[inline]
pub fn cosine_of_chord(chord: f64, dimension: usize) -> f64 {
    let unit = f64::powi(2.0, -24);
    let units = (dimension as f64 / 4.0 + 8.0) + 128.0;
    let chord = chord.max(0.0);
    (chord * chord / 2.0 - 2.0 * units * unit).max(0.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hnsw::{Code, Codec, Fused};
    use crate::quantize::frame::Frame;
    use crate::{distance, simd};

    /// What the operators compute.
    pub(crate) fn operator(kernels: &simd::Kernels, metric: Metric, a: &[f32], b: &[f32]) -> f64 {
        match metric {
            Metric::L2 => distance::l2(kernels, a, b),
            Metric::InnerProduct => -distance::inner_product(kernels, a, b),
            _ => distance::cosine(kernels, a, b),
        }
    }

    /// Vectors of so many components that rounding or codes are bad at: zeros, constants,
    /// with one component alone, on a grid, with far centres, denormal and huge ones.
    pub(crate) fn vector(dimension: usize) -> impl Strategy<Value = Vec<f32>> {
        let scale = prop_oneof![
            4 => Just(1.0_f32), 1 => Just(1e-45), 1 => Just(1e-39), 1 => Just(1e-20),
            1 => Just(1e18), 1 => Just(1e19), 1 => Just(3e38)
        ];
        (
            prop::collection::vec(-1.0_f32..1.0, dimension),
            scale,
            0..7_u8,
        )
            .prop_map(|(mut values, scale, shape)| {
                let alone = 5 % values.len();
                for (i, x) in values.iter_mut().enumerate() {
                    match shape {
                        0 => *x = 0.0,
                        1 => *x = 1.0,
                        2 if i != alone => *x = 0.0,
                        3 => *x = 0.25 * (i % 3) as f32,
                        4 => *x = 1.0 + 1e-6 * *x,
                        _ => {}
                    }
                    *x *= scale;
                }
                values
            })
    }

    /// A vector, and one that may be the same or nearly so.
    fn pair(dimension: usize) -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        let pairs = (
            vector(dimension),
            vector(dimension),
            any::<bool>(),
            any::<bool>(),
        );
        pairs.prop_map(|(a, b, same, near)| {
            let b = match (same, near) {
                (true, true) => a.iter().map(|x| x * 1.000_1).collect(),
                (true, false) => a.clone(),
                _ => b,
            };
            (a, b)
        })
    }

    /// Few dimensions most often: many take long.
    fn pairs() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        let dimension = prop_oneof![
            20 => Just(1_usize), 20 => Just(3), 60 => Just(65), 100 => Just(70),
            20 => Just(384), 5 => Just(1537), 1 => Just(16_000)
        ];
        dimension.prop_flat_map(pair)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn bounds_never_exceed_what_the_operator_computes(
            (a, b) in pairs(), frame in 0..3_u8
        ) {
            for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
                // Of the two vectors, of others, and none.
                let sample: Vec<f32> = match frame {
                    0 => Vec::new(),
                    1 => [&a[..], &b].concat(),
                    _ => (0..5 * a.len()).map(|i| 100.0 + (i as f32).sin()).collect(),
                };
                let frame = Frame::of_sample(metric, &sample, a.len(), &mut || ()).unwrap();
                let codec = Fused::new(metric, a.len(), 4, 3).unwrap().in_frame(frame);
                let mut code = Code::zeroed(codec.code_len());
                let (Some(query), true) = (codec.query(&a), codec.encode(&b, code.bytes_mut())) else {
                    continue;
                };
                let key = codec.key(&query, code.bytes());
                let bound = codec.bound(&query, code.bytes(), key);
                prop_assert!(!bound.is_nan());
                prop_assert!(metric != Metric::Cosine || bound > -0.1, "it tells nothing: {bound}");
                for kernels in simd::available() {
                    let exact = operator(&kernels, metric, &a, &b);
                    prop_assert!(
                        bound <= exact || exact.is_nan(),
                        "{:?} of {}, {}: {} > {}", metric, a.len(), kernels.name, bound, exact
                    );
                }
            }
        }
    }

    #[test]
    fn bounds_are_close() {
        let a: Vec<f32> = (0..384).map(|i| (i as f32 * 0.7).sin()).collect();
        let b: Vec<f32> = (0..384).map(|i| (i as f32 * 0.7 + 0.5).sin()).collect();
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            let codec = Fused::new(metric, a.len(), 4, 3).unwrap();
            let mut code = Code::zeroed(codec.code_len());
            let query = codec.query(&a).unwrap();
            assert!(codec.encode(&b, code.bytes_mut()));
            let bound = codec.bound(&query, code.bytes(), codec.key(&query, code.bytes()));
            let exact = operator(simd::kernels(), metric, &a, &b);
            let norm = f64::from((simd::kernels().single.inner_product)(&a, &a)).sqrt();
            let size = match metric {
                Metric::L2 => norm,
                Metric::InnerProduct => norm * norm,
                _ => 1.0,
            };
            assert!(exact - bound < 0.02 * size, "{metric:?}: {exact} {bound}");
        }
    }
}
