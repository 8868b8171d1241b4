//! Instruction sets, and the arithmetic of floats that all operators share.
//!
//! **The same bits everywhere.** Every function is written once, over arrays of
//! [`LANES`] floats, and compiled once for each instruction set. Products and sums
//! that belong together are fused multiply-adds in the source, sums run in
//! [`LANES`] separate partial sums that are added in a fixed order, and the
//! compiler does not reorder floats: so a processor decides how fast a result
//! comes, never which.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// Partial sums of every reduction.
pub(crate) const LANES: usize = 16;

/// Adding it rounds a small float to a whole number, whose low bits are those of
/// the sum.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// The instruction sets that there are kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// AVX-512 with VNNI, and AMX for products of 8-bit numbers.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor of the architecture has.
    Portable,
}

/// An instruction set that this processor has: nothing else makes one than looking for
/// it, in [`Isa::all`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Isa(Set);

impl Isa {
    /// Which one it is.
    #[inline(always)]
    pub(crate) fn set(self) -> Set {
        self.0
    }

    /// The same, or what comes with it and does without tiles.
    pub(crate) fn without_amx(self) -> Isa {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx => Isa(Set::Avx512),
            set => Isa(set),
        }
    }

    /// Those that this processor has, fastest first.
    pub(crate) fn all() -> Vec<Isa> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("fma")
            {
                if has_amx() {
                    all.push(Isa(Set::Amx));
                }
                all.push(Isa(Set::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Isa(Set::Avx2));
            }
        }
        all.push(Isa(Set::Portable));
        all
    }

    /// The fastest that this processor has.
    pub(crate) fn best() -> Isa {
        Isa::all().into_iter().next().unwrap_or(Isa(Set::Portable))
    }
}

/// Whether the processor has AMX for 8-bit numbers and the system lets this process
/// use it, which it is asked once (Linux, Documentation/arch/x86/xstate.rst).
#[cfg(target_arch = "x86_64")]
fn has_amx() -> bool {
    /// ARCH_REQ_XCOMP_PERM of asm/prctl.h.
    const REQUEST_PERMISSION: i32 = 0x1023;
    /// XFEATURE_XTILE_DATA of the kernel's asm/fpu/types.h.
    const TILE_DATA: i32 = 18;
    /// In edx of leaf 7: amx-tile and amx-int8.
    const NEEDED: u32 = 1 << 24 | 1 << 25;
    static HAS_AMX: OnceLock<bool> = OnceLock::new();
    *HAS_AMX.get_or_init(|| {
        use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
        if __get_cpuid_max(0).0 < 7 || __cpuid_count(7, 0).edx & NEEDED != NEEDED {
            return false;
        }
        // SAFETY: the call reads no memory; without AMX, or on an old system, it fails.
        let failed =
            unsafe { nix::libc::syscall(nix::libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) };
        failed == 0
    })
}

/// Begins to bring a slice into the processor's cache.
#[inline(always)]
pub(crate) fn prefetch(slice: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in slice.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which may have any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = slice;
}

/// Compiles a function for every instruction set: `name(isa, arguments…)` runs
/// the one for `isa`, which the processor must have ([`Isa::all`]).
macro_rules! for_each_isa {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident $(<$(const $constant:ident: usize),+>)?
     ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name $(<$(const $constant: usize),+>)?
            (isa: $crate::operators::simd::Isa, $($argument: $type),*) $(-> $result)?
        {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body $(<$(const $constant: usize),+>)? ($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512 $(<$(const $constant: usize),+>)? ($($argument: $type),*) $(-> $result)? {
                body $(::<$($constant),+>)? ($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2 $(<$(const $constant: usize),+>)? ($($argument: $type),*) $(-> $result)? {
                body $(::<$($constant),+>)? ($($argument),*)
            }

            match isa.set() {
                // SAFETY: an `Isa` is only made for a processor that has it.
                #[cfg(target_arch = "x86_64")]
                $crate::operators::simd::Set::Avx512 | $crate::operators::simd::Set::Amx => unsafe {
                    avx512 $(::<$($constant),+>)? ($($argument),*)
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::operators::simd::Set::Avx2 => unsafe {
                    avx2 $(::<$($constant),+>)? ($($argument),*)
                },
                $crate::operators::simd::Set::Portable => {
                    body $(::<$($constant),+>)? ($($argument),*)
                }
            }
        }
    };
}
pub(crate) use for_each_isa;

/// The sum of partial sums, in a fixed order.
#[inline(always)]
pub(crate) fn sum(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Partial sums of `term(x)` over a slice, see [`sum`].
#[inline(always)]
fn sum_of(values: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = term(*lane, value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = term(*lane, value);
    }
    sum(lanes)
}

/// e^x for −87 ≤ x ≤ 88, to 2 units in the last place.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r is its Taylor polynomial of degree 6
/// and 2^n goes into the exponent (Muller, "Elementary Functions", chapter 11).
#[inline(always)]
fn exp_in_range(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_HIGH, x);
    let r = n.mul_add(-LN2_LOW, r);
    let mut p = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.mul_add(p, coefficient);
    }
    // The low bits of the sum are n: the others leave on the left.
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// e^x for x ≤ 0; 0 below −87.
#[inline(always)]
pub(crate) fn exp_of_negative(x: f32) -> f32 {
    let result = exp_in_range(if x < -87.0 { -87.0 } else { x });
    if x < -87.0 { 0.0 } else { result }
}

/// x·Φ(x), with the error function to 1.5·10⁻⁷ (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 4] = [-1.453_152_1, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / z.mul_add(0.327_591_1, 1.0);
    let mut p = 1.061_405_4;
    for coefficient in COEFFICIENTS {
        p = t.mul_add(p, coefficient);
    }
    let square = -z * z;
    // Half of 1 − erf(|z|).
    let tail = (0.5 * t * p) * exp_in_range(if square < -87.0 { -87.0 } else { square });
    let phi = if x < 0.0 { tail } else { 1.0 - tail };
    x * phi
}

for_each_isa! {
    /// Σ aᵢ·bᵢ.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0; LANES];
        let (a_chunks, a_rest) = a.as_chunks::<LANES>();
        let (b_chunks, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            for i in 0..LANES {
                lanes[i] = a[i].mul_add(b[i], lanes[i]);
            }
        }
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
            *lane = a.mul_add(b, *lane);
        }
        sum(lanes)
    }
}

/// Layer normalization of a row in place: (x − mean) / √(variance + ε)·γ + β.
#[inline(always)]
pub(crate) fn normalize(row: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32) {
    let count = row.len() as f32;
    let mean = sum_of(row, |sum, x| sum + x) / count;
    let variance = sum_of(row, |sum, x| (x - mean).mul_add(x - mean, sum)) / count;
    let scale = 1.0 / (variance + epsilon).sqrt();
    for ((x, &gamma), &beta) in row.iter_mut().zip(gamma).zip(beta) {
        *x = ((*x - mean) * scale).mul_add(gamma, beta);
    }
}

#[cfg(test)]
mod tests {
    use super::{Isa, exp_in_range, exp_of_negative, gelu, normalize};

    #[test]
    fn exponentials() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_in_range(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "exp({x}): {error}");
        }
        assert_eq!(exp_of_negative(-88.0), 0.0);
        assert_eq!(exp_of_negative(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert!(exp_of_negative(f32::NAN).is_nan());
    }

    /// Φ by integrating the density, with nothing of the formula in it.
    fn phi(x: f64) -> f64 {
        let steps = 20_000;
        let width = x / f64::from(steps);
        let density = |t: f64| (-0.5 * t * t).exp() / std::f64::consts::TAU.sqrt();
        let inner: f64 = (1..steps)
            .map(|i| density(width * f64::from(i)) * if i % 2 == 0 { 2.0 } else { 4.0 })
            .sum();
        0.5 + (density(0.0) + inner + density(x)) * width / 3.0
    }

    #[test]
    fn gaussian_error_linear_units() {
        for i in -80..=80 {
            let x = f64::from(i) / 10.0;
            let error = (f64::from(gelu(x as f32)) - x * phi(x)).abs();
            assert!(error < 1e-6 * x.abs().max(1.0), "gelu({x}): {error}");
        }
        assert_eq!(gelu(0.0), 0.0);
        assert_eq!(gelu(1e30), 1e30);
        assert_eq!(gelu(-1e30), 0.0);
        assert!(gelu(f32::NAN).is_nan());
    }

    #[test]
    fn normalized_rows_have_mean_0_and_variance_1() {
        let mut row: Vec<f32> = (0..100).map(|i| (i * i % 37) as f32).collect();
        let (gamma, beta) = (vec![1.0; 100], vec![0.0; 100]);
        normalize(&mut row, &gamma, &beta, 1e-12);
        let mean: f32 = row.iter().sum::<f32>() / 100.0;
        let variance: f32 = row.iter().map(|x| x * x).sum::<f32>() / 100.0;
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5);
    }

    for_each_isa! {
        fn all_of(values: &mut [f32], gamma: &[f32]) {
            for value in values.iter_mut() {
                *value = gelu(*value) + exp_of_negative(-value.abs() * 30.0);
            }
            normalize(values, gamma, gamma, 1e-5);
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let values: Vec<f32> = (0..1003)
            .map(|i| ((i * 37 % 501) as f32 - 250.0) / 60.0)
            .collect();
        let gamma: Vec<f32> = (0..1003).map(|i| 0.5 + (i % 7) as f32 / 9.0).collect();
        let results = Isa::all().into_iter().map(|isa| {
            let mut values = values.clone();
            all_of(isa, &mut values, &gamma);
            values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
        });
        let results: Vec<_> = results.collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
