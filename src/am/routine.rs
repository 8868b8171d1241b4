//! What the handlers of all access methods have alike.

#![allow(unsafe_code)]

use pgrx::prelude::*;

/// The callback that builds an index.
pub type Ambuild = unsafe extern "C-unwind" fn(
    pg_sys::Relation,
    pg_sys::Relation,
    *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult;

/// Accepts any operator class that the support functions make sense of; a
/// build tells (`open::metric`).
#[pg_guard]
unsafe extern "C-unwind" fn amvalidate(_opclass: pg_sys::Oid) -> bool {
    true
}

/// The description of an access method that serves `ORDER BY distance`, without
/// the callbacks that do the work.
pub fn ordering() -> PgBox<pg_sys::IndexAmRoutine, pgrx::AllocatedByRust> {
    // SAFETY: an IndexAmRoutine may be all zeros but for its tag.
    let mut am =
        unsafe { PgBox::<pg_sys::IndexAmRoutine>::alloc_node(pg_sys::NodeTag::T_IndexAmRoutine) };
    am.amstrategies = 0;
    // As pgvector's, so that operator classes made for it can be made here.
    am.amsupport = 5;
    am.amoptsprocnum = 0;
    am.amcanorder = false;
    am.amcanorderbyop = true;
    am.amcanbackward = false;
    am.amcanunique = false;
    am.amcanmulticol = false;
    am.amoptionalkey = true;
    am.amsearcharray = false;
    am.amsearchnulls = false;
    am.amstorage = false;
    am.amclusterable = false;
    am.ampredlocks = false;
    am.amcanparallel = false;
    am.amcaninclude = false;
    am.amusemaintenanceworkmem = false;
    am.amparallelvacuumoptions = pg_sys::VACUUM_OPTION_PARALLEL_BULKDEL as u8;
    am.amkeytype = pg_sys::InvalidOid;
    am.amvalidate = Some(amvalidate);
    am
}
