//! NEON, part of the AArch64 baseline.

// Each method is one intrinsic or two, and its safety is the trait's contract:
// the caller has the instruction set and gives readable memory.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::aarch64::*;

use super::Kernels;
use super::generic::{Lanes, kernels};

/// NEON is always there on AArch64.
pub(super) fn available() -> Vec<Kernels> {
    vec![NEON]
}

const NEON: Kernels = kernels!("neon", float32x4_t, "neon");

// SAFETY: the methods use NEON only.
unsafe impl Lanes for float32x4_t {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        vdupq_n_f32(0.0)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        vld1q_f32(p)
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Self {
        let mut lanes = [0.0_f32; 4];
        // `n < 4` values are readable at `p`.
        std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
        vld1q_f32(lanes.as_ptr())
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        vaddq_f32(self, other)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        vsubq_f32(self, other)
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        vabsq_f32(self)
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, acc: Self) -> Self {
        vfmaq_f32(acc, self, a)
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        vaddvq_f32(self)
    }
}
