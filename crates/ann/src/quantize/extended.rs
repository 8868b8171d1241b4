//! 4 or 8 bits a dimension, relative to a centre, with a bound of the error.
//!
//! Gao, Gou, Xu, Yang, Long and Wong, "Practical and Asymptotically Optimal
//! Quantization of High-Dimensional Vectors in Euclidean Space for Approximate
//! Nearest Neighbor Search", SIGMOD 2025 (arXiv:2409.09913). All vectors are
//! rotated. Of a point o and a centre c, let r = o − c. A code is an integer vᵢ
//! from −2^(B−1) to 2^(B−1) − 1 for each dimension, which stands for the middle
//! x̄ᵢ = vᵢ + ½ of a cell of a grid. The grid is scaled so that the angle between
//! x̄ and r is small, and r̂ = step·x̄ is what of r lies along x̄. Whether vᵢ is
//! negative is the 1-bit code of [`super::rabitq`].

use crate::simd;

/// Bits a dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bits {
    /// 16 cells.
    Four,
    /// 256 cells.
    Eight,
}

impl Bits {
    /// The number of bits.
    pub fn count(self) -> u32 {
        match self {
            Bits::Four => 4,
            Bits::Eight => 8,
        }
    }

    /// The bits of which there are `count`.
    pub fn from_count(count: u32) -> Option<Self> {
        [Bits::Four, Bits::Eight]
            .into_iter()
            .find(|bits| bits.count() == count)
    }

    /// Bytes that the integers of so many dimensions take.
    pub fn packed_len(self, padded: usize) -> usize {
        padded * self.count() as usize / 8
    }

    /// Cells on either side of zero.
    fn half(self) -> f32 {
        match self {
            Bits::Four => 8.0,
            Bits::Eight => 128.0,
        }
    }
}

/// What goes with the integers of a code.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// The width of a cell.
    pub step: f32,
    /// ‖r̂‖².
    pub norm_squared: f32,
    /// At least ‖r − r̂‖.
    pub error: f32,
}

/// Widths of a cell of 4 bits that are tried, in standard deviations of a
/// component. For 16 cells and a normal distribution 0.335 is best (Max,
/// "Quantizing for minimum distortion", 1960); few dimensions are not normal.
const WIDTHS: [f32; 4] = [0.27, 0.31, 0.35, 0.40];

/// Sums of several terms over a number of dimensions that 8 divides, in eight
/// parts each: in the same order on every processor, and several at a time.
#[inline(always)]
fn sums<const N: usize>(dimensions: usize, term: impl Fn(usize) -> [f64; N]) -> [f64; N] {
    let mut parts = [[0.0; 8]; N];
    for first in (0..dimensions).step_by(8) {
        for lane in 0..8 {
            for (part, term) in parts.iter_mut().zip(term(first + lane)) {
                part[lane] += term;
            }
        }
    }
    parts.map(|part| part.iter().sum())
}

/// Encodes r into an integer for each dimension; 64 divides their number.
pub fn encode(bits: Bits, residual: &[f32], values: &mut [i8]) -> Grid {
    (simd::kernels().encode_grid)(bits, residual, values)
}

/// [`encode`], to be compiled for each instruction set.
#[inline(always)]
pub(crate) fn encode_inline(bits: Bits, residual: &[f32], values: &mut [i8]) -> Grid {
    debug_assert_eq!(residual.len(), values.len());
    let largest = residual.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    let [squares] = sums(residual.len(), |i| [f64::from(residual[i]).powi(2)]);
    // Too near or too far for the products below.
    if !(1e-30..1e30).contains(&largest) {
        values.fill(0);
        return Grid {
            step: 0.0,
            norm_squared: 0.0,
            error: round_up(squares.sqrt()),
        };
    }
    let half = bits.half();
    let widest = largest / half;
    let inverse = match bits {
        Bits::Eight => 1.0 / widest,
        Bits::Four => {
            let deviation = (squares / residual.len() as f64).sqrt() as f32;
            let tried = WIDTHS.map(|width| (width * deviation).min(widest));
            let inverses = tried.into_iter().chain([widest]).map(|step| 1.0 / step);
            let scored = inverses.map(|inverse| (cosine(residual, inverse, half), inverse));
            scored
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .unwrap_or_default()
                .1
        }
    };
    for (value, &r) in values.iter_mut().zip(residual) {
        *value = (middle(r, inverse, half) - 0.5) as i8;
    }
    let values = &*values;
    let [along, norm] = sums(residual.len(), |i| {
        let middle = f64::from(values[i]) + 0.5;
        [f64::from(residual[i]) * middle, middle * middle]
    });
    let step = (along / norm) as f32;
    let wide = f64::from(step);
    let [error] = sums(residual.len(), |i| {
        let rest = f64::from(residual[i]) - wide * (f64::from(values[i]) + 0.5);
        [rest * rest]
    });
    Grid {
        step,
        norm_squared: (wide * wide * norm) as f32,
        error: round_up(error.sqrt()),
    }
}

/// The middle of the cell that a component is in.
#[inline(always)]
fn middle(r: f32, inverse: f32, half: f32) -> f32 {
    let cell = (r * inverse + half).clamp(0.0, 2.0 * half - 1.0);
    f32::from(cell as u8) - (half - 0.5)
}

/// The cosine between r and its grid points, but for a factor that does not
/// depend on the grid.
#[inline(always)]
fn cosine(residual: &[f32], inverse: f32, half: f32) -> f32 {
    let (mut along, mut norm) = (0.0, 0.0);
    for &r in residual {
        let middle = middle(r, inverse, half);
        along += r * middle;
        norm += middle * middle;
    }
    along / norm.sqrt()
}

/// The next `f32` that is surely not smaller, the rounding of the sum included.
fn round_up(x: f64) -> f32 {
    ((x * (1.0 + 1e-9)) as f32).next_up()
}

/// Dimensions whose integers are packed together: with 4 bits, dimension i of
/// the first half is the low part of byte i, and that of the second half the
/// high part.
const CHUNK: usize = 64;

/// What [`super::rabitq`] needs to know of r, its integers and its centre: Σ rᵢ²,
/// Σ rᵢ·cᵢ and Σ cᵢ·(vᵢ + ½) over all dimensions, and Σ |rᵢ| and ½·Σ ±cᵢ, with the
/// signs of the integers, over the first `coded` ones.
pub fn relate(residual: &[f32], centre: &[f32], values: &[i8], coded: usize) -> [f64; 5] {
    (simd::kernels().relate_grid)(residual, centre, values, coded)
}

/// [`relate`], to be compiled for each instruction set.
#[inline(always)]
pub(crate) fn relate_inline(
    residual: &[f32],
    centre: &[f32],
    values: &[i8],
    coded: usize,
) -> [f64; 5] {
    let dimensions = residual.len();
    let (centre, values) = (&centre[..dimensions], &values[..dimensions]);
    let [norm, along, product] = sums(dimensions, |i| {
        let (r, c) = (f64::from(residual[i]), f64::from(centre[i]));
        [r * r, r * c, c * (f64::from(values[i]) + 0.5)]
    });
    let [absolute, signed] = sums(coded.min(dimensions), |i| {
        let half = if values[i] >= 0 { 0.5 } else { -0.5 };
        [f64::from(residual[i].abs()), half * f64::from(centre[i])]
    });
    [norm, along, product, absolute, signed]
}

/// Packs integers.
pub fn pack(bits: Bits, values: &[i8], packed: &mut [u8]) {
    match bits {
        Bits::Eight => packed.copy_from_slice(bytemuck::cast_slice(values)),
        Bits::Four => {
            let chunks = values.as_chunks::<CHUNK>().0.iter();
            for (values, packed) in chunks.zip(packed.as_chunks_mut::<{ CHUNK / 2 }>().0) {
                let (low, high) = values.split_at(CHUNK / 2);
                for (byte, (&low, &high)) in packed.iter_mut().zip(low.iter().zip(high)) {
                    *byte = low as u8 & 15 | (high as u8) << 4;
                }
            }
        }
    }
}

/// Unpacks integers.
pub fn unpack(bits: Bits, packed: &[u8], values: &mut [i8]) {
    match bits {
        Bits::Eight => values.copy_from_slice(bytemuck::cast_slice(packed)),
        Bits::Four => {
            let chunks = packed.as_chunks::<{ CHUNK / 2 }>().0.iter();
            for (packed, values) in chunks.zip(values.as_chunks_mut::<CHUNK>().0) {
                let (low, high) = values.split_at_mut(CHUNK / 2);
                for (&byte, (low, high)) in packed.iter().zip(low.iter_mut().zip(high)) {
                    *low = (byte << 4) as i8 >> 4;
                    *high = byte as i8 >> 4;
                }
            }
        }
    }
}

/// Σ qᵢ·vᵢ of a query and packed integers.
#[inline]
pub fn dot(bits: Bits, query: &[f32], packed: &[u8]) -> f32 {
    let product = simd::kernels().inner_product_i8;
    match bits {
        Bits::Eight => product(query, bytemuck::cast_slice(packed)),
        Bits::Four => {
            const AT_ONCE: usize = 8 * CHUNK;
            let mut values = [0_i8; AT_ONCE];
            let parts = query.chunks(AT_ONCE).zip(packed.chunks(AT_ONCE / 2));
            parts
                .map(|(query, packed)| {
                    let values = &mut values[..query.len()];
                    unpack(bits, packed, values);
                    product(query, values)
                })
                .sum()
        }
    }
}

/// Adds r̂ to a centre.
pub fn add_decoded(bits: Bits, step: f32, packed: &[u8], centre: &mut [f32]) {
    let mut values = vec![0; centre.len()];
    unpack(bits, packed, &mut values);
    for (centre, value) in centre.iter_mut().zip(values) {
        *centre += step * (f32::from(value) + 0.5);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_residual() -> impl Strategy<Value = Vec<f32>> {
        let scale = prop_oneof![
            4 => Just(1.0_f32), 1 => Just(1e-44), 1 => Just(1e-38), 1 => Just(1e-20),
            1 => Just(1e20), 1 => Just(3e38)
        ];
        (prop::collection::vec(-1.0_f32..1.0, 192), scale, 0..5_u8).prop_map(
            |(mut values, scale, shape)| {
                for (i, x) in values.iter_mut().enumerate() {
                    match shape {
                        1 => *x = 1.0,
                        2 if i != 5 => *x = 0.0,
                        3 => *x = 0.0,
                        4 if i % 64 == 0 => *x *= 100.0,
                        _ => {}
                    }
                    *x = (*x * scale).clamp(f32::MIN, f32::MAX);
                }
                values
            },
        )
    }

    proptest! {
        #[test]
        fn the_error_is_a_bound(residual in any_residual(), four: bool) {
            let bits = if four { Bits::Four } else { Bits::Eight };
            let mut values = vec![0; residual.len()];
            let grid = encode(bits, &residual, &mut values);
            let error: f64 = residual
                .iter()
                .zip(&values)
                .map(|(&r, &v)| (f64::from(r) - (f64::from(v) + 0.5) * f64::from(grid.step)).powi(2))
                .sum();
            prop_assert!(error.sqrt() <= f64::from(grid.error));
            let norm: f64 = residual.iter().map(|&r| f64::from(r).powi(2)).sum();
            // A single component among 192 is the worst: all others are half a cell off.
            let coarse = if four { 0.8 } else { 0.06 };
            if (1e-50..1e50).contains(&norm) {
                prop_assert!(error <= coarse * coarse * norm, "{error} {norm}");
            }
        }

        #[test]
        fn packed_codes_keep_their_values(values in prop::collection::vec(any::<i8>(), 192), four: bool) {
            let bits = if four { Bits::Four } else { Bits::Eight };
            let values: Vec<i8> = values.iter().map(|&v| if four { v >> 4 } else { v }).collect();
            let mut packed = vec![0; bits.packed_len(values.len())];
            pack(bits, &values, &mut packed);
            let mut unpacked = vec![0; values.len()];
            unpack(bits, &packed, &mut unpacked);
            prop_assert_eq!(&values, &unpacked);
            let query: Vec<f32> = (0..values.len()).map(|i| (i as f32).sin()).collect();
            let expected: f64 = query.iter().zip(&values).map(|(&q, &v)| f64::from(q) * f64::from(v)).sum();
            prop_assert!((f64::from(dot(bits, &query, &packed)) - expected).abs() < 0.02);
            let mut centre = query.clone();
            add_decoded(bits, 0.5, &packed, &mut centre);
            for (i, (&v, c)) in values.iter().zip(centre).enumerate() {
                prop_assert_eq!(query[i] + 0.5 * (f32::from(v) + 0.5), c);
            }
        }
    }

    #[test]
    fn instruction_sets_give_the_same_codes() {
        let wave =
            |scale: f32| -> Vec<f32> { (0..448).map(|i| scale * (i as f32).sin()).collect() };
        let (residual, centre) = (wave(0.7), wave(-3.0));
        for bits in [Bits::Four, Bits::Eight] {
            let mut expected = vec![0; residual.len()];
            let grid = encode_inline(bits, &residual, &mut expected);
            let related = relate_inline(&residual, &centre, &expected, 384);
            for kernels in simd::available() {
                let mut values = vec![0; residual.len()];
                assert_eq!((kernels.encode_grid)(bits, &residual, &mut values), grid);
                assert_eq!(values, expected, "{}", kernels.name);
                let relate = (kernels.relate_grid)(&residual, &centre, &values, 384);
                assert_eq!(relate, related, "{}", kernels.name);
            }
        }
    }

    /// What a uniform quantizer of so many cells loses of a normal variable
    /// (Max, 1960): 0.0115 of the variance with 16 cells.
    #[test]
    fn errors_are_those_of_a_good_grid() {
        let mut state = 1_u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let normal: Vec<f32> = (0..4096)
            .map(|_| (0..12).map(|_| uniform()).sum::<f32>())
            .collect();
        let norm: f32 = normal.iter().map(|x| x * x).sum();
        for (bits, least, most) in [(Bits::Four, 0.010, 0.0125), (Bits::Eight, 1e-5, 1.5e-4)] {
            let mut values = vec![0; normal.len()];
            let grid = encode(bits, &normal, &mut values);
            let loss = grid.error * grid.error / norm;
            assert!(loss > least && loss < most, "{bits:?}: {loss}");
        }
    }
}
