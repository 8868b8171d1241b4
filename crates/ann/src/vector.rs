//! Vectors as an index is given them.

use std::cmp::Ordering;

/// A vector of the kind that an index's metric compares.
#[derive(Clone, Copy)]
pub enum AnyVector<'a> {
    /// Components.
    Components(&'a [f32]),
    /// Bits, eight to a byte.
    Bits(&'a [u8]),
    /// The components that are not zero.
    Sparse(SparseVector<'a>),
}

impl<'a> From<&'a [f32]> for AnyVector<'a> {
    fn from(components: &'a [f32]) -> Self {
        AnyVector::Components(components)
    }
}

/// The components of a vector that are not zero.
#[derive(Debug, Clone, Copy)]
pub struct SparseVector<'a> {
    /// Their indices, ascending.
    pub indices: &'a [u32],
    /// The components.
    pub values: &'a [f32],
}

impl SparseVector<'_> {
    /// Sums `term` over the indices where one of two vectors is not zero, in
    /// their order.
    pub fn sum(self, other: SparseVector<'_>, term: impl Fn(f32, f32) -> f32) -> f32 {
        let (mut i, mut j) = (0, 0);
        let mut sum = 0.0;
        while let (Some(a), Some(b)) = (self.indices.get(i), other.indices.get(j)) {
            match a.cmp(b) {
                Ordering::Less => {
                    sum += term(self.values[i], 0.0);
                    i += 1;
                }
                Ordering::Greater => {
                    sum += term(0.0, other.values[j]);
                    j += 1;
                }
                Ordering::Equal => {
                    sum += term(self.values[i], other.values[j]);
                    i += 1;
                    j += 1;
                }
            }
        }
        let rest = self.values[i..].iter().map(|&x| term(x, 0.0));
        let other_rest = other.values[j..].iter().map(|&y| term(0.0, y));
        rest.chain(other_rest).fold(sum, |sum, term| sum + term)
    }

    /// The inner product: a sum over the indices where both are not zero.
    pub fn inner_product(self, other: SparseVector<'_>) -> f32 {
        let (mut i, mut j) = (0, 0);
        let mut sum = 0.0;
        // Which index is smaller is not foreseen: nothing here is a branch.
        while let (Some(a), Some(b)) = (self.indices.get(i), other.indices.get(j)) {
            let product = self.values[i] * other.values[j];
            sum += if a == b { product } else { 0.0 };
            i += usize::from(a <= b);
            j += usize::from(b <= a);
        }
        sum
    }
}
