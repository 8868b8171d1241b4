//! Component-wise arithmetic, concatenation, parts, signs.

use half::f16;
use pgrx::prelude::*;

use crate::errors::raise;
use crate::types::OwnedBits;
use crate::types::dense::{Component, Dense, Owned, check_dimensions, check_same};

/// Applies `f` to the pairs of components. Finite components in, so a result
/// that is not finite is an overflow; one that is zero although neither
/// argument is, an underflow of a product.
fn zip<T: Component>(a: Dense<'_, T>, b: Dense<'_, T>, f: impl Fn(f32, f32) -> f32) -> Vec<T> {
    check_same(a, b);
    let pairs = a.values().iter().zip(b.values());
    let result: Vec<T> = pairs
        .map(|(x, y)| T::round(f(x.to_f32(), y.to_f32())))
        .collect();
    if result.iter().any(|x| x.to_f32().is_infinite()) {
        raise(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            "value out of range: overflow",
        );
    }
    result
}

fn multiply<T: Component>(a: Dense<'_, T>, b: Dense<'_, T>) -> Owned<T> {
    let product = zip(a, b, |x, y| x * y);
    let factors = a.values().iter().zip(b.values());
    let is_zero = |x: &T| x.to_f32() == 0.0;
    if factors
        .zip(&product)
        .any(|((x, y), p)| is_zero(p) && !is_zero(x) && !is_zero(y))
    {
        raise(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            "value out of range: underflow",
        );
    }
    Owned::checked(product)
}

/// The components from `start` (counted from 1), at most `count` of them; what
/// lies outside the vector is left out, as with `substring`.
fn part<T: Component>(vector: Dense<'_, T>, start: i32, count: i32) -> Owned<T> {
    let values = vector.values();
    let dimensions = values.len() as i64;
    // In 64 bits, start + count cannot overflow.
    let first = i64::from(start).max(1);
    let end = (i64::from(start) + i64::from(count)).min(dimensions + 1);
    if count < 1 || first >= end {
        check_dimensions::<T>(0);
    }
    Owned::checked(values[first as usize - 1..end as usize - 1].to_vec())
}

macro_rules! arithmetic {
    ($component:ty: $add:ident, $sub:ident, $mul:ident, $concat:ident, $subvector:ident,
     $binary_quantize:ident) => {
        #[pg_extern(immutable, strict, parallel_safe)]
        fn $add(a: Dense<'_, $component>, b: Dense<'_, $component>) -> Owned<$component> {
            Owned::checked(zip(a, b, |x, y| x + y))
        }

        #[pg_extern(immutable, strict, parallel_safe)]
        fn $sub(a: Dense<'_, $component>, b: Dense<'_, $component>) -> Owned<$component> {
            Owned::checked(zip(a, b, |x, y| x - y))
        }

        #[pg_extern(immutable, strict, parallel_safe)]
        fn $mul(a: Dense<'_, $component>, b: Dense<'_, $component>) -> Owned<$component> {
            multiply(a, b)
        }

        /// `||`: the components of `a`, then those of `b`.
        #[pg_extern(immutable, strict, parallel_safe)]
        fn $concat(a: Dense<'_, $component>, b: Dense<'_, $component>) -> Owned<$component> {
            Owned::checked([a.values(), b.values()].concat())
        }

        #[pg_extern(immutable, strict, parallel_safe, name = "subvector")]
        fn $subvector(vector: Dense<'_, $component>, start: i32, count: i32) -> Owned<$component> {
            part(vector, start, count)
        }

        /// One bit a component: whether it is above zero.
        #[pg_extern(immutable, strict, parallel_safe, name = "binary_quantize")]
        fn $binary_quantize(vector: Dense<'_, $component>) -> OwnedBits {
            vector.values().iter().map(|x| x.to_f32() > 0.0).collect()
        }
    };
}
arithmetic!(f32: vector_add, vector_sub, vector_mul, vector_concat, subvector, binary_quantize);
arithmetic!(f16: halfvec_add, halfvec_sub, halfvec_mul, halfvec_concat, halfvec_subvector,
    halfvec_binary_quantize);
