//! The access methods `ivf` and `ivfflat`: wires the callbacks, and opens indexes.
//!
//! The two are one, with different defaults: `ivfflat` has pgvector's.

#![allow(unsafe_code)]

mod build;
mod cost;
mod given;
mod insert;
pub mod options;
pub mod scan;
mod vacuum;

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::sync::Arc;

use ann::Metric;
use ann::ivf::index::{read_mean, read_meta};
use ann::ivf::{Codec, Index, Options};
use lru::LruCache;
use pgrx::prelude::*;

use super::open::{self, Reader};
use super::routine::{self, Ambuild};
use crate::errors::{raise_index, unwrap_index};
use crate::storage::RelationPages;

/// What tells that an index is of these access methods.
pub const AMBUILD: Ambuild = build::ambuild;

/// The handler that `CREATE ACCESS METHOD ivf` names.
#[pg_extern(sql = "
CREATE FUNCTION ivfhandler(internal) RETURNS index_am_handler
    STRICT LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn ivfhandler(_fcinfo: pg_sys::FunctionCallInfo) -> PgBox<pg_sys::IndexAmRoutine> {
    handler(options::ivf_options)
}

/// The handler that `CREATE ACCESS METHOD ivfflat` names.
#[pg_extern(sql = "
CREATE FUNCTION ivfflathandler(internal) RETURNS index_am_handler
    STRICT LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn ivfflathandler(_fcinfo: pg_sys::FunctionCallInfo) -> PgBox<pg_sys::IndexAmRoutine> {
    handler(options::ivfflat_options)
}

fn handler(
    options: unsafe extern "C-unwind" fn(pg_sys::Datum, bool) -> *mut pg_sys::bytea,
) -> PgBox<pg_sys::IndexAmRoutine> {
    let mut am = routine::ordering();
    am.ambuild = Some(AMBUILD);
    am.ambuildempty = Some(build::ambuildempty);
    am.aminsert = Some(insert::aminsert);
    am.ambulkdelete = Some(vacuum::ambulkdelete);
    am.amvacuumcleanup = Some(vacuum::amvacuumcleanup);
    am.amcostestimate = Some(cost::amcostestimate);
    am.amoptions = Some(options);
    am.ambuildphasename = Some(build::ambuildphasename);
    am.ambeginscan = Some(scan::ambeginscan);
    am.amrescan = Some(scan::amrescan);
    am.amgettuple = Some(scan::amgettuple);
    am.amendscan = Some(scan::amendscan);
    am.into_pg_boxed()
}

/// An index on the pages of a relation.
pub type RelationIndex<'s, 'r> = Index<'s, RelationPages<'r>, Arc<Codec>>;

/// Opens the index on its pages. The codecs that the session used last are kept: a
/// rotation of wide vectors takes longer to make than to use. The seed, which each
/// build draws anew, tells indexes apart.
pub fn index<'s, 'r>(pages: &'s RelationPages<'r>, name: &str) -> RelationIndex<'s, 'r> {
    const KEPT: NonZeroUsize = NonZeroUsize::new(16).unwrap();
    thread_local! {
        static CODECS: RefCell<LruCache<Options, Arc<Codec>>> =
            RefCell::new(LruCache::new(KEPT));
    }
    let meta = unwrap_index(read_meta(pages), name);
    let options = unwrap_index(meta.options(), name);
    let kept = CODECS.with_borrow_mut(|codecs| codecs.get(&options).cloned());
    let codec = kept.unwrap_or_else(|| {
        let Some(codec) = Codec::new(&options) else {
            let reason = "its codes cannot serve its metric".into();
            raise_index(ann::Error::Corrupted { block: 0, reason }, name)
        };
        let mean = unwrap_index(read_mean(pages, &meta), name);
        let codec = Arc::new(codec.with_mean(mean));
        CODECS.with_borrow_mut(|codecs| codecs.put(options, codec.clone()));
        codec
    });
    Index::open(pages, codec, meta)
}

/// The reader of an open index.
///
/// # Safety
///
/// `relation` is an open index of this access method, and `index` the same.
pub unsafe fn reader(relation: pg_sys::Relation, index: &RelationIndex<'_, '_>) -> Reader {
    let options = index.codec().options();
    // SAFETY: passed on.
    let reader = unsafe { Reader::new(relation, options.dimension) };
    if (options.metric == Metric::Hamming) != reader.is_of_bits() || reader.is_sparse() {
        let reason = "the metapage is that of an index of another type".into();
        // SAFETY: the index is open.
        let name = unsafe { open::name(relation) };
        raise_index(ann::Error::Corrupted { block: 0, reason }, &name);
    }
    reader
}
