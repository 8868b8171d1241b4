//! What is done to each component of a vector, once, over any vector register: arithmetic,
//! conversion between precisions, sums over many vectors.

use super::generic::{Component, Lanes};

/// As many lanes as the widest register has.
const MOST: usize = 16;

/// A part of a vector that stays in the processor's first cache.
const PART: usize = 256;

/// Calls `each` for `n` pairs of components, a register at a time; the last register is
/// filled up with zeros.
///
/// # Safety
///
/// The processor has `V`'s instruction set. There are `n` components at `a`, at `b` and at
/// `out`, which may be the same as `a`.
#[inline(always)]
unsafe fn map<V: Lanes, A: Component, B: Component, R: Component>(
    (a, b, out): (*const A, *const B, *mut R),
    n: usize,
    each: impl Fn(V, V) -> V,
) {
    let whole = n - n % V::LANES;
    // SAFETY: every load and store is of `LANES`, or the given smaller number of,
    // components at `i`, with `i + that number <= n`.
    unsafe {
        let mut i = 0;
        while i < whole {
            R::store(each(A::load(a.add(i)), B::load(b.add(i))), out.add(i));
            i += V::LANES;
        }
        if i < n {
            let rest = n - i;
            let x = A::load_partial(a.add(i), rest);
            let y = B::load_partial(b.add(i), rest);
            R::store_partial(each(x, y), out.add(i), rest);
        }
    }
}

/// Calls [`map`] for slices.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
unsafe fn map_slices<V: Lanes, T: Component>(
    a: &[T],
    b: &[T],
    out: &mut [T],
    each: impl Fn(V, V) -> V,
) {
    assert!(a.len() == b.len() && a.len() == out.len());
    // SAFETY: all three have the same length.
    unsafe { map((a.as_ptr(), b.as_ptr(), out.as_mut_ptr()), out.len(), each) }
}

/// Rounds or widens components.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn convert<V: Lanes, A: Component, R: Component>(values: &[A], out: &mut [R]) {
    assert_eq!(values.len(), out.len());
    let from = values.as_ptr();
    // SAFETY: both have the same length.
    unsafe { map((from, from, out.as_mut_ptr()), out.len(), |x: V, _| x) }
}

/// aᵢ + bᵢ.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn add<V: Lanes, T: Component>(a: &[T], b: &[T], out: &mut [T]) {
    // SAFETY: passed on.
    unsafe { map_slices::<V, T>(a, b, out, |x, y| x.add(y)) }
}

/// sumᵢ + bᵢ in the place of sumᵢ.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn add_to<V: Lanes, T: Component>(sums: &mut [T], b: &[T]) {
    assert_eq!(sums.len(), b.len());
    let at = sums.as_mut_ptr();
    // SAFETY: both have the same length.
    unsafe {
        map((at.cast_const(), b.as_ptr(), at), b.len(), |x: V, y: V| {
            x.add(y)
        })
    }
}

/// aᵢ − bᵢ.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn subtract<V: Lanes, T: Component>(a: &[T], b: &[T], out: &mut [T]) {
    // SAFETY: passed on.
    unsafe { map_slices::<V, T>(a, b, out, |x, y| x.sub(y)) }
}

/// aᵢ·bᵢ.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn multiply<V: Lanes, T: Component>(a: &[T], b: &[T], out: &mut [T]) {
    // SAFETY: passed on.
    unsafe { map_slices::<V, T>(a, b, out, |x, y| x.mul(y)) }
}

/// Whether a product is zero although neither factor is.
#[inline(always)]
pub(super) fn underflow<T: Component>(a: &[T], b: &[T], products: &[T]) -> bool {
    let is_zero = |x: T| x.magnitude() == T::Bits::default();
    let each = a.iter().zip(b).zip(products);
    each.fold(false, |found, ((&x, &y), &product)| {
        found | (is_zero(product) & !is_zero(x) & !is_zero(y))
    })
}

/// Whether all components are finite.
#[inline(always)]
pub(super) fn are_finite<T: Component>(values: &[T]) -> bool {
    // Without a branch a component, so that they are looked at many at a time.
    let largest = values
        .iter()
        .fold(T::Bits::default(), |largest, &x| largest.max(x.magnitude()));
    largest < T::INFINITE
}

/// Σ xᵢ² in `f64`, in so many sums that no addition waits for another.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn squares<V: Lanes, T: Component>(values: &[T]) -> f64 {
    const SUMS: usize = 32;
    let mut sums = [0.0_f64; SUMS];
    let mut wide = [0.0_f32; PART];
    for part in values.chunks(PART) {
        // SAFETY: passed on.
        let part = unsafe { widened::<V, T>(part, &mut wide) };
        let (chunks, rest) = part.as_chunks::<SUMS>();
        for chunk in chunks {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(rest) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    // Half by half, which waits less than one by one.
    let mut width = SUMS;
    while width > 1 {
        width /= 2;
        let (low, high) = sums.split_at_mut(width);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
    }
    sums[0]
}

/// Components of a part of a vector as `f32`.
#[inline(always)]
unsafe fn widened<'a, V: Lanes, T: Component>(
    part: &'a [T],
    room: &'a mut [f32; PART],
) -> &'a [f32] {
    match T::as_single(part) {
        Some(part) => part,
        None => {
            let room = &mut room[..part.len()];
            // SAFETY: passed on.
            unsafe { convert::<V, T, f32>(part, room) };
            room
        }
    }
}

/// xᵢ·times, rounded from `f64`.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn scale<V: Lanes, T: Component>(values: &[T], times: f64, out: &mut [T]) {
    let (mut wide, mut scaled) = ([0.0_f32; PART], [0.0_f32; PART]);
    for (part, out) in values.chunks(PART).zip(out.chunks_mut(PART)) {
        let scaled = &mut scaled[..part.len()];
        // SAFETY: passed on.
        unsafe {
            let part = widened::<V, T>(part, &mut wide);
            for (scaled, &x) in scaled.iter_mut().zip(part) {
                *scaled = (f64::from(x) * times) as f32;
            }
            convert::<V, f32, T>(scaled, out);
        }
    }
}

/// Adds a vector to sums; whether all are finite.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn accumulate<V: Lanes, T: Component>(sums: &mut [f64], values: &[T]) -> bool {
    assert_eq!(sums.len(), values.len(), "vectors of different dimensions");
    let mut wide = [0.0_f32; PART];
    let mut overflows = 0_u64;
    for (sums, part) in sums.chunks_mut(PART).zip(values.chunks(PART)) {
        // SAFETY: passed on.
        let part = unsafe { widened::<V, T>(part, &mut wide) };
        for (sum, &x) in sums.iter_mut().zip(part) {
            *sum += f64::from(x);
            overflows |= u64::from(sum.is_infinite());
        }
    }
    overflows == 0
}

/// A bit for each component, eight to a byte, the first one highest: whether it is
/// positive. The last byte is filled up with zeros.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn signs<V: Lanes, T: Component>(values: &[T], bits: &mut [u8]) {
    assert_eq!(bits.len(), values.len().div_ceil(8));
    for (bits, part) in bits.chunks_mut(MOST / 8).zip(values.chunks(MOST)) {
        let mut word = 0;
        // SAFETY: every load is of `LANES`, or the given smaller number of, components
        // inside of the part.
        unsafe {
            for (number, lanes) in part.chunks(V::LANES).enumerate() {
                let x: V = match lanes.len() == V::LANES {
                    true => T::load(lanes.as_ptr()),
                    false => T::load_partial(lanes.as_ptr(), lanes.len()),
                };
                word |= x.positive_bits() << (number * V::LANES);
            }
        }
        for (byte, bits) in bits.iter_mut().zip(word.to_le_bytes()) {
            *byte = bits.reverse_bits();
        }
    }
}
