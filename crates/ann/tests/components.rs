//! What is done to each component, with every instruction set of this processor, against
//! what plain code gives.

use ann::simd::{self, Components, Kernels};
use half::f16;
use proptest::prelude::*;

/// Components of either precision.
trait Component: Copy + PartialEq + std::fmt::Debug {
    fn of(value: f32) -> Self;
    fn single(self) -> f32;
    fn components(kernels: &Kernels) -> &Components<Self>;
}

impl Component for f32 {
    fn of(value: f32) -> f32 {
        value
    }
    fn single(self) -> f32 {
        self
    }
    fn components(kernels: &Kernels) -> &Components<f32> {
        &kernels.single_components
    }
}

impl Component for f16 {
    fn of(value: f32) -> f16 {
        f16::from_f32(value)
    }
    fn single(self) -> f32 {
        self.to_f32()
    }
    fn components(kernels: &Kernels) -> &Components<f16> {
        &kernels.half_components
    }
}

/// Numbers of any size, of which each type has some that overflow and underflow.
fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -2.0_f32..2.0,
        2 => (-1.0_f32..1.0, -44..38).prop_map(|(x, e)| (f64::from(x) * 10_f64.powi(e)) as f32),
        1 => Just(0.0_f32),
        1 => Just(-0.0_f32),
        1 => prop::sample::select(vec![65504.0_f32, 65519.9, 65520.0, 6e-8, 2.9e-8, 3.1e-8, f32::MAX]),
    ]
}

fn check<T: Component>(a: &[f32], b: &[f32], times: f64) -> Result<(), TestCaseError> {
    let finite = |values: &[f32]| -> Vec<T> {
        let typed = values.iter().map(|&x| T::of(x));
        typed
            .map(|x| {
                if x.single().is_finite() {
                    x
                } else {
                    T::of(1.5)
                }
            })
            .collect()
    };
    let (a, b) = (finite(a), finite(b));
    let n = a.len();
    let pairs = |f: fn(f32, f32) -> f32| -> Vec<T> {
        let each = a.iter().zip(&b);
        each.map(|(x, y)| T::of(f(x.single(), y.single())))
            .collect()
    };
    for kernels in simd::available() {
        let kernels = T::components(&kernels);
        let mut out = vec![T::of(7.0); n];
        (kernels.add)(&a, &b, &mut out);
        prop_assert_eq!(&out, &pairs(|x, y| x + y));
        let mut sums = a.clone();
        (kernels.add_to)(&mut sums, &b);
        prop_assert_eq!(&sums, &out);
        (kernels.subtract)(&a, &b, &mut out);
        prop_assert_eq!(&out, &pairs(|x, y| x - y));
        (kernels.multiply)(&a, &b, &mut out);
        let products = pairs(|x, y| x * y);
        prop_assert_eq!(&out, &products);
        let is_zero = |x: T| x.single() == 0.0;
        let lost = (0..n).any(|i| is_zero(products[i]) && !is_zero(a[i]) && !is_zero(b[i]));
        prop_assert_eq!((kernels.underflow)(&a, &b, &products), lost);
        let all = products.iter().all(|x| x.single().is_finite());
        prop_assert_eq!((kernels.are_finite)(&products), all);
        prop_assert!((kernels.are_finite)(&a));

        let want: f64 = a.iter().map(|x| f64::from(x.single()).powi(2)).sum();
        prop_assert!(((kernels.squares)(&a) - want).abs() <= 1e-12 * want);
        (kernels.scale)(&a, times, &mut out);
        for (out, x) in out.iter().zip(&a) {
            prop_assert_eq!(*out, T::of((f64::from(x.single()) * times) as f32));
        }
        let mut sums: Vec<f64> = (0..n).map(|i| i as f64).collect();
        prop_assert!((kernels.accumulate)(&mut sums, &a));
        for (i, (sum, x)) in sums.iter().zip(&a).enumerate() {
            prop_assert_eq!(*sum, i as f64 + f64::from(x.single()));
        }
        let mut bits = vec![0; n.div_ceil(8)];
        (kernels.signs)(&a, &mut bits);
        for i in 0..8 * bits.len() {
            let want = a.get(i).is_some_and(|x| x.single() > 0.0);
            prop_assert_eq!(bits[i / 8] >> (7 - i % 8) & 1 != 0, want);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    /// Lengths around every register width, and around the size of a part.
    #[test]
    fn kernels_do_what_plain_code_does(
        (a, b, times) in prop_oneof![8 => 0_usize..70, 1 => 250_usize..520]
            .prop_flat_map(|n| (
                prop::collection::vec(number(), n),
                prop::collection::vec(number(), n),
                1e-3_f64..1e3,
            ))
    ) {
        check::<f32>(&a, &b, times)?;
        check::<f16>(&a, &b, times)?;
    }

    #[test]
    fn precisions_are_converted(values in prop::collection::vec(number(), 0..70)) {
        let half: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
        for kernels in simd::available() {
            let mut narrow = vec![f16::ONE; values.len()];
            (kernels.narrow)(&values, &mut narrow);
            prop_assert_eq!(&narrow, &half);
            let mut wide = vec![1.0; values.len()];
            (kernels.widen)(&half, &mut wide);
            let want: Vec<f32> = half.iter().map(|x| x.to_f32()).collect();
            prop_assert_eq!(&wide, &want);
        }
    }
}

#[test]
fn sums_that_are_not_finite_are_told() {
    for kernels in simd::available() {
        for place in [0, 7, 300] {
            let mut sums = vec![0.0; 301];
            sums[place] = f64::INFINITY;
            let values = vec![1.0; 301];
            assert!(!(kernels.single_components.accumulate)(&mut sums, &values));
            let mut values = vec![1.0; 301];
            values[place] = f32::NEG_INFINITY;
            assert!(!(kernels.single_components.are_finite)(&values));
        }
    }
}

#[test]
#[should_panic(expected = "different dimensions")]
fn different_lengths_panic() {
    (simd::kernels().single_components.accumulate)(&mut [0.0], &[1.0, 2.0]);
}
