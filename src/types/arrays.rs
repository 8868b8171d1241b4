//! Arrays of numbers, for casts and for the states of aggregates.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::marker::PhantomData;
use std::mem::offset_of;

use memory::vec::{collect, filled};
use pgrx::prelude::*;
use pgrx::varlena::{set_varsize_4b, varsize_any};

use super::dense::plain;
use super::message::{Fresh, new_result};
use crate::allocator;
use crate::errors::raise;
use crate::function::{Argument, is_in_aggregate, next_datum};

/// Bytes before the elements of an array of one dimension without nulls (array.h).
const HEAD: usize = {
    let header = size_of::<pg_sys::ArrayType>() + 2 * size_of::<i32>();
    header.next_multiple_of(pg_sys::MAXIMUM_ALIGNOF as usize)
};

/// An array that is not what a function takes.
enum Unfit {
    Dimensions,
    Nulls,
}

/// An array of at most one dimension and without nulls.
#[derive(Clone, Copy)]
pub struct PlainArray {
    array: *mut pg_sys::ArrayType,
    /// Its elements.
    count: usize,
}

impl PlainArray {
    /// Reads a datum; a toasted one is copied into the current memory context.
    ///
    /// # Safety
    ///
    /// `datum` is a non-null array.
    unsafe fn new(datum: pg_sys::Datum) -> Result<Self, Unfit> {
        // SAFETY: detoasting gives a plain array; one of one dimension has a count.
        unsafe {
            let array = plain(datum).cast::<pg_sys::ArrayType>();
            let count = match (*array).ndim {
                0 => 0,
                1 => *array.add(1).cast::<i32>(),
                _ => return Err(Unfit::Dimensions),
            };
            if (*array).dataoffset != 0 && pg_sys::array_contains_nulls(array) {
                return Err(Unfit::Nulls);
            }
            let count = usize::try_from(count).unwrap_or(0);
            Ok(PlainArray { array, count })
        }
    }

    /// The elements, if they are of a type of fixed size.
    ///
    /// # Safety
    ///
    /// They are numbers of the type, and live for `'a`.
    unsafe fn elements<'a, N: bytemuck::Pod>(self) -> &'a [N] {
        // SAFETY: the size of the array is checked against the number of elements.
        unsafe {
            let start = match (*self.array).dataoffset {
                0 => HEAD,
                offset => offset as usize,
            };
            if self.count == 0 {
                return &[];
            }
            if varsize_any(self.array.cast()) < start + self.count * size_of::<N>() {
                raise(
                    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!("an array is too short for {} elements", self.count),
                );
            }
            let first = self.array.cast::<u8>().add(start);
            std::slice::from_raw_parts(first.cast(), self.count)
        }
    }
}

/// A new array, all zeros until `fill` has seen its elements.
fn build<N: bytemuck::Pod>(
    element: pg_sys::Oid,
    count: usize,
    fill: impl FnOnce(&mut [N]),
) -> pg_sys::Datum {
    let size = HEAD + count * size_of::<N>();
    let datum = new_result(size, Fresh::Zeros);
    // SAFETY: `size` writable bytes, aligned for any number.
    unsafe {
        set_varsize_4b(datum.cast(), size as i32);
        let array = datum.cast::<pg_sys::ArrayType>();
        (*array).ndim = 1;
        (*array).elemtype = element;
        let [dimension, lower_bound] = [0, 1].map(|i| array.add(1).cast::<i32>().add(i));
        *dimension = count as i32;
        *lower_bound = 1;
        let elements = datum.cast::<u8>().add(HEAD).cast();
        fill(std::slice::from_raw_parts_mut(elements, count));
        pg_sys::Datum::from(datum)
    }
}

/// A new array of `real`.
pub fn new_reals(count: usize, fill: impl FnOnce(&mut [f32])) -> pg_sys::Datum {
    build(pg_sys::FLOAT4OID, count, fill)
}

/// A new state of an aggregate.
pub fn new_state(count: usize, fill: impl FnOnce(&mut [f64])) -> pg_sys::Datum {
    build(pg_sys::FLOAT8OID, count, fill)
}

/// What memory is asked for.
const ARRAY: &str = "the elements of an array";

/// A type of numbers that arrays hold.
pub trait Element {
    /// The elements of an array as `f32`.
    ///
    /// # Safety
    ///
    /// They are of this type and live for `'a`.
    unsafe fn components<'a>(array: PlainArray) -> Cow<'a, [f32]>;
}

/// Elements of type `integer`.
pub struct Integer;
/// Elements of type `real`.
pub struct Real;
/// Elements of type `double precision`.
pub struct Double;
/// Elements of type `numeric`.
pub struct Numeric;

impl Element for Integer {
    unsafe fn components<'a>(array: PlainArray) -> Cow<'a, [f32]> {
        // SAFETY: as the caller says.
        let elements = unsafe { array.elements::<i32>() };
        let components = collect(elements.iter().map(|&x| x as f32), ARRAY);
        Cow::Owned(allocator::unwrap(components))
    }
}

impl Element for Real {
    unsafe fn components<'a>(array: PlainArray) -> Cow<'a, [f32]> {
        // SAFETY: as the caller says.
        Cow::Borrowed(unsafe { array.elements::<f32>() })
    }
}

impl Element for Double {
    unsafe fn components<'a>(array: PlainArray) -> Cow<'a, [f32]> {
        // SAFETY: as the caller says.
        let elements = unsafe { array.elements::<f64>() };
        let components = collect(elements.iter().map(|&x| x as f32), ARRAY);
        Cow::Owned(allocator::unwrap(components))
    }
}

unsafe extern "C-unwind" {
    /// A `numeric` as a `real` (numeric.c).
    fn numeric_float4(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}

/// A call of a function with one argument (fmgr.h).
#[repr(C)]
struct Call {
    base: pg_sys::FunctionCallInfoBaseData,
    argument: pg_sys::NullableDatum,
}
const _: () =
    assert!(offset_of!(Call, argument) == offset_of!(pg_sys::FunctionCallInfoBaseData, args));

impl Element for Numeric {
    unsafe fn components<'a>(array: PlainArray) -> Cow<'a, [f32]> {
        let PlainArray { array, count } = array;
        let mut values = allocator::unwrap(filled(0.0, count, ARRAY));
        let (mut elements, mut found) = (std::ptr::null_mut(), 0);
        // SAFETY: the array is one of numerics. The server's functions take it apart, into
        // memory of the function call, and read the elements. One guard catches the ERRORs
        // of all: nothing in it has to be dropped.
        unsafe {
            pg_sys::deconstruct_array(
                array,
                pg_sys::NUMERICOID,
                -1,
                false,
                b'i' as _,
                &mut elements,
                std::ptr::null_mut(),
                &mut found,
            );
            if found as usize == count && count > 0 {
                let elements = std::slice::from_raw_parts(elements, count);
                let mut call = Call {
                    base: std::mem::zeroed(),
                    argument: std::mem::zeroed(),
                };
                call.base.nargs = 1;
                pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    for (value, &element) in values.iter_mut().zip(elements) {
                        call.argument.value = element;
                        let real = numeric_float4((&raw mut call).cast());
                        *value = f32::from_bits(real.value() as u32);
                    }
                });
            }
        }
        Cow::Owned(values)
    }
}

/// An array argument: numbers of a type.
pub struct Numbers<'a, E> {
    array: PlainArray,
    elements: PhantomData<&'a E>,
}

impl<'a, E: Element> Numbers<'a, E> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.array.count
    }

    /// As components.
    pub fn components(&self) -> Cow<'a, [f32]> {
        // SAFETY: the argument is an array of this type, which lives so long.
        unsafe { E::components(self.array) }
    }
}

impl<E: Element> Argument for Numbers<'_, E> {
    unsafe fn take(call: pg_sys::FunctionCallInfo, at: &mut usize) -> Self {
        // SAFETY: the caller says that there is an array of this type.
        match unsafe { PlainArray::new(next_datum(call, at)) } {
            Ok(array) => Numbers {
                array,
                elements: PhantomData,
            },
            Err(Unfit::Dimensions) => {
                raise(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, "array must be 1-D")
            }
            Err(Unfit::Nulls) => raise(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "array must not contain nulls",
            ),
        }
    }
}

/// The state of an aggregate: an array of at least one double, or something else that a
/// caller passed.
pub struct State<'a> {
    /// The doubles; none if it is something else.
    first: *mut f64,
    count: usize,
    /// Whether it may be changed in place.
    is_own: bool,
    array: *mut pg_sys::ArrayType,
    argument: PhantomData<&'a f64>,
}

impl State<'_> {
    /// The doubles.
    pub fn values(&self) -> Option<&[f64]> {
        // SAFETY: `take` found so many there.
        (self.count > 0).then(|| unsafe { std::slice::from_raw_parts(self.first, self.count) })
    }

    /// The state after a change: itself, or a changed copy where it belongs to somebody
    /// else.
    pub fn changed(self, change: impl FnOnce(&mut [f64])) -> pg_sys::Datum {
        if self.is_own {
            // SAFETY: `take` found so many there, and nobody else has them.
            change(unsafe { std::slice::from_raw_parts_mut(self.first, self.count) });
            return pg_sys::Datum::from(self.array);
        }
        let values = self.values().unwrap_or_default();
        new_state(values.len(), |copy| {
            copy.copy_from_slice(values);
            change(copy);
        })
    }
}

impl Argument for State<'_> {
    unsafe fn take(call: pg_sys::FunctionCallInfo, at: &mut usize) -> Self {
        let mut state = State {
            first: std::ptr::null_mut(),
            count: 0,
            is_own: false,
            array: std::ptr::null_mut(),
            argument: PhantomData,
        };
        // SAFETY: the caller says that there is an array of doubles. A copy that was made
        // of a toasted one is nobody else's either.
        unsafe {
            if let Ok(array) = PlainArray::new(next_datum(call, at)) {
                let values = array.elements::<f64>();
                state.first = values.as_ptr().cast_mut();
                state.count = values.len();
                state.array = array.array;
                state.is_own = is_in_aggregate(call);
            }
        }
        state
    }
}
