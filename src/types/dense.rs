//! The types `vector` and `halfvec`: variable-length arrays of `f32` and `f16`.
//!
//! On disk (as in pgvector): the varlena header, the number of dimensions and
//! an unused field of two bytes each, then the components.

#![allow(unsafe_code)]

use core::ffi::c_void;
use std::borrow::Cow;
use std::cmp::Ordering;

use ann::distance;
use ann::simd::kernels;
use half::f16;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::varlena::{set_varsize_4b, varatt_is_4b_u, varsize_any};

use super::message::{Fresh, Message, new_bytea, new_result, try_new_result};
use super::text::{out_of_range, shortest};
use crate::errors::{quoted_bytes, raise, raise_with_detail};
use crate::function::{Argument, Scanned, functions, is_in_aggregate};

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
pub trait Component: distance::Component + bytemuck::Pod {
    /// The vector type's name in SQL.
    const TYPE: &'static str;
    /// What two vectors that cannot be compared differ in, as messages have it.
    const DIMENSIONS: &'static str;

    /// The nearest value, which may be infinite.
    fn round(value: f32) -> Self;
    /// The same value.
    fn to_f32(self) -> f32;
    /// The same numbers, if they need no rounding.
    fn of_singles(values: &[f32]) -> Option<&[Self]>;
    /// Whether it is 0 or −0.
    fn is_zero(self) -> bool;
    /// The order of two finite numbers; −0 equals 0.
    fn compare(self, other: Self) -> Ordering;
    /// The same values.
    fn widen(values: &[Self]) -> Cow<'_, [f32]>;
    /// The same values, into a slice of the same length.
    fn widen_into(values: &[Self], out: &mut [f32]);
    /// The nearest values, which may be infinite, into a slice of the same length.
    fn round_into(values: &[f32], out: &mut [Self]);
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
    #[inline]
    fn of_singles(values: &[f32]) -> Option<&[f32]> {
        Some(values)
    }
    #[inline]
    fn is_zero(self) -> bool {
        self == 0.0
    }
    #[inline]
    fn compare(self, other: f32) -> Ordering {
        self.partial_cmp(&other).unwrap_or(Ordering::Equal)
    }
    fn widen(values: &[f32]) -> Cow<'_, [f32]> {
        Cow::Borrowed(values)
    }
    fn widen_into(values: &[f32], out: &mut [f32]) {
        out.copy_from_slice(values);
    }
    fn round_into(values: &[f32], out: &mut [f32]) {
        out.copy_from_slice(values);
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
    #[inline]
    fn of_singles(_values: &[f32]) -> Option<&[f16]> {
        None
    }
    #[inline]
    fn is_zero(self) -> bool {
        self.to_bits() << 1 == 0
    }
    #[inline]
    fn compare(self, other: f16) -> Ordering {
        // Not converted, which costs more than all the rest. The magnitude, or less it:
        // without a branch, which nobody could foresee.
        let order = |x: f16| {
            let magnitude = i32::from(x.to_bits() & 0x7fff);
            let negative = i32::from(x.to_bits().cast_signed()) >> 31;
            (magnitude ^ negative) - negative
        };
        order(self).cmp(&order(other))
    }
    fn widen(values: &[f16]) -> Cow<'_, [f32]> {
        let mut wide = vec![0.0; values.len()];
        Self::widen_into(values, &mut wide);
        Cow::Owned(wide)
    }
    fn widen_into(values: &[f16], out: &mut [f32]) {
        (kernels().widen)(values, out);
    }
    fn round_into(values: &[f32], out: &mut [f16]) {
        (kernels().narrow)(values, out);
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
    #[inline]
    pub fn values(self) -> &'a [T] {
        self.0
    }

    /// The datum that it was read from, or its plain copy.
    pub fn datum(self) -> pg_sys::Datum {
        let first: *const u8 = self.0.as_ptr().cast();
        pg_sys::Datum::from(first.wrapping_sub(HEADER_LEN).cast_mut())
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
    #[inline(always)]
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        // SAFETY: the caller gives a varlena; detoasting returns a plain one.
        unsafe {
            let plain = plain(datum);
            match Self::read(plain) {
                Ok(vector) => vector,
                Err((size, dim)) => raise(
                    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!(
                        "a {} of {size} bytes claims to have {dim} dimensions",
                        T::TYPE
                    ),
                ),
            }
        }
    }

    /// The same, if the datum is plain and in order.
    ///
    /// # Safety
    ///
    /// As for [`Dense::from_datum`].
    #[inline(always)]
    pub unsafe fn peek(datum: pg_sys::Datum) -> Option<Self> {
        // SAFETY: the caller gives a varlena.
        unsafe {
            let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
            varatt_is_4b_u(varlena).then_some(())?;
            Self::read(varlena).ok()
        }
    }

    /// Reads a plain varlena; its size and what it says of its dimensions, if they do not
    /// fit.
    #[inline(always)]
    unsafe fn read(plain: *mut pg_sys::varlena) -> Result<Self, (usize, i16)> {
        // SAFETY: the header tells the size, which is checked against the number of
        // dimensions before any component is read.
        unsafe {
            let size = varsize_any(plain);
            let header = plain.cast::<Header>();
            let dim = if size < HEADER_LEN { -1 } else { (*header).dim };
            if dim < 1 || size != HEADER_LEN + dim as usize * size_of::<T>() {
                return Err((size, dim));
            }
            let values = plain.cast::<u8>().add(HEADER_LEN).cast::<T>();
            Ok(Dense(std::slice::from_raw_parts(values, dim as usize)))
        }
    }
}

/// A datum as a varlena with a header of four bytes; a toasted one is copied
/// into the current memory context.
///
/// # Safety
///
/// `datum` is a non-null varlena.
#[inline]
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

    /// Copies the vector into the current memory context.
    pub fn into_datum(self) -> pg_sys::Datum {
        new_datum(&self.0)
    }
}

/// Writes components as a datum of their type into the current memory context.
fn new_datum<T: Component>(values: &[T]) -> pg_sys::Datum {
    build(values.len(), |out| out.copy_from_slice(values))
}

/// A new vector in the current memory context, all zeros until `fill` has seen its
/// components; an ERROR if there are too few or too many of them.
pub fn build<T: Component>(count: usize, fill: impl FnOnce(&mut [T])) -> pg_sys::Datum {
    check_dimensions::<T>(count);
    let size = HEADER_LEN + count * size_of::<T>();
    // SAFETY: `size` writable bytes.
    unsafe { fill_in(new_result(size, Fresh::Zeros), count, fill) }
}

/// The same, if there can be such a vector and there is memory for it, and `fill` says that
/// it is one. It neither panics nor raises an ERROR unless `fill` does.
#[inline]
pub fn try_build<T: Component>(
    count: usize,
    fill: impl FnOnce(&mut [T]) -> bool,
) -> Option<pg_sys::Datum> {
    if !(1..=MAX_DIMENSIONS).contains(&count) {
        return None;
    }
    let datum = try_new_result(HEADER_LEN + count * size_of::<T>(), Fresh::Zeros)?;
    let mut is_one = false;
    // SAFETY: as above.
    let datum = unsafe { fill_in(datum, count, |out| is_one = fill(out)) };
    is_one.then_some(datum)
}

/// # Safety
///
/// Writable bytes for the header and `count` components, all zeros, aligned for the header.
#[inline]
unsafe fn fill_in<T: Component>(
    datum: *mut c_void,
    count: usize,
    fill: impl FnOnce(&mut [T]),
) -> pg_sys::Datum {
    // SAFETY: as the caller says. Zero is a number of either type.
    unsafe {
        set_varsize_4b(datum.cast(), (HEADER_LEN + count * size_of::<T>()) as i32);
        (*datum.cast::<Header>()).dim = count as i16;
        let first = datum.cast::<u8>().add(HEADER_LEN).cast::<T>();
        fill(std::slice::from_raw_parts_mut(first, count));
        pg_sys::Datum::from(datum)
    }
}

/// A new vector of the rounded values, or an ERROR as for [`build`], or if one is not finite,
/// or larger than any number that the type has.
pub fn rounded<T: Component>(values: &[f32]) -> pg_sys::Datum {
    build::<T>(values.len(), |out| round_into(values, out))
}

/// The rounded values, or an ERROR if one is not finite, or larger than any number that the
/// type has.
pub fn round_into<T: Component>(values: &[f32], out: &mut [T]) {
    T::round_into(values, out);
    if !(T::components(kernels()).are_finite)(out) {
        for &value in values.iter().filter(|value| value.is_finite()) {
            if T::round(value).to_f32().is_infinite() {
                out_of_range(T::TYPE, &shortest(value));
            }
        }
        for &value in values {
            check_finite(T::TYPE, value);
        }
    }
}

/// The first argument of an addition: a vector, which is the sum so far where the addition
/// is the transition function of an aggregate.
pub struct Sum<'a, T> {
    vector: Dense<'a, T>,
    is_own: bool,
}

/// A sum that may be changed in place.
pub struct OwnSum<T> {
    datum: pg_sys::Datum,
    first: *mut T,
    count: usize,
}

impl<'a, T: Component> Sum<'a, T> {
    /// The vector.
    pub fn vector(&self) -> Dense<'a, T> {
        self.vector
    }

    /// The sum of an aggregate, or a vector that belongs to somebody else.
    pub fn into_own(self) -> Result<OwnSum<T>, Dense<'a, T>> {
        match self.is_own {
            true => Ok(OwnSum {
                datum: self.vector.datum(),
                first: self.vector.0.as_ptr().cast_mut(),
                count: self.vector.0.len(),
            }),
            false => Err(self.vector),
        }
    }
}

impl<T: Component> OwnSum<T> {
    /// The sum after a change.
    pub fn change(self, change: impl FnOnce(&mut [T])) -> pg_sys::Datum {
        // SAFETY: the state of an aggregate, or a plain copy of it, which only this call
        // has.
        change(unsafe { std::slice::from_raw_parts_mut(self.first, self.count) });
        self.datum
    }
}

impl<T: Component> Argument for Sum<'_, T> {
    #[inline]
    unsafe fn take(call: pg_sys::FunctionCallInfo, at: &mut usize) -> Self {
        // SAFETY: passed on.
        unsafe {
            Sum {
                vector: Dense::take(call, at),
                is_own: is_in_aggregate(call),
            }
        }
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

/// Whether the number of dimensions is the one that the type modifier asks for.
#[inline]
pub fn fits(typmod: i32, count: usize) -> bool {
    typmod == -1 || typmod as usize == count
}

/// Raises an ERROR unless the number of dimensions is the one that the type
/// modifier asks for.
#[inline]
pub fn check_typmod(typmod: i32, count: usize) {
    if !fits(typmod, count) {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("expected {typmod} dimensions, not {count}"),
        );
    }
}

/// Raises an ERROR unless two vectors have the same number of dimensions.
#[inline]
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
    /// Reads so many as there are places.
    fn read(bytes: &[u8], out: &mut [Self]);
    /// Writes them.
    fn write(values: &[Self], out: &mut [u8]);
}

macro_rules! wire {
    ($component:ty) => {
        impl Wire for $component {
            fn read(bytes: &[u8], out: &mut [Self]) {
                for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *out = Self::from_be_bytes(bytes);
                }
            }
            fn write(values: &[Self], out: &mut [u8]) {
                for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                    *out = value.to_be_bytes();
                }
            }
        }
    };
}
wire!(f32);
wire!(f16);

/// Reads the binary format: dimensions and zero as two bytes each, then the
/// components, all big-endian.
fn receive<T: Wire>(message: Message<'_>, typmod: i32) -> pg_sys::Datum {
    let [dim, unused] = [(); 2].map(|()| i16::from_be_bytes(message.array()));
    let count = usize::try_from(dim).unwrap_or(0);
    check_dimensions::<T>(count);
    check_typmod(typmod, count);
    if unused != 0 {
        raise_with_detail(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("expected unused to be 0, not {unused}"),
            "The second field of the binary format of a vector is reserved.",
        );
    }
    let bytes = message.bytes(count * size_of::<T>());
    build(count, |out| {
        T::read(bytes, out);
        if !(T::components(kernels()).are_finite)(out) {
            out.iter().for_each(|x| check_finite(T::TYPE, x.to_f32()));
        }
    })
}

/// Writes the binary format, see [`receive`].
fn send<T: Wire>(vector: Dense<'_, T>) -> pg_sys::Datum {
    let values = vector.values();
    new_bytea(4 + size_of_val(values), |out| {
        let (head, rest) = out.split_at_mut(4);
        head[..2].copy_from_slice(&(values.len() as i16).to_be_bytes());
        T::write(values, rest);
    })
}

/// The functions of a type that its definition names.
macro_rules! type_functions {
    ($vector:ident of $component:ty: $typmod_in:ident, $recv:ident, $send:ident) => {
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

        functions! {
            fn $recv(message: Message<'_>, _element: i32, typmod: i32) -> pg_sys::Datum {
                receive::<$component>(message, typmod)
            }

            fn $send(vector: Scanned<$vector<'_>>) -> pg_sys::Datum {
                send(vector.0)
            }
        }
    };
}
type_functions!(Vector of f32: vector_typmod_in, vector_recv, vector_send);
type_functions!(HalfVector of f16: halfvec_typmod_in, halfvec_recv, halfvec_send);
