//! Lists, nearest first.
//!
//! If there are branches, the lists are those of the nearest branches, some of these at a
//! time: all of their lists are returned, nearest first, before more are taken.

use super::codec::{Codec, Query};
use super::index::{Index, List};
use super::kmeans::NEAR_BRANCHES;
use super::layout::{Link, NO_BLOCK};
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
    wanted: Wanted,
    /// `None` until the first list is asked for.
    root: Option<Stream>,
    /// The lists of the branches that were taken.
    of_branches: Stream,
    /// These branches.
    taken: Vec<List>,
}

/// What lists are wanted.
#[derive(Clone, Copy)]
enum Wanted {
    /// So many, in the order of their centroids' keys.
    Key(usize),
    /// The one whose centroid is at the smallest distance.
    Distance,
}

impl Lists {
    /// In the order of their centroids' keys; so many are wanted.
    pub fn by_key(codec: &Codec, wanted: usize) -> Self {
        Self::new(codec, Wanted::Key(wanted))
    }

    /// In the order of their centroids' distances; one is wanted.
    pub fn by_distance(codec: &Codec) -> Self {
        Self::new(codec, Wanted::Distance)
    }

    fn new(codec: &Codec, wanted: Wanted) -> Self {
        Lists {
            wanted,
            root: None,
            of_branches: wanted.stream(codec, None),
            taken: Vec::new(),
        }
    }

    /// The next list, and what the member of its centroid says; `None` when there are no
    /// more.
    pub fn next<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
        query: &Query,
    ) -> Result<Option<(List, Hit)>, Error> {
        let at_once = self.wanted.branches(index);
        let root = match &mut self.root {
            Some(root) => root,
            None => {
                let mut root = self.wanted.stream(index.codec(), at_once);
                let (base, link) = index.enter(query)?;
                root.open(index.root().number, link.head, base);
                self.root.insert(root)
            }
        };
        let Some(at_once) = at_once else {
            let next = root.next(index, query)?;
            return Ok(next.map(|hit| (index.child(index.root(), hit.member, hit.place), hit)));
        };
        loop {
            if let Some(hit) = self.of_branches.next(index, query)? {
                let branch = self.taken.iter().find(|branch| branch.number == hit.list);
                let Some(&branch) = branch else {
                    unreachable!("all open lists are those of branches that were taken");
                };
                return Ok(Some((index.child(branch, hit.member, hit.place), hit)));
            }
            self.of_branches.restart();
            self.taken.clear();
            while self.taken.len() < at_once
                && let Some(hit) = root.next(index, query)?
            {
                let branch = index.child(index.root(), hit.member, hit.place);
                self.taken.push(branch);
                open(index, &mut self.of_branches, branch, &hit);
            }
            if self.taken.is_empty() {
                return Ok(None);
            }
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let root = self.root.as_ref().map(Stream::counters);
        root.unwrap_or_default() + self.of_branches.counters()
    }
}

impl Wanted {
    /// Branches that are taken at a time; `None` if there are none.
    fn branches<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        self,
        index: &Index<'_, S, C>,
    ) -> Option<usize> {
        let meta = index.meta();
        index.has_branches().then(|| match self {
            Wanted::Key(wanted) => taken_at_once(meta.lists, meta.branches, wanted),
            Wanted::Distance => NEAR_BRANCHES,
        })
    }

    /// A stream of so many branches, or of lists.
    fn stream(self, codec: &Codec, branches: Option<usize>) -> Stream {
        match self {
            Wanted::Key(lists) => Stream::of_centroids(branches.unwrap_or(lists)),
            Wanted::Distance => Stream::by_distance(codec, branches.unwrap_or(1)),
        }
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
