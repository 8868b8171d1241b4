//! What a vertex stores of its vector.
//!
//! A [`Codec`] turns a vector into a *code*, a byte string of one length for
//! the whole index, and compares codes. Distances are sums over ranges of
//! bytes, because a code may span pages. [`Plain`] stores the vector itself.

use crate::Metric;
use crate::metric;
use crate::simd::{self, Kernel};

/// A code in memory, aligned to 8 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code(Vec<u64>);

impl Code {
    /// A code of `len` zero bytes; `len` is a multiple of 8.
    pub fn zeroed(len: usize) -> Self {
        debug_assert!(len.is_multiple_of(8));
        Code(vec![0; len / 8])
    }

    /// The code's bytes.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    /// The code's bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// How vectors are stored in vertices and compared.
pub trait Codec: Sync {
    /// Bytes of a code; a multiple of 8.
    fn code_len(&self) -> usize;

    /// Encodes a vector of the index's dimension. Returns false when the
    /// vector cannot be placed under the metric (a zero vector under cosine)
    /// and is left out of the index.
    fn encode(&self, vector: &[f32], code: &mut [u8]) -> bool;

    /// The part of a distance that the same range of bytes of two codes
    /// contributes. Ranges start at multiples of 8.
    fn partial(&self, a: &[u8], b: &[u8]) -> f32;

    /// The ordering key that a sum of parts stands for; smaller is nearer.
    fn key(&self, sum: f32) -> f32;

    /// The ordering key of two whole codes.
    fn distance(&self, a: &[u8], b: &[u8]) -> f32 {
        self.key(self.partial(a, b))
    }
}

/// The vector itself, as `f32`; normalized under [`Metric::Cosine`].
#[derive(Clone, Copy)]
pub struct Plain {
    dimension: usize,
    metric: Metric,
    kernel: Kernel,
}

impl Plain {
    /// A codec for vectors of `dimension` components.
    pub fn new(metric: Metric, dimension: usize) -> Self {
        Plain {
            dimension,
            metric,
            kernel: metric.kernel(simd::kernels()),
        }
    }
}

impl Codec for Plain {
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

    fn partial(&self, a: &[u8], b: &[u8]) -> f32 {
        (self.kernel)(bytemuck::cast_slice(a), bytemuck::cast_slice(b))
    }

    fn key(&self, sum: f32) -> f32 {
        self.metric.key(sum)
    }
}
