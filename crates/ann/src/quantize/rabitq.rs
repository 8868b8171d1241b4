//! 1 bit a dimension, relative to a centre.
//!
//! Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical
//! Error Bound for Approximate Nearest Neighbor Search", SIGMOD 2024
//! (arXiv:2405.12497). All vectors are rotated. Of a point o and a centre c, let
//! r = o − c, xᵢ = [rᵢ > 0] and x̄ = x − ½. The code is x. With the direction of
//! x̄ for that of r, ⟨r, q⟩ is estimated by ‖r‖²·⟨x̄, q⟩ / ⟨r, x̄⟩, which is
//! unbiased over the rotation and off by about ‖r‖·‖q‖/√D. From that follow, for
//! a query q:
//!
//! * squared L2: ‖q − o‖² = ‖q − c‖² + ‖r‖² − 2⟨r, q − c⟩,
//! * negative inner product: −⟨q, o⟩ = −⟨q, c⟩ − λ⟨r, c⟩ − ⟨r, q − λc⟩,
//!
//! where the last product is estimated and the others are known. Both have the form
//! key(q, c) + λ·add + rescale·⟨x̄, q⟩, with λ = 1 for L2. For inner products, any λ
//! will do, and the error is least where ‖q − λc‖ is ([`projection`]). With λ = 1, as
//! for L2, it would grow with the norms of o and c both; where norms differ much,
//! estimates would tell nothing.
//!
//! A code may leave the last dimensions out: there, x̄ is zero. All rotated
//! dimensions are alike, so all of the above still holds, and the error grows as
//! if the vectors had so many dimensions less.

use super::scalar8::View;
use crate::simd;

/// What is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// ‖q − o‖².
    L2,
    /// −⟨q, o⟩.
    InnerProduct,
}

/// The numbers that go with a code.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factors {
    /// The term that does not depend on the query.
    pub add: f32,
    /// The factor of ⟨x̄, q⟩.
    pub rescale: f32,
}

/// Encodes a point relative to a centre. `bits` takes x, eight to a byte, of as
/// many dimensions as it has room for.
pub fn encode(form: Form, centre: &[f32], point: View<'_>, bits: &mut [u8]) -> Factors {
    let (centre, centre_rest) = centre.split_at(bits.len() * 8);
    let (values, values_rest) = point.values.split_at(bits.len() * 8);
    let sums = (simd::kernels().sign_code)(centre, point.scale, values, bits);
    let [mut norm_squared, mut along, absolute, centre_code] = sums.map(f64::from);
    for (&c, &value) in centre_rest.iter().zip(values_rest) {
        let r = point.scale * f32::from(value) - c;
        norm_squared += f64::from(r * r);
        along += f64::from(r * c);
    }
    factors(form, [norm_squared, along, absolute, centre_code])
}

/// The numbers that go with a code, of Σ rᵢ² and Σ rᵢ·cᵢ over all dimensions, and
/// Σ |rᵢ| and Σ cᵢ·x̄ᵢ over those that the code has a bit for.
pub fn factors(form: Form, sums: [f64; 4]) -> Factors {
    let [norm_squared, along, absolute, centre_code] = sums;
    // ⟨r, x̄⟩ = ½·Σ|rᵢ|
    let stretch = norm_squared / (0.5 * absolute);
    let factors = match form {
        Form::L2 => Factors {
            add: (norm_squared + 2.0 * stretch * centre_code) as f32,
            rescale: (-2.0 * stretch) as f32,
        },
        Form::InnerProduct => Factors {
            add: (-along + stretch * centre_code) as f32,
            rescale: -stretch as f32,
        },
    };
    if factors.add.is_finite() && factors.rescale.is_finite() {
        return factors;
    }
    // The point is the centre, or too far for numbers.
    let add = match form {
        Form::L2 => norm_squared,
        Form::InnerProduct => -along,
    };
    let add = if add.is_nan() { f64::MAX } else { add };
    Factors {
        add: (add as f32).clamp(f32::MIN, f32::MAX),
        rescale: 0.0,
    }
}

/// λ of the estimates for a query, given the key and ‖c‖² of the centre: under inner
/// product, λ·c is the query's projection on c.
pub fn projection(form: Form, key: f32, centre_norm_squared: f32) -> f32 {
    /// A shorter centre, beside the query, is no centre at all.
    const MOST: f32 = 1e6;
    match form {
        Form::L2 => 1.0,
        Form::InnerProduct => {
            let projection = -key / centre_norm_squared;
            if projection.abs() <= MOST {
                projection
            } else {
                1.0
            }
        }
    }
}

/// The standard deviation of an estimate, for a query with ‖q − λc‖ = 1. Takes Σ rᵢ²
/// over all of `dimensions`, and Σ |rᵢ| over the `coded` ones that the code has a bit for.
pub fn deviation(
    form: Form,
    norm_squared: f64,
    absolute: f64,
    coded: usize,
    dimensions: usize,
) -> f32 {
    let stretch = norm_squared / (0.5 * absolute);
    // What the estimate takes for r, less r: at right angles to r.
    let error = (stretch * stretch * coded as f64 / 4.0 - norm_squared).max(0.0);
    let error = (error / (dimensions.max(2) - 1) as f64).sqrt();
    let deviation = match form {
        Form::L2 => 2.0 * error,
        Form::InnerProduct => error,
    };
    if deviation.is_finite() {
        deviation as f32
    } else {
        0.0
    }
}

/// The estimated keys of up to 32 points. `key` is the centre's own, `projection` is λ
/// ([`projection`]), `sums` are ⟨x̄, q⟩ for each point.
#[inline]
pub fn estimates(
    (add, rescale): (&[f32], &[f32]),
    (key, projection): (f32, f32),
    sums: &[f32; 32],
    out: &mut [f32; 32],
) {
    let factors = add.iter().zip(rescale);
    for (out, ((&add, &rescale), &sum)) in out.iter_mut().zip(factors.zip(sums)) {
        *out = key + projection * add + rescale * sum;
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::super::rotation::Rotation;
    use super::super::scalar8;
    use super::*;

    fn key(form: Form, a: &[f32], b: &[f32]) -> f64 {
        let pairs = a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        match form {
            Form::L2 => pairs.map(|(a, b)| (a - b) * (a - b)).sum(),
            Form::InnerProduct => -pairs.map(|(a, b)| a * b).sum::<f64>(),
        }
    }

    fn norm_squared(vector: &[f32]) -> f32 {
        vector.iter().map(|x| x * x).sum()
    }

    fn rotated_code(rotation: &Rotation, vector: &[f32]) -> (Vec<u64>, Vec<f32>) {
        let mut rotated = vec![0.0; rotation.padded()];
        rotation.rotate(vector, &mut rotated);
        let mut code = vec![0_u64; scalar8::code_len(rotated.len()) / 8];
        scalar8::encode(&rotated, bytemuck::cast_slice_mut(&mut code));
        scalar8::decode(View::new(bytemuck::cast_slice(&code)), &mut rotated);
        (code, rotated)
    }

    /// Over many rotations, the mean error is 0 to within what its spread
    /// allows, and the spread is what the paper says, and what codes say of theirs.
    #[test]
    fn estimates_are_unbiased() {
        let mut rng = SmallRng::seed_from_u64(4);
        let dimension = 192;
        let mut random = |scale: f32| -> Vec<f32> {
            (0..dimension)
                .map(|_| scale * rng.random_range(-1.0..1.0))
                .collect()
        };
        let centre = random(1.0);
        let add = |base: &[f32], delta: Vec<f32>| -> Vec<f32> {
            base.iter().zip(delta).map(|(b, d)| b + d).collect()
        };
        let point = add(&centre, random(0.5));
        let query = add(&centre, random(0.7));
        let of_centre = |form| {
            let key = key(form, &query, &centre) as f32;
            projection(form, key, norm_squared(&centre))
        };
        let cases = [
            (Form::L2, 192, of_centre(Form::L2)),
            (Form::L2, 128, of_centre(Form::L2)),
            (Form::InnerProduct, 192, of_centre(Form::InnerProduct)),
            (Form::InnerProduct, 192, 1.0),
            (Form::InnerProduct, 192, 0.0),
        ];
        for (form, coded, projection) in cases {
            let rounds = 2000;
            let mut foretold = 0.0;
            let errors: Vec<f64> = (0..rounds)
                .map(|seed| {
                    let rotation = Rotation::new(dimension, seed);
                    let (_, c) = rotated_code(&rotation, &centre);
                    let (code, o) = rotated_code(&rotation, &point);
                    let mut q = vec![0.0; rotation.padded()];
                    rotation.rotate(&query, &mut q);
                    let mut bits = vec![0; coded / 8];
                    let view = View::new(bytemuck::cast_slice(&code));
                    let factors = encode(form, &c, view, &mut bits);
                    let residual: Vec<f64> =
                        o.iter().zip(&c).map(|(o, c)| f64::from(o - c)).collect();
                    let norm_squared = residual.iter().map(|r| r * r).sum();
                    let absolute = residual[..coded].iter().map(|r| r.abs()).sum();
                    let foretold_here = deviation(form, norm_squared, absolute, coded, dimension);
                    foretold += f64::from(foretold_here) / rounds as f64;
                    let sum: f32 = (0..coded)
                        .map(|i| q[i] * ((bits[i / 8] >> (i % 8) & 1) as f32 - 0.5))
                        .sum();
                    let mut estimate = [0.0; 32];
                    let add_and_rescale = (&[factors.add][..], &[factors.rescale][..]);
                    let own = (key(form, &q, &c) as f32, projection);
                    estimates(add_and_rescale, own, &[sum; 32], &mut estimate);
                    f64::from(estimate[0]) - key(form, &q, &o)
                })
                .collect();
            let mean = errors.iter().sum::<f64>() / rounds as f64;
            let variance =
                errors.iter().map(|e| (e - mean) * (e - mean)).sum::<f64>() / rounds as f64;
            let deviation = variance.sqrt();
            assert!(
                mean.abs() < 4.0 * deviation / (rounds as f64).sqrt(),
                "{form:?}: {mean}"
            );
            // √(π/2 − 1) = 0.756 is the limit of the paper's factor.
            let known: Vec<f32> = centre.iter().map(|c| projection * c).collect();
            let apart = key(Form::L2, &query, &known).sqrt();
            let size = key(Form::L2, &point, &centre).sqrt() * apart;
            let factor = if form == Form::L2 { 2.0 } else { 1.0 };
            let expected = factor * 0.756 * size / (coded as f64).sqrt();
            assert!(
                deviation < 1.3 * expected && deviation > 0.5 * expected,
                "{deviation} {expected}"
            );
            // 2,000 errors tell their spread to within 1.6 %.
            let foretold = foretold * apart;
            assert!(
                (0.93..1.07).contains(&(deviation / foretold)),
                "{form:?}, {coded}, {projection}: {deviation} {foretold}"
            );
        }
    }

    #[test]
    fn no_projection_is_nearer_to_the_query() {
        let (query, centre) = ([3.0, -1.0, 2.0], [10.0, 30.0, -5.0]);
        let form = Form::InnerProduct;
        let best = projection(
            form,
            key(form, &query, &centre) as f32,
            norm_squared(&centre),
        );
        let apart = |times: f32| key(Form::L2, &query, &centre.map(|c| times * c));
        for other in [0.0, 1.0, -1.0, best * 1.01, best * 0.99] {
            assert!(apart(best) < apart(other), "{best} {other}");
        }
        for (key, norm_squared) in [(0.0, 0.0), (1.0, 0.0), (-1.0, 1e-40), (f32::INFINITY, 1.0)] {
            assert_eq!(projection(form, key, norm_squared), 1.0);
        }
        assert_eq!(projection(Form::L2, 5.0, 2.0), 1.0);
    }

    #[test]
    fn a_point_in_the_centre_is_as_far_as_the_centre() {
        for scale in [0.0, 1.0, 1e-40, 1e30, 3e38] {
            for form in [Form::L2, Form::InnerProduct] {
                let centre = vec![scale; 64];
                let mut code = [0_u64; 10];
                scalar8::encode(&centre, bytemuck::cast_slice_mut(&mut code));
                let view = View::new(bytemuck::cast_slice(&code));
                let mut decoded = vec![0.0; 64];
                scalar8::decode(view, &mut decoded);
                let mut bits = [0; 8];
                let factors = encode(form, &decoded, view, &mut bits);
                assert_eq!((factors.add, factors.rescale), (0.0, 0.0), "{scale}");
            }
        }
    }

    #[test]
    fn instruction_sets_give_the_same_bits_and_sums() {
        let mut rng = SmallRng::seed_from_u64(8);
        let centre: Vec<f32> = (0..192).map(|_| rng.random_range(-1.0..1.0)).collect();
        let point: Vec<i8> = (0..192).map(|_| rng.random()).collect();
        let mut first: Option<(Vec<u8>, [f32; 4])> = None;
        for kernels in simd::available() {
            let mut bits = vec![0; 24];
            let sums = (kernels.sign_code)(&centre, 0.01, &point, &mut bits);
            for (i, (&c, &p)) in centre.iter().zip(&point).enumerate() {
                let positive = 0.01 * f32::from(p) - c > 0.0;
                assert_eq!(
                    bits[i / 8] >> (i % 8) & 1 != 0,
                    positive,
                    "{}",
                    kernels.name
                );
            }
            let (expected_bits, expected) = first.get_or_insert((bits.clone(), sums));
            assert_eq!(&bits, expected_bits);
            for (a, b) in sums.iter().zip(*expected) {
                assert!((a - b).abs() < 1e-3, "{}: {a} {b}", kernels.name);
            }
        }
    }
}
