//! Vectors that are in a column before `insitu.auto_embed` is called for it. They stay,
//! and where another model gave them, they are of no use beside those that come.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

use pgrx::prelude::*;

use super::columns::{Columns, embed, may_read, owned, quoted, shown};
use super::statement::{Connection, fill};
use crate::errors::notice;
use crate::types::{HalfVector, Vector};

/// Vectors of one model may differ by so much of their length: other processors round
/// otherwise, and components of a `halfvec` have 11 bits.
const ROUNDING: f32 = 0.01;

/// Says so where a row has a vector that is not the model's of its text. Looks at one
/// row, among the first pages of the table.
pub fn tell_of_others(
    connection: &Connection,
    (table, table_name): (pg_sys::Oid, &CStr),
    (text, vector): (&CStr, &CStr),
    columns: &Columns,
    model: &CStr,
) {
    if !may_read(table) {
        return;
    }
    let statement = fill(
        "SELECT {vector}, {text}::pg_catalog.text FROM {table} \
          WHERE {vector} IS NOT NULL AND {text} IS NOT NULL \
            AND ctid OPERATOR(pg_catalog.<) '(1000,0)'::pg_catalog.tid LIMIT 1",
        &[
            ("table", table_name),
            ("text", &quoted(text)),
            ("vector", &quoted(vector)),
        ],
    );
    // SAFETY: the columns are of these types, and values are copied while the row is there.
    let rows = connection.query(&statement, &[], |row| unsafe {
        let present = row.get(1).map(|value| match columns.is_half {
            true => HalfVector::from_datum(value).widened().into_owned(),
            false => Vector::from_datum(value).values().to_vec(),
        });
        let text = row.get(2);
        let text = text.map(|text| owned(pg_sys::text_to_cstring(text.cast_mut_ptr())));
        (present.unwrap_or_default(), text.unwrap_or_default())
    });
    let is_other = |(present, text): &(Vec<f32>, CString)| !is_near(present, &embed(model, text));
    if rows.first().is_some_and(is_other) {
        notice(
            format!(
                "a row of {} has a vector that model \"{}\" does not give",
                shown(table_name),
                shown(model)
            ),
            None,
            Some(
                "Vectors that are there stay: to embed them anew, set the column to NULL and call insitu.embed_table.",
            ),
        );
    }
}

fn is_near(present: &[f32], expected: &[f32]) -> bool {
    let pairs = present.iter().zip(expected);
    let apart: f32 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
    let length: f32 = expected.iter().map(|b| b * b).sum();
    present.len() == expected.len() && apart <= ROUNDING * ROUNDING * length
}
