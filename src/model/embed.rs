//! `insitu.embed`: text in, vector out.

#![allow(unsafe_code)]

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;

use super::analyze;
use super::session::{self, Role};
use crate::encoding::{Text, TextArray};
use crate::types::OwnedVector;
use crate::types::dense::sql_type;

/// The embedding of a text. In ANALYZE, NULL.
#[pg_extern(schema = "insitu", immutable, strict, parallel_safe, cost = 20000)]
fn embed(model: Text<'_>, input: Text<'_>) -> Option<OwnedVector> {
    if analyze::is_running() {
        return None;
    }
    let mut vectors = session::embed(&model, &[&input], Role::Passage);
    Some(OwnedVector::checked(vectors.pop().unwrap_or_default()))
}

/// The embedding of a query. It is that of the text, unless the model wants other
/// prefixes before queries than before passages.
#[pg_extern(schema = "insitu", immutable, strict, parallel_safe, cost = 20000)]
fn embed_query(model: Text<'_>, input: Text<'_>) -> Option<OwnedVector> {
    if analyze::is_running() {
        return None;
    }
    let mut vectors = session::embed(&model, &[&input], Role::Query);
    Some(OwnedVector::checked(vectors.pop().unwrap_or_default()))
}

/// The embeddings of several texts, which is faster than one by one; the
/// result for each is the same. NULL elements stay NULL.
#[pg_extern(
    schema = "insitu",
    name = "embed",
    immutable,
    strict,
    parallel_safe,
    cost = 200000,
    requires = ["types"]
)]
fn embed_all(model: Text<'_>, inputs: TextArray<'_>) -> VectorArray {
    if analyze::is_running() {
        return VectorArray(inputs.0.iter().map(|_| None).collect());
    }
    let texts: Vec<&str> = inputs
        .0
        .iter()
        .flatten()
        .map(|text| text.as_str())
        .collect();
    let mut vectors = session::embed(&model, &texts, Role::Passage).into_iter();
    VectorArray(
        inputs
            .0
            .iter()
            .map(|input| input.and_then(|_| vectors.next()).map(OwnedVector::checked))
            .collect(),
    )
}

/// An array of vectors to be returned.
struct VectorArray(Vec<Option<OwnedVector>>);

sql_type!([] VectorArray, "vector[]");

// SAFETY: the array is made by the server's own function, of the element type
// that the called SQL function declares.
unsafe impl BoxRet for VectorArray {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let count = self.0.len() as i32;
        let mut nulls: Vec<bool> = self.0.iter().map(Option::is_none).collect();
        let mut datums: Vec<pg_sys::Datum> = self
            .0
            .into_iter()
            .map(|vector| vector.map_or(pg_sys::Datum::from(0_usize), OwnedVector::into_datum))
            .collect();
        // SAFETY: the arrays have `count` elements. A vector is a varlena
        // aligned as an int (typalign of the type).
        unsafe {
            let function = (*(*fcinfo.as_mut_ptr()).flinfo).fn_oid;
            let element = pg_sys::get_element_type(pg_sys::get_func_rettype(function));
            let (mut size, mut lower) = (count, 1);
            let array = if count == 0 {
                pg_sys::construct_empty_array(element)
            } else {
                pg_sys::construct_md_array(
                    datums.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                    1,
                    &mut size,
                    &mut lower,
                    element,
                    -1,
                    false,
                    b'i' as _,
                )
            };
            fcinfo.return_raw_datum(pg_sys::Datum::from(array))
        }
    }
}
