//! The members of lists, nearest first, without looking closely at most of them.
//!
//! A round compares the query with the 1-bit codes of all members of the open
//! lists. That gives an estimate of each one's key, and a probable lower bound:
//! the estimate less a few standard deviations. The round keeps the members
//! whose lower bound is below the n-th smallest estimate, and no others. Those
//! wait in a queue, in the order of their lower bounds; what comes to its head is
//! looked up, and waits again in the order of what its own code says. A member
//! that comes to the head a second time is the next one. When the queue is
//! exhausted up to the limit of the round, another one looks for more members,
//! beyond that limit.
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

/// Members that are looked up at once, while the memory works on the next ones.
const AT_ONCE: usize = 8;

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
    estimate: f32,
    least: f32,
    open: u32,
    member: u32,
    place: Place,
}

/// A member that waits.
#[derive(Clone, Copy)]
struct Waiting {
    rank: f64,
    /// Which of the round's candidates it is, or of what was found.
    at: u32,
    /// Whether its entry was looked up.
    is_found: bool,
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
                    if next.is_found {
                        self.queue.pop();
                        self.vacant.push(next.at);
                        return Ok(Some(self.found[next.at as usize]));
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
        let mut taken: [Option<Candidate>; AT_ONCE] = [None; AT_ONCE];
        for place in &mut taken {
            match self.queue.peek() {
                Some(next) if next.rank <= limit && !next.is_found => {
                    let candidate = self.candidates[next.at as usize];
                    let at = layout.entry_at(candidate.place.slot.into());
                    let len = layout.entry_len;
                    index.store.prefetch(candidate.place.block, at, len);
                    *place = Some(candidate);
                    self.queue.pop();
                }
                _ => break,
            }
        }
        for candidate in taken.into_iter().flatten() {
            self.counters.refined += 1;
            let open = &self.open[candidate.open as usize];
            let look =
                |entry: Entry<'_>| self.hit(&index.codec, query, open.base, candidate, entry);
            if let Some(hit) = index.with_entry(self.level, open.list, candidate.place, look)? {
                let least = least_rank(self.order, &index.codec, candidate.least);
                let rank = match self.order {
                    Order::Bound => hit.value.max(least),
                    Order::Key | Order::Squared => hit.value,
                };
                let at = self.keep(hit);
                self.queue.push(Waiting {
                    rank,
                    at,
                    is_found: true,
                });
            }
        }
        Ok(())
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
            limit: f32::INFINITY,
            prune_at: self.window.saturating_mul(2).max(4 * BLOCK),
            blocks: index.store.block_count(),
        };
        debug_assert!(self.queue.iter().all(|waiting| waiting.is_found));
        self.candidates.clear();
        for number in 0..self.open.len() {
            let Open { list, head, base } = self.open[number];
            self.scan(index, query, &mut keep, number as u32, (list, head, base))?;
        }
        keep.prune(&mut self.candidates);
        let order = self.order;
        self.queue
            .extend((0_u32..).zip(&self.candidates).map(|(at, candidate)| {
                let rank = least_rank(order, &index.codec, candidate.least);
                Waiting {
                    // What is no number comes first.
                    rank: if rank.is_nan() {
                        f64::NEG_INFINITY
                    } else {
                        rank
                    },
                    at,
                    is_found: false,
                }
            }));
        self.window = self.window.saturating_mul(GROWTH);
        self.limit = Some(keep.limit);
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
                    self.candidates.push(Candidate {
                        estimate: keys[column],
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
    /// Those above it wait for a later round.
    limit: f32,
    /// Members, so many that most are surely not kept.
    prune_at: usize,
    /// Pages of the index: a list has fewer.
    blocks: Block,
}

impl Keep {
    /// Lowers the limit to the window's last estimate, and drops what is above
    /// it.
    fn prune(&mut self, found: &mut Vec<Candidate>) {
        if found.len() <= self.window {
            return;
        }
        let order = |a: &Candidate, b: &Candidate| a.estimate.total_cmp(&b.estimate);
        let (_, last, _) = found.select_nth_unstable_by(self.window - 1, order);
        let last = last.estimate;
        if last < self.limit {
            self.limit = last;
            // What is no number is kept.
            found.retain(|candidate| candidate.least <= last || candidate.least.is_nan());
        }
    }
}

/// Which of 32 numbers are above another.
fn above(numbers: &[f32; BLOCK], limit: f32) -> u32 {
    let bits = numbers.iter().enumerate();
    bits.fold(0, |mask, (i, &x)| mask | u32::from(x > limit) << i)
}
