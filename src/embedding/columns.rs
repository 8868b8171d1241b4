//! What is to be embedded: a table, its column of texts and its column of vectors.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};

use pgrx::prelude::*;

use super::statement::Connection;
use crate::encoding;
use crate::errors::{raise, raise_with_hint};
use crate::raised::unchanged;
use crate::types::Vector;

/// A name of the server's as a message shows it.
pub fn shown(name: &CStr) -> String {
    encoding::shown(name.to_bytes())
}

/// A string that the server made, as ours.
///
/// # Safety
///
/// `string` has a closing zero, or is null.
pub unsafe fn owned(string: *const c_char) -> CString {
    if string.is_null() {
        return CString::default();
    }
    // SAFETY: see above.
    unsafe { CStr::from_ptr(string) }.to_owned()
}

/// A name as statements write it, in quotes where it needs them.
pub fn quoted(name: &CStr) -> CString {
    // SAFETY: the server returns the string itself or a new one.
    unsafe { owned(pg_sys::quote_identifier(name.as_ptr())) }
}

/// A value as statements write it.
pub fn literal(value: &CStr) -> CString {
    // SAFETY: the server returns a new string.
    unsafe { owned(pg_sys::quote_literal_cstr(value.as_ptr())) }
}

/// A relation with its schema, as statements and messages write it; `None` if it is
/// no more.
pub fn qualified(relation: pg_sys::Oid) -> Option<CString> {
    // SAFETY: reads the catalog.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            return None;
        }
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation));
        Some(owned(pg_sys::quote_qualified_identifier(schema, name)))
    }
}

/// A function of the schema `insitu` with these very arguments.
pub fn function(name: &CStr, arguments: &[pg_sys::Oid]) -> pg_sys::Oid {
    // SAFETY: the list holds copies of the names; a missing function is an ERROR.
    unsafe {
        let mut names = std::ptr::null_mut();
        for part in [c"insitu", name] {
            let part = pg_sys::makeString(pg_sys::pstrdup(part.as_ptr()));
            names = pg_sys::lappend(names, part.cast());
        }
        pg_sys::LookupFuncName(names, arguments.len() as i32, arguments.as_ptr(), false)
    }
}

/// The function that embeds, `insitu.embed(text, text)`, and the type of its result.
pub fn embed_function() -> (pg_sys::Oid, pg_sys::Oid) {
    let embed = function(c"embed", &[pg_sys::TEXTOID, pg_sys::TEXTOID]);
    // SAFETY: reads the catalog.
    (embed, unsafe { pg_sys::get_func_rettype(embed) })
}

/// A column.
pub struct Column {
    pub number: i16,
    pub kind: pg_sys::Oid,
    pub modifier: i32,
    /// Whether its value is computed from other columns.
    pub is_generated: bool,
}

impl Column {
    /// The column of this name, which is no system column, or an ERROR.
    pub fn named(table: pg_sys::Oid, name: &CStr) -> Self {
        // SAFETY: the tuple is released after its fields are read.
        let found = unsafe {
            let tuple = pg_sys::SearchSysCacheAttName(table, name.as_ptr());
            (!tuple.is_null()).then(|| {
                let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_attribute>();
                let column = Column {
                    number: (*form).attnum,
                    kind: (*form).atttypid,
                    modifier: (*form).atttypmod,
                    is_generated: (*form).attgenerated != 0,
                };
                pg_sys::ReleaseSysCache(tuple);
                column
            })
        };
        match found {
            Some(column) if column.number > 0 => column,
            _ => raise(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!(
                    "column \"{}\" of {} does not exist",
                    shown(name),
                    shown(&qualified(table).unwrap_or_default())
                ),
            ),
        }
    }

    /// The type that is behind a domain, and its modifier.
    fn base(&self) -> (pg_sys::Oid, i32) {
        let mut modifier = self.modifier;
        // SAFETY: reads the catalog.
        let base = unsafe { pg_sys::getBaseTypeAndTypmod(self.kind, &mut modifier) };
        (base, modifier)
    }

    fn type_name(&self) -> String {
        // SAFETY: the server returns a new string.
        unsafe {
            shown(&owned(pg_sys::format_type_with_typemod(
                self.kind,
                self.modifier,
            )))
        }
    }

    fn is_text(&self) -> bool {
        const STRINGS: c_char = b'S' as c_char;
        let (mut category, mut is_preferred) = (0, false);
        // SAFETY: reads the catalog.
        unsafe {
            pg_sys::get_type_category_preferred(self.kind, &mut category, &mut is_preferred);
        }
        category == STRINGS
    }

    /// What the type of a column of vectors is called, `vector` or `halfvec`; `None` if
    /// the column holds something else.
    fn vector_type(&self, vector: pg_sys::Oid) -> Option<&'static str> {
        let (base, _) = self.base();
        let (name, schema) = type_name_and_schema(base);
        match name.as_bytes() {
            _ if base == vector => Some("vector"),
            b"halfvec" if schema == type_name_and_schema(vector).1 => Some("halfvec"),
            _ => None,
        }
    }
}

fn type_name_and_schema(kind: pg_sys::Oid) -> (CString, pg_sys::Oid) {
    // SAFETY: the tuple is released after its fields are copied.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(kind));
        if tuple.is_null() {
            return (CString::default(), pg_sys::InvalidOid);
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
        let result = (owned((*form).typname.data.as_ptr()), (*form).typnamespace);
        pg_sys::ReleaseSysCache(tuple);
        result
    }
}

/// The columns of a table that are to be embedded.
pub struct Columns {
    pub text: Column,
    pub vector: Column,
    /// Whether vectors are of the type `halfvec`.
    pub is_half: bool,
}

impl Columns {
    /// The columns of these names, if they are fit for a model that the current role may
    /// use; else an ERROR.
    pub fn checked(table: pg_sys::Oid, (text, vector): (&CStr, &CStr), model: &CStr) -> Self {
        // Also says whether there is such a model, and whether one may use it.
        let dimension = embed(model, c"").len() as i32;
        let (_, vector_type) = embed_function();
        let mut columns = Columns {
            text: Column::named(table, text),
            vector: Column::named(table, vector),
            is_half: false,
        };
        let of = |name: &CStr| {
            let table = qualified(table).unwrap_or_default();
            format!("column \"{}\" of {}", shown(name), shown(&table))
        };
        if !columns.text.is_text() {
            raise(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!(
                    "{} is of type {}, expected was text",
                    of(text),
                    columns.text.type_name()
                ),
            );
        }
        let Some(kind) = columns.vector.vector_type(vector_type) else {
            raise(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!(
                    "{} is of type {}, expected was vector or halfvec",
                    of(vector),
                    columns.vector.type_name()
                ),
            )
        };
        columns.is_half = kind == "halfvec";
        if columns.vector.is_generated {
            raise(
                PgSqlErrorCode::ERRCODE_GENERATED_ALWAYS,
                format!("{} is generated and embeds itself", of(vector)),
            );
        }
        let (_, declared) = columns.vector.base();
        if declared != -1 && declared != dimension {
            raise_with_hint(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!(
                    "{} has {declared} dimensions, model \"{}\" gives {dimension}",
                    of(vector),
                    shown(model)
                ),
                format!("Declare the column as {kind}({dimension})."),
            );
        }
        columns
    }
}

/// The vector of a text. An ERROR if the current role can't use the model.
pub fn embed(model: &CStr, text: &CStr) -> Vec<f32> {
    let (embed, _) = embed_function();
    // SAFETY: the function takes two texts and returns a vector.
    unsafe {
        let datum = |text: &CStr| pg_sys::Datum::from(pg_sys::cstring_to_text(text.as_ptr()));
        let none = pg_sys::InvalidOid;
        let (model, text) = (datum(model), datum(text));
        let result = unchanged(|| pg_sys::OidFunctionCall2Coll(embed, none, model, text));
        Vector::from_datum(result).values().to_vec()
    }
}

/// A table, and those whose rows a SELECT from it shows: partitions, and children by
/// inheritance.
pub fn with_descendants(connection: &Connection, table: pg_sys::Oid) -> Vec<(pg_sys::Oid, u8)> {
    // Temporary tables of others are left out, as a SELECT does.
    const TREE: &CStr = c"
WITH RECURSIVE tree (oid) AS (
    SELECT $1
    UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i, tree t
     WHERE i.inhparent OPERATOR(pg_catalog.=) t.oid AND NOT i.inhdetachpending)
SELECT c.oid, c.relkind FROM tree t, pg_catalog.pg_class c
 WHERE c.oid OPERATOR(pg_catalog.=) t.oid AND NOT pg_catalog.pg_is_other_temp_schema(c.relnamespace)
 ORDER BY c.oid";
    let argument = (pg_sys::OIDOID, pg_sys::Datum::from(table));
    let read = |row: &super::statement::Row| {
        let oid = row.get(1).map(|oid| pg_sys::Oid::from(oid.value() as u32));
        let kind = row.get(2).map_or(0, |kind| kind.value() as u8);
        oid.map(|oid| (oid, kind))
    };
    connection
        .query(TREE, &[argument], read)
        .into_iter()
        .flatten()
        .collect()
}

/// Whether the current role has a right on a table.
fn right(table: pg_sys::Oid, right: u32) -> pg_sys::AclResult::Type {
    // SAFETY: reads the catalog.
    unsafe { pg_sys::pg_class_aclcheck(table, pg_sys::GetUserId(), right as pg_sys::AclMode) }
}

fn refuse_right(table: pg_sys::Oid, result: pg_sys::AclResult::Type) {
    // SAFETY: raises the server's ERROR, or returns if there is nothing to refuse.
    unsafe {
        let name = pg_sys::get_rel_name(table);
        pg_sys::aclcheck_error(result, pg_sys::ObjectType::OBJECT_TABLE, name);
    }
}

/// Whether the current role may read a table.
pub fn may_read(table: pg_sys::Oid) -> bool {
    right(table, pg_sys::ACL_SELECT) == pg_sys::AclResult::ACLCHECK_OK
}

/// Raises the server's ERROR unless the current role has a right on the table.
pub fn check_right(table: pg_sys::Oid, wanted: u32) {
    refuse_right(table, right(table, wanted));
}

/// Raises the server's ERROR unless the current role may read the rows of a table, places
/// among them, and change a column.
pub fn check_may_fill(table: pg_sys::Oid, column: &CStr) {
    check_right(table, pg_sys::ACL_SELECT);
    let of_table = right(table, pg_sys::ACL_UPDATE);
    // SAFETY: reads the catalog.
    let of_column = unsafe {
        let number = pg_sys::get_attnum(table, column.as_ptr());
        let update = pg_sys::ACL_UPDATE as pg_sys::AclMode;
        pg_sys::pg_attribute_aclcheck(table, number, pg_sys::GetUserId(), update)
    };
    if of_column != pg_sys::AclResult::ACLCHECK_OK {
        refuse_right(table, of_table);
    }
}
