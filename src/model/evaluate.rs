//! `insitu.evaluate_model`: what a model keeps of another, on the caller's own rows.

#![allow(unsafe_code)]

use std::time::Instant;

use ::memory::vec::reserve;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use super::access;
use super::session::{self, Role};
use crate::allocator;
use crate::encoding::{Text, from_server, shown_name};
use crate::errors::{raise, raise_with_hint};
use crate::raised::unchanged;
use crate::rounded::rounded;

/// Texts of a sample, at most.
const MOST_TEXTS: usize = 100_000;

/// Embeddings of one short text, of which the median counts.
const ROUNDS: usize = 11;

/// What stands for a short text: about sixteen tokens with any tokenizer.
const SHORT_TEXT: &str = "how do I find the rows that are nearest to a question?";

/// A model at work.
struct Measured {
    vectors: Vec<f32>,
    dimension: usize,
    bytes: i64,
    tokens_per_second: f64,
    milliseconds: f64,
}

/// Embeds the texts that a query gives with a model and with a reference, and
/// compares: the cosine of the two vectors of a text (mean, and what one in a
/// hundred has at most; NULL if the dimensions differ), the part of the k nearest
/// other texts that stay so, bytes, speed, and the time for one short text.
#[pg_extern(schema = "insitu", volatile, parallel_unsafe, strict)]
#[allow(clippy::type_complexity)]
fn evaluate_model(
    model: Text<'_>,
    reference: Text<'_>,
    sample: Text<'_>,
    k: default!(i32, 10),
) -> TableIterator<
    'static,
    (
        name!(texts, i64),
        name!(cosine_mean, Option<f64>),
        name!(cosine_p1, Option<f64>),
        name!(recall, f64),
        name!(bytes, i64),
        name!(reference_bytes, i64),
        name!(tokens_per_second, f64),
        name!(reference_tokens_per_second, f64),
        name!(short_text_ms, f64),
        name!(reference_short_text_ms, f64),
    ),
> {
    let texts = texts_of(sample);
    if k < 1 || texts.len() <= k as usize {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "k is {k}, but must be at least 1 and less than the {} texts of the sample",
                texts.len()
            ),
            "Texts that are null don't count.",
        );
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let ours = measure(&model, &texts, 0);
    let theirs = measure(&reference, &texts, ROUNDS);
    let compared = session::uninterrupted(|| {
        encoder::compare(
            (&ours.vectors, ours.dimension),
            (&theirs.vectors, theirs.dimension),
            k as usize,
            session::interrupted,
        )
    });
    TableIterator::once((
        texts.len() as i64,
        compared.mean().map(|cosine| rounded(cosine, 5)),
        compared.first_percentile().map(|cosine| rounded(cosine, 5)),
        rounded(compared.recall, 4),
        ours.bytes,
        theirs.bytes,
        rounded(ours.tokens_per_second, 0),
        rounded(theirs.tokens_per_second, 0),
        rounded(ours.milliseconds, 2),
        rounded(theirs.milliseconds, 2),
    ))
}

/// The texts of a query's one column, run with the caller's rights.
fn texts_of(sample: Text<'_>) -> Vec<String> {
    let connected = |client: &SpiClient<'_>| {
        let query = sample.to_c_string();
        let rows = client.select(query.as_c_str(), Some(MOST_TEXTS as i64 + 1), &[])?;
        let columns = rows.columns()?;
        if columns != 1 {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!(
                    "the query of the sample gives {columns} columns, expected was one of text"
                ),
            );
        }
        check_type(rows.column_type_oid(1)?.value());
        let mut texts = Vec::new();
        for row in rows {
            pgrx::check_for_interrupts!();
            allocator::check();
            if let Some(value) = row.get::<pgrx::AnyElement>(1)? {
                // SAFETY: a value of the type that the row says it is of.
                texts.push(unsafe { written(value.datum(), value.oid()) });
            }
        }
        Ok::<_, pgrx::spi::Error>(texts)
    };
    let texts = unchanged(|| Spi::connect(connected));
    match texts {
        Ok(texts) if texts.len() > MOST_TEXTS => raise_with_hint(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("the sample has more than {MOST_TEXTS} texts"),
            "Add a LIMIT to the query.",
        ),
        Ok(texts) => texts,
        Err(_) => raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "the query of the sample gives no rows, expected was one column of text",
        ),
    }
}

/// Raises an ERROR unless the type is one of text.
fn check_type(kind: pg_sys::Oid) {
    let (mut category, mut is_preferred) = (0, false);
    // SAFETY: reads the catalog, and writes the two results.
    let name = unsafe {
        pg_sys::get_type_category_preferred(kind, &mut category, &mut is_preferred);
        shown_name(pg_sys::format_type_be(kind))
    };
    if category as u8 != pg_sys::TYPCATEGORY_STRING {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!("the query of the sample gives a column of type {name}, expected was text"),
            "Cast the column to text.",
        );
    }
}

/// A value as its type writes it.
///
/// # Safety
///
/// A value of the type, not null.
unsafe fn written(value: pg_sys::Datum, kind: pg_sys::Oid) -> String {
    // SAFETY: see above; the type's own function returns a string with a closing zero,
    // which is copied before it is freed.
    unsafe {
        let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(kind, &mut function, &mut is_varlena);
        let text = pg_sys::OidOutputFunctionCall(function, value);
        let copied = from_server(core::ffi::CStr::from_ptr(text).to_bytes()).to_owned();
        pg_sys::pfree(text.cast());
        copied
    }
}

/// `first` is the number of the first short text: one that the session has embedded, with
/// the same model, would be remembered.
fn measure(name: &str, texts: &[&str], first: usize) -> Measured {
    let bytes = access::existing(name).bytes;
    // The first use loads it.
    session::embed(name, &[SHORT_TEXT], Role::Passage);
    let tokens = session::count_tokens(name, texts);
    let begin = Instant::now();
    let vectors = session::embed(name, texts, Role::Passage);
    let seconds = begin.elapsed().as_secs_f64();
    let mut times: Vec<f64> = (first..first + ROUNDS)
        .map(|round| {
            let text = format!("{SHORT_TEXT} {round}");
            let begin = Instant::now();
            session::embed(name, &[&text], Role::Passage);
            begin.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    let dimension = vectors.first().map_or(1, Vec::len);
    let mut values = Vec::new();
    let room = reserve(
        &mut values,
        vectors.len() * dimension,
        "the vectors of the sample",
    );
    allocator::unwrap(room);
    (vectors.iter()).for_each(|vector| values.extend_from_slice(vector));
    Measured {
        dimension,
        vectors: values,
        bytes,
        tokens_per_second: tokens as f64 / seconds,
        milliseconds: times[ROUNDS / 2],
    }
}
