//! The type `sparsevec`: of a vector of up to 10⁹ dimensions, the components
//! that are not zero.
//!
//! On disk (as in pgvector): the varlena header; the number of dimensions, that
//! of components, and an unused field of four bytes each; the index of each
//! component from 0 on, ascending; the components.

#![allow(unsafe_code)]

use core::ffi::CStr;
use std::cmp::Ordering;

use ann::SparseVector;
use ann::simd::kernels;
use pgrx::prelude::*;
use pgrx::varlena::{set_varsize_4b, varatt_is_4b_u, varsize_any};

use super::dense::{Component, Typmod, check_typmod, parse_typmod, plain};
use super::message::{Fresh, Message, Text, new_bytea, new_result};
use super::text::{MAX_FLOAT_TEXT, is_space, out_of_range, parse_number, write_shortest};
use crate::errors::{quoted_bytes, raise, raise_with_detail};
use crate::function::{Scanned, functions};

/// A sparse vector has at most so many dimensions.
pub const MAX_DIMENSIONS: i64 = 1_000_000_000;
/// And at most so many components that are not zero.
pub const MAX_COMPONENTS: usize = 16_000;

const TYPE: &str = "sparsevec";

/// The fixed part of a stored sparse vector.
#[repr(C)]
struct Header {
    vl_len: u32,
    dim: i32,
    nnz: i32,
    unused: i32,
}

const HEADER_LEN: usize = size_of::<Header>();
const _: () = assert!(HEADER_LEN == 16);

/// A sparse vector argument.
#[derive(Clone, Copy)]
pub struct Sparse<'a> {
    dimensions: usize,
    indices: &'a [i32],
    values: &'a [f32],
}

impl<'a> Sparse<'a> {
    /// The number of dimensions.
    #[inline]
    pub fn dimensions(self) -> usize {
        self.dimensions
    }

    /// The components that are not zero.
    #[inline]
    pub fn values(self) -> &'a [f32] {
        self.values
    }

    /// The same with their indices, from 0 on.
    #[inline]
    pub fn components(self) -> SparseVector<'a> {
        SparseVector {
            indices: bytemuck::cast_slice(self.indices),
            values: self.values,
        }
    }

    /// The index, from 0 on, of each component that is not zero, and the
    /// component.
    #[inline]
    pub fn entries(self) -> impl Iterator<Item = (usize, f32)> + Clone + use<'a> {
        let indices = self.indices.iter().map(|&index| index as usize);
        indices.zip(self.values.iter().copied())
    }

    /// The datum that it was read from, or its plain copy.
    #[inline]
    pub fn datum(self) -> pg_sys::Datum {
        let first: *const u8 = self.indices.as_ptr().cast();
        pg_sys::Datum::from(first.wrapping_sub(HEADER_LEN).cast_mut())
    }

    /// Reads a datum of the type; a toasted one is copied into the current
    /// memory context.
    ///
    /// # Safety
    ///
    /// `datum` is a non-null datum of the type that lives for `'a`, and so does
    /// the current memory context.
    #[inline(always)]
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        // SAFETY: detoasting returns a plain varlena.
        unsafe {
            match Self::read(plain(datum)) {
                Ok(vector) => vector,
                Err((size, dim, nnz)) => raise(
                    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!(
                        "a sparsevec of {size} bytes claims to have {dim} dimensions and {nnz} \
                         components"
                    ),
                ),
            }
        }
    }

    /// The same, if the datum is plain and in order.
    ///
    /// # Safety
    ///
    /// As for [`Sparse::from_datum`].
    #[inline(always)]
    pub unsafe fn peek(datum: pg_sys::Datum) -> Option<Self> {
        // SAFETY: the caller gives a varlena.
        unsafe {
            let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
            varatt_is_4b_u(varlena).then_some(())?;
            Self::read(varlena).ok()
        }
    }

    /// Reads a plain varlena; its size, dimensions and components, if they do not fit.
    #[inline(always)]
    unsafe fn read(plain: *mut pg_sys::varlena) -> Result<Self, (usize, i32, i32)> {
        // SAFETY: the header tells the size, which is checked against the number of
        // components.
        unsafe {
            let size = varsize_any(plain);
            let header = plain.cast::<Header>();
            let (dim, nnz) = match size {
                0..HEADER_LEN => (-1, -1),
                _ => ((*header).dim, (*header).nnz),
            };
            let expected = usize::try_from(nnz).map(|nnz| HEADER_LEN + 8 * nnz);
            if dim < 1 || nnz > dim || expected != Ok(size) {
                return Err((size, dim, nnz));
            }
            let (dimensions, nnz) = (dim as usize, nnz as usize);
            let indices = plain.cast::<u8>().add(HEADER_LEN).cast::<i32>();
            Ok(Sparse {
                dimensions,
                indices: std::slice::from_raw_parts(indices, nnz),
                values: std::slice::from_raw_parts(indices.add(nnz).cast(), nnz),
            })
        }
    }
}

/// Writes a vector of so many components into the current memory context. `fill` gets places
/// for their indices and for them.
fn write(
    dimensions: usize,
    count: usize,
    fill: impl FnOnce(&mut [u32], &mut [f32]),
) -> pg_sys::Datum {
    check_dimensions(dimensions as i64);
    check_count(count as i64, dimensions);
    let size = HEADER_LEN + 8 * count;
    let datum = new_result(size, Fresh::Zeros);
    // SAFETY: `size` writable bytes, aligned for the header.
    unsafe {
        set_varsize_4b(datum.cast(), size as i32);
        let header = datum.cast::<Header>();
        (*header).dim = dimensions as i32;
        (*header).nnz = count as i32;
        let indices = datum.cast::<u8>().add(HEADER_LEN).cast::<u32>();
        let values = indices.add(count).cast::<f32>();
        fill(
            std::slice::from_raw_parts_mut(indices, count),
            std::slice::from_raw_parts_mut(values, count),
        );
        pg_sys::Datum::from(datum)
    }
}

/// A new vector in the current memory context, of components with ascending indices from 0
/// on, without the zeros; an ERROR if there are too many, or one is not finite.
pub fn build(dimensions: usize, (indices, values): (&[u32], &[f32])) -> pg_sys::Datum {
    check_all_finite(values);
    let count = values.iter().filter(|&&value| value != 0.0).count();
    write(dimensions, count, |out_indices, out_values| {
        if count == values.len() {
            out_indices.copy_from_slice(indices);
            out_values.copy_from_slice(values);
            return;
        }
        let pairs = indices.iter().zip(values).filter(|pair| *pair.1 != 0.0);
        let out = out_indices.iter_mut().zip(out_values);
        for ((out_index, out_value), (&index, &value)) in out.zip(pairs) {
            (*out_index, *out_value) = (index, value);
        }
    })
}

/// A new vector with other components at the same indices: `fill` makes them of those that
/// there are. What becomes zero is left out.
pub fn with_values(vector: Sparse<'_>, fill: impl FnOnce(&[f32], &mut [f32])) -> pg_sys::Datum {
    let SparseVector { indices, values } = vector.components();
    let mut has_zero = false;
    let datum = write(
        vector.dimensions,
        values.len(),
        |out_indices, out_values| {
            out_indices.copy_from_slice(indices);
            fill(values, out_values);
            has_zero = out_values.contains(&0.0);
        },
    );
    if !has_zero {
        return datum;
    }
    // SAFETY: it was just written.
    let made = unsafe { Sparse::from_datum(datum) };
    build(vector.dimensions, (indices, made.values))
}

/// A new vector of all components, zeros too, of an array of any numbers.
pub fn of_array(values: &[f32]) -> pg_sys::Datum {
    check_all_finite(values);
    of_dense(values)
}

/// A new vector of all components, zeros too, which are finite.
pub fn of_dense<T: Component>(values: &[T]) -> pg_sys::Datum {
    /// Components that are widened at a time.
    const PART: usize = 64;
    let count = values.iter().filter(|value| !value.is_zero()).count();
    write(values.len(), count, |out_indices, out_values| {
        if count == values.len() {
            for (out_index, index) in out_indices.iter_mut().zip(0..) {
                *out_index = index;
            }
            return T::widen_into(values, out_values);
        }
        let mut at = 0;
        let mut wide = [0.0_f32; PART];
        for (number, part) in values.chunks(PART).enumerate() {
            let wide = &mut wide[..part.len()];
            T::widen_into(part, wide);
            for (index, &value) in (number * PART..).zip(&*wide) {
                let places = (out_indices.get_mut(at), out_values.get_mut(at));
                if let (Some(out_index), Some(out_value)) = places {
                    // What is zero is overwritten by the next one, so that nothing has to
                    // be foreseen.
                    (*out_index, *out_value) = (index as u32, value);
                    at += usize::from(value != 0.0);
                }
            }
        }
    })
}

fn check_all_finite(values: &[f32]) {
    if !(kernels().single_components.are_finite)(values) {
        values.iter().for_each(|&value| check_finite(value));
    }
}

/// Raises an ERROR unless a sparse vector can have so many dimensions.
fn check_dimensions(count: i64) {
    if count < 1 {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            "sparsevec must have at least 1 dimension",
        );
    }
    if count > MAX_DIMENSIONS {
        raise(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("sparsevec cannot have more than {MAX_DIMENSIONS} dimensions"),
        );
    }
}

/// Raises an ERROR unless a sparse vector can have so many components.
fn check_count(count: i64, dimensions: usize) {
    if count < 0 {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            "sparsevec cannot have negative number of elements",
        );
    }
    if count > MAX_COMPONENTS as i64 {
        raise(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("sparsevec cannot have more than {MAX_COMPONENTS} non-zero elements"),
        );
    }
    if count > dimensions as i64 {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            "sparsevec cannot have more elements than dimensions",
        );
    }
}

fn check_finite(value: f32) {
    super::dense::check_finite(TYPE, value);
}

/// Raises an ERROR unless two vectors have the same number of dimensions.
#[inline]
pub fn check_same(a: Sparse<'_>, b: Sparse<'_>) {
    if a.dimensions != b.dimensions {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!(
                "different sparsevec dimensions {} and {}",
                a.dimensions, b.dimensions
            ),
        );
    }
}

/// Raises an ERROR unless the indices are ascending numbers of dimensions.
fn check_indices(indices: impl Iterator<Item = i64>, dimensions: usize) {
    let wrong = |message: &str| -> ! { raise(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, message) };
    let mut last = -1;
    for index in indices {
        if index < 0 || index >= dimensions as i64 {
            wrong("sparsevec index out of bounds");
        }
        match index.cmp(&last) {
            Ordering::Less => wrong("sparsevec indices must be in ascending order"),
            Ordering::Equal => wrong("sparsevec indices must not contain duplicates"),
            Ordering::Greater => last = index,
        }
    }
}

fn message_of_invalid(input: &[u8]) -> String {
    format!(
        "invalid input syntax for type sparsevec: \"{}\"",
        quoted_bytes(input)
    )
}

fn invalid(input: &[u8], detail: Option<&str>) -> ! {
    let code = PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION;
    match detail {
        Some(detail) => raise_with_detail(code, message_of_invalid(input), detail),
        None => raise(code, message_of_invalid(input)),
    }
}

/// Reads the text format, `{1:0.5,3:-2}/5`: the index of each component, from
/// 1 on, and the component; then the number of dimensions.
struct Parser<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn skip(&mut self) {
        while self.input.get(self.at).is_some_and(|&b| is_space(b)) {
            self.at += 1;
        }
    }

    /// Skips white space, and the byte after it if it is the one expected.
    fn take(&mut self, expected: u8) -> bool {
        self.skip();
        let found = self.input.get(self.at) == Some(&expected);
        self.at += usize::from(found);
        found
    }

    /// An integer; one too large for the type is the largest there is.
    fn integer(&mut self) -> i64 {
        self.skip();
        let rest = &self.input[self.at..];
        let sign = usize::from(matches!(rest.first(), Some(b'+' | b'-')));
        let digits = rest[sign..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
        if digits == 0 {
            invalid(self.input, None);
        }
        self.at += sign + digits;
        let text = String::from_utf8_lossy(&rest[..sign + digits]);
        let limit = if text.starts_with('-') {
            i64::MIN
        } else {
            i64::MAX
        };
        text.parse().unwrap_or(limit)
    }

    fn component(&mut self) -> (i64, f32) {
        let index = self.integer();
        if !self.take(b':') {
            invalid(self.input, None);
        }
        self.skip();
        let is_part = |&&b: &&u8| !matches!(b, b',' | b'}') && !is_space(b);
        let rest = &self.input[self.at..];
        let token = &rest[..rest.iter().take_while(is_part).count()];
        self.at += token.len();
        let Some(value) = parse_number(TYPE, token) else {
            invalid(self.input, None)
        };
        check_finite(value);
        // A zero would be left out. That a number is too small to be told from
        // zero must not pass unnoticed.
        let text = String::from_utf8_lossy(token);
        let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
        if value == 0.0 && mantissa.contains(|c: char| matches!(c, '1'..='9')) {
            out_of_range(TYPE, &text);
        }
        (index, value)
    }

    /// The number of dimensions, and indices from 0 on and components in their order.
    fn parse(mut self) -> (usize, Vec<u32>, Vec<f32>) {
        if !self.take(b'{') {
            invalid(self.input, Some("Vector contents must start with \"{\"."));
        }
        let mut components = Vec::new();
        if !self.take(b'}') {
            loop {
                if components.len() == MAX_COMPONENTS {
                    check_count(MAX_COMPONENTS as i64 + 1, usize::MAX);
                }
                components.push(self.component());
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    invalid(self.input, None);
                }
            }
        }
        if !self.take(b'/') {
            invalid(self.input, Some("Unexpected end of input."));
        }
        let dimensions = self.integer();
        self.skip();
        if self.at != self.input.len() {
            invalid(self.input, Some("Junk after closing."));
        }
        check_dimensions(dimensions);
        components.retain(|&(_, value)| value != 0.0);
        components.sort_by_key(|&(index, _)| index);
        // From 1 on in text.
        let indices = components.iter().map(|&(index, _)| index.saturating_sub(1));
        check_indices(indices, dimensions as usize);
        let components = components.iter();
        let components = components.map(|&(index, value)| (index as u32 - 1, value));
        let (indices, values) = components.unzip();
        (dimensions as usize, indices, values)
    }
}

functions! {
    /// Text to vector.
    fn sparsevec_in(input: &CStr, _element: i32, typmod: i32) -> pg_sys::Datum {
        let parser = Parser {
            input: input.to_bytes(),
            at: 0,
        };
        let (dimensions, indices, values) = parser.parse();
        check_typmod(typmod, dimensions);
        build(dimensions, (&indices, &values))
    }

    /// Vector to text.
    fn sparsevec_out(vector: Scanned<Sparse<'_>>) -> pg_sys::Datum {
        let vector = vector.0;
        // An index has at most ten digits.
        let mut text = Text::new((MAX_FLOAT_TEXT + 12) * (vector.values.len() + 1));
        text.push(b'{');
        for (n, (index, value)) in vector.entries().enumerate() {
            if n > 0 {
                text.push(b',');
            }
            write_integer(index + 1, &mut text);
            text.push(b':');
            write_shortest(value, &mut text);
        }
        text.extend(b"}/");
        write_integer(vector.dimensions, &mut text);
        text.finish()
    }

    /// The binary format: dimensions, components and zero, then the indices from 0
    /// on and the components, four bytes each, all big-endian.
    fn sparsevec_recv(message: Message<'_>, _element: i32, typmod: i32) -> pg_sys::Datum {
        let words = |count: usize| message.bytes(4 * count).as_chunks::<4>().0;
        let head = words(3);
        let [dimensions, count, unused] = [0, 1, 2].map(|n| i32::from_be_bytes(head[n]));
        check_dimensions(i64::from(dimensions));
        let dimensions = dimensions as usize;
        check_count(i64::from(count), dimensions);
        check_typmod(typmod, dimensions);
        if unused != 0 {
            raise_with_detail(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                format!("expected unused to be 0, not {unused}"),
                "The third field of the binary format of a sparsevec is reserved.",
            );
        }
        let count = count as usize;
        let indices = words(count);
        check_indices(indices.iter().map(|&i| i64::from(i32::from_be_bytes(i))), dimensions);
        let values = words(count);
        write(dimensions, count, |out_indices, out_values| {
            for (out, &index) in out_indices.iter_mut().zip(indices) {
                *out = u32::from_be_bytes(index);
            }
            for (out, &value) in out_values.iter_mut().zip(values) {
                *out = f32::from_be_bytes(value);
            }
            if out_values.contains(&0.0) {
                raise(
                    PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                    "binary representation of sparsevec cannot contain zero values",
                );
            }
            check_all_finite(out_values);
        })
    }

    /// The binary format, see [`sparsevec_recv`].
    fn sparsevec_send(vector: Scanned<Sparse<'_>>) -> pg_sys::Datum {
        let Sparse { dimensions, indices, values } = vector.0;
        new_bytea(12 + 8 * values.len(), |out| {
            let words = &mut out.as_chunks_mut::<4>().0;
            let head = [dimensions as i32, values.len() as i32, 0];
            for (out, word) in words.iter_mut().zip(head.iter().chain(indices)) {
                *out = word.to_be_bytes();
            }
            for (out, value) in words[3 + indices.len()..].iter_mut().zip(values) {
                *out = value.to_be_bytes();
            }
        })
    }
}

/// Appends a number to a text.
fn write_integer(value: usize, text: &mut Text) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text.extend(&digits[at..]);
}

#[pg_extern(immutable, strict, parallel_safe)]
fn sparsevec_typmod_in(list: pgrx::Array<'_, &CStr>) -> i32 {
    parse_typmod(
        &list,
        Typmod {
            name: TYPE,
            most: MAX_DIMENSIONS,
        },
    )
}
