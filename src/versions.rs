//! What differs between the major versions of PostgreSQL that insitu is built for.
//! Each function here has one meaning on all of them; its comment says since when
//! the server spells it otherwise. No other file asks for a version, but for that of
//! EXPLAIN below this one. A new version is a feature in `Cargo.toml`, and what it changes,
//! here.

#![allow(unsafe_code)]

pub mod explain;

use pgrx::prelude::*;

/// Whether the current role owns an object of a catalog. From 16 on one function of
/// the server serves all catalogs; 15 has one for each.
///
/// # Safety
///
/// `catalog` is `pg_class` or `pg_extension`.
pub unsafe fn is_owned(catalog: pg_sys::Oid, object: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalogs; the server raises an ERROR where the object is gone.
    unsafe {
        let user = pg_sys::GetUserId();
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(catalog, object, user);
        #[cfg(feature = "pg15")]
        if catalog == pg_sys::ExtensionRelationId {
            pg_sys::pg_extension_ownercheck(object, user)
        } else {
            pg_sys::pg_class_ownercheck(object, user)
        }
    }
}

/// The type of the first column of rows, of which there must be one. From 18 on the
/// columns lie behind their compact forms (tupdesc.h).
///
/// # Safety
///
/// A row type with a column.
pub unsafe fn first_column_type(columns: pg_sys::TupleDesc) -> pg_sys::Oid {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        let first = (*columns).attrs.as_ptr();
        #[cfg(feature = "pg18")]
        let first = (*columns)
            .compact_attrs
            .as_ptr()
            .add((*columns).natts as usize)
            .cast::<pg_sys::FormData_pg_attribute>();
        (*first).atttypid
    }
}

/// Begins a scan in the order of one expression. From 18 on it also takes where to count
/// for EXPLAIN.
///
/// # Safety
///
/// Open relations and a snapshot that is registered.
pub unsafe fn begin_ordered_scan(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
) -> pg_sys::IndexScanDesc {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::index_beginscan(heap, index, snapshot, 0, 1);
        #[cfg(feature = "pg18")]
        return pg_sys::index_beginscan(heap, index, snapshot, std::ptr::null_mut(), 0, 1);
    }
}

/// Makes the planner take any other path. From 18 on it looks at a count before it looks
/// at costs: 2 is more than `enable_indexscan = off` gives.
///
/// # Safety
///
/// The planner's path.
pub unsafe fn disable(path: *mut pg_sys::IndexPath) {
    #[cfg(feature = "pg18")]
    // SAFETY: as the caller says.
    unsafe {
        (*path).path.disabled_nodes = 2;
    }
    #[cfg(not(feature = "pg18"))]
    let _ = path;
}

/// Counts one scan in the statistics of an index, as the macro `pgstat_count_index_scan`
/// does (its fields have other names from 16 on), and from 18 on for EXPLAIN.
///
/// # Safety
///
/// A scan of an open index.
pub unsafe fn count_scan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: as the caller says; the entry may be absent, or still to be made.
    unsafe {
        let index = (*scan).indexRelation;
        if (*index).pgstat_info.is_null() && (*index).pgstat_enabled {
            pg_sys::pgstat_assoc_relation(index);
        }
        if let Some(info) = (*index).pgstat_info.as_mut() {
            #[cfg(feature = "pg15")]
            let scans = &mut info.t_counts.t_numscans;
            #[cfg(not(feature = "pg15"))]
            let scans = &mut info.counts.numscans;
            *scans += 1;
        }
        #[cfg(feature = "pg18")]
        if let Some(instrument) = (*scan).instrument.as_mut() {
            instrument.nsearches += 1;
        }
    }
}

/// Counts a page found in shared buffers in the statistics of a relation, as the macros
/// `pgstat_count_buffer_read` and `pgstat_count_buffer_hit` do. Their fields have other
/// names from 16 on.
///
/// # Safety
///
/// The relation is open.
pub unsafe fn count_hit(relation: pg_sys::Relation) {
    // SAFETY: as the caller says; the entry may be absent.
    unsafe {
        let Some(info) = (*relation).pgstat_info.as_mut() else {
            return;
        };
        #[cfg(feature = "pg15")]
        let (fetched, hit) = (
            &mut info.t_counts.t_blocks_fetched,
            &mut info.t_counts.t_blocks_hit,
        );
        #[cfg(not(feature = "pg15"))]
        let (fetched, hit) = (&mut info.counts.blocks_fetched, &mut info.counts.blocks_hit);
        *fetched += 1;
        *hit += 1;
    }
}

/// The number of a relation's file. `RelFileNode` is `RelFileLocator` from 16 on.
///
/// # Safety
///
/// The relation is open.
pub unsafe fn file_number(relation: pg_sys::Relation) -> u32 {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(feature = "pg15")]
        let number = (*relation).rd_node.relNode;
        #[cfg(not(feature = "pg15"))]
        let number = (*relation).rd_locator.relNumber;
        number.to_u32()
    }
}

/// Pins a buffer if it has this page of a relation. `RelFileNode` is `RelFileLocator` from
/// 16 on.
///
/// # Safety
///
/// The relation is open.
pub unsafe fn pin_recent(
    relation: pg_sys::Relation,
    fork: pg_sys::ForkNumber::Type,
    block: pg_sys::BlockNumber,
    buffer: pg_sys::Buffer,
) -> bool {
    // SAFETY: as the caller says; the server checks what the buffer holds.
    unsafe {
        #[cfg(feature = "pg15")]
        let file = (*relation).rd_node;
        #[cfg(not(feature = "pg15"))]
        let file = (*relation).rd_locator;
        pg_sys::ReadRecentBuffer(file, fork, block, buffer)
    }
}

/// Whether a relation got its file in this transaction. The field has another name from
/// 16 on.
///
/// # Safety
///
/// The relation is open.
pub unsafe fn has_new_file(relation: pg_sys::Relation) -> bool {
    /// InvalidSubTransactionId of PostgreSQL's c.h.
    const INVALID: pg_sys::SubTransactionId = 0;
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(feature = "pg15")]
        let since = (*relation).rd_firstRelfilenodeSubid;
        #[cfg(not(feature = "pg15"))]
        let since = (*relation).rd_firstRelfilelocatorSubid;
        since != INVALID || (*relation).rd_createSubid != INVALID
    }
}

/// Serves interrupts, and waits as long as vacuum's cost limit asks for. From 18 on it is
/// told whether ANALYZE is at work.
///
/// # Safety
///
/// No lock on a buffer is held.
pub unsafe fn vacuum_delay_point() {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::vacuum_delay_point();
        #[cfg(feature = "pg18")]
        pg_sys::vacuum_delay_point(false);
    }
}

/// What the statistics know of a session, counted from 1. The function has another name
/// from 16 on.
///
/// # Safety
///
/// The server's copy of the sessions' states is there until the end of the transaction.
pub unsafe fn session(number: i32) -> *mut pg_sys::LocalPgBackendStatus {
    // SAFETY: as the caller says; a number of no session gives null.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pgstat_fetch_stat_local_beentry(number);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::pgstat_get_local_beentry_by_index(number);
    }
}
