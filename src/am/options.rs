//! Storage parameters of an index: `WITH (m = 16, ef_construction = 64)`.

#![allow(unsafe_code)]

use std::sync::OnceLock;

use pgrx::prelude::*;

use crate::errors::raise;

const DEFAULT_M: i32 = 16;
const DEFAULT_EF_CONSTRUCTION: i32 = 64;

static KIND: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();

/// The options as PostgreSQL keeps them in the relation cache.
#[repr(C)]
struct Stored {
    vl_len: i32,
    m: i32,
    ef_construction: i32,
}

/// What the creator of an index chose.
#[derive(Clone, Copy)]
pub struct HnswOptions {
    /// Neighbours of a vertex.
    pub m: u16,
    /// Size of the beam that looks for them.
    pub ef_construction: u16,
}

/// Registers the options.
pub fn init() {
    KIND.get_or_init(|| {
        let lock = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
        // SAFETY: called from _PG_init, with constant strings.
        unsafe {
            let kind = pg_sys::add_reloption_kind();
            pg_sys::add_int_reloption(
                kind,
                c"m".as_ptr(),
                c"Max number of connections".as_ptr(),
                DEFAULT_M,
                2,
                i32::from(ann::hnsw::layout::MAX_M),
                lock,
            );
            pg_sys::add_int_reloption(
                kind,
                c"ef_construction".as_ptr(),
                c"Size of the dynamic candidate list for construction".as_ptr(),
                DEFAULT_EF_CONSTRUCTION,
                4,
                1000,
                lock,
            );
            kind
        }
    });
}

/// `amoptions`: parses and checks the options.
#[pg_guard]
pub unsafe extern "C-unwind" fn amoptions(
    reloptions: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    let int = pg_sys::relopt_type::RELOPT_TYPE_INT;
    #[allow(clippy::needless_update)] // later versions have more fields
    let element = |name: &'static core::ffi::CStr, offset: usize| pg_sys::relopt_parse_elt {
        optname: name.as_ptr(),
        opttype: int,
        offset: offset as i32,
        ..Default::default()
    };
    let elements = [
        element(c"m", std::mem::offset_of!(Stored, m)),
        element(
            c"ef_construction",
            std::mem::offset_of!(Stored, ef_construction),
        ),
    ];
    // SAFETY: the offsets are those of `Stored`, whose size is given.
    unsafe {
        pg_sys::build_reloptions(
            reloptions,
            validate,
            KIND.get().copied().unwrap_or(0),
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
/// `index` is an open index of this access method.
pub unsafe fn of_index(index: pg_sys::Relation) -> HnswOptions {
    // SAFETY: rd_options is what `amoptions` returned.
    let (m, ef_construction) = unsafe {
        let stored = (*index).rd_options.cast::<Stored>();
        if stored.is_null() {
            (DEFAULT_M, DEFAULT_EF_CONSTRUCTION)
        } else {
            ((*stored).m, (*stored).ef_construction)
        }
    };
    HnswOptions {
        m: m as u16,
        ef_construction: ef_construction as u16,
    }
}

impl HnswOptions {
    /// Raises an ERROR unless the options go together.
    pub fn check(&self) {
        if self.ef_construction < 2 * self.m {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "ef_construction must be greater than or equal to 2 * m",
            );
        }
    }
}
