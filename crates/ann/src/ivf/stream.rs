//! The members of lists, nearest first, without looking closely at most of them.
//!
//! A round compares the query with the 1-bit codes of all members of the open
//! lists. That gives an estimate of each one's key, and a probable lower bound:
//! the estimate less a few standard deviations. The round keeps the members
//! whose lower bound is below the n-th smallest estimate, and no others. They wait
//! in a queue, those whose codes share a page together, in the order of their lowest
//! bounds. When a page comes to the head of the queue, its members are looked up,
//! and wait again, each in the order of what its own code says; a member that comes
//! to the head is the next one. When the queue is exhausted up to the limit of the
//! round, another one looks for more members, beyond that limit.
//!
//! Where members are ordered by a guaranteed lower bound, that may be below the
//! probable one by which the member waited until then. It stays behind the
//! members that went before it all the same, because its distance does, probably.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::codec::{Base, Codec, Level, Query};
use super::index::Index;
use super::layout::{Entry, Header, NO_BLOCK, Place};
use crate::Error;
use crate::page::{Block, PageStore};
use crate::quantize::fastscan::BLOCK;
use crate::quantize::rabitq::Form;

/// Standard deviations between an estimate and its probable lower bound. The
/// error is nearly normal: one in thirty thousand is larger.
const DEVIATIONS: f32 = 4.0;

/// The same for the centroids that a search opens the lists of: one in six may come
/// late or, among the last that are opened, not at all.
const DEVIATIONS_OF_CENTROIDS: f32 = 1.0;

/// Pages that are visited at once, while the memory works on the next ones.
const AT_ONCE: usize = 4;

/// One in so many of the rows that a round looks for is likely to be asked for. A visit
/// to a page looks up those of its rows that may be among them, and leaves the others
/// to a later visit.
const LIKELY: usize = 4;

/// Each round looks for so many times as many members as the one before.
const GROWTH: usize = 4;

/// What decides the order of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Squared L2, whatever the metric: centroids, for a row that is added.
    Squared,
    /// Their keys.
    Key,
    /// A lower bound of the distance that the metric's operator computes.
    Bound,
}

/// A member that a stream returns.
#[derive(Debug, Clone, Copy)]
pub struct Hit {
    /// What [`Order`] says, in the units of the metric's operator; for
    /// [`Order::Squared`] the squared distance.
    pub value: f64,
    /// Its number in the list, counted over all pages.
    pub member: u32,
    /// Where its entry is.
    pub place: Place,
    /// Its target.
    pub target: u64,
    /// Of a centroid: what the query has in common with its members.
    pub base: Base,
}

/// What a stream did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Members whose 1-bit codes were compared.
    pub estimated: u64,
    /// Members that were looked up.
    pub refined: u64,
}

/// A list whose members are compared.
struct Open {
    list: u32,
    head: Block,
    base: Base,
}

/// A member that a round found.
#[derive(Clone, Copy)]
struct Candidate {
    least: f32,
    open: u32,
    member: u32,
    place: Place,
}

/// What waits.
#[derive(Clone, Copy)]
struct Waiting {
    rank: f64,
    what: What,
}

/// One of [`Stream::found`], or the first one of the [`Stream::candidates`] of a page.
/// One word, because a heap moves it as one.
#[derive(Clone, Copy)]
struct What(u64);

impl What {
    fn page(first: usize) -> Self {
        What(first as u64)
    }

    fn found(at: u32) -> Self {
        What(1 << 32 | u64::from(at))
    }

    fn is_found(self) -> bool {
        self.0 >> 32 != 0
    }

    fn at(self) -> usize {
        self.0 as u32 as usize
    }
}

impl Ord for Waiting {
    /// The greatest is the first to go.
    fn cmp(&self, other: &Self) -> Ordering {
        other.rank.total_cmp(&self.rank)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

/// See the module.
pub struct Stream {
    level: Level,
    order: Order,
    open: Vec<Open>,
    /// Members that the next round looks for.
    window: usize,
    /// What rounds have found is not above it: `None` before the first one.
    limit: Option<f32>,
    /// What the last round found. All of it is looked up before the next one.
    candidates: Vec<Candidate>,
    /// What was looked up and not returned yet.
    found: Vec<Hit>,
    /// Places of it that are not in use.
    vacant: Vec<u32>,
    queue: BinaryHeap<Waiting>,
    counters: Counters,
}

impl Stream {
    /// A stream of rows.
    pub fn of_rows(order: Order, window: usize) -> Self {
        Self::new(Level::Rows, order, window)
    }

    /// A stream of centroids in the order of their keys.
    pub fn of_centroids(window: usize) -> Self {
        Self::new(Level::Centroids, Order::Key, window)
    }

    /// A stream of centroids in the order of their distances.
    pub fn by_distance(codec: &Codec) -> Self {
        // Estimates of inner products do not tell about distances.
        let window = match codec.form() {
            Form::L2 => 1,
            Form::InnerProduct => usize::MAX,
        };
        Self::new(Level::Centroids, Order::Squared, window)
    }

    fn new(level: Level, order: Order, window: usize) -> Self {
        Stream {
            level,
            order,
            open: Vec::new(),
            window: window.max(1),
            limit: None,
            candidates: Vec::new(),
            found: Vec::new(),
            vacant: Vec::new(),
            queue: BinaryHeap::new(),
            counters: Counters::default(),
        }
    }

    /// Adds a list, before the first call of [`Stream::next`].
    pub fn open(&mut self, list: u32, head: Block, base: Base) {
        self.open.push(Open { list, head, base });
    }

    /// Forgets the lists, to open others. The members of the old ones have all
    /// been returned.
    pub fn restart(&mut self, window: usize) {
        self.open.clear();
        self.queue.clear();
        self.found.clear();
        self.vacant.clear();
        self.limit = None;
        self.window = window;
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The next member; `None` when there are no more.
    pub fn next<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
        query: &Query,
    ) -> Result<Option<Hit>, Error> {
        loop {
            let limit = match self.limit {
                Some(limit) => least_rank(self.order, &index.codec, limit),
                None => f64::NEG_INFINITY,
            };
            match self.queue.peek() {
                Some(&next) if next.rank <= limit => {
                    if next.what.is_found() {
                        self.queue.pop();
                        self.vacant.push(next.what.at() as u32);
                        return Ok(Some(self.found[next.what.at()]));
                    }
                    self.look_up(index, query, limit)?;
                }
                // Everything was found, and is gone.
                _ if self.limit == Some(f32::INFINITY) => return Ok(None),
                _ => self.round(index, query)?,
            }
        }
    }

    /// Looks the first members of the queue up.
    fn look_up<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
        query: &Query,
        limit: f64,
    ) -> Result<(), Error> {
        let layout = index.codec.layout(self.level);
        let mut pages = [0; AT_ONCE];
        let mut count = 0;
        while count < AT_ONCE
            && let Some(&next) = self.queue.peek()
            && next.rank <= limit
            && !next.what.is_found()
        {
            self.queue.pop();
            pages[count] = next.what.at();
            count += 1;
            for candidate in self.of_page(next.what.at()) {
                let at = layout.entry_at(candidate.place.slot.into());
                let Place { block, .. } = candidate.place;
                index.store.prefetch(block, at, layout.entry_len);
            }
        }
        // A heap takes many at once at less cost.
        let mut found = Vec::new();
        for &first in &pages[..count] {
            let Candidate { open, place, .. } = self.candidates[first];
            let Open { list, base, .. } = self.open[open as usize];
            let Some(page) = index.code_page(self.level, list, place.block)? else {
                continue;
            };
            for at in first..first + self.of_page(first).len() {
                let candidate = self.candidates[at];
                self.counters.refined += 1;
                let Some(entry) = page.entry(candidate.place.slot) else {
                    continue;
                };
                let hit = self.hit(&index.codec, query, base, candidate, entry);
                let least = least_rank(self.order, &index.codec, candidate.least);
                let rank = match self.order {
                    Order::Bound => hit.value.max(least),
                    Order::Key | Order::Squared => hit.value,
                };
                let what = What::found(self.keep(hit));
                found.push(Waiting { rank, what });
            }
        }
        self.queue.extend(found);
        Ok(())
    }

    /// The candidates from one on that follow each other and share a code page.
    fn of_page(&self, first: usize) -> &[Candidate] {
        let rest = &self.candidates[first..];
        let block = rest[0].place.block;
        let is_other = |candidate: &Candidate| candidate.place.block != block;
        &rest[..rest.iter().position(is_other).unwrap_or(rest.len())]
    }

    /// Keeps what was found, and says where.
    fn keep(&mut self, hit: Hit) -> u32 {
        if let Some(at) = self.vacant.pop() {
            self.found[at as usize] = hit;
            return at;
        }
        self.found.push(hit);
        self.found.len() as u32 - 1
    }

    /// What a member's entry says.
    #[inline]
    fn hit(
        &self,
        codec: &Codec,
        query: &Query,
        base: Base,
        candidate: Candidate,
        entry: Entry<'_>,
    ) -> Hit {
        let key = codec.key(self.level, query, base, entry);
        let base = match self.level {
            Level::Centroids => codec.base(query, base, entry),
            Level::Rows => base,
        };
        let value = match self.order {
            // Strings of bits have no base of their own.
            Order::Squared if codec.form() == Form::InnerProduct => f64::from(base.squared),
            Order::Squared => f64::from(key),
            Order::Key => codec.distance(key),
            Order::Bound => codec.bound(query, entry, key),
        };
        Hit {
            value,
            member: candidate.member,
            place: candidate.place,
            target: entry.head.target,
            base,
        }
    }

    /// Finds the next members of the open lists.
    fn round<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
        query: &Query,
    ) -> Result<(), Error> {
        let mut keep = Keep {
            window: self.window,
            after: self.limit,
            smallest: BinaryHeap::new(),
            limit: f32::INFINITY,
            prune_at: self.window.saturating_mul(2).max(4 * BLOCK),
            blocks: index.store.block_count(),
        };
        debug_assert!(self.queue.iter().all(|waiting| waiting.what.is_found()));
        self.candidates.clear();
        for number in 0..self.open.len() {
            let Open { list, head, base } = self.open[number];
            self.scan(index, query, &mut keep, number as u32, (list, head, base))?;
        }
        keep.prune(&mut self.candidates);
        self.limit = Some(keep.limit);
        if self.level == Level::Rows {
            let likely = keep.likely();
            let is_later = |candidate: &mut Candidate| candidate.least > likely;
            let mut later: Vec<Candidate> = self.candidates.extract_if(.., is_later).collect();
            self.candidates.append(&mut later);
        }
        let mut first = 0;
        while first < self.candidates.len() {
            let page = self.of_page(first);
            let least = page.iter().fold(f32::INFINITY, |least, candidate| {
                // What is no number comes first.
                match candidate.least.is_nan() {
                    true => f32::NEG_INFINITY,
                    false => least.min(candidate.least),
                }
            });
            let waiting = Waiting {
                rank: least_rank(self.order, &index.codec, least),
                what: What::page(first),
            };
            first += page.len();
            self.queue.push(waiting);
        }
        self.window = self.window.saturating_mul(GROWTH);
        Ok(())
    }

    /// Compares the query with the members of a list.
    fn scan<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
        query: &Query,
        keep: &mut Keep,
        open: u32,
        (list, head, base): (u32, Block, Base),
    ) -> Result<(), Error> {
        let layout = index.codec.layout(self.level);
        let table = query.table(self.level);
        let deviations = match (self.level, self.order) {
            (Level::Centroids, Order::Key) => DEVIATIONS_OF_CENTROIDS,
            _ => DEVIATIONS,
        };
        let reach = deviations * base.squared.max(0.0).sqrt();
        let (mut keys, mut least) = ([0.0; BLOCK], [0.0; BLOCK]);
        let mut first_member = 0;
        let mut at = head;
        let mut pages = 0;
        while at != NO_BLOCK {
            let page = index.list_page(at, list)?;
            let header = Header::of(&page);
            if header.next != NO_BLOCK {
                index.store.prefetch(header.next, 0, 1024);
            }
            let directory = layout.directory(&page);
            for (block, &alive) in layout.alive(&page).iter().enumerate() {
                if alive == 0 {
                    continue;
                }
                let columns = layout.block(&page, block);
                let line = (base.key, reach, keep.limit);
                let near = table.bounds(columns.codes, &columns.terms, line, &mut keys, &mut least);
                self.counters.estimated += u64::from(alive.count_ones());
                let mut near = alive & near;
                if let Some(after) = keep.after {
                    near &= above(&least, after);
                }
                while near != 0 {
                    let column = near.trailing_zeros() as usize;
                    near &= near - 1;
                    let number = block * BLOCK + column;
                    keep.count(keys[column]);
                    self.candidates.push(Candidate {
                        least: least[column],
                        open,
                        member: first_member + number as u32,
                        place: layout.place(directory, number),
                    });
                }
            }
            if self.candidates.len() >= keep.prune_at {
                keep.prune(&mut self.candidates);
                keep.prune_at = keep.prune_at.max(2 * self.candidates.len());
            }
            first_member += layout.columns as u32;
            at = header.next;
            drop(page);
            pages += 1;
            if pages > keep.blocks {
                return Err(Error::corrupted(at, format!("list {list} has no end")));
            }
        }
        Ok(())
    }
}

/// The rank that a probable lower bound of a key stands for.
fn least_rank(order: Order, codec: &Codec, key: f32) -> f64 {
    match order {
        Order::Squared => f64::from(key),
        Order::Key | Order::Bound => codec.distance(key),
    }
}

/// Which members a round keeps.
struct Keep {
    window: usize,
    /// Those not above it were found before.
    after: Option<f32>,
    /// The window's smallest estimates, as [`ordered`].
    smallest: BinaryHeap<i32>,
    /// The last one of them: what is above it waits for a later round.
    limit: f32,
    /// Members, so many that most are surely not kept.
    prune_at: usize,
    /// Pages of the index: a list has fewer.
    blocks: Block,
}

impl Keep {
    /// Lowers the limit, if an estimate is among the smallest.
    #[inline]
    fn count(&mut self, estimate: f32) {
        // What is no number is not.
        if estimate < self.limit {
            if self.smallest.len() < self.window {
                self.smallest.push(ordered(estimate));
            } else if let Some(mut last) = self.smallest.peek_mut() {
                *last = ordered(estimate);
            }
            if self.smallest.len() == self.window
                && let Some(&last) = self.smallest.peek()
            {
                self.limit = number_of(last);
            }
        }
    }

    /// The estimate that [`LIKELY`] speaks of.
    fn likely(self) -> f32 {
        let mut smallest = self.smallest.into_vec();
        let at = smallest.len() / LIKELY;
        match smallest.is_empty() {
            true => self.limit,
            false => number_of(*smallest.select_nth_unstable(at).1),
        }
    }

    /// Drops what is above the limit.
    fn prune(&self, found: &mut Vec<Candidate>) {
        // What is no number is kept.
        found.retain(|candidate| candidate.least <= self.limit || candidate.least.is_nan());
    }
}

/// An integer for a number, in the same order.
fn ordered(number: f32) -> i32 {
    turn_if_negative(number.to_bits() as i32)
}

/// The number of an integer that [`ordered`] gave.
fn number_of(ordered: i32) -> f32 {
    f32::from_bits(turn_if_negative(ordered) as u32)
}

/// The bits of negative numbers are in the opposite order. Turned twice, they are what
/// they were.
fn turn_if_negative(bits: i32) -> i32 {
    bits ^ (bits >> 31) & i32::MAX
}

/// Which of 32 numbers are above another.
fn above(numbers: &[f32; BLOCK], limit: f32) -> u32 {
    let bits = numbers.iter().enumerate();
    bits.fold(0, |mask, (i, &x)| mask | u32::from(x > limit) << i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_the_order_of_their_numbers() {
        let numbers = [
            f32::NEG_INFINITY,
            -3.4e38,
            -1.5,
            -1.0,
            -1e-45,
            -0.0,
            0.0,
            1e-45,
            1.0,
            1.5,
            3.4e38,
            f32::INFINITY,
        ];
        assert!(numbers.map(ordered).is_sorted_by(|a, b| a < b));
        for number in numbers {
            assert_eq!(number_of(ordered(number)).to_bits(), number.to_bits());
        }
    }

    /// Whatever the order in which estimates come.
    #[test]
    fn the_limit_is_the_last_of_the_smallest_estimates() {
        let mut keep = Keep {
            window: 8,
            after: None,
            smallest: BinaryHeap::new(),
            limit: f32::INFINITY,
            prune_at: 0,
            blocks: 0,
        };
        for i in 0..100_u32 {
            assert_eq!(keep.limit == f32::INFINITY, i < 8);
            keep.count((i * 37 % 100) as f32 - 50.0);
            keep.count(f32::NAN);
        }
        assert_eq!(keep.limit, -43.0);
        assert_eq!(keep.likely(), -48.0);
    }
}
