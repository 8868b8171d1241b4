//! Vectors as an index is given them.

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
    /// Their indices, ascending, below `u32::MAX`.
    pub indices: &'a [u32],
    /// The components.
    pub values: &'a [f32],
}

impl SparseVector<'_> {
    /// As many indices as components.
    pub(crate) fn pairs(&self) -> (&[u32], &[f32]) {
        let count = self.indices.len().min(self.values.len());
        (&self.indices[..count], &self.values[..count])
    }
}

impl<'a> SparseVector<'a> {
    /// Each index with its component.
    pub(crate) fn entries(self) -> impl Iterator<Item = (u32, f32)> + use<'a> {
        let indices = self.indices.iter().copied();
        indices.zip(self.values.iter().copied())
    }
}
