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
    // Not as slices, for which a function of the C library is called.
    let words = |bytes: &[u8; AT_ONCE]| bytemuck::pod_read_unaligned::<[u64; AT_ONCE / 8]>(bytes);
    let are_same = |(a, b): &(&[u8; AT_ONCE], &[u8; AT_ONCE])| {
        let pairs = words(a).into_iter().zip(words(b));
        pairs.fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
    };
    let chunks = |values| {
        let bytes = bytemuck::cast_slice::<T, u8>(values);
        bytes.as_chunks::<AT_ONCE>().0
    };
    let pairs = chunks(a).iter().zip(chunks(b));
    let whole = AT_ONCE * pairs.take_while(are_same).count() / size_of::<T>();
    let rest = a[whole..].iter().zip(&b[whole..]);
    let is_same = |(a, b): &(&T, &T)| bytemuck::bytes_of(*a) == bytemuck::bytes_of(*b);
    whole + rest.take_while(is_same).count()
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

impl Sparse<'_> {
    /// The order by the first component that only one of two vectors has: of the one that has
    /// it, compared with zero, unless the other has fewer dimensions.
    #[inline(always)]
    fn order_alone(self, other: Self, index: u32, value: f32) -> Ordering {
        match (index as usize) < other.dimensions() {
            true => value.partial_cmp(&0.0).unwrap_or(Ordering::Equal),
            false => Ordering::Greater,
        }
    }

    /// The order by what is at one place in both; `None` where one has nothing there.
    #[inline(always)]
    fn order_at(self, other: Self, at: usize) -> Option<Ordering> {
        let (x, y) = (self.components(), other.components());
        let (&i, &j) = (x.indices.get(at)?, y.indices.get(at)?);
        let (&a, &b) = (x.values.get(at)?, y.values.get(at)?);
        Some(match i.cmp(&j) {
            Ordering::Less => self.order_alone(other, i, a),
            Ordering::Equal => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
            Ordering::Greater => other.order_alone(self, j, b).reverse(),
        })
    }
}

impl Compare for Sparse<'_> {
    fn compare(self, other: Self) -> Ordering {
        let (x, y) = (self.components(), other.components());
        let mut at = 0;
        while let Some(order) = self.order_at(other, at) {
            if order.is_ne() {
                return order;
            }
            // Most pairs differ in their first component; those that do not are likely to have
            // more in common. What is equal may still have other bits.
            let same = common(&x.indices[at..], &y.indices[at..]);
            let same = common(&x.values[at..at + same], &y.values[at..at + same]);
            at += same.max(1);
        }
        let of =
            |vector: SparseVector<'_>| Some((*vector.indices.get(at)?, *vector.values.get(at)?));
        match (of(x), of(y)) {
            (Some((index, value)), _) => self.order_alone(other, index, value),
            (_, Some((index, value))) => other.order_alone(self, index, value).reverse(),
            _ => self.dimensions().cmp(&other.dimensions()),
        }
    }

    #[inline(always)]
    fn compare_first(self, other: Self) -> Option<Ordering> {
        match self.order_at(other, 0) {
            Some(order) if order.is_ne() => Some(order),
            _ => Some(self.compare(other)),
        }
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
