//! Storage parameters of an index: `WITH (m = 16, ef_construction = 64)`.

#![allow(unsafe_code)]

use std::mem::offset_of;
use std::sync::OnceLock;

use ann::Metric;
use ann::hnsw::Storage;
use pgrx::pg_sys::relopt_type::{RELOPT_TYPE_ENUM, RELOPT_TYPE_INT};
use pgrx::prelude::*;

use crate::errors::{raise, raise_with_hint};

const DEFAULT_M: i32 = 16;
const DEFAULT_EF_CONSTRUCTION: i32 = 64;
/// Below this dimension, vectors are not much longer than their codes, and one
/// bit a dimension tells too little of the distance.
const LEAST_FUSED: u32 = 64;

static KIND: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();

/// The options as PostgreSQL keeps them in the relation cache.
#[repr(C)]
struct Stored {
    vl_len: i32,
    m: i32,
    ef_construction: i32,
    storage: i32,
}

/// What the creator of an index says of [`Storage`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum StorageOption {
    /// The best for the metric and the dimension.
    Auto,
    /// [`Storage::Fused`].
    Fused,
    /// [`Storage::Plain`].
    Plain,
}

impl StorageOption {
    const NAMES: [(&core::ffi::CStr, StorageOption); 3] = [
        (c"auto", StorageOption::Auto),
        (c"fused", StorageOption::Fused),
        (c"plain", StorageOption::Plain),
    ];

    fn from_stored(stored: i32) -> Self {
        Self::NAMES
            .into_iter()
            .map(|(_, option)| option)
            .find(|&option| option as i32 == stored)
            .unwrap_or(StorageOption::Auto)
    }

    /// The storage of an index of a metric and a dimension; plain where the
    /// metric has no other.
    pub fn resolve(self, metric: Metric, dimension: u32, is_sparse: bool) -> Storage {
        if is_sparse {
            return Storage::Sparse;
        }
        let fused = match self {
            StorageOption::Auto => dimension >= LEAST_FUSED,
            StorageOption::Fused => true,
            StorageOption::Plain => false,
        };
        if fused && metric.has_short_codes() {
            Storage::Fused
        } else {
            Storage::Plain
        }
    }
}

/// What the creator of an index chose.
#[derive(Clone, Copy)]
pub struct HnswOptions {
    /// Neighbours of a vertex.
    pub m: u16,
    /// Size of the beam that looks for them.
    pub ef_construction: u16,
    /// What vertices hold.
    pub storage: StorageOption,
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
            // The server keeps the pointer.
            let members = StorageOption::NAMES
                .map(|(name, option)| pg_sys::relopt_enum_elt_def {
                    string_val: name.as_ptr(),
                    symbol_val: option as i32,
                })
                .into_iter()
                .chain([pg_sys::relopt_enum_elt_def::default()]);
            let members: Box<[_]> = members.collect();
            pg_sys::add_enum_reloption(
                kind,
                c"storage".as_ptr(),
                c"What vertices hold of vectors".as_ptr(),
                Box::leak(members).as_mut_ptr(),
                StorageOption::Auto as i32,
                c"Valid values are \"auto\", \"fused\" and \"plain\".".as_ptr(),
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
    #[allow(clippy::needless_update)] // later versions have more fields
    let element = |name: &'static core::ffi::CStr, kind, offset: usize| pg_sys::relopt_parse_elt {
        optname: name.as_ptr(),
        opttype: kind,
        offset: offset as i32,
        ..Default::default()
    };
    let elements = [
        element(c"m", RELOPT_TYPE_INT, offset_of!(Stored, m)),
        element(
            c"ef_construction",
            RELOPT_TYPE_INT,
            offset_of!(Stored, ef_construction),
        ),
        element(c"storage", RELOPT_TYPE_ENUM, offset_of!(Stored, storage)),
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
    let (m, ef_construction, storage) = unsafe {
        let stored = (*index).rd_options.cast::<Stored>();
        if stored.is_null() {
            (
                DEFAULT_M,
                DEFAULT_EF_CONSTRUCTION,
                StorageOption::Auto as i32,
            )
        } else {
            ((*stored).m, (*stored).ef_construction, (*stored).storage)
        }
    };
    HnswOptions {
        m: m as u16,
        ef_construction: ef_construction as u16,
        storage: StorageOption::from_stored(storage),
    }
}

impl HnswOptions {
    /// Raises an ERROR unless the options go together, and with the metric.
    pub fn check(&self, metric: Metric, is_sparse: bool) {
        if self.ef_construction < 2 * self.m {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "ef_construction must be greater than or equal to 2 * m",
            );
        }
        let unfit = match metric {
            _ if is_sparse => Some("sparse vectors"),
            Metric::L2 | Metric::InnerProduct | Metric::Cosine => None,
            Metric::L1 => Some("taxicab distance"),
            Metric::Hamming => Some("Hamming distance"),
            Metric::Jaccard => Some("Jaccard distance"),
        };
        if self.storage == StorageOption::Fused
            && let Some(unfit) = unfit
        {
            raise_with_hint(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("storage = fused is not supported for {unfit}"),
                "Leave the option out, or use storage = plain.",
            );
        }
    }
}
