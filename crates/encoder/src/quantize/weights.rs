//! Weights in few bits.
//!
//! A matrix has a row for each output; a row is cut into blocks of inputs, and a
//! block has a scale of its own. Three schemes:
//!
//! * **linear**: w ≈ s·q, symmetric about 0. With 4 bits the scale is the one, of
//!   some that cut off large weights, that has the least squared error.
//! * **affine** (4 bits): w ≈ s·(q − z), from the least to the greatest weight of a
//!   block (Jacob et al., arXiv:1712.05877).
//! * **kmeans** (4 bits): w ≈ s·c_q, where the sixteen c are the means of clusters of
//!   all weights of the matrix, each divided by the greatest of its block (Han et
//!   al., arXiv:1510.00149, section 3; Lloyd's algorithm).
//!
//! With 8 bits only the linear scheme is offered. The others could gain at most a
//! bit on a lopsided row; those of trained models are even, and symmetric weights
//! spare the products a term.

use serde::{Deserialize, Serialize};

/// How weights become whole numbers.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Symmetric about zero.
    Linear,
    /// With a zero point.
    Affine,
    /// With a codebook.
    Kmeans,
}

/// Clusters of a codebook: values of 4 bits.
const CLUSTERS: usize = 16;

/// Rounds of Lloyd's algorithm.
const ROUNDS: usize = 25;

/// Weights that clusters are made of, at most.
const SAMPLE: usize = 1 << 16;

/// A matrix in few bits, as `QuantizedLinear` reads it (see [`crate::operators`]).
pub(crate) struct Matrix {
    pub bytes: Vec<u8>,
    pub scales: Vec<f32>,
    pub zero_points: Option<Vec<u8>>,
    pub codebook: Option<[i8; CLUSTERS]>,
}

/// Quantizes a matrix of `inputs` columns in `bits`, 8 or 4.
pub(crate) fn quantize(
    rows: &[f32],
    inputs: usize,
    bits: usize,
    block: usize,
    scheme: Scheme,
) -> Matrix {
    let mut matrix = Matrix {
        bytes: Vec::new(),
        scales: Vec::new(),
        zero_points: None,
        codebook: None,
    };
    if bits == 8 {
        for values in rows.chunks_exact(inputs).flat_map(|row| row.chunks(block)) {
            let scale = greatest(values) / 127.0;
            let levels = values.iter().map(|&w| level(w, scale, 127.0) as i8 as u8);
            matrix.bytes.extend(levels);
            matrix.scales.push(scale);
        }
        return matrix;
    }
    let codebook = (scheme == Scheme::Kmeans).then(|| codebook(rows, inputs, block));
    let mut zero_points = Vec::new();
    for row in rows.chunks_exact(inputs) {
        let mut levels: Vec<u8> = Vec::with_capacity(inputs + 1);
        for values in row.chunks(block) {
            match (scheme, &codebook) {
                (Scheme::Kmeans, Some(codebook)) => {
                    let scale = greatest(values) / 127.0;
                    levels.extend(values.iter().map(|&w| nearest(codebook, divide(w, scale))));
                    matrix.scales.push(scale);
                }
                (Scheme::Affine, _) => {
                    let least = values.iter().copied().fold(0.0, f32::min);
                    let most = values.iter().copied().fold(0.0, f32::max);
                    let scale = (most - least) / 15.0;
                    let zero = divide(-least, scale).round().clamp(0.0, 15.0);
                    let affine = |&w: &f32| (divide(w, scale).round() + zero).clamp(0.0, 15.0);
                    levels.extend(values.iter().map(|w| affine(w) as u8));
                    matrix.scales.push(scale);
                    zero_points.push(zero as u8);
                }
                _ => {
                    let scale = best_scale(values);
                    let levels_of = values.iter().map(|&w| (level(w, scale, 7.0) + 8.0) as u8);
                    levels.extend(levels_of);
                    matrix.scales.push(scale);
                }
            }
        }
        let pair = |pair: &[u8]| pair[0] | pair.get(1).map_or(0, |high| high << 4);
        matrix.bytes.extend(levels.chunks(2).map(pair));
    }
    matrix.zero_points = (scheme == Scheme::Affine).then_some(zero_points);
    matrix.codebook = codebook;
    matrix
}

/// Rows of a table in 8 bits, with a scale each.
pub(crate) fn quantize_table(rows: &[f32], width: usize) -> (Vec<u8>, Vec<f32>) {
    let matrix = quantize(rows, width, 8, width, Scheme::Linear);
    (matrix.bytes, matrix.scales)
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, w| w.abs().max(most))
}

/// 0 where the scale is.
fn divide(w: f32, scale: f32) -> f32 {
    if scale > 0.0 { w / scale } else { 0.0 }
}

fn level(w: f32, scale: f32, most: f32) -> f32 {
    divide(w, scale).round().clamp(-most, most)
}

/// The scale of −7..=7 with the least squared error, of some.
fn best_scale(values: &[f32]) -> f32 {
    let whole = greatest(values) / 7.0;
    let error = |scale: f32| -> f64 {
        let errors = values
            .iter()
            .map(|&w| f64::from(w - scale * level(w, scale, 7.0)));
        errors.map(|e| e * e).sum()
    };
    let scales = (0..=10_u8).map(|i| whole * (1.0 - 0.04 * f32::from(i)));
    let best = scales.map(|scale| (error(scale), scale));
    best.min_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(whole, |best| best.1)
}

/// The index of the nearest value.
fn nearest(codebook: &[i8; CLUSTERS], value: f32) -> u8 {
    let distance = |&c: &i8| (f32::from(c) - value).abs();
    let best = (0_u8..).zip(codebook.iter().map(distance));
    best.min_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(0, |best| best.0)
}

/// The means of clusters of all weights, each divided by the greatest of its
/// block, in units of 1/127.
fn codebook(rows: &[f32], inputs: usize, block: usize) -> [i8; CLUSTERS] {
    let step = rows.len().div_ceil(SAMPLE).max(1);
    let mut sample: Vec<f32> = Vec::with_capacity(rows.len() / step + 1);
    for values in rows.chunks_exact(inputs).flat_map(|row| row.chunks(block)) {
        let scale = greatest(values) / 127.0;
        sample.extend(values.iter().step_by(step).map(|&w| divide(w, scale)));
    }
    sample.sort_unstable_by(f32::total_cmp);
    let at = |part: usize| {
        let index = (2 * part + 1) * sample.len() / (2 * CLUSTERS);
        sample.get(index).copied().unwrap_or(0.0)
    };
    let mut means: [f32; CLUSTERS] = std::array::from_fn(at);
    for _ in 0..ROUNDS {
        let mut from = 0;
        for cluster in 0..CLUSTERS {
            let limit = match means.get(cluster + 1) {
                Some(next) => (means[cluster] + next) / 2.0,
                None => f32::INFINITY,
            };
            let to = from + sample[from..].partition_point(|&w| w < limit);
            if to > from {
                let sum: f64 = sample[from..to].iter().map(|&w| f64::from(w)).sum();
                means[cluster] = (sum / (to - from) as f64) as f32;
            }
            from = to;
        }
    }
    means.map(|mean| mean.round().clamp(-127.0, 127.0) as i8)
}

#[cfg(test)]
mod tests {
    use super::{Matrix, Scheme, quantize};

    /// Weights as a trained matrix has them: many small ones, few large.
    fn weights(count: usize) -> Vec<f32> {
        let mut state = 1_u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        (0..count)
            .map(|_| (uniform() + uniform() + uniform() + uniform() - 2.0) * 0.1)
            .collect()
    }

    /// What a matrix stands for.
    fn read(matrix: &Matrix, inputs: usize, bits: usize, block: usize) -> Vec<f32> {
        let blocks = inputs.div_ceil(block);
        let row = if bits == 8 {
            inputs
        } else {
            inputs.div_ceil(2)
        };
        let rows = matrix.bytes.len() / row;
        let value = |output: usize, input: usize| {
            let scale = output * blocks + input / block;
            let q = if bits == 8 {
                f32::from(matrix.bytes[output * row + input] as i8)
            } else {
                let byte = matrix.bytes[output * row + input / 2];
                let q = if input.is_multiple_of(2) {
                    byte & 15
                } else {
                    byte >> 4
                };
                match (&matrix.codebook, &matrix.zero_points) {
                    (Some(codebook), _) => f32::from(codebook[usize::from(q)]),
                    (_, Some(zeros)) => f32::from(q) - f32::from(zeros[scale]),
                    _ => f32::from(q) - 8.0,
                }
            };
            matrix.scales[scale] * q
        };
        (0..rows * inputs)
            .map(|i| value(i / inputs, i % inputs))
            .collect()
    }

    fn error(rows: &[f32], inputs: usize, bits: usize, block: usize, scheme: Scheme) -> f64 {
        let found = read(
            &quantize(rows, inputs, bits, block, scheme),
            inputs,
            bits,
            block,
        );
        let square = |x: f32| f64::from(x) * f64::from(x);
        let wrong: f64 = rows.iter().zip(&found).map(|(a, b)| square(a - b)).sum();
        let all: f64 = rows.iter().map(|&w| square(w)).sum();
        (wrong / all).sqrt()
    }

    #[test]
    fn each_scheme_is_as_exact_as_its_bits() {
        let rows = weights(64 * 96);
        assert!(error(&rows, 96, 8, 96, Scheme::Linear) < 0.01);
        assert!(error(&rows, 96, 8, 32, Scheme::Linear) < 0.008);
        for scheme in [Scheme::Linear, Scheme::Affine, Scheme::Kmeans] {
            let whole = error(&rows, 96, 4, 96, scheme);
            let blocks = error(&rows, 96, 4, 32, scheme);
            assert!(
                blocks < whole && whole < 0.15,
                "{scheme:?}: {whole}, {blocks}"
            );
        }
        // Clusters fit the density.
        assert!(error(&rows, 96, 4, 96, Scheme::Kmeans) < error(&rows, 96, 4, 96, Scheme::Affine));
    }

    #[test]
    fn odd_sizes_and_zeros() {
        for scheme in [Scheme::Linear, Scheme::Affine, Scheme::Kmeans] {
            let rows = weights(5 * 33);
            assert!(error(&rows, 33, 4, 16, scheme) < 0.15);
            let zeros = quantize(&[0.0; 6], 3, 4, 2, scheme);
            assert_eq!(read(&zeros, 3, 4, 2), [0.0; 6]);
        }
    }
}
