//! `insitu.embed`: text in, vector out.

#![allow(unsafe_code)]

use ::memory::vec::collect;
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;

use super::analyze;
use super::session::{self, Role};
use crate::allocator;
use crate::encoding::{Text, TextArray};
use crate::errors::raise_with_hint;
use crate::types::OwnedVector;
use crate::types::dense::sql_type;

/// What memory is asked for.
const TEXTS: &str = "the texts to embed";

/// Bytes that an array of vectors may have: less than MaxAllocSize (memutils.h) by what
/// is before its elements.
const MOST_BYTES: usize = 0x3fff_ffff - (1 << 20);
/// As many embeddings as fit into an array whatever the model.
const SURELY_FIT: usize = MOST_BYTES / (8 + 4 * encoder::MAX_DIMENSION);

/// The embedding of a text. In ANALYZE, NULL.
#[pg_extern(schema = "insitu", immutable, strict, parallel_safe, cost = 20000, requires = ["types"])]
fn embed(model: Text<'_>, input: Text<'_>) -> Option<OwnedVector> {
    if analyze::is_running() {
        return None;
    }
    let mut vectors = session::embed(&model, &[&input], Role::Passage);
    Some(OwnedVector::checked(vectors.pop().unwrap_or_default()))
}

/// The embedding of a query. It is that of the text, unless the model wants other
/// prefixes before queries than before passages.
#[pg_extern(schema = "insitu", immutable, strict, parallel_safe, cost = 20000, requires = ["types"])]
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
    let inputs = inputs.0;
    if analyze::is_running() {
        let nulls = collect(inputs.iter().map(|_| None), TEXTS);
        return VectorArray(allocator::unwrap(nulls));
    }
    let texts = inputs.iter().flatten().map(|text| text.as_str());
    let texts: Vec<&str> = allocator::unwrap(collect(texts, TEXTS));
    check_size(&model, texts.len());
    let mut vectors = session::embed(&model, &texts, Role::Passage).into_iter();
    let vectors = inputs.iter().map(|input| {
        let vector = input.as_ref().and_then(|_| vectors.next());
        vector.map(OwnedVector::checked)
    });
    VectorArray(allocator::unwrap(collect(vectors, TEXTS)))
}

/// Raises an ERROR if an array of so many embeddings would be larger than any value can
/// be, before they are computed.
fn check_size(model: &str, count: usize) {
    if count <= SURELY_FIT {
        return;
    }
    // Of a vector: its length as a varlena, its dimension, and four bytes each.
    let size = 8 + 4 * session::dimension(model);
    // And a bit that says that it is not null.
    let most = MOST_BYTES / (size + 1);
    if count > most {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("{count} embeddings of {size} bytes each do not fit into one array"),
            format!("Embed at most {most} texts a call."),
        );
    }
}

/// An array of vectors to be returned.
struct VectorArray(Vec<Option<OwnedVector>>);

sql_type!([] VectorArray, "vector[]");

// SAFETY: the array is made by the server's own function, of the element type
// that the called SQL function declares.
unsafe impl BoxRet for VectorArray {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let count = self.0.len() as i32;
        let mut nulls = allocator::unwrap(collect(self.0.iter().map(Option::is_none), TEXTS));
        let datums = self
            .0
            .into_iter()
            .map(|vector| vector.map_or(pg_sys::Datum::from(0_usize), OwnedVector::into_datum));
        let mut datums = allocator::unwrap(collect(datums, TEXTS));
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
