//! insitu: vector types, approximate nearest-neighbour indexes and embedding
//! models inside PostgreSQL. `ARCHITECTURE.md` tells how the parts fit.
//!
//! This crate is the glue, the only code that knows PostgreSQL. The algorithms
//! are in `crates/ann`, the models in `crates/encoder`.

// Items that SQL calls are documented where users look: in docs/reference.md.
#![allow(missing_docs)]

use pgrx::prelude::*;

#[cfg(not(panic = "unwind"))]
compile_error!("insitu needs panic = \"unwind\": PostgreSQL's errors unwind through it");

mod allocator;
mod am;
mod earlier;
mod embedding;
mod encoding;
mod errors;
mod event;
mod function;
mod model;
mod operators;
mod raised;
mod release;
mod rounded;
mod security;
mod settings;
mod storage;
mod systable;
mod threads;
mod types;
mod vector_extension;
mod versions;

pgrx::pg_module_magic!(name, version);

/// Called when a server process loads the library. It starts no thread and
/// opens nothing: the process may fork later.
#[pg_guard]
#[allow(unsafe_code)]
pub extern "C-unwind" fn _PG_init() {
    errors::keep_backtraces_out();
    refuse_beside_pgvector();
    // Before anything that stays: the library comes again after an ERROR.
    release::look_when_loaded();
    allocator::init();
    settings::init();
    am::init();
    versions::explain::init();
}

/// Raises an ERROR where the session has loaded pgvector's library: both define
/// the same settings.
#[allow(unsafe_code)]
fn refuse_beside_pgvector() {
    // SAFETY: looks a symbol of pgvector's up among the loaded libraries.
    let is_there =
        unsafe { !libc::dlsym(libc::RTLD_DEFAULT, c"hnsw_ef_search".as_ptr()).is_null() };
    if is_there {
        errors::raise_with_hint(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "insitu cannot be loaded into a session that has loaded pgvector",
            "Begin a new session.",
        );
    }
}

/// Stands for functions of pgvector's that nothing calls any more, in a database
/// where insitu has taken its place.
#[pg_extern(sql = false)]
fn replaced(_fcinfo: pg_sys::FunctionCallInfo) {
    errors::raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "this function of pgvector has no meaning in insitu",
    );
}

/// The schema of everything about models, and of functions that inspect.
#[pg_schema]
mod insitu {}

extension_sql_file!("../sql/bootstrap.sql", bootstrap);
extension_sql_file!("../sql/functions.sql", name = "functions");
extension_sql_file!(
    "../sql/types.sql",
    name = "types",
    requires = [
        "functions",
        vector_typmod_in,
        halfvec_typmod_in,
        sparsevec_typmod_in
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
        drop_model_by_force,
        quantize_model,
        model_changed
    ]
);
extension_sql_file!(
    "../sql/embedding.sql",
    name = "embedding",
    requires = ["models", embed, embed_all, embedded_columns, embed_jobs]
);
extension_sql_file!(
    "../sql/operators.sql",
    name = "operators",
    requires = [
        "types",
        "models",
        "embedding",
        hnswhandler,
        ivfhandler,
        ivfflathandler,
        tie_vector
    ]
);
extension_sql_file!("../sql/comments.sql", name = "comments", finalize);
