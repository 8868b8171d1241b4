//! Storage parameters of an index: `WITH (lists = 1000, bits = 8)`.

#![allow(unsafe_code)]

use core::ffi::CStr;
use std::mem::offset_of;
use std::sync::OnceLock;

use ann::ivf::layout::MAX_LISTS;
use ann::quantize::extended::Bits;
use pgrx::pg_sys::relopt_type::{RELOPT_TYPE_ENUM, RELOPT_TYPE_INT, RELOPT_TYPE_STRING};
use pgrx::prelude::*;

use crate::encoding::shown_name;

/// `lists` of an `ivf` index that follows from the table.
const AUTOMATIC: i32 = 0;
/// pgvector's default.
const DEFAULT_LISTS: i32 = 100;

static IVF: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();
static IVFFLAT: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();

/// The options as PostgreSQL keeps them in the relation cache.
#[repr(C)]
struct Stored {
    vl_len: i32,
    lists: i32,
    bits: i32,
    /// Where the string is, from the beginning of this; 0 for none.
    centroids: i32,
}

/// The values of `bits`; 0 is the best for the dimension.
const BITS: [(&CStr, i32); 3] = [(c"auto", 0), (c"4", 4), (c"8", 8)];

/// What the creator of an index chose.
pub struct IvfOptions {
    /// Lists; `None` for as many as are good for the table.
    pub lists: Option<u32>,
    /// Bits a dimension; `None` for the best.
    pub bits: Option<Bits>,
    /// The table of the centroids.
    pub centroids: Option<String>,
}

/// Registers the options.
pub fn init() {
    let lock = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
    for (kind, default, least) in [(&IVF, AUTOMATIC, AUTOMATIC), (&IVFFLAT, DEFAULT_LISTS, 1)] {
        kind.get_or_init(|| {
            // SAFETY: called from _PG_init, with constant strings.
            unsafe {
                let kind = pg_sys::add_reloption_kind();
                pg_sys::add_int_reloption(
                    kind,
                    c"lists".as_ptr(),
                    c"Number of inverted lists".as_ptr(),
                    default,
                    least,
                    MAX_LISTS as i32,
                    lock,
                );
                // The server keeps the pointer.
                let members = BITS.map(|(name, value)| pg_sys::relopt_enum_elt_def {
                    string_val: name.as_ptr(),
                    symbol_val: value,
                });
                let end = [pg_sys::relopt_enum_elt_def::default()];
                let members: Box<[_]> = members.into_iter().chain(end).collect();
                pg_sys::add_enum_reloption(
                    kind,
                    c"bits".as_ptr(),
                    c"Bits a dimension of the codes of rows".as_ptr(),
                    Box::leak(members).as_mut_ptr(),
                    0,
                    c"Valid values are \"auto\", \"4\" and \"8\".".as_ptr(),
                    lock,
                );
                pg_sys::add_string_reloption(
                    kind,
                    c"centroids".as_ptr(),
                    c"Table of the centroids of lists".as_ptr(),
                    std::ptr::null(),
                    None,
                    lock,
                );
                kind
            }
        });
    }
}

/// `amoptions` of `ivf`.
#[pg_guard]
pub unsafe extern "C-unwind" fn ivf_options(
    reloptions: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    // SAFETY: passed on.
    unsafe { parse(&IVF, reloptions, validate) }
}

/// `amoptions` of `ivfflat`.
#[pg_guard]
pub unsafe extern "C-unwind" fn ivfflat_options(
    reloptions: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    // SAFETY: passed on.
    unsafe { parse(&IVFFLAT, reloptions, validate) }
}

unsafe fn parse(
    kind: &OnceLock<pg_sys::relopt_kind::Type>,
    reloptions: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    #[allow(clippy::needless_update)] // later versions have more fields
    let element = |name: &'static CStr, kind, offset: usize| pg_sys::relopt_parse_elt {
        optname: name.as_ptr(),
        opttype: kind,
        offset: offset as i32,
        ..Default::default()
    };
    let elements = [
        element(c"lists", RELOPT_TYPE_INT, offset_of!(Stored, lists)),
        element(c"bits", RELOPT_TYPE_ENUM, offset_of!(Stored, bits)),
        element(
            c"centroids",
            RELOPT_TYPE_STRING,
            offset_of!(Stored, centroids),
        ),
    ];
    // SAFETY: the offsets are those of `Stored`, whose size is given.
    unsafe {
        pg_sys::build_reloptions(
            reloptions,
            validate,
            kind.get().copied().unwrap_or(0),
            size_of::<Stored>(),
            elements.as_ptr(),
            elements.len() as i32,
        )
        .cast()
    }
}

/// The options of an index, or their defaults.
///
/// # Safety
///
/// `index` is an open index of this access method; `method` is its name.
pub unsafe fn of_index(index: pg_sys::Relation, method: &str) -> IvfOptions {
    // SAFETY: rd_options is what `amoptions` returned.
    unsafe {
        let stored = (*index).rd_options.cast::<Stored>();
        let (lists, bits, centroids) = if stored.is_null() {
            let lists = if method == "ivfflat" {
                DEFAULT_LISTS
            } else {
                AUTOMATIC
            };
            (lists, 0, 0)
        } else {
            ((*stored).lists, (*stored).bits, (*stored).centroids)
        };
        let centroids = (centroids != 0).then(|| {
            let at = stored.cast::<core::ffi::c_char>().add(centroids as usize);
            shown_name(at)
        });
        IvfOptions {
            lists: (lists != AUTOMATIC).then_some(lists as u32),
            bits: Bits::from_count(bits as u32),
            centroids: centroids.filter(|name| !name.is_empty()),
        }
    }
}
