//! insitu: vector types, approximate nearest-neighbour indexes and embedding
//! models inside PostgreSQL. `ARCHITECTURE.md` tells how the parts fit.
//!
//! This crate is the glue, the only code that knows PostgreSQL. The algorithms
//! are in `crates/ann`, the models in `crates/encoder`.

// Items that SQL calls are documented where users look: in the README.
#![allow(missing_docs)]

use pgrx::prelude::*;

#[cfg(not(panic = "unwind"))]
compile_error!("insitu needs panic = \"unwind\": PostgreSQL's errors unwind through it");

mod am;
mod errors;
mod model;
mod operators;
mod security;
mod settings;
mod storage;
mod threads;
mod types;

pgrx::pg_module_magic!(name, version);

/// Called when a server process loads the library. It starts no thread and
/// opens nothing: the process may fork later.
#[pg_guard]
#[allow(unsafe_code)]
pub extern "C-unwind" fn _PG_init() {
    settings::init();
    am::init();
}

/// The schema of everything about models, and of functions that inspect.
#[pg_schema]
mod insitu {}

extension_sql_file!("../sql/bootstrap.sql", bootstrap);
extension_sql_file!(
    "../sql/types.sql",
    name = "types",
    requires = [
        vector_in,
        vector_out,
        vector_typmod_in,
        vector_recv,
        vector_send,
        halfvec_in,
        halfvec_out,
        halfvec_typmod_in,
        halfvec_recv,
        halfvec_send,
        sparsevec_in,
        sparsevec_out,
        sparsevec_typmod_in,
        sparsevec_recv,
        sparsevec_send
    ]
);
extension_sql_file!(
    "../sql/models.sql",
    name = "models",
    requires = [
        insitu,
        load_model,
        load_model_files,
        drop_model,
        model_changed
    ]
);
extension_sql_file!("../sql/operators.sql", name = "operators", finalize);
