//! A total order of vectors, for B-trees, DISTINCT and GROUP BY: component by
//! component, then by the number of dimensions.

use std::cmp::Ordering;

use ann::SparseVector;

use crate::function::quick_functions;
use crate::types::dense::{Component, Dense};
use crate::types::{HalfVector, Sparse, Vector};

trait Compare {
    fn compare(self, other: Self) -> Ordering;
    /// The order, where the first components tell it. It neither panics nor raises an ERROR.
    fn compare_first(self, other: Self) -> Option<Ordering>;
}

/// How many elements at the beginning of two slices have the same bits.
fn common<T: bytemuck::Pod>(a: &[T], b: &[T]) -> usize {
    const AT_ONCE: usize = 32;
    let bytes = |values| bytemuck::cast_slice::<T, u8>(values);
    let (a, b) = (bytes(a), bytes(b));
    let chunks = |bytes| <[u8]>::as_chunks::<AT_ONCE>(bytes).0;
    let pairs = chunks(a).iter().zip(chunks(b));
    let whole = AT_ONCE * pairs.take_while(|(a, b)| a == b).count();
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
            match x.compare(*y) {
                Ordering::Equal => at += 1,
                order => return order,
            }
        }
    }

    #[inline]
    fn compare_first(self, other: Self) -> Option<Ordering> {
        // Most pairs differ in one of these.
        const FIRST: usize = 4;
        let pairs = self.values().iter().zip(other.values()).take(FIRST);
        let mut orders = pairs.map(|(x, y)| x.compare(*y));
        orders.find(|order| order.is_ne())
    }
}

impl Compare for Sparse<'_> {
    #[inline]
    fn compare(self, other: Self) -> Ordering {
        let (x, y) = (self.components(), other.components());
        let both = self.dimensions().min(other.dimensions());
        // What the one has of a component that the other does not have, compared with zero.
        let alone = |index: u32, value: f32| match (index as usize) < both {
            true => value.partial_cmp(&0.0),
            false => None,
        };
        let next = x.indices.len().min(y.indices.len());
        let mut at = 0;
        while let (Some(&i), Some(&j), Some(&a), Some(&b)) = (
            x.indices.get(at),
            y.indices.get(at),
            x.values.get(at),
            y.values.get(at),
        ) {
            let order = match i.cmp(&j) {
                Ordering::Less => alone(i, a),
                Ordering::Equal => a.partial_cmp(&b),
                Ordering::Greater => alone(j, b).map(Ordering::reverse),
            };
            match order {
                Some(Ordering::Equal) => at += 1,
                Some(order) => return order,
                None => return self.dimensions().cmp(&other.dimensions()),
            }
            // Most pairs differ in their first component; those that do not are likely to have
            // more in common.
            let same = common(&x.indices[at..next], &y.indices[at..next]);
            at += common(&x.values[at..at + same], &y.values[at..at + same]);
        }
        let of = |vector: SparseVector<'_>| {
            let (index, value) = (vector.indices.get(next)?, vector.values.get(next)?);
            alone(*index, *value)
        };
        let order = of(x).or_else(|| of(y).map(Ordering::reverse));
        order.unwrap_or_else(|| self.dimensions().cmp(&other.dimensions()))
    }

    #[inline]
    fn compare_first(self, other: Self) -> Option<Ordering> {
        Some(self.compare(other))
    }
}

macro_rules! comparisons {
    ($vector:ident: $cmp:ident, $($name:ident = $test:ident),*) => {
        quick_functions! {
            fn $cmp(a: $vector<'_>, b: $vector<'_>) -> i32 {
                a.compare(b) as i32
            }
            quickly { a.compare_first(b).map(|order| order as i32) }

            $(
                fn $name(a: $vector<'_>, b: $vector<'_>) -> bool {
                    a.compare(b).$test()
                }
                quickly { a.compare_first(b).map(Ordering::$test) }
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
