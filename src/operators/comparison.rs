//! A total order of vectors, for B-trees, DISTINCT and GROUP BY: component by
//! component, then by the number of dimensions.

use std::cmp::Ordering;

use half::f16;
use pgrx::prelude::*;

use crate::types::dense::{Component, Dense};

fn compare<T: Component>(a: Dense<'_, T>, b: Dense<'_, T>) -> Ordering {
    // Components are finite, so they have an order; −0 equals 0.
    let (a, b) = (a.values(), b.values());
    let pairs = a
        .iter()
        .zip(b)
        .map(|(x, y)| x.to_f32().partial_cmp(&y.to_f32()));
    pairs
        .flatten()
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.len().cmp(&b.len()))
}

macro_rules! comparisons {
    ($component:ty: $cmp:ident, $($name:ident = $test:ident),*) => {
        #[pg_extern(immutable, strict, parallel_safe)]
        fn $cmp(a: Dense<'_, $component>, b: Dense<'_, $component>) -> i32 {
            compare(a, b) as i32
        }

        $(
            #[pg_extern(immutable, strict, parallel_safe)]
            fn $name(a: Dense<'_, $component>, b: Dense<'_, $component>) -> bool {
                compare(a, b).$test()
            }
        )*
    };
}
comparisons!(f32: vector_cmp, vector_lt = is_lt, vector_le = is_le, vector_eq = is_eq,
    vector_ne = is_ne, vector_ge = is_ge, vector_gt = is_gt);
comparisons!(f16: halfvec_cmp, halfvec_lt = is_lt, halfvec_le = is_le, halfvec_eq = is_eq,
    halfvec_ne = is_ne, halfvec_ge = is_ge, halfvec_gt = is_gt);
