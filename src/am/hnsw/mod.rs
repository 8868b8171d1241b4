//! The access method `hnsw`: wires the callbacks, and opens indexes.

#![allow(unsafe_code)]

mod build;
mod cost;
mod fit;
mod insert;
pub mod options;
pub mod scan;
mod vacuum;

use std::cell::RefCell;
use std::num::NonZeroUsize;

use ann::Metric;
use ann::hnsw::index::{read_frame, read_meta};
use ann::hnsw::layout::Blurred;
use ann::hnsw::{AnyCodec, Code, Codec, Index, Options, Storage};
use lru::LruCache;
use pgrx::prelude::*;

use super::open::{self, Reader};
use super::routine::{self, Ambuild};
use crate::errors::{raise_index, unwrap_index, warning};
use crate::storage::RelationPages;

/// What tells that an index is of this access method.
pub const AMBUILD: Ambuild = build::ambuild;

/// The handler that `CREATE ACCESS METHOD hnsw` names.
#[pg_extern(sql = "
CREATE FUNCTION hnswhandler(internal) RETURNS index_am_handler
    STRICT LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn hnswhandler(_fcinfo: pg_sys::FunctionCallInfo) -> PgBox<pg_sys::IndexAmRoutine> {
    let mut am = routine::ordering();
    am.ambuild = Some(AMBUILD);
    am.ambuildempty = Some(build::ambuildempty);
    am.aminsert = Some(insert::aminsert);
    am.ambulkdelete = Some(vacuum::ambulkdelete);
    am.amvacuumcleanup = Some(vacuum::amvacuumcleanup);
    am.amcostestimate = Some(cost::amcostestimate);
    am.amoptions = Some(options::amoptions);
    am.ambuildphasename = Some(build::ambuildphasename);
    am.ambeginscan = Some(scan::ambeginscan);
    am.amrescan = Some(scan::amrescan);
    am.amgettuple = Some(scan::amgettuple);
    am.amendscan = Some(scan::amendscan);
    am.into_pg_boxed()
}

/// An index on the pages of a relation.
pub type RelationIndex<'s, 'r> = Index<'s, RelationPages<'r>, AnyCodec>;

/// Opens the index on its pages.
pub fn index<'s, 'r>(pages: &'s RelationPages<'r>, name: &str) -> RelationIndex<'s, 'r> {
    let meta = unwrap_index(read_meta(pages), name);
    let options = unwrap_index(meta.options(), name);
    unwrap_index(
        Index::open(pages, &meta, codec(pages, &options, name)),
        name,
    )
}

/// The codec of an index with these options. The codecs that the session used last are
/// kept: a rotation of wide vectors takes longer to make than to use. The seed, which is
/// another one for each index and each time it is built, tells them apart.
fn codec(pages: &RelationPages<'_>, options: &Options, name: &str) -> AnyCodec {
    const KEPT: NonZeroUsize = NonZeroUsize::new(16).unwrap();
    thread_local! {
        static CODECS: RefCell<LruCache<Options, AnyCodec>> =
            RefCell::new(LruCache::new(KEPT));
    }
    CODECS.with_borrow_mut(|codecs| {
        if let Some(codec) = codecs.get(options) {
            return codec.clone();
        }
        let frame = unwrap_index(read_frame(pages, options), name);
        let Some(codec) = AnyCodec::with_frame(options, frame) else {
            let reason = "its storage cannot serve its metric".into();
            raise_index(ann::Error::Corrupted { block: 0, reason }, name)
        };
        codecs.put(*options, codec.clone());
        codec
    })
}

/// Says that codes of rows that came later can't tell near vectors apart, if they can't.
pub fn warn_if_blurred(counts: Blurred, name: &str) {
    /// Of fewer rows, nothing is said.
    const FEWEST: u16 = 256;
    /// So large a part of them may be blurred.
    const MOST: f64 = 0.1;
    if counts.of < FEWEST || counts.share() <= MOST {
        return;
    }
    warning(
        format!("short codes in index \"{name}\" cannot tell near vectors apart"),
        Some(format!(
            "So it is with {:.0} % of the last {} rows; searches miss rows that are near.",
            100.0 * counts.share(),
            counts.of
        )),
        Some("REINDEX the index: it was built when the table had other vectors, or none."),
    );
}

/// The reader of an open index.
///
/// # Safety
///
/// `index` is an open index of this access method; `graph` is the same index.
pub unsafe fn reader(index: pg_sys::Relation, graph: &RelationIndex<'_, '_>) -> Reader {
    let options = graph.options();
    // SAFETY: passed on.
    let reader = unsafe { Reader::new(index, options.dimension) };
    let is_of_bits = matches!(options.metric, Metric::Hamming | Metric::Jaccard);
    let is_sparse = options.storage == Storage::Sparse;
    if is_of_bits != reader.is_of_bits() || is_sparse != reader.is_sparse() {
        let reason = "the metapage is that of an index of another type".into();
        // SAFETY: the index is open.
        let name = unsafe { open::name(index) };
        raise_index(ann::Error::Corrupted { block: 0, reason }, &name);
    }
    reader
}

/// Encodes a vector; `None` if the index leaves such a one out.
///
/// # Safety
///
/// As for [`Reader::read`].
pub unsafe fn encode(reader: Reader, codec: &AnyCodec, datum: pg_sys::Datum) -> Option<Code> {
    let mut code = Code::zeroed(codec.code_len());
    // SAFETY: passed on.
    let value = unsafe { reader.read(datum) };
    codec
        .encode(value.as_vector(), code.bytes_mut())
        .then_some(code)
}
