//! The components of a vector that are not zero.
//!
//! A code has room for a number of components that is fixed for the index. Of a
//! vector with more, it has the largest ones, and a bound of what the others
//! amount to, so that a lower bound of the exact distance is known all the same.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | components that are there |
//! | 4 | 4 | Euclidean norm of them, `f32` |
//! | 8 | 4 | an upper bound of the norm of the others, `f32`: Euclidean, or under L1 the sum of magnitudes |
//! | 12 | 4 | 0 |
//! | 16 | 4·n | their indices, ascending, `u32` |
//! | 16 + 4·n | 4·n | the components, `f32`; normalized under cosine |

use super::Codec;
use crate::metric;
use crate::quantize::bound::{Norms, has_exact_products, lower_bound};
use crate::{Metric, SparseVector, simd};

const HEAD: usize = 16;

/// Sparse vectors, as codes of so many components at most.
#[derive(Clone, Copy)]
pub struct Sparse {
    metric: Metric,
    capacity: usize,
}

/// A code, taken apart.
struct View<'a> {
    norm: f32,
    error: f32,
    vector: SparseVector<'a>,
}

impl<'a> View<'a> {
    fn new(code: &'a [u8]) -> Self {
        let (head, body) = code.split_at(HEAD);
        let (indices, values) = body.split_at(body.len() / 2);
        let head: &[u32] = bytemuck::cast_slice(head);
        // Only a damaged code has more.
        let count = (head[0] as usize).min(indices.len() / 4);
        View {
            norm: f32::from_bits(head[1]),
            error: f32::from_bits(head[2]),
            vector: SparseVector {
                indices: &bytemuck::cast_slice(indices)[..count],
                values: &bytemuck::cast_slice(values)[..count],
            },
        }
    }
}

/// A query of [`Sparse`]: all components of a vector, normalized under cosine.
pub struct SparseQuery {
    indices: Vec<u32>,
    values: Vec<f32>,
    norm: f32,
}

impl SparseQuery {
    fn new(vector: SparseVector<'_>) -> Self {
        SparseQuery {
            indices: vector.indices.to_vec(),
            values: vector.values.to_vec(),
            norm: norm(vector.values.iter().copied()) as f32,
        }
    }

    fn vector(&self) -> SparseVector<'_> {
        SparseVector {
            indices: &self.indices,
            values: &self.values,
        }
    }
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    let squares = values.map(|x| f64::from(x) * f64::from(x));
    squares.sum::<f64>().sqrt()
}

impl Sparse {
    /// A codec for codes of up to `capacity` components; `None` under a metric
    /// of bits.
    pub fn new(metric: Metric, capacity: usize) -> Option<Self> {
        match metric {
            Metric::Hamming | Metric::Jaccard => None,
            _ => Some(Sparse { metric, capacity }),
        }
    }

    /// The vector as it is compared; `None` if it is zero under cosine.
    fn prepared(&self, values: &[f32]) -> Option<Vec<f32>> {
        let mut values = values.to_vec();
        (self.metric != Metric::Cosine || metric::normalize(&mut values)).then_some(values)
    }

    fn key_of(&self, a: SparseVector<'_>, b: SparseVector<'_>) -> f32 {
        let kernels = &simd::kernels().sparse;
        let kernel = match self.metric {
            Metric::L2 => kernels.l2_squared,
            Metric::L1 => kernels.l1,
            _ => kernels.inner_product,
        };
        self.metric.key(kernel(a, b))
    }
}

impl Codec for Sparse {
    type Vector<'a> = SparseVector<'a>;
    type Query = SparseQuery;

    fn code_len(&self) -> usize {
        HEAD + 8 * self.capacity
    }

    fn encode(&self, vector: SparseVector<'_>, code: &mut [u8]) -> bool {
        let Some(values) = self.prepared(vector.values) else {
            return false;
        };
        let mut places: Vec<usize> = (0..values.len()).collect();
        let mut others = Vec::new();
        if values.len() > self.capacity {
            let descending = |&a: &usize, &b: &usize| values[b].abs().total_cmp(&values[a].abs());
            places.select_nth_unstable_by(self.capacity, descending);
            others = places.split_off(self.capacity);
            places.sort_unstable();
        }
        let rest = others.iter().map(|&i| values[i]);
        let mut error = match self.metric {
            Metric::L1 => rest.map(|x| f64::from(x.abs())).sum(),
            _ => norm(rest),
        };
        if !has_exact_products(self.metric, vector.values) {
            error = f64::INFINITY;
        }
        let kept = norm(places.iter().map(|&i| values[i]));

        code.fill(0);
        let (head, body) = code.split_at_mut(HEAD);
        let head: &mut [u32] = bytemuck::cast_slice_mut(head);
        head[0] = places.len() as u32;
        head[1] = (kept as f32).to_bits();
        head[2] = match error {
            0.0 => 0,
            _ => ((error * (1.0 + 1e-9)) as f32).next_up().to_bits(),
        };
        let (stored_indices, stored_values) = body.split_at_mut(4 * self.capacity);
        let stored_indices: &mut [u32] = bytemuck::cast_slice_mut(stored_indices);
        let stored_values: &mut [f32] = bytemuck::cast_slice_mut(stored_values);
        for (place, &i) in places.iter().enumerate() {
            stored_indices[place] = vector.indices[i];
            stored_values[place] = values[i];
        }
        true
    }

    fn distance(&self, a: &[u8], b: &[u8]) -> f32 {
        self.key_of(View::new(a).vector, View::new(b).vector)
    }

    fn query(&self, vector: SparseVector<'_>) -> Option<SparseQuery> {
        let values = self.prepared(vector.values)?;
        let mut query = SparseQuery::new(SparseVector {
            values: &values,
            ..vector
        });
        if !has_exact_products(self.metric, vector.values) {
            query.norm = f32::INFINITY;
        }
        Some(query)
    }

    fn query_of_code(&self, code: &[u8]) -> SparseQuery {
        SparseQuery::new(View::new(code).vector)
    }

    fn key(&self, query: &SparseQuery, code: &[u8]) -> f32 {
        self.key_of(query.vector(), View::new(code).vector)
    }

    fn bound(&self, query: &SparseQuery, code: &[u8], key: f32) -> f64 {
        let view = View::new(code);
        // Sums of sparse vectors have one accumulator, not four.
        let terms = 4 * (query.values.len() + view.vector.values.len());
        let [query, norms] = [query.norm, view.norm].map(Norms::of_whole);
        lower_bound(self.metric, query, key, view.error, norms, terms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Code;
    use super::*;
    use crate::distance;

    const METRICS: [Metric; 4] = [Metric::L2, Metric::InnerProduct, Metric::Cosine, Metric::L1];

    fn any_vector() -> impl Strategy<Value = (Vec<u32>, Vec<f32>)> {
        let scale = prop_oneof![
            Just(1.0_f32),
            Just(1e-20),
            Just(1e-40),
            Just(1e18),
            Just(3e38)
        ];
        let components = prop::collection::btree_map(0_u32..60, -1.0_f32..1.0, 0..40);
        (components, scale).prop_map(|(components, scale)| {
            let scaled = components.into_iter().map(|(i, x)| (i, x * scale));
            scaled.filter(|&(_, x)| x != 0.0).unzip()
        })
    }

    fn vector((indices, values): &(Vec<u32>, Vec<f32>)) -> SparseVector<'_> {
        SparseVector { indices, values }
    }

    /// What the operators compute.
    fn operator(metric: Metric, a: SparseVector<'_>, b: SparseVector<'_>) -> f64 {
        let kernels = simd::kernels();
        match metric {
            Metric::L2 => distance::l2(kernels, a, b),
            Metric::InnerProduct => -distance::inner_product(kernels, a, b),
            Metric::L1 => distance::l1(kernels, a, b),
            _ => distance::cosine(kernels, a, b),
        }
    }

    fn dense((indices, values): &(Vec<u32>, Vec<f32>)) -> Vec<f64> {
        let mut dense = vec![0.0; 60];
        for (&i, &x) in indices.iter().zip(values) {
            dense[i as usize] = f64::from(x);
        }
        dense
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_bound_is_below_what_the_operator_computes(
            a in any_vector(), b in any_vector(), capacity in 1..40_usize
        ) {
            for metric in METRICS {
                let codec = Sparse::new(metric, capacity).expect("a metric of components");
                let mut code = Code::zeroed(codec.code_len());
                let query = codec.query(vector(&a));
                let encoded = codec.encode(vector(&b), code.bytes_mut());
                let (Some(query), true) = (query, encoded) else {
                    continue;
                };
                let key = codec.key(&query, code.bytes());
                let bound = codec.bound(&query, code.bytes(), key);
                let exact = operator(metric, vector(&a), vector(&b));
                prop_assert!(bound <= exact || exact.is_nan(), "{metric:?}: {bound} {exact}");
            }
        }

        #[test]
        fn codes_with_room_are_compared_as_the_vectors(a in any_vector(), b in any_vector()) {
            let sum = |term: fn(f64, f64) -> f64| -> f64 {
                dense(&a).iter().zip(dense(&b)).map(|(&x, y)| term(x, y)).sum()
            };
            let codec = Sparse::new(Metric::L1, 40).expect("a metric of components");
            let mut codes = [Code::zeroed(codec.code_len()), Code::zeroed(codec.code_len())];
            prop_assert!(codec.encode(vector(&a), codes[0].bytes_mut()));
            prop_assert!(codec.encode(vector(&b), codes[1].bytes_mut()));
            let exact = sum(|x, y| (x - y).abs());
            if exact < 1e38 {
                let distance = f64::from(codec.distance(codes[0].bytes(), codes[1].bytes()));
                prop_assert!((distance - exact).abs() <= 1e-5 * exact + 1e-44);
            }
        }
    }

    #[test]
    fn the_largest_components_are_kept() {
        let codec = Sparse::new(Metric::L2, 2).expect("a metric of components");
        let (indices, values) = ([3, 5, 8, 9], [1.0, -4.0, 3.0, 0.5]);
        let mut code = Code::zeroed(codec.code_len());
        codec.encode(
            vector(&(indices.to_vec(), values.to_vec())),
            code.bytes_mut(),
        );
        let view = View::new(code.bytes());
        assert_eq!(view.vector.indices, [5, 8]);
        assert_eq!(view.vector.values, [-4.0, 3.0]);
        assert!((view.norm - 5.0).abs() < 1e-6 && (view.error - 1.118_034).abs() < 1e-5);
    }
}
