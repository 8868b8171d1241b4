//! NEON, part of the AArch64 baseline.

// Each method is one intrinsic or two, and its safety is the trait's contract:
// the caller has the instruction set and gives readable memory.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::aarch64::*;

use half::f16;

use super::Kernels;
use super::generic::{Lanes, inner_product_bytes, kernels};

/// NEON is always there on AArch64.
pub(super) fn available() -> Vec<Kernels> {
    vec![NEON]
}

const NEON: Kernels = kernels!(
    $ "neon", float32x4_t, scan_block, inner_product_bytes, "neon");

/// See [`Kernels::scan_block`]. Sums of 1024 dimensions fit into 16 bits; those
/// of the even codes are told from the odd ones' as in `x86.rs`.
///
/// # Safety
///
/// The processor has NEON.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn scan_block(table: &[u8], block: &[u8], sums: &mut [u32; 32]) {
    assert_eq!(table.len(), block.len(), "a table of another dimension");
    assert!(table.len().is_multiple_of(16));
    sums.fill(0);
    let nibble = vdupq_n_u8(15);
    for (table, block) in table.chunks(4096).zip(block.chunks(4096)) {
        let mut all = [vdupq_n_u16(0); 2];
        let mut odd = [vdupq_n_u16(0); 2];
        for (table, block) in table.chunks_exact(16).zip(block.chunks_exact(16)) {
            let entries = vld1q_u8(table.as_ptr());
            let codes = vld1q_u8(block.as_ptr());
            let picks = [vandq_u8(codes, nibble), vshrq_n_u8::<4>(codes)];
            for (half, picks) in picks.into_iter().enumerate() {
                let picked = vreinterpretq_u16_u8(vqtbl1q_u8(entries, picks));
                all[half] = vaddq_u16(all[half], picked);
                odd[half] = vaddq_u16(odd[half], vshrq_n_u16::<8>(picked));
            }
        }
        for half in 0..2 {
            let even = vsubq_u16(all[half], vshlq_n_u16::<8>(odd[half]));
            for (parity, sum) in [even, odd[half]].into_iter().enumerate() {
                let mut stored = [0_u16; 8];
                vst1q_u16(stored.as_mut_ptr(), sum);
                for (i, word) in stored.into_iter().enumerate() {
                    sums[16 * half + 2 * i + parity] += u32::from(word);
                }
            }
        }
    }
}

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
    unsafe fn load_half(p: *const f16) -> Self {
        // Four values; the compiler knows the instruction for them.
        let values = p.cast::<[f16; 4]>().read_unaligned();
        vld1q_f32(values.map(f16::to_f32).as_ptr())
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        vst1q_f32(p, self);
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut f16) {
        let mut lanes = [0.0_f32; 4];
        vst1q_f32(lanes.as_mut_ptr(), self);
        p.cast::<[f16; 4]>()
            .write_unaligned(lanes.map(f16::from_f32));
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        let four = vreinterpret_s8_s32(vdup_n_s32(p.cast::<i32>().read_unaligned()));
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four))))
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        vdupq_n_f32(value)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        vmulq_f32(self, other)
    }
    #[inline(always)]
    unsafe fn where_positive(self, of: Self) -> Self {
        let positive = vcgtq_f32(self, vdupq_n_f32(0.0));
        vreinterpretq_f32_u32(vandq_u32(positive, vreinterpretq_u32_f32(of)))
    }
    #[inline(always)]
    unsafe fn positive_bits(self) -> u32 {
        let weights = [1, 2, 4, 8];
        let positive = vcgtq_f32(self, vdupq_n_f32(0.0));
        vaddvq_u32(vandq_u32(positive, vld1q_u32(weights.as_ptr())))
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
    unsafe fn put(self, value: f32, indices: Self, index: u32) -> Self {
        let same = vceqq_u32(vreinterpretq_u32_f32(indices), vdupq_n_u32(index));
        vbslq_f32(same, vdupq_n_f32(value), self)
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
