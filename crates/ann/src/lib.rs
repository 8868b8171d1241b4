//! Vectors in, nearest vectors out.
//!
//! This crate holds everything of insitu that is an algorithm over vectors:
//! distances with run-time SIMD dispatch ([`simd`]), metrics ([`metric`]), short
//! codes ([`quantize`]) and the HNSW graph index ([`hnsw`]). An index lives on fixed-size pages that it
//! reads and changes through one trait, [`page::PageStore`], so the same code
//! runs over the server's shared buffers and over [`mem_pages::MemPages`] in a
//! plain `cargo test`.
//!
//! Nothing here knows of PostgreSQL or of models.

pub mod error;
pub mod hnsw;
pub mod mem_pages;
pub mod metric;
pub mod page;
pub mod quantize;
pub mod simd;

pub use error::Error;
pub use metric::Metric;
