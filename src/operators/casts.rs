//! Casts between vectors and arrays, among vectors, and to `vector(n)`.

use half::f16;
use pgrx::prelude::*;

use crate::types::arrays::{Components, Double, Integer, Numeric, Real};
use crate::types::dense::{Component, Dense, Owned, check_dimensions, check_typmod};

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
