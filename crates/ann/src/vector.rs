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
    /// Indices and components, as many of the one as of the other.
    fn pairs(&self) -> (&[u32], &[f32]) {
        let count = self.indices.len().min(self.values.len());
        (&self.indices[..count], &self.values[..count])
    }

    /// Sums `term` over the indices where one of two vectors is not zero, in
    /// their order.
    pub fn sum(self, other: SparseVector<'_>, term: impl Fn(f32, f32) -> f32) -> f32 {
        let (a, a_values) = self.pairs();
        let (b, b_values) = other.pairs();
        let (mut i, mut j) = (0, 0);
        let mut sum = 0.0;
        while i < a.len() && j < b.len() {
            match a[i].cmp(&b[j]) {
                Ordering::Less => {
                    sum += term(a_values[i], 0.0);
                    i += 1;
                }
                Ordering::Greater => {
                    sum += term(0.0, b_values[j]);
                    j += 1;
                }
                Ordering::Equal => {
                    sum += term(a_values[i], b_values[j]);
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
        let (a, a_values) = self.pairs();
        let (b, b_values) = other.pairs();
        let (mut i, mut j) = (0, 0);
        let mut sum = 0.0;
        // Which index is smaller is not foreseen: nothing here is a branch.
        while i < a.len() && j < b.len() {
            let product = a_values[i] * b_values[j];
            let (x, y) = (a[i], b[j]);
            sum += if x == y { product } else { 0.0 };
            i += usize::from(x <= y);
            j += usize::from(y <= x);
        }
        sum
    }
}
