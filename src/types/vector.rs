//! The `vector` type: a variable-length array of `f32`.
//!
//! On disk (as in pgvector): the varlena header, the number of dimensions and
//! an unused field of two bytes each, then the components.

#![allow(unsafe_code)]

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::varlena::{set_varsize_4b, varatt_is_4b_u, varsize_any};

use crate::errors::{raise, raise_with_detail};

/// A vector has at most so many dimensions.
pub const MAX_DIMENSIONS: usize = 16_000;

/// The fixed part of a stored vector.
#[repr(C)]
struct Header {
    vl_len: u32,
    dim: i16,
    unused: i16,
}

const HEADER_LEN: usize = size_of::<Header>();
const _: () = assert!(HEADER_LEN == 8);

/// A vector argument: its components, all finite.
#[derive(Clone, Copy)]
pub struct Vector<'a>(&'a [f32]);

impl<'a> Vector<'a> {
    /// The components.
    pub fn values(self) -> &'a [f32] {
        self.0
    }

    /// Reads a datum of type `vector`; a toasted one is copied into the
    /// current memory context.
    ///
    /// # Safety
    ///
    /// `datum` is a non-null `vector` datum that lives for `'a`, and so does
    /// the current memory context.
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        // SAFETY: the caller gives a varlena; detoasting returns a plain one
        // whose size its header tells. The size is checked against the number
        // of dimensions before any component is read.
        unsafe {
            let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
            let plain = if varatt_is_4b_u(varlena) {
                varlena
            } else {
                pg_sys::pg_detoast_datum(varlena)
            };
            let size = varsize_any(plain);
            let header = plain.cast::<Header>();
            let dim = if size < HEADER_LEN { -1 } else { (*header).dim };
            if dim < 1 || size != HEADER_LEN + dim as usize * size_of::<f32>() {
                raise(
                    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!("a vector of {size} bytes claims to have {dim} dimensions"),
                );
            }
            let values = plain.cast::<u8>().add(HEADER_LEN).cast::<f32>();
            Vector(std::slice::from_raw_parts(values, dim as usize))
        }
    }
}

/// A vector to be returned.
pub struct OwnedVector(Vec<f32>);

impl OwnedVector {
    /// A vector of these components, or an ERROR if there are too few or too
    /// many of them, or one is not finite.
    pub fn checked(values: Vec<f32>) -> Self {
        check_dimensions(values.len());
        values.iter().for_each(|&x| check_finite(x));
        OwnedVector(values)
    }

    /// Copies the vector into the current memory context.
    pub fn into_datum(self) -> pg_sys::Datum {
        new_datum(&self.0)
    }
}

/// Writes components as a `vector` datum into the current memory context.
/// There are at most [`MAX_DIMENSIONS`] of them.
pub fn new_datum(values: &[f32]) -> pg_sys::Datum {
    debug_assert!(values.len() <= MAX_DIMENSIONS);
    let size = HEADER_LEN + size_of_val(values);
    // SAFETY: palloc returns `size` writable bytes, aligned for the header.
    unsafe {
        let datum = pg_sys::palloc(size);
        set_varsize_4b(datum.cast(), size as i32);
        let header = datum.cast::<Header>();
        (*header).dim = values.len() as i16;
        (*header).unused = 0;
        let stored = datum.cast::<u8>().add(HEADER_LEN).cast::<f32>();
        std::ptr::copy_nonoverlapping(values.as_ptr(), stored, values.len());
        pg_sys::Datum::from(datum)
    }
}

/// Raises an ERROR unless a vector can have so many dimensions.
pub fn check_dimensions(count: usize) {
    if count < 1 {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            "vector must have at least 1 dimension",
        );
    }
    if count > MAX_DIMENSIONS {
        raise(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("vector cannot have more than {MAX_DIMENSIONS} dimensions"),
        );
    }
}

/// Raises an ERROR unless the number of dimensions is the one that the type
/// modifier asks for.
pub fn check_typmod(typmod: i32, count: usize) {
    if typmod != -1 && typmod as usize != count {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("expected {typmod} dimensions, not {count}"),
        );
    }
}

/// Raises an ERROR unless two vectors have the same number of dimensions.
pub fn check_same(a: Vector<'_>, b: Vector<'_>) {
    if a.0.len() != b.0.len() {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!(
                "different vector dimensions {} and {}",
                a.0.len(),
                b.0.len()
            ),
        );
    }
}

/// Raises an ERROR unless a vector can have this component.
pub fn check_finite(value: f32) {
    if value.is_nan() {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            "NaN not allowed in vector",
        );
    }
    if value.is_infinite() {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            "infinite value not allowed in vector",
        );
    }
}

// SAFETY: a `vector` argument is a varlena, read by `from_datum`.
unsafe impl<'fcx> ArgAbi<'fcx> for Vector<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the functions are strict, or take an `Option`.
        unsafe {
            match arg.unbox_arg_using_from_datum::<pg_sys::Datum>() {
                Some(datum) => Vector::from_datum(datum),
                None => raise(
                    PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                    "a vector argument is null",
                ),
            }
        }
    }
}

// SAFETY: the datum is a varlena in the function's memory context.
unsafe impl BoxRet for OwnedVector {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: the datum was made for this call.
        unsafe { fcinfo.return_raw_datum(self.into_datum()) }
    }
}

/// Says that a Rust type is written `$sql` in SQL, as argument and as result.
macro_rules! sql_type {
    ([$($generics:tt)*] $type:ty, $sql:literal) => {
        // SAFETY: the type reads and writes datums of the SQL type it names.
        unsafe impl<$($generics)*> SqlTranslatable for $type {
            const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!($type);
            const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
            const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
                Ok(SqlMappingRef::literal($sql));
            const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
                Ok(ReturnsRef::One(SqlMappingRef::literal($sql)));
        }
    };
}
pub(crate) use sql_type;

sql_type!(['a] Vector<'a>, "vector");
sql_type!([] OwnedVector, "vector");

/// `vector(n)`: n as a type modifier.
#[pg_extern(immutable, strict, parallel_safe)]
fn vector_typmod_in(list: pgrx::Array<'_, &core::ffi::CStr>) -> i32 {
    let invalid =
        |message: String| -> ! { raise(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message) };
    let parse = |text: &core::ffi::CStr| -> i32 {
        let text = text.to_string_lossy();
        match text.trim().parse() {
            Ok(number) => number,
            Err(_) => raise(
                PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
                format!("invalid input syntax for type integer: \"{text}\""),
            ),
        }
    };
    let modifiers: Vec<i32> = list.iter().flatten().map(parse).collect();
    let [dimensions] = modifiers[..] else {
        invalid("invalid type modifier".into())
    };
    if dimensions < 1 {
        invalid("dimensions for type vector must be at least 1".into());
    }
    if dimensions as usize > MAX_DIMENSIONS {
        invalid(format!(
            "dimensions for type vector cannot exceed {MAX_DIMENSIONS}"
        ));
    }
    dimensions
}

/// The binary format: dimensions and zero as two bytes each, then the
/// components, all big-endian.
#[pg_extern(immutable, strict, parallel_safe)]
fn vector_recv(message: pgrx::datum::Internal, _element: pg_sys::Oid, typmod: i32) -> OwnedVector {
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
        let dim = pg_sys::pq_getmsgint(message, 2) as u16 as i16;
        let unused = pg_sys::pq_getmsgint(message, 2) as u16 as i16;
        check_dimensions(usize::try_from(dim).unwrap_or(0));
        check_typmod(typmod, dim as usize);
        if unused != 0 {
            raise_with_detail(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                format!("expected unused to be 0, not {unused}"),
                "The second field of the binary format of a vector is reserved.",
            );
        }
        let values = (0..dim).map(|_| pg_sys::pq_getmsgfloat4(message)).collect();
        OwnedVector::checked(values)
    }
}

/// The binary format, see [`vector_recv`].
#[pg_extern(immutable, strict, parallel_safe)]
fn vector_send(vector: Vector<'_>) -> Vec<u8> {
    let values = vector.values();
    let mut message = Vec::with_capacity(4 + size_of_val(values));
    message.extend((values.len() as i16).to_be_bytes());
    message.extend(0_i16.to_be_bytes());
    message.extend(values.iter().flat_map(|x| x.to_be_bytes()));
    message
}
