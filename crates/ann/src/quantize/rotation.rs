//! A random rotation in O(D log D).
//!
//! RaBitQ (Gao and Long, SIGMOD 2024, arXiv:2405.12497) needs vectors rotated by
//! a random orthogonal map, so that every dimension carries as much as every
//! other, whatever the data. A dense matrix would cost D² operations a vector.
//! Here it is four rounds, each of random changes of signs and a Walsh-Hadamard
//! transform of a power of two of the dimensions (the "fast
//! Johnson-Lindenstrauss transform" of Ailon and Chazelle, 2006): of the leading
//! ones in even rounds, of the trailing ones in odd rounds. If the two do not
//! cover everything alike, each round ends with a rotation by 45 degrees in the
//! planes of dimensions i and i + D/2.

use crate::simd;

const ROUNDS: usize = 4;

/// Dimensions are padded with zeros to a multiple of this.
pub const STEP: usize = 64;

/// A random orthogonal map, followed from a seed: the same one for ever.
pub struct Rotation {
    dimension: usize,
    padded: usize,
    /// For each round and dimension, the sign bit to flip.
    signs: Vec<u32>,
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014). An index on disk depends on these numbers.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rotation {
    /// The rotation of vectors of `dimension` components that the seed gives.
    pub fn new(dimension: usize, seed: u64) -> Self {
        let padded = dimension.next_multiple_of(STEP);
        let mut state = seed;
        let mut signs = Vec::with_capacity(ROUNDS * padded);
        while signs.len() < ROUNDS * padded {
            let word = split_mix(&mut state);
            signs.extend((0..64).map(|bit| ((word >> bit & 1) as u32) << 31));
        }
        Rotation {
            dimension,
            padded,
            signs,
        }
    }

    /// Components of a rotated vector.
    pub fn padded(&self) -> usize {
        self.padded
    }

    /// Rotates a vector of the dimension into `out`, of the padded one.
    pub fn rotate(&self, vector: &[f32], out: &mut [f32]) {
        debug_assert_eq!((vector.len(), out.len()), (self.dimension, self.padded));
        let kernels = simd::kernels();
        out[..vector.len()].copy_from_slice(vector);
        out[vector.len()..].fill(0.0);
        let power = 1 << self.padded.ilog2();
        let scale = 1.0 / (power as f32).sqrt();
        for (round, signs) in self.signs.chunks_exact(self.padded).enumerate() {
            for (x, sign) in out.iter_mut().zip(signs) {
                *x = f32::from_bits(x.to_bits() ^ sign);
            }
            let from = if round % 2 == 0 {
                0
            } else {
                self.padded - power
            };
            let block = &mut out[from..from + power];
            // Before the transform, so that huge values do not overflow in it.
            for x in &mut *block {
                *x *= scale;
            }
            (kernels.hadamard)(block);
            if power < self.padded {
                let (a, b) = out.split_at_mut(self.padded / 2);
                for (a, b) in a.iter_mut().zip(b) {
                    let half = std::f32::consts::FRAC_1_SQRT_2;
                    (*a, *b) = (half * *a + half * *b, half * *a - half * *b);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    }

    #[test]
    fn keeps_inner_products() {
        let mut rng = SmallRng::seed_from_u64(1);
        for dimension in [1, 2, 3, 63, 64, 65, 100, 128, 384, 1536, 2000, 16_000] {
            let rotation = Rotation::new(dimension, 9);
            let mut vectors = [0, 1].map(|_| -> Vec<f32> {
                (0..dimension)
                    .map(|_| rng.random_range(-1.0..1.0))
                    .collect()
            });
            vectors[1][0] += 3.0;
            let rotated = vectors.each_ref().map(|vector| {
                let mut out = vec![0.0; rotation.padded()];
                rotation.rotate(vector, &mut out);
                out
            });
            for (i, j) in [(0, 0), (0, 1), (1, 1)] {
                let (before, after) =
                    (dot(&vectors[i], &vectors[j]), dot(&rotated[i], &rotated[j]));
                let norms = dot(&vectors[i], &vectors[i]) * dot(&vectors[j], &vectors[j]);
                assert!((before - after).abs() < 1e-5 * norms.sqrt(), "{dimension}");
            }
        }
    }

    #[test]
    fn spreads_a_single_component() {
        for dimension in [64, 384, 1536, 1000] {
            let rotation = Rotation::new(dimension, 5);
            let mut vector = vec![0.0; dimension];
            vector[dimension / 3] = 1.0;
            let mut out = vec![0.0; rotation.padded()];
            rotation.rotate(&vector, &mut out);
            let largest = out.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            assert!(
                largest < 6.0 / (out.len() as f32).sqrt(),
                "{dimension}: {largest}"
            );
        }
    }

    #[test]
    fn is_the_same_for_ever() {
        let rotation = Rotation::new(3, 42);
        let mut out = vec![0.0; 64];
        rotation.rotate(&[1.0, 2.0, 3.0], &mut out);
        let again = Rotation::new(3, 42);
        let mut second = vec![0.0; 64];
        again.rotate(&[1.0, 2.0, 3.0], &mut second);
        assert_eq!(out, second);
        let bits = out.iter().fold(0_u32, |hash, x| {
            hash.rotate_left(5) ^ x.to_bits().wrapping_mul(0x9e37_79b9)
        });
        assert_eq!(bits, 0xef4b_9a1e, "{bits:#x}");
    }
}
