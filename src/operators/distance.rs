//! Distances between two vectors, and lengths of one.

use ann::distance::{self, Measure};
use ann::simd::{Kernels, kernels};
use ann::{SparseVector, metric};
use pgrx::prelude::*;

use crate::errors::raise;
use crate::function::{Scanned, functions, quick_functions};
use crate::types::dense::{self, Component, Dense};
use crate::types::{Bits, HalfVector, Sparse, Vector, sparse};

/// Vectors that have distances, as [`ann::distance`] takes them.
trait Measured: Copy {
    type Measure: Measure;
    /// The two, or an ERROR if they have different numbers of dimensions.
    fn pair(self, other: Self) -> (Self::Measure, Self::Measure);
    /// Σ xᵢ².
    fn squares(self) -> f64;
}

impl<'a, T: Component> Measured for Dense<'a, T> {
    type Measure = &'a [T];
    fn pair(self, other: Self) -> (&'a [T], &'a [T]) {
        dense::check_same(self, other);
        (self.values(), other.values())
    }
    fn squares(self) -> f64 {
        (T::components(kernels()).squares)(self.values())
    }
}

impl<'a> Measured for Sparse<'a> {
    type Measure = SparseVector<'a>;
    fn pair(self, other: Self) -> (SparseVector<'a>, SparseVector<'a>) {
        sparse::check_same(self, other);
        (self.components(), other.components())
    }
    fn squares(self) -> f64 {
        /// So few are squared and added before a kernel would be ready to begin.
        const FEW: usize = 64;
        const SUMS: usize = 8;
        let values = self.values();
        if values.len() > FEW {
            return (kernels().single_components.squares)(values);
        }
        let square = |x: f32| f64::from(x) * f64::from(x);
        let (chunks, rest) = values.as_chunks::<SUMS>();
        let mut sums = [0.0; SUMS];
        for chunk in chunks {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += square(x);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(rest) {
            *sum += square(x);
        }
        let [a, b, c, d, e, f, g, h] = sums;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
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

/// The distances and the norm of a type that is [`Measured`].
macro_rules! distances {
    ($vector:ident: $l2:ident, $l2_squared:ident, $inner_product:ident,
     $negative_inner_product:ident, $cosine:ident, $l1:ident, $norm:ident) => {
        functions! {
            /// `<->`: Euclidean distance.
            fn $l2(a: Scanned<$vector<'_>>, b: $vector<'_>) -> f64 {
                measure(a.0, b, distance::l2)
            }

            /// Its square, which orders in the same way.
            fn $l2_squared(a: Scanned<$vector<'_>>, b: $vector<'_>) -> f64 {
                measure(a.0, b, distance::l2_squared)
            }

            fn $inner_product(a: Scanned<$vector<'_>>, b: $vector<'_>) -> f64 {
                measure(a.0, b, distance::inner_product)
            }

            /// `<#>`: so that ascending order is nearest first.
            fn $negative_inner_product(a: Scanned<$vector<'_>>, b: $vector<'_>) -> f64 {
                -measure(a.0, b, distance::inner_product)
            }

            /// `<=>`: 1 − cosine similarity; NaN if one of the vectors is zero.
            fn $cosine(a: Scanned<$vector<'_>>, b: $vector<'_>) -> f64 {
                measure(a.0, b, distance::cosine)
            }

            /// `<+>`: taxicab distance.
            fn $l1(a: Scanned<$vector<'_>>, b: $vector<'_>) -> f64 {
                measure(a.0, b, distance::l1)
            }
        }

        quick_functions! {
            /// Euclidean norm.
            fn $norm(vector: Scanned<$vector<'_>>) -> f64 {
                vector.0.squares().sqrt()
            }
            quickly { Some(vector.0.squares().sqrt()) }
        }
    };
}
distances!(Vector: vector_l2_distance, vector_l2_squared_distance, vector_inner_product,
    vector_negative_inner_product, vector_cosine_distance, vector_l1_distance, vector_norm);
distances!(HalfVector: halfvec_l2_distance, halfvec_l2_squared_distance, halfvec_inner_product,
    halfvec_negative_inner_product, halfvec_cosine_distance, halfvec_l1_distance, halfvec_norm);
distances!(Sparse: sparsevec_l2_distance, sparsevec_l2_squared_distance, sparsevec_inner_product,
    sparsevec_negative_inner_product, sparsevec_cosine_distance, sparsevec_l1_distance,
    sparsevec_norm);

/// The factor that gives a vector the length 1; `None` for a zero vector.
fn to_unit(squares: f64) -> Option<f64> {
    (squares > 0.0).then(|| squares.sqrt().recip())
}

macro_rules! dense_functions {
    ($vector:ident: $spherical_distance:ident, $dims:ident, $l2_normalize:ident) => {
        functions! {
            /// Angular distance of normalized vectors, as a part of π.
            fn $spherical_distance(a: Scanned<$vector<'_>>, b: $vector<'_>) -> f64 {
                let product = measure(a.0, b, distance::inner_product);
                product.clamp(-1.0, 1.0).acos() / std::f64::consts::PI
            }

            /// The vector of length 1 in the same direction; a zero vector stays zero.
            fn $l2_normalize(vector: Scanned<$vector<'_>>) -> pg_sys::Datum {
                normalize(vector.0)
            }
        }

        quick_functions! {
            /// Number of dimensions.
            fn $dims(vector: $vector<'_>) -> i32 {
                vector.values().len() as i32
            }
            quickly { Some(vector.values().len() as i32) }
        }
    };
}
dense_functions!(Vector: vector_spherical_distance, vector_dims, vector_l2_normalize);
dense_functions!(HalfVector: halfvec_spherical_distance, halfvec_dims, halfvec_l2_normalize);

fn normalize<T: Component>(vector: Dense<'_, T>) -> pg_sys::Datum {
    let values = vector.values();
    dense::build(values.len(), |out| {
        if let Some(times) = to_unit(vector.squares()) {
            (T::components(kernels()).scale)(values, times, out);
        }
    })
}

functions! {
    /// As for the other types; what becomes zero is left out.
    fn sparsevec_l2_normalize(vector: Scanned<Sparse<'_>>) -> pg_sys::Datum {
        let vector = vector.0;
        match to_unit(vector.squares()) {
            Some(times) => sparse::with_values(vector, |values, out| {
                (kernels().single_components.scale)(values, times, out);
            }),
            None => vector.datum(),
        }
    }

    /// `<~>`: how many bits differ.
    fn bit_hamming_distance(a: Scanned<Bits<'_>>, b: Bits<'_>) -> f64 {
        check_same_length(a.0, b);
        (kernels().hamming)(a.0.bytes, b.bytes) as f64
    }

    /// `<%>`: 1 − the part of the bits set in either that is set in both; 1 if none
    /// is set in both.
    fn bit_jaccard_distance(a: Scanned<Bits<'_>>, b: Bits<'_>) -> f64 {
        check_same_length(a.0, b);
        let (both, either) = (kernels().common_bits)(a.0.bytes, b.bytes);
        metric::jaccard(both, either)
    }
}

fn check_same_length(a: Bits<'_>, b: Bits<'_>) {
    if a.len != b.len {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("different bit lengths {} and {}", a.len, b.len),
        );
    }
}
