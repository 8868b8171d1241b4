//! The text format of vectors: `[1,2.5,-3e-07]`.

#![allow(unsafe_code)]

use core::ffi::{CStr, c_char, c_int};
use std::ffi::CString;

use half::f16;
use pgrx::prelude::*;

use super::dense::{
    Component, Dense, MAX_DIMENSIONS, Owned, check_dimensions, check_finite, check_typmod,
};
use crate::errors::{quoted, quoted_bytes, raise, raise_with_detail};

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
    let value: f32 = text.parse().ok()?;
    if value.is_infinite() && text.contains(|c: char| c.is_ascii_digit()) {
        out_of_range(name, text);
    }
    Some(value)
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
    let mut values = Vec::new();
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
const MAX_FLOAT_TEXT: usize = 16;

/// The shortest decimal that reads back as a number.
pub fn shortest(value: f32) -> String {
    let mut text = Vec::with_capacity(MAX_FLOAT_TEXT);
    write_shortest(value, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// Appends [`shortest`] to a text.
pub fn write_shortest(value: f32, text: &mut Vec<u8>) {
    let mut buffer = [0_u8; MAX_FLOAT_TEXT];
    // SAFETY: the function writes fewer than MAX_FLOAT_TEXT bytes, and calls
    // nothing of the server.
    let len = unsafe { float_to_shortest_decimal_bufn(value, buffer.as_mut_ptr().cast()) };
    text.extend(&buffer[..len as usize]);
}

fn format<T: Component>(vector: Dense<'_, T>) -> CString {
    let mut text = Vec::with_capacity(vector.values().len() * MAX_FLOAT_TEXT + 2);
    text.push(b'[');
    for (i, &value) in vector.values().iter().enumerate() {
        if i > 0 {
            text.push(b',');
        }
        write_shortest(value.to_f32(), &mut text);
    }
    text.push(b']');
    CString::new(text).unwrap_or_default()
}

/// Text to vector, and vector to text.
macro_rules! text_functions {
    ($component:ty: $in:ident, $out:ident) => {
        #[pg_extern(immutable, strict, parallel_safe)]
        fn $in(input: &CStr, _element: pg_sys::Oid, typmod: i32) -> Owned<$component> {
            let values = parse(input.to_bytes());
            check_typmod(typmod, values.len());
            Owned::checked(values)
        }

        #[pg_extern(immutable, strict, parallel_safe)]
        fn $out(vector: Dense<'_, $component>) -> CString {
            format(vector)
        }
    };
}
text_functions!(f32: vector_in, vector_out);
text_functions!(f16: halfvec_in, halfvec_out);
