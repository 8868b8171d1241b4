//! Lists, nearest first.
//!
//! If there are branches, the lists are those of the nearest branches, some of these at a
//! time: all of their lists are returned, nearest first, before more are taken.

use super::codec::{Codec, Query};
use super::index::{Index, List};
use super::kmeans::NEAR_BRANCHES;
use super::layout::{Link, NO_BLOCK, ROOT};
use super::stream::{Counters, Hit, Stream};
use crate::Error;
use crate::page::{BODY_LEN, PageStore};

/// Branches whose lists are compared, of so many, if few lists are wanted: those that the
/// nearest lists are in but for a few.
fn default_branches(branches: u32) -> usize {
    (2.5 * f64::from(branches).sqrt()).ceil() as usize
}

/// Lists whose centroids are compared for each one that is wanted, at least.
const LISTS_FOR_ONE: usize = 4;

/// Centroids that a search of an index with so many lists and branches compares to find so
/// many lists.
pub fn compared(lists: u32, branches: u32, wanted: u32) -> u32 {
    if branches == 0 {
        return lists;
    }
    let taken = taken_at_once(lists, branches, wanted as usize).min(branches as usize);
    branches + (taken as u32).saturating_mul(lists.div_ceil(branches))
}

/// Branches that are taken at a time.
fn taken_at_once(lists: u32, branches: u32, wanted: usize) -> usize {
    let of_branch = (lists / branches.max(1)).max(1) as usize;
    let enough = wanted.saturating_mul(LISTS_FOR_ONE).div_ceil(of_branch);
    enough.max(default_branches(branches))
}

/// See the module.
pub struct Lists {
    root: Stream,
    branches: Option<InBranches>,
}

/// Lists in branches.
struct InBranches {
    /// Branches that are taken at a time.
    at_once: usize,
    /// Those that were taken.
    taken: Vec<List>,
    /// Their lists.
    lists: Stream,
}

impl Lists {
    /// In the order of their centroids' keys; so many are wanted.
    pub fn by_key<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        index: &Index<'_, S, C>,
        query: &Query,
        wanted: usize,
    ) -> Result<Self, Error> {
        let meta = index.meta();
        let at_once = taken_at_once(meta.lists, meta.branches, wanted);
        Self::new(index, query, (at_once, wanted), Stream::of_centroids)
    }

    /// In the order of their centroids' distances; one is wanted.
    pub fn by_distance<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        index: &Index<'_, S, C>,
        query: &Query,
    ) -> Result<Self, Error> {
        let stream = |wanted| Stream::by_distance(index.codec(), wanted);
        Self::new(index, query, (NEAR_BRANCHES, 1), stream)
    }

    /// `stream`: one of so many centroids.
    fn new<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        index: &Index<'_, S, C>,
        query: &Query,
        (at_once, wanted): (usize, usize),
        stream: impl Fn(usize) -> Stream,
    ) -> Result<Self, Error> {
        let branches = index.has_branches().then(|| InBranches {
            at_once,
            taken: Vec::new(),
            lists: stream(wanted),
        });
        let mut root = stream(if branches.is_some() { at_once } else { wanted });
        let (base, link) = index.enter(query)?;
        root.open(ROOT, link.head, base);
        Ok(Lists { root, branches })
    }

    /// The next list, and what the member of its centroid says; `None` when there are no
    /// more.
    pub fn next<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
        query: &Query,
    ) -> Result<Option<(List, Hit)>, Error> {
        let Lists { root, branches } = self;
        let child = |parent, hit: &Hit| index.child(parent, hit.member, hit.place);
        let mut next_of_root = || {
            let next = root.next(index, query)?;
            Ok::<_, Error>(next.map(|hit| (child(index.root(), &hit), hit)))
        };
        let Some(branches) = branches else {
            return next_of_root();
        };
        loop {
            if let Some(hit) = branches.lists.next(index, query)? {
                let branch = branches
                    .taken
                    .iter()
                    .find(|branch| branch.number == hit.list);
                let Some(&branch) = branch else {
                    unreachable!("all open lists are those of branches that were taken");
                };
                return Ok(Some((child(branch, &hit), hit)));
            }
            branches.lists.restart();
            branches.taken.clear();
            while branches.taken.len() < branches.at_once
                && let Some((branch, hit)) = next_of_root()?
            {
                branches.taken.push(branch);
                open(index, &mut branches.lists, branch, &hit);
            }
            if branches.taken.is_empty() {
                return Ok(None);
            }
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let of_branches = self
            .branches
            .as_ref()
            .map(|branches| branches.lists.counters());
        self.root.counters() + of_branches.unwrap_or_default()
    }
}

/// Adds a list that is a member of another to the open ones of a stream.
pub fn open<S: PageStore, C: std::ops::Deref<Target = Codec>>(
    index: &Index<'_, S, C>,
    stream: &mut Stream,
    list: List,
    hit: &Hit,
) {
    let link = Link::of(hit.target);
    if link.head != NO_BLOCK {
        index.store.prefetch(link.head, BODY_LEN, [0]);
        stream.open(list.number, link.head, hit.base);
    }
}
