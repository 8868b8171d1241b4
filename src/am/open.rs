//! From a relation to an open index, and from a datum to a code.

#![allow(unsafe_code)]

use core::ffi::CStr;

use std::borrow::Cow;
use std::cell::RefCell;
use std::num::NonZeroUsize;

use ann::{AnyVector, HeapTid, Metric};
use ann::hnsw::index::read_meta;
use ann::hnsw::{AnyCodec, Code, Codec, Index, Options, Storage};
use lru::LruCache;
use pgrx::prelude::*;

use crate::errors::{raise, raise_index, raise_with_hint, unwrap_index};
use crate::storage::RelationPages;
use crate::types::dense::{Component, Dense};
use crate::types::{Bits, HalfVector, Sparse, Vector};

/// The name of an open relation.
///
/// # Safety
///
/// `relation` is open.
pub unsafe fn name(relation: pg_sys::Relation) -> String {
    // SAFETY: relname is a string with a closing zero.
    unsafe { CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// Opens and locks a valid index of this access method and its table, for a
/// function that an ERROR names. `check` raises one unless the caller may do
/// that to the table.
///
/// # Safety
///
/// In a transaction. [`close`] closes them, or the server after an ERROR.
pub unsafe fn table_and_index(
    oid: pg_sys::Oid,
    lock: pg_sys::LOCKMODE,
    function: &str,
    check: unsafe fn(pg_sys::Oid),
) -> (pg_sys::Relation, pg_sys::Relation) {
    let wrong_kind = || -> ! {
        raise(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("{function} takes an hnsw index"),
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
        if class.relkind as u8 != pg_sys::RELKIND_INDEX
            || class.relam != pg_sys::get_index_am_oid(c"hnsw".as_ptr(), true)
        {
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

/// An index on the pages of a relation.
pub type RelationIndex<'s, 'r> = Index<'s, RelationPages<'r>, AnyCodec>;

/// Opens the index on its pages.
pub fn index<'s, 'r>(pages: &'s RelationPages<'r>, name: &str) -> RelationIndex<'s, 'r> {
    let meta = unwrap_index(read_meta(pages), name);
    let options = unwrap_index(meta.options(), name);
    unwrap_index(Index::open(pages, &meta, codec(&options, name)), name)
}

/// The codec of an index with these options. The codecs that the session used
/// last are kept: a rotation of wide vectors takes longer to make than to use.
pub fn codec(options: &Options, name: &str) -> AnyCodec {
    const KEPT: NonZeroUsize = NonZeroUsize::new(16).unwrap();
    thread_local! {
        static CODECS: RefCell<LruCache<Options, AnyCodec>> =
            RefCell::new(LruCache::new(KEPT));
    }
    CODECS.with_borrow_mut(|codecs| {
        if let Some(codec) = codecs.get(options) {
            return codec.clone();
        }
        let Some(codec) = AnyCodec::new(options) else {
            let reason = "its storage cannot serve its metric".into();
            raise_index(ann::Error::Corrupted { block: 0, reason }, name)
        };
        codecs.put(*options, codec.clone());
        codec
    })
}

/// The dimension of the column of an index; `None` if its type names none.
///
/// # Safety
///
/// `index` is an open index of this access method.
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
/// `index` is an open index of this access method.
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
            format!("an hnsw operator class cannot have the distance function \"{name}\""),
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
    /// `index` is an open index of this access method.
    pub unsafe fn new(index: pg_sys::Relation, dimension: u32) -> Self {
        // SAFETY: the index has one column; the server tells the name of its
        // type, perhaps with a schema.
        let name = unsafe {
            let column = (*(*index).rd_att).attrs.as_slice(1).as_ptr();
            match (*column).atttypid {
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
                "type not supported for hnsw index",
            ),
        };
        Reader {
            kind,
            dimension: dimension as usize,
        }
    }

    /// The reader of an open index.
    ///
    /// # Safety
    ///
    /// As for [`Reader::new`]; `graph` is the same index.
    pub unsafe fn of(index: pg_sys::Relation, graph: &RelationIndex<'_, '_>) -> Self {
        let options = graph.options();
        // SAFETY: passed on.
        let reader = unsafe { Reader::new(index, options.dimension) };
        let is_of_bits = matches!(options.metric, Metric::Hamming | Metric::Jaccard);
        let is_sparse = options.storage == Storage::Sparse;
        if is_of_bits != matches!(reader.kind, Kind::Bits) || is_sparse != reader.is_sparse() {
            let reason = "the metapage is that of an index of another type".into();
            // SAFETY: the index is open.
            let name = unsafe { name(index) };
            raise_index(ann::Error::Corrupted { block: 0, reason }, &name);
        }
        reader
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

    /// Encodes a vector; `None` if the index leaves such a one out.
    ///
    /// # Safety
    ///
    /// As for [`Reader::read`].
    pub unsafe fn encode(self, codec: &AnyCodec, datum: pg_sys::Datum) -> Option<Code> {
        let mut code = Code::zeroed(codec.code_len());
        // SAFETY: passed on.
        let value = unsafe { self.read(datum) };
        codec
            .encode(value.as_vector(), code.bytes_mut())
            .then_some(code)
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

/// A memory context for the work on one row.
#[derive(Clone, Copy)]
pub struct RowContext(pg_sys::MemoryContext);

impl RowContext {
    /// A context below the current one, which frees it in the end.
    pub fn new() -> Self {
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
    pub fn run<R>(self, work: impl FnOnce() -> R) -> R {
        // SAFETY: the context lives until its parent is freed; after `work`,
        // nothing refers to it any more.
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
    pub fn run_and_reset<R>(&self, work: impl FnOnce() -> R) -> R {
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
