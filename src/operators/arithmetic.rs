//! Component-wise arithmetic, concatenation, parts, signs.

#![allow(unsafe_code)]

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;

use crate::errors::raise;
use crate::types::vector::{check_dimensions, check_same, sql_type};
use crate::types::{OwnedVector, Vector};

/// Applies `f` to the pairs of components. Finite components in, so a result
/// that is not finite is an overflow; one that is zero although neither
/// argument is, an underflow of a product.
fn zip(a: Vector<'_>, b: Vector<'_>, f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    check_same(a, b);
    let result: Vec<f32> = a
        .values()
        .iter()
        .zip(b.values())
        .map(|(&x, &y)| f(x, y))
        .collect();
    if result.iter().any(|x| x.is_infinite()) {
        raise(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            "value out of range: overflow",
        );
    }
    result
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_add(a: Vector<'_>, b: Vector<'_>) -> OwnedVector {
    OwnedVector::checked(zip(a, b, |x, y| x + y))
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_sub(a: Vector<'_>, b: Vector<'_>) -> OwnedVector {
    OwnedVector::checked(zip(a, b, |x, y| x - y))
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_mul(a: Vector<'_>, b: Vector<'_>) -> OwnedVector {
    let product = zip(a, b, |x, y| x * y);
    let factors = a.values().iter().zip(b.values());
    if factors
        .zip(&product)
        .any(|((&x, &y), &p)| p == 0.0 && x != 0.0 && y != 0.0)
    {
        raise(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            "value out of range: underflow",
        );
    }
    OwnedVector::checked(product)
}

/// `||`: the components of `a`, then those of `b`.
#[pg_extern(immutable, strict, parallel_safe)]
fn vector_concat(a: Vector<'_>, b: Vector<'_>) -> OwnedVector {
    OwnedVector::checked([a.values(), b.values()].concat())
}

/// The components from `start` (counted from 1), at most `count` of them; what
/// lies outside the vector is left out, as with `substring`.
#[pg_extern(immutable, strict, parallel_safe)]
fn subvector(vector: Vector<'_>, start: i32, count: i32) -> OwnedVector {
    let values = vector.values();
    let dimensions = values.len() as i64;
    // In 64 bits, start + count cannot overflow.
    let first = i64::from(start).max(1);
    let end = (i64::from(start) + i64::from(count)).min(dimensions + 1);
    if count < 1 || first >= end {
        check_dimensions(0);
    }
    OwnedVector::checked(values[first as usize - 1..end as usize - 1].to_vec())
}

/// The fixed part of a bit string (VarBit of PostgreSQL's utils/varbit.h).
#[repr(C)]
struct BitHeader {
    vl_len: i32,
    bit_len: i32,
}

/// A value of type `bit(n)`, from booleans.
struct Bits(Vec<bool>);

sql_type!([] Bits, "bit");

// SAFETY: the datum is laid out as PostgreSQL has it: header, then the bits,
// highest first.
unsafe impl BoxRet for Bits {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let bytes: Vec<u8> = self
            .0
            .chunks(8)
            .map(|bits| {
                let set = bits.iter().enumerate().filter(|(_, bit)| **bit);
                set.map(|(i, _)| 0x80 >> i).sum()
            })
            .collect();
        let header = size_of::<BitHeader>();
        // SAFETY: palloc returns `header + bytes.len()` writable bytes.
        unsafe {
            let datum = pg_sys::palloc(header + bytes.len());
            pgrx::varlena::set_varsize_4b(datum.cast(), (header + bytes.len()) as i32);
            (*datum.cast::<BitHeader>()).bit_len = self.0.len() as i32;
            let bits = datum.cast::<u8>().add(header);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), bits, bytes.len());
            fcinfo.return_raw_datum(pg_sys::Datum::from(datum))
        }
    }
}

/// One bit a component: whether it is above zero.
#[pg_extern(immutable, strict, parallel_safe)]
fn binary_quantize(vector: Vector<'_>) -> Bits {
    Bits(vector.values().iter().map(|&x| x > 0.0).collect())
}
