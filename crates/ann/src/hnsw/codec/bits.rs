//! A string of bits.

use super::{Code, Codec};
use crate::metric::{self, Metric};
use crate::simd;

/// The bits themselves, eight to a byte, filled up with zeros.
#[derive(Clone, Copy)]
pub struct Bits {
    len: usize,
    distance: fn(&[u8], &[u8]) -> f32,
}

fn hamming(a: &[u8], b: &[u8]) -> f32 {
    (simd::kernels().hamming)(a, b) as f32
}

fn jaccard(a: &[u8], b: &[u8]) -> f32 {
    let (both, either) = (simd::kernels().common_bits)(a, b);
    metric::jaccard(both, either) as f32
}

impl Bits {
    /// A codec for strings of `len` bits; `None` under a metric of components.
    pub fn new(metric: Metric, len: usize) -> Option<Self> {
        let distance = match metric {
            Metric::Hamming => hamming,
            Metric::Jaccard => jaccard,
            Metric::L2 | Metric::InnerProduct | Metric::Cosine | Metric::L1 => return None,
        };
        Some(Bits { len, distance })
    }
}

/// A query of [`Bits`]: a code.
pub struct BitsQuery(Code);

impl Codec for Bits {
    /// As many bits as the codec was made for, in ⌈len / 8⌉ bytes, of which the
    /// last one's other bits are zero.
    type Vector<'a> = &'a [u8];
    type Query = BitsQuery;

    fn code_len(&self) -> usize {
        self.len.div_ceil(64) * 8
    }

    fn encode(&self, vector: &[u8], code: &mut [u8]) -> bool {
        debug_assert_eq!(vector.len(), self.len.div_ceil(8));
        let (bits, rest) = code.split_at_mut(vector.len());
        bits.copy_from_slice(vector);
        rest.fill(0);
        true
    }

    fn distance(&self, a: &[u8], b: &[u8]) -> f32 {
        (self.distance)(a, b)
    }

    fn query(&self, vector: &[u8]) -> Option<BitsQuery> {
        let mut code = Code::zeroed(self.code_len());
        self.encode(vector, code.bytes_mut())
            .then_some(BitsQuery(code))
    }

    fn query_of_code(&self, code: &[u8]) -> BitsQuery {
        BitsQuery(Code::copied(code))
    }

    fn key(&self, query: &BitsQuery, code: &[u8]) -> f32 {
        self.distance(query.0.bytes(), code)
    }

    /// The key itself: where codes are exact, nobody asks for a bound.
    fn bound(&self, _query: &BitsQuery, _code: &[u8], key: f32) -> f64 {
        f64::from(key)
    }
}
