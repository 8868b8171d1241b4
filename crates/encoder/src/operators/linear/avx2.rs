//! Products with AVX2. Its instruction for bytes (`vpmaddubsw`) adds the products of two
//! inputs in 16 bits, and saturates.
//!
//! Activations go up to 255, so that two products fit if the weights of one sign add up
//! to [`MOST`]. What is too much in a pair of weights is split off when a layer is packed
//! ([`split`]): of an int8 model one pair in sixty, with blocks of 128 inputs one in
//! twenty-five. That is multiplied separately, and added in 32 bits.

use std::arch::x86_64::*;

use super::{AHEAD, COLUMNS, Excess, Line, WeightsOfBlock};

/// Rows of a vector in which each has a sum.
pub(super) const ROWS_OF_VECTOR: usize = 8;

/// What two weights of one sign may add up to.
const MOST: i32 = i16::MAX as i32 / u8::MAX as i32;

/// Two parts of four weights. The first has no pair that saturates; the second, of which
/// no pair has two weights, is zeros but for what that leaves out.
pub(super) fn split(weights: [i8; 4]) -> ([i8; 4], [i8; 4]) {
    let (mut kept, mut excess) = (weights, [0; 4]);
    for at in [0, 2] {
        let [a, b] = [at, at + 1].map(|at| i32::from(weights[at]));
        // Only if both have one sign.
        let over = (a + b).abs() - MOST;
        if over > 0 {
            let larger = if a.abs() > b.abs() { at } else { at + 1 };
            excess[larger] = (over * a.signum()) as i8;
            kept[larger] -= excess[larger];
        }
    }
    (kept, excess)
}

/// As [`super::dot`], of activations in which the groups of all rows at one place lie side
/// by side.
///
/// # Safety
///
/// `x` has `R` groups for every two lines of weights, and behind them as many as are
/// missing to a multiple of [`ROWS_OF_VECTOR`]. What was split off is of the same groups.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn dot<const R: usize>(
    x: &[[u8; 4]],
    weights: WeightsOfBlock<'_>,
    sums: &mut [[i32; COLUMNS]; R],
) {
    for half in 0..2 {
        let mut row = 0;
        while row < R {
            // SAFETY: passed on, for the rows that are left.
            unsafe {
                let x = x.as_ptr().add(row);
                let sums = &mut sums[row..];
                row += match R - row {
                    4.. => products::<R, 4>(x, weights.lines, half, sums),
                    2.. => products::<R, 2>(x, weights.lines, half, sums),
                    _ => products::<R, 1>(x, weights.lines, half, sums),
                };
            }
        }
    }
    if !weights.excess.is_empty() {
        // SAFETY: passed on.
        unsafe { add_excess(x, weights.excess, sums) }
    }
}

/// The products of a half of a panel with `N` rows, which it returns. With four rows, eight
/// vectors of sums wait for nothing, and all others find room beside them.
///
/// # Safety
///
/// As for [`dot`], of rows from `x` on.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn products<const R: usize, const N: usize>(
    mut x: *const [u8; 4],
    lines: &[Line],
    half: usize,
    sums: &mut [[i32; COLUMNS]],
) -> usize {
    let ones = _mm256_set1_epi16(1);
    let mut of_rows = [[_mm256_setzero_si256(); 2]; N];
    for lines in lines.chunks_exact(2) {
        let line: *const __m256i = lines[half].0.as_ptr().cast();
        // SAFETY: a line, which is aligned; a group of each row.
        unsafe {
            // Behind the last panel lies something else: that does no harm.
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(2 * AHEAD).cast());
            let (low, high) = (_mm256_load_si256(line), _mm256_load_si256(line.add(1)));
            for (r, [of_low, of_high]) in of_rows.iter_mut().enumerate() {
                let group = _mm256_set1_epi32(x.add(r).cast::<i32>().read_unaligned());
                let pairs = _mm256_maddubs_epi16(group, low);
                *of_low = _mm256_add_epi32(*of_low, _mm256_madd_epi16(pairs, ones));
                let pairs = _mm256_maddubs_epi16(group, high);
                *of_high = _mm256_add_epi32(*of_high, _mm256_madd_epi16(pairs, ones));
            }
        }
        x = x.wrapping_add(R);
    }
    for (sums, [low, high]) in sums.iter_mut().zip(of_rows) {
        // SAFETY: sixteen of 32 sums.
        unsafe {
            let sums: *mut __m256i = sums.as_mut_ptr().add(16 * half).cast();
            _mm256_storeu_si256(sums, low);
            _mm256_storeu_si256(sums.add(1), high);
        }
    }
    N
}

/// Adds the products of what was split off.
///
/// # Safety
///
/// As for [`dot`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_excess<const R: usize>(
    x: &[[u8; 4]],
    excess: &[Excess],
    sums: &mut [[i32; COLUMNS]; R],
) {
    const VECTORS: usize = super::ROWS.div_ceil(ROWS_OF_VECTOR);
    let vectors = R.div_ceil(ROWS_OF_VECTOR);
    let ones = _mm256_set1_epi16(1);
    // Of rows that are not there, anything.
    let mut by_column = [[_mm256_setzero_si256(); VECTORS]; COLUMNS];
    for excess in excess {
        let weights = _mm256_set1_epi32(i32::from_ne_bytes(excess.weights.map(|w| w as u8)));
        // SAFETY: passed on.
        let x: *const __m256i = unsafe { x.as_ptr().add(R * excess.group as usize).cast() };
        let sums = &mut by_column[usize::from(excess.column) % COLUMNS];
        for (vector, sum) in sums.iter_mut().take(vectors).enumerate() {
            // SAFETY: the groups of eight rows, or what is behind them.
            let groups = unsafe { _mm256_loadu_si256(x.add(vector)) };
            let pairs = _mm256_maddubs_epi16(groups, weights);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    for (column, columns) in by_column.as_chunks::<4>().0.iter().enumerate() {
        for vector in 0..vectors {
            let [a, b, c, d] = columns.map(|column| column[vector]);
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            // Rows 0 and 4, 1 and 5, 2 and 6, 3 and 7.
            let rows = [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ];
            let first = rows.map(|row| _mm256_castsi256_si128(row));
            let others = rows.map(|row| _mm256_extracti128_si256::<1>(row));
            let rows = first.into_iter().chain(others);
            for (sums, row) in sums.iter_mut().skip(ROWS_OF_VECTOR * vector).zip(rows) {
                // SAFETY: four of 32 sums.
                unsafe {
                    let sums: *mut __m128i = sums.as_mut_ptr().add(4 * column).cast();
                    _mm_storeu_si128(sums, _mm_add_epi32(_mm_loadu_si128(sums), row));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn what_is_kept_does_not_saturate_and_nothing_is_lost() {
        let all = i8::MIN..=i8::MAX;
        for a in all.clone() {
            for b in all.clone() {
                let weights = [a, b, b, a];
                let (kept, excess) = split(weights);
                for i in 0..4 {
                    assert_eq!(kept[i].checked_add(excess[i]), Some(weights[i]));
                }
                for at in [0, 2] {
                    for part in [kept, excess] {
                        // The extremes are where activations are.
                        for x in [[0, 0], [0, 255], [255, 0], [255, 255]] {
                            let [c, d] = [part[at], part[at + 1]].map(i32::from);
                            let sum = x[0] * c + x[1] * d;
                            assert!(i16::try_from(sum).is_ok(), "{a}, {b}: {part:?}");
                        }
                    }
                }
                if excess == [0; 4] {
                    continue;
                }
                // Only where it must be.
                assert!((i32::from(a) + i32::from(b)).abs() > 128);
            }
        }
    }
}
