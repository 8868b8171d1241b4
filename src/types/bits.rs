//! Bit strings: PostgreSQL's own types `bit` and `bit varying` (VarBit of
//! utils/varbit.h): the varlena header, the number of bits, then the bits, the
//! first one highest.

#![allow(unsafe_code)]

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::varlena::{
    set_varsize_4b, varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u, vardata_any, varsize_any_exhdr,
};

use super::dense::sql_type;
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

// SAFETY: an argument of the type is a varlena, read by `from_datum`.
unsafe impl<'fcx> ArgAbi<'fcx> for Bits<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the functions are strict.
        unsafe {
            match arg.unbox_arg_using_from_datum::<pg_sys::Datum>() {
                Some(datum) => Bits::from_datum(datum),
                None => raise(
                    PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                    "a bit string argument is null",
                ),
            }
        }
    }
}

/// A bit string to be returned.
pub struct OwnedBits {
    bytes: Vec<u8>,
    len: usize,
}

impl FromIterator<bool> for OwnedBits {
    fn from_iter<I: IntoIterator<Item = bool>>(bits: I) -> Self {
        let mut bytes = Vec::new();
        let mut len = 0;
        for bit in bits {
            if len % 8 == 0 {
                bytes.push(0);
            }
            bytes[len / 8] |= u8::from(bit) << (7 - len % 8);
            len += 1;
        }
        OwnedBits { bytes, len }
    }
}

// SAFETY: the datum is laid out as PostgreSQL has it.
unsafe impl BoxRet for OwnedBits {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let size = HEADER_LEN + self.bytes.len();
        // SAFETY: palloc returns `size` writable bytes.
        unsafe {
            let datum = pg_sys::palloc(size);
            set_varsize_4b(datum.cast(), size as i32);
            (*datum.cast::<Header>()).bit_len = self.len as i32;
            let bits = datum.cast::<u8>().add(HEADER_LEN);
            std::ptr::copy_nonoverlapping(self.bytes.as_ptr(), bits, self.bytes.len());
            fcinfo.return_raw_datum(pg_sys::Datum::from(datum))
        }
    }
}

sql_type!(['a] Bits<'a>, "bit");
sql_type!([] OwnedBits, "bit");
