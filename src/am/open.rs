//! From a relation to an open index, and from a datum to a code.

#![allow(unsafe_code)]

use core::ffi::CStr;

use std::borrow::Cow;

use ann::{AnyVector, HeapTid, Metric};
use pgrx::prelude::*;

use crate::encoding::shown_name;
use crate::errors::{raise, raise_with_hint};
use crate::release;
use crate::types::dense::{Component, Dense};
use crate::types::{Bits, HalfVector, Sparse, Vector};
use crate::versions;

/// The name of an open relation.
///
/// # Safety
///
/// `relation` is open.
pub unsafe fn name(relation: pg_sys::Relation) -> String {
    // SAFETY: relname is a string with a closing zero.
    unsafe { shown_name((*(*relation).rd_rel).relname.data.as_ptr()) }
}

/// The name of an index's access method.
///
/// # Safety
///
/// `index` is an open index.
pub unsafe fn method(index: pg_sys::Relation) -> String {
    // SAFETY: reads the catalog.
    unsafe {
        let name = pg_sys::get_am_name((*(*index).rd_rel).relam);
        shown_name(name)
    }
}

/// Opens and locks a valid index of one of some access methods and its table, for
/// a function that an ERROR names. `check` raises one unless the caller may do
/// that to the table.
///
/// # Safety
///
/// In a transaction. [`close`] closes them, or the server after an ERROR.
pub unsafe fn table_and_index(
    oid: pg_sys::Oid,
    lock: pg_sys::LOCKMODE,
    (function, methods): (&str, &[&str]),
    check: unsafe fn(pg_sys::Oid),
) -> (pg_sys::Relation, pg_sys::Relation) {
    let wrong_kind = || -> ! {
        raise(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            match methods.split_last() {
                Some((last, others)) => {
                    format!(
                        "{function} takes an index of {} or {last}",
                        others.join(", ")
                    )
                }
                None => format!("{function} takes no index"),
            },
        )
    };
    // SAFETY: reads the catalog, and opens what it names.
    unsafe {
        let heap_oid = pg_sys::IndexGetRelation(oid, true);
        if heap_oid == pg_sys::InvalidOid {
            wrong_kind();
        }
        // Before a lock makes others wait, and again when nothing can change.
        check(heap_oid);
        let heap = pg_sys::table_open(heap_oid, lock);
        check(heap_oid);
        let index = pg_sys::index_open(oid, lock);
        let class = &*(*index).rd_rel;
        if class.relkind as u8 != pg_sys::RELKIND_INDEX || !methods.contains(&&*method(index)) {
            wrong_kind();
        }
        if !(*(*index).rd_index).indisvalid {
            raise_with_hint(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("index \"{}\" is not valid", name(index)),
                "A concurrent build did not complete: drop or REINDEX the index.",
            );
        }
        (heap, index)
    }
}

/// Closes what [`table_and_index`] opened; the locks stay until the end of the
/// transaction.
///
/// # Safety
///
/// Both are open, and are not used any more.
pub unsafe fn close(heap: pg_sys::Relation, index: pg_sys::Relation) {
    // SAFETY: as the caller says.
    unsafe {
        pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        pg_sys::table_close(heap, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}

/// The dimension of the column of an index; `None` if its type names none.
///
/// # Safety
///
/// `index` is an open index of this extension's.
pub unsafe fn dimension(index: pg_sys::Relation) -> Option<u32> {
    // SAFETY: the caller gives an open index, which stays open meanwhile.
    let relation = unsafe { pgrx::PgRelation::from_pg(index) };
    let descriptor = relation.tuple_desc();
    let column = descriptor.get(0)?;
    u32::try_from(column.atttypmod).ok()
}

/// The metric of an index's operator class, told by its support functions:
/// 1 is the distance, 2 the norm if vectors are normalized.
///
/// # Safety
///
/// `index` is an open index of this extension's.
pub unsafe fn metric(index: pg_sys::Relation) -> Metric {
    // SAFETY: the index has one column, and its opclass support function 1.
    let (distance, normalized) = unsafe {
        let distance = pg_sys::get_func_name(pg_sys::index_getprocid(index, 1, 1));
        let norm = pg_sys::index_getprocid(index, 1, 2);
        let distance = (!distance.is_null()).then(|| CStr::from_ptr(distance));
        (distance, norm != pg_sys::InvalidOid)
    };
    // What is particular to a type begins with its name.
    let name = distance.map_or("".into(), CStr::to_string_lossy);
    let types = ["vector_", "halfvec_", "sparsevec_"];
    let particular = types.iter().find_map(|of| name.strip_prefix(of));
    match (particular.unwrap_or(&name), normalized) {
        ("l2_squared_distance", false) => Metric::L2,
        ("negative_inner_product", false) => Metric::InnerProduct,
        ("negative_inner_product", true) => Metric::Cosine,
        ("l1_distance", false) => Metric::L1,
        ("hamming_distance", false) => Metric::Hamming,
        ("jaccard_distance", false) => Metric::Jaccard,
        _ => raise(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "an operator class of {} cannot have the distance function \"{name}\"",
                // SAFETY: the caller gives an open index.
                unsafe { method(index) }
            ),
        ),
    }
}

/// The type of what is indexed.
#[derive(Clone, Copy)]
enum Kind {
    Single,
    Half,
    Bits,
    Sparse,
}

/// A vector that was read, as the index compares it.
pub enum Value<'a> {
    Components(Cow<'a, [f32]>),
    Bits(Bits<'a>),
    Sparse(Sparse<'a>),
}

impl Value<'_> {
    /// What a codec takes.
    pub fn as_vector(&self) -> AnyVector<'_> {
        match self {
            Value::Components(values) => AnyVector::Components(values),
            Value::Bits(bits) => AnyVector::Bits(bits.bytes),
            Value::Sparse(vector) => AnyVector::Sparse(vector.components()),
        }
    }
}

/// The type of what is indexed.
unsafe fn column_type(index: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: the caller gives an open index, which has one column at least.
    unsafe { versions::first_column_type((*index).rd_att) }
}

/// Reads what is indexed: vectors of one type and dimension.
#[derive(Clone, Copy)]
pub struct Reader {
    kind: Kind,
    dimension: usize,
}

impl Reader {
    /// The reader of an index, whose dimension is given.
    ///
    /// # Safety
    ///
    /// `index` is an open index of this extension's.
    pub unsafe fn new(index: pg_sys::Relation, dimension: u32) -> Self {
        release::check();
        // SAFETY: the server tells the name of a type, perhaps with a schema.
        let name = unsafe {
            match column_type(index) {
                pg_sys::BITOID => "bit".into(),
                other => CStr::from_ptr(pg_sys::format_type_be(other)).to_string_lossy(),
            }
        };
        let kind = match name.rsplit('.').next() {
            Some("vector") => Kind::Single,
            Some("halfvec") => Kind::Half,
            Some("bit") => Kind::Bits,
            Some("sparsevec") => Kind::Sparse,
            _ => raise(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                // SAFETY: the caller gives an open index.
                format!("type not supported for {} index", unsafe { method(index) }),
            ),
        };
        Reader {
            kind,
            dimension: dimension as usize,
        }
    }

    /// Whether vectors are strings of bits.
    pub fn is_of_bits(self) -> bool {
        matches!(self.kind, Kind::Bits)
    }

    /// Whether vectors are sparse.
    pub fn is_sparse(self) -> bool {
        matches!(self.kind, Kind::Sparse)
    }

    /// Reads a vector, or raises an ERROR if the index cannot have it.
    ///
    /// # Safety
    ///
    /// `datum` is a non-null datum of the index's type that lives for `'a`, and
    /// so does the current memory context.
    pub unsafe fn read<'a>(self, datum: pg_sys::Datum) -> Value<'a> {
        // SAFETY: passed on.
        unsafe {
            match self.kind {
                Kind::Single => self.components(Vector::from_datum(datum)),
                Kind::Half => self.components(HalfVector::from_datum(datum)),
                Kind::Bits => {
                    let bits = Bits::from_datum(datum);
                    self.check("bit lengths", bits.len);
                    Value::Bits(bits)
                }
                Kind::Sparse => {
                    let vector = Sparse::from_datum(datum);
                    self.check("sparsevec dimensions", vector.dimensions());
                    Value::Sparse(vector)
                }
            }
        }
    }

    fn components<T: Component>(self, vector: Dense<'_, T>) -> Value<'_> {
        self.check(T::DIMENSIONS, vector.values().len());
        Value::Components(vector.widened())
    }

    fn check(self, what: &str, dimensions: usize) {
        if dimensions != self.dimension {
            raise(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                format!("different {what} {dimensions} and {}", self.dimension),
            );
        }
    }
}

/// A row's address as the index stores it.
pub fn heap_tid(tid: pg_sys::ItemPointerData) -> HeapTid {
    let (block, offset) = pgrx::itemptr::item_pointer_get_both(tid);
    HeapTid(u64::from(block) << 16 | u64::from(offset))
}

/// A stored row's address as the server has it.
pub fn item_pointer(tid: HeapTid) -> pg_sys::ItemPointerData {
    let mut pointer = pg_sys::ItemPointerData::default();
    pgrx::itemptr::item_pointer_set_all(&mut pointer, (tid.0 >> 16) as u32, tid.0 as u16);
    pointer
}

/// A memory context for the work on one row. There is one of each, so that it is freed
/// once, and nothing empties it while it is in use.
pub struct RowContext(pg_sys::MemoryContext);

impl RowContext {
    /// A context below the current one, which frees it in the end.
    ///
    /// # Safety
    ///
    /// It is used only for as long as the current context lives.
    pub unsafe fn new() -> Self {
        // SAFETY: the name is a constant string.
        RowContext(unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"insitu row".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        })
    }

    /// Makes the context the current one while `work` runs, and frees it then.
    /// An ERROR leaves that to the server.
    ///
    /// # Safety
    ///
    /// What `work` gives has no reference into the context.
    pub unsafe fn run<R>(self, work: impl FnOnce() -> R) -> R {
        // SAFETY: the context lives, as who made it says; after `work`, nothing refers
        // to it any more.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.0);
            let result = work();
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextDelete(self.0);
            result
        }
    }

    /// Makes the context the current one while `work` runs, and empties it
    /// then. An ERROR leaves that to the server.
    ///
    /// # Safety
    ///
    /// As for [`RowContext::run`].
    pub unsafe fn run_and_reset<R>(&mut self, work: impl FnOnce() -> R) -> R {
        // SAFETY: as in `run`, but the context lives on.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.0);
            let result = work();
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextReset(self.0);
            result
        }
    }
}
