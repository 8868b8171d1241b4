//! Vectors in, nearest vectors out.
//!
//! This crate holds everything of insitu that is an algorithm over vectors:
//! distances ([`distance`]) with run-time SIMD dispatch ([`simd`]), metrics ([`metric`]), short
//! codes ([`quantize`]), and two indexes: the graph [`hnsw`] and the inverted
//! file [`ivf`]. An index lives on fixed-size pages that it reads and changes
//! through one trait, [`page::PageStore`], so the same code runs over the
//! server's shared buffers and over [`mem_pages::MemPages`] in a plain
//! `cargo test`.
//!
//! Nothing here knows of PostgreSQL or of models.

pub mod distance;
pub mod error;
mod heap_tid;
pub mod hnsw;
pub mod ivf;
pub mod mem_pages;
pub mod metric;
pub mod page;
pub mod quantize;
pub mod simd;
mod table;
pub mod team;
mod vector;

pub use error::Error;
pub use heap_tid::HeapTid;
pub use metric::Metric;
pub use vector::{AnyVector, SparseVector};
