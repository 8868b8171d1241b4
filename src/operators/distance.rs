//! Distances between two vectors, and lengths of one.

use ann::metric;
use ann::simd::{Kernel, kernels};
use half::f16;
use pgrx::prelude::*;

use crate::errors::raise;
use crate::types::Bits;
use crate::types::dense::{Component, Dense, Owned, check_same};

fn apply<T: Component>(kernel: Kernel<T>, a: Dense<'_, T>, b: Dense<'_, T>) -> f64 {
    check_same(a, b);
    f64::from(kernel(a.values(), b.values()))
}

fn cosine<T: Component>(a: Dense<'_, T>, b: Dense<'_, T>) -> f64 {
    check_same(a, b);
    let (ab, aa, bb) = (T::distances().cosine_parts)(a.values(), b.values());
    let similarity = f64::from(ab) / (f64::from(aa) * f64::from(bb)).sqrt();
    // Rounding may take the similarity of parallel vectors out of its range;
    // NaN passes through.
    1.0 - similarity.clamp(-1.0, 1.0)
}

fn norm<T: Component>(vector: Dense<'_, T>) -> f64 {
    let square = |x: &T| f64::from(x.to_f32()) * f64::from(x.to_f32());
    vector.values().iter().map(square).sum::<f64>().sqrt()
}

fn normalize<T: Component>(vector: Dense<'_, T>) -> Owned<T> {
    let mut values = vector.widened().into_owned();
    metric::normalize(&mut values);
    Owned::rounded(&values)
}

macro_rules! distances {
    ($component:ty: $l2_distance:ident, $l2_squared_distance:ident, $inner_product:ident,
     $negative_inner_product:ident, $cosine_distance:ident, $spherical_distance:ident,
     $l1_distance:ident, $dims:ident, $norm:ident as $norm_name:literal, $l2_normalize:ident) => {
        /// `<->`: Euclidean distance.
        #[pg_extern(immutable, strict, parallel_safe, name = "l2_distance")]
        fn $l2_distance(a: Dense<'_, $component>, b: Dense<'_, $component>) -> f64 {
            apply(<$component>::distances().l2_squared, a, b).sqrt()
        }

        /// The square of the Euclidean distance, which orders in the same way.
        #[pg_extern(immutable, strict, parallel_safe)]
        fn $l2_squared_distance(a: Dense<'_, $component>, b: Dense<'_, $component>) -> f64 {
            apply(<$component>::distances().l2_squared, a, b)
        }

        /// Inner product.
        #[pg_extern(immutable, strict, parallel_safe, name = "inner_product")]
        fn $inner_product(a: Dense<'_, $component>, b: Dense<'_, $component>) -> f64 {
            apply(<$component>::distances().inner_product, a, b)
        }

        /// `<#>`: negative inner product, so that ascending order is nearest first.
        #[pg_extern(immutable, strict, parallel_safe)]
        fn $negative_inner_product(a: Dense<'_, $component>, b: Dense<'_, $component>) -> f64 {
            -apply(<$component>::distances().inner_product, a, b)
        }

        /// `<=>`: 1 − cosine similarity; NaN if one of the vectors is zero.
        #[pg_extern(immutable, strict, parallel_safe, name = "cosine_distance")]
        fn $cosine_distance(a: Dense<'_, $component>, b: Dense<'_, $component>) -> f64 {
            cosine(a, b)
        }

        /// Angular distance of normalized vectors, as a part of π.
        #[pg_extern(immutable, strict, parallel_safe)]
        fn $spherical_distance(a: Dense<'_, $component>, b: Dense<'_, $component>) -> f64 {
            let product = apply(<$component>::distances().inner_product, a, b);
            product.clamp(-1.0, 1.0).acos() / std::f64::consts::PI
        }

        /// `<+>`: taxicab distance.
        #[pg_extern(immutable, strict, parallel_safe, name = "l1_distance")]
        fn $l1_distance(a: Dense<'_, $component>, b: Dense<'_, $component>) -> f64 {
            apply(<$component>::distances().l1, a, b)
        }

        /// Number of dimensions.
        #[pg_extern(immutable, strict, parallel_safe, name = "vector_dims")]
        fn $dims(vector: Dense<'_, $component>) -> i32 {
            vector.values().len() as i32
        }

        /// Euclidean norm.
        #[pg_extern(immutable, strict, parallel_safe, name = $norm_name)]
        fn $norm(vector: Dense<'_, $component>) -> f64 {
            norm(vector)
        }

        /// The vector of length 1 in the same direction; a zero vector stays zero.
        #[pg_extern(immutable, strict, parallel_safe, name = "l2_normalize")]
        fn $l2_normalize(vector: Dense<'_, $component>) -> Owned<$component> {
            normalize(vector)
        }
    };
}
distances!(f32: l2_distance, vector_l2_squared_distance, inner_product,
    vector_negative_inner_product, cosine_distance, vector_spherical_distance, l1_distance,
    vector_dims, vector_norm as "vector_norm", l2_normalize);
distances!(f16: halfvec_l2_distance, halfvec_l2_squared_distance, halfvec_inner_product,
    halfvec_negative_inner_product, halfvec_cosine_distance, halfvec_spherical_distance,
    halfvec_l1_distance, halfvec_vector_dims, halfvec_l2_norm as "l2_norm", halfvec_l2_normalize);

fn check_same_length(a: Bits<'_>, b: Bits<'_>) {
    if a.len != b.len {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("different bit lengths {} and {}", a.len, b.len),
        );
    }
}

/// `<~>`: how many bits differ.
#[pg_extern(immutable, strict, parallel_safe)]
fn hamming_distance(a: Bits<'_>, b: Bits<'_>) -> f64 {
    check_same_length(a, b);
    (kernels().hamming)(a.bytes, b.bytes) as f64
}

/// `<%>`: 1 − the part of the bits set in either that is set in both; 1 if none
/// is set in both.
#[pg_extern(immutable, strict, parallel_safe)]
fn jaccard_distance(a: Bits<'_>, b: Bits<'_>) -> f64 {
    check_same_length(a, b);
    let (both, either) = (kernels().common_bits)(a.bytes, b.bytes);
    match both {
        0 => 1.0,
        _ => 1.0 - both as f64 / either as f64,
    }
}
