//! Casts between vectors and arrays, among vectors, and to `vector(n)`.

use half::f16;
use pgrx::prelude::*;

use crate::types::arrays::{Components, Double, Integer, Numeric, Real};
use crate::types::dense::{Component, Dense, Owned, check_dimensions, check_typmod};
use crate::types::{OwnedSparse, Sparse};

fn cast<E, T: Component>(array: Components<E>, typmod: i32) -> Owned<T> {
    let values = array.into_values();
    check_dimensions::<T>(values.len());
    check_typmod(typmod, values.len());
    Owned::rounded(&values)
}

macro_rules! casts {
    ($component:ty: $to_itself:ident as $type:literal, $array_to:literal =
     $($from:ident($element:ty)),*; $to_reals:ident) => {
        /// The type to itself, of so many dimensions.
        #[pg_extern(immutable, strict, parallel_safe, name = $type)]
        fn $to_itself(
            vector: Dense<'_, $component>,
            typmod: i32,
            _explicit: bool,
        ) -> Owned<$component> {
            check_typmod(typmod, vector.values().len());
            Owned::checked(vector.values().to_vec())
        }

        $(
            #[pg_extern(immutable, strict, parallel_safe, name = $array_to)]
            fn $from(array: Components<$element>, typmod: i32, _explicit: bool) -> Owned<$component> {
                cast(array, typmod)
            }
        )*

        #[pg_extern(immutable, strict, parallel_safe)]
        fn $to_reals(vector: Dense<'_, $component>, _typmod: i32, _explicit: bool) -> Vec<f32> {
            vector.widened().into_owned()
        }
    };
}
casts!(f32: vector_to_vector as "vector", "array_to_vector" = integers_to_vector(Integer),
    reals_to_vector(Real), doubles_to_vector(Double), numerics_to_vector(Numeric);
    vector_to_float4);
casts!(f16: halfvec_to_halfvec as "halfvec", "array_to_halfvec" = integers_to_halfvec(Integer),
    reals_to_halfvec(Real), doubles_to_halfvec(Double), numerics_to_halfvec(Numeric);
    halfvec_to_float4);

#[pg_extern(immutable, strict, parallel_safe)]
fn halfvec_to_vector(vector: Dense<'_, f16>, typmod: i32, _explicit: bool) -> Owned<f32> {
    check_typmod(typmod, vector.values().len());
    Owned::checked(vector.widened().into_owned())
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_to_halfvec(vector: Dense<'_, f32>, typmod: i32, _explicit: bool) -> Owned<f16> {
    check_typmod(typmod, vector.values().len());
    Owned::rounded(vector.values())
}

// Sparse vectors.

/// The type to itself, of so many dimensions.
#[pg_extern(immutable, strict, parallel_safe, name = "sparsevec")]
fn sparsevec_to_sparsevec(vector: Sparse<'_>, typmod: i32, _explicit: bool) -> OwnedSparse {
    check_typmod(typmod, vector.dimensions());
    OwnedSparse::checked(vector.dimensions(), vector.entries())
}

/// A sparse vector of all components.
fn to_sparse(values: &[f32], typmod: i32) -> OwnedSparse {
    check_typmod(typmod, values.len());
    OwnedSparse::checked(values.len(), values.iter().copied().enumerate())
}

/// All components of a sparse vector.
fn to_dense<T: Component>(vector: Sparse<'_>, typmod: i32) -> Owned<T> {
    // Before memory is asked for.
    check_dimensions::<T>(vector.dimensions());
    check_typmod(typmod, vector.dimensions());
    Owned::rounded(&vector.to_dense())
}

macro_rules! sparse_casts {
    ($($component:ty: $to_sparse:ident, $from_sparse:ident);*) => {
        $(
            #[pg_extern(immutable, strict, parallel_safe)]
            fn $to_sparse(
                vector: Dense<'_, $component>,
                typmod: i32,
                _explicit: bool,
            ) -> OwnedSparse {
                to_sparse(&vector.widened(), typmod)
            }

            #[pg_extern(immutable, strict, parallel_safe)]
            fn $from_sparse(vector: Sparse<'_>, typmod: i32, _explicit: bool) -> Owned<$component> {
                to_dense(vector, typmod)
            }
        )*
    };
}
sparse_casts!(f32: vector_to_sparsevec, sparsevec_to_vector;
    f16: halfvec_to_sparsevec, sparsevec_to_halfvec);

macro_rules! arrays_to_sparse {
    ($($name:ident($element:ty)),*) => {
        $(
            #[pg_extern(immutable, strict, parallel_safe, name = "array_to_sparsevec")]
            fn $name(array: Components<$element>, typmod: i32, _explicit: bool) -> OwnedSparse {
                to_sparse(&array.into_values(), typmod)
            }
        )*
    };
}
arrays_to_sparse!(
    integers_to_sparsevec(Integer),
    reals_to_sparsevec(Real),
    doubles_to_sparsevec(Double),
    numerics_to_sparsevec(Numeric)
);
