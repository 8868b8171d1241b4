//! A total order of vectors, for B-trees, DISTINCT and GROUP BY: component by
//! component, then by the number of dimensions.

use std::cmp::Ordering;

use pgrx::prelude::*;

use crate::types::dense::{Component, Dense};
use crate::types::{HalfVector, Sparse, Vector};

trait Compare {
    fn compare(self, other: Self) -> Ordering;
}

// Components are finite, so they have an order; −0 equals 0.

impl<T: Component> Compare for Dense<'_, T> {
    fn compare(self, other: Self) -> Ordering {
        let (a, b) = (self.values(), other.values());
        let pairs = a.iter().zip(b);
        pairs
            .filter_map(|(x, y)| x.to_f32().partial_cmp(&y.to_f32()))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| a.len().cmp(&b.len()))
    }
}

impl Compare for Sparse<'_> {
    fn compare(self, other: Self) -> Ordering {
        let (a, b) = (self.dimensions(), other.dimensions());
        self.pairs(other)
            .take_while(|&(index, ..)| index < a.min(b))
            .filter_map(|(_, x, y)| x.partial_cmp(&y))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| a.cmp(&b))
    }
}

macro_rules! comparisons {
    ($vector:ident: $cmp:ident, $($name:ident = $test:ident),*) => {
        #[pg_extern(immutable, strict, parallel_safe)]
        fn $cmp(a: $vector<'_>, b: $vector<'_>) -> i32 {
            a.compare(b) as i32
        }

        $(
            #[pg_extern(immutable, strict, parallel_safe)]
            fn $name(a: $vector<'_>, b: $vector<'_>) -> bool {
                a.compare(b).$test()
            }
        )*
    };
}
comparisons!(Vector: vector_cmp, vector_lt = is_lt, vector_le = is_le, vector_eq = is_eq,
    vector_ne = is_ne, vector_ge = is_ge, vector_gt = is_gt);
comparisons!(HalfVector: halfvec_cmp, halfvec_lt = is_lt, halfvec_le = is_le, halfvec_eq = is_eq,
    halfvec_ne = is_ne, halfvec_ge = is_ge, halfvec_gt = is_gt);
comparisons!(Sparse: sparsevec_cmp, sparsevec_lt = is_lt, sparsevec_le = is_le,
    sparsevec_eq = is_eq, sparsevec_ne = is_ne, sparsevec_ge = is_ge, sparsevec_gt = is_gt);
