//! `insitu.load_model` and `insitu.drop_model`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use ::memory::vec::copied;
use encoder::{CompileOptions, CompiledModel, ModelFiles, compile_with};
use pgrx::prelude::*;

use super::{access, catalog, dependents, session, unwrap_model};
use crate::allocator;
use crate::encoding::{Text, TextArray};
use crate::errors::{quoted, raise, raise_with_hint};

/// Loads a model from a directory of the server; of its vectors, the first
/// `dimensions` (0 means all).
#[pg_extern(schema = "insitu", volatile, parallel_unsafe, strict)]
fn load_model(name: Text<'_>, path: Text<'_>, dimensions: default!(i32, 0)) {
    catalog::check_writable(c"insitu.load_model()");
    access::check_server_files();
    check_name(&name);
    // The name of a file is bytes, which are those of the server's text.
    let directory = Path::new(OsStr::from_bytes(path.in_server()));
    if !directory.is_absolute() {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "the path of a model must be absolute, but is \"{}\"",
                quoted(&path)
            ),
        );
    }
    let files = session::uninterrupted(|| {
        ModelFiles::read_directory_unless(directory, session::interrupted)
    });
    load(&name, &files, dimensions);
}

/// Loads a model from the contents of its files.
#[pg_extern(
    schema = "insitu",
    name = "load_model",
    volatile,
    parallel_unsafe,
    strict
)]
fn load_model_files(
    name: Text<'_>,
    file_names: TextArray<'_>,
    files: pgrx::Array<'_, &[u8]>,
    dimensions: default!(i32, 0),
) {
    catalog::check_writable(c"insitu.load_model()");
    check_name(&name);
    let file_names = file_names.0;
    if file_names.len() != files.len() {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "{} file names were given for {} files",
                file_names.len(),
                files.len()
            ),
        );
    }
    let mut by_name = BTreeMap::new();
    for (file_name, file) in file_names.into_iter().zip(files.iter()) {
        let (Some(file_name), Some(file)) = (file_name, file) else {
            raise(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "the names and contents of a model's files must not be null",
            )
        };
        pgrx::check_for_interrupts!();
        allocator::check();
        let bytes = allocator::unwrap(copied(file, "a file of the model"));
        let before = by_name.insert(file_name.as_str().to_owned(), bytes);
        if before.is_some() {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("the file \"{}\" was given twice", quoted(&file_name)),
            );
        }
    }
    load(&name, &unwrap_model(ModelFiles::new(by_name)), dimensions);
}

/// Removes a model that nothing in the database needs.
#[pg_extern(schema = "insitu", volatile, parallel_unsafe, strict)]
fn drop_model(name: Text<'_>) {
    remove(&name, false);
}

/// Removes a model, whatever needs it if `force` is true.
#[pg_extern(
    schema = "insitu",
    name = "drop_model",
    volatile,
    parallel_unsafe,
    strict
)]
fn drop_model_by_force(name: Text<'_>, force: bool) {
    remove(&name, force);
}

fn remove(name: &str, force: bool) {
    catalog::check_writable(c"insitu.drop_model()");
    catalog::lock_name(name, false);
    let model = access::owned(name);
    if !force {
        dependents::check_none(name);
    }
    catalog::remove(name, &model);
}

/// Raises an ERROR unless the name is free.
pub fn check_name(name: &str) {
    if name.is_empty() || name.len() > 255 {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_NAME,
            format!("the name of a model has 1 to 255 bytes, not {}", name.len()),
        );
    }
    if catalog::find(name).is_some() {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("model \"{name}\" already exists"),
            "A name always means the same model: choose another name, or drop the model if nothing uses it.",
        );
    }
}

/// Compiles and stores a model.
fn load(name: &str, files: &ModelFiles, dimensions: i32) {
    let options = CompileOptions {
        dimensions: match usize::try_from(dimensions) {
            Ok(0) => None,
            Ok(dimensions) => Some(dimensions),
            Err(_) => raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("dimensions is {dimensions}, but cannot be negative; 0 means all"),
            ),
        },
    };
    let model = session::uninterrupted(|| compile_with(files, &options));
    store(name, model);
}

/// Tries a model out and stores it as one of the current role's.
pub fn store(name: &str, model: CompiledModel) {
    let model = Arc::new(model);
    session::try_out(&model);
    pgrx::check_for_interrupts!();
    allocator::check();
    // Another session may have taken the name meanwhile.
    catalog::lock_name(name, false);
    check_name(name);
    catalog::store(name, &model, access::current_user());
}
