//! Reading the tables of models as the server reads its own catalogs: through the
//! access method, without SQL.
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
pub struct Row {
    tuple: pg_sys::HeapTuple,
    relation: pg_sys::Relation,
}

impl Row {
    fn datum(&self, column: &CStr) -> Option<pg_sys::Datum> {
        // SAFETY: the scan keeps table and row for as long as the row is lent out.
        unsafe {
            let number = column_number((*self.relation).rd_id, column);
            let mut is_null = false;
            let datum = pg_sys::heap_getattr(
                self.tuple,
                number.into(),
                (*self.relation).rd_att,
                &mut is_null,
            );
            (!is_null).then_some(datum)
        }
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
    mut each: impl FnMut(&Row) -> ControlFlow<B>,
) -> Option<B> {
    let table = table(name);
    // SAFETY: columns and operators of the keys fit each other. An ERROR in between
    // ends the transaction or subtransaction, which closes what is open. The scan takes
    // the snapshot with which the server reads its own catalogs.
    unsafe {
        let mut scan_keys: Vec<pg_sys::ScanKeyData> = keys
            .iter()
            .map(|&(column, key)| {
                let (function, value) = match key {
                    Key::Text(text) => (pg_sys::F_TEXTEQ, ServerText::new(text).into_datum()),
                    Key::Integer(number) => (pg_sys::F_INT4EQ, number.into_datum()),
                    Key::Uuid(uuid) => (pg_sys::F_UUID_EQ, uuid.into_datum()),
                };
                let mut key = pg_sys::ScanKeyData::default();
                pg_sys::ScanKeyInit(
                    &mut key,
                    column_number(table, column),
                    pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                    pg_sys::Oid::from(function),
                    value.unwrap_or(pg_sys::Datum::from(0_usize)),
                );
                key
            })
            .collect();
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let index = pg_sys::get_relname_relid(index.as_ptr(), (*(*relation).rd_rel).relnamespace);
        let scan = pg_sys::systable_beginscan(
            relation,
            index,
            index != pg_sys::InvalidOid,
            std::ptr::null_mut(),
            scan_keys.len() as i32,
            scan_keys.as_mut_ptr(),
        );
        let mut result = None;
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            if let ControlFlow::Break(value) = each(&Row { tuple, relation }) {
                result = Some(value);
                break;
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        result
    }
}
