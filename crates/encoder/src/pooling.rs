//! From the vectors of a text's tokens to the vector of the text.
//!
//! One text at a time, real tokens only, in a fixed order and in `f64`: the
//! result depends on nothing but its arguments.

use crate::settings::Pooling;

/// Pools rows of `width` values, of which the first `vector.len()` count, and
/// scales the result to length 1 if asked to.
///
/// `rows` holds at least one row; with [`Pooling::None`] it is the text's vector.
pub(crate) fn pool(
    pooling: Pooling,
    normalize: bool,
    rows: &[f32],
    width: usize,
    sums: &mut Vec<f64>,
    vector: &mut [f32],
) {
    let dimension = vector.len();
    let mut rows = rows.chunks_exact(width).map(|row| &row[..dimension]);
    match pooling {
        Pooling::Mean => {
            sums.clear();
            sums.resize(dimension, 0.0);
            let mut count = 0.0;
            for row in rows {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += f64::from(value);
                }
                count += 1.0;
            }
            for (value, sum) in vector.iter_mut().zip(sums.iter()) {
                *value = (sum / count) as f32;
            }
        }
        Pooling::Max => {
            vector.fill(f32::NEG_INFINITY);
            for row in rows {
                for (largest, &value) in vector.iter_mut().zip(row) {
                    // A NaN must come out, not vanish: nothing is larger than it.
                    if value > *largest || value.is_nan() {
                        *largest = value;
                    }
                }
            }
        }
        Pooling::Cls | Pooling::None => copy(rows.next(), vector),
        Pooling::LastToken => copy(rows.next_back(), vector),
    }
    if normalize {
        scale_to_length_one(vector);
    }
}

fn copy(row: Option<&[f32]>, vector: &mut [f32]) {
    match row {
        Some(row) => vector.copy_from_slice(row),
        None => vector.fill(f32::NAN),
    }
}

/// A vector of zeros stays one, as in sentence-transformers.
pub(crate) fn scale_to_length_one(vector: &mut [f32]) {
    let square: f64 = vector
        .iter()
        .map(|&value| f64::from(value) * f64::from(value))
        .sum();
    let length = square.sqrt().max(1e-12);
    for value in vector {
        *value = (f64::from(*value) / length) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::pool;
    use crate::settings::Pooling;

    const ROWS: [f32; 6] = [1.0, -2.0, 3.0, 4.0, 5.0, -8.0];

    fn pooled(pooling: Pooling, normalize: bool, rows: &[f32]) -> Vec<f32> {
        let mut vector = vec![0.0; 2];
        pool(pooling, normalize, rows, 2, &mut Vec::new(), &mut vector);
        vector
    }

    #[test]
    fn rows_can_be_cut_off() {
        let mut vector = vec![0.0; 2];
        let rows = [3.0, 4.0, 100.0, 3.0, 4.0, -50.0];
        pool(Pooling::Mean, true, &rows, 3, &mut Vec::new(), &mut vector);
        assert_eq!(vector, [0.6, 0.8]);
    }

    #[test]
    fn every_pooling() {
        assert_eq!(pooled(Pooling::Mean, false, &ROWS), [3.0, -2.0]);
        assert_eq!(pooled(Pooling::Max, false, &ROWS), [5.0, 4.0]);
        assert_eq!(pooled(Pooling::Cls, false, &ROWS), [1.0, -2.0]);
        assert_eq!(pooled(Pooling::LastToken, false, &ROWS), [5.0, -8.0]);
        assert_eq!(pooled(Pooling::None, false, &ROWS[..2]), [1.0, -2.0]);
    }

    #[test]
    fn normalization() {
        assert_eq!(pooled(Pooling::Cls, true, &[3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(pooled(Pooling::Cls, true, &[0.0, 0.0]), [0.0, 0.0]);
        // Squares that f32 could not hold.
        let large = 2_f32.powi(100);
        assert_eq!(
            pooled(Pooling::Cls, true, &[3.0 * large, 4.0 * large]),
            [0.6, 0.8]
        );
    }

    #[test]
    fn nan_is_not_hidden() {
        let rows = [f32::NAN, 1.0, 2.0, 2.0];
        for pooling in [Pooling::Mean, Pooling::Max] {
            assert!(pooled(pooling, false, &rows)[0].is_nan());
        }
    }
}
