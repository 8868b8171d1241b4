//! The index access methods: one file per family of callbacks
//! (PostgreSQL's access/amapi.h). `hnsw` wires them together.

mod build;
mod cost;
mod explain;
mod hnsw;
mod insert;
mod open;
pub mod options;
mod scan;
mod vacuum;
mod verify;
