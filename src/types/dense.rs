//! The types `vector` and `halfvec`: variable-length arrays of `f32` and `f16`.
//!
//! On disk (as in pgvector): the varlena header, the number of dimensions and
//! an unused field of two bytes each, then the components.

#![allow(unsafe_code)]

use std::borrow::Cow;

use ann::distance;
use half::f16;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::varlena::{set_varsize_4b, varatt_is_4b_u, varsize_any};

use super::text::{out_of_range, shortest};
use crate::errors::{quoted_bytes, raise, raise_with_detail};

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

/// What a vector has for each dimension.
pub trait Component: distance::Component + 'static {
    /// The vector type's name in SQL.
    const TYPE: &'static str;
    /// What two vectors that cannot be compared differ in, as messages have it.
    const DIMENSIONS: &'static str;

    /// The nearest value, which may be infinite.
    fn round(value: f32) -> Self;
    /// The same value.
    fn to_f32(self) -> f32;
    /// The same values.
    fn widen(values: &[Self]) -> Cow<'_, [f32]>;
}

impl Component for f32 {
    const TYPE: &'static str = "vector";
    const DIMENSIONS: &'static str = "vector dimensions";

    fn round(value: f32) -> f32 {
        value
    }
    fn to_f32(self) -> f32 {
        self
    }
    fn widen(values: &[f32]) -> Cow<'_, [f32]> {
        Cow::Borrowed(values)
    }
}

impl Component for f16 {
    const TYPE: &'static str = "halfvec";
    const DIMENSIONS: &'static str = "halfvec dimensions";

    fn round(value: f32) -> f16 {
        f16::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn widen(values: &[f16]) -> Cow<'_, [f32]> {
        Cow::Owned(values.iter().map(|x| x.to_f32()).collect())
    }
}

/// A vector argument: its components, all finite.
#[derive(Clone, Copy)]
pub struct Dense<'a, T>(&'a [T]);

/// An argument of type `vector`.
pub type Vector<'a> = Dense<'a, f32>;
/// An argument of type `halfvec`.
pub type HalfVector<'a> = Dense<'a, f16>;

impl<'a, T: Component> Dense<'a, T> {
    /// The components.
    pub fn values(self) -> &'a [T] {
        self.0
    }

    /// The components in single precision.
    pub fn widened(self) -> Cow<'a, [f32]> {
        T::widen(self.0)
    }

    /// Reads a datum of the type; a toasted one is copied into the current
    /// memory context.
    ///
    /// # Safety
    ///
    /// `datum` is a non-null datum of the type that lives for `'a`, and so does
    /// the current memory context.
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        // SAFETY: the caller gives a varlena; detoasting returns a plain one
        // whose size its header tells. The size is checked against the number
        // of dimensions before any component is read.
        unsafe {
            let plain = plain(datum);
            let size = varsize_any(plain);
            let header = plain.cast::<Header>();
            let dim = if size < HEADER_LEN { -1 } else { (*header).dim };
            if dim < 1 || size != HEADER_LEN + dim as usize * size_of::<T>() {
                raise(
                    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!(
                        "a {} of {size} bytes claims to have {dim} dimensions",
                        T::TYPE
                    ),
                );
            }
            let values = plain.cast::<u8>().add(HEADER_LEN).cast::<T>();
            Dense(std::slice::from_raw_parts(values, dim as usize))
        }
    }
}

/// A datum as a varlena with a header of four bytes; a toasted one is copied
/// into the current memory context.
///
/// # Safety
///
/// `datum` is a non-null varlena.
pub unsafe fn plain(datum: pg_sys::Datum) -> *mut pg_sys::varlena {
    // SAFETY: see above. Most are plain already, and a call of the server would
    // cost as much as a distance.
    unsafe {
        let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
        if varatt_is_4b_u(varlena) {
            varlena
        } else {
            pg_sys::pg_detoast_datum(varlena)
        }
    }
}

/// A vector to be returned.
pub struct Owned<T>(Vec<T>);

/// A `vector` to be returned.
pub type OwnedVector = Owned<f32>;
/// A `halfvec` to be returned.
pub type OwnedHalfVector = Owned<f16>;

impl<T: Component> Owned<T> {
    /// A vector of these components, or an ERROR if there are too few or too
    /// many of them, or one is not finite.
    pub fn checked(values: Vec<T>) -> Self {
        check_dimensions::<T>(values.len());
        values
            .iter()
            .for_each(|&x| check_finite(T::TYPE, x.to_f32()));
        Owned(values)
    }

    /// A vector of the rounded values, or an ERROR as for [`Owned::checked`], or
    /// if the type has no number as large as one of them.
    pub fn rounded(values: &[f32]) -> Self {
        let round = |&value: &f32| {
            let rounded = T::round(value);
            if rounded.to_f32().is_infinite() && value.is_finite() {
                out_of_range(T::TYPE, &shortest(value));
            }
            rounded
        };
        Self::checked(values.iter().map(round).collect())
    }

    /// Copies the vector into the current memory context.
    pub fn into_datum(self) -> pg_sys::Datum {
        new_datum(&self.0)
    }
}

/// Writes components as a datum of their type into the current memory context.
/// There are at most [`MAX_DIMENSIONS`] of them.
pub fn new_datum<T: Component>(values: &[T]) -> pg_sys::Datum {
    debug_assert!(values.len() <= MAX_DIMENSIONS);
    let size = HEADER_LEN + size_of_val(values);
    // SAFETY: palloc returns `size` writable bytes, aligned for the header.
    unsafe {
        let datum = pg_sys::palloc(size);
        set_varsize_4b(datum.cast(), size as i32);
        let header = datum.cast::<Header>();
        (*header).dim = values.len() as i16;
        (*header).unused = 0;
        let stored = datum.cast::<u8>().add(HEADER_LEN).cast::<T>();
        std::ptr::copy_nonoverlapping(values.as_ptr(), stored, values.len());
        pg_sys::Datum::from(datum)
    }
}

/// Raises an ERROR unless a vector can have so many dimensions.
pub fn check_dimensions<T: Component>(count: usize) {
    if count < 1 {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("{} must have at least 1 dimension", T::TYPE),
        );
    }
    if count > MAX_DIMENSIONS {
        raise(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!(
                "{} cannot have more than {MAX_DIMENSIONS} dimensions",
                T::TYPE
            ),
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
pub fn check_same<T: Component>(a: Dense<'_, T>, b: Dense<'_, T>) {
    if a.0.len() != b.0.len() {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!(
                "different {} {} and {}",
                T::DIMENSIONS,
                a.0.len(),
                b.0.len()
            ),
        );
    }
}

/// Raises an ERROR unless a vector of a type can have this component.
pub fn check_finite(name: &str, value: f32) {
    if value.is_nan() {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("NaN not allowed in {name}"),
        );
    }
    if value.is_infinite() {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("infinite value not allowed in {name}"),
        );
    }
}

// SAFETY: an argument of the type is a varlena, read by `from_datum`.
unsafe impl<'fcx, T: Component> ArgAbi<'fcx> for Dense<'fcx, T> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the functions are strict, or take an `Option`.
        unsafe {
            match arg.unbox_arg_using_from_datum::<pg_sys::Datum>() {
                Some(datum) => Dense::from_datum(datum),
                None => raise(
                    PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                    "a vector argument is null",
                ),
            }
        }
    }
}

// SAFETY: the datum is a varlena in the function's memory context.
unsafe impl<T: Component> BoxRet for Owned<T> {
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
sql_type!(['a] HalfVector<'a>, "halfvec");
sql_type!([] OwnedHalfVector, "halfvec");

/// What a type's modifier may be.
#[derive(Clone, Copy)]
pub struct Typmod {
    /// The type's name.
    pub name: &'static str,
    /// The most dimensions that it can have.
    pub most: i64,
}

/// The dimensions that a type modifier names.
pub fn parse_typmod(list: &pgrx::Array<'_, &core::ffi::CStr>, of: Typmod) -> i32 {
    let invalid =
        |message: String| -> ! { raise(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message) };
    let parse = |text: &core::ffi::CStr| -> i32 {
        let text = quoted_bytes(text.to_bytes());
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
        invalid(format!(
            "dimensions for type {} must be at least 1",
            of.name
        ));
    }
    if i64::from(dimensions) > of.most {
        invalid(format!(
            "dimensions for type {} cannot exceed {}",
            of.name, of.most
        ));
    }
    dimensions
}

/// Components as bytes in the order of the network.
trait Wire: Component {
    /// Reads one.
    ///
    /// # Safety
    ///
    /// `message` is a message that is being read.
    unsafe fn read(message: *mut pg_sys::StringInfoData) -> Self;
    /// Writes one.
    fn write(self, message: &mut Vec<u8>);
}

impl Wire for f32 {
    unsafe fn read(message: *mut pg_sys::StringInfoData) -> f32 {
        // SAFETY: the server checks that there is one.
        unsafe { pg_sys::pq_getmsgfloat4(message) }
    }
    fn write(self, message: &mut Vec<u8>) {
        message.extend(self.to_be_bytes());
    }
}

impl Wire for f16 {
    unsafe fn read(message: *mut pg_sys::StringInfoData) -> f16 {
        // SAFETY: the server checks that there is one.
        f16::from_bits(unsafe { pg_sys::pq_getmsgint(message, 2) } as u16)
    }
    fn write(self, message: &mut Vec<u8>) {
        message.extend(self.to_be_bytes());
    }
}

/// Reads the binary format: dimensions and zero as two bytes each, then the
/// components, all big-endian.
fn receive<T: Wire>(message: &pgrx::datum::Internal, typmod: i32) -> Owned<T> {
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
        check_dimensions::<T>(usize::try_from(dim).unwrap_or(0));
        check_typmod(typmod, dim as usize);
        if unused != 0 {
            raise_with_detail(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                format!("expected unused to be 0, not {unused}"),
                "The second field of the binary format of a vector is reserved.",
            );
        }
        Owned::checked((0..dim).map(|_| T::read(message)).collect())
    }
}

/// Writes the binary format, see [`receive`].
fn send<T: Wire>(vector: Dense<'_, T>) -> Vec<u8> {
    let values = vector.values();
    let mut message = Vec::with_capacity(4 + size_of_val(values));
    message.extend((values.len() as i16).to_be_bytes());
    message.extend(0_i16.to_be_bytes());
    values.iter().for_each(|x| x.write(&mut message));
    message
}

/// The functions of a type that its definition names.
macro_rules! type_functions {
    ($component:ty: $typmod_in:ident, $recv:ident, $send:ident) => {
        #[pg_extern(immutable, strict, parallel_safe)]
        fn $typmod_in(list: pgrx::Array<'_, &core::ffi::CStr>) -> i32 {
            parse_typmod(
                &list,
                Typmod {
                    name: <$component>::TYPE,
                    most: MAX_DIMENSIONS as i64,
                },
            )
        }

        #[pg_extern(immutable, strict, parallel_safe)]
        fn $recv(
            message: pgrx::datum::Internal,
            _element: pg_sys::Oid,
            typmod: i32,
        ) -> Owned<$component> {
            receive(&message, typmod)
        }

        #[pg_extern(immutable, strict, parallel_safe)]
        fn $send(vector: Dense<'_, $component>) -> Vec<u8> {
            send(vector)
        }
    };
}
type_functions!(f32: vector_typmod_in, vector_recv, vector_send);
type_functions!(f16: halfvec_typmod_in, halfvec_recv, halfvec_send);
