//! One lane at a time: works everywhere, and is the smallest instance of the
//! generic kernels.

use half::f16;

use super::Kernels;
use super::generic::{Lanes, inner_product_bytes, kernels};

/// A register of one lane.
#[derive(Clone, Copy)]
struct One(f32);

// SAFETY: plain Rust arithmetic, available on every processor.
unsafe impl Lanes for One {
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> Self {
        One(0.0)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller gives a readable value.
        One(unsafe { *p })
    }
    #[inline(always)]
    unsafe fn load_partial(_p: *const f32, _n: usize) -> Self {
        // `n < LANES` leaves only zero values to load.
        One(0.0)
    }
    #[inline(always)]
    unsafe fn load_half(p: *const f16) -> Self {
        // SAFETY: the caller gives a readable value.
        One(unsafe { p.read_unaligned() }.to_f32())
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller gives a writable place.
        unsafe { *p = self.0 };
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut f16) {
        // SAFETY: the caller gives a writable place.
        unsafe { p.write_unaligned(f16::from_f32(self.0)) };
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        // SAFETY: the caller gives a readable value.
        One(f32::from(unsafe { *p }))
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        One(value)
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        One(self.0 + other.0)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        One(self.0 * other.0)
    }
    #[inline(always)]
    unsafe fn where_positive(self, of: Self) -> Self {
        One(if self.0 > 0.0 { of.0 } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn positive_bits(self) -> u32 {
        u32::from(self.0 > 0.0)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        One(self.0 - other.0)
    }
    #[inline(always)]
    unsafe fn put(self, value: f32, indices: Self, index: u32) -> Self {
        if indices.0.to_bits() == index {
            One(value)
        } else {
            self
        }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        One(self.0.abs())
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, acc: Self) -> Self {
        One(self.0 * a.0 + acc.0)
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0
    }
}

/// See [`Kernels::scan_block`].
fn scan_block(table: &[u8], block: &[u8], sums: &mut [u32; 32]) {
    assert_eq!(table.len(), block.len(), "a table of another dimension");
    sums.fill(0);
    let (low, high) = sums.split_at_mut(16);
    for (entries, codes) in table.chunks_exact(16).zip(block.chunks_exact(16)) {
        for ((&code, low), high) in codes.iter().zip(&mut *low).zip(&mut *high) {
            *low += u32::from(entries[usize::from(code & 15)]);
            *high += u32::from(entries[usize::from(code >> 4)]);
        }
    }
}

pub(super) const KERNELS: Kernels = kernels!($ "scalar", One, scan_block, inner_product_bytes);
