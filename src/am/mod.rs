//! The index access methods (PostgreSQL's access/amapi.h): a folder for each, with
//! one file per family of callbacks, and beside them what they have alike.

mod cost;
pub mod counters;
pub mod explain;
mod hnsw;
mod ivf;
mod method;
mod open;
mod progress;
mod routine;
mod sample;
mod scan;
mod stats;
mod verify;

/// Registers the storage parameters.
pub fn init() {
    hnsw::options::init();
    ivf::options::init();
}
