//! The metrics an index can order by.

use crate::simd::{self, Kernels};

/// How two vectors are compared. Smaller keys are nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Euclidean distance; the key is its square.
    L2,
    /// Inner product; the key is its negative.
    InnerProduct,
    /// Cosine distance; vectors are normalized when encoded, so the key is the
    /// negative inner product.
    Cosine,
    /// Taxicab distance; the key is the distance itself.
    L1,
    /// How many bits differ; the key is the distance itself.
    Hamming,
    /// 1 − the part of the bits set in either of two strings that is set in
    /// both; the key is the distance itself.
    Jaccard,
}

const ALL: [Metric; 6] = [
    Metric::L2,
    Metric::InnerProduct,
    Metric::Cosine,
    Metric::L1,
    Metric::Hamming,
    Metric::Jaccard,
];

impl Metric {
    /// The number that stands for this metric in a metapage.
    pub fn tag(self) -> u32 {
        match self {
            Metric::L2 => 1,
            Metric::InnerProduct => 2,
            Metric::Cosine => 3,
            Metric::L1 => 4,
            Metric::Hamming => 5,
            Metric::Jaccard => 6,
        }
    }

    /// The metric that [`Metric::tag`] gave this number.
    pub fn from_tag(tag: u32) -> Option<Self> {
        ALL.into_iter().find(|metric| metric.tag() == tag)
    }

    /// Whether short codes of vectors tell about their distance.
    pub fn has_short_codes(self) -> bool {
        matches!(self, Metric::L2 | Metric::InnerProduct | Metric::Cosine)
    }

    /// The SIMD kernel of whose sum the key is a function; `None` for a metric of
    /// bits.
    pub fn kernel(self, kernels: &Kernels) -> Option<simd::Kernel<f32>> {
        match self {
            Metric::L2 => Some(kernels.single.l2_squared),
            Metric::InnerProduct | Metric::Cosine => Some(kernels.single.inner_product),
            Metric::L1 => Some(kernels.single.l1),
            Metric::Hamming | Metric::Jaccard => None,
        }
    }

    /// The ordering key that belongs to a kernel's sum.
    ///
    /// A sum that overflowed both ways is no number; its key is infinite, so
    /// that keys have an order.
    pub fn key(self, sum: f32) -> f32 {
        let key = match self {
            Metric::L2 | Metric::L1 | Metric::Hamming | Metric::Jaccard => sum,
            Metric::InnerProduct | Metric::Cosine => -sum,
        };
        if key.is_nan() { f32::INFINITY } else { key }
    }

    /// The key of a distance that is longer by 3 per cent. Only lengths of straight
    /// lines are lengthened: other distances may be equal for most pairs, as those of
    /// sets with nothing in common are, and keys of inner products are not measured
    /// from zero.
    pub fn lengthened(self, key: f32) -> f32 {
        const LONGER: f32 = 1.03;
        match self {
            Metric::L2 => LONGER * LONGER * key,
            // 1 + key is half the square of how far the normalized vectors are.
            Metric::Cosine => LONGER * LONGER * (1.0 + key) - 1.0,
            Metric::InnerProduct | Metric::L1 | Metric::Hamming | Metric::Jaccard => key,
        }
    }

    /// The distance, as the metric's SQL operator gives it, that a key stands for.
    pub fn distance(self, key: f32) -> f64 {
        let key = f64::from(key);
        match self {
            Metric::L2 => key.sqrt(),
            Metric::InnerProduct | Metric::L1 | Metric::Hamming | Metric::Jaccard => key,
            Metric::Cosine => 1.0 + key,
        }
    }
}

/// The Jaccard distance of two strings of bits, of which so many are set in both
/// and in either; 1 where none is set in both.
pub fn jaccard(both: u64, either: u64) -> f64 {
    match both {
        0 => 1.0,
        _ => 1.0 - both as f64 / either as f64,
    }
}

/// Scales `vector` to length 1 in place.
///
/// Returns false, and leaves the vector as it is, when its norm is zero: such
/// a vector has no direction. The norm is summed in `f64`, so neither tiny nor
/// huge components lose it.
pub fn normalize(vector: &mut [f32]) -> bool {
    let norm = squares(vector).sqrt();
    if norm == 0.0 {
        return false;
    }
    for x in vector {
        *x = (f64::from(*x) / norm) as f32;
    }
    true
}

/// Σ xᵢ², in eight sums so that one addition does not wait for the other.
pub fn squares(vector: &[f32]) -> f64 {
    let (chunks, rest) = vector.as_chunks::<8>();
    let mut sums = [0.0_f64; 8];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x) * f64::from(x);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_round_trip() {
        for tag in 0..10 {
            if let Some(metric) = Metric::from_tag(tag) {
                assert_eq!(metric.tag(), tag);
            }
        }
        assert_eq!(Metric::from_tag(3), Some(Metric::Cosine));
        assert_eq!(Metric::from_tag(0), None);
    }

    #[test]
    fn lengthens_distances() {
        let lengthened = |metric: Metric, key| metric.distance(metric.lengthened(key));
        assert!((lengthened(Metric::L2, 4.0) - 2.06).abs() < 1e-6);
        // Two vectors at a right angle: their ends are √2 apart.
        let chord = (2.0 * lengthened(Metric::Cosine, 0.0)).sqrt();
        assert!((chord - 1.03 * 2.0_f64.sqrt()).abs() < 1e-6);
        assert_eq!(Metric::InnerProduct.lengthened(-3.0), -3.0);
        assert_eq!(Metric::Jaccard.lengthened(1.0), 1.0);
    }

    #[test]
    fn normalizes_extremes() {
        for scale in [1e-38_f32, 1.0, 1e38] {
            let mut v = [3.0 * scale, -2.5 * scale];
            assert!(normalize(&mut v));
            let norm: f32 = v.iter().map(|x| x * x).sum();
            assert!((norm - 1.0).abs() < 1e-5, "{scale}: {norm}");
        }
        let mut zero = [0.0_f32; 3];
        assert!(!normalize(&mut zero));
        assert_eq!(zero, [0.0; 3]);
    }
}
