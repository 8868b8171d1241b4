//! Distance kernels over `f32`, `f16` and bits, with run-time dispatch.
//!
//! Each distance is written once, in [`generic`], over a small trait of vector
//! registers ([`generic::Lanes`]). A file per instruction set implements the
//! trait and instantiates the kernels under its `target_feature`; [`kernels`]
//! picks the best set the processor has, once per process. The scalar set is
//! the fallback and, being another instance of the same code, shows that the
//! generic code is right; `tests/distances.rs` holds the naive oracle.
//!
//! The kernels of [`crate::quantize`] are here for the same reason; the one
//! that scans blocks of codes is written for each set by hand, and for x86 the one
//! that multiplies bytes.
//!
//! Sums are kept in `f32`, as pgvector does; the order of additions differs
//! between instruction sets, so results agree to rounding, not to the bit.

#![allow(unsafe_code)]

mod components;
mod generic;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

use half::f16;

use crate::SparseVector;
use crate::quantize::extended::{Bits, Grid};

/// A distance kernel over two slices of the same length.
///
/// Panics if the lengths differ.
pub type Kernel<T> = fn(&[T], &[T]) -> f32;

/// A kernel that returns three sums, see [`Distances::cosine_parts`].
pub type CosineKernel<T> = fn(&[T], &[T]) -> (f32, f32, f32);

/// The distance kernels for components of one type. Sums are kept in `f32`.
#[derive(Clone, Copy)]
pub struct Distances<T> {
    /// Σ (aᵢ − bᵢ)².
    pub l2_squared: Kernel<T>,
    /// Σ aᵢ·bᵢ.
    pub inner_product: Kernel<T>,
    /// Σ |aᵢ − bᵢ|.
    pub l1: Kernel<T>,
    /// Σ aᵢ·bᵢ, Σ aᵢ², Σ bᵢ².
    pub cosine_parts: CosineKernel<T>,
}

/// A kernel that writes what it makes of each pair of components.
pub type PairsKernel<T> = fn(&[T], &[T], &mut [T]);

/// The kernels over components of one type. All slices have one length.
#[derive(Clone, Copy)]
pub struct Components<T> {
    /// aᵢ + bᵢ, rounded to the type; infinite if that is too large.
    pub add: PairsKernel<T>,
    /// aᵢ + bᵢ in the place of aᵢ.
    pub add_to: fn(&mut [T], &[T]),
    /// aᵢ − bᵢ.
    pub subtract: PairsKernel<T>,
    /// aᵢ·bᵢ.
    pub multiply: PairsKernel<T>,
    /// Whether a product, of the third slice, is zero although neither factor is.
    pub underflow: fn(&[T], &[T], &[T]) -> bool,
    /// Whether all components are finite.
    pub are_finite: fn(&[T]) -> bool,
    /// Σ xᵢ² in `f64`.
    pub squares: fn(&[T]) -> f64,
    /// xᵢ·times, rounded from `f64`.
    pub scale: fn(&[T], f64, &mut [T]),
    /// Adds a vector to sums, and tells whether all of these are finite.
    pub accumulate: fn(&mut [f64], &[T]) -> bool,
    /// A bit for each component, eight to a byte, the first one highest: whether it is
    /// positive. The bits that the last byte has beside them are zero.
    pub signs: fn(&[T], &mut [u8]),
}

/// A distance kernel over two sparse vectors.
pub type SparseKernel = fn(SparseVector<'_>, SparseVector<'_>) -> f32;

/// The distance kernels for sparse vectors. Sums are kept in `f32`.
#[derive(Clone, Copy)]
pub struct SparseDistances {
    /// Σ (aᵢ − bᵢ)².
    pub l2_squared: SparseKernel,
    /// Σ aᵢ·bᵢ.
    pub inner_product: SparseKernel,
    /// Σ |aᵢ − bᵢ|.
    pub l1: SparseKernel,
}

/// A kernel that packs signs and returns four sums, see [`Kernels::sign_code`].
pub type SignKernel = fn(&[f32], f32, &[i8], f32, &mut [u8]) -> [f32; 4];

/// Terms and factors of 32 keys, see [`Kernels::bounds`].
pub struct Terms<'a> {
    /// What is added.
    pub add: &'a [f32; 32],
    /// The factor of a sum.
    pub rescale: &'a [f32; 32],
    /// The factor of the reach.
    pub deviation: &'a [f32; 32],
}

/// What 32 keys have in common, see [`Kernels::bounds`].
pub struct Line {
    /// What a unit of a sum counts.
    pub step: f32,
    /// What a sum of zero counts.
    pub offset: f32,
    /// What is added to all keys.
    pub key: f32,
    /// How much is taken away for a deviation of 1.
    pub reach: f32,
    /// See [`Kernels::bounds`].
    pub limit: f32,
}

/// A kernel that fills keys and lower bounds, see [`Kernels::bounds`].
pub type BoundsKernel = fn(&[u32; 32], &Terms<'_>, &Line, &mut [f32; 32], &mut [f32; 32]) -> u32;

/// A kernel that returns five sums, see [`Kernels::relate_grid`].
pub type RelateKernel = fn(&[f32], &[f32], &[i8], usize) -> [f64; 5];

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// Name of the instruction set, for reports.
    pub name: &'static str,
    /// For single precision.
    pub single: Distances<f32>,
    /// For half precision.
    pub half: Distances<f16>,
    /// For components in single precision.
    pub single_components: Components<f32>,
    /// For components in half precision.
    pub half_components: Components<f16>,
    /// Half precision as single precision.
    pub widen: fn(&[f16], &mut [f32]),
    /// The nearest numbers of half precision, of which infinity is one.
    pub narrow: fn(&[f32], &mut [f16]),
    /// For sparse vectors.
    pub sparse: SparseDistances,
    /// How many bits of two strings of one length differ.
    pub hamming: fn(&[u8], &[u8]) -> u64,
    /// How many bits are set in both of two strings, and how many in either.
    pub common_bits: fn(&[u8], &[u8]) -> (u64, u64),
    /// Σ aᵢ·bᵢ of numbers and bytes, of a length that 64 divides.
    pub inner_product_i8: fn(&[f32], &[i8]) -> f32,
    /// Σ aᵢ·bᵢ of bytes from −127 on, of a length that 64 divides, at most 2¹⁷ of them.
    pub inner_product_bytes: fn(&[i8], &[i8]) -> i32,
    /// Of a centre c and a point p = scale·bytes, with r = p − times·c and the bits
    /// xᵢ = [rᵢ > 0], which it packs eight to a byte: Σ rᵢ², Σ rᵢ·cᵢ, Σ |rᵢ| and
    /// Σ cᵢ·(xᵢ − ½). Takes c, scale, bytes, times and the place for the bits. The
    /// length is a multiple of 64.
    pub sign_code: SignKernel,
    /// See [`crate::quantize::extended::encode`].
    pub encode_grid: fn(Bits, &[f32], &mut [i8]) -> Grid,
    /// See [`crate::quantize::extended::relate`].
    pub relate_grid: RelateKernel,
    /// The Walsh-Hadamard transform, not scaled, of a power of two of values.
    pub hadamard: fn(&mut [f32]),
    /// The lookup table of a query, see [`crate::quantize::fastscan`].
    pub fill_table: fn(&[f32], f32, &mut [u8]),
    /// For each of 32 sums s, the key `key + add + rescale·(s·step + offset)`, and
    /// that less `reach·deviation`; which of these are not above a limit.
    pub bounds: BoundsKernel,
    /// For each of the 32 codes of a block, the sum of the table's entries that
    /// it picks, see [`crate::quantize::fastscan`].
    pub scan_block: fn(&[u8], &[u8], &mut [u32; 32]),
}

static BEST: LazyLock<Kernels> = LazyLock::new(|| available()[0]);

/// The kernels of the best instruction set that this processor has.
pub fn kernels() -> &'static Kernels {
    &BEST
}

/// Every instruction set that this processor has, best first; the last one is
/// always `scalar`. For tests and benchmarks.
pub fn available() -> Vec<Kernels> {
    let mut sets = Vec::new();
    #[cfg(target_arch = "x86_64")]
    sets.extend(x86::available());
    #[cfg(target_arch = "aarch64")]
    sets.extend(neon::available());
    sets.push(scalar::KERNELS);
    sets
}

/// Asks the processor to bring `len` bytes from an address on into its cache.
/// A hint: it never faults, whatever the address, and changes nothing that a
/// program can see.
#[inline]
pub fn prefetch(from: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        // From the start of a line, so that the last one is not missed.
        let before = from.addr() % LINE;
        let start = from.wrapping_sub(before);
        for at in (0..before + len).step_by(LINE) {
            // SAFETY: prefetching is defined for any address; SSE is part of
            // the x86-64 baseline.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, len);
}
