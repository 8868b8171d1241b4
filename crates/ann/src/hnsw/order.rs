//! The rows of a search in an order, round after round.
//!
//! A search visits the nearest vertices that it knows of. Later ones may be nearer all the
//! same, because estimates are off, and a graph leads to some vertices by a detour. Where the
//! order is to be strict, such a row comes too late and is left out; where not, others were
//! returned before it, and may have been enough. So rows are kept back: of a search that goes
//! on, only the nearest *share* of all that it visited is returned.
//!
//! How large a share may be is seen from the search itself. A vertex is late for a share if it
//! is among the nearest share of all when it is visited; the share is the largest for which few
//! were late, of those returned ([`Lateness`]). That depends on the visits, which are the same
//! for each width of a search, and not on when rows are asked for. A wider one begins to return
//! rows later and then stops after the same visits, each time with the same limit, so that no
//! row comes too late which a narrower one returns: it finds no less.

use memory::OutOfMemory;
use memory::vec::{collect, extend};

use super::beam::Found;
use super::codec::Codec;
use super::index::Index;
use super::layout::HeapTid;
use super::scan::{Scan, stop_from};
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

/// Puts rows into order.
pub struct Ordered {
    order: Order,
    /// Rows are ordered by lower bounds of their distances.
    by_bound: bool,
    /// Rows that a later round may have to put others before, nearest first, each with
    /// what it is ordered by.
    waiting: Vec<(f64, HeapTid)>,
    lateness: Lateness,
    /// What the last row is ordered by.
    last: f64,
    is_first: bool,
    finished: bool,
}

impl Ordered {
    /// Of a search that has not begun.
    pub fn new(order: Order, by_bound: bool) -> Self {
        Ordered {
            order,
            by_bound,
            waiting: Vec::new(),
            lateness: Lateness::default(),
            last: f64::NEG_INFINITY,
            is_first: true,
            finished: false,
        }
    }

    /// Whether there are no more rows.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The rows of the next round of the search, of `ef` vertices, in order, each with what
    /// it is ordered by: none, if later ones may come before all that are known.
    /// `is_last` is asked after the search whether it has to end; it is told the bytes of
    /// memory that are in use.
    pub fn next_round<S: PageStore, C: Codec>(
        &mut self,
        scan: &mut Scan<C::Query>,
        index: &Index<'_, S, C>,
        ef: usize,
        is_last: impl FnOnce(&Scan<C::Query>, usize) -> bool,
    ) -> Result<Vec<(f64, HeapTid)>, Error> {
        let mut found = match self.order {
            Order::Once => scan.next_round(index, ef)?,
            Order::Relaxed | Order::Strict => scan.advance(index, ef)?,
        };
        let is_last = is_last(scan, scan.memory() + self.memory());
        let is_first = self.order == Order::Once && self.is_first;
        self.is_first = false;
        if is_last && !is_first {
            extend(&mut found, scan.rest()?, ROWS)?;
        }
        self.finished = found.is_empty() || is_last;
        let rank = |found: &Found| match self.by_bound {
            true => found.bound,
            false => index.options().distance(found.distance),
        };
        for found in &found {
            let tids = scan.heap_tids(found).iter().map(|&tid| (rank(found), tid));
            extend(&mut self.waiting, tids, ROWS)?;
        }
        // Most of it is in order.
        self.waiting.sort_by(|a, b| a.0.total_cmp(&b.0));
        match self.order {
            Order::Once => self.lateness.show(found.iter().map(rank), 0)?,
            // As they would have been shown one step after the other.
            _ => {
                for step in found.chunk_by(|a, b| stop_after(a) == stop_after(b)) {
                    let visits = stop_after(&step[0]);
                    self.lateness.show(step.iter().map(rank), visits)?;
                }
            }
        }
        let sure = if self.finished || is_first {
            self.waiting.len()
        } else {
            let limit = self.lateness.limit(self.order, index.is_fused());
            self.waiting.partition_point(|&(rank, _)| rank <= limit)
        };
        let mut rows = collect(self.waiting.drain(..sure), ROWS)?;
        // An order that was promised stays one when a search goes on.
        if self.order != Order::Relaxed {
            rows.retain(|&(rank, _)| rank >= self.last);
        }
        if let Some(&(rank, _)) = rows.last() {
            self.last = rank;
        }
        Ok(rows)
    }

    /// Bytes of memory that rows take, roughly.
    fn memory(&self) -> usize {
        self.waiting.len() * size_of::<(f64, HeapTid)>()
            + self.lateness.ranks.len() * size_of::<f64>()
    }
}

/// The number of visits after which the stream that found a vertex stopped, or could have.
fn stop_after(found: &Found) -> usize {
    stop_from(found.position as usize)
}

/// Shares are so many parts of this.
const PARTS: usize = 16;

/// How many of the nearest of all that was visited came late.
#[derive(Default)]
struct Lateness {
    /// What was visited is ordered by these, ascending but for the last ones.
    ranks: Vec<f64>,
    /// So many are in order. The rest waits for somebody who needs it: of a search that ends
    /// with its first round, nobody does.
    sorted: usize,
    /// How many were late for a share of one more than so many parts, of so many visits:
    /// of about the last half of the search, or of thousands.
    late: [f64; PARTS],
    of: f64,
}

impl Lateness {
    /// Shows what the next visits found, after which there were so many.
    fn show(
        &mut self,
        ranks: impl ExactSizeIterator<Item = f64>,
        visits: usize,
    ) -> Result<(), OutOfMemory> {
        /// On its way to what is near, a search finds ever nearer ones.
        const ON_THE_WAY: usize = 32;
        /// What is remembered of earlier steps: about as much as eight of them tell.
        const KEPT: f64 = 0.875;
        let known = self.in_order().len();
        extend(&mut self.ranks, ranks, ROWS)?;
        let (before, shown) = self.ranks.split_at(known);
        if visits > ON_THE_WAY && known > 0 {
            self.late.iter_mut().for_each(|late| *late *= KEPT);
            self.of = KEPT * self.of + shown.len() as f64;
            for rank in shown {
                let nearer = before.partition_point(|r| r < rank);
                if nearer < known {
                    self.late[nearer * PARTS / known] += 1.0;
                }
            }
        }
        Ok(())
    }

    /// What all that was visited is ordered by, ascending.
    fn in_order(&mut self) -> &[f64] {
        if self.sorted < self.ranks.len() {
            self.ranks[self.sorted..].sort_unstable_by(f64::total_cmp);
            // Two runs in order.
            self.ranks.sort_by(f64::total_cmp);
            self.sorted = self.ranks.len();
        }
        &self.ranks
    }

    /// What is farther has to wait, in a search by estimates or by exact distances.
    fn limit(&mut self, order: Order, by_estimates: bool) -> f64 {
        let sure = self.ranks.len() * self.parts(order, by_estimates) / PARTS;
        match sure.checked_sub(1) {
            Some(last) => self.in_order()[last],
            None => f64::NEG_INFINITY,
        }
    }

    /// The share of the nearest that is known well enough.
    fn parts(&self, order: Order, by_estimates: bool) -> usize {
        // So many of what is returned may be late: to be left out, or returned all the same.
        let tolerated = match order {
            Order::Strict => 0.0025,
            Order::Once | Order::Relaxed => 0.01,
        };
        /// Of fewer visits, nothing is known.
        const ENOUGH: f64 = 64.0;
        /// More, and less, hardly matter.
        const MOST: usize = 3 * PARTS / 4;
        const LEAST: usize = PARTS / 16;
        if self.of < ENOUGH {
            return if by_estimates {
                PARTS / 4
            } else {
                5 * PARTS / 8
            };
        }
        let mut late = 0.0;
        let mut parts = LEAST;
        for share in 1..=MOST {
            late += self.late[share - 1];
            if late <= tolerated * self.of * share as f64 / PARTS as f64 {
                parts = parts.max(share);
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts of what was visited that may be returned, of visits by their ranks.
    fn parts(ranks: &[f64]) -> usize {
        let mut lateness = Lateness::default();
        for (step, ranks) in (1..).zip(ranks.chunks(16)) {
            lateness.show(ranks.iter().copied(), 16 * step).unwrap();
        }
        lateness.parts(Order::Relaxed, true)
    }

    #[test]
    fn of_a_search_in_order_most_is_returned() {
        let in_order: Vec<f64> = (0..400).map(f64::from).collect();
        assert_eq!(parts(&in_order[..64]), PARTS / 4);
        assert_eq!(parts(&in_order), 3 * PARTS / 4);
        // On the way to what is near, all are late.
        let mut ranks: Vec<f64> = (0..32).map(|rank| -f64::from(rank)).collect();
        ranks.extend(in_order);
        assert_eq!(parts(&ranks), 3 * PARTS / 4);
    }

    #[test]
    fn of_a_search_in_which_vertices_come_late_less_is_returned() {
        // One in twenty is among the nearest third or so when it comes.
        let some: Vec<f64> = (0..2000_u32)
            .map(|i| match i % 20 {
                0 => f64::from(i) / 3.0,
                _ => f64::from(i),
            })
            .collect();
        let some = parts(&some);
        assert!((4..=6).contains(&some), "{some}");
        // In any order.
        let many: Vec<f64> = (0..2000_u32).map(|i| f64::from(i * 7919 % 2000)).collect();
        assert_eq!(parts(&many), 1);
    }
}
