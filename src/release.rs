//! Versions: what `insitu.version()` tells, and what the library does in a database
//! whose extension is of another version than itself.
//!
//! The server loads one library for all databases, so a package brings a new one
//! before `ALTER EXTENSION insitu UPDATE` was run in each of them, and a session goes
//! on with the library that it has loaded. A library serves the SQL of earlier
//! versions: types, operators, indexes and embedding go on, so that neither sessions
//! nor dumps and pg_upgrade fail in between, and each session is told once what is due.
//! What writes the tables of models or triggers needs the SQL of its own version
//! ([`check_same`]). A library that is older than the SQL refuses everything: it knows
//! nothing of what has changed.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::prelude::*;

use crate::encoding::{ServerText, from_server};
use crate::errors::{quoted, raise_with_hint, warning};
use crate::systable;

/// The version of the library, and of the SQL that goes with it.
pub const LIBRARY: &str = env!("CARGO_PKG_VERSION");
/// The pgvector whose SQL ours agrees with.
pub const PGVECTOR: &CStr = c"0.8.6";

const UPDATE: &str = "Run ALTER EXTENSION insitu UPDATE in this database.";

/// A version as numbers that can be compared; what is no number counts as 0.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}

/// The version of the extension in this database, if it is there.
fn installed() -> Option<String> {
    let key = systable::equal(
        pg_sys::Anum_pg_extension_extname as i32,
        pg_sys::F_NAMEEQ,
        pg_sys::Datum::from(c"insitu".as_ptr()),
    );
    let index = pg_sys::Oid::from(pg_sys::ExtensionNameIndexId);
    // SAFETY: the index is that of the names of extensions, whose versions are texts.
    unsafe {
        systable::scan(pg_sys::ExtensionRelationId, index, &mut [key], |row| {
            let version = row.value(pg_sys::Anum_pg_extension_extversion as i32);
            let version = version.and_then(|version| ServerText::from_datum(version, false));
            ControlFlow::Break(version.map(|version| version.to_utf8()))
        })
    }
    .flatten()
}

/// Whether the extension's own script is at work, or that of one that stands for it.
fn is_in_script() -> bool {
    // SAFETY: reads a variable of the session.
    unsafe { pg_sys::creating_extension }
}

/// Looks at the version of the extension when the library comes into a session. It is
/// too early for that where a session loads it before it serves anything: then the
/// first use of an index or a model does it.
pub fn look_when_loaded() {
    // SAFETY: reads the state of the session.
    if unsafe { pg_sys::IsTransactionState() && pg_sys::ActiveSnapshotSet() } {
        check();
    }
}

/// Raises an ERROR where the SQL of this database is newer than the library, and tells
/// once where it is older. After the first time it costs nothing.
pub fn check() {
    static IS_KNOWN: AtomicBool = AtomicBool::new(false);
    // SAFETY: reads the state of the session. A parallel worker has a leader that was
    // told; pg_upgrade brings the SQL as it is.
    let is_exempt = || unsafe { pg_sys::IsBinaryUpgrade || pg_sys::ParallelWorkerNumber >= 0 };
    if IS_KNOWN.load(Ordering::Relaxed) || is_in_script() || is_exempt() {
        return;
    }
    let Some(version) = installed() else {
        return;
    };
    if numbers(&version) > numbers(LIBRARY) {
        refuse(&version);
    }
    // Before the WARNING, which may raise an ERROR.
    IS_KNOWN.store(true, Ordering::Relaxed);
    if version != LIBRARY {
        let message = differing(&version);
        warning(message, None, Some(UPDATE));
    }
}

/// Raises an ERROR unless the SQL of this database is of the library's version.
pub fn check_same() {
    if let Some(version) = installed()
        && version != LIBRARY
        && !is_in_script()
    {
        refuse(&version);
    }
}

fn differing(version: &str) -> String {
    format!(
        "extension \"insitu\" is of version {} in this database, but its library is of version {LIBRARY}",
        quoted(version)
    )
}

fn refuse(version: &str) -> ! {
    let hint = if numbers(version) > numbers(LIBRARY) {
        "Begin a new session. If that does not help, the library has to be installed anew, \
         and the server restarted where it is in shared_preload_libraries."
    } else {
        UPDATE
    };
    raise_with_hint(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        differing(version),
        hint,
    )
}

/// Versions of everything that has a part in what the extension does, in one row.
#[pg_extern(schema = "insitu", stable, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn version() -> TableIterator<
    'static,
    (
        name!(extension, Option<String>),
        name!(library, String),
        name!(pgvector, String),
        name!(postgresql, String),
        name!(simd, String),
        name!(onnxruntime, Option<String>),
        name!(onnxruntime_path, Option<String>),
        name!(onnxruntime_error, Option<String>),
        name!(execution_providers, Vec<String>),
    ),
> {
    let runtime = crate::model::runtime_report();
    // SAFETY: the server's setting is a string with a closing zero.
    let postgresql = unsafe {
        let version = pg_sys::GetConfigOption(c"server_version".as_ptr(), false, false);
        from_server(CStr::from_ptr(version).to_bytes()).to_owned()
    };
    TableIterator::once((
        installed(),
        LIBRARY.to_owned(),
        PGVECTOR.to_string_lossy().into_owned(),
        postgresql,
        ann::simd::kernels().name.to_owned(),
        runtime.version,
        runtime.path,
        runtime.error,
        runtime.providers,
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_compared_as_numbers() {
        use super::numbers;
        assert!(numbers("0.10.0") > numbers("0.9.1"));
        assert!(numbers("0.2.0") > numbers("0.1.0"));
        assert!(numbers("1.0") < numbers("1.0.1"));
    }
}
