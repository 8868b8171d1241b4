//! Casts between vectors and arrays, and to `vector(n)`.

use pgrx::prelude::*;

use crate::types::arrays::{Components, Double, Integer, Numeric, Real};
use crate::types::vector::check_typmod;
use crate::types::{OwnedVector, Vector};

/// `vector` to `vector(n)`.
#[pg_extern(immutable, strict, parallel_safe, name = "vector")]
fn vector_to_vector(vector: Vector<'_>, typmod: i32, _explicit: bool) -> OwnedVector {
    check_typmod(typmod, vector.values().len());
    OwnedVector::checked(vector.values().to_vec())
}

fn cast<E>(array: Components<E>, typmod: i32) -> OwnedVector {
    let values = array.into_values();
    check_typmod(typmod, values.len());
    OwnedVector::checked(values)
}

#[pg_extern(immutable, strict, parallel_safe, name = "array_to_vector")]
fn integers_to_vector(array: Components<Integer>, typmod: i32, _explicit: bool) -> OwnedVector {
    cast(array, typmod)
}

#[pg_extern(immutable, strict, parallel_safe, name = "array_to_vector")]
fn reals_to_vector(array: Components<Real>, typmod: i32, _explicit: bool) -> OwnedVector {
    cast(array, typmod)
}

#[pg_extern(immutable, strict, parallel_safe, name = "array_to_vector")]
fn doubles_to_vector(array: Components<Double>, typmod: i32, _explicit: bool) -> OwnedVector {
    cast(array, typmod)
}

#[pg_extern(immutable, strict, parallel_safe, name = "array_to_vector")]
fn numerics_to_vector(array: Components<Numeric>, typmod: i32, _explicit: bool) -> OwnedVector {
    cast(array, typmod)
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_to_float4(vector: Vector<'_>, _typmod: i32, _explicit: bool) -> Vec<f32> {
    vector.values().to_vec()
}
