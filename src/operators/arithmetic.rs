//! Component-wise arithmetic, concatenation, parts, signs.

use ann::simd::kernels;
use pgrx::prelude::*;

use crate::errors::raise;
use crate::function::{Scanned, functions};
use crate::types::dense::{self, Component, Dense, Sum, check_dimensions, check_same};
use crate::types::{HalfVector, Vector, bits};

/// Raises an ERROR if a sum or product is not finite. Finite components in, so that is an
/// overflow.
fn check_overflow<T: Component>(values: &[T]) {
    if !(T::components(kernels()).are_finite)(values) {
        raise(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            "value out of range: overflow",
        );
    }
}

/// a + b. As the transition function of `sum`, it adds in place.
fn add<T: Component>(a: Sum<'_, T>, b: Dense<'_, T>) -> pg_sys::Datum {
    check_same(a.vector(), b);
    let kernels = T::components(kernels());
    match a.into_own() {
        Ok(own) => own.change(|sums| {
            (kernels.add_to)(sums, b.values());
            check_overflow(sums);
        }),
        Err(a) => dense::build(a.values().len(), |out| {
            (kernels.add)(a.values(), b.values(), out);
            check_overflow(out);
        }),
    }
}

fn subtract<T: Component>(a: Dense<'_, T>, b: Dense<'_, T>) -> pg_sys::Datum {
    check_same(a, b);
    dense::build(a.values().len(), |out| {
        (T::components(kernels()).subtract)(a.values(), b.values(), out);
        check_overflow(out);
    })
}

fn multiply<T: Component>(a: Dense<'_, T>, b: Dense<'_, T>) -> pg_sys::Datum {
    check_same(a, b);
    let kernels = T::components(kernels());
    dense::build(a.values().len(), |out| {
        (kernels.multiply)(a.values(), b.values(), out);
        check_overflow(out);
        // A product that is zero although neither factor is.
        if (kernels.underflow)(a.values(), b.values(), out) {
            raise(
                PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                "value out of range: underflow",
            );
        }
    })
}

fn concat<T: Component>(a: Dense<'_, T>, b: Dense<'_, T>) -> pg_sys::Datum {
    let (a, b) = (a.values(), b.values());
    dense::build(a.len() + b.len(), |out| {
        let (head, rest) = out.split_at_mut(a.len());
        head.copy_from_slice(a);
        rest.copy_from_slice(b);
    })
}

/// The components from `start` (counted from 1), at most `count` of them; what
/// lies outside the vector is left out, as with `substring`.
fn part<T: Component>(vector: Dense<'_, T>, start: i32, count: i32) -> pg_sys::Datum {
    let values = vector.values();
    let dimensions = values.len() as i64;
    // In 64 bits, start + count cannot overflow.
    let first = i64::from(start).max(1);
    let end = (i64::from(start) + i64::from(count)).min(dimensions + 1);
    if count < 1 || first >= end {
        check_dimensions::<T>(0);
    }
    let part = &values[first as usize - 1..end as usize - 1];
    dense::build(part.len(), |out| out.copy_from_slice(part))
}

macro_rules! arithmetic {
    ($vector:ident of $component:ty: $add:ident, $sub:ident, $mul:ident, $concat:ident, $subvector:ident,
     $binary_quantize:ident) => {
        functions! {
            fn $add(a: Sum<'_, $component>, b: Scanned<$vector<'_>>) -> pg_sys::Datum {
                add(a, b.0)
            }

            fn $sub(a: Scanned<$vector<'_>>, b: $vector<'_>) -> pg_sys::Datum {
                subtract(a.0, b)
            }

            fn $mul(a: Scanned<$vector<'_>>, b: $vector<'_>) -> pg_sys::Datum {
                multiply(a.0, b)
            }

            /// `||`: the components of `a`, then those of `b`.
            fn $concat(a: Scanned<$vector<'_>>, b: $vector<'_>) -> pg_sys::Datum {
                concat(a.0, b)
            }

            fn $subvector(vector: Scanned<$vector<'_>>, start: i32, count: i32) -> pg_sys::Datum {
                part(vector.0, start, count)
            }

            /// One bit a component: whether it is above zero.
            fn $binary_quantize(vector: Scanned<$vector<'_>>) -> pg_sys::Datum {
                let values = vector.0.values();
                bits::build(values.len(), |out| signs(values, out))
            }
        }
    };
}
arithmetic!(Vector of f32: vector_add, vector_sub, vector_mul, vector_concat, vector_subvector,
    vector_binary_quantize);
arithmetic!(HalfVector of half::f16: halfvec_add, halfvec_sub, halfvec_mul, halfvec_concat, halfvec_subvector,
    halfvec_binary_quantize);

fn signs<T: Component>(values: &[T], bits: &mut [u8]) {
    (T::components(kernels()).signs)(values, bits);
}
