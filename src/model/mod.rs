//! Models: kept in tables of the schema `insitu`, run by `crates/encoder`.
//!
//! `catalog` reads (with `scan`) and writes the tables, `load` fills them, `access` says who
//! may use a model (its roles are of the type in `role`), `dependents` finds what
//! would fail without one, `session` keeps the encoders of this backend, and `embed`
//! is what queries call. `quantize` makes smaller models of loaded ones, and
//! `evaluate` tells what they keep. `memory` gives back what loading a model
//! and long calls leave behind; `transaction` says when one ends, and `analyze` where
//! no model is to run.

mod access;
mod analyze;
mod catalog;
mod dependents;
mod embed;
mod evaluate;
mod load;
mod memory;
mod quantize;
mod role;
mod scan;
mod session;
mod transaction;

use encoder::ErrorKind;
use pgrx::prelude::*;

use crate::errors::{raise, raise_with_hint};

/// What an operation on a model returns, or an ERROR.
#[track_caller]
fn unwrap_model<T>(result: Result<T, encoder::Error>) -> T {
    let error = match result {
        Ok(value) => return value,
        Err(error) => error,
    };
    let code = match error.kind() {
        ErrorKind::Runtime | ErrorKind::File => PgSqlErrorCode::ERRCODE_UNDEFINED_FILE,
        ErrorKind::InvalidModel | ErrorKind::Unsupported => {
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
        }
        ErrorKind::Tokenizer => PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        ErrorKind::Interrupted => PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
        ErrorKind::Resource => PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        _ => PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
    };
    match error.hint() {
        Some(hint) => raise_with_hint(code, error.to_string(), hint),
        None => raise(code, error.to_string()),
    }
}
