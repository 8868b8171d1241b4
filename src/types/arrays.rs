//! Arrays of numbers as arguments, for the casts to vector.

#![allow(unsafe_code)]

use std::marker::PhantomData;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;

use super::dense::sql_type;
use crate::errors::raise;

/// A type of numbers that arrays hold.
pub trait Element {
    /// Its type in SQL.
    const OID: pg_sys::Oid;
    /// Bytes, whether passed by value, and alignment, as in `pg_type`.
    const STORAGE: (i32, bool, u8);
    /// Converts one to a component.
    ///
    /// # Safety
    ///
    /// `datum` is a datum of this type.
    unsafe fn component(datum: pg_sys::Datum) -> f32;
}

macro_rules! element {
    ($type:ident, $oid:ident, $storage:expr, |$datum:ident| $component:expr) => {
        #[doc = concat!("Elements of type ", stringify!($type), ".")]
        pub struct $type;
        impl Element for $type {
            const OID: pg_sys::Oid = pg_sys::$oid;
            const STORAGE: (i32, bool, u8) = $storage;
            unsafe fn component($datum: pg_sys::Datum) -> f32 {
                $component
            }
        }
    };
}

element!(
    Integer,
    INT4OID,
    (4, true, b'i'),
    |datum| datum.value() as i32 as f32
);
element!(Real, FLOAT4OID, (4, true, b'i'), |datum| f32::from_bits(
    datum.value() as u32
));
element!(Double, FLOAT8OID, (8, true, b'd'), |datum| {
    f64::from_bits(datum.value() as u64) as f32
});
element!(Numeric, NUMERICOID, (-1, false, b'i'), |datum| {
    // SAFETY: the caller gives a numeric; the function returns a float4.
    unsafe { pgrx::direct_function_call::<f32>(pg_sys::numeric_float4, &[Some(datum)]) }
        .unwrap_or(f32::NAN)
});

/// The elements of an array that is not what a function takes.
enum Unfit {
    Dimensions,
    Nulls,
}

/// The elements of an array argument of at most one dimension and without
/// nulls.
///
/// # Safety
///
/// The argument is a non-null array of `E`.
unsafe fn elements<E: Element>(arg: Arg<'_, '_>) -> Result<&'static [pg_sys::Datum], Unfit> {
    // SAFETY: see above; the server's own function takes the array apart, into
    // memory of the function call.
    unsafe {
        let Some(datum) = arg.unbox_arg_using_from_datum::<pg_sys::Datum>() else {
            return Err(Unfit::Nulls);
        };
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        if (*array).ndim > 1 {
            return Err(Unfit::Dimensions);
        }
        if pg_sys::array_contains_nulls(array) {
            return Err(Unfit::Nulls);
        }
        let (mut elements, mut count) = (std::ptr::null_mut(), 0);
        let (len, by_value, align) = E::STORAGE;
        pg_sys::deconstruct_array(
            array,
            E::OID,
            len,
            by_value,
            align as _,
            &mut elements,
            std::ptr::null_mut(),
            &mut count,
        );
        Ok(match count {
            0 => &[],
            count => std::slice::from_raw_parts(elements, count as usize),
        })
    }
}

/// An array argument, as the components it stands for.
pub struct Components<E>(Vec<f32>, PhantomData<E>);

impl<E> Components<E> {
    /// The components.
    pub fn into_values(self) -> Vec<f32> {
        self.0
    }
}

// SAFETY: the datum is an array of `E`: the cast functions are strict and
// declared so.
unsafe impl<'fcx, E: Element> ArgAbi<'fcx> for Components<E> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: see above.
        match unsafe { elements::<E>(arg) } {
            Ok(elements) => {
                // SAFETY: the elements are of `E`.
                let component = |&element: &pg_sys::Datum| unsafe { E::component(element) };
                Components(elements.iter().map(component).collect(), PhantomData)
            }
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

/// The state of an aggregate: an array of at least one double, or `None` if a
/// caller passed another array.
pub struct State(pub Option<Vec<f64>>);

// SAFETY: the datum is an array of doubles: the aggregate's functions are
// strict and declared so.
unsafe impl<'fcx> ArgAbi<'fcx> for State {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: see above.
        let elements = unsafe { elements::<Double>(arg) };
        let double = |element: &pg_sys::Datum| f64::from_bits(element.value() as u64);
        State(match elements {
            Ok(elements) if !elements.is_empty() => Some(elements.iter().map(double).collect()),
            _ => None,
        })
    }
}

sql_type!([] Components<Integer>, "integer[]");
sql_type!([] Components<Real>, "real[]");
sql_type!([] Components<Double>, "double precision[]");
sql_type!([] Components<Numeric>, "numeric[]");
sql_type!([] State, "double precision[]");
