//! Distances as the SQL operators give them: exact wherever vectors are finite.
//!
//! The kernels of [`crate::simd`] sum in `f32`, which has no room for the squares of
//! numbers above 2·10¹⁹, and loses those of numbers below 10⁻¹⁹. Where a sum tells that
//! this may have happened, it is computed again in `f64`, which has room for squares
//! and products of all numbers of `f32`. So the check costs a comparison of the sum,
//! and the second computation is only for vectors that need it.

use half::f16;

use crate::SparseVector;
use crate::simd::{Components, Distances, Kernels};

/// Sums that are as large have lost less than 2⁻²⁴ of themselves to terms that are too
/// small for `f32`: each of up to 16,000 loses less than 2⁻¹⁴⁹.
const LEAST: f32 = 1e-30;

/// Vectors of a kind that have distances. Both of a pair have the same dimensions.
pub trait Measure: Copy {
    /// Whether `f32` has room for the sums of any such vectors.
    const HAS_ROOM: bool;

    /// Σ (aᵢ − bᵢ)².
    fn l2_squared(self, other: Self, kernels: &Kernels) -> f32;
    /// Σ aᵢ·bᵢ.
    fn inner_product(self, other: Self, kernels: &Kernels) -> f32;
    /// Σ |aᵢ − bᵢ|.
    fn l1(self, other: Self, kernels: &Kernels) -> f32;
    /// Σ aᵢ·bᵢ, Σ aᵢ², Σ bᵢ².
    fn cosine_parts(self, other: Self, kernels: &Kernels) -> (f32, f32, f32);
    /// The sum over all components in `f64`; `term(0, 0)` is 0.
    fn sum(self, other: Self, term: impl Fn(f64, f64) -> f64) -> f64;
    /// The least magnitude of a component that is not zero.
    fn least(self) -> f32;
}

/// Components of dense vectors.
pub trait Component: Copy + Into<f64> {
    /// See [`Measure::HAS_ROOM`].
    const HAS_ROOM: bool;
    /// The kernels for them.
    fn distances(kernels: &Kernels) -> &Distances<Self>;
    /// The kernels over each of them.
    fn components(kernels: &Kernels) -> &Components<Self>;
}

impl Component for f32 {
    const HAS_ROOM: bool = false;
    fn distances(kernels: &Kernels) -> &Distances<f32> {
        &kernels.single
    }
    fn components(kernels: &Kernels) -> &Components<f32> {
        &kernels.single_components
    }
}

impl Component for f16 {
    // Squares are from 2⁻⁴⁸ to 2³².
    const HAS_ROOM: bool = true;
    fn distances(kernels: &Kernels) -> &Distances<f16> {
        &kernels.half
    }
    fn components(kernels: &Kernels) -> &Components<f16> {
        &kernels.half_components
    }
}

impl<T: Component> Measure for &[T] {
    const HAS_ROOM: bool = T::HAS_ROOM;

    #[inline]
    fn l2_squared(self, other: Self, kernels: &Kernels) -> f32 {
        (T::distances(kernels).l2_squared)(self, other)
    }
    #[inline]
    fn inner_product(self, other: Self, kernels: &Kernels) -> f32 {
        (T::distances(kernels).inner_product)(self, other)
    }
    #[inline]
    fn l1(self, other: Self, kernels: &Kernels) -> f32 {
        (T::distances(kernels).l1)(self, other)
    }
    #[inline]
    fn cosine_parts(self, other: Self, kernels: &Kernels) -> (f32, f32, f32) {
        (T::distances(kernels).cosine_parts)(self, other)
    }
    fn sum(self, other: Self, term: impl Fn(f64, f64) -> f64) -> f64 {
        // Eight sums, so that one addition does not wait for the other.
        let mut sums = [0.0_f64; 8];
        let (a, a_rest) = self.as_chunks::<8>();
        let (b, b_rest) = other.as_chunks::<8>();
        let mut add = |a: &[T], b: &[T]| {
            for (sum, (&x, &y)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += term(x.into(), y.into());
            }
        };
        a.iter().zip(b).for_each(|(a, b)| add(a, b));
        add(a_rest, b_rest);
        sums.iter().sum()
    }
    fn least(self) -> f32 {
        least(self.iter().map(|&x| x.into() as f32))
    }
}

impl Measure for SparseVector<'_> {
    const HAS_ROOM: bool = false;

    #[inline]
    fn l2_squared(self, other: Self, kernels: &Kernels) -> f32 {
        (kernels.sparse.l2_squared)(self, other)
    }
    #[inline]
    fn inner_product(self, other: Self, kernels: &Kernels) -> f32 {
        (kernels.sparse.inner_product)(self, other)
    }
    #[inline]
    fn l1(self, other: Self, kernels: &Kernels) -> f32 {
        (kernels.sparse.l1)(self, other)
    }
    #[inline]
    fn cosine_parts(self, other: Self, kernels: &Kernels) -> (f32, f32, f32) {
        // By one kernel, so that equal vectors have distance 0.
        let product = kernels.sparse.inner_product;
        (
            product(self, other),
            product(self, self),
            product(other, other),
        )
    }
    fn sum(self, other: Self, term: impl Fn(f64, f64) -> f64) -> f64 {
        let (mut a, mut b) = (self.entries().peekable(), other.entries().peekable());
        let mut sum = 0.0;
        loop {
            // Past the last index that a component can have.
            let index = |entry: Option<&(u32, f32)>| entry.map_or(u32::MAX, |entry| entry.0);
            let least = index(a.peek()).min(index(b.peek()));
            let x = a.next_if(|entry| entry.0 == least);
            let y = b.next_if(|entry| entry.0 == least);
            if x.is_none() && y.is_none() {
                return sum;
            }
            let value = |entry: Option<(u32, f32)>| entry.map_or(0.0, |entry| f64::from(entry.1));
            sum += term(value(x), value(y));
        }
    }
    fn least(self) -> f32 {
        least(self.pairs().1.iter().copied())
    }
}

fn least(values: impl Iterator<Item = f32>) -> f32 {
    let magnitudes = values.map(f32::abs).filter(|&x| x > 0.0);
    magnitudes.fold(f32::INFINITY, f32::min)
}

/// Whether a sum is neither so large nor so small that `f32` may have lost it.
fn is_sound(sum: f32) -> bool {
    (LEAST..=f32::MAX).contains(&sum)
}

/// Σ (aᵢ − bᵢ)².
#[inline]
pub fn l2_squared<V: Measure>(kernels: &Kernels, a: V, b: V) -> f64 {
    let sum = a.l2_squared(b, kernels);
    if V::HAS_ROOM || is_sound(sum) {
        return sum.into();
    }
    again(a, b, |x, y| (x - y) * (x - y))
}

/// Euclidean distance.
#[inline]
pub fn l2<V: Measure>(kernels: &Kernels, a: V, b: V) -> f64 {
    l2_squared(kernels, a, b).sqrt()
}

/// Σ aᵢ·bᵢ.
#[inline]
pub fn inner_product<V: Measure>(kernels: &Kernels, a: V, b: V) -> f64 {
    let sum = a.inner_product(b, kernels);
    if V::HAS_ROOM || is_sound(sum.abs()) {
        return sum.into();
    }
    product_again(a, b, sum)
}

#[cold]
#[inline(never)]
fn product_again<V: Measure>(a: V, b: V, sum: f32) -> f64 {
    // Many vectors are at right angles, above all sparse ones; of them, no product can
    // have been too small.
    if sum == 0.0 && f64::from(a.least()) * f64::from(b.least()) >= f64::from(LEAST) {
        return 0.0;
    }
    a.sum(b, |x, y| x * y)
}

/// Σ |aᵢ − bᵢ|. Differences lose nothing, however small.
#[inline]
pub fn l1<V: Measure>(kernels: &Kernels, a: V, b: V) -> f64 {
    let sum = a.l1(b, kernels);
    if V::HAS_ROOM || sum.is_finite() {
        return sum.into();
    }
    again(a, b, |x, y| (x - y).abs())
}

/// Sums in `f32` leave no more than four digits of a cosine distance that is less.
const NEAR: f64 = 1e-3;

/// 1 − the cosine of the angle; NaN if one of the vectors is zero. That of nearly parallel
/// vectors, such as those with a large mean, is computed again in `f64`: their order would
/// be that of rounding errors.
#[inline]
pub fn cosine<V: Measure>(kernels: &Kernels, a: V, b: V) -> f64 {
    let (ab, aa, bb) = a.cosine_parts(b, kernels);
    // |ab| is at most the root of aa·bb.
    if V::HAS_ROOM || is_sound(aa) && is_sound(bb) {
        let distance = cosine_of(ab.into(), aa.into(), bb.into());
        if distance >= NEAR || distance.is_nan() {
            return distance;
        }
    }
    cosine_again(a, b)
}

/// The distance of Σ aᵢ·bᵢ, Σ aᵢ² and Σ bᵢ².
#[inline]
fn cosine_of(ab: f64, aa: f64, bb: f64) -> f64 {
    let similarity = ab / (aa * bb).sqrt();
    // Rounding may take the similarity of parallel vectors out of its range;
    // NaN passes through.
    1.0 - similarity.clamp(-1.0, 1.0)
}

#[cold]
#[inline(never)]
fn cosine_again<V: Measure>(a: V, b: V) -> f64 {
    let product = |a: V, b: V| a.sum(b, |x, y| x * y);
    cosine_of(product(a, b), product(a, a), product(b, b))
}

#[cold]
#[inline(never)]
fn again<V: Measure>(a: V, b: V, term: impl Fn(f64, f64) -> f64) -> f64 {
    a.sum(b, term)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::simd;

    #[test]
    fn cosine_distances_of_nearly_parallel_vectors_are_told_apart() {
        let kernels = simd::kernels();
        let vector = |seed: u32| -> Vec<f32> {
            let digits = (0..256_u32).map(|i| (i * 7919 + seed * 104_729) % 1009);
            digits.map(|digit| 1000.0 + digit as f32 / 1009.0).collect()
        };
        let first = vector(0);
        for seed in 1..50 {
            let second = vector(seed);
            let sum = |a: &[f32], b: &[f32]| -> f64 {
                let both = a.iter().zip(b);
                both.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
            };
            let sizes = (sum(&first, &first) * sum(&second, &second)).sqrt();
            let want = 1.0 - sum(&first, &second) / sizes;
            let got = cosine(kernels, &first[..], &second[..]);
            assert!(want > 1e-9 && want < 1e-6, "{want}");
            assert!((got - want).abs() < 1e-5 * want, "{got} {want}");
        }
    }

    /// Numbers of any size, the largest and the smallest among them.
    fn number() -> impl Strategy<Value = f32> {
        prop_oneof![
            2 => -1.0_f32..1.0,
            3 => (-1.0_f32..1.0, -45..39).prop_map(|(x, e)| (f64::from(x) * 10_f64.powi(e)) as f32),
            1 => Just(0.0_f32),
            1 => Just(f32::MAX),
            1 => Just(-f32::MAX),
            1 => Just(1e-45_f32),
        ]
    }

    /// Vectors whose numbers are all about as large, or of any sizes.
    fn vector(n: usize) -> impl Strategy<Value = Vec<f32>> {
        let alike = (prop::collection::vec(-1.0_f32..1.0, n), -45..39).prop_map(|(values, e)| {
            let scaled = values.iter().map(|&x| f64::from(x) * 10_f64.powi(e));
            scaled.map(|x| x as f32).collect()
        });
        prop_oneof![prop::collection::vec(number(), n), alike]
    }

    fn check(what: &str, got: f64, want: f64, size: f64) -> Result<(), TestCaseError> {
        prop_assert!(
            (got - want).abs() <= 1e-6 * size,
            "{}: {} instead of {}",
            what,
            got,
            want
        );
        Ok(())
    }

    fn check_all<V: Measure>(a: V, b: V) -> Result<(), TestCaseError> {
        let sum = |x: V, y: V, term: fn(f64, f64) -> f64| x.sum(y, term);
        for set in simd::available() {
            let l2_want = sum(a, b, |x, y| (x - y) * (x - y));
            check("l2", l2_squared(&set, a, b), l2_want, l2_want)?;
            let l1_want = sum(a, b, |x, y| (x - y).abs());
            check("l1", l1(&set, a, b), l1_want, l1_want)?;
            let (ab, terms) = (sum(a, b, |x, y| x * y), sum(a, b, |x, y| (x * y).abs()));
            check("product", inner_product(&set, a, b), ab, terms)?;
            let (aa, bb) = (sum(a, a, |x, y| x * y), sum(b, b, |x, y| x * y));
            let got = cosine(&set, a, b);
            if aa == 0.0 || bb == 0.0 {
                prop_assert!(got.is_nan());
            } else {
                check("cosine", got, 1.0 - ab / (aa.sqrt() * bb.sqrt()), 1.0)?;
            }
            if aa != 0.0 {
                prop_assert_eq!(cosine(&set, a, a), 0.0);
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn distances_of_numbers_of_any_size(
            (a, b) in (1_usize..40).prop_flat_map(|n| (vector(n), vector(n)))
        ) {
            check_all(&a[..], &b[..])?;
            check_all(&a[..], &a.iter().map(|x| x * 0.5).collect::<Vec<f32>>()[..])?;
            let half = |v: &[f32]| -> Vec<f16> {
                v.iter().map(|&x| f16::from_f32(x.clamp(-65504.0, 65504.0))).collect()
            };
            check_all(&half(&a)[..], &half(&b)[..])?;
            // Every second component of the one, every third of the other.
            let of = |v: &[f32], step: usize| -> (Vec<u32>, Vec<f32>) {
                let each = (0..).zip(v.iter().copied()).step_by(step);
                each.filter(|&(_, x)| x != 0.0).unzip()
            };
            let ((i, x), (j, y)) = (of(&a, 2), of(&b, 3));
            let sparse = |indices, values| SparseVector { indices, values };
            check_all(sparse(&i[..], &x[..]), sparse(&j[..], &y[..]))?;
        }
    }

    #[test]
    fn the_sums_of_many_dimensions() {
        for scale in [1e-45_f32, 1e-23, 1e-15, 1.0, 1e15, 1e20, 3e38] {
            let a = vec![scale; 16_000];
            let b: Vec<f32> = (0..16_000)
                .map(|i| if i % 2 == 0 { scale } else { -scale })
                .collect();
            let kernels = simd::kernels();
            assert_eq!(cosine(kernels, &a[..], &a[..]), 0.0, "{scale}");
            assert!(
                (cosine(kernels, &a[..], &b[..]) - 1.0).abs() < 1e-6,
                "{scale}"
            );
            let want = 2.0 * f64::from(scale) * 8000_f64.sqrt();
            let got = l2(kernels, &a[..], &b[..]);
            assert!((got - want).abs() < 1e-5 * want, "{scale}: {got} {want}");
        }
    }

    #[test]
    fn zero_has_no_angle() {
        let kernels = simd::kernels();
        assert!(cosine(kernels, &[0.0_f32][..], &[1.0][..]).is_nan());
        assert!(cosine(kernels, &[f16::ZERO][..], &[f16::ONE][..]).is_nan());
    }
}
