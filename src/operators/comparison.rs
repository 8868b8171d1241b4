//! A total order of vectors, for B-trees, DISTINCT and GROUP BY: component by
//! component, then by the number of dimensions.

use std::cmp::Ordering;

use crate::function::{Scanned, functions};
use crate::types::dense::{Component, Dense};
use crate::types::{HalfVector, Sparse, Vector};

trait Compare {
    fn compare(self, other: Self) -> Ordering;
}

/// How many elements at the beginning of two slices have the same bits.
fn common<T: bytemuck::Pod>(a: &[T], b: &[T]) -> usize {
    const AT_ONCE: usize = 32;
    let bytes = |values| bytemuck::cast_slice::<T, u8>(values);
    let (a, b) = (bytes(a), bytes(b));
    let chunks = a.chunks_exact(AT_ONCE).zip(b.chunks_exact(AT_ONCE));
    // The first ones often differ.
    let whole = AT_ONCE * chunks.take_while(|(a, b)| a == b).count();
    let rest = a[whole..].iter().zip(&b[whole..]);
    (whole + rest.take_while(|(a, b)| a == b).count()) / size_of::<T>()
}

// Components are finite, so they have an order; −0 equals 0.

impl<T: Component> Compare for Dense<'_, T> {
    fn compare(self, other: Self) -> Ordering {
        let (a, b) = (self.values(), other.values());
        let mut at = 0;
        loop {
            at += common(&a[at..], &b[at..]);
            let (Some(x), Some(y)) = (a.get(at), b.get(at)) else {
                return a.len().cmp(&b.len());
            };
            match x.to_f32().partial_cmp(&y.to_f32()) {
                Some(order) if order.is_ne() => return order,
                _ => at += 1,
            }
        }
    }
}

impl Compare for Sparse<'_> {
    fn compare(self, other: Self) -> Ordering {
        let (a, b) = (self.dimensions(), other.dimensions());
        let (x, y) = (self.components(), other.components());
        let same = common(x.indices, y.indices).min(common(x.values, y.values));
        self.skip(same)
            .pairs(other.skip(same))
            .take_while(|&(index, ..)| index < a.min(b))
            .filter_map(|(_, x, y)| x.partial_cmp(&y))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| a.cmp(&b))
    }
}

macro_rules! comparisons {
    ($vector:ident: $cmp:ident, $($name:ident = $test:ident),*) => {
        functions! {
            fn $cmp(a: Scanned<$vector<'_>>, b: $vector<'_>) -> i32 {
                a.0.compare(b) as i32
            }

            $(
                fn $name(a: Scanned<$vector<'_>>, b: $vector<'_>) -> bool {
                    a.0.compare(b).$test()
                }
            )*
        }
    };
}
comparisons!(Vector: vector_cmp, vector_lt = is_lt, vector_le = is_le, vector_eq = is_eq,
    vector_ne = is_ne, vector_ge = is_ge, vector_gt = is_gt);
comparisons!(HalfVector: halfvec_cmp, halfvec_lt = is_lt, halfvec_le = is_le, halfvec_eq = is_eq,
    halfvec_ne = is_ne, halfvec_ge = is_ge, halfvec_gt = is_gt);
comparisons!(Sparse: sparsevec_cmp, sparsevec_lt = is_lt, sparsevec_le = is_le,
    sparsevec_eq = is_eq, sparsevec_ne = is_ne, sparsevec_ge = is_ge, sparsevec_gt = is_gt);
