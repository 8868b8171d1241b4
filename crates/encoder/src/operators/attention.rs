//! Scaled dot-product attention in floats (Vaswani et al., arXiv:1706.03762,
//! section 3.2.1), one head of one text at a time.
//!
//! Only real tokens are looked at: they come first, and padding has no part in
//! any sum, so that it cannot change a bit.

#![allow(unsafe_code)]

use super::simd::{self, for_each_isa};

/// Keys, or components, that are worked on at a time.
const CHUNK: usize = 32;

/// Rows of queries that are worked on at a time.
const ROWS: usize = 4;

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

for_each_isa! {
    /// The attention of one head: `qkv` are the rows of one text; `put` gets the
    /// row's number and its context for every real token.
    pub(crate) fn attend(
        qkv: &[f32],
        head: Head,
        scratch: &mut Scratch,
        put: &mut dyn FnMut(usize, &[f32]),
    ) {
        let Head { size, stride, at: [query_at, key_at, value_at], real } = head;
        let tokens = real.next_multiple_of(CHUNK);
        let width = size.next_multiple_of(CHUNK);
        scratch.keys.clear();
        scratch.keys.resize(size * tokens, 0.0);
        scratch.values.clear();
        scratch.values.resize(real * width, 0.0);
        scratch.queries.resize(ROWS * size, 0.0);
        scratch.scores.resize(ROWS * tokens, 0.0);
        scratch.context.resize(ROWS * width, 0.0);
        let rows = qkv.chunks_exact(stride).take(real);
        for (token, row) in rows.clone().enumerate() {
            for (component, &key) in row[key_at..key_at + size].iter().enumerate() {
                scratch.keys[component * tokens + token] = key;
            }
            scratch.values[token * width..][..size].copy_from_slice(&row[value_at..][..size]);
        }
        let scale = 1.0 / (size as f32).sqrt();
        let mut first = 0;
        while first < real {
            let count = ROWS.min(real - first);
            for r in 0..ROWS {
                // Beyond the last one, the last one again.
                let row = &qkv[(first + r.min(count - 1)) * stride..][query_at..][..size];
                for (q, &x) in scratch.queries[r * size..][..size].iter_mut().zip(row) {
                    *q = x * scale;
                }
            }
            score(scratch, size, tokens);
            let sums = weigh(&mut scratch.scores, real, tokens);
            mix(scratch, real, width, tokens);
            for r in 0..count {
                let context = &mut scratch.context[r * width..][..size];
                let inverse = 1.0 / sums[r];
                for value in context.iter_mut() {
                    *value *= inverse;
                }
                put(first + r, context);
            }
            first += count;
        }
    }
}

/// Scores of a block of queries with all keys.
#[inline(always)]
fn score(scratch: &mut Scratch, size: usize, tokens: usize) {
    let queries = &scratch.queries[..ROWS * size];
    for chunk in (0..tokens).step_by(CHUNK) {
        let mut sums = [[0.0_f32; CHUNK]; ROWS];
        for component in 0..size {
            let keys: &[f32; CHUNK] = &scratch.keys[component * tokens + chunk..].as_chunks().0[0];
            for r in 0..ROWS {
                let query = queries[r * size + component];
                for i in 0..CHUNK {
                    sums[r][i] = query.mul_add(keys[i], sums[r][i]);
                }
            }
        }
        for r in 0..ROWS {
            scratch.scores[r * tokens + chunk..][..CHUNK].copy_from_slice(&sums[r]);
        }
    }
}

/// From scores to e^(score − greatest), and their sum, row by row.
#[inline(always)]
fn weigh(scores: &mut [f32], real: usize, tokens: usize) -> [f32; ROWS] {
    let mut sums = [0.0; ROWS];
    for r in 0..ROWS {
        let row = &mut scores[r * tokens..][..tokens];
        let mut greatest = [f32::NEG_INFINITY; simd::LANES];
        let (chunks, rest) = row[..real].as_chunks::<{ simd::LANES }>();
        for chunk in chunks {
            for (greatest, &score) in greatest.iter_mut().zip(chunk) {
                *greatest = if score > *greatest { score } else { *greatest };
            }
        }
        for (greatest, &score) in greatest.iter_mut().zip(rest) {
            *greatest = if score > *greatest { score } else { *greatest };
        }
        let greatest = greatest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        row[real..].fill(f32::NEG_INFINITY);
        let mut lanes = [0.0; simd::LANES];
        for chunk in row.as_chunks_mut::<{ simd::LANES }>().0 {
            for (lane, score) in lanes.iter_mut().zip(chunk) {
                *score = simd::exp(*score - greatest);
                *lane += *score;
            }
        }
        sums[r] = simd::sum(lanes);
    }
    sums
}

/// Sums of values, weighted.
#[inline(always)]
fn mix(scratch: &mut Scratch, real: usize, width: usize, tokens: usize) {
    for chunk in (0..width).step_by(CHUNK) {
        let mut sums = [[0.0_f32; CHUNK]; ROWS];
        for token in 0..real {
            let values: &[f32; CHUNK] = &scratch.values[token * width + chunk..].as_chunks().0[0];
            for r in 0..ROWS {
                let weight = scratch.scores[r * tokens + token];
                for i in 0..CHUNK {
                    sums[r][i] = weight.mul_add(values[i], sums[r][i]);
                }
            }
        }
        for r in 0..ROWS {
            scratch.context[r * width + chunk..][..CHUNK].copy_from_slice(&sums[r]);
        }
    }
}
