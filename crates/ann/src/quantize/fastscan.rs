//! Comparing 32 one-bit codes with a query in one pass.
//!
//! André, Kermarrec and Le Scouarnec, "Cache locality is not enough:
//! high-performance nearest neighbor search with product quantization fast
//! scan", VLDB 2015: codes are taken in groups of 4 dimensions, a query gives a
//! table of 16 sums for each group, and a shuffle instruction looks up 16 codes
//! at once.
//!
//! A block holds 32 columns, a code each. For every group of 4 dimensions it has
//! 16 bytes: byte j has column j in its low half and column j + 16 in its high
//! half; bit b of a half is dimension 4·group + b.

use crate::simd::{self, Line, Terms};

/// Codes in a block.
pub const BLOCK: usize = 32;

/// Bytes of a block of codes of so many dimensions.
pub fn block_len(padded: usize) -> usize {
    padded * 4
}

/// The codes of a block, transposed: for each 8 dimensions, their bits in every
/// column; dimension i is bit i % 8 of row i / 8.
pub type Rows = Vec<[u8; BLOCK]>;

/// Takes a block apart.
pub fn unpack(block: &[u8]) -> Rows {
    let mut rows = vec![[0; BLOCK]; block.len() / 32];
    for (row, groups) in rows.iter_mut().zip(block.as_chunks::<32>().0) {
        for j in 0..16 {
            let (first, second) = (groups[j], groups[j + 16]);
            row[j] = first & 15 | second << 4;
            row[j + 16] = first >> 4 | second & 0xf0;
        }
    }
    rows
}

/// Puts a block together.
pub fn pack(rows: &Rows, block: &mut [u8]) {
    for (row, groups) in rows.iter().zip(block.as_chunks_mut::<32>().0) {
        for j in 0..16 {
            let (low, high) = (row[j], row[j + 16]);
            groups[j] = low & 15 | high << 4;
            groups[j + 16] = low >> 4 | high & 0xf0;
        }
    }
}

/// Replaces the code in a column.
pub fn set_column(rows: &mut Rows, column: usize, bits: &[u8]) {
    for (row, &bits) in rows.iter_mut().zip(bits) {
        row[column] = bits;
    }
}

/// Replaces the code in a column of a block, and nothing else.
pub fn set_code(block: &mut [u8], column: usize, bits: &[u8]) {
    let (byte, shift) = (column % 16, column / 16 * 4);
    for (groups, &bits) in block.as_chunks_mut::<32>().0.iter_mut().zip(bits) {
        for (half, nibble) in [bits & 15, bits >> 4].into_iter().enumerate() {
            let place = &mut groups[half * 16 + byte];
            *place = *place & !(15 << shift) | nibble << shift;
        }
    }
}

/// What a query looks up: for each group of 4 dimensions, the sums of all 16
/// subsets of its components, in 8 bits each.
pub struct Table {
    entries: Vec<u8>,
    /// What a unit of the entries counts.
    step: f32,
    /// The sum of the least entries, which count as 0.
    offset: f32,
    half_sum: f32,
}

impl Table {
    /// The table of a rotated query, in as fine steps as it can be.
    pub fn new(query: &[f32]) -> Self {
        let width = |group: &[f32; 4]| group.iter().map(|q| q.abs()).sum();
        let groups = query.as_chunks::<4>().0.iter();
        let widest: f32 = groups.map(width).fold(0.0, f32::max);
        let step = if widest > 0.0 { widest / 255.0 } else { 1.0 };
        Self::with_step(query, step)
    }

    /// The table of a query of components ±½, whose sums are exact.
    pub fn of_halves(query: &[f32]) -> Self {
        Self::with_step(query, 1.0 / 32.0)
    }

    fn with_step(query: &[f32], step: f32) -> Self {
        let mut offset = 0.0_f64;
        for group in query.as_chunks::<4>().0 {
            let least: f32 = group.iter().map(|q| q.min(0.0)).sum();
            offset += f64::from(least);
        }
        let mut entries = vec![0; query.len() * 4];
        (simd::kernels().fill_table)(query, step, &mut entries);
        let sum: f64 = query.iter().map(|&q| f64::from(q)).sum();
        Table {
            entries,
            step,
            offset: offset as f32,
            half_sum: (sum / 2.0) as f32,
        }
    }

    /// For each column of a block: its estimated key, `key` plus what its terms say
    /// of about Σ xᵢ·qᵢ − ½·Σ qᵢ over its bits xᵢ; and that less `reach` times its
    /// deviation. Returns which of the latter are not above `limit`.
    #[inline]
    pub fn bounds(
        &self,
        block: &[u8],
        terms: &Terms<'_>,
        (key, reach, limit): (f32, f32, f32),
        keys: &mut [f32; BLOCK],
        least: &mut [f32; BLOCK],
    ) -> u32 {
        let kernels = simd::kernels();
        let mut sums = [0_u32; BLOCK];
        (kernels.scan_block)(&self.entries, block, &mut sums);
        let line = Line {
            step: self.step,
            offset: self.offset - self.half_sum,
            key,
            reach,
            limit,
        };
        (kernels.bounds)(&sums, terms, &line, keys, least)
    }

    /// For each column of a block, about Σ xᵢ·qᵢ − ½·Σ qᵢ over its bits xᵢ.
    #[inline]
    pub fn centred_sums(&self, block: &[u8], out: &mut [f32; BLOCK]) {
        let mut sums = [0_u32; BLOCK];
        (simd::kernels().scan_block)(&self.entries, block, &mut sums);
        let offset = self.offset - self.half_sum;
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum as f32 * self.step + offset;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Of strings of bits, as components ±½, any number of which differ.
    #[test]
    fn sums_over_halves_are_exact() {
        let mut rng = SmallRng::seed_from_u64(11);
        for padded in [64, 2048, 64_000] {
            let query: Vec<f32> = (0..padded)
                .map(|_| if rng.random() { 0.5 } else { -0.5 })
                .collect();
            let (block, codes) = random_block(&mut rng, padded);
            let mut sums = [0.0; BLOCK];
            Table::of_halves(&query).centred_sums(&block, &mut sums);
            for (code, sum) in codes.iter().zip(sums) {
                let has = |i: usize| code[i / 8] >> (i % 8) & 1 != 0;
                let of_bits: f32 = (0..padded).filter(|&i| has(i)).map(|i| query[i]).sum();
                let half: f32 = query.iter().sum::<f32>() / 2.0;
                assert_eq!(sum, of_bits - half);
            }
        }
    }

    fn random_block(rng: &mut SmallRng, padded: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut rows = unpack(&vec![0xa5; block_len(padded)]);
        let codes: Vec<Vec<u8>> = (0..BLOCK)
            .map(|_| (0..padded / 8).map(|_| rng.random()).collect())
            .collect();
        for (i, code) in codes.iter().enumerate() {
            set_column(&mut rows, i, code);
        }
        let mut block = vec![0; block_len(padded)];
        pack(&rows, &mut block);
        (block, codes)
    }

    fn bit(code: &[u8], i: usize) -> bool {
        code[i / 8] >> (i % 8) & 1 != 0
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_bits(seed: u64, steps in 1..40_usize, scale in -30..30_i32) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let padded = steps * 64;
            let scale = 2_f32.powi(scale);
            let query: Vec<f32> = (0..padded).map(|_| scale * rng.random_range(-1.0..1.0)).collect();
            let (block, codes) = random_block(&mut rng, padded);
            let table = Table::new(&query);
            let mut sums = [0.0; BLOCK];
            table.centred_sums(&block, &mut sums);
            // Each entry is rounded by half a step at most.
            let tolerance = table.step * (padded / 8) as f32 * 1.01;
            for (code, sum) in codes.iter().zip(sums) {
                let exact: f64 = (0..padded)
                    .map(|i| f64::from(query[i]) * if bit(code, i) { 0.5 } else { -0.5 })
                    .sum();
                prop_assert!((exact - f64::from(sum)).abs() <= f64::from(tolerance));
            }
        }

        #[test]
        fn all_instruction_sets_agree(seed: u64, steps in 1..40_usize) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let padded = steps * 64;
            let (block, codes) = random_block(&mut rng, padded);
            let table: Vec<u8> = (0..padded * 4).map(|_| rng.random()).collect();
            let expected: Vec<u32> = codes
                .iter()
                .map(|code| {
                    (0..padded / 4)
                        .map(|g| {
                            let nibble = code[g / 2] >> (g % 2 * 4) & 15;
                            u32::from(table[g * 16 + usize::from(nibble)])
                        })
                        .sum()
                })
                .collect();
            for kernels in simd::available() {
                let mut sums = [7; BLOCK];
                (kernels.scan_block)(&table, &block, &mut sums);
                prop_assert_eq!(&sums[..], &expected[..], "{}", kernels.name);
            }
        }
    }

    #[test]
    fn columns_round_trip() {
        let mut rng = SmallRng::seed_from_u64(3);
        let (mut block, codes) = random_block(&mut rng, 192);
        let column =
            |rows: &Rows, column: usize| rows.iter().map(|row| row[column]).collect::<Vec<u8>>();
        let mut rows = unpack(&block);
        for (i, code) in codes.iter().enumerate() {
            assert_eq!(&column(&rows, i), code);
        }
        set_column(&mut rows, 17, &codes[0]);
        pack(&rows, &mut block);
        let rows = unpack(&block);
        assert_eq!(column(&rows, 17), codes[0]);
        assert_eq!(column(&rows, 1), codes[1]);
        set_code(&mut block, 3, &codes[20]);
        set_code(&mut block, 31, &codes[21]);
        let rows = unpack(&block);
        for (i, code) in codes.iter().enumerate() {
            let expected = match i {
                3 => &codes[20],
                17 => &codes[0],
                31 => &codes[21],
                _ => code,
            };
            assert_eq!(&column(&rows, i), expected);
        }
    }

    #[test]
    fn the_largest_sums_do_not_overflow() {
        let (table, block) = (vec![255; 16_064 * 4], vec![0xff; 16_064 * 4]);
        for kernels in simd::available() {
            let mut sums = [0; BLOCK];
            (kernels.scan_block)(&table, &block, &mut sums);
            assert_eq!(sums, [255 * 16_064 / 4; BLOCK], "{}", kernels.name);
        }
    }
}
