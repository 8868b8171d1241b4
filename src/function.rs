//! Functions of the server's version-1 interface (fmgr.h). `sql/functions.sql` declares
//! them.
//!
//! What `#[pg_extern]` makes of a function costs some 40 ns a call and copies what is
//! returned, a good part of what most functions of a vector cost. [`functions`] reads
//! arguments where they are, and functions write their results where the server has them.

#![allow(unsafe_code)]

use core::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgrx::prelude::*;
use pgrx::varlena::{varatt_is_4b_u, varsize_4b};

use crate::types::dense::{Component, Dense};
use crate::types::{Bits, Sparse};

/// What a function takes.
pub trait Argument: Sized {
    /// Takes what is at a place among the arguments of a call, and moves on to the next
    /// place.
    ///
    /// # Safety
    ///
    /// The call has a non-null argument of the type there. It lives as long as what is
    /// returned, and so does the current memory context.
    unsafe fn take(call: pg_sys::FunctionCallInfo, at: &mut usize) -> Self;

    /// The same, if that needs nothing of the server and raises no ERROR.
    ///
    /// # Safety
    ///
    /// As for [`Argument::take`].
    unsafe fn peek(_call: pg_sys::FunctionCallInfo, _at: &mut usize) -> Option<Self> {
        None
    }
}

/// The next datum of a call.
///
/// # Safety
///
/// The call has so many arguments.
#[inline(always)]
pub unsafe fn next_datum(call: pg_sys::FunctionCallInfo, at: &mut usize) -> pg_sys::Datum {
    // SAFETY: as the caller says.
    let datum = unsafe { (*(*call).args.as_ptr().add(*at)).value };
    *at += 1;
    datum
}

macro_rules! argument {
    ([$($generics:tt)*] $type:ty, |$datum:ident| $value:expr, $peeked:expr) => {
        impl<$($generics)*> Argument for $type {
            #[inline(always)]
            unsafe fn take(call: pg_sys::FunctionCallInfo, at: &mut usize) -> Self {
                // SAFETY: the caller says that the call has such an argument.
                unsafe {
                    let $datum = next_datum(call, at);
                    $value
                }
            }
            #[inline(always)]
            unsafe fn peek(call: pg_sys::FunctionCallInfo, at: &mut usize) -> Option<Self> {
                // SAFETY: as above.
                unsafe {
                    let $datum = next_datum(call, at);
                    $peeked
                }
            }
        }
    };
}
argument!([T: Component] Dense<'_, T>, |datum| Dense::from_datum(datum), Dense::peek(datum));
argument!([] Sparse<'_>, |datum| Sparse::from_datum(datum), Sparse::peek(datum));
argument!([] Bits<'_>, |datum| Bits::from_datum(datum), {
    let _ = datum;
    None
});
argument!([] i32, |datum| datum.value() as i32, Some(datum.value() as i32));
argument!(['a] &'a CStr, |datum| CStr::from_ptr(datum.cast_mut_ptr()), {
    let _ = datum;
    None
});

/// An argument that comes from a table, row by row: the processor is asked for the row that
/// comes next while the function works on this one.
pub struct Scanned<V>(pub V);

impl<V: Argument> Argument for Scanned<V> {
    #[inline(always)]
    unsafe fn take(call: pg_sys::FunctionCallInfo, at: &mut usize) -> Self {
        // SAFETY: passed on; the datum is a varlena, as all vectors are.
        unsafe {
            let datum = next_datum(call, at);
            *at -= 1;
            prefetch_next(datum);
            Scanned(V::take(call, at))
        }
    }
    #[inline(always)]
    unsafe fn peek(call: pg_sys::FunctionCallInfo, at: &mut usize) -> Option<Self> {
        // SAFETY: as in `take`.
        unsafe {
            let datum = next_datum(call, at);
            *at -= 1;
            prefetch_next(datum);
            V::peek(call, at).map(Scanned)
        }
    }
}

/// Asks for the row that a sequential scan comes to next. Rows fill a page from its end
/// on, so it lies before this one, and is likely as long. Rows that an index found are
/// far apart, and ask for nothing; nor do short rows, of which the processor sees by itself
/// that they follow each other.
///
/// # Safety
///
/// `datum` is a varlena.
#[inline(always)]
unsafe fn prefetch_next(datum: pg_sys::Datum) {
    /// Bytes that take as long to ask for as to come by themselves.
    const SHORT: usize = 512;
    // SAFETY: the header of a varlena tells its kind and its size. Any other kind is not in the
    // row, or is short.
    unsafe {
        let varlena = datum.cast_mut_ptr();
        if varatt_is_4b_u(varlena) && varsize_4b(varlena) > SHORT {
            prefetch_before(datum, varsize_4b(varlena));
        }
    }
}

/// Asks for the row before one of so many bytes, if that is near to the last one.
fn prefetch_before(datum: pg_sys::Datum, len: usize) {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    const NEAR: usize = 4 * pg_sys::BLCKSZ as usize;
    // The header of a row, and a few columns more.
    const HEAD: usize = 64;
    let last = LAST.load(Ordering::Relaxed);
    LAST.store(datum.value(), Ordering::Relaxed);
    // A constant is always in the same place.
    if (1..NEAR).contains(&datum.value().abs_diff(last)) {
        let row = datum.cast_mut_ptr::<u8>();
        let len = (len + HEAD).min(pg_sys::BLCKSZ as usize);
        ann::simd::prefetch(row.wrapping_sub(len), len);
    }
}

/// Whether a call is one of an aggregate's transition or combine function (nodeAgg.c): then
/// the first argument is the state, which belongs to the aggregate, and may be changed in
/// place. That is not so in a window, where states are also results.
///
/// # Safety
///
/// The call is under way.
pub unsafe fn is_in_aggregate(call: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: the context of a call is a node, if there is any.
    unsafe {
        let context = (*call).context;
        !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_AggState
    }
}

/// What a function returns.
pub trait Returned {
    /// The datum of a call's result.
    ///
    /// # Safety
    ///
    /// The call is under way.
    unsafe fn returned(self, call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}

impl Returned for pg_sys::Datum {
    #[inline]
    unsafe fn returned(self, _call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
        self
    }
}

impl Returned for Option<pg_sys::Datum> {
    #[inline]
    unsafe fn returned(self, call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
        // SAFETY: as the caller says.
        unsafe { (*call).isnull = self.is_none() };
        self.unwrap_or(pg_sys::Datum::null())
    }
}

macro_rules! returned {
    ($($type:ty, |$value:ident| $datum:expr;)*) => {$(
        impl Returned for $type {
            #[inline]
            unsafe fn returned(self, _call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
                let $value = self;
                pg_sys::Datum::from($datum)
            }
        }
    )*};
}
returned! {
    f64, |value| value.to_bits();
    i32, |value| value;
    bool, |value| usize::from(value);
}

/// Functions that the server can call under the names `insitu_…`, each with its information
/// record. The server calls them with arguments that are not null.
macro_rules! functions {
    ($($(#[$attribute:meta])*
       fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty $body:block)*) => {$(
        $(#[$attribute])*
        fn $name($($argument: $type),*) -> $result $body

        #[allow(unsafe_code)]
        const _: () = {
            #[unsafe(export_name = concat!("insitu_", stringify!($name)))]
            #[pgrx::pg_guard]
            unsafe extern "C-unwind" fn call(
                call: pgrx::pg_sys::FunctionCallInfo,
            ) -> pgrx::pg_sys::Datum {
                // SAFETY: the function is strict, and declared with these types.
                unsafe {
                    let mut at = 0;
                    $(let $argument = <$type as $crate::function::Argument>::take(call, &mut at);)*
                    let _ = at;
                    $crate::function::Returned::returned($name($($argument),*), call)
                }
            }

            #[unsafe(export_name = concat!("pg_finfo_insitu_", stringify!($name)))]
            extern "C" fn information() -> &'static pgrx::pg_sys::Pg_finfo_record {
                &pgrx::pg_sys::Pg_finfo_record { api_version: 1 }
            }
        };
    )*};
}
pub(crate) use functions;

/// The same for functions that take less time than what catches their ERRORs. What follows
/// `quickly` gives the result where that can be told at once, without anything that could
/// panic or raise an ERROR; it sees only arguments that were [peeked](Argument::peek) at.
macro_rules! quick_functions {
    ($($(#[$attribute:meta])*
       fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty $body:block
       quickly $quick:block)*) => {$(
        $(#[$attribute])*
        fn $name($($argument: $type),*) -> $result $body

        #[allow(unsafe_code)]
        const _: () = {
            #[inline(always)]
            unsafe fn quick(call: pgrx::pg_sys::FunctionCallInfo) -> Option<$result> {
                let mut at = 0;
                // SAFETY: the function is strict, and declared with these types.
                let ($($argument,)*) = unsafe {
                    ($(<$type as $crate::function::Argument>::peek(call, &mut at)?,)*)
                };
                let _ = at;
                $quick
            }

            #[pgrx::pg_guard]
            unsafe extern "C-unwind" fn guarded(
                call: pgrx::pg_sys::FunctionCallInfo,
            ) -> pgrx::pg_sys::Datum {
                // SAFETY: as above.
                unsafe {
                    let mut at = 0;
                    $(let $argument = <$type as $crate::function::Argument>::take(call, &mut at);)*
                    let _ = at;
                    $crate::function::Returned::returned($name($($argument),*), call)
                }
            }

            #[unsafe(export_name = concat!("insitu_", stringify!($name)))]
            unsafe extern "C-unwind" fn call(
                call: pgrx::pg_sys::FunctionCallInfo,
            ) -> pgrx::pg_sys::Datum {
                // SAFETY: as above; nothing in `quick` panics.
                unsafe {
                    match quick(call) {
                        Some(result) => $crate::function::Returned::returned(result, call),
                        None => guarded(call),
                    }
                }
            }

            #[unsafe(export_name = concat!("pg_finfo_insitu_", stringify!($name)))]
            extern "C" fn information() -> &'static pgrx::pg_sys::Pg_finfo_record {
                &pgrx::pg_sys::Pg_finfo_record { api_version: 1 }
            }
        };
    )*};
}
pub(crate) use quick_functions;
