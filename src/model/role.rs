//! The type `insitu.role`, in which the tables of models have their roles.
//!
//! Its text is a role's name, and never its number: the server's own `regrole`
//! writes the number of a role that was dropped, and reads it as whatever role has
//! that number in the cluster where a dump is restored. It also reads names that
//! nobody has, as nobody, where an error would end a restore of all models.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

use pgrx::prelude::*;

use crate::errors::{quoted_bytes, warning};

/// How PUBLIC is written.
const PUBLIC: &[u8] = b"-";

/// A role as the server knows it. PUBLIC is `InvalidOid`; a name that was unknown
/// when it was read is nobody's.
pub fn oid(stored: i64) -> Option<pg_sys::Oid> {
    u32::try_from(stored).ok().map(pg_sys::Oid::from)
}

/// A role as it is stored.
pub fn stored(role: pg_sys::Oid) -> i64 {
    i64::from(role.to_u32())
}

/// The number of a role, or `InvalidOid` if there is none of this name.
pub fn by_name(name: &CStr) -> pg_sys::Oid {
    // SAFETY: reads the catalog.
    unsafe { pg_sys::get_role_oid(name.as_ptr(), true) }
}

/// A name without the quotes that [`role_out`] puts around it.
fn unquoted(text: &[u8]) -> Vec<u8> {
    let Some(inner) = text
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""))
    else {
        return text.to_vec();
    };
    let mut name = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        name.push(byte);
        if byte == b'"' {
            bytes.next();
        }
    }
    name
}

/// Numbers names that nobody has; two of them are two (FNV-1a, of 62 bits).
fn unknown(name: &[u8]) -> i64 {
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    -1 - (hash >> 2) as i64
}

/// Reads a role.
#[pg_extern(sql = false)]
fn role_in(text: &CStr) -> i64 {
    let text = text.to_bytes();
    if text == PUBLIC {
        return stored(pg_sys::InvalidOid);
    }
    if text.starts_with(b"(") {
        return unknown(text);
    }
    let name = CString::new(unquoted(text)).unwrap_or_default();
    match by_name(&name) {
        pg_sys::InvalidOid => {
            let lost =
                "A grant of a model to it is left out; a model that it owns belongs to superusers.";
            warning(
                format!("role \"{}\" does not exist", quoted_bytes(name.to_bytes())),
                Some(lost.to_owned()),
                None,
            );
            unknown(name.to_bytes())
        }
        role => stored(role),
    }
}

/// Writes a role. One that is gone, or never was, is written in parentheses.
#[pg_extern(sql = false)]
fn role_out(role: i64) -> CString {
    let Some(role) = oid(role) else {
        return c"(unknown)".to_owned();
    };
    if role == pg_sys::InvalidOid {
        return CString::new(PUBLIC).unwrap_or_default();
    }
    // SAFETY: reads the catalog; the name ends with a zero.
    let name = unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            return CString::new(format!("({role})")).unwrap_or_default();
        }
        CStr::from_ptr(name).to_bytes()
    };
    let is_plain = name.first().is_some_and(|byte| byte.is_ascii_alphabetic())
        && name
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_plain {
        return CString::new(name).unwrap_or_default();
    }
    let mut quoted = vec![b'"'];
    for &byte in name {
        if byte == b'"' {
            quoted.push(b'"');
        }
        quoted.push(byte);
    }
    quoted.push(b'"');
    CString::new(quoted).unwrap_or_default()
}
