//! Hierarchical navigable small world graphs over pages.
//!
//! Malkov and Yashunin, "Efficient and robust approximate nearest neighbor
//! search using Hierarchical Navigable Small World graphs", 2016
//! (arXiv:1603.09320). `README.md` in this folder says how this index differs,
//! what its pages look like, the order of locks, and what a crash leaves.
//!
//! | module | what it holds |
//! |---|---|
//! | [`codec`] | what a vertex stores of its vector, and distances between codes |
//! | [`layout`] | the metapage and the vertex slot, byte by byte |
//! | [`index`] | an open index: reading and writing single vertices |
//! | [`beam`] | best-first search on one level, resumable |
//! | [`stream`] | best-first search that goes on as long as it is asked to |
//! | [`means`] | the mean of several estimates of one vertex, for both |
//! | [`sets`] | sets of vertices, few of them or many |
//! | [`neighbours`] | the diversity heuristic |
//! | [`links`] | the links of a vertex on pages: choosing, adding and replacing them |
//! | [`insert`] | adding one vector to an index on pages |
//! | [`build`] | building a whole graph in memory, with threads |
//! | [`postings`] | the rows of an element that its vertex has no room for |
//! | [`scan`] | nearest rows of a query, as a stream |
//! | [`witness`] | whether short codes can tell the vectors of a table apart |
//! | [`order`] | the rows of a search in an order, round after round |
//! | [`vacuum`] | removing rows: mark, repair, free |
//! | [`check`] | proving that an index is a valid graph |

pub mod beam;
pub mod build;
pub mod check;
pub mod codec;
pub mod index;
pub mod insert;
pub mod layout;
mod links;
mod means;
pub mod neighbours;
pub mod order;
mod postings;
pub mod scan;
pub mod sets;
pub mod stream;
pub mod vacuum;
pub mod witness;

#[cfg(test)]
mod tests;

pub use build::Builder;
pub use codec::{AnyCodec, AnyQuery, Code, Codec, Fused, Plain};
pub use index::Index;
pub use layout::{Options, Storage, Vertex};
pub use scan::Scan;
