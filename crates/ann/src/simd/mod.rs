//! Distance kernels over `f32`, with run-time dispatch.
//!
//! Each distance is written once, in [`generic`], over a small trait of vector
//! registers ([`generic::Lanes`]). A file per instruction set implements the
//! trait and instantiates the kernels under its `target_feature`; [`kernels`]
//! picks the best set the processor has, once per process. The scalar set is
//! the fallback and, being another instance of the same code, shows that the
//! generic code is right; `tests/distances.rs` holds the naive oracle.
//!
//! Sums are kept in `f32`, as pgvector does; the order of additions differs
//! between instruction sets, so results agree to rounding, not to the bit.

#![allow(unsafe_code)]

mod generic;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

/// A distance kernel over two slices of the same length.
///
/// Panics if the lengths differ.
pub type Kernel = fn(&[f32], &[f32]) -> f32;

/// A kernel that returns three sums, see [`Kernels::cosine_parts`].
pub type CosineKernel = fn(&[f32], &[f32]) -> (f32, f32, f32);

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// Name of the instruction set, for reports.
    pub name: &'static str,
    /// Σ (aᵢ − bᵢ)².
    pub l2_squared: Kernel,
    /// Σ aᵢ·bᵢ.
    pub inner_product: Kernel,
    /// Σ |aᵢ − bᵢ|.
    pub l1: Kernel,
    /// Σ aᵢ·bᵢ, Σ aᵢ², Σ bᵢ², in one pass.
    pub cosine_parts: CosineKernel,
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

/// Asks the processor to bring `bytes` into its cache. A hint: it never
/// faults and changes nothing that a program can see.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for line in bytes.chunks(64) {
            // SAFETY: prefetching is defined for any address, and this one is
            // inside a live slice; SSE is part of the x86-64 baseline.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
