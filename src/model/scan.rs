//! Reading the tables of models as the server reads its own catalogs (`crate::systable`),
//! without SQL.
//!
//! What a model's name means is looked up in functions that are IMMUTABLE and
//! PARALLEL SAFE, and SQL would begin a command of its own there, which a parallel
//! operation forbids once its transaction has written something, as CREATE TABLE AS
//! has. It also needs no rights: who may do what is decided in `access`.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ops::ControlFlow;

use ::memory::vec::reserve;
use pgrx::prelude::*;

use crate::allocator;
use crate::encoding::{ServerText, from_server};
use crate::errors::raise;
use crate::systable;

/// The table of the schema `insitu` with this name.
pub fn table(name: &CStr) -> pg_sys::Oid {
    // SAFETY: reads the catalog.
    let table = unsafe {
        let schema = pg_sys::get_namespace_oid(c"insitu".as_ptr(), false);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    if table == pg_sys::InvalidOid {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("the table insitu.{} does not exist", name.to_string_lossy()),
        );
    }
    table
}

/// What a column has to be equal to.
#[derive(Clone, Copy)]
pub enum Key<'a> {
    /// A column of the collation "C".
    Text(&'a str),
    Integer(i32),
    Uuid(pgrx::Uuid),
}

/// A row that a scan stands on.
pub struct Row<'a>(&'a systable::Row);

impl Row<'_> {
    fn datum(&self, column: &CStr) -> Option<pg_sys::Datum> {
        // SAFETY: the scan keeps the table open.
        let table = unsafe { (*self.0.relation).rd_id };
        self.0.value(column_number(table, column).into())
    }

    /// The value of a column whose type is that of `T`.
    pub fn get<T: FromDatum>(&self, column: &CStr) -> Option<T> {
        let datum = self.datum(column)?;
        // SAFETY: the caller knows the column's type.
        unsafe { T::from_datum(datum, false) }
    }

    /// The text of a column of `jsonb`.
    pub fn json(&self, column: &CStr) -> Option<String> {
        let datum = self.datum(column)?;
        // SAFETY: the caller knows the column's type; the text ends with a zero.
        unsafe {
            let text = pgrx::direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(datum)])?;
            Some(from_server(CStr::from_ptr(text.cast_mut_ptr()).to_bytes()).to_owned())
        }
    }

    /// Appends the bytes of a column of `bytea`.
    pub fn append_bytes(&self, column: &CStr, bytes: &mut Vec<u8>) {
        let Some(datum) = self.datum(column) else {
            return;
        };
        // SAFETY: the caller knows the column's type. The copy that is not the row's own
        // is released here: a file has many parts.
        unsafe {
            let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
            let value = pg_sys::pg_detoast_datum_packed(stored);
            let more = pgrx::varlena::varlena_to_byte_slice(value);
            allocator::unwrap(reserve(bytes, more.len(), "the bytes of a model"));
            bytes.extend_from_slice(more);
            if value != stored {
                pg_sys::pfree(value.cast());
            }
        }
    }
}

fn column_number(table: pg_sys::Oid, column: &CStr) -> i16 {
    // SAFETY: reads the catalog.
    let number = unsafe { pg_sys::get_attnum(table, column.as_ptr()) };
    if number <= 0 {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!(
                "column \"{}\" of the tables of models does not exist",
                column.to_string_lossy()
            ),
        );
    }
    number
}

/// Calls `each` with the rows of a table of the schema `insitu` that have these
/// values, in no order, until it breaks. They are as committed by now, and as this
/// transaction has left them. `index`, if there is one of this name, is used.
pub fn rows<B>(
    name: &CStr,
    index: &CStr,
    keys: &[(&CStr, Key<'_>)],
    mut each: impl FnMut(&Row<'_>) -> ControlFlow<B>,
) -> Option<B> {
    let table = table(name);
    let mut keys: Vec<_> = keys
        .iter()
        .map(|&(column, key)| {
            let (function, value) = match key {
                Key::Text(text) => (pg_sys::F_TEXTEQ, ServerText::new(text).into_datum()),
                Key::Integer(number) => (pg_sys::F_INT4EQ, number.into_datum()),
                Key::Uuid(uuid) => (pg_sys::F_UUID_EQ, uuid.into_datum()),
            };
            let value = value.unwrap_or(pg_sys::Datum::from(0_usize));
            systable::equal(column_number(table, column).into(), function, value)
        })
        .collect();
    // SAFETY: reads the catalog; columns and functions of the keys fit each other.
    unsafe {
        let schema = pg_sys::get_rel_namespace(table);
        let index = pg_sys::get_relname_relid(index.as_ptr(), schema);
        systable::scan(table, index, &mut keys, |row| each(&Row(row)))
    }
}
