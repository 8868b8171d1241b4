//! Nearest rows of a query, as a stream.
//!
//! A scan takes lists in the order of their centroids, some at a time, and
//! returns all of their rows, nearest first, before it takes more lists.

use super::codec::{Codec, Query};
use super::index::Index;
use super::lists::{self, Lists};
use super::stream::{Counters, Order, Stream};
use crate::page::PageStore;
use crate::{Error, HeapTid};

/// A row that a scan returns.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its distance by its code, or a lower bound of it, in the units of the
    /// metric's operator.
    pub distance: f64,
    /// Its address.
    pub tid: HeapTid,
}

/// A search of an index.
pub struct Scan {
    query: Query,
    /// `None` until the first lists are taken.
    lists: Option<Lists>,
    rows: Stream,
    taken: u32,
}

impl Scan {
    /// A search for the rows nearest to the query. `by_bound`: rows are ordered
    /// by a lower bound of their distance, not by the distance of their code.
    pub fn new(query: Query, by_bound: bool) -> Self {
        let order = if by_bound { Order::Bound } else { Order::Key };
        Scan {
            query,
            lists: None,
            rows: Stream::of_rows(order),
            taken: 0,
        }
    }

    /// Takes the next `count` lists; false if there are no more. The rows of
    /// those that were taken before have all been returned.
    pub fn take_lists<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
        count: usize,
    ) -> Result<bool, Error> {
        let lists = match &mut self.lists {
            Some(lists) => lists,
            None => (self.lists).insert(Lists::by_key(index, &self.query, count)?),
        };
        self.rows.restart();
        let before = self.taken;
        while self.taken - before < count as u32 {
            let Some((list, hit)) = lists.next(index, &self.query)? else {
                break;
            };
            self.taken += 1;
            lists::open(index, &mut self.rows, list, &hit);
        }
        Ok(self.taken > before)
    }

    /// Lists taken so far.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// The next row of the lists that were taken; `None` when there are no more.
    pub fn next_row<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
    ) -> Result<Option<Row>, Error> {
        if self.taken == 0 {
            return Ok(None);
        }
        let hit = self.rows.next(index, &self.query)?;
        Ok(hit.map(|hit| Row {
            distance: hit.value,
            tid: HeapTid(hit.target),
        }))
    }

    /// The rows that are known to be the next ones, in their order.
    pub fn upcoming(&self) -> impl Iterator<Item = HeapTid> {
        self.rows.upcoming().map(|hit| HeapTid(hit.target))
    }

    /// What the search did so far with centroids, and with rows.
    pub fn counters(&self) -> (Counters, Counters) {
        let lists = self.lists.as_ref().map(Lists::counters);
        (lists.unwrap_or_default(), self.rows.counters())
    }
}
