//! Bit strings: PostgreSQL's own types `bit` and `bit varying` (VarBit of
//! utils/varbit.h): the varlena header, the number of bits, then the bits, the
//! first one highest.

#![allow(unsafe_code)]

use pgrx::prelude::*;
use pgrx::varlena::{
    set_varsize_4b, varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u, vardata_any, varsize_any_exhdr,
};

use super::message::{Fresh, new_result};
use crate::errors::raise;

/// The fixed part of a stored bit string.
#[repr(C)]
struct Header {
    vl_len: i32,
    bit_len: i32,
}

const HEADER_LEN: usize = size_of::<Header>();
/// Bytes of the number of bits.
const LEN_LEN: usize = size_of::<i32>();

/// A bit string argument.
#[derive(Clone, Copy)]
pub struct Bits<'a> {
    /// The bits; those of the last byte that are not in use are zero.
    pub bytes: &'a [u8],
    /// How many there are.
    pub len: usize,
}

impl Bits<'_> {
    /// Reads a datum of type `bit` or `bit varying`; a toasted one is copied
    /// into the current memory context.
    ///
    /// # Safety
    ///
    /// `datum` is a non-null datum of the type that lives as long as what is
    /// returned, and so does the current memory context.
    #[inline]
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        // SAFETY: what is not compressed and not elsewhere is read in place, at
        // any address; detoasting makes it so. Its size is checked against the
        // number of bits.
        unsafe {
            let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
            let plain =
                if varatt_is_4b_u(varlena) || varatt_is_1b(varlena) && !varatt_is_1b_e(varlena) {
                    varlena
                } else {
                    pg_sys::pg_detoast_datum(varlena)
                };
            let size = varsize_any_exhdr(plain);
            let data = vardata_any(plain).cast::<u8>();
            let len = match size {
                0..LEN_LEN => -1,
                _ => data.cast::<i32>().read_unaligned(),
            };
            let expected = usize::try_from(len).map(|len| LEN_LEN + len.div_ceil(8));
            if expected != Ok(size) {
                raise(
                    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!("a bit string of {size} bytes claims to have {len} bits"),
                );
            }
            Bits {
                bytes: std::slice::from_raw_parts(data.add(LEN_LEN), size - LEN_LEN),
                len: len as usize,
            }
        }
    }
}

/// A new bit string in the current memory context, all zeros until `fill` has seen its bytes.
/// Those bits of the last one that are not in use stay zero.
pub fn build(len: usize, fill: impl FnOnce(&mut [u8])) -> pg_sys::Datum {
    let count = len.div_ceil(8);
    let size = HEADER_LEN + count;
    let datum = new_result(size, Fresh::Zeros);
    // SAFETY: `size` writable bytes, aligned for the header.
    unsafe {
        set_varsize_4b(datum.cast(), size as i32);
        (*datum.cast::<Header>()).bit_len = len as i32;
        let first = datum.cast::<u8>().add(HEADER_LEN);
        fill(std::slice::from_raw_parts_mut(first, count));
        pg_sys::Datum::from(datum)
    }
}
