//! The kernels, once, over any vector register.

/// A register of `f32` lanes.
///
/// # Safety
///
/// All methods may use instructions of the implementing set: callers must have
/// checked that the processor has it.
pub(super) unsafe trait Lanes: Copy {
    /// Number of lanes.
    const LANES: usize;

    /// All lanes zero.
    unsafe fn zero() -> Self;
    /// Loads `LANES` values from `p`, which needs no alignment.
    unsafe fn load(p: *const f32) -> Self;
    /// Loads `n < LANES` values from `p`; the other lanes are zero.
    unsafe fn load_partial(p: *const f32, n: usize) -> Self;
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`.
    unsafe fn sub(self, other: Self) -> Self;
    /// `|self|`.
    unsafe fn abs(self) -> Self;
    /// `self * a + acc`.
    unsafe fn mul_add(self, a: Self, acc: Self) -> Self;
    /// Sum of the lanes.
    unsafe fn sum(self) -> f32;
}

/// Folds two slices with `step(acc, a, b)`, in four independent accumulators
/// so that the latency of one addition does not bound the throughput.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
unsafe fn fold<V: Lanes>(a: &[f32], b: &[f32], step: impl Fn(V, V, V) -> V) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    let n = a.len();
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    let mut i = 0;
    // SAFETY: every load reads `LANES` (or the given smaller number of) values
    // at `i`, with `i + that number <= n`, the length of both slices.
    unsafe {
        let mut acc = [V::zero(); 4];
        while i + 4 * V::LANES <= n {
            for (k, acc) in acc.iter_mut().enumerate() {
                let at = i + k * V::LANES;
                *acc = step(*acc, V::load(pa.add(at)), V::load(pb.add(at)));
            }
            i += 4 * V::LANES;
        }
        while i + V::LANES <= n {
            acc[0] = step(acc[0], V::load(pa.add(i)), V::load(pb.add(i)));
            i += V::LANES;
        }
        if i < n {
            let rest = n - i;
            acc[1] = step(
                acc[1],
                V::load_partial(pa.add(i), rest),
                V::load_partial(pb.add(i), rest),
            );
        }
        acc[0].add(acc[1]).add(acc[2].add(acc[3])).sum()
    }
}

/// Σ (aᵢ − bᵢ)².
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn l2_squared<V: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        fold::<V>(a, b, |acc, x, y| {
            let d = x.sub(y);
            d.mul_add(d, acc)
        })
    }
}

/// Σ aᵢ·bᵢ.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn inner_product<V: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { fold::<V>(a, b, |acc, x, y| x.mul_add(y, acc)) }
}

/// Σ |aᵢ − bᵢ|.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn l1<V: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { fold::<V>(a, b, |acc, x, y| acc.add(x.sub(y).abs())) }
}

/// Σ aᵢ·bᵢ, Σ aᵢ², Σ bᵢ².
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn cosine_parts<V: Lanes>(a: &[f32], b: &[f32]) -> (f32, f32, f32) {
    // SAFETY: the caller vouches for the instruction set. Three passes over
    // slices that the first one brought into the cache keep one loop shape.
    unsafe {
        (
            inner_product::<V>(a, b),
            inner_product::<V>(a, a),
            inner_product::<V>(b, b),
        )
    }
}

/// Declares the kernels of an instruction set: safe functions over the generic
/// ones, for a set that the dispatcher has found on this processor.
macro_rules! kernels {
    ($name:literal, $lanes:ty $(, $feature:literal)?) => {{
        use crate::simd::{Kernels, generic};

        $(#[target_feature(enable = $feature)])?
        unsafe fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
            // SAFETY: compiled for, and called on, processors with the set.
            unsafe { generic::l2_squared::<$lanes>(a, b) }
        }
        $(#[target_feature(enable = $feature)])?
        unsafe fn inner_product(a: &[f32], b: &[f32]) -> f32 {
            // SAFETY: as above.
            unsafe { generic::inner_product::<$lanes>(a, b) }
        }
        $(#[target_feature(enable = $feature)])?
        unsafe fn l1(a: &[f32], b: &[f32]) -> f32 {
            // SAFETY: as above.
            unsafe { generic::l1::<$lanes>(a, b) }
        }
        $(#[target_feature(enable = $feature)])?
        unsafe fn cosine_parts(a: &[f32], b: &[f32]) -> (f32, f32, f32) {
            // SAFETY: as above.
            unsafe { generic::cosine_parts::<$lanes>(a, b) }
        }
        Kernels {
            name: $name,
            // SAFETY: the table is handed out only by `available`, after it
            // has found the instruction set on this processor.
            l2_squared: |a, b| unsafe { l2_squared(a, b) },
            // SAFETY: as above.
            inner_product: |a, b| unsafe { inner_product(a, b) },
            // SAFETY: as above.
            l1: |a, b| unsafe { l1(a, b) },
            // SAFETY: as above.
            cosine_parts: |a, b| unsafe { cosine_parts(a, b) },
        }
    }};
}
pub(super) use kernels;
