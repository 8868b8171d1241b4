//! A datum becomes a checked slice, and a slice becomes a datum.

pub mod arrays;
pub mod bits;
pub mod dense;
mod message;
pub mod sparse;
pub mod text;

pub use bits::Bits;
pub use dense::{HalfVector, OwnedVector, Vector};
pub use sparse::Sparse;
