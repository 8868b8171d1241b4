//! Rows of a table of 8-bit numbers, one scale each; for a BERT also what is added
//! to them and the layer normalization of the sum.

#![allow(unsafe_code)]

use super::simd::{self, for_each_isa};

/// A table of embeddings.
pub(crate) struct Table {
    /// Components of a row.
    pub width: usize,
    /// w ≈ scale·q.
    pub quantized: Vec<i8>,
    /// One for each row.
    pub scales: Vec<f32>,
    /// What a BERT adds.
    pub further: Option<Further>,
}

/// What is added to a token's row, and how the sum is normalized.
pub(crate) struct Further {
    /// One row for each position in a text.
    pub positions: Vec<f32>,
    /// One row for each type of token.
    pub types: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
    pub epsilon: f32,
}

for_each_isa! {
    /// A token's row; `ids` are its number, position and type, which the caller has
    /// checked.
    pub(crate) fn look_up(table: &Table, ids: [usize; 3], row: &mut [f32]) {
        let width = table.width;
        let [token, position, kind] = ids;
        let scale = table.scales[token];
        let quantized = &table.quantized[token * width..][..width];
        for (x, &q) in row.iter_mut().zip(quantized) {
            *x = scale * f32::from(q);
        }
        if let Some(further) = &table.further {
            let positions = &further.positions[position * width..][..width];
            let types = &further.types[kind * width..][..width];
            for ((x, &p), &t) in row.iter_mut().zip(positions).zip(types) {
                *x += p + t;
            }
            simd::normalize(row, &further.gamma, &further.beta, further.epsilon);
        }
    }
}
