//! Scaled dot-product attention in floats (Vaswani et al., arXiv:1706.03762,
//! section 3.2.1), one head of one text at a time.
//!
//! Only real tokens are looked at: they come first, and padding has no part in
//! any sum, so that it cannot change a bit.

#![allow(unsafe_code)]

use super::simd::{self, Isa, Set, for_each_isa};

/// Columns that are worked on at a time.
const CHUNK: usize = 32;

/// Rows that are worked on at a time.
const ROWS: usize = 12;

/// Tokens between one whose key and value are read and one whose parts are fetched: rows
/// are too far apart for a processor to foresee.
const AHEAD: usize = 8;

/// Memory for one head.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Keys, transposed: [size of a head, tokens filled up to a multiple of CHUNK].
    keys: Vec<f32>,
    /// Values: [tokens, size of a head filled up].
    values: Vec<f32>,
    /// Queries, scaled: [ROWS, size of a head].
    queries: Vec<f32>,
    /// Scores: [ROWS, tokens filled up].
    scores: Vec<f32>,
    /// The result: [ROWS, size of a head filled up].
    context: Vec<f32>,
}

/// Where the parts of a head are in a text's rows.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    /// Components of a head.
    pub size: usize,
    /// Components of a row of `qkv`: three times all heads.
    pub stride: usize,
    /// Where query, key and value of this head begin in a row.
    pub at: [usize; 3],
    /// Tokens that are not padding, at least 1.
    pub real: usize,
}

/// The attention of one head: `qkv` are the rows of one text; `put` gets the row's
/// number and its context for every real token.
///
/// `bias` is what is added to the scores: a row for each query, with as many values
/// as the slice has rows.
pub(crate) fn attend(
    isa: Isa,
    qkv: &[f32],
    head: Head,
    bias: Option<&[f32]>,
    scratch: &mut Scratch,
    put: &mut dyn FnMut(usize, &[f32]),
) {
    let Head {
        size,
        stride,
        at: [query_at, ..],
        real,
    } = head;
    let tokens = real.next_multiple_of(CHUNK);
    let width = size.next_multiple_of(CHUNK);
    load(isa, qkv, head, scratch);
    scratch.queries.resize(ROWS * size, 0.0);
    scratch.scores.resize(ROWS * tokens, 0.0);
    scratch.context.resize(ROWS * width, 0.0);
    let scale = 1.0 / (size as f32).sqrt();
    for first in (0..real).step_by(ROWS) {
        let count = ROWS.min(real - first);
        for r in 0..ROWS {
            // Beyond the last one, the last one again.
            let row = &qkv[(first + r.min(count - 1)) * stride..][query_at..][..size];
            for (q, &x) in scratch.queries[r * size..][..size].iter_mut().zip(row) {
                *q = x * scale;
            }
        }
        let queries = (&scratch.queries[..], size);
        multiply(
            isa,
            queries,
            size,
            (&scratch.keys, tokens),
            &mut scratch.scores,
        );
        if let Some(bias) = bias {
            let length = bias.len().isqrt();
            let rows = bias[first * length..].chunks_exact(length).take(count);
            for (scores, bias) in scratch.scores.chunks_exact_mut(tokens).zip(rows) {
                for (score, &bias) in scores.iter_mut().zip(&bias[..real]) {
                    *score += bias;
                }
            }
        }
        let mut sums = [0.0; ROWS];
        for (sum, row) in sums.iter_mut().zip(scratch.scores.chunks_exact_mut(tokens)) {
            *sum = exponentials(isa, row, real);
        }
        let weights = (&scratch.scores[..], tokens);
        multiply(
            isa,
            weights,
            real,
            (&scratch.values, width),
            &mut scratch.context,
        );
        let contexts = scratch.context.chunks_exact_mut(width).take(count);
        for ((r, context), sum) in contexts.enumerate().zip(sums) {
            let context = &mut context[..size];
            let inverse = 1.0 / sum;
            for value in context.iter_mut() {
                *value *= inverse;
            }
            put(first + r, context);
        }
    }
}

for_each_isa! {
    /// Fetches keys and values.
    fn load(qkv: &[f32], head: Head, scratch: &mut Scratch) {
        let Head { size, stride, at: [_, key_at, value_at], real } = head;
        let tokens = real.next_multiple_of(CHUNK);
        let width = size.next_multiple_of(CHUNK);
        scratch.keys.clear();
        scratch.keys.resize(size * tokens, 0.0);
        scratch.values.clear();
        scratch.values.resize(real * width, 0.0);
        for (token, row) in qkv.chunks_exact(stride).take(real).enumerate() {
            if token + AHEAD < real {
                let ahead = &qkv[(token + AHEAD) * stride..][..stride];
                head.at.iter().for_each(|&at| simd::prefetch(&ahead[at..at + size]));
            }
            for (component, &key) in row[key_at..key_at + size].iter().enumerate() {
                scratch.keys[component * tokens + token] = key;
            }
            scratch.values[token * width..][..size].copy_from_slice(&row[value_at..][..size]);
        }
    }
}

for_each_isa! {
    /// From the scores of a row to e^(score − greatest), and their sum.
    fn exponentials(row: &mut [f32], real: usize) -> f32 {
        let mut greatest = [f32::NEG_INFINITY; simd::LANES];
        row[real..].fill(f32::NEG_INFINITY);
        for chunk in row.as_chunks::<{ simd::LANES }>().0 {
            for (greatest, &score) in greatest.iter_mut().zip(chunk) {
                *greatest = if score > *greatest { score } else { *greatest };
            }
        }
        let greatest = greatest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let mut lanes = [0.0; simd::LANES];
        for chunk in row.as_chunks_mut::<{ simd::LANES }>().0 {
            for (lane, score) in lanes.iter_mut().zip(chunk) {
                *score = simd::exp_of_negative(*score - greatest);
                *lane += *score;
            }
        }
        simd::sum(lanes)
    }
}

/// A product of matrices of [`ROWS`] rows: of `a` the first `inner` columns, and
/// of `b` that many rows, into rows as long as those of `b`. Each matrix comes
/// with the length of its rows; that of `b` is a multiple of [`CHUNK`].
fn multiply(
    isa: Isa,
    (a, a_stride): (&[f32], usize),
    inner: usize,
    (b, b_stride): (&[f32], usize),
    out: &mut [f32],
) {
    assert!(a_stride >= inner && a.len() >= ROWS * a_stride);
    assert!(b_stride.is_multiple_of(CHUNK) && b.len() >= inner * b_stride);
    assert!(out.len() >= ROWS * b_stride);
    for column in (0..b_stride).step_by(CHUNK) {
        match isa.set() {
            // SAFETY: an `Isa` is only made for a processor that has it; the
            // lengths were checked.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 | Set::Amx => unsafe {
                let (b, out) = (b.as_ptr().add(column), out.as_mut_ptr().add(column));
                avx512(a.as_ptr(), a_stride, inner, b, b_stride, out);
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe {
                let (b, out) = (b.as_ptr().add(column), out.as_mut_ptr().add(column));
                avx2(a.as_ptr(), a_stride, inner, b, b_stride, out);
            },
            Set::Portable => portable(
                (a, a_stride),
                inner,
                (&b[column..], b_stride),
                &mut out[column..],
            ),
        }
    }
}

/// A chunk of columns of [`multiply`].
fn portable(a: (&[f32], usize), inner: usize, b: (&[f32], usize), out: &mut [f32]) {
    const WIDTH: usize = 16;
    const QUARTET: usize = 4;
    let ((a, a_stride), (b, b_stride)) = (a, b);
    for first in (0..ROWS).step_by(QUARTET) {
        for column in (0..CHUNK).step_by(WIDTH) {
            let mut sums = [[0.0_f32; WIDTH]; QUARTET];
            for (i, b) in b[column..].chunks(b_stride).take(inner).enumerate() {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = a[(first + r) * a_stride + i];
                    for (sum, &b) in sums.iter_mut().zip(b) {
                        *sum = a.mul_add(b, *sum);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                out[(first + r) * b_stride + column..][..WIDTH].copy_from_slice(sums);
            }
        }
    }
}

/// As [`portable`]. Twelve vectors of sums, two of `b` and one of `a` fill the registers.
///
/// # Safety
///
/// As for [`avx512`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(
    a: *const f32,
    a_stride: usize,
    inner: usize,
    b: *const f32,
    b_stride: usize,
    out: *mut f32,
) {
    use std::arch::x86_64::*;
    const HALF: usize = ROWS / 2;
    for column in (0..CHUNK).step_by(16) {
        for first in [0, HALF] {
            let mut sums = [[_mm256_setzero_ps(); 2]; HALF];
            // SAFETY: within the matrices.
            unsafe {
                let mut a = a.add(first * a_stride);
                let mut b = b.add(column);
                for _ in 0..inner {
                    let (b_low, b_high) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                    for (r, [low, high]) in sums.iter_mut().enumerate() {
                        let a = _mm256_set1_ps(*a.add(r * a_stride));
                        *low = _mm256_fmadd_ps(a, b_low, *low);
                        *high = _mm256_fmadd_ps(a, b_high, *high);
                    }
                    a = a.add(1);
                    b = b.wrapping_add(b_stride);
                }
                for (r, [low, high]) in sums.into_iter().enumerate() {
                    let out = out.add((first + r) * b_stride + column);
                    _mm256_storeu_ps(out, low);
                    _mm256_storeu_ps(out.add(8), high);
                }
            }
        }
    }
}

/// As [`portable`].
///
/// # Safety
///
/// `a` has [`ROWS`] rows of at least `inner` floats, `b` has `inner` rows and `out`
/// [`ROWS`], each of which has [`CHUNK`] floats from here on.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(
    a: *const f32,
    a_stride: usize,
    inner: usize,
    b: *const f32,
    b_stride: usize,
    out: *mut f32,
) {
    use std::arch::x86_64::*;
    let mut low = [_mm512_setzero_ps(); ROWS];
    let mut high = [_mm512_setzero_ps(); ROWS];
    // SAFETY: within the matrices.
    unsafe {
        for i in 0..inner {
            let b = b.add(i * b_stride);
            let (b_low, b_high) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            for r in 0..ROWS {
                let a = _mm512_set1_ps(*a.add(r * a_stride + i));
                low[r] = _mm512_fmadd_ps(a, b_low, low[r]);
                high[r] = _mm512_fmadd_ps(a, b_high, high[r]);
            }
        }
        for r in 0..ROWS {
            _mm512_storeu_ps(out.add(r * b_stride), low[r]);
            _mm512_storeu_ps(out.add(r * b_stride + 16), high[r]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Head, Scratch, attend};
    use crate::operators::simd::Isa;

    fn values(count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * 3.0)
            .collect()
    }

    fn run(isa: Isa, qkv: &[f32], head: Head) -> Vec<f32> {
        let mut all = vec![0.0; head.real * head.size];
        // What is added grows with the distance.
        let length = qkv.len() / head.stride;
        let bias: Vec<f32> = (0..length * length)
            .map(|i| (i / length).abs_diff(i % length) as f32 / 50.0)
            .collect();
        let mut scratch = Scratch::default();
        let mut put = |row: usize, context: &[f32]| {
            all[row * head.size..][..head.size].copy_from_slice(context);
        };
        attend(isa, qkv, head, Some(&bias), &mut scratch, &mut put);
        all
    }

    /// The definition, in `f64`.
    fn naive(qkv: &[f32], head: Head) -> Vec<f64> {
        let part = |token: usize, part: usize| {
            let row = &qkv[token * head.stride + head.at[part]..][..head.size];
            row.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>()
        };
        let mut all = Vec::new();
        for (at, query) in (0..head.real).map(|token| (token, part(token, 0))) {
            let dot = |key: &[f64]| query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>();
            let scores = (0..head.real).map(|t| {
                dot(&part(t, 1)) / (head.size as f64).sqrt() + t.abs_diff(at) as f64 / 50.0
            });
            let weights: Vec<f64> = scores.map(f64::exp).collect();
            let sum: f64 = weights.iter().sum();
            all.extend((0..head.size).map(|i| {
                let values = weights.iter().enumerate().map(|(t, w)| w * part(t, 2)[i]);
                values.sum::<f64>() / sum
            }));
        }
        all
    }

    #[test]
    fn every_instruction_set_gives_the_defined_result_and_the_same_bits() {
        for (size, heads, real, length) in [(32, 2, 37, 40), (20, 3, 1, 8), (64, 1, 130, 136)] {
            let stride = 3 * heads * size;
            let qkv = values(length * stride);
            let at = (heads - 1) * size;
            let head = Head {
                size,
                stride,
                at: [at, heads * size + at, 2 * heads * size + at],
                real,
            };
            let expected = naive(&qkv, head);
            let first = run(Isa::best(), &qkv, head);
            for (&found, &expected) in first.iter().zip(&expected) {
                assert!(
                    (f64::from(found) - expected).abs() < 1e-5,
                    "{found}, {expected}"
                );
            }
            for isa in Isa::all() {
                assert_eq!(run(isa, &qkv, head), first, "{isa:?}");
            }
            // What padding holds has no part in it.
            let mut other = qkv.clone();
            other[real * stride..].fill(1e30);
            assert_eq!(run(Isa::best(), &other, head), first);
        }
    }
}
