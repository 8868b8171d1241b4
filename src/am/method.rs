//! The access methods, for what explains scans of any of them.

#![allow(unsafe_code)]

use ann::Metric;
use ann::hnsw::Storage;
use pgrx::prelude::*;

use super::counters::{Counters, Totals, Width};
use super::scan::{Search, state};
use super::{hnsw, ivf};
use crate::storage::RelationPages;

/// How the searches of an access method are followed.
pub struct Method {
    /// Whether it is a graph, not lists.
    pub is_graph: bool,
    /// The steps of `enter`, and the one that finds rows.
    pub steps: ([&'static str; 2], &'static str),
    /// Begins a search, and calls its argument after each of the steps.
    pub enter: unsafe fn(pg_sys::IndexScanDesc, &mut dyn FnMut(Counters)),
    /// What the searches of a scan did so far, and how far the last one went.
    pub done: unsafe fn(pg_sys::IndexScanDesc) -> (Totals, Option<Width>),
    /// What an open index is like.
    pub about: unsafe fn(pg_sys::Relation) -> Option<About>,
}

/// What an index is like.
pub struct About {
    /// What it holds of vectors.
    pub storage: &'static str,
    /// Lists, if it has any.
    pub lists: Option<u32>,
    /// How far a search goes with the present settings.
    pub width: Width,
}

static GRAPH: Method = Method {
    is_graph: true,
    steps: (["prepare query", "descend to level 0"], "search level 0"),
    enter: hnsw::scan::enter,
    done: done::<hnsw::scan::Search>,
    about: about_graph,
};

static LISTS: Method = Method {
    is_graph: false,
    steps: (["prepare query", "choose lists"], "search lists"),
    enter: ivf::scan::enter,
    done: done::<ivf::scan::Search>,
    about: about_lists,
};

impl Method {
    /// That of an open index; `None` if it is not one of ours.
    ///
    /// # Safety
    ///
    /// `index` is an open index.
    pub unsafe fn of(index: pg_sys::Relation) -> Option<&'static Method> {
        // SAFETY: an open index has the routines of its access method. Other extensions
        // may have given theirs our names.
        let build = unsafe { (*(*index).rd_indam).ambuild }?;
        if std::ptr::fn_addr_eq(build, hnsw::AMBUILD) {
            Some(&GRAPH)
        } else if std::ptr::fn_addr_eq(build, ivf::AMBUILD) {
            Some(&LISTS)
        } else {
            None
        }
    }
}

/// See [`Method::done`].
///
/// # Safety
///
/// `scan` is a scan of an index of the access method of these searches.
unsafe fn done<S: Search>(scan: pg_sys::IndexScanDesc) -> (Totals, Option<Width>) {
    // SAFETY: passed on.
    unsafe { state::<S>(scan).done() }
}

/// See [`Method::about`]; `None` if the index can't be read, which is told of when it is
/// used.
///
/// # Safety
///
/// `index` is an open hnsw index.
unsafe fn about_graph(index: pg_sys::Relation) -> Option<About> {
    // SAFETY: passed on.
    let pages = unsafe { RelationPages::new(index) };
    let meta = ann::hnsw::index::read_meta(&pages).ok()?;
    Some(About {
        storage: storage_name(meta.options().ok()?.storage),
        lists: None,
        width: hnsw::scan::width(),
    })
}

/// What the vertices of a graph hold, by the name of the option.
pub fn storage_name(storage: Storage) -> &'static str {
    match storage {
        Storage::Plain => "plain",
        Storage::Fused => "fused",
        Storage::Sparse => "sparse",
    }
}

/// As [`about_graph`].
///
/// # Safety
///
/// `index` is an open index of lists.
unsafe fn about_lists(index: pg_sys::Relation) -> Option<About> {
    // SAFETY: passed on.
    let (pages, settings) = unsafe { (RelationPages::new(index), ivf::scan::settings(index)) };
    let meta = ann::ivf::index::read_meta(&pages).ok()?;
    let options = meta.options().ok()?;
    Some(About {
        storage: match (options.metric, options.bits.count()) {
            (Metric::Hamming, _) => "bit strings",
            (_, 4) => "4 bits a dimension",
            _ => "8 bits a dimension",
        },
        lists: Some(meta.lists),
        width: settings.width(meta.lists),
    })
}
