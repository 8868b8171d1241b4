//! The members of lists, nearest first, without looking closely at most of them.
//!
//! A *round* compares the query with the 1-bit codes of all members of the open
//! lists. That gives an estimate of each one's key, and a probable lower bound:
//! the estimate less a few standard deviations. The round keeps the members
//! whose lower bound is below the n-th smallest estimate, and no others.
//!
//! *Stages* look these up. A stage chooses a number that the keys of the next few
//! members are probably not above, and looks up all members whose lower bounds are
//! not above it, in the order of their pages: so that what their own codes say up to
//! that number is all that there is, and is returned in order. The number is the key of
//! a member that was looked up already, if there are enough of them, or one of the
//! estimates. When the stages have reached the limit of the round, another one looks for
//! more members, beyond that limit.
//!
//! Where members are ordered by a guaranteed lower bound, that may be below what the
//! stages before have found. The member stays behind those that went before it all the
//! same, because its distance does, probably.

use memory::OutOfMemory;
use memory::vec::{extend, lengthen, push, reserve};

use super::chain::Chain;
use super::codec::{Base, Codec, Level, Query};
use super::index::Index;
use super::layout::{Entry, Header, Layout, NO_BLOCK, Place, RoundedUp};
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

/// Rows that the first stages of a search are to find: as many as are asked for most
/// often, one that tells that no other row is nearer, and one to spare.
const FIRST_ROWS: usize = 12;

/// Rows that the first round over the lists looks for.
const WINDOW: usize = 32;

/// What memory is asked for.
const SEARCH: &str = "a search";

/// Entries are on their way into the processor's cache so many others ahead.
const AHEAD: usize = 24;

/// Each round looks for so many times as many members as the one before.
const GROWTH: usize = 4;

/// Room for so many candidates is made at once.
const MOST_RESERVED: usize = 1024;

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
    /// The list that it is a member of.
    pub list: u32,
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

impl std::ops::Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Counters {
            estimated: self.estimated + other.estimated,
            refined: self.refined + other.refined,
        }
    }
}

/// A list whose members are compared.
struct Open {
    list: u32,
    head: Block,
    /// That of its pages, once they were read.
    generation: Option<u32>,
    base: Base,
}

/// A list page that a round has read.
struct ListPage {
    /// One of [`Stream::open`].
    open: u32,
    /// The number of its first member.
    first_member: u32,
}

/// A member that a round found.
#[derive(Clone, Copy)]
struct Candidate {
    /// The probable lower bound of its key.
    least: f32,
    /// One of [`Stream::pages`], and its column there.
    page: u32,
    column: u32,
}

impl Candidate {
    /// Whether it can wait. What is no number cannot.
    fn is_above(&self, limit: f32) -> bool {
        self.least > limit
    }
}

/// Candidates that follow each other, and share a code page.
struct Group {
    block: Block,
    /// The column that the code page begins with.
    first: u32,
    /// How many there are.
    len: usize,
}

impl Group {
    fn slot(&self, candidate: &Candidate) -> usize {
        (candidate.column - self.first) as usize
    }
}

/// A member that was looked up, and not returned yet.
struct Waiting {
    /// What decides when it is returned.
    rank: f64,
    key: f32,
    /// Of its entry.
    error: RoundedUp,
    norm: RoundedUp,
    hit: Hit,
}

/// See the module.
pub struct Stream {
    level: Level,
    order: Order,
    open: Vec<Open>,
    /// Members that the first round looks for, and that the first stages are to find.
    first: (usize, usize),
    /// Members that the next round looks for.
    window: usize,
    /// Members that stages are to find, with those that were returned.
    target: usize,
    returned: usize,
    /// Members that were returned before the last round.
    returned_before: usize,
    /// What rounds have found is not above it: `None` before the first one.
    limit: Option<f32>,
    /// What stages have found is not above it.
    sure: f32,
    /// The list pages that the last round has read, and the code pages of each.
    pages: Vec<ListPage>,
    directory: Vec<Block>,
    /// What the last round found and no stage has looked up.
    candidates: Vec<Candidate>,
    /// The smallest estimates of that round, as [`ordered`].
    smallest: Vec<i32>,
    /// What was looked up: so many members that others may precede, then the next ones,
    /// the first of them last.
    waiting: Vec<Waiting>,
    unsure: usize,
    /// Room for the candidates of a stage, for their groups, and for numbers.
    chosen: Vec<Candidate>,
    groups: Vec<Group>,
    numbers: Vec<i32>,
    counters: Counters,
}

impl Stream {
    /// A stream of rows.
    pub fn of_rows(order: Order) -> Self {
        Self::new(Level::Rows, order, WINDOW, FIRST_ROWS)
    }

    /// A stream of centroids in the order of their keys, of which so many are wanted.
    pub fn of_centroids(wanted: usize) -> Self {
        // Estimates are off by some per cent, so a few more are looked for.
        let window = wanted + wanted / 4 + 8;
        Self::new(Level::Centroids, Order::Key, window, wanted)
    }

    /// A stream of centroids in the order of their distances, of which so many are wanted.
    pub fn by_distance(codec: &Codec, wanted: usize) -> Self {
        // Estimates of inner products do not tell about distances.
        let count = match codec.form() {
            Form::L2 => wanted,
            Form::InnerProduct => usize::MAX,
        };
        Self::new(Level::Centroids, Order::Squared, count, count)
    }

    fn new(level: Level, order: Order, window: usize, target: usize) -> Self {
        let first @ (window, target) = (window.max(1), target.max(1));
        Stream {
            level,
            order,
            open: Vec::new(),
            first,
            window,
            target,
            returned: 0,
            returned_before: 0,
            limit: None,
            sure: f32::NEG_INFINITY,
            pages: Vec::new(),
            directory: Vec::new(),
            candidates: Vec::new(),
            smallest: Vec::new(),
            waiting: Vec::new(),
            unsure: 0,
            chosen: Vec::new(),
            groups: Vec::new(),
            numbers: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Adds a list, before the first call of [`Stream::next`] or after
    /// [`Stream::restart`].
    pub fn open(&mut self, list: u32, head: Block, base: Base) {
        self.open.push(Open {
            list,
            head,
            generation: None,
            base,
        });
    }

    /// Forgets the lists, to open others. The members of the old ones have all been
    /// returned.
    pub fn restart(&mut self) {
        self.open.clear();
        self.waiting.clear();
        self.unsure = 0;
        (self.window, self.target) = self.first;
        self.returned = 0;
        self.limit = None;
        self.sure = f32::NEG_INFINITY;
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The members that are known to be the next ones, in their order.
    pub fn upcoming(&self) -> impl Iterator<Item = &Hit> {
        let sure = self.waiting[self.unsure..].iter();
        sure.rev().map(|next| &next.hit)
    }

    /// The next member; `None` when there are no more.
    pub fn next<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
        query: &Query,
    ) -> Result<Option<Hit>, Error> {
        loop {
            if self.waiting.len() > self.unsure {
                self.returned += 1;
                return Ok(self.waiting.pop().map(|next| next.hit));
            }
            match self.limit {
                Some(limit) if self.sure < limit => self.stage(index, query, limit)?,
                // Everything was found, and is gone.
                Some(f32::INFINITY) => return Ok(None),
                _ => self.round(index, query)?,
            }
        }
    }

    /// Finds the next members among the candidates, and puts them into their order.
    fn stage<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
        query: &Query,
        limit: f32,
    ) -> Result<(), Error> {
        let sure = self.reach()?.min(limit);
        self.look_up(index, query, sure)?;
        self.sure = sure;
        let most = rank_of(self.order, &index.codec, sure);
        self.unsure = 0;
        for at in 0..self.waiting.len() {
            if self.waiting[at].rank > most {
                self.waiting.swap(self.unsure, at);
                self.unsure += 1;
            }
        }
        let sure = &mut self.waiting[self.unsure..];
        sure.sort_unstable_by(|a, b| b.rank.total_cmp(&a.rank));
        Ok(())
    }

    /// How far a stage should look: the keys of as many members as it is to find are not
    /// above it, or probably not.
    fn reach(&mut self) -> Result<f32, OutOfMemory> {
        if self.candidates.is_empty() {
            return Ok(f32::INFINITY);
        }
        while self.target <= self.returned {
            self.target = self.target.saturating_mul(2);
        }
        let wanted = self.target - self.returned;
        if self.waiting.len() >= wanted {
            self.numbers.clear();
            let keys = self.waiting.iter().map(|waiting| ordered(waiting.key));
            extend(&mut self.numbers, keys, SEARCH)?;
            return Ok(smallest(&mut self.numbers, wanted));
        }
        // As many keys are often not above the last one of a third more estimates.
        let in_round = self.target - self.returned_before;
        let estimate = smallest(&mut self.smallest, in_round.saturating_add(in_round / 3));
        Ok(match estimate > self.sure {
            true => estimate,
            false => f32::INFINITY,
        })
    }

    /// Looks up the candidates that are not above a limit.
    fn look_up<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
        query: &Query,
        limit: f32,
    ) -> Result<(), Error> {
        let codec = &*index.codec;
        let layout = codec.layout(self.level);
        self.choose(limit)?;
        self.group_chosen(layout)?;
        let (chosen, groups) = (&self.chosen[..], &self.groups[..]);
        self.counters.refined += chosen.len() as u64;
        let known = self.waiting.len();
        reserve(&mut self.waiting, chosen.len(), SEARCH)?;
        let (mut ahead, mut next) = (chosen, chosen);
        let mut groups_ahead = groups.iter();
        for group in groups {
            while next.len() - ahead.len() < AHEAD {
                let Some(group) = groups_ahead.next() else {
                    break;
                };
                let candidates = ahead.split_off(..group.len).unwrap_or_default();
                let starts = candidates.iter().map(|c| layout.entry_at(group.slot(c)));
                (index.store).prefetch(group.block, layout.entry_len, starts);
            }
            let candidates = next.split_off(..group.len).unwrap_or_default();
            let of = &self.pages[candidates[0].page as usize];
            let Open {
                list,
                generation,
                base,
                ..
            } = self.open[of.open as usize];
            let page = index.code_page(list, generation, group.block)?;
            for candidate in candidates {
                let place = Place {
                    block: group.block,
                    slot: group.slot(candidate) as u16,
                };
                let member = of.first_member + candidate.column;
                if let Some(entry) = page.entry(place.slot) {
                    let waiting = self.judge(codec, query, base, entry, (list, member, place));
                    self.waiting.push(waiting);
                }
            }
        }
        if self.order == Order::Bound {
            let after = rank_of(self.order, codec, self.sure);
            bound(codec, query, after, &mut self.waiting[known..]);
        }
        Ok(())
    }

    /// Takes the candidates that are not above a limit, and drops those that are above
    /// that of the round.
    fn choose(&mut self, limit: f32) -> Result<(), OutOfMemory> {
        let of_round = self.limit.unwrap_or(f32::INFINITY);
        let (mut chosen, mut kept) = (0, 0);
        self.chosen.clear();
        reserve(&mut self.chosen, self.candidates.len(), SEARCH)?;
        self.chosen.extend_from_slice(&self.candidates);
        for at in 0..self.candidates.len() {
            let candidate = self.candidates[at];
            self.chosen[chosen] = candidate;
            self.candidates[kept] = candidate;
            chosen += usize::from(!candidate.is_above(limit));
            kept += usize::from(candidate.is_above(limit) & !candidate.is_above(of_round));
        }
        self.chosen.truncate(chosen);
        self.candidates.truncate(kept);
        Ok(())
    }

    /// Finds out which of the candidates that were taken share code pages.
    fn group_chosen(&mut self, layout: &Layout) -> Result<(), OutOfMemory> {
        self.groups.clear();
        reserve(&mut self.groups, self.chosen.len(), SEARCH)?;
        let mut rest = &self.chosen[..];
        while let [Candidate { page, column, .. }, ..] = *rest {
            let directory = &self.directory[page as usize * layout.code_pages..];
            let directory = &directory[..layout.code_pages];
            let Place { block, slot } = layout.place(directory, column as usize);
            let first = column - u32::from(slot);
            let end = first + layout.per_page as u32;
            let is_other = |c: &Candidate| c.page != page || c.column >= end;
            let len = rest.iter().position(is_other).unwrap_or(rest.len());
            self.groups.push(Group { block, first, len });
            rest = &rest[len..];
        }
        Ok(())
    }

    /// What a member's entry says, but for a bound.
    #[inline]
    fn judge(
        &self,
        codec: &Codec,
        query: &Query,
        base: Base,
        entry: Entry<'_>,
        (list, member, place): (u32, u32, Place),
    ) -> Waiting {
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
            Order::Bound => f64::NEG_INFINITY,
        };
        Waiting {
            rank: value,
            key,
            error: entry.head.error,
            norm: entry.head.norm,
            hit: Hit {
                value,
                list,
                member,
                place,
                target: entry.head.target,
                base,
            },
        }
    }

    /// Finds the next members of the open lists.
    fn round<S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &Index<'_, S, C>,
        query: &Query,
    ) -> Result<(), Error> {
        let mut keep = Keep {
            limit: f32::INFINITY,
            prune_at: self.window.saturating_mul(4).max(4 * BLOCK),
        };
        self.candidates.clear();
        self.pages.clear();
        self.directory.clear();
        self.smallest.clear();
        // Not more at once than most rounds need.
        self.candidates
            .reserve(keep.prune_at.min(MOST_RESERVED) + BLOCK);
        self.smallest
            .reserve(self.window.min(MOST_RESERVED) * 2 + BLOCK);
        for number in 0..self.open.len() {
            self.scan(index, query, &mut keep, number as u32)?;
        }
        self.lower(&mut keep);
        // A damaged page may say that bounds are above estimates, or that these are -∞.
        let after = self.limit.unwrap_or(f32::MIN);
        self.limit = Some(keep.limit.max(after));
        self.returned_before = self.returned;
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
    ) -> Result<(), Error> {
        let Open {
            list,
            head,
            generation,
            base,
        } = self.open[open as usize];
        let layout = index.codec.layout(self.level);
        let table = query.table(self.level);
        let deviations = match (self.level, self.order) {
            (Level::Centroids, Order::Key) => DEVIATIONS_OF_CENTROIDS,
            _ => DEVIATIONS,
        };
        let reach = deviations * base.squared.max(0.0).sqrt();
        let (mut keys, mut least) = ([0.0; BLOCK], [0.0; BLOCK]);
        let mut first_member = 0;
        let mut chain = Chain::new(list, head, generation);
        while let Some((_, page)) = chain.next(index)? {
            let next = Header::of(&page).link;
            if next != NO_BLOCK {
                index.store.prefetch(next, 1024, [0]);
            }
            for (block, &alive) in layout.alive(&page).iter().enumerate() {
                if alive == 0 {
                    continue;
                }
                let columns = layout.block(&page, block);
                let line = (base.key, reach, keep.limit);
                let near = table.bounds(columns.codes, &columns.terms, line, &mut keys, &mut least);
                self.counters.estimated += u64::from(alive.count_ones());
                let mut near = alive & near;
                if let Some(after) = self.limit {
                    near &= above(&least, after);
                }
                let mut count = self.smallest.len();
                lengthen(&mut self.smallest, 0, BLOCK, SEARCH)?;
                reserve(&mut self.candidates, BLOCK, SEARCH)?;
                while near != 0 {
                    let column = near.trailing_zeros() as usize;
                    near &= near - 1;
                    self.smallest[count] = ordered(keys[column]);
                    // What is no number is not counted.
                    count += usize::from(keys[column] < keep.limit);
                    self.candidates.push(Candidate {
                        least: least[column],
                        page: self.pages.len() as u32,
                        column: (block * BLOCK + column) as u32,
                    });
                }
                self.smallest.truncate(count);
                if count >= self.window.saturating_mul(2) {
                    self.lower(keep);
                }
            }
            push(&mut self.pages, ListPage { open, first_member }, SEARCH)?;
            let directory = layout.directory(&page);
            reserve(&mut self.directory, directory.len(), SEARCH)?;
            self.directory.extend_from_slice(directory);
            if self.candidates.len() >= keep.prune_at {
                self.prune(keep);
            }
            first_member += layout.columns as u32;
        }
        self.open[open as usize].generation = chain.generation();
        Ok(())
    }

    /// Lowers the limit of a round to the last one of its smallest estimates.
    fn lower(&mut self, keep: &mut Keep) {
        keep.limit = smallest(&mut self.smallest, self.window).min(keep.limit);
        self.smallest.truncate(self.window);
    }

    /// Drops what is above the limit of a round.
    fn prune(&mut self, keep: &mut Keep) {
        let limit = keep.limit;
        keep_only(&mut self.candidates, |candidate| !candidate.is_above(limit));
        keep.prune_at = keep.prune_at.max(2 * self.candidates.len());
    }
}

/// Fills in the bounds of members, whose ranks are not below another.
fn bound(codec: &Codec, query: &Query, after: f64, members: &mut [Waiting]) {
    let [mut keys, mut errors, mut norms] = [[0.0; BLOCK]; 3];
    let mut bounds = [0.0; BLOCK];
    for members in members.chunks_mut(BLOCK) {
        for (i, member) in members.iter().enumerate() {
            keys[i] = member.key;
            errors[i] = member.error.get();
            norms[i] = member.norm.get();
        }
        codec.bounds(query, &keys, &errors, &norms, &mut bounds);
        for (member, bound) in members.iter_mut().zip(bounds) {
            member.hit.value = bound;
            // Not above what its key stands for, so that a stage that looks as far as
            // that key has it.
            let rank = bound.min(rank_of(Order::Bound, codec, member.key));
            member.rank = rank.max(after);
        }
    }
}

/// The rank that a key stands for.
fn rank_of(order: Order, codec: &Codec, key: f32) -> f64 {
    match order {
        Order::Squared => f64::from(key),
        Order::Key | Order::Bound => codec.distance(key),
    }
}

/// Which members a round keeps.
struct Keep {
    /// As many estimates as the window are not above it. What is above it waits for a
    /// later round.
    limit: f32,
    /// Members, so many that most are surely not kept.
    prune_at: usize,
}

/// The n-th smallest of some numbers that are [`ordered`], which then are the first
/// ones; infinity if there are fewer.
fn smallest(numbers: &mut [i32], n: usize) -> f32 {
    match n <= numbers.len() {
        true => number_of(*numbers.select_nth_unstable(n - 1).1),
        false => f32::INFINITY,
    }
}

/// Drops the other candidates, without a branch that nobody could foresee.
fn keep_only(candidates: &mut Vec<Candidate>, is_kept: impl Fn(&Candidate) -> bool) {
    let mut kept = 0;
    for at in 0..candidates.len() {
        let candidate = candidates[at];
        candidates[kept] = candidate;
        kept += usize::from(is_kept(&candidate));
    }
    candidates.truncate(kept);
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

    #[test]
    fn the_nth_smallest_is_found_if_there_are_so_many() {
        let mut numbers: Vec<i32> = (0..100)
            .map(|i| ordered((i * 37 % 100) as f32 - 50.0))
            .collect();
        assert_eq!(smallest(&mut numbers, 8), -43.0);
        let mut first = numbers[..8].to_vec();
        first.sort_unstable();
        assert_eq!(
            first,
            (0..8).map(|i| ordered(i as f32 - 50.0)).collect::<Vec<_>>()
        );
        assert_eq!(smallest(&mut numbers, 100), 49.0);
        assert_eq!(smallest(&mut numbers, 101), f32::INFINITY);
        assert_eq!(smallest(&mut numbers, usize::MAX), f32::INFINITY);
    }

    #[test]
    fn what_is_kept_stays_in_its_order() {
        let candidate = |column| Candidate {
            least: if column % 7 == 3 {
                f32::NAN
            } else {
                (column * 31 % 50) as f32
            },
            page: 0,
            column,
        };
        let all: Vec<Candidate> = (0..50).map(candidate).collect();
        for limit in [-1.0, 0.0, 20.5, 49.0, f32::INFINITY] {
            let (mut near, mut far) = (all.clone(), all.clone());
            keep_only(&mut near, |candidate| !candidate.is_above(limit));
            keep_only(&mut far, |candidate| candidate.is_above(limit));
            let columns = |kept: &[Candidate]| kept.iter().map(|c| c.column).collect::<Vec<_>>();
            let expected = |is_far: bool| {
                let kept = all.iter().filter(|c| (c.least > limit) == is_far);
                kept.map(|c| c.column).collect::<Vec<_>>()
            };
            assert_eq!(columns(&near), expected(false), "{limit}");
            assert_eq!(columns(&far), expected(true), "{limit}");
        }
    }
}
