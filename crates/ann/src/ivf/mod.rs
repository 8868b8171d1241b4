//! Inverted files of short codes over pages.
//!
//! Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search",
//! 2011: vectors are put into lists by the nearest of a number of centroids, and
//! a query is compared with those in the lists of the centroids nearest to it.
//! The codes are RaBitQ's. `README.md` in this folder says how this index
//! differs, what its pages look like, the order of locks, and what a crash
//! leaves.
//!
//! | module | what it holds |
//! |---|---|
//! | [`kmeans`] | centroids of a sample |
//! | [`codec`] | from vectors to members of lists, and distances |
//! | [`layout`] | the metapage, list pages and code pages, byte by byte |
//! | [`index`] | an open index: its lists, and adding members to them |
//! | `chain` | the pages of a list |
//! | [`build`] | building an index with threads |
//! | [`lists`] | lists, nearest first |
//! | [`stream`] | members of lists, nearest first |
//! | [`scan`] | nearest rows of a query |
//! | [`vacuum`] | removing rows, and writing sparse lists anew |
//! | [`check`] | proving that an index is valid, and statistics of it |

pub mod build;
mod chain;
pub mod check;
pub mod codec;
mod groups;
pub mod index;
pub mod kmeans;
pub mod layout;
pub mod lists;
pub mod scan;
pub mod stream;
pub mod vacuum;

#[cfg(test)]
mod tests;

pub use build::Builder;
pub use codec::Codec;
pub use index::Index;
pub use layout::Options;
pub use scan::Scan;
