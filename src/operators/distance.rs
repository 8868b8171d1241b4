//! Distances between two vectors, and lengths of one.
//!
//! A sequential scan calls a distance for every row, where pgrx's wrapper would cost
//! a good part of the distance itself (some 40 of 500 ns). So distances are plain
//! functions of the server's version-1 interface, declared in `sql/distances.sql`.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

use ann::distance::{self, Measure};
use ann::simd::{Kernels, kernels};
use ann::{SparseVector, metric};
use pgrx::prelude::*;
use pgrx::varsize_any;

use crate::errors::raise;
use crate::types::dense::{self, Component, Dense, Owned, OwnedHalfVector};
use crate::types::{Bits, HalfVector, OwnedSparse, OwnedVector, Sparse, Vector, sparse};

/// Vectors that have distances, as [`ann::distance`] takes them.
trait Measured: Copy {
    type Measure: Measure;
    /// The two, or an ERROR if they have different numbers of dimensions.
    fn pair(self, other: Self) -> (Self::Measure, Self::Measure);
}

impl<'a, T: Component> Measured for Dense<'a, T> {
    type Measure = &'a [T];
    fn pair(self, other: Self) -> (&'a [T], &'a [T]) {
        dense::check_same(self, other);
        (self.values(), other.values())
    }
}

impl<'a> Measured for Sparse<'a> {
    type Measure = SparseVector<'a>;
    fn pair(self, other: Self) -> (SparseVector<'a>, SparseVector<'a>) {
        sparse::check_same(self, other);
        (self.components(), other.components())
    }
}

/// A distance of [`ann::distance`].
fn measure<V: Measured>(
    a: V,
    b: V,
    distance: impl Fn(&Kernels, V::Measure, V::Measure) -> f64,
) -> f64 {
    let (a, b) = a.pair(b);
    distance(kernels(), a, b)
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values
        .fold(0.0, |sum, x| sum + f64::from(x) * f64::from(x))
        .sqrt()
}

/// Asks for the row that a sequential scan comes to next. Rows fill a page from its end
/// on, so it lies before this one, and is likely as long. Rows that an index found are
/// far apart, and ask for nothing.
///
/// # Safety
///
/// `datum` is a varlena.
unsafe fn prefetch_next(datum: pg_sys::Datum) {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    const NEAR: usize = 4 * pg_sys::BLCKSZ as usize;
    // The header of a row, and a few columns more.
    const HEAD: usize = 64;
    let last = LAST.load(Ordering::Relaxed);
    LAST.store(datum.value(), Ordering::Relaxed);
    // A constant is always in the same place.
    if (1..NEAR).contains(&datum.value().abs_diff(last)) {
        let row = datum.cast_mut_ptr::<u8>();
        // SAFETY: the header of a varlena tells its size.
        let len = unsafe { varsize_any(row.cast()) } + HEAD;
        let len = len.min(pg_sys::BLCKSZ as usize);
        ann::simd::prefetch(row.wrapping_sub(len), len);
    }
}

/// A function of the server for two arguments of a type, with its information record
/// (fmgr.h). The server calls it with arguments that are not null.
macro_rules! distance {
    ($($function:ident, $info:ident: $vector:ident, $distance:expr;)*) => {$(
        #[unsafe(no_mangle)]
        #[pg_guard]
        unsafe extern "C-unwind" fn $function(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            let distance: fn($vector<'_>, $vector<'_>) -> f64 = $distance;
            // SAFETY: the function is strict, of two arguments of this type.
            unsafe {
                let arguments = (*fcinfo).args.as_slice(2);
                prefetch_next(arguments[0].value);
                let a = $vector::from_datum(arguments[0].value);
                let b = $vector::from_datum(arguments[1].value);
                distance(a, b).into_datum().unwrap_or(pg_sys::Datum::null())
            }
        }

        #[unsafe(no_mangle)]
        extern "C" fn $info() -> &'static pg_sys::Pg_finfo_record {
            &pg_sys::Pg_finfo_record { api_version: 1 }
        }
    )*};
}

/// The distances of a type that is [`Measured`].
macro_rules! distances {
    ($vector:ident: $l2:ident, $l2_info:ident, $l2_squared:ident, $l2_squared_info:ident,
     $inner_product:ident, $inner_product_info:ident,
     $negative_inner_product:ident, $negative_inner_product_info:ident,
     $cosine:ident, $cosine_info:ident, $l1:ident, $l1_info:ident) => {
        distance! {
            // `<->`: Euclidean distance.
            $l2, $l2_info: $vector, |a, b| measure(a, b, distance::l2);
            // Its square, which orders in the same way.
            $l2_squared, $l2_squared_info: $vector, |a, b| measure(a, b, distance::l2_squared);
            $inner_product, $inner_product_info: $vector, |a, b| measure(a, b, distance::inner_product);
            // `<#>`: so that ascending order is nearest first.
            $negative_inner_product, $negative_inner_product_info: $vector,
                |a, b| -measure(a, b, distance::inner_product);
            // `<=>`: 1 − cosine similarity; NaN if one of the vectors is zero.
            $cosine, $cosine_info: $vector, |a, b| measure(a, b, distance::cosine);
            // `<+>`: taxicab distance.
            $l1, $l1_info: $vector, |a, b| measure(a, b, distance::l1);
        }
    };
}
distances!(Vector:
    insitu_vector_l2_distance, pg_finfo_insitu_vector_l2_distance,
    insitu_vector_l2_squared_distance, pg_finfo_insitu_vector_l2_squared_distance,
    insitu_vector_inner_product, pg_finfo_insitu_vector_inner_product,
    insitu_vector_negative_inner_product, pg_finfo_insitu_vector_negative_inner_product,
    insitu_vector_cosine_distance, pg_finfo_insitu_vector_cosine_distance,
    insitu_vector_l1_distance, pg_finfo_insitu_vector_l1_distance);
distances!(HalfVector:
    insitu_halfvec_l2_distance, pg_finfo_insitu_halfvec_l2_distance,
    insitu_halfvec_l2_squared_distance, pg_finfo_insitu_halfvec_l2_squared_distance,
    insitu_halfvec_inner_product, pg_finfo_insitu_halfvec_inner_product,
    insitu_halfvec_negative_inner_product, pg_finfo_insitu_halfvec_negative_inner_product,
    insitu_halfvec_cosine_distance, pg_finfo_insitu_halfvec_cosine_distance,
    insitu_halfvec_l1_distance, pg_finfo_insitu_halfvec_l1_distance);
distances!(Sparse:
    insitu_sparsevec_l2_distance, pg_finfo_insitu_sparsevec_l2_distance,
    insitu_sparsevec_l2_squared_distance, pg_finfo_insitu_sparsevec_l2_squared_distance,
    insitu_sparsevec_inner_product, pg_finfo_insitu_sparsevec_inner_product,
    insitu_sparsevec_negative_inner_product, pg_finfo_insitu_sparsevec_negative_inner_product,
    insitu_sparsevec_cosine_distance, pg_finfo_insitu_sparsevec_cosine_distance,
    insitu_sparsevec_l1_distance, pg_finfo_insitu_sparsevec_l1_distance);
distance! {
    insitu_bit_hamming_distance, pg_finfo_insitu_bit_hamming_distance: Bits, hamming_distance;
    insitu_bit_jaccard_distance, pg_finfo_insitu_bit_jaccard_distance: Bits, jaccard_distance;
}

macro_rules! norms {
    ($vector:ident: $norm:ident as $norm_name:literal, $values:expr) => {
        /// Euclidean norm.
        #[pg_extern(immutable, strict, parallel_safe, name = $norm_name)]
        fn $norm(vector: $vector<'_>) -> f64 {
            let values: fn($vector<'_>) -> f64 = $values;
            values(vector)
        }
    };
}
norms!(Vector: vector_norm as "vector_norm", |v| norm(v.values().iter().copied()));
norms!(HalfVector: halfvec_l2_norm as "l2_norm", |v| norm(v.values().iter().map(|x| x.to_f32())));
norms!(Sparse: sparsevec_l2_norm as "l2_norm", |v| norm(v.values().iter().copied()));

fn spherical<T: Component>(a: Dense<'_, T>, b: Dense<'_, T>) -> f64 {
    let product = measure(a, b, distance::inner_product);
    product.clamp(-1.0, 1.0).acos() / std::f64::consts::PI
}

fn normalize<T: Component>(vector: Dense<'_, T>) -> Owned<T> {
    let mut values = vector.widened().into_owned();
    metric::normalize(&mut values);
    Owned::rounded(&values)
}

macro_rules! dense_functions {
    ($vector:ident -> $owned:ident: $spherical_distance:ident, $dims:ident, $l2_normalize:ident) => {
        /// Angular distance of normalized vectors, as a part of π.
        #[pg_extern(immutable, strict, parallel_safe)]
        fn $spherical_distance(a: $vector<'_>, b: $vector<'_>) -> f64 {
            spherical(a, b)
        }

        /// Number of dimensions.
        #[pg_extern(immutable, strict, parallel_safe, name = "vector_dims")]
        fn $dims(vector: $vector<'_>) -> i32 {
            vector.values().len() as i32
        }

        /// The vector of length 1 in the same direction; a zero vector stays zero.
        #[pg_extern(immutable, strict, parallel_safe, name = "l2_normalize")]
        fn $l2_normalize(vector: $vector<'_>) -> $owned {
            normalize(vector)
        }
    };
}
dense_functions!(Vector -> OwnedVector: vector_spherical_distance, vector_dims, l2_normalize);
dense_functions!(HalfVector -> OwnedHalfVector: halfvec_spherical_distance, halfvec_vector_dims,
    halfvec_l2_normalize);

/// As for the other types; what becomes zero is left out.
#[pg_extern(immutable, strict, parallel_safe, name = "l2_normalize")]
fn sparsevec_l2_normalize(vector: Sparse<'_>) -> OwnedSparse {
    let mut values = vector.values().to_vec();
    metric::normalize(&mut values);
    let indices = vector.entries().map(|(index, _)| index);
    OwnedSparse::checked(vector.dimensions(), indices.zip(values))
}

fn check_same_length(a: Bits<'_>, b: Bits<'_>) {
    if a.len != b.len {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("different bit lengths {} and {}", a.len, b.len),
        );
    }
}

/// `<~>`: how many bits differ.
fn hamming_distance(a: Bits<'_>, b: Bits<'_>) -> f64 {
    check_same_length(a, b);
    (kernels().hamming)(a.bytes, b.bytes) as f64
}

/// `<%>`: 1 − the part of the bits set in either that is set in both; 1 if none
/// is set in both.
fn jaccard_distance(a: Bits<'_>, b: Bits<'_>) -> f64 {
    check_same_length(a, b);
    let (both, either) = (kernels().common_bits)(a.bytes, b.bytes);
    metric::jaccard(both, either)
}
