//! Every instruction set of this processor against a naive `f64` oracle.

use std::collections::BTreeMap;

use ann::{SparseVector, simd};
use half::f16;
use proptest::prelude::*;

fn naive(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| term(f64::from(x), f64::from(y)))
        .sum()
}

/// The rounding error of an `f32` sum is bounded by the sum of the magnitudes
/// of its terms, not by its value.
fn assert_close(set: &str, what: &str, got: f32, want: f64, magnitude: f64) {
    let tolerance = 1e-5 * magnitude + 1e-30;
    assert!(
        (f64::from(got) - want).abs() <= tolerance,
        "{set} {what}: {got} instead of {want}"
    );
}

fn pair() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    // Lengths around every register width and unrolling step.
    (0_usize..300, -12_i32..12).prop_flat_map(|(n, exponent)| {
        let scale = 10_f32.powi(exponent);
        let value = (-1.0_f32..1.0).prop_map(move |x| x * scale);
        (
            prop::collection::vec(value.clone(), n),
            prop::collection::vec(value, n),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn kernels_agree_with_the_oracle((a, b) in pair()) {
        let l2 = naive(&a, &b, |x, y| (x - y) * (x - y));
        let l1 = naive(&a, &b, |x, y| (x - y).abs());
        let ip = naive(&a, &b, |x, y| x * y);
        let ip_terms = naive(&a, &b, |x, y| (x * y).abs());
        let (aa, bb) = (naive(&a, &a, |x, y| x * y), naive(&b, &b, |x, y| x * y));
        for set in simd::available() {
            assert_close(set.name, "l2", (set.single.l2_squared)(&a, &b), l2, l2);
            assert_close(set.name, "l1", (set.single.l1)(&a, &b), l1, l1);
            assert_close(set.name, "ip", (set.single.inner_product)(&a, &b), ip, ip_terms);
            let parts = (set.single.cosine_parts)(&a, &b);
            assert_close(set.name, "cosine ab", parts.0, ip, ip_terms);
            assert_close(set.name, "cosine aa", parts.1, aa, aa);
            assert_close(set.name, "cosine bb", parts.2, bb, bb);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Half-precision values are read as they are; sums are those of `f32`.
    #[test]
    fn half_precision_is_single_precision_of_the_same_values((a, b) in pair()) {
        let round = |values: &[f32]| -> Vec<f16> {
            // Into the range of the type, denormals included.
            values.iter().map(|&x| f16::from_f32(x.clamp(-6e4, 6e4))).collect()
        };
        let (a, b) = (round(&a), round(&b));
        let widen = |values: &[f16]| -> Vec<f32> { values.iter().map(|x| x.to_f32()).collect() };
        let (wide_a, wide_b) = (widen(&a), widen(&b));
        for set in simd::available() {
            let (half, single) = (set.half, set.single);
            prop_assert_eq!((half.l2_squared)(&a, &b), (single.l2_squared)(&wide_a, &wide_b));
            prop_assert_eq!((half.inner_product)(&a, &b), (single.inner_product)(&wide_a, &wide_b));
            prop_assert_eq!((half.l1)(&a, &b), (single.l1)(&wide_a, &wide_b));
            prop_assert_eq!((half.cosine_parts)(&a, &b), (single.cosine_parts)(&wide_a, &wide_b));
        }
    }

    /// Lengths around the size of a block, with many or few indices in common, and
    /// one vector much longer than the other.
    #[test]
    fn sparse_vectors_agree_with_the_oracle(
        (a, b) in (1_u32..200, 0_usize..70, 0_usize..70, -12_i32..12)
            .prop_flat_map(|(dimensions, a, b, exponent)| {
                let scale = 10_f32.powi(exponent);
                let value = (-1.0_f32..1.0).prop_map(move |x| x * scale);
                // The last index that a component can have is among them.
                let index = (0..dimensions).prop_map(move |i| u32::MAX - dimensions + i);
                (
                    prop::collection::btree_map(index.clone(), value.clone(), 0..=a),
                    prop::collection::btree_map(index, value, 0..=b),
                )
            })
    ) {
        let parts = |vector: &BTreeMap<u32, f32>| -> (Vec<u32>, Vec<f32>) {
            vector.iter().map(|(&index, &value)| (index, value)).unzip()
        };
        let (a_parts, b_parts) = (parts(&a), parts(&b));
        let sparse = |(indices, values)| SparseVector { indices, values };
        let x = sparse((&a_parts.0[..], &a_parts.1[..]));
        let y = sparse((&b_parts.0[..], &b_parts.1[..]));
        let (dense_a, dense_b): (Vec<f32>, Vec<f32>) = a
            .keys()
            .chain(b.keys().filter(|index| !a.contains_key(index)))
            .map(|index| {
                let at = |vector: &BTreeMap<u32, f32>| vector.get(index).copied().unwrap_or(0.0);
                (at(&a), at(&b))
            })
            .unzip();
        let l2 = naive(&dense_a, &dense_b, |x, y| (x - y) * (x - y));
        let l1 = naive(&dense_a, &dense_b, |x, y| (x - y).abs());
        let ip = naive(&dense_a, &dense_b, |x, y| x * y);
        let ip_terms = naive(&dense_a, &dense_b, |x, y| (x * y).abs());
        for set in simd::available() {
            assert_close(set.name, "l2", (set.sparse.l2_squared)(x, y), l2, l2);
            assert_close(set.name, "l1", (set.sparse.l1)(x, y), l1, l1);
            assert_close(set.name, "ip", (set.sparse.inner_product)(x, y), ip, ip_terms);
            prop_assert_eq!((set.sparse.l2_squared)(x, x), 0.0);
        }
    }

    #[test]
    fn bits_are_counted(pairs in prop::collection::vec(any::<(u8, u8)>(), 0..300)) {
        let (a, b): (Vec<u8>, Vec<u8>) = pairs.into_iter().unzip();
        let count = |f: fn(u8, u8) -> u8| -> u64 {
            a.iter().zip(&b).map(|(&a, &b)| u64::from(f(a, b).count_ones())).sum()
        };
        for set in simd::available() {
            prop_assert_eq!((set.hamming)(&a, &b), count(|a, b| a ^ b));
            prop_assert_eq!((set.common_bits)(&a, &b), (count(|a, b| a & b), count(|a, b| a | b)));
        }
    }
}

#[test]
fn small_integers_are_exact_and_equal_on_every_set() {
    for n in 0..130 {
        let a: Vec<f32> = (0..n).map(|i| (i % 7) as f32).collect();
        let b: Vec<f32> = (0..n).map(|i| (i % 5) as f32 - 2.0).collect();
        let want = naive(&a, &b, |x, y| (x - y) * (x - y)) as f32;
        for set in simd::available() {
            assert_eq!((set.single.l2_squared)(&a, &b), want, "{} at {n}", set.name);
        }
    }
}

#[test]
fn overflow_is_infinite_not_a_panic() {
    let (a, b) = ([3e38_f32; 20], [-3e38_f32; 20]);
    for set in simd::available() {
        assert_eq!((set.single.l2_squared)(&a, &b), f32::INFINITY);
        assert_eq!((set.single.inner_product)(&a, &b), f32::NEG_INFINITY);
        assert_eq!((set.single.l1)(&a, &b), f32::INFINITY);
    }
}

#[test]
#[should_panic(expected = "different dimensions")]
fn different_lengths_panic() {
    (simd::kernels().single.l1)(&[1.0], &[1.0, 2.0]);
}
