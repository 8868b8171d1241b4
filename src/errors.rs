//! The one way to raise an error, and to tell something else.

#![allow(unsafe_code)]

use std::borrow::Cow;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use crate::encoding::{for_report, shown};

/// Raises an ERROR for the person who typed the SQL.
#[track_caller]
pub fn raise(code: PgSqlErrorCode, message: impl Into<String>) -> ! {
    raise_report(code, message.into(), None, None)
}

/// Raises an ERROR with a DETAIL.
#[track_caller]
pub fn raise_with_detail(
    code: PgSqlErrorCode,
    message: impl Into<String>,
    detail: impl Into<String>,
) -> ! {
    raise_report(code, message.into(), Some(detail.into()), None)
}

/// Raises an ERROR with a HINT.
#[track_caller]
pub fn raise_with_hint(
    code: PgSqlErrorCode,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> ! {
    raise_report(code, message.into(), None, Some(hint.into()))
}

/// Raises an ERROR with a DETAIL and a HINT.
#[track_caller]
pub fn raise_with_detail_and_hint(
    code: PgSqlErrorCode,
    message: impl Into<String>,
    detail: impl Into<String>,
    hint: impl Into<String>,
) -> ! {
    raise_report(code, message.into(), Some(detail.into()), Some(hint.into()))
}

#[track_caller]
fn raise_report(
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
) -> ! {
    report(code, message, detail, hint).report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Sends a NOTICE, with a DETAIL and a HINT where there is one.
pub fn notice(message: impl Into<String>, detail: Option<String>, hint: Option<&str>) {
    let code = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
    let hint = hint.map(str::to_owned);
    report(code, message.into(), detail, hint).report(PgLogLevel::NOTICE);
}

/// Sends a WARNING, with a DETAIL and a HINT where there is one.
pub fn warning(message: impl Into<String>, detail: Option<String>, hint: Option<&str>) {
    let code = PgSqlErrorCode::ERRCODE_WARNING;
    let hint = hint.map(str::to_owned);
    report(code, message.into(), detail, hint).report(PgLogLevel::WARNING);
}

#[track_caller]
fn report(
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
) -> ErrorReport {
    let mut report = ErrorReport::new(code, for_report(message), "");
    if let Some(detail) = detail {
        report = report.set_detail(for_report(detail));
    }
    if let Some(hint) = hint {
        report = report.set_hint(for_report(hint));
    }
    report
}

/// Has no backtrace captured where the server was started with `RUST_BACKTRACE`: pgrx puts
/// one into the DETAIL of an error that comes from the server or is a panic, and that goes
/// to the client. To be called when the library is loaded.
pub fn keep_backtraces_out() {
    let is_set = |name| std::env::var_os(name).is_some();
    if is_set("RUST_BACKTRACE") || is_set("RUST_LIB_BACKTRACE") {
        // The library's own variable goes before the other one, by which the log still has
        // backtraces of threads.
        // SAFETY: the server loads libraries on its main thread, and none of our threads
        // has been started.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    }
}

/// The most characters of what somebody gave that a message repeats.
const MOST_QUOTED: usize = 200;

/// The most characters of a message that repeats what files have in them.
const MOST_OF_MESSAGE: usize = 1000;

/// What somebody gave, as a message repeats it: the beginning of it, if it is long.
pub fn quoted(text: &str) -> Cow<'_, str> {
    beginning(text, MOST_QUOTED)
}

/// A message that may repeat what somebody gave: the beginning of it, if it is long.
pub fn bounded(message: &str) -> Cow<'_, str> {
    beginning(message, MOST_OF_MESSAGE)
}

fn beginning(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}...", &text[..end])),
    }
}

/// As [`quoted`], of a text as the server has it.
pub fn quoted_bytes(bytes: &[u8]) -> String {
    // A character has four bytes at most.
    let beginning = &bytes[..bytes.len().min(4 * MOST_QUOTED + 4)];
    quoted(&shown(beginning)).into_owned()
}

/// What an index operation returns, or an ERROR that names the index.
#[track_caller]
pub fn unwrap_index<T>(result: Result<T, ann::Error>, index: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => raise_index(error, index),
    }
}

/// Raises the ERROR that belongs to an error of an index operation.
#[track_caller]
pub fn raise_index(error: ann::Error, index: &str) -> ! {
    if let ann::Error::NotOfList { block, .. } = error
        && crate::storage::is_standby()
    {
        raise_report(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "canceling statement due to conflict with recovery".to_owned(),
            Some(format!(
                "Block {block} of index \"{index}\", which the statement was reading, has been used anew."
            )),
            Some(
                "Try again. With hot_standby_feedback, the primary waits for statements on standbys. \
                 If every try ends so, REINDEX the index."
                    .to_owned(),
            ),
        );
    }
    let (code, hint) = match error {
        ann::Error::OutOfMemory(error) => crate::allocator::raise(error),
        ann::Error::Corrupted { .. } | ann::Error::NotOfList { .. } => (
            PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
            "REINDEX the index; if it happens again, check the storage.",
        ),
        ann::Error::Version { .. } => (
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "REINDEX the index.",
        ),
        ann::Error::Full { .. } => (
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            "Partition the table.",
        ),
    };
    raise_with_hint(code, format!("index \"{index}\": {error}"), hint)
}
