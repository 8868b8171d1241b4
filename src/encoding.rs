//! The one place where text enters Rust and leaves it.
//!
//! What enters is bytes in the encoding of the database; strings of Rust are
//! UTF-8. In a database of UTF-8 nothing is copied, only checked. In one of
//! SQL_ASCII, where the server takes any bytes for text, text has to be UTF-8 to
//! mean something to a model. All others are converted by the server's own
//! functions. What cannot be converted is an ERROR, of the code that the server
//! has for it (22021, 22P05), but for messages, which do with a question mark.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::CString;
use std::ops::Deref;

use memory::vec::{collect, copied};
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::DatumWithOid;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::varlena::{vardata_any, varsize_any_exhdr};

use crate::allocator;
use crate::errors::raise;
use crate::raised::unchanged;
use crate::types::dense::sql_type;

/// What memory is asked for.
const TEXT: &str = "a text";

const UTF8: i32 = pg_sys::pg_enc::PG_UTF8 as i32;

/// The encoding of the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// That of Rust.
    Utf8,
    /// SQL_ASCII: none. A character is a byte.
    None,
    /// Another one, by the server's number for it.
    Other(i32),
}

impl Encoding {
    /// That of this session's database.
    pub fn of_database() -> Self {
        // SAFETY: reads the state of the session.
        match unsafe { pg_sys::GetDatabaseEncoding() } {
            UTF8 => Encoding::Utf8,
            number if number == pg_sys::pg_enc::PG_SQL_ASCII as i32 => Encoding::None,
            number => Encoding::Other(number),
        }
    }

    /// The number of the encoding that bytes have to be converted from or to. All that
    /// a database can have are ASCII where they look like it.
    fn to_convert(bytes: &[u8]) -> Option<i32> {
        match Encoding::of_database() {
            Encoding::Other(number) if !bytes.is_ascii() => Some(number),
            _ => None,
        }
    }
}

/// Text of the server as UTF-8; a converted one is in the current memory context.
///
/// # Safety
///
/// The current memory context lives as long as the bytes do.
pub unsafe fn from_server(bytes: &[u8]) -> &str {
    let mut utf8 = bytes;
    if Encoding::to_convert(bytes).is_some() {
        // SAFETY: a varlena is shorter than an int tells. The server returns what it was
        // given, or a string with a closing zero.
        utf8 = unsafe {
            let converted = unchanged(|| {
                pg_sys::pg_server_to_any(bytes.as_ptr().cast(), bytes.len() as i32, UTF8)
            });
            match converted.cast_const().cast() == bytes.as_ptr() {
                true => bytes,
                false => core::ffi::CStr::from_ptr(converted).to_bytes(),
            }
        };
    }
    match std::str::from_utf8(utf8) {
        Ok(text) => text,
        Err(error) => {
            let rest = &utf8[error.valid_up_to()..];
            let rest: Vec<String> = rest.iter().take(4).map(|b| format!("0x{b:02x}")).collect();
            raise(
                PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
                format!(
                    "invalid byte sequence for encoding \"UTF8\": {}",
                    rest[..error.error_len().unwrap_or(rest.len()).min(rest.len())].join(" ")
                ),
            )
        }
    }
}

/// Text in the encoding of the database, or an ERROR if that has not all of its
/// characters.
fn to_server(text: &str) -> Cow<'_, [u8]> {
    if Encoding::to_convert(text.as_bytes()).is_none() {
        return Cow::Borrowed(text.as_bytes());
    }
    let Ok(len) = i32::try_from(text.len()) else {
        raise(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a text of {} bytes is too long to be converted", text.len()),
        )
    };
    // SAFETY: the server returns what it was given, or a string with a closing zero in
    // memory of its own.
    unsafe {
        let converted = unchanged(|| pg_sys::pg_any_to_server(text.as_ptr().cast(), len, UTF8));
        if converted.cast_const().cast() == text.as_ptr() {
            return Cow::Borrowed(text.as_bytes());
        }
        let bytes = copied(core::ffi::CStr::from_ptr(converted).to_bytes(), TEXT);
        pg_sys::pfree(converted.cast());
        Cow::Owned(allocator::unwrap(bytes))
    }
}

/// Converts what can be converted; a question mark stands for each other character.
fn convert_leniently(bytes: &[u8], from: i32, to: i32) -> Vec<u8> {
    // SAFETY: the conversion reads `len` bytes and writes at most four for each,
    // and a zero. Outside of a transaction nothing can be looked up.
    unsafe {
        let procedure = match pg_sys::IsTransactionState() {
            true => pg_sys::FindDefaultConversionProc(from, to),
            false => pg_sys::InvalidOid,
        };
        let mut converted = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            let is_ascii = first.is_ascii();
            let run = rest.iter().take_while(|b| b.is_ascii() == is_ascii).count();
            if is_ascii {
                converted.extend_from_slice(&rest[..run]);
                rest = &rest[run..];
                continue;
            }
            let mut done = 0;
            if procedure != pg_sys::InvalidOid {
                let mut room = vec![0_u8; 4 * run + 1];
                let taken = pg_sys::pg_do_encoding_conversion_buf(
                    procedure,
                    from,
                    to,
                    rest.as_ptr().cast_mut(),
                    run as i32,
                    room.as_mut_ptr(),
                    room.len() as i32,
                    true,
                );
                done = (taken.max(0) as usize).min(run);
                let end = room.iter().position(|&byte| byte == 0);
                converted.extend_from_slice(&room[..end.unwrap_or(0)]);
            }
            if done < run {
                let len = pg_sys::pg_encoding_mblen(from, rest[done..].as_ptr().cast());
                done += (len.max(1) as usize).min(run - done);
                converted.push(b'?');
            }
            rest = &rest[done..];
        }
        converted
    }
}

/// Bytes of the server as a message shows them, whatever they are.
pub fn shown(bytes: &[u8]) -> String {
    match Encoding::to_convert(bytes) {
        None => String::from_utf8_lossy(bytes).into_owned(),
        Some(encoding) => {
            let converted = convert_leniently(bytes, encoding, UTF8);
            String::from_utf8_lossy(&converted).into_owned()
        }
    }
}

/// As [`shown`], of a string with a closing zero.
///
/// # Safety
///
/// `name` is such a string, or null.
pub unsafe fn shown_name(name: *const core::ffi::c_char) -> String {
    if name.is_null() {
        return "?".to_owned();
    }
    // SAFETY: see above.
    shown(unsafe { core::ffi::CStr::from_ptr(name) }.to_bytes())
}

/// A message as the server wants it: in the encoding of the database.
pub fn for_report(message: String) -> String {
    let Some(encoding) = Encoding::to_convert(message.as_bytes()) else {
        return message;
    };
    let converted = convert_leniently(message.as_bytes(), UTF8, encoding);
    // SAFETY: that strings are UTF-8 is what functions of the library may count on,
    // not the language. pgrx does nothing with a report's strings but copy their
    // bytes into memory of the server (AsPgCStr).
    unsafe { String::from_utf8_unchecked(converted) }
}

/// A text argument: in UTF-8, and as the server has it.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    utf8: &'a str,
    server: &'a [u8],
}

impl<'a> Text<'a> {
    /// The text in UTF-8.
    pub fn as_str(self) -> &'a str {
        self.utf8
    }

    /// The text in the encoding of the database; for files, whose names are bytes,
    /// and for whatever goes back to the server.
    pub fn in_server(self) -> &'a [u8] {
        self.server
    }

    /// [`Text::in_server`] with a closing zero.
    pub fn to_c_string(self) -> CString {
        // No text of the server has a zero in it.
        CString::new(self.server).unwrap_or_default()
    }

    /// # Safety
    ///
    /// `datum` is a non-null text that lives for `'a`, and so does the current memory
    /// context.
    unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        // SAFETY: see above; detoasting returns a varlena whose size its header tells.
        unsafe {
            let plain = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
            let server = std::slice::from_raw_parts(
                vardata_any(plain).cast::<u8>(),
                varsize_any_exhdr(plain),
            );
            Text {
                utf8: from_server(server),
                server,
            }
        }
    }
}

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        self.utf8
    }
}

/// The datum of an argument that is not null, because functions are strict.
///
/// # Safety
///
/// Of the current call.
unsafe fn datum_of(arg: Arg<'_, '_>) -> pg_sys::Datum {
    // SAFETY: see above.
    match unsafe { arg.unbox_arg_using_from_datum::<pg_sys::Datum>() } {
        Some(datum) => datum,
        None => raise(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "an argument is null",
        ),
    }
}

// SAFETY: an argument of the type is a text, which lives as long as the call.
unsafe impl<'fcx> ArgAbi<'fcx> for Text<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: see above.
        unsafe { Text::from_datum(datum_of(arg)) }
    }
}

/// An array argument of texts; NULL elements are `None`.
pub struct TextArray<'a>(pub Vec<Option<Text<'a>>>);

// SAFETY: an argument of the type is an array of texts, which lives as long as the call.
unsafe impl<'fcx> ArgAbi<'fcx> for TextArray<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: see above; the server's own function takes the array apart, into two
        // arrays of `count` elements.
        unsafe {
            let array = pg_sys::pg_detoast_datum(datum_of(arg).cast_mut_ptr());
            let (mut elements, mut nulls) = (std::ptr::null_mut(), std::ptr::null_mut());
            let mut count = 0;
            pg_sys::deconstruct_array(
                array.cast(),
                pg_sys::TEXTOID,
                -1,
                false,
                b'i' as _,
                &mut elements,
                &mut nulls,
                &mut count,
            );
            let text = |i| match *nulls.add(i) {
                true => None,
                false => Some(Text::from_datum(*elements.add(i))),
            };
            TextArray(allocator::unwrap(collect(
                (0..count as usize).map(text),
                TEXT,
            )))
        }
    }
}

/// A `jsonb` argument, written out.
pub struct JsonbText<'a>(pub &'a str);

// SAFETY: an argument of the type is a jsonb, which its own function writes out.
unsafe impl<'fcx> ArgAbi<'fcx> for JsonbText<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: see above; the string is in memory of the call.
        unsafe {
            let written = pgrx::direct_function_call::<&core::ffi::CStr>(
                pg_sys::jsonb_out,
                &[Some(datum_of(arg))],
            );
            JsonbText(from_server(written.unwrap_or_default().to_bytes()))
        }
    }
}

/// A text value in the encoding of the database, on its way to the server or from it.
pub struct ServerText(pub Vec<u8>);

impl ServerText {
    /// A text in UTF-8, or an ERROR if the database has not all of its characters.
    pub fn new(text: &str) -> Self {
        ServerText(to_server(text).into_owned())
    }

    /// The text with a closing zero, as a query is given to the server.
    pub fn into_c_string(self) -> CString {
        CString::new(self.0).unwrap_or_default()
    }

    /// The text in UTF-8.
    pub fn to_utf8(&self) -> String {
        // SAFETY: what was converted is copied at once.
        unsafe { from_server(&self.0) }.to_owned()
    }
}

/// A text in UTF-8 as the argument of a query.
pub fn argument<'a>(text: &str) -> DatumWithOid<'a> {
    ServerText::new(text).into()
}

impl IntoDatum for ServerText {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        // The layout of bytea is that of text.
        self.0.as_slice().into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }

    fn is_compatible_with(other: pg_sys::Oid) -> bool {
        [pg_sys::TEXTOID, pg_sys::VARCHAROID].contains(&other)
    }
}

// SAFETY: the datum is a text in the current memory context.
unsafe impl BoxRet for ServerText {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: the datum was made for this call.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

impl FromDatum for ServerText {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _: pg_sys::Oid,
    ) -> Option<Self> {
        (!is_null).then(|| {
            // SAFETY: the caller gives a datum of the type.
            let text = unsafe { Text::from_datum(datum) };
            ServerText(allocator::unwrap(copied(text.server, TEXT)))
        })
    }
}

sql_type!(['a] Text<'a>, "text");
sql_type!(['a] TextArray<'a>, "text[]");
sql_type!(['a] JsonbText<'a>, "jsonb");
sql_type!([] ServerText, "text");
