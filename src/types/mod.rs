//! A datum becomes a checked slice, and a slice becomes a datum.

pub mod arrays;
pub mod text;
pub mod vector;

pub use vector::{OwnedVector, Vector};
