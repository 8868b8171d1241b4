//! The vector itself.
//!
//! Cosine is the distance of normalized vectors, as a key the square of L2. Of near ones, one
//! less their inner product would be a small difference of large numbers: what is left of
//! f32 is hardly more than noise where angles are less than a thousandth.

use super::{Code, Codec};
use crate::Metric;
use crate::metric;
use crate::simd::{self, Kernel};

/// The vector itself, as `f32`; normalized under [`Metric::Cosine`].
#[derive(Clone, Copy)]
pub struct Plain {
    dimension: usize,
    metric: Metric,
    /// Whose keys are those of codes.
    key_metric: Metric,
    kernel: Kernel<f32>,
}

impl Plain {
    /// A codec for vectors of `dimension` components; `None` under a metric of
    /// bits.
    pub fn new(metric: Metric, dimension: usize) -> Option<Self> {
        let key_metric = match metric {
            Metric::Cosine => Metric::L2,
            other => other,
        };
        Some(Plain {
            dimension,
            metric,
            key_metric,
            kernel: key_metric.kernel(simd::kernels())?,
        })
    }
}

impl Plain {
    /// The metric.
    pub fn metric(&self) -> Metric {
        self.metric
    }
}

/// A query of [`Plain`]: a code.
pub struct PlainQuery(Code);

impl Codec for Plain {
    type Vector<'a> = &'a [f32];
    type Query = PlainQuery;

    fn code_len(&self) -> usize {
        (self.dimension * size_of::<f32>()).next_multiple_of(8)
    }

    fn encode(&self, vector: &[f32], code: &mut [u8]) -> bool {
        debug_assert_eq!(vector.len(), self.dimension);
        let values: &mut [f32] = bytemuck::cast_slice_mut(code);
        values[..vector.len()].copy_from_slice(vector);
        values[vector.len()..].fill(0.0);
        self.metric != Metric::Cosine || metric::normalize(values)
    }

    fn distance(&self, a: &[u8], b: &[u8]) -> f32 {
        let sum = (self.kernel)(bytemuck::cast_slice(a), bytemuck::cast_slice(b));
        self.key_metric.key(sum)
    }

    fn query(&self, vector: &[f32]) -> Option<PlainQuery> {
        let mut code = Code::zeroed(self.code_len());
        self.encode(vector, code.bytes_mut())
            .then_some(PlainQuery(code))
    }

    fn query_of_code(&self, code: &[u8]) -> PlainQuery {
        PlainQuery(Code::copied(code))
    }

    fn key(&self, query: &PlainQuery, code: &[u8]) -> f32 {
        self.distance(query.0.bytes(), code)
    }

    /// The key itself: where codes are exact, nobody asks for a bound.
    fn bound(&self, _query: &PlainQuery, _code: &[u8], key: f32) -> f64 {
        f64::from(key)
    }
}
