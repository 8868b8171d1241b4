//! One lane at a time: works everywhere, and is the smallest instance of the
//! generic kernels.

use super::Kernels;
use super::generic::{Lanes, kernels};

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
    unsafe fn add(self, other: Self) -> Self {
        One(self.0 + other.0)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        One(self.0 - other.0)
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

pub(super) const KERNELS: Kernels = kernels!("scalar", One);
