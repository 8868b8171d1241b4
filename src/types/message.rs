//! What input, output, receive and send functions exchange with the server.

#![allow(unsafe_code)]

use core::ffi::{c_int, c_void};
use std::marker::PhantomData;

use pgrx::prelude::*;
use pgrx::varlena::set_varsize_4b;

use crate::function::{Argument, next_datum};

/// A message that is being read.
pub struct Message<'a>(pg_sys::StringInfo, PhantomData<&'a u8>);

impl<'a> Message<'a> {
    /// The next bytes, or an ERROR if there are fewer. At once, because each call of the
    /// server has a price.
    pub fn bytes(&self, count: usize) -> &'a [u8] {
        // SAFETY: the argument is a StringInfo; the server checks that it has so many.
        unsafe {
            let first = pg_sys::pq_getmsgbytes(self.0, count as i32);
            std::slice::from_raw_parts(first.cast(), count)
        }
    }

    /// The next few bytes.
    pub fn array<const N: usize>(&self) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N));
        array
    }
}

impl Argument for Message<'_> {
    unsafe fn take(call: pg_sys::FunctionCallInfo, at: &mut usize) -> Self {
        // SAFETY: receive functions are called with a StringInfo.
        Message(unsafe { next_datum(call, at) }.cast_mut_ptr(), PhantomData)
    }
}

/// What a new result holds before it is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fresh {
    Zeros,
    Anything,
}

/// So many bytes of the current memory context, aligned for any number, for the result of a
/// function; `None` if there is no memory. It neither panics nor raises an ERROR, so that
/// nothing need be made ready to catch one, which would cost more than the memory.
#[inline]
pub fn try_new_result(size: usize, fresh: Fresh) -> Option<*mut c_void> {
    unsafe extern "C" {
        fn palloc_extended(size: usize, flags: c_int) -> *mut c_void;
    }
    /// MaxAllocSize (memutils.h).
    const MOST: usize = 0x3fff_ffff;
    if size > MOST {
        return None;
    }
    let zero = match fresh {
        Fresh::Zeros => pg_sys::MCXT_ALLOC_ZERO,
        Fresh::Anything => 0,
    };
    // SAFETY: on the session's main thread, as all functions of SQL. The server raises an
    // ERROR for a size above the limit, which was looked at, and, with this flag, no other.
    let memory = unsafe { palloc_extended(size, (pg_sys::MCXT_ALLOC_NO_OOM | zero) as c_int) };
    (!memory.is_null()).then_some(memory)
}

/// The same, or the server's ERROR.
#[inline]
pub fn new_result(size: usize, fresh: Fresh) -> *mut c_void {
    match try_new_result(size, fresh) {
        Some(memory) => memory,
        // SAFETY: it raises the ERROR, or returns zeros.
        None => unsafe { pg_sys::palloc0(size) },
    }
}

/// A new `bytea` in the current memory context, all zeros until `fill` has seen its bytes.
pub fn new_bytea(count: usize, fill: impl FnOnce(&mut [u8])) -> pg_sys::Datum {
    let size = pg_sys::VARHDRSZ + count;
    let datum = new_result(size, Fresh::Zeros);
    // SAFETY: `size` writable bytes.
    unsafe {
        set_varsize_4b(datum.cast(), size as i32);
        let first = datum.cast::<u8>().add(pg_sys::VARHDRSZ);
        fill(std::slice::from_raw_parts_mut(first, count));
        pg_sys::Datum::from(datum)
    }
}

/// A `cstring` that is being written, in the current memory context.
pub struct Text {
    first: *mut u8,
    len: usize,
    room: usize,
}

impl Text {
    /// An empty text, with room for so many bytes.
    pub fn new(room: usize) -> Self {
        Text {
            // One more, for the zero that ends it.
            first: new_result(room + 1, Fresh::Anything).cast(),
            len: 0,
            room,
        }
    }

    /// Appends a byte.
    #[inline]
    pub fn push(&mut self, byte: u8) {
        assert!(self.len < self.room, "a text has no more room");
        // SAFETY: there is room.
        unsafe { *self.first.add(self.len) = byte };
        self.len += 1;
    }

    /// Appends bytes.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        // SAFETY: it writes as many as there is room asked for.
        unsafe {
            self.write(bytes.len(), |out| {
                out.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                bytes.len()
            });
        }
    }

    /// Appends what `write` writes to an address with room for so many bytes; it tells how
    /// many it did.
    ///
    /// # Safety
    ///
    /// It writes no more, and tells no more than it did.
    #[inline]
    pub unsafe fn write(&mut self, most: usize, write: impl FnOnce(*mut u8) -> usize) {
        assert!(self.room - self.len >= most, "a text has no more room");
        // SAFETY: there is room.
        self.len += write(unsafe { self.first.add(self.len) });
    }

    /// The finished text.
    pub fn finish(self) -> pg_sys::Datum {
        // SAFETY: there is room for one more byte than the text has.
        unsafe { *self.first.add(self.len) = 0 };
        pg_sys::Datum::from(self.first)
    }
}
