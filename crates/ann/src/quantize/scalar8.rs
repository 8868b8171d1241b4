//! 8 bits a dimension.
//!
//! A code is a head of 16 bytes and a signed byte for each dimension of the
//! rotated vector o; what it stands for is ô = scale·bytes.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | scale, `f32` |
//! | 4 | 4 | ‖ô‖², `f32` |
//! | 8 | 4 | an upper bound of ‖o − ô‖, `f32` |
//! | 12 | 4 | how far o's vector goes along the axis ([`super::frame`]), `f32` |
//! | 16 | D | bytes |

use crate::simd;

const HEAD: usize = 16;

/// Bytes of a code of so many dimensions.
pub fn code_len(padded: usize) -> usize {
    HEAD + padded
}

/// A code, taken apart.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// What a byte counts.
    pub scale: f32,
    /// ‖ô‖².
    pub norm_squared: f32,
    /// At least ‖o − ô‖.
    pub error: f32,
    /// How far the vector goes along the axis.
    pub along: f32,
    /// The bytes.
    pub values: &'a [i8],
}

impl<'a> View<'a> {
    /// The parts of a code, whose address is a multiple of 4.
    pub fn new(code: &'a [u8]) -> Self {
        let (head, values) = code.split_at(HEAD);
        let head: &[f32] = bytemuck::cast_slice(head);
        View {
            scale: head[0],
            norm_squared: head[1],
            error: head[2],
            along: head[3],
            values: bytemuck::cast_slice(values),
        }
    }
}

/// Encodes the rest of a vector, rotated, and how far the vector goes along the axis.
pub fn encode(rotated: &[f32], along: f32, code: &mut [u8]) {
    let (head, bytes) = code.split_at_mut(HEAD);
    let bytes: &mut [i8] = bytemuck::cast_slice_mut(bytes);
    let largest = rotated.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 {
        1.0 / f64::from(scale)
    } else {
        0.0
    };
    let mut squares = 0_i64;
    let mut error = 0.0_f64;
    for (byte, &x) in bytes.iter_mut().zip(rotated) {
        // The cast saturates, which only a scale that lost bits needs.
        *byte = ((f64::from(x) * inverse).round() as i8).max(-127);
        squares += i64::from(*byte) * i64::from(*byte);
        let rest = f64::from(x) - f64::from(*byte) * f64::from(scale);
        error += rest * rest;
    }
    let norm_squared = squares as f64 * f64::from(scale) * f64::from(scale);
    let head: &mut [f32] = bytemuck::cast_slice_mut(head);
    head.copy_from_slice(&[scale, norm_squared as f32, round_up(error.sqrt()), along]);
}

/// Replaces the bound of a code's error.
pub fn set_error(code: &mut [u8], error: f32) {
    bytemuck::cast_slice_mut::<u8, f32>(&mut code[..HEAD])[2] = error;
}

/// The next `f32` that is surely not smaller, the rounding of the sum included.
fn round_up(x: f64) -> f32 {
    ((x * (1.0 + 1e-9)) as f32).next_up()
}

/// Writes ô.
pub fn decode(code: View<'_>, out: &mut [f32]) {
    for (out, &byte) in out.iter_mut().zip(code.values) {
        *out = code.scale * f32::from(byte);
    }
}

/// ⟨q, ô⟩ of a rotated query.
#[inline]
pub fn dot(query: &[f32], code: View<'_>) -> f32 {
    code.scale * (simd::kernels().inner_product_i8)(query, code.values)
}

/// ⟨â, b̂⟩.
#[inline]
pub fn dot_codes(a: View<'_>, b: View<'_>) -> f32 {
    a.scale * b.scale * (simd::kernels().inner_product_bytes)(a.values, b.values) as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(values: &[f32]) -> Vec<u64> {
        let mut code = vec![0_u64; code_len(values.len()) / 8];
        encode(values, 0.0, bytemuck::cast_slice_mut(&mut code));
        code
    }

    fn any_vector() -> impl Strategy<Value = Vec<f32>> {
        let scale = prop_oneof![
            Just(1.0_f32),
            Just(1e-44),
            Just(1e-38),
            Just(1e30),
            Just(3e38)
        ];
        (prop::collection::vec(-1.0_f32..1.0, 128), scale, 0..4_u8).prop_map(
            |(mut values, scale, shape)| {
                for (i, x) in values.iter_mut().enumerate() {
                    match shape {
                        1 => *x = 1.0,
                        2 if i != 5 => *x = 0.0,
                        3 => *x = 0.0,
                        _ => {}
                    }
                    *x *= scale;
                }
                values
            },
        )
    }

    proptest! {
        #[test]
        fn the_error_is_a_bound(values in any_vector()) {
            let code = encoded(&values);
            let view = View::new(bytemuck::cast_slice(&code));
            let error: f64 = values
                .iter()
                .zip(view.values)
                .map(|(&x, &b)| (f64::from(x) - f64::from(b) * f64::from(view.scale)).powi(2))
                .sum();
            prop_assert!(error.sqrt() <= f64::from(view.error));
            // It is not much worse than rounding must be, unless nothing is left of the scale.
            let norm: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
            prop_assert!(f64::from(view.error) <= 0.06 * norm.sqrt() + 1e-40);
        }

        #[test]
        fn products_are_those_of_what_codes_stand_for(a in any_vector(), b in any_vector()) {
            let (a, b) = (encoded(&a), encoded(&b));
            let (a, b) = (View::new(bytemuck::cast_slice(&a)), View::new(bytemuck::cast_slice(&b)));
            let bytes: i32 = a.values.iter().zip(b.values).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum();
            for kernels in simd::available() {
                prop_assert_eq!((kernels.inner_product_bytes)(a.values, b.values), bytes);
            }
            let mut decoded = vec![0.0; 128];
            decode(b, &mut decoded);
            for kernels in simd::available() {
                let product = (kernels.inner_product_i8)(&decoded, a.values);
                let expected: f64 = decoded.iter().zip(a.values).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
                let size: f64 = decoded.iter().zip(a.values).map(|(&x, &y)| (f64::from(x) * f64::from(y)).abs()).sum();
                if size < f64::from(f32::MAX) {
                    prop_assert!((f64::from(product) - expected).abs() <= 1e-5 * size + 1e-40);
                }
            }
        }
    }

    #[test]
    fn the_largest_codes_do_not_overflow() {
        let values = vec![-1.0_f32; 16_064];
        let code = encoded(&values);
        let view = View::new(bytemuck::cast_slice(&code));
        for kernels in simd::available() {
            let product = (kernels.inner_product_bytes)(view.values, view.values);
            assert_eq!(product, 16_064 * 127 * 127, "{}", kernels.name);
        }
        assert!((dot_codes(view, view) - 16_064.0).abs() < 1.0);
        assert!((view.norm_squared - 16_064.0).abs() < 1.0);
    }
}
