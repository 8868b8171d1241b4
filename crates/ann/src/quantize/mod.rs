//! Short codes of vectors.
//!
//! | module | what it holds |
//! |---|---|
//! | [`rotation`] | a random rotation, which spreads a vector over all dimensions |
//! | [`frame`] | what vectors have in common, kept out of their codes |
//! | [`scalar8`] | 8 bits a dimension, with a bound of the error |
//! | [`rabitq`] | 1 bit a dimension relative to a centre, for estimates |
//! | [`extended`] | 4 or 8 bits a dimension relative to a centre, with a bound of the error |
//! | [`fastscan`] | comparing 32 such codes with a query in one pass |
//! | [`bound`] | what a code guarantees of the exact distance |

pub mod bound;
pub mod extended;
pub mod fastscan;
pub mod frame;
pub mod rabitq;
pub mod rotation;
pub mod scalar8;
