//! The type `sparsevec`: of a vector of up to 10⁹ dimensions, the components
//! that are not zero.
//!
//! On disk (as in pgvector): the varlena header; the number of dimensions, that
//! of components, and an unused field of four bytes each; the index of each
//! component from 0 on, ascending; the components.

#![allow(unsafe_code)]

use core::ffi::CStr;
use std::cmp::Ordering;
use std::ffi::CString;

use ann::SparseVector;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::varlena::{set_varsize_4b, varsize_any};

use super::dense::{Typmod, check_typmod, parse_typmod, plain, sql_type};
use super::text::{is_space, out_of_range, parse_number, write_shortest};
use crate::errors::{quoted_bytes, raise, raise_with_detail};

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
    pub fn dimensions(self) -> usize {
        self.dimensions
    }

    /// The components that are not zero.
    pub fn values(self) -> &'a [f32] {
        self.values
    }

    /// The same with their indices, from 0 on.
    pub fn components(self) -> SparseVector<'a> {
        SparseVector {
            indices: bytemuck::cast_slice(self.indices),
            values: self.values,
        }
    }

    /// The index, from 0 on, of each component that is not zero, and the
    /// component.
    pub fn entries(self) -> impl Iterator<Item = (usize, f32)> + Clone + use<'a> {
        let indices = self.indices.iter().map(|&index| index as usize);
        indices.zip(self.values.iter().copied())
    }

    /// The components of two vectors, index by index, where one of them is not
    /// zero.
    pub fn pairs(self, other: Sparse<'a>) -> impl Iterator<Item = (usize, f32, f32)> + use<'a> {
        let (mut a, mut b) = (self.entries().peekable(), other.entries().peekable());
        std::iter::from_fn(move || {
            let order = match (a.peek(), b.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.0.cmp(&b.0),
            };
            let left = a.next_if(|_| order.is_le());
            let right = b.next_if(|_| order.is_ge());
            let index = left.or(right)?.0;
            let value = |component: Option<(usize, f32)>| component.map_or(0.0, |(_, x)| x);
            Some((index, value(left), value(right)))
        })
    }

    /// All components, zeros too, of a vector of few dimensions.
    pub fn to_dense(self) -> Vec<f32> {
        let mut values = vec![0.0; self.dimensions];
        for (index, value) in self.entries() {
            // Only a damaged vector has an index outside.
            if let Some(place) = values.get_mut(index) {
                *place = value;
            }
        }
        values
    }

    /// Reads a datum of the type; a toasted one is copied into the current
    /// memory context.
    ///
    /// # Safety
    ///
    /// `datum` is a non-null datum of the type that lives for `'a`, and so does
    /// the current memory context.
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        // SAFETY: detoasting returns a plain varlena, whose size its header
        // tells, and which is checked against the number of components.
        unsafe {
            let plain = plain(datum);
            let size = varsize_any(plain);
            let header = plain.cast::<Header>();
            let (dim, nnz) = match size {
                0..HEADER_LEN => (-1, -1),
                _ => ((*header).dim, (*header).nnz),
            };
            let expected = usize::try_from(nnz).map(|nnz| HEADER_LEN + 8 * nnz);
            if dim < 1 || nnz > dim || expected != Ok(size) {
                raise(
                    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!(
                        "a sparsevec of {size} bytes claims to have {dim} dimensions and {nnz} \
                         components"
                    ),
                );
            }
            let (dimensions, nnz) = (dim as usize, nnz as usize);
            let indices = plain.cast::<u8>().add(HEADER_LEN).cast::<i32>();
            Sparse {
                dimensions,
                indices: std::slice::from_raw_parts(indices, nnz),
                values: std::slice::from_raw_parts(indices.add(nnz).cast(), nnz),
            }
        }
    }
}

// SAFETY: an argument of the type is a varlena, read by `from_datum`.
unsafe impl<'fcx> ArgAbi<'fcx> for Sparse<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the functions are strict.
        unsafe {
            match arg.unbox_arg_using_from_datum::<pg_sys::Datum>() {
                Some(datum) => Sparse::from_datum(datum),
                None => raise(
                    PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                    "a sparsevec argument is null",
                ),
            }
        }
    }
}

/// A sparse vector to be returned.
pub struct OwnedSparse {
    dimensions: usize,
    indices: Vec<i32>,
    values: Vec<f32>,
}

impl OwnedSparse {
    /// A vector of these components, of ascending indices from 0 on, without the
    /// zeros; or an ERROR if there are too many, or one is not finite.
    pub fn checked(dimensions: usize, components: impl Iterator<Item = (usize, f32)>) -> Self {
        check_dimensions(dimensions as i64);
        let (mut indices, mut values) = (Vec::new(), Vec::new());
        for (index, value) in components.filter(|&(_, value)| value != 0.0) {
            check_finite(value);
            indices.push(index as i32);
            values.push(value);
        }
        check_count(values.len() as i64, dimensions);
        OwnedSparse {
            dimensions,
            indices,
            values,
        }
    }
}

// SAFETY: the datum is laid out as above.
unsafe impl BoxRet for OwnedSparse {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let nnz = self.values.len();
        let size = HEADER_LEN + 8 * nnz;
        // SAFETY: palloc returns `size` writable bytes, aligned for the header.
        unsafe {
            let datum = pg_sys::palloc(size);
            set_varsize_4b(datum.cast(), size as i32);
            let header = datum.cast::<Header>();
            (*header).dim = self.dimensions as i32;
            (*header).nnz = nnz as i32;
            (*header).unused = 0;
            let indices = datum.cast::<u8>().add(HEADER_LEN).cast::<i32>();
            std::ptr::copy_nonoverlapping(self.indices.as_ptr(), indices, nnz);
            let values = indices.add(nnz).cast::<f32>();
            std::ptr::copy_nonoverlapping(self.values.as_ptr(), values, nnz);
            fcinfo.return_raw_datum(pg_sys::Datum::from(datum))
        }
    }
}

sql_type!(['a] Sparse<'a>, "sparsevec");
sql_type!([] OwnedSparse, "sparsevec");

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

    fn parse(mut self) -> OwnedSparse {
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
        OwnedSparse::checked(
            dimensions as usize,
            components.map(|&(index, value)| (index as usize - 1, value)),
        )
    }
}

/// Text to vector.
#[pg_extern(immutable, strict, parallel_safe)]
fn sparsevec_in(input: &CStr, _element: pg_sys::Oid, typmod: i32) -> OwnedSparse {
    let parser = Parser {
        input: input.to_bytes(),
        at: 0,
    };
    let vector = parser.parse();
    check_typmod(typmod, vector.dimensions);
    vector
}

/// Vector to text.
#[pg_extern(immutable, strict, parallel_safe)]
fn sparsevec_out(vector: Sparse<'_>) -> CString {
    let mut text = vec![b'{'];
    for (n, (index, value)) in vector.entries().enumerate() {
        if n > 0 {
            text.push(b',');
        }
        text.extend((index + 1).to_string().bytes());
        text.push(b':');
        write_shortest(value, &mut text);
    }
    text.extend(b"}/");
    text.extend(vector.dimensions.to_string().bytes());
    CString::new(text).unwrap_or_default()
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

/// The binary format: dimensions, components and zero, then the indices from 0
/// on and the components, four bytes each, all big-endian.
#[pg_extern(immutable, strict, parallel_safe)]
fn sparsevec_recv(
    message: pgrx::datum::Internal,
    _element: pg_sys::Oid,
    typmod: i32,
) -> OwnedSparse {
    // SAFETY: a receive function gets a StringInfo; the pq_ functions check
    // that it holds what they are asked for.
    unsafe {
        let Some(message) = message.get::<pg_sys::StringInfoData>() else {
            raise(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "no binary vector to read",
            )
        };
        let message = std::ptr::from_ref(message).cast_mut();
        let next = || pg_sys::pq_getmsgint(message, 4) as i32;
        let (dimensions, count, unused) = (next(), next(), next());
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
        let indices: Vec<i32> = (0..count).map(|_| next()).collect();
        check_indices(indices.iter().map(|&i| i64::from(i)), dimensions);
        let values: Vec<f32> = (0..count)
            .map(|_| pg_sys::pq_getmsgfloat4(message))
            .collect();
        if values.contains(&0.0) {
            raise(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                "binary representation of sparsevec cannot contain zero values",
            );
        }
        let indices = indices.into_iter().map(|index| index as usize);
        OwnedSparse::checked(dimensions, indices.zip(values))
    }
}

/// The binary format, see [`sparsevec_recv`].
#[pg_extern(immutable, strict, parallel_safe)]
fn sparsevec_send(vector: Sparse<'_>) -> Vec<u8> {
    let mut message = Vec::with_capacity(12 + 8 * vector.values.len());
    message.extend((vector.dimensions as i32).to_be_bytes());
    message.extend((vector.values.len() as i32).to_be_bytes());
    message.extend(0_i32.to_be_bytes());
    message.extend(vector.indices.iter().flat_map(|i| i.to_be_bytes()));
    message.extend(vector.values.iter().flat_map(|x| x.to_be_bytes()));
    message
}
