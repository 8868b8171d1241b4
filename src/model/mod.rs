//! Models: kept in tables of the schema `insitu`, run by `crates/encoder`.
//!
//! `catalog` reads (with `scan`) and writes the tables, `load` fills them, `access` says who
//! may use a model (its roles are of the type in `role`), `dependents` finds what
//! would fail without one, `session` keeps the encoders of this backend, and `embed`
//! is what queries call. `quantize` makes smaller models of loaded ones, and
//! `evaluate` tells what they keep. `memory` gives back what loading a model
//! and long calls leave behind; `transaction` says when one ends, and `analyze` where
//! no model is to run. `earlier` reads the tables of version 0.1.0.

mod access;
mod analyze;
mod catalog;
mod chunk;
mod dependents;
mod earlier;
mod embed;
mod evaluate;
mod load;
mod memory;
mod quantize;
mod role;
mod scan;
mod session;
mod transaction;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use encoder::ErrorKind;
use pgrx::prelude::*;

pub use session::runtime_report;

use crate::errors::{bounded, quoted_bytes, raise, raise_with_hint};

/// What an operation on a model returns, or an ERROR.
#[track_caller]
fn unwrap_model<T>(result: Result<T, encoder::Error>) -> T {
    let error = match result {
        Ok(value) => return value,
        Err(error) => error,
    };
    let code = match error.kind() {
        ErrorKind::Runtime | ErrorKind::File => PgSqlErrorCode::ERRCODE_UNDEFINED_FILE,
        ErrorKind::InvalidModel | ErrorKind::Unsupported | ErrorKind::Argument => {
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
        }
        ErrorKind::Tokenizer => PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        ErrorKind::Interrupted => PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
        ErrorKind::Memory => PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
        ErrorKind::Resource => PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        _ => PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
    };
    let message = message_of(&error);
    let hint = match &error {
        encoder::Error::Runtime { .. } => error.hint().map(|hint| {
            hint + " The setting is insitu.onnxruntime_path; of insitu's packages, \
                    insitu-onnxruntime has the library."
        }),
        _ => error.hint(),
    };
    match hint {
        Some(hint) => raise_with_hint(code, message, hint),
        None => raise(code, message),
    }
}

/// The message of an error. Paths are bytes, which are meant in the database's encoding.
fn message_of(error: &encoder::Error) -> String {
    let shown = |path: &Path| quoted_bytes(path.as_os_str().as_bytes());
    match error {
        encoder::Error::File { path, reason } => {
            format!("could not read \"{}\": {reason}", shown(path))
        }
        encoder::Error::Runtime { path, reason } => {
            format!(
                "could not load ONNX Runtime from \"{}\": {reason}",
                shown(path)
            )
        }
        other => bounded(&other.to_string()).into_owned(),
    }
}
