//! Distances between two vectors, and lengths of one.

use ann::metric;
use ann::simd::{Kernel, kernels};
use pgrx::prelude::*;

use crate::types::vector::check_same;
use crate::types::{OwnedVector, Vector};

fn apply(kernel: Kernel, a: Vector<'_>, b: Vector<'_>) -> f64 {
    check_same(a, b);
    f64::from(kernel(a.values(), b.values()))
}

/// `<->`: Euclidean distance.
#[pg_extern(immutable, strict, parallel_safe)]
fn l2_distance(a: Vector<'_>, b: Vector<'_>) -> f64 {
    apply(kernels().l2_squared, a, b).sqrt()
}

/// The square of the Euclidean distance, which orders in the same way.
#[pg_extern(immutable, strict, parallel_safe)]
fn vector_l2_squared_distance(a: Vector<'_>, b: Vector<'_>) -> f64 {
    apply(kernels().l2_squared, a, b)
}

/// Inner product.
#[pg_extern(immutable, strict, parallel_safe)]
fn inner_product(a: Vector<'_>, b: Vector<'_>) -> f64 {
    apply(kernels().inner_product, a, b)
}

/// `<#>`: negative inner product, so that ascending order is nearest first.
#[pg_extern(immutable, strict, parallel_safe)]
fn vector_negative_inner_product(a: Vector<'_>, b: Vector<'_>) -> f64 {
    -apply(kernels().inner_product, a, b)
}

/// `<=>`: 1 − cosine similarity; NaN if one of the vectors is zero.
#[pg_extern(immutable, strict, parallel_safe)]
fn cosine_distance(a: Vector<'_>, b: Vector<'_>) -> f64 {
    check_same(a, b);
    let (ab, aa, bb) = (kernels().cosine_parts)(a.values(), b.values());
    let similarity = f64::from(ab) / (f64::from(aa) * f64::from(bb)).sqrt();
    // Rounding may take the similarity of parallel vectors out of its range;
    // NaN passes through.
    1.0 - similarity.clamp(-1.0, 1.0)
}

/// Angular distance of normalized vectors, as a part of π.
#[pg_extern(immutable, strict, parallel_safe)]
fn vector_spherical_distance(a: Vector<'_>, b: Vector<'_>) -> f64 {
    let product = apply(kernels().inner_product, a, b);
    product.clamp(-1.0, 1.0).acos() / std::f64::consts::PI
}

/// `<+>`: taxicab distance.
#[pg_extern(immutable, strict, parallel_safe)]
fn l1_distance(a: Vector<'_>, b: Vector<'_>) -> f64 {
    apply(kernels().l1, a, b)
}

/// Number of dimensions.
#[pg_extern(immutable, strict, parallel_safe)]
fn vector_dims(vector: Vector<'_>) -> i32 {
    vector.values().len() as i32
}

/// Euclidean norm.
#[pg_extern(immutable, strict, parallel_safe)]
fn vector_norm(vector: Vector<'_>) -> f64 {
    let square = |&x: &f32| f64::from(x) * f64::from(x);
    vector.values().iter().map(square).sum::<f64>().sqrt()
}

/// The vector of length 1 in the same direction; a zero vector stays zero.
#[pg_extern(immutable, strict, parallel_safe)]
fn l2_normalize(vector: Vector<'_>) -> OwnedVector {
    let mut values = vector.values().to_vec();
    metric::normalize(&mut values);
    OwnedVector::checked(values)
}
