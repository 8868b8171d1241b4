//! The kernels, once, over any vector register.

use half::f16;

use crate::SparseVector;

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
    /// Loads `LANES` half-precision values from `p`, which needs no alignment.
    unsafe fn load_half(p: *const f16) -> Self;
    /// Stores `LANES` values at `p`, which needs no alignment.
    unsafe fn store(self, p: *mut f32);
    /// Stores `LANES` values, rounded to half precision, at `p`, which needs no alignment.
    unsafe fn store_half(self, p: *mut f16);
    /// Loads `LANES` bytes from `p`, which needs no alignment, as numbers.
    unsafe fn load_i8(p: *const i8) -> Self;
    /// All lanes the same.
    unsafe fn splat(value: f32) -> Self;
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`.
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * other`.
    unsafe fn mul(self, other: Self) -> Self;
    /// `of` in the lanes where `self` is positive, else zero.
    unsafe fn where_positive(self, of: Self) -> Self;
    /// A bit for each lane, the first lane's lowest: whether it is positive.
    unsafe fn positive_bits(self) -> u32;
    /// `value` in the lanes where `indices`, whole numbers in the form of a register,
    /// are `index`, else `self`.
    unsafe fn put(self, value: f32, indices: Self, index: u32) -> Self;
    /// `|self|`.
    unsafe fn abs(self) -> Self;
    /// `self * a + acc`.
    unsafe fn mul_add(self, a: Self, acc: Self) -> Self;
    /// Sum of the lanes.
    unsafe fn sum(self) -> f32;
}

/// Components that a register of `f32` lanes can be loaded from and stored to.
pub(super) trait Component: Copy {
    /// Their bits.
    type Bits: Copy + Default + Ord;
    /// The bits of infinity.
    const INFINITE: Self::Bits;

    /// Loads `LANES` values from `p`, which needs no alignment.
    unsafe fn load<V: Lanes>(p: *const Self) -> V;
    /// Loads `n < LANES` values from `p`; the other lanes are zero.
    unsafe fn load_partial<V: Lanes>(p: *const Self, n: usize) -> V;
    /// Stores `LANES` values at `p`, which needs no alignment.
    unsafe fn store<V: Lanes>(values: V, p: *mut Self);
    /// Stores the first `n < LANES` values at `p`.
    unsafe fn store_partial<V: Lanes>(values: V, p: *mut Self, n: usize);
    /// The bits of the magnitude, which are in the order of magnitudes.
    fn magnitude(self) -> Self::Bits;
    /// The same values, if they are `f32`.
    fn as_single(values: &[Self]) -> Option<&[f32]>;
}

impl Component for f32 {
    type Bits = u32;
    const INFINITE: u32 = f32::INFINITY.to_bits();

    #[inline(always)]
    unsafe fn load<V: Lanes>(p: *const f32) -> V {
        // SAFETY: passed on.
        unsafe { V::load(p) }
    }
    #[inline(always)]
    unsafe fn load_partial<V: Lanes>(p: *const f32, n: usize) -> V {
        // SAFETY: passed on.
        unsafe { V::load_partial(p, n) }
    }
    #[inline(always)]
    unsafe fn store<V: Lanes>(values: V, p: *mut f32) {
        // SAFETY: passed on.
        unsafe { values.store(p) }
    }
    #[inline(always)]
    unsafe fn store_partial<V: Lanes>(values: V, p: *mut f32, n: usize) {
        // As many as the widest register has.
        let mut lanes = [0.0; 16];
        // SAFETY: `n < LANES <= 16` values are writable at `p`.
        unsafe {
            values.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    fn magnitude(self) -> u32 {
        self.to_bits() & (u32::MAX >> 1)
    }
    #[inline(always)]
    fn as_single(values: &[f32]) -> Option<&[f32]> {
        Some(values)
    }
}

impl Component for f16 {
    type Bits = u16;
    const INFINITE: u16 = f16::INFINITY.to_bits();

    #[inline(always)]
    unsafe fn load<V: Lanes>(p: *const f16) -> V {
        // SAFETY: passed on.
        unsafe { V::load_half(p) }
    }
    #[inline(always)]
    unsafe fn load_partial<V: Lanes>(p: *const f16, n: usize) -> V {
        // As many as the widest register has.
        let mut lanes = [f16::ZERO; 16];
        // SAFETY: `n < LANES <= 16` values are readable at `p`.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            V::load_half(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store<V: Lanes>(values: V, p: *mut f16) {
        // SAFETY: passed on.
        unsafe { values.store_half(p) }
    }
    #[inline(always)]
    unsafe fn store_partial<V: Lanes>(values: V, p: *mut f16, n: usize) {
        // As many as the widest register has.
        let mut lanes = [f16::ZERO; 16];
        // SAFETY: `n < LANES <= 16` values are writable at `p`.
        unsafe {
            values.store_half(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    fn magnitude(self) -> u16 {
        self.to_bits() & (u16::MAX >> 1)
    }
    #[inline(always)]
    fn as_single(_values: &[f16]) -> Option<&[f32]> {
        None
    }
}

/// Folds two slices with `step(acc, a, b)`, in four independent accumulators
/// so that the latency of one addition does not bound the throughput.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
unsafe fn fold<V: Lanes, T: Component>(a: &[T], b: &[T], step: impl Fn(V, V, V) -> V) -> f32 {
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
                *acc = step(*acc, T::load(pa.add(at)), T::load(pb.add(at)));
            }
            i += 4 * V::LANES;
        }
        while i + V::LANES <= n {
            acc[0] = step(acc[0], T::load(pa.add(i)), T::load(pb.add(i)));
            i += V::LANES;
        }
        if i < n {
            let rest = n - i;
            acc[1] = step(
                acc[1],
                T::load_partial(pa.add(i), rest),
                T::load_partial(pb.add(i), rest),
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
pub(super) unsafe fn l2_squared<V: Lanes, T: Component>(a: &[T], b: &[T]) -> f32 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        fold::<V, T>(a, b, |acc, x, y| {
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
pub(super) unsafe fn inner_product<V: Lanes, T: Component>(a: &[T], b: &[T]) -> f32 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { fold::<V, T>(a, b, |acc, x, y| x.mul_add(y, acc)) }
}

/// Σ |aᵢ − bᵢ|.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn l1<V: Lanes, T: Component>(a: &[T], b: &[T]) -> f32 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { fold::<V, T>(a, b, |acc, x, y| acc.add(x.sub(y).abs())) }
}

/// Σ aᵢ·bᵢ, Σ aᵢ², Σ bᵢ².
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn cosine_parts<V: Lanes, T: Component>(a: &[T], b: &[T]) -> (f32, f32, f32) {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    let n = a.len();
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    let mut i = 0;
    // SAFETY: as in `fold`.
    unsafe {
        // Two of each sum, so that the latency of an addition does not bound
        // the throughput.
        let mut sums = [[V::zero(); 3]; 2];
        let add = |sums: &mut [V; 3], x: V, y: V| {
            sums[0] = x.mul_add(y, sums[0]);
            sums[1] = x.mul_add(x, sums[1]);
            sums[2] = y.mul_add(y, sums[2]);
        };
        while i + 2 * V::LANES <= n {
            for (k, sums) in sums.iter_mut().enumerate() {
                let at = i + k * V::LANES;
                add(sums, T::load(pa.add(at)), T::load(pb.add(at)));
            }
            i += 2 * V::LANES;
        }
        if i + V::LANES <= n {
            add(&mut sums[0], T::load(pa.add(i)), T::load(pb.add(i)));
            i += V::LANES;
        }
        if i < n {
            let (x, y) = (
                T::load_partial(pa.add(i), n - i),
                T::load_partial(pb.add(i), n - i),
            );
            add(&mut sums[1], x, y);
        }
        let sum = |part: usize| sums[0][part].add(sums[1][part]).sum();
        (sum(0), sum(1), sum(2))
    }
}

/// Σ aᵢ·bᵢ of numbers and bytes. The length is a multiple of 64.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn inner_product_i8<V: Lanes>(a: &[f32], b: &[i8]) -> f32 {
    assert!(a.len() == b.len() && a.len().is_multiple_of(64));
    // SAFETY: every load reads `LANES` values, a divisor of 16, inside of both
    // slices.
    unsafe {
        let mut acc = [V::zero(); 4];
        let mut i = 0;
        while i < a.len() {
            for acc in &mut acc {
                let x = V::load(a.as_ptr().add(i));
                *acc = x.mul_add(V::load_i8(b.as_ptr().add(i)), *acc);
                i += V::LANES;
            }
        }
        acc[0].add(acc[1]).add(acc[2].add(acc[3])).sum()
    }
}

/// Σ aᵢ·bᵢ of bytes.
#[inline(always)]
pub(super) fn inner_product_bytes(a: &[i8], b: &[i8]) -> i32 {
    assert!(a.len() == b.len() && a.len().is_multiple_of(64));
    a.iter()
        .zip(b)
        .map(|(&a, &b)| i32::from(a) * i32::from(b))
        .sum()
}

/// See [`super::Kernels::sign_code`].
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn sign_code<V: Lanes>(
    centre: &[f32],
    scale: f32,
    point: &[i8],
    times: f32,
    bits: &mut [u8],
) -> [f32; 4] {
    assert!(centre.len() == point.len() && centre.len().is_multiple_of(64));
    assert_eq!(bits.len() * 8, centre.len());
    // SAFETY: every load reads `LANES` values, a divisor of 16, inside of both
    // slices.
    unsafe {
        let (scale, times) = (V::splat(scale), V::splat(times));
        let mut sums = [V::zero(); 4];
        for (word, bytes) in bits.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let mut packed = 0;
            for k in 0..32 / V::LANES {
                let at = word * 32 + k * V::LANES;
                let c = V::load(centre.as_ptr().add(at));
                // Rounded the same everywhere, so that signs are: not fused.
                let point = V::load_i8(point.as_ptr().add(at)).mul(scale);
                let r = point.sub(c.mul(times));
                packed |= r.positive_bits() << (k * V::LANES);
                sums[0] = r.mul_add(r, sums[0]);
                sums[1] = r.mul_add(c, sums[1]);
                sums[2] = sums[2].add(r.abs());
                // c·(x − ½) for the bit x.
                let half = c.mul(V::splat(0.5));
                sums[3] = sums[3].add(r.where_positive(c)).sub(half);
            }
            *bytes = packed.to_le_bytes();
        }
        sums.map(|sum| sum.sum())
    }
}

/// The components of a sparse vector, a register at a time; the last register is
/// filled up with zeros at an index that no component has.
struct Registers<'a, V> {
    indices: &'a [u32],
    values: &'a [f32],
    count: usize,
    /// As many as the widest register has.
    last: ([u32; 16], [f32; 16]),
    lanes: std::marker::PhantomData<V>,
}

impl<'a, V: Lanes> Registers<'a, V> {
    #[inline(always)]
    fn new(vector: &'a SparseVector<'_>) -> Self {
        let (indices, values) = vector.pairs();
        let whole = indices.len() / V::LANES * V::LANES;
        let rest = indices.len() - whole;
        let mut last = ([u32::MAX; 16], [0.0; 16]);
        last.0[..rest].copy_from_slice(&indices[whole..]);
        last.1[..rest].copy_from_slice(&values[whole..]);
        Registers {
            indices: &indices[..whole],
            values: &values[..whole],
            count: indices.len().div_ceil(V::LANES),
            last,
            lanes: std::marker::PhantomData,
        }
    }

    /// Indices and components of a register; those of the last one also beyond it.
    #[inline(always)]
    fn get(&self, register: usize) -> (&[u32], &[f32]) {
        let lanes = register * V::LANES..(register + 1) * V::LANES;
        match (self.indices.get(lanes.clone()), self.values.get(lanes)) {
            (Some(indices), Some(values)) => (indices, values),
            _ => (&self.last.0[..V::LANES], &self.last.1[..V::LANES]),
        }
    }
}

/// Σ `term(aᵢ, bᵢ)` over the indices of `a` and, if `EITHER`, those that only `b`
/// has. `term(0, 0)` is 0.
///
/// Which of two indices is smaller cannot be foreseen, so that merging the lists one
/// by one costs a wrong guess or a wait for each. Here every index of a register of
/// the one is compared with every index of a register of the other, without a branch.
///
/// # Safety
///
/// The processor has `V`'s instruction set.
#[inline(always)]
pub(super) unsafe fn sparse_sum<V: Lanes, const EITHER: bool>(
    a: SparseVector<'_>,
    b: SparseVector<'_>,
    term: impl Fn(V, V) -> V,
) -> f32 {
    let (a, b) = (Registers::<V>::new(&a), Registers::<V>::new(&b));
    // SAFETY: `get` gives `LANES` values, and every load reads as many.
    unsafe {
        let mut sum = V::zero();
        let (mut i, mut j) = (0, 0);
        // What `b` has at the indices of this register of `a`; and what this register
        // of `b` has where `a` has nothing.
        let mut opposite = V::zero();
        let mut alone = V::load(b.get(0).1.as_ptr());
        while i < a.count || (EITHER && j < b.count) {
            let ((x, x_values), (y, y_values)) = (a.get(i), b.get(j));
            let (has_a, has_b) = (i < a.count, j < b.count);
            if has_a && has_b {
                let x_lanes = V::load(x.as_ptr().cast());
                let y_lanes = V::load(y.as_ptr().cast());
                for k in 0..V::LANES {
                    opposite = opposite.put(y_values[k], x_lanes, y[k]);
                    if EITHER {
                        alone = alone.put(0.0, y_lanes, x[k]);
                    }
                }
            }
            let (x_last, y_last) = (x[V::LANES - 1], y[V::LANES - 1]);
            if has_a && (!has_b || x_last <= y_last) {
                sum = sum.add(term(V::load(x_values.as_ptr()), opposite));
                opposite = V::zero();
                i += 1;
            }
            if has_b && (!has_a || y_last <= x_last) {
                if EITHER {
                    sum = sum.add(term(V::zero(), alone));
                }
                j += 1;
                alone = V::load(b.get(j).1.as_ptr());
            }
        }
        sum.sum()
    }
}

/// How many bits differ.
#[inline(always)]
pub(super) fn hamming(a: &[u8], b: &[u8]) -> u64 {
    assert_eq!(a.len(), b.len(), "bit strings of different lengths");
    words(a, b)
        .map(|(a, b)| u64::from((a ^ b).count_ones()))
        .sum()
}

/// How many bits are set in both, and how many in either.
#[inline(always)]
pub(super) fn common_bits(a: &[u8], b: &[u8]) -> (u64, u64) {
    assert_eq!(a.len(), b.len(), "bit strings of different lengths");
    words(a, b).fold((0, 0), |(both, either), (a, b)| {
        (
            both + u64::from((a & b).count_ones()),
            either + u64::from((a | b).count_ones()),
        )
    })
}

/// The bytes of two slices of one length, eight at a time; the last words are
/// filled up with zeros.
#[inline(always)]
fn words<'a>(a: &'a [u8], b: &'a [u8]) -> impl Iterator<Item = (u64, u64)> {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let last = |rest: &[u8]| {
        let bytes = rest.iter().rev();
        bytes.fold(0_u64, |word, &byte| word << 8 | u64::from(byte))
    };
    let whole = a.iter().zip(b);
    whole
        .map(|(&a, &b)| (u64::from_le_bytes(a), u64::from_le_bytes(b)))
        .chain([(last(a_rest), last(b_rest))])
}

/// The Walsh-Hadamard transform, not scaled, in place. The length is a power
/// of two.
#[inline(always)]
pub(super) fn hadamard(values: &mut [f32]) {
    let n = values.len();
    debug_assert!(n.is_power_of_two());
    let mut stride = 1;
    if n >= 16 {
        for block in values.as_chunks_mut::<16>().0 {
            hadamard_16(block);
        }
        stride = 16;
    }
    while stride < n {
        for block in values.chunks_exact_mut(2 * stride) {
            let (a, b) = block.split_at_mut(stride);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        stride *= 2;
    }
}

#[inline(always)]
fn hadamard_16(x: &mut [f32; 16]) {
    /// Sums and differences of elements so far apart.
    #[inline(always)]
    fn step<const STRIDE: usize>(x: [f32; 16]) -> [f32; 16] {
        let mut y = x;
        for i in 0..16 {
            let sign = if i & STRIDE == 0 { 1.0 } else { -1.0 };
            y[i] = sign * x[i] + x[i ^ STRIDE];
        }
        y
    }
    *x = step::<8>(step::<4>(step::<2>(step::<1>(*x))));
}

/// See [`super::Kernels::fill_table`].
#[inline(always)]
pub(super) fn fill_table(query: &[f32], step: f32, table: &mut [u8]) {
    /// Added to a small number that is not negative, leaves it, rounded, in the
    /// low bits.
    const INTEGER: f32 = (1 << 23) as f32;
    assert_eq!(query.len() * 4, table.len());
    let scale = 1.0 / step;
    // Whether a code has a bit, as a factor.
    let mut bits = [[0.0_f32; 16]; 4];
    for (b, bits) in bits.iter_mut().enumerate() {
        for (code, bit) in bits.iter_mut().enumerate() {
            *bit = (code >> b & 1) as f32;
        }
    }
    let groups = query.as_chunks::<4>().0.iter();
    for (&[q0, q1, q2, q3], entries) in groups.zip(table.as_chunks_mut::<16>().0) {
        let least = q0.min(0.0) + q1.min(0.0) + q2.min(0.0) + q3.min(0.0);
        for (code, entry) in entries.iter_mut().enumerate() {
            let low = bits[0][code] * q0 + bits[1][code] * q1;
            let high = bits[2][code] * q2 + bits[3][code] * q3;
            *entry = ((low + high - least) * scale + INTEGER).to_bits() as u8;
        }
    }
}

/// See [`super::Kernels::bounds`].
#[inline(always)]
pub(super) fn bounds(
    sums: &[u32; 32],
    terms: &super::Terms<'_>,
    line: &super::Line,
    keys: &mut [f32; 32],
    least: &mut [f32; 32],
) -> u32 {
    let [add, rescale, deviation] = [terms.add, terms.rescale, terms.deviation];
    let mut mask = 0;
    for i in 0..32 {
        let sum = sums[i] as f32 * line.step + line.offset;
        keys[i] = line.key + add[i] + rescale[i] * sum;
        least[i] = keys[i] - line.reach * deviation[i];
        // What is no number is not above the limit.
        let is_above = least[i] > line.limit;
        mask |= u32::from(!is_above) << i;
    }
    mask
}

/// Declares the kernels of an instruction set: safe functions over the generic
/// ones, for a set that the dispatcher has found on this processor. `$scan` is
/// the set's own [`super::Kernels::scan_block`], `$bytes` its
/// [`super::Kernels::inner_product_bytes`].
macro_rules! kernels {
    // `$d` is a dollar sign, for the macro inside.
    ($d:tt $name:literal, $lanes:ty, $scan:path, $bytes:path $(, $feature:literal)?) => {{
        use crate::quantize::extended;
        use crate::SparseVector;
        use crate::simd::generic::Lanes;
        use crate::simd::{Components, Distances, Kernels, SparseDistances, components, generic};
        use half::f16;

        /// A kernel compiled for the instruction set, as a safe function: the
        /// table is handed out only by `available`, after it has found the set
        /// on this processor.
        macro_rules! kernel {
            (($d($argument:ident: $type:ty),*) -> $result:ty, $call:expr) => {{
                $(#[target_feature(enable = $feature)])?
                #[allow(unused_unsafe)]
                unsafe fn compiled($d($argument: $type),*) -> $result {
                    // SAFETY: compiled for, and called on, processors with the set.
                    unsafe { $call }
                }
                // SAFETY: as above.
                |$d($argument),*| unsafe { compiled($d($argument),*) }
            }};
        }
        macro_rules! distances {
            ($component:ty) => {
                Distances::<$component> {
                    l2_squared: kernel!(
                        (a: &[$component], b: &[$component]) -> f32,
                        generic::l2_squared::<$lanes, $component>(a, b)),
                    inner_product: kernel!(
                        (a: &[$component], b: &[$component]) -> f32,
                        generic::inner_product::<$lanes, $component>(a, b)),
                    l1: kernel!(
                        (a: &[$component], b: &[$component]) -> f32,
                        generic::l1::<$lanes, $component>(a, b)),
                    cosine_parts: kernel!(
                        (a: &[$component], b: &[$component]) -> (f32, f32, f32),
                        generic::cosine_parts::<$lanes, $component>(a, b)),
                }
            };
        }
        macro_rules! components {
            ($component:ty) => {
                Components::<$component> {
                    add: kernel!(
                        (a: &[$component], b: &[$component], out: &mut [$component]) -> (),
                        components::add::<$lanes, $component>(a, b, out)),
                    add_to: kernel!(
                        (sums: &mut [$component], b: &[$component]) -> (),
                        components::add_to::<$lanes, $component>(sums, b)),
                    subtract: kernel!(
                        (a: &[$component], b: &[$component], out: &mut [$component]) -> (),
                        components::subtract::<$lanes, $component>(a, b, out)),
                    multiply: kernel!(
                        (a: &[$component], b: &[$component], out: &mut [$component]) -> (),
                        components::multiply::<$lanes, $component>(a, b, out)),
                    underflow: kernel!(
                        (a: &[$component], b: &[$component], products: &[$component]) -> bool,
                        components::underflow::<$component>(a, b, products)),
                    are_finite: kernel!(
                        (values: &[$component]) -> bool,
                        components::are_finite::<$component>(values)),
                    squares: kernel!(
                        (values: &[$component]) -> f64,
                        components::squares::<$lanes, $component>(values)),
                    scale: kernel!(
                        (values: &[$component], times: f64, out: &mut [$component]) -> (),
                        components::scale::<$lanes, $component>(values, times, out)),
                    accumulate: kernel!(
                        (sums: &mut [f64], values: &[$component]) -> bool,
                        components::accumulate::<$lanes, $component>(sums, values)),
                    signs: kernel!(
                        (values: &[$component], bits: &mut [u8]) -> (),
                        components::signs::<$lanes, $component>(values, bits)),
                }
            };
        }
        Kernels {
            name: $name,
            single: distances!(f32),
            half: distances!(f16),
            single_components: components!(f32),
            half_components: components!(f16),
            widen: kernel!(
                (values: &[f16], out: &mut [f32]) -> (),
                components::convert::<$lanes, f16, f32>(values, out)),
            narrow: kernel!(
                (values: &[f32], out: &mut [f16]) -> (),
                components::convert::<$lanes, f32, f16>(values, out)),
            sparse: SparseDistances {
                l2_squared: kernel!(
                    (a: SparseVector<'_>, b: SparseVector<'_>) -> f32,
                    generic::sparse_sum::<$lanes, true>(a, b, |x, y| x.sub(y).mul(x.sub(y)))),
                inner_product: kernel!(
                    (a: SparseVector<'_>, b: SparseVector<'_>) -> f32,
                    generic::sparse_sum::<$lanes, false>(a, b, |x, y| x.mul(y))),
                l1: kernel!(
                    (a: SparseVector<'_>, b: SparseVector<'_>) -> f32,
                    generic::sparse_sum::<$lanes, true>(a, b, |x, y| x.sub(y).abs())),
            },
            hamming: kernel!((a: &[u8], b: &[u8]) -> u64, generic::hamming(a, b)),
            common_bits: kernel!(
                (a: &[u8], b: &[u8]) -> (u64, u64), generic::common_bits(a, b)),
            inner_product_i8: kernel!(
                (a: &[f32], b: &[i8]) -> f32, generic::inner_product_i8::<$lanes>(a, b)),
            inner_product_bytes: kernel!(
                (a: &[i8], b: &[i8]) -> i32, $bytes(a, b)),
            sign_code: kernel!(
                (centre: &[f32], scale: f32, point: &[i8], times: f32, bits: &mut [u8])
                    -> [f32; 4],
                generic::sign_code::<$lanes>(centre, scale, point, times, bits)),
            encode_grid: kernel!(
                (bits: extended::Bits, residual: &[f32], values: &mut [i8]) -> extended::Grid,
                extended::encode_inline(bits, residual, values)),
            relate_grid: kernel!(
                (residual: &[f32], centre: &[f32], values: &[i8], coded: usize) -> [f64; 5],
                extended::relate_inline(residual, centre, values, coded)),
            hadamard: kernel!((values: &mut [f32]) -> (), generic::hadamard(values)),
            fill_table: kernel!(
                (query: &[f32], step: f32, table: &mut [u8]) -> (),
                generic::fill_table(query, step, table)),
            bounds: kernel!(
                (sums: &[u32; 32], terms: &crate::simd::Terms<'_>, line: &crate::simd::Line,
                 keys: &mut [f32; 32], least: &mut [f32; 32]) -> u32,
                generic::bounds(sums, terms, line, keys, least)),
            scan_block: kernel!(
                (table: &[u8], block: &[u8], sums: &mut [u32; 32]) -> (),
                $scan(table, block, sums)),
        }
    }};
}
pub(super) use kernels;
