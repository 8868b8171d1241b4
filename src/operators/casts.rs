//! Casts between vectors and arrays, among vectors, and to `vector(n)`.

use ann::SparseVector;
use ann::simd::kernels;
use half::f16;
use pgrx::prelude::*;

use crate::errors::raise;
use crate::function::{Scanned, functions, quick_functions};
use crate::types::arrays::{Double, Element, Integer, Numbers, Numeric, Real, new_reals};
use crate::types::dense::{self, Component, Dense, check_dimensions, check_typmod, fits};
use crate::types::{HalfVector, Sparse, Vector, sparse};

fn from_array<T: Component, E: Element>(array: Numbers<'_, E>, typmod: i32) -> pg_sys::Datum {
    let count = array.len();
    check_dimensions::<T>(count);
    check_typmod(typmod, count);
    dense::rounded::<T>(&array.components())
}

macro_rules! casts {
    ($vector:ident of $component:ty: $to_itself:ident, $to_reals:ident,
     $($from:ident($element:ty)),*) => {
        quick_functions! {
            /// The type to itself, of so many dimensions.
            fn $to_itself(vector: $vector<'_>, typmod: i32) -> pg_sys::Datum {
                check_typmod(typmod, vector.values().len());
                vector.datum()
            }
            quickly {
                fits(typmod, vector.values().len()).then(|| vector.datum())
            }
        }

        functions! {
            fn $to_reals(vector: Scanned<$vector<'_>>) -> pg_sys::Datum {
                let values = vector.0.values();
                new_reals(values.len(), |out| <$component>::widen_into(values, out))
            }

            $(
                fn $from(array: Scanned<Numbers<'_, $element>>, typmod: i32) -> pg_sys::Datum {
                    from_array::<$component, $element>(array.0, typmod)
                }
            )*
        }
    };
}
casts!(Vector of f32: vector_to_vector, vector_to_reals, vector_from_integers(Integer),
    vector_from_reals(Real), vector_from_doubles(Double), vector_from_numerics(Numeric));
casts!(HalfVector of f16: halfvec_to_halfvec, halfvec_to_reals, halfvec_from_integers(Integer),
    halfvec_from_reals(Real), halfvec_from_doubles(Double), halfvec_from_numerics(Numeric));

functions! {
    fn halfvec_to_vector(vector: Scanned<HalfVector<'_>>, typmod: i32) -> pg_sys::Datum {
        let values = vector.0.values();
        check_typmod(typmod, values.len());
        dense::build(values.len(), |out| f16::widen_into(values, out))
    }

    fn vector_to_halfvec(vector: Scanned<Vector<'_>>, typmod: i32) -> pg_sys::Datum {
        let values = vector.0.values();
        check_typmod(typmod, values.len());
        dense::rounded::<f16>(values)
    }
}

quick_functions! {
    /// The type to itself, of so many dimensions.
    fn sparsevec_to_sparsevec(vector: Sparse<'_>, typmod: i32) -> pg_sys::Datum {
        check_typmod(typmod, vector.dimensions());
        vector.datum()
    }
    quickly {
        fits(typmod, vector.dimensions()).then(|| vector.datum())
    }
}

fn to_sparse<T: Component>(vector: Dense<'_, T>, typmod: i32) -> pg_sys::Datum {
    check_typmod(typmod, vector.values().len());
    sparse::of_dense(vector.values())
}

/// All components of a sparse vector.
fn to_dense<T: Component>(vector: Sparse<'_>, typmod: i32) -> pg_sys::Datum {
    // Before memory is asked for.
    check_dimensions::<T>(vector.dimensions());
    check_typmod(typmod, vector.dimensions());
    to_dense_quickly::<T>(vector, typmod).unwrap_or_else(|| {
        // A component that the type does not have, or no memory.
        if !vector.values().is_empty() {
            dense::rounded::<T>(vector.values());
        }
        raise(
            PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            format!("out of memory for a {}", T::TYPE),
        )
    })
}

/// The same, where it is no ERROR.
#[inline]
fn to_dense_quickly<T: Component>(vector: Sparse<'_>, typmod: i32) -> Option<pg_sys::Datum> {
    fits(typmod, vector.dimensions()).then_some(())?;
    dense::try_build::<T>(vector.dimensions(), |out| {
        /// Components that are rounded at a time.
        const PART: usize = 64;
        let SparseVector { indices, values } = vector.components();
        let mut rounded = [T::zeroed(); PART];
        for (indices, values) in indices.chunks(PART).zip(values.chunks(PART)) {
            let rounded = match T::of_singles(values) {
                Some(same) => same,
                None => {
                    let rounded = &mut rounded[..values.len()];
                    T::round_into(values, rounded);
                    if !(T::components(kernels()).are_finite)(rounded) {
                        return false;
                    }
                    rounded
                }
            };
            for (&index, &value) in indices.iter().zip(rounded) {
                // Only a damaged vector has an index outside.
                if let Some(place) = out.get_mut(index as usize) {
                    *place = value;
                }
            }
        }
        true
    })
}

functions! {
    fn vector_to_sparsevec(vector: Scanned<Vector<'_>>, typmod: i32) -> pg_sys::Datum {
        to_sparse(vector.0, typmod)
    }

    fn halfvec_to_sparsevec(vector: Scanned<HalfVector<'_>>, typmod: i32) -> pg_sys::Datum {
        to_sparse(vector.0, typmod)
    }

}

quick_functions! {
    fn sparsevec_to_vector(vector: Scanned<Sparse<'_>>, typmod: i32) -> pg_sys::Datum {
        to_dense::<f32>(vector.0, typmod)
    }
    quickly { to_dense_quickly::<f32>(vector.0, typmod) }

    fn sparsevec_to_halfvec(vector: Scanned<Sparse<'_>>, typmod: i32) -> pg_sys::Datum {
        to_dense::<f16>(vector.0, typmod)
    }
    quickly { to_dense_quickly::<f16>(vector.0, typmod) }
}

macro_rules! arrays_to_sparse {
    ($($name:ident($element:ty)),*) => {
        functions! {
            $(
                fn $name(array: Scanned<Numbers<'_, $element>>, typmod: i32) -> pg_sys::Datum {
                    check_typmod(typmod, array.0.len());
                    sparse::of_array(&array.0.components())
                }
            )*
        }
    };
}
arrays_to_sparse!(
    sparsevec_from_integers(Integer),
    sparsevec_from_reals(Real),
    sparsevec_from_doubles(Double),
    sparsevec_from_numerics(Numeric)
);
