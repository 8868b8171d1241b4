//! A datum becomes a checked slice, and a slice becomes a datum.

pub mod arrays;
pub mod bits;
pub mod dense;
pub mod sparse;
pub mod text;

pub use bits::{Bits, OwnedBits};
pub use dense::{HalfVector, OwnedVector, Vector};
pub use sparse::{OwnedSparse, Sparse};
