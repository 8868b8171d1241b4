//! AVX-512 and AVX2 with FMA.

// Each method is one intrinsic or two, and its safety is the trait's contract:
// the caller has the instruction set and gives readable memory.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::x86_64::*;

use half::f16;

use super::Kernels;
use super::generic::{Lanes, kernels};

/// The instruction sets of this file that the processor has, best first.
pub(super) fn available() -> Vec<Kernels> {
    let mut sets = Vec::new();
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("popcnt")
    {
        let mut set = AVX512;
        if is_x86_feature_detected!("avx512vpopcntdq") {
            // SAFETY: this processor has the instruction.
            set.hamming = |a, b| unsafe { hamming_avx512(a, b) };
            // SAFETY: as above.
            set.common_bits = |a, b| unsafe { common_bits_avx512(a, b) };
        }
        if is_x86_feature_detected!("avx512vnni") {
            // SAFETY: this processor has the instruction.
            set.inner_product_bytes = |a, b| unsafe { inner_product_bytes_avx512(a, b) };
        }
        sets.push(set);
    }
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("popcnt")
    {
        sets.push(AVX2);
    }
    sets
}

const AVX512: Kernels = kernels!(
    $ "avx512", __m512, scan_block_avx512, inner_product_bytes_avx2, "avx512f,avx512bw,popcnt");
const AVX2: Kernels = kernels!(
    $ "avx2", __m256, scan_block_avx2, inner_product_bytes_avx2, "avx2,fma,f16c,popcnt");

/// See [`Kernels::hamming`].
///
/// # Safety
///
/// The processor has AVX-512F, AVX-512BW and AVX-512 VPOPCNTDQ.
#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
unsafe fn hamming_avx512(a: &[u8], b: &[u8]) -> u64 {
    let count = |n, a, b| _mm512_add_epi64(n, _mm512_popcnt_epi64(_mm512_xor_si512(a, b)));
    let differing = fold_bits(a, b, _mm512_setzero_si512(), count);
    _mm512_reduce_add_epi64(differing).cast_unsigned()
}

/// See [`Kernels::common_bits`].
///
/// # Safety
///
/// As [`hamming_avx512`].
#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
unsafe fn common_bits_avx512(a: &[u8], b: &[u8]) -> (u64, u64) {
    let add = |n, x| _mm512_add_epi64(n, _mm512_popcnt_epi64(x));
    let count = |(both, either), a, b| {
        (
            add(both, _mm512_and_si512(a, b)),
            add(either, _mm512_or_si512(a, b)),
        )
    };
    let none = _mm512_setzero_si512();
    let (both, either) = fold_bits(a, b, (none, none), count);
    let sum = |n| _mm512_reduce_add_epi64(n).cast_unsigned();
    (sum(both), sum(either))
}

/// Folds two strings of bits 512 at a time; the last ones are filled up with zeros.
///
/// # Safety
///
/// As [`hamming_avx512`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
unsafe fn fold_bits<T>(a: &[u8], b: &[u8], start: T, step: impl Fn(T, __m512i, __m512i) -> T) -> T {
    assert_eq!(a.len(), b.len(), "bit strings of different lengths");
    let mut folded = start;
    for at in (0..a.len()).step_by(64) {
        let there = u64::MAX >> (64 - (a.len() - at).min(64));
        let load = |bits: &[u8]| _mm512_maskz_loadu_epi8(there, bits.as_ptr().add(at).cast());
        folded = step(folded, load(a), load(b));
    }
    folded
}

/// See [`Kernels::inner_product_bytes`].
///
/// The instruction multiplies unsigned bytes by signed ones, so it is given
/// aᵢ + 128, and 128·bᵢ is subtracted in the end. That is exact, because sums wrap
/// around.
///
/// # Safety
///
/// The processor has AVX-512F, AVX-512BW and AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn inner_product_bytes_avx512(a: &[i8], b: &[i8]) -> i32 {
    assert!(a.len() == b.len() && a.len().is_multiple_of(64));
    let offset = _mm512_set1_epi8(-128);
    let add = |[with, of]: [__m512i; 2], a: __m512i, b: __m512i| {
        [
            _mm512_dpbusd_epi32(with, _mm512_xor_si512(a, offset), b),
            _mm512_dpbusd_epi32(of, offset, b),
        ]
    };
    // Two of each sum, so that they do not wait for one another.
    let mut sums = [[_mm512_setzero_si512(); 2]; 2];
    let ((a, last_a), (b, last_b)) = (a.as_chunks::<128>(), b.as_chunks::<128>());
    for (a, b) in a.iter().zip(b) {
        for (half, sums) in sums.iter_mut().enumerate() {
            let load = |bytes: &[i8; 128]| _mm512_loadu_si512(bytes.as_ptr().add(64 * half).cast());
            *sums = add(*sums, load(a), load(b));
        }
    }
    if !last_a.is_empty() {
        // 64 of them.
        let load = |bytes: &[i8]| _mm512_loadu_si512(bytes.as_ptr().cast());
        sums[0] = add(sums[0], load(last_a), load(last_b));
    }
    let [with, of] = [0, 1].map(|i| _mm512_add_epi32(sums[0][i], sums[1][i]));
    _mm512_reduce_add_epi32(_mm512_sub_epi32(with, of))
}

/// See [`Kernels::inner_product_bytes`].
///
/// The instruction multiplies unsigned bytes by signed ones, so it is given |aᵢ|, and
/// bᵢ with the sign of aᵢ. It adds two products in 16 bits, where two of 127·127 have
/// room.
///
/// # Safety
///
/// The processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn inner_product_bytes_avx2(a: &[i8], b: &[i8]) -> i32 {
    assert!(a.len() == b.len() && a.len().is_multiple_of(64));
    let ones = _mm256_set1_epi16(1);
    // Two sums, so that they do not wait for one another.
    let mut sums = [_mm256_setzero_si256(); 2];
    for (a, b) in a.as_chunks::<64>().0.iter().zip(b.as_chunks::<64>().0) {
        for (half, sum) in sums.iter_mut().enumerate() {
            let load = |bytes: &[i8; 64]| _mm256_loadu_si256(bytes.as_ptr().add(32 * half).cast());
            let (a, b) = (load(a), load(b));
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    let sum = _mm256_add_epi32(sums[0], sums[1]);
    let four = _mm_add_epi32(
        _mm256_castsi256_si128(sum),
        _mm256_extracti128_si256::<1>(sum),
    );
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}

/// Bytes of a table whose sums fit into 16 bits: those of 1024 dimensions.
const WIDEN_AFTER: usize = 4096;

/// See [`Kernels::scan_block`].
///
/// A lookup gives a byte for each of 16 codes. Sums have 16 bits: those of the
/// even codes are in the low bytes. One accumulator adds whole words, so the
/// odd codes' bytes, shifted up, spoil it; a second adds the odd ones alone,
/// and in the end is subtracted from the first.
///
/// # Safety
///
/// The processor has AVX-512F and AVX-512BW.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn scan_block_avx512(table: &[u8], block: &[u8], sums: &mut [u32; 32]) {
    assert_eq!(table.len(), block.len(), "a table of another dimension");
    assert!(table.len().is_multiple_of(64));
    sums.fill(0);
    let nibble = _mm512_set1_epi8(15);
    for (table, block) in table.chunks(WIDEN_AFTER).zip(block.chunks(WIDEN_AFTER)) {
        let mut all = [_mm512_setzero_si512(); 2];
        let mut odd = [_mm512_setzero_si512(); 2];
        for (table, block) in table.chunks_exact(64).zip(block.chunks_exact(64)) {
            let entries = _mm512_loadu_si512(table.as_ptr().cast());
            let codes = _mm512_loadu_si512(block.as_ptr().cast());
            let low = _mm512_and_si512(codes, nibble);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble);
            for (half, picks) in [low, high].into_iter().enumerate() {
                let picked = _mm512_shuffle_epi8(entries, picks);
                all[half] = _mm512_add_epi16(all[half], picked);
                odd[half] = _mm512_add_epi16(odd[half], _mm512_srli_epi16::<8>(picked));
            }
        }
        for half in 0..2 {
            let even = _mm512_sub_epi16(all[half], _mm512_slli_epi16::<8>(odd[half]));
            for (parity, sum) in [even, odd[half]].into_iter().enumerate() {
                let lanes = _mm256_add_epi16(
                    _mm512_castsi512_si256(sum),
                    _mm512_extracti64x4_epi64::<1>(sum),
                );
                add_words(lanes, &mut sums[16 * half..], parity);
            }
        }
    }
}

/// See [`scan_block_avx512`].
///
/// # Safety
///
/// The processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn scan_block_avx2(table: &[u8], block: &[u8], sums: &mut [u32; 32]) {
    assert_eq!(table.len(), block.len(), "a table of another dimension");
    assert!(table.len().is_multiple_of(32));
    sums.fill(0);
    let nibble = _mm256_set1_epi8(15);
    for (table, block) in table.chunks(WIDEN_AFTER).zip(block.chunks(WIDEN_AFTER)) {
        let mut all = [_mm256_setzero_si256(); 2];
        let mut odd = [_mm256_setzero_si256(); 2];
        for (table, block) in table.chunks_exact(32).zip(block.chunks_exact(32)) {
            let entries = _mm256_loadu_si256(table.as_ptr().cast());
            let codes = _mm256_loadu_si256(block.as_ptr().cast());
            let low = _mm256_and_si256(codes, nibble);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
            for (half, picks) in [low, high].into_iter().enumerate() {
                let picked = _mm256_shuffle_epi8(entries, picks);
                all[half] = _mm256_add_epi16(all[half], picked);
                odd[half] = _mm256_add_epi16(odd[half], _mm256_srli_epi16::<8>(picked));
            }
        }
        for half in 0..2 {
            let even = _mm256_sub_epi16(all[half], _mm256_slli_epi16::<8>(odd[half]));
            add_words(even, &mut sums[16 * half..], 0);
            add_words(odd[half], &mut sums[16 * half..], 1);
        }
    }
}

/// Adds the words of both lanes to every second sum.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_words(words: __m256i, sums: &mut [u32], parity: usize) {
    let lanes = _mm_add_epi16(
        _mm256_castsi256_si128(words),
        _mm256_extracti128_si256::<1>(words),
    );
    let mut stored = [0_u16; 8];
    _mm_storeu_si128(stored.as_mut_ptr().cast(), lanes);
    for (i, word) in stored.into_iter().enumerate() {
        sums[2 * i + parity] += u32::from(word);
    }
}

// SAFETY: the methods use AVX-512F only.
unsafe impl Lanes for __m512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        _mm512_setzero_ps()
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        _mm512_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Self {
        // Masked-out lanes are not read.
        _mm512_maskz_loadu_ps((1_u16 << n) - 1, p)
    }
    #[inline(always)]
    unsafe fn load_half(p: *const f16) -> Self {
        _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        _mm512_storeu_ps(p, self);
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut f16) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<NEAREST>(self));
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        _mm512_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        _mm512_add_ps(self, other)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        _mm512_mul_ps(self, other)
    }
    #[inline(always)]
    unsafe fn where_positive(self, of: Self) -> Self {
        let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self, _mm512_setzero_ps());
        _mm512_maskz_mov_ps(positive, of)
    }
    #[inline(always)]
    unsafe fn positive_bits(self) -> u32 {
        u32::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(self, _mm512_setzero_ps()))
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        _mm512_sub_ps(self, other)
    }
    #[inline(always)]
    unsafe fn put(self, value: f32, indices: Self, index: u32) -> Self {
        let index = _mm512_set1_epi32(index.cast_signed());
        let same = _mm512_cmpeq_epi32_mask(_mm512_castps_si512(indices), index);
        _mm512_mask_mov_ps(self, same, _mm512_set1_ps(value))
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        _mm512_abs_ps(self)
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, acc: Self) -> Self {
        _mm512_fmadd_ps(self, a, acc)
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        _mm512_reduce_add_ps(self)
    }
}

// SAFETY: the methods use AVX2, FMA and F16C only.
unsafe impl Lanes for __m256 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        _mm256_setzero_ps()
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        _mm256_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Self {
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane);
        // Masked-out lanes are not read.
        _mm256_maskload_ps(p, mask)
    }
    #[inline(always)]
    unsafe fn load_half(p: *const f16) -> Self {
        _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        _mm256_storeu_ps(p, self);
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut f16) {
        _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self));
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        _mm256_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        _mm256_add_ps(self, other)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        _mm256_mul_ps(self, other)
    }
    #[inline(always)]
    unsafe fn where_positive(self, of: Self) -> Self {
        _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self, _mm256_setzero_ps()), of)
    }
    #[inline(always)]
    unsafe fn positive_bits(self) -> u32 {
        _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self, _mm256_setzero_ps())) as u32
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        _mm256_sub_ps(self, other)
    }
    #[inline(always)]
    unsafe fn put(self, value: f32, indices: Self, index: u32) -> Self {
        let index = _mm256_set1_epi32(index.cast_signed());
        let same = _mm256_cmpeq_epi32(_mm256_castps_si256(indices), index);
        _mm256_blendv_ps(self, _mm256_set1_ps(value), _mm256_castsi256_ps(same))
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        _mm256_andnot_ps(_mm256_set1_ps(-0.0), self)
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, acc: Self) -> Self {
        _mm256_fmadd_ps(self, a, acc)
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let four = _mm_add_ps(
            _mm256_castps256_ps128(self),
            _mm256_extractf128_ps::<1>(self),
        );
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}
