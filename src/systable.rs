//! Reading tables as the server reads its own catalogs: through the access method, without
//! SQL (genam.c).

#![allow(unsafe_code)]

use std::ops::ControlFlow;

use pgrx::prelude::*;

/// A row that a scan stands on.
pub struct Row {
    pub tuple: pg_sys::HeapTuple,
    pub relation: pg_sys::Relation,
}

impl Row {
    /// The value of a column, by its number, unless it is NULL.
    pub fn value(&self, column: i32) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the scan keeps table and row for as long as the row is lent out.
        let value = unsafe {
            let columns = (*self.relation).rd_att;
            pg_sys::heap_getattr(self.tuple, column, columns, &mut is_null)
        };
        (!is_null).then_some(value)
    }
}

/// A column, by its number, that has to be equal to a value.
pub fn equal(
    column: i32,
    function: impl Into<pg_sys::Oid>,
    value: pg_sys::Datum,
) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: fills in the key.
    unsafe {
        pg_sys::ScanKeyInit(
            &mut key,
            column as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            function.into(),
            value,
        );
    }
    key
}

/// Calls `each` with the rows of a table that fit the keys, in no order, until it breaks.
/// They are as committed by now, and as this transaction has left them. An index is used
/// unless it is [`pg_sys::InvalidOid`].
///
/// # Safety
///
/// The table has such an index, and columns and functions of the keys fit each other.
pub unsafe fn scan<B>(
    table: pg_sys::Oid,
    index: pg_sys::Oid,
    keys: &mut [pg_sys::ScanKeyData],
    mut each: impl FnMut(&Row) -> ControlFlow<B>,
) -> Option<B> {
    // SAFETY: as the caller says. An ERROR in between ends the transaction or
    // subtransaction, which closes what is open. The scan takes the snapshot with which the
    // server reads its own catalogs.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(table, lock);
        let scan = pg_sys::systable_beginscan(
            relation,
            index,
            index != pg_sys::InvalidOid,
            std::ptr::null_mut(),
            keys.len() as i32,
            keys.as_mut_ptr(),
        );
        let mut result = None;
        while result.is_none() {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            result = each(&Row { tuple, relation }).break_value();
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
        result
    }
}
