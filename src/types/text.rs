//! The text format of vectors: `[1,2.5,-3e-07]`.

#![allow(unsafe_code)]

use core::ffi::{CStr, c_char, c_int};
use std::ffi::CString;

use pgrx::prelude::*;

use super::dense::{
    self, Component, Dense, MAX_DIMENSIONS, check_dimensions, check_finite, check_typmod,
};
use super::message::Text;
use super::{HalfVector, Vector};
use crate::errors::{quoted, quoted_bytes, raise, raise_with_detail};
use crate::function::{Scanned, functions};

/// White space, as PostgreSQL's own scanner has it.
pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn invalid<T: Component>(input: &[u8]) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
        message_of_invalid::<T>(input),
    )
}

fn message_of_invalid<T: Component>(input: &[u8]) -> String {
    format!(
        "invalid input syntax for type {}: \"{}\"",
        T::TYPE,
        quoted_bytes(input)
    )
}

/// A number in the text of a type; `None` if it is not one. One that is too
/// large is an ERROR.
pub fn parse_number(name: &str, token: &[u8]) -> Option<f32> {
    let text = std::str::from_utf8(token).unwrap_or("");
    let value = match text.parse() {
        Ok(value) => value,
        Err(_) => parse_as_c(text)?,
    };
    if value.is_infinite() && text.contains(|c: char| c.is_ascii_digit()) {
        out_of_range(name, text);
    }
    Some(value)
}

/// A number as C reads it, and so PostgreSQL's `real` and pgvector: hexadecimal ones too.
fn parse_as_c(text: &str) -> Option<f32> {
    // White space before a number is none of it here.
    if text.is_empty() || text.starts_with(|c: char| c.is_ascii_whitespace()) {
        return None;
    }
    let text = CString::new(text).ok()?;
    let mut end = std::ptr::null_mut();
    // SAFETY: the text ends with a zero; the server has the locale C for numbers.
    unsafe {
        let value = libc::strtof(text.as_ptr(), &mut end);
        let is_all = end.cast_const() == text.as_ptr().add(text.count_bytes());
        is_all.then_some(value)
    }
}

/// Raises an ERROR about a number in the text of a type.
pub fn out_of_range(name: &str, text: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        format!("\"{}\" is out of range for type {name}", quoted(text)),
    )
}

/// A component, from the text between two delimiters.
fn parse_component<T: Component>(token: &[u8], input: &[u8]) -> T {
    let Some(value) = parse_number(T::TYPE, token) else {
        invalid::<T>(input)
    };
    let rounded = T::round(value);
    if rounded.to_f32().is_infinite() && value.is_finite() {
        out_of_range(T::TYPE, &String::from_utf8_lossy(token));
    }
    check_finite(T::TYPE, value);
    rounded
}

/// Reads `[` component { `,` component } `]`, with white space anywhere
/// between them.
fn parse<T: Component>(input: &[u8]) -> Vec<T> {
    let skip = |at: usize| at + input[at..].iter().take_while(|&&b| is_space(b)).count();
    let mut at = skip(0);
    if input.get(at) != Some(&b'[') {
        raise_with_detail(
            PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            message_of_invalid::<T>(input),
            "Vector contents must start with \"[\".",
        );
    }
    at = skip(at + 1);
    if input.get(at) == Some(&b']') {
        check_dimensions::<T>(0);
    }
    // A number and a comma have some bytes.
    let mut values = Vec::with_capacity((input.len() / 4).min(MAX_DIMENSIONS));
    loop {
        if values.len() == MAX_DIMENSIONS {
            check_dimensions::<T>(MAX_DIMENSIONS + 1);
        }
        at = skip(at);
        let is_end = |&&b: &&u8| !matches!(b, b',' | b']') && !is_space(b);
        let len = input[at..].iter().take_while(is_end).count();
        values.push(parse_component(&input[at..at + len], input));
        at = skip(at + len);
        match input.get(at) {
            Some(b',') => at += 1,
            Some(b']') => break,
            _ => invalid::<T>(input),
        }
    }
    if skip(at + 1) != input.len() {
        raise_with_detail(
            PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            message_of_invalid::<T>(input),
            "Junk after closing right brace.",
        );
    }
    values
}

unsafe extern "C" {
    /// Writes the shortest decimal that reads back as `value`, in the way of
    /// `float4out`, and returns its length; PostgreSQL's src/common/f2s.c.
    fn float_to_shortest_decimal_bufn(value: f32, result: *mut c_char) -> c_int;
}

/// The longest text of an `f32`, with a closing zero (FLOAT_SHORTEST_DECIMAL_LEN).
pub const MAX_FLOAT_TEXT: usize = 16;

/// The shortest decimal that reads back as a number.
pub fn shortest(value: f32) -> String {
    let mut text = [0_u8; MAX_FLOAT_TEXT];
    // SAFETY: the function writes fewer than MAX_FLOAT_TEXT bytes, and calls nothing of the
    // server.
    let len = unsafe { float_to_shortest_decimal_bufn(value, text.as_mut_ptr().cast()) };
    String::from_utf8_lossy(&text[..len as usize]).into_owned()
}

/// Appends [`shortest`] to a text.
#[inline]
pub fn write_shortest(value: f32, text: &mut Text) {
    // SAFETY: as in `shortest`; the function tells how many bytes it wrote.
    unsafe {
        text.write(MAX_FLOAT_TEXT, |to| {
            float_to_shortest_decimal_bufn(value, to.cast()) as usize
        });
    }
}

fn format<T: Component>(vector: Dense<'_, T>) -> pg_sys::Datum {
    // At once, because each conversion of a number of half precision has a price.
    let values = vector.widened();
    // Fewer bytes of a number than that, and one before it; and one behind all.
    let most = values.len() * MAX_FLOAT_TEXT + 1;
    let mut text = Text::new(most);
    // SAFETY: so much room is there, and so many bytes are written.
    unsafe {
        text.write(most, |start| {
            let (mut to, mut before) = (start, b'[');
            for &value in &*values {
                *to = before;
                before = b',';
                let len = float_to_shortest_decimal_bufn(value, to.add(1).cast());
                to = to.add(1 + len as usize);
            }
            *to = b']';
            to.offset_from(start) as usize + 1
        });
    }
    text.finish()
}

/// Text to vector, and vector to text.
macro_rules! text_functions {
    ($vector:ident of $component:ty: $in:ident, $out:ident) => {
        functions! {
            fn $in(input: &CStr, _element: i32, typmod: i32) -> pg_sys::Datum {
                let values = parse::<$component>(input.to_bytes());
                check_typmod(typmod, values.len());
                dense::build(values.len(), |out| out.copy_from_slice(&values))
            }

            fn $out(vector: Scanned<$vector<'_>>) -> pg_sys::Datum {
                format(vector.0)
            }
        }
    };
}
text_functions!(Vector of f32: vector_in, vector_out);
text_functions!(HalfVector of half::f16: halfvec_in, halfvec_out);
