//! The rows of a search in an order, round after round.
//!
//! A round finds the nearest vertices that are known by then. Later ones may be nearer all
//! the same, because estimates are off, and a graph leads to some vertices by a detour.
//! Where the order is to be strict, such a row comes too late and is left out; where not,
//! others were returned before it, and may have been enough. So a search that goes on keeps
//! rows back until four times as many were visited by estimates, or half as many again by
//! exact distances, however many a round visits: what is returned is then known as well at
//! every width of the search.

use memory::vec::{collect, extend};

use super::codec::Codec;
use super::index::Index;
use super::layout::HeapTid;
use super::scan::Scan;
use crate::Error;
use crate::page::PageStore;

/// What is promised of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Rows come nearest first, all that the first round finds; further rounds make up for
    /// rows that nobody sees any more.
    Once,
    /// Rows of each round come nearest first.
    Relaxed,
    /// Rows come nearest first, in as many rounds as are asked for.
    Strict,
}

/// What memory is asked for.
const ROWS: &str = "the rows that a search found";

/// Visits for two rows that are returned, of a search by estimates and of an exact one.
const VISITS: [u64; 2] = [8, 3];

/// Puts rows into order.
pub struct Ordered {
    order: Order,
    /// Rows are ordered by lower bounds of their distances.
    by_bound: bool,
    /// Rows that a later round may have to put others before, nearest first, each with
    /// what it is ordered by.
    waiting: Vec<(f64, HeapTid)>,
    /// The most by which a row's bound was below the distance of its code.
    slack: f64,
    /// What the last row is ordered by.
    last: f64,
    returned: u64,
    finished: bool,
}

impl Ordered {
    /// Of a search that has not begun.
    pub fn new(order: Order, by_bound: bool) -> Self {
        Ordered {
            order,
            by_bound,
            waiting: Vec::new(),
            slack: 0.0,
            last: f64::NEG_INFINITY,
            returned: 0,
            finished: false,
        }
    }

    /// Whether there are no more rows.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The rows of the next round of the search, of `ef` vertices, in order, each with what
    /// it is ordered by: none, if later ones may come before all that are known.
    /// `is_last` is asked after the search whether it has to end.
    pub fn next_round<S: PageStore, C: Codec>(
        &mut self,
        scan: &mut Scan<C::Query>,
        index: &Index<'_, S, C>,
        ef: usize,
        is_last: impl FnOnce(&Scan<C::Query>) -> bool,
    ) -> Result<Vec<(f64, HeapTid)>, Error> {
        let mut found = scan.next_round(index, ef)?;
        let is_last = is_last(scan);
        let is_first = self.order == Order::Once && self.returned == 0;
        if is_last && !is_first {
            extend(&mut found, scan.rest()?, ROWS)?;
        }
        self.finished = found.is_empty() || is_last;
        let mut farthest = f64::NEG_INFINITY;
        for found in &found {
            let distance = index.options().distance(found.distance);
            let rank = if self.by_bound { found.bound } else { distance };
            farthest = farthest.max(distance);
            self.slack = self.slack.max(distance - rank);
            let tids = scan.heap_tids(found).iter();
            extend(&mut self.waiting, tids.map(|&tid| (rank, tid)), ROWS)?;
        }
        self.waiting.sort_by(|a, b| a.0.total_cmp(&b.0));
        let sure = if self.finished || is_first {
            self.waiting.len()
        } else {
            self.sure(farthest, index.is_fused(), scan.counters().visited)
        };
        let mut rows = collect(self.waiting.drain(..sure), ROWS)?;
        self.returned += rows.len() as u64;
        // An order that was promised stays one when a search goes on.
        if self.order != Order::Relaxed {
            rows.retain(|&(rank, _)| rank >= self.last);
        }
        if let Some(&(rank, _)) = rows.last() {
            self.last = rank;
        }
        Ok(rows)
    }

    /// How many of the rows that wait may be returned, of a search that goes on, whose last
    /// round went so far.
    fn sure(&self, farthest: f64, by_estimates: bool, visited: u64) -> usize {
        let mut sure = self.waiting.len();
        if self.order != Order::Relaxed {
            // Rows of later rounds are hardly nearer than the farthest of this one, and
            // their bounds hardly lower than that by more than any so far.
            let limit = farthest - self.slack;
            sure = self.waiting.partition_point(|&(rank, _)| rank <= limit);
        }
        let visits = VISITS[usize::from(!by_estimates)];
        let more = (2 * visited / visits).saturating_sub(self.returned);
        sure = sure.min(usize::try_from(more).unwrap_or(usize::MAX));
        // Rows that are as far as the last of them are no later.
        match sure.checked_sub(1) {
            Some(last) => {
                let last = self.waiting[last].0;
                self.waiting.partition_point(|&(rank, _)| rank <= last)
            }
            None => 0,
        }
    }
}
