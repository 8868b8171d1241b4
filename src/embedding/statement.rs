//! SQL that functions of this folder run for themselves.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

use pgrx::prelude::*;

use crate::errors::raise;
use crate::raised::unchanged;

/// A value for a parameter, with its type.
pub type Argument = (pg_sys::Oid, pg_sys::Datum);

/// A connection to the server's interface for SQL (SPI). It is closed by
/// `close`; after an ERROR the server does that itself.
pub struct Connection(());

/// A row of a result.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    columns: pg_sys::TupleDesc,
}

impl Row {
    /// The value of a column, counted from 1; `None` is NULL. It lasts as long as the row.
    pub fn get(&self, column: i32) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: a row is given only to code that reads it while it is there; a column
        // that it has not is told by the server as NULL.
        let value =
            unsafe { pg_sys::SPI_getbinval(self.tuple, self.columns, column, &mut is_null) };
        (!is_null).then_some(value)
    }

    /// The value of a column of type `bigint`; NULL is 0.
    pub fn count(&self, column: i32) -> i64 {
        self.get(column).map_or(0, |value| value.value() as i64)
    }
}

impl Connection {
    /// Opens a connection. One that `commits` can only be had in a procedure that may.
    pub fn open(commits: bool) -> Self {
        let options = if commits {
            pg_sys::SPI_OPT_NONATOMIC
        } else {
            0
        };
        // SAFETY: the server takes connections back in turn, and all at the end of the
        // transaction.
        unsafe { pg_sys::SPI_connect_ext(options as i32) };
        Connection(())
    }

    /// Closes the connection.
    pub fn close(self) {
        // SAFETY: it is the one that was opened last, as their owners' calls are nested.
        unsafe { pg_sys::SPI_finish() };
    }

    /// Commits, and begins a transaction with the same characteristics.
    pub fn commit(&self) {
        // SAFETY: fails with an ERROR where it is not allowed.
        unsafe { pg_sys::SPI_commit() };
    }

    /// Runs a statement and reads the rows that it returns.
    pub fn query<T>(
        &self,
        statement: &CStr,
        arguments: &[Argument],
        mut read: impl FnMut(&Row) -> T,
    ) -> Vec<T> {
        let mut types: Vec<pg_sys::Oid> = arguments.iter().map(|argument| argument.0).collect();
        let mut values: Vec<pg_sys::Datum> = arguments.iter().map(|argument| argument.1).collect();
        // SAFETY: there are as many types as values. What a statement returns lasts until
        // it is freed.
        unsafe {
            let code = unchanged(|| {
                pg_sys::SPI_execute_with_args(
                    statement.as_ptr(),
                    arguments.len() as i32,
                    types.as_mut_ptr(),
                    values.as_mut_ptr(),
                    std::ptr::null(),
                    false,
                    0,
                )
            });
            if code < 0 {
                raise(
                    PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                    format!("the server's SPI gives {code}"),
                );
            }
            let table = pg_sys::SPI_tuptable;
            if table.is_null() {
                return Vec::new();
            }
            let rows = (0..(*table).numvals as usize).map(|i| Row {
                tuple: *(*table).vals.add(i),
                columns: (*table).tupdesc,
            });
            let result = rows.map(|row| read(&row)).collect();
            pg_sys::SPI_freetuptable(table);
            result
        }
    }

    /// Runs a statement that returns nothing.
    pub fn run(&self, statement: &CStr) {
        self.query(statement, &[], |_| ());
    }
}

/// The text of a statement: the parts in the places that have their names, in braces.
pub fn fill(template: &str, parts: &[(&str, &CStr)]) -> CString {
    let mut bytes = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        bytes.extend_from_slice(before.as_bytes());
        let part = parts.iter().find(|part| part.0 == name);
        bytes.extend_from_slice(part.map_or(&b""[..], |part| part.1.to_bytes()));
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    // Parts have no zero in them.
    CString::new(bytes).unwrap_or_default()
}
